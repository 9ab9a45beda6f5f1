"""A running training on a terminal: stages with bars, the best trials, findings and notes, drawn in place."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tunesmith import wording
from tunesmith.run_state import RunState, Stage, metric_of

BEST_TRIALS = 8
LAST_NOTES = 4
REFRESHES_PER_SECOND = 4
SIGNS = {
    "waiting": ("·", "dim"),
    "started": ("▸", "cyan"),
    "finished": ("✓", "green"),
    "reused": ("↺", "green"),
}


class LiveView:
    """Draws the newest state four times a second, so that clocks and bars move between events too."""

    def __init__(
        self,
        console: Console,
        title: str,
        metric: str,
        *,
        maximize: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the picture.

        Args:
            console: a terminal.
            title: the job's name.
            metric: the primary objective; trials are ranked by it.
            maximize: whether larger is better.
            clock: the seconds that states are built with.
        """
        self._title = title
        self._metric = metric
        self._maximize = maximize
        self._clock = clock
        self._began = clock()
        self._state = RunState()
        self._hint = ""
        self._live = Live(
            console=console,
            get_renderable=self._picture,
            refresh_per_second=REFRESHES_PER_SECOND,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Self:
        """Start drawing."""
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw once more and leave the picture standing."""
        self._live.__exit__(kind, error, trace)

    def show(self, event: Mapping[str, Any], state: RunState) -> None:
        """Take over the state after an event; the next refresh draws it."""
        self._state = state

    def say(self, sentence: str) -> None:
        """Put a sentence of the command line's own below the picture."""
        self._hint = sentence

    def _picture(self) -> RenderableType:
        now = self._clock()
        parts: list[RenderableType] = [
            Text.assemble((self._title, "bold"), "  ", (wording.duration(now - self._began), "dim")),
            stage_table(self._state, now),
        ]
        if self._state.trials:
            parts += [Text(), trial_table(self._state, self._metric, maximize=self._maximize)]
        parts += [Text.assemble("  ", (one.sentence, "yellow")) for one in self._state.findings[-LAST_NOTES:]]
        parts += [Text.assemble("  ", (note, "dim")) for note in self._state.notes[-LAST_NOTES:]]
        if self._hint:
            parts.append(Text(self._hint, style="bold yellow"))
        return Group(*parts)


def stage_table(state: RunState, now: float) -> Table:
    """The four stages, each with its bar, speed and time left, or with how long it took."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for stage in state.stages:
        sign, style = SIGNS[stage.state]
        row = [Text(sign, style), Text(stage.name, style)]
        table.add_row(*row, *_stage_cells(state, stage, now))
    return table


def _stage_cells(state: RunState, stage: Stage, now: float) -> list[RenderableType]:
    if stage.state == "reused":
        return [Text("kept from an earlier run", "dim")]
    if stage.state == "finished":
        return [Text(wording.duration(stage.seconds or 0.0), "dim")]
    if stage.state == "waiting" or stage.started is None:
        return []
    task = state.current_task(stage.name)
    if task is None:
        return [Text(wording.duration(now - stage.started), "dim")]
    left = task.seconds_left(now)
    words = [f"{task.done} of {task.total} {task.unit}" if task.total else f"{task.done} {task.unit}"]
    words += [wording.rate(task.rate, task.unit)] if task.rate else []
    words += [f"{wording.duration(left)} left"] if left is not None else []
    bar = ProgressBar(total=task.total or None, completed=task.done, width=24, pulse=not task.total)
    return [Text(task.name), bar, Text("  ".join(words), "dim")]


def trial_table(state: RunState, metric: str, *, maximize: bool) -> Table:
    """The best trials so far by the primary objective, under a line that counts all of them."""
    counts = ", ".join(
        f"{count} {word.lower()}" for word, count in sorted(state.trial_counts().items()) if word
    )
    table = Table(
        title=f"{len(state.trials)} trials: {counts}", title_justify="left", box=None, pad_edge=False
    )
    for heading in ("trial", "strategy", "backbone"):
        table.add_column(heading, no_wrap=True)
    also = [name for name in ("accuracy", "negativeLogLikelihood") if name != metric][:1]
    for heading in (wording.short_metric(metric), *map(wording.short_metric, also), "epochs"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("parameters")
    for row in state.best_trials(metric, maximize=maximize, limit=BEST_TRIALS):
        numbers = [wording.metric(metric_of(row, name)) for name in (metric, *also)]
        going = str(row.get("state")) == "Running"
        table.add_row(
            str(row["id"]),
            str(row.get("strategy", "")),
            str(row.get("backbone", "")),
            *numbers,
            _epochs(row),
            # Only a column that may wrap gives way to the others; its cells are cut instead.
            Text(wording.parameters(row.get("parameters")), no_wrap=True, overflow="ellipsis"),
            style="cyan" if going else None,
        )
    return table


def _epochs(row: Mapping[str, Any]) -> str:
    done, planned = row.get("epochs"), row.get("maxEpochs")
    return "" if not done else f"{done}/{planned}" if planned else str(done)
