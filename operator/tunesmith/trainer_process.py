"""The trainer as a process: started, listened to, asked to stop, and gone when we are."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

PR_SET_PDEATHSIG = 1

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class TrainerProcess:
    """A trainer that tells what it does as one JSON object per line on its standard output.

    It has a process group of its own, so Ctrl-C in the terminal reaches it only through `stop`, once. Its
    standard error goes to a log file. As a context manager it leaves nothing of the trainer running.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        """Start ``command``, its standard error appended to ``log``."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()) if sys.platform == "linux" else None,
            )
        self.stop_requests = 0
        threading.Thread(target=self._end_workers, daemon=True).start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def __enter__(self) -> Self:
        """Nothing more to do: it runs since it was made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what still runs."""
        if self._process.poll() is None:
            self._kill_group()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def events(self) -> Iterator[Mapping[str, Any]]:
        """Yield events as they come, until the trainer and its workers are gone.

        A line that is not a JSON object is not an event; it goes to the log.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = _parsed(line)
            if event is None:
                with self.log.open("ab") as log:
                    log.write(line)
            else:
                yield event

    def stop(self) -> None:
        """Ask the trainer to save and end (SIGTERM); asked again, end it now (SIGKILL to its whole group)."""
        self.stop_requests += 1
        if self.stop_requests > 1:
            self._kill_group()
        elif self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for its end and give its exit code; minus the signal's number when a signal ended it."""
        return self._process.wait()

    def _end_workers(self) -> None:
        """Once the trainer has ended, end what it left: workers hold its standard output open."""
        self._process.wait()
        self._kill_group()

    def _kill_group(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


@contextmanager
def stopping_on_signals(process: TrainerProcess, on_stop: Callable[[int], None]) -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and a closed terminal into `TrainerProcess.stop` while the block runs.

    Args:
        process: whom to stop.
        on_stop: told how often that was asked so far, after it was passed on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        process.stop()
        on_stop(process.stop_requests)

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def log_tail(log: Path, lines: int) -> list[str]:
    """The last lines of a log, read from at most its last 64 KiB."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65_536))
        return file.read().decode("utf-8", "replace").splitlines()[-lines:]


def _parsed(line: bytes) -> Mapping[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "type" in value else None


def _die_with_parent(parent: int) -> Callable[[], None]:
    """What a new process runs before the trainer: ask Linux to kill it when the command line is killed.

    A command line that was killed with -9 cannot stop its trainer, and a trainer left behind would hold the
    run's lease, so that the same command would be refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def arrange() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return arrange
