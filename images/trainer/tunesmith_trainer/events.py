"""What the trainer tells whoever started it: one JSON object per line.

The command line draws these lines as a live table, the pod's log keeps them, and `-o json` hands them on
unchanged. Nothing else may be written to that stream, so the trainer's own logging goes to stderr.

Every line has a `type`:

========  =====================================================================================
stage     `stage` (prepare, search, verify, publish), `state` (started, finished, reused), `seconds`
progress  `task`, `stage`, `done`, `total`, `unit`
trial     `trial`: a row of the ledger
finding   `check`, `count`, `policy`, `sentence`
note      `message`: one sentence for a person
status    `status`: the TrainingJob's status as the cluster would show it
result    `exitCode`, `reason`, `message`, `nextStep`, `status`; always the last line
========  =====================================================================================
"""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

PROGRESS_PERIOD_SECONDS = 0.2


class Events:
    """Writes events to a text stream, one JSON object per line; safe to call from any thread.

    Args:
        stream: Where the lines go; standard output unless given.
        clock: Seconds that only grow; measures stages and throttles progress.
    """

    def __init__(
        self, stream: TextIO | io.TextIOBase | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Open the channel; nothing is written yet."""
        self._stream = sys.stdout if stream is None else stream
        self._clock = clock
        self._lock = threading.Lock()
        self._stage: str | None = None
        self._over = False

    def emit(self, type: str, **fields: Any) -> None:
        """Write one event. Fields must be JSON; numbers that are not finite become null.

        A `result` is the last: what other threads have to say after it is dropped.
        """
        line = json.dumps(_finite({"type": type, **fields}), separators=(",", ":"), ensure_ascii=False)
        with self._lock:
            if self._over:
                return
            self._over = type == "result"
            self._stream.write(line + "\n")
            self._stream.flush()

    def note(self, message: str) -> None:
        """Tell a person one sentence."""
        self.emit("note", message=message)

    @contextmanager
    def stage(self, name: str, *, reused: bool = False) -> Iterator[None]:
        """Frame a stage: `started` on entry, `finished` with its seconds unless it raised.

        Args:
            name: of the stage.
            reused: an earlier run finished it and what follows only takes its result over; `reused` is told
                instead, at the end.
        """
        self._stage = name
        started = self._clock()
        if not reused:
            self.emit("stage", stage=name, state="started")
        try:
            yield
        finally:
            self._stage = None
        state = "reused" if reused else "finished"
        self.emit("stage", stage=name, state=state, seconds=round(self._clock() - started, 3))

    def reused(self, stage: str) -> None:
        """Say that an earlier run finished this stage and its result is used."""
        self.emit("stage", stage=stage, state="reused", seconds=0.0)

    def progress(self, task: str, total: int, unit: str, *, done: int = 0) -> Progress:
        """Return a bar for `total` units of work, to be used as a context manager.

        Args:
            task: what is done, in one word.
            total: how many units there are.
            unit: what they are, in the plural.
            done: how many an earlier process did.
        """
        fields = {"task": task, "total": total, "unit": unit}
        if self._stage is not None:
            fields["stage"] = self._stage
        return Progress(self, fields, done=done, clock=self._clock)


class Both(io.TextIOBase):
    """A text stream that writes to a file as well, as long as that takes it.

    Args:
        stream: comes first.
        file: appended to; that it cannot be written is told on standard error, once.
    """

    def __init__(self, stream: TextIO, file: Path) -> None:
        """Open the file."""
        self._stream = stream
        self._file: TextIO | None = None
        try:
            self._file = file.open("a", encoding="utf-8")
        except OSError as error:
            self._give_up(error)

    def write(self, text: str) -> int:
        """Write to both."""
        self._try(lambda file: file.write(text))
        return self._stream.write(text)

    def flush(self) -> None:
        """Flush both."""
        self._try(lambda file: file.flush())
        self._stream.flush()

    def close(self) -> None:
        """Close the file; the stream is its owner's."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()

    def _try(self, use: Callable[[TextIO], object]) -> None:
        if self._file is None:
            return
        try:
            use(self._file)
        except OSError as error:
            file, self._file = self._file, None
            with suppress(OSError):
                file.close()
            self._give_up(error)

    @staticmethod
    def _give_up(error: OSError) -> None:
        print(f"Events are not copied: {error}", file=sys.stderr)


class Progress:
    """Counts finished units and emits `progress` at most five times a second, the first and last always."""

    def __init__(
        self, events: Events, fields: dict[str, Any], *, done: int, clock: Callable[[], float]
    ) -> None:
        """Prepare the bar; `Events.progress` is the way to get one."""
        self._events, self._fields, self._clock = events, fields, clock
        self._lock = threading.Lock()
        self._done = done
        self._emitted = -1
        self._next = 0.0

    def __enter__(self) -> Self:
        """Emit the bar as it stands."""
        self._emit(self._clock())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Emit the count that was reached, also when the work failed half-way."""
        with self._lock:
            if self._emitted != self._done:
                self._emit(self._clock())

    def advance(self, count: int = 1) -> None:
        """Count `count` more finished units; callable from any thread."""
        with self._lock:
            self._done += count
            now = self._clock()
            if now >= self._next:
                self._emit(now)

    def _emit(self, now: float) -> None:
        self._emitted = self._done
        self._next = now + PROGRESS_PERIOD_SECONDS
        self._events.emit("progress", done=self._done, **self._fields)


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON cannot say, by null."""
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
