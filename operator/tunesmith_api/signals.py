"""What a process does that is asked to end before it has begun.

The first process of a container has none of the system's own ways to take a signal: one for which it has no
handler is lost. What our processes import takes a second or more, and whoever deletes a pod within it would
wait for its whole grace period. So this comes before any other import; the standard library's modules here
are there already, or take a millisecond. (Python's own start comes before it still, some hundredths of a
second.)
"""

import os
import signal
from types import FrameType
from typing import NoReturn


def end_on_signals() -> None:
    """From here on end at once at SIGTERM and SIGINT, with the exit code of ``Interrupted``.

    Nothing has begun that could be lost. Whoever has something to lose sets handlers of its own.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(os.EX_TEMPFAIL)
