"""Asked to stop: an exception at once where Python runs, and an end in time where it does not.

SIGTERM and SIGINT raise ``Stopped`` in the main thread. It is no ``Exception``, so that nothing on its way
takes it for an error of its own work and goes on. Python runs a handler only between two of its
instructions, and an export to ONNX or a store that stays away can last longer than whoever asked will wait.
So a thread learns of the signal at the same moment from the wakeup descriptor, which C code writes, and
ends the process when it is still there after the grace period. That loses nothing: everything finished is
in the store, as after a kill.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE_SECONDS = 6.0
"""Below the ten seconds after which people lose patience, and Docker too."""


class Stopped(BaseException):
    """The process was asked to stop."""


def stop_on_signals(give_up: Callable[[], NoReturn], grace_seconds: float = GRACE_SECONDS) -> None:
    """From here on raise ``Stopped`` in the main thread at the first signal; later ones are ignored.

    Args:
        give_up: called in another thread when the process is still there ``grace_seconds`` after the signal;
            it ends the process.
        grace_seconds: counted from the arrival of the signal, also while the main thread is in C code.
    """
    heard, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.detach(), warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, _stop)
    watch = threading.Thread(target=_watch, args=(heard, give_up, grace_seconds), name="stop", daemon=True)
    watch.start()


def _watch(heard: socket.socket, give_up: Callable[[], NoReturn], grace_seconds: float) -> None:
    # Every signal with a handler is written here, and only these two ask to stop.
    while not set(heard.recv(64)) & set(SIGNALS):
        pass
    threading.Event().wait(grace_seconds)
    give_up()


def _stop(number: int, frame: FrameType | None) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped


def end_descendants(clean_up: Callable[[], None]) -> None:
    """Kill all that this process has started, and what that has: Ray's servers and their workers.

    They are held still first, so that none starts another or writes a file meanwhile, and killed last,
    because Ray's threads in this process are not to see its servers die.

    Args:
        clean_up: called in between.
    """
    held: set[int] = set()
    while more := _descendants() - held:
        _send(signal.SIGSTOP, more)
        held |= more
    clean_up()
    _send(signal.SIGKILL, held)


def _send(number: signal.Signals, processes: Iterable[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _descendants() -> set[int]:
    """Ids of this process's children and theirs, by ``/proc``; none where the system has no such list."""
    children: dict[int, list[int]] = {}
    try:
        entries = [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  # names only
    except OSError:
        return set()
    for process in entries:
        try:
            with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                parent = file.read().rpartition(")")[2].split()[1]
        except OSError:
            continue  # it ended while we looked
        children.setdefault(int(parent), []).append(int(process))
    found: set[int] = set()
    unseen = [os.getpid()]
    while unseen:
        own = children.get(unseen.pop(), [])
        found.update(own)
        unseen += own
    return found
