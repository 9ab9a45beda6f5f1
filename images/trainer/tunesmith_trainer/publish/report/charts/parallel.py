"""Parallel coordinates: every trial as a line through its parameters to its result (Inselberg 1985).

Wide pages draw the axes side by side; on a phone the same chart is turned: axes lie one below the other and
the lines run downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tunesmith_trainer.publish.report import svg
from tunesmith_trainer.publish.report.data import Setting, TrialRow
from tunesmith_trainer.publish.report.formats import (
    known,
    metric_label,
    metric_value,
    setting,
    strategy_label,
    title,
)

LOG_RATIO = 30.0
"""Positive values that span more than this ratio get a logarithmic axis."""
TICK_SIZE = 11.0
"""Size of the tick labels in pixels, as the style sheet has it."""
NOT_SET = 18.0
"""Distance in pixels of the place for "not set" from the beginning of its axis."""


@dataclass(frozen=True)
class Axis:
    """One axis: where the trials' values lie in 0..1 (None: not set), and its tick labels."""

    label: str
    places: tuple[float | None, ...]
    ticks: tuple[tuple[float, str], ...]

    @property
    def has_gaps(self) -> bool:
        """Whether some trial has no value here."""
        return None in self.places


def parameter_axis(name: str, values: Sequence[Setting | None]) -> Axis:
    """The axis of a parameter: categories when any value is a word, else linear or logarithmic."""
    present = [value for value in values if value is not None]
    numbers = [
        float(value)
        for value in present
        if isinstance(value, int | float) and not isinstance(value, bool) and known(value)
    ]
    if len(numbers) < len(present) or not numbers:
        names = [setting(value) if value is not None else None for value in values]
        if name == "strategy":
            names = [strategy_label(value) if value is not None else None for value in names]
        return _categories(title(name), names)
    log = min(numbers) > 0 and max(numbers) / min(numbers) > LOG_RATIO
    scale = svg.Scale(min(numbers), max(numbers), 0, 1, log)
    ticks = tuple((scale(tick), setting(_whole(tick, numbers))) for tick in scale.ticks(5))
    return Axis(title(name), tuple(None if value is None else scale(float(value)) for value in values), ticks)


def _whole(tick: float, numbers: Sequence[float]) -> float | int:
    return int(tick) if all(value == int(value) for value in numbers) and tick == int(tick) else tick


def _categories(label: str, values: Sequence[str | None]) -> Axis:
    names = sorted({value for value in values if value is not None})
    place = {name: (index + 0.5) / len(names) for index, name in enumerate(names)}
    places = tuple(None if value is None else place[value] for value in values)
    return Axis(label, places, tuple((place[name], name) for name in names))


def metric_axis(metric: str, values: Sequence[float | None]) -> Axis:
    """The axis of a result, always linear."""
    numbers = [value for value in values if value is not None]
    scale = svg.Scale(min(numbers, default=0), max(numbers, default=1), 0, 1)
    ticks = tuple((scale(tick), metric_value(metric, tick)) for tick in scale.ticks(5))
    return Axis(
        metric_label(metric), tuple(None if value is None else scale(value) for value in values), ticks
    )


def parallel_coordinates(
    trials: Sequence[TrialRow],
    parameters: Sequence[str],
    metrics: Sequence[str],
    *,
    best: str = "",
    width: float,
    upright: bool = False,
) -> Markup:
    """Every trial as a line through its parameters to its metrics.

    Args:
        trials: The trials to draw, the best first: it is drawn last, over the others.
        parameters: Names of the parameters that get an axis; "backbone" and "strategy" are taken from the
        trial.
        metrics: Names of the metrics that get an axis at the end.
        best: Id of the chosen trial, drawn stronger.
        width: Natural width in pixels.
        upright: Lay the axes one below the other, for narrow pages.
    """
    axes = [
        *(parameter_axis(name, [value_of(trial, name) for trial in trials]) for name in parameters),
        *(metric_axis(metric, [_finite(trial.metric(metric)) for trial in trials]) for metric in metrics),
    ]
    frame = _Upright(len(axes), width) if upright else _SideBySide(len(axes), width)
    shapes = [shape for index, axis in enumerate(axes) for shape in frame.axis(index, axis)]
    lines = [
        _trial_line(
            trial,
            [frame.point(index, axis.places[row], axis.has_gaps) for index, axis in enumerate(axes)],
            best,
        )
        for row, trial in enumerate(trials)
    ]
    label = f"Parallel coordinates of {len(trials)} trials over {', '.join(axis.label for axis in axes)}."
    ticks = [shape for index, axis in enumerate(axes) for shape in frame.ticks(index, axis)]
    return svg.drawing(width, frame.height, label, *shapes, *reversed(lines), *ticks, class_="parallel")


def value_of(trial: TrialRow, name: str) -> Setting | None:
    """The value of a parameter, or the trial's own backbone or strategy; None when it has none."""
    own: dict[str, Setting] = {"backbone": trial.backbone, "strategy": trial.strategy}
    return dict(trial.parameters).get(name, own.get(name))


def _finite(value: float | None) -> float | None:
    return value if known(value) else None


def _trial_line(trial: TrialRow, points: list[tuple[float, float]], best: str) -> Markup:
    kind = "best" if trial.id == best else "tune" if trial.strategy == "FineTune" else "probe"
    return svg.element("path", d=svg.path(points), class_=f"trial {kind}", data_trial=trial.id)


def _plate(x: float, y: float, content: str, anchor: str = "start") -> list[Markup]:
    """A tick label on a plate of the paper's colour, so that no line strikes it through."""
    width = 1.1 * len(content) * TICK_SIZE * svg.CHARACTER_WIDTH + 4
    left = x - {"start": 2, "middle": width / 2, "end": width - 2}[anchor]
    return [
        svg.rect(left, y - TICK_SIZE + 1, width, TICK_SIZE + 3, "plate"),
        svg.text(x, y, content, anchor=anchor, class_="tick num"),
    ]


@dataclass(frozen=True)
class _SideBySide:
    """Axes from left to right, values from the bottom up."""

    axes: int
    width: float
    height: float = 330.0

    def _x(self, index: int) -> float:
        return svg.Scale(0, max(self.axes - 1, 1), 34, self.width - 62)(index)

    def point(self, index: int, place: float | None, gaps: bool) -> tuple[float, float]:
        base = self.height - 16
        floor = base - (NOT_SET if gaps else 0)
        return self._x(index), base if place is None else floor + place * (48 - floor)

    def axis(self, index: int, axis: Axis) -> list[Markup]:
        x, room = self._x(index), (self.width - 96) / max(self.axes - 1, 1)
        # Neighbouring names share the room of two axes by standing at two heights.
        anchor, shift = {0: ("start", -30), self.axes - 1: ("end", 60)}.get(index, ("middle", 0))
        label = svg.shorten(axis.label, 1.8 * room)
        name = svg.text(x + shift, 14 if index % 2 == 0 else 31, label, anchor=anchor)
        return [svg.line(x, 44, x, self.height - 12, "axis"), name]

    def ticks(self, index: int, axis: Axis) -> list[Markup]:
        room = (self.width - 96) / max(self.axes - 1, 1) - 14
        marks = [*axis.ticks, *([(None, "not set")] if axis.has_gaps else [])]
        return [
            shape
            for place, label in marks
            for x, y in [self.point(index, place, axis.has_gaps)]
            for shape in _plate(x + 6, y + 4, svg.shorten(label, room, TICK_SIZE))
        ]


@dataclass(frozen=True)
class _Upright:
    """Axes from top to bottom, values from left to right."""

    axes: int
    width: float
    pitch: float = 66.0

    @property
    def height(self) -> float:
        return self.pitch * max(self.axes, 1) + 4

    def point(self, index: int, place: float | None, gaps: bool) -> tuple[float, float]:
        start = 14.0 + (4 * NOT_SET if gaps else 0)
        return 14.0 if place is None else start + place * (self.width - 28 - start), index * self.pitch + 40

    def axis(self, index: int, axis: Axis) -> list[Markup]:
        y = index * self.pitch + 40
        return [svg.line(8, y, self.width - 8, y, "axis")]

    def ticks(self, index: int, axis: Axis) -> list[Markup]:
        room = (self.width - 28) / max(len(axis.ticks), 1) - 6
        marks = [*axis.ticks, *([(None, "not set")] if axis.has_gaps else [])]
        name = svg.text(8, index * self.pitch + 26, axis.label, class_="halo strong")
        return [
            name,
            *(
                shape
                for place, label in marks
                for x, y in [self.point(index, place, axis.has_gaps)]
                for shape in _plate(x, y + 17, svg.shorten(label, room, TICK_SIZE), self._anchor(x))
            ),
        ]

    def _anchor(self, x: float) -> str:
        return "start" if x < 30 else "end" if x > self.width - 40 else "middle"
