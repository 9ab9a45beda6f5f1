"""A running training as lines: sentences for a log, or the events themselves for a machine."""

import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from tunesmith import wording
from tunesmith.run_state import RunState, metric_of

PROGRESS_EVERY_SECONDS = 10.0


class View(Protocol):
    """Shows a running training; used as a context manager around it."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; nothing is shown afterwards."""
        ...

    def show(self, event: Mapping[str, Any], state: RunState) -> None:
        """Show an event of the trainer and the state after it."""
        ...

    def say(self, sentence: str) -> None:
        """Show a sentence of the command line's own."""
        ...


class _LineView:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def compact(document: object) -> str:
    """JSON in one line."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


class JsonView(_LineView):
    """Hands the trainer's events on, one JSON object per line; sentences of our own become notes."""

    def show(self, event: Mapping[str, Any], state: RunState) -> None:
        """Write the event."""
        self._write(compact(event))

    def say(self, sentence: str) -> None:
        """Write the sentence as a note."""
        self._write(compact({"type": "note", "message": sentence}))


class PlainView(_LineView):
    """Writes a sentence for each stage, finding, note and finished trial; counts every ten seconds."""

    def __init__(self, stream: TextIO, metric: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Write to ``stream``; trials are told with their value of ``metric``."""
        super().__init__(stream)
        self._metric = metric
        self._clock = clock
        self._next_progress = clock() + PROGRESS_EVERY_SECONDS

    def show(self, event: Mapping[str, Any], state: RunState) -> None:
        """Write what the event says, if it is worth a line."""
        match event:
            case {"type": "stage", "stage": stage, "state": "started"}:
                self._write(f"{stage}: started")
            case {"type": "stage", "stage": stage, "state": "reused"}:
                self._write(f"{stage}: kept from an earlier run")
            case {"type": "stage", "stage": stage, "state": "finished"}:
                self._write(f"{stage}: finished in {wording.duration(float(event.get('seconds') or 0.0))}")
            case {"type": "finding", "sentence": str(sentence)} | {"type": "note", "message": str(sentence)}:
                self._write(sentence)
            case {"type": "trial", "trial": {"state": "Succeeded" | "Stopped" | "Failed"} as row}:
                self._write(self._trial(row))
            case {"type": "trial", "trial": {"epochs": int(epochs)} as row} if epochs > 0:
                self._sometimes(f"trial {row.get('id')}: epoch {epochs} of {row.get('maxEpochs')}")
            case {"type": "progress"}:
                self._progress(event, state)

    def say(self, sentence: str) -> None:
        """Write the sentence."""
        self._write(sentence)

    def _trial(self, row: Mapping[str, Any]) -> str:
        value = metric_of(row, self._metric)
        measured = f", {self._metric} {wording.metric(value)}" if value is not None else ""
        why = f" ({row['message'] or row.get('reason')})" if row.get("message") or row.get("reason") else ""
        words = f"{row.get('strategy', '')} on {row.get('backbone', '')}"
        return f"trial {row.get('id')}: {words} {str(row['state']).lower()}{measured}{why}"

    def _progress(self, event: Mapping[str, Any], state: RunState) -> None:
        task = state.tasks.get((str(event.get("stage") or ""), str(event["task"])))
        if task is None or task.rate is None or task.over:
            return
        left = task.seconds_left(self._clock())
        words = [f"{task.stage}: {task.name}, {task.done} of {task.total} {task.unit}"]
        words.append(wording.rate(task.rate, task.unit))
        words += [f"{wording.duration(left)} left"] if left is not None else []
        self._sometimes(", ".join(words))

    def _sometimes(self, line: str) -> None:
        """Write a line that is worth one only when none of its kind was written for a while."""
        now = self._clock()
        if now >= self._next_progress:
            self._next_progress = now + PROGRESS_EVERY_SECONDS
            self._write(line)
