"""How the search went: trials in their order, learning curves, epochs saved, time spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median

from markupsafe import Markup

from tunesmith_trainer.publish.report import svg
from tunesmith_trainer.publish.report.data import CurvePoint, SearchFacts, TrialRow
from tunesmith_trainer.publish.report.formats import (
    higher_is_better,
    known,
    metric_label,
    metric_value,
    number,
    percent,
    printable,
    seconds,
    strategy_label,
    timing_label,
)

CURVE_WIDTH, CURVE_HEIGHT = 232.0, 178.0
MOST_MARKS = 400
"""Of more trials than this only every so-manieth gets its mark, and each that became the best so far."""


def progress(search: SearchFacts, metric: str, width: float, height: float = 230) -> Markup:
    """One mark per trial in the order of the search, and for each strategy a line for the best so far.

    Trials far worse than the others are arrows at the edge, so that the good ones can be told apart. The line
    begins anew with each strategy, as their metrics may come from different images.

    Args:
        search: The trials.
        metric: What to draw: a key of the trials' metrics.
        width: Natural width in pixels.
        height: Natural height in pixels.
    """
    better = higher_is_better(metric)
    measured = _measured(search, metric)
    low, high = _focus([value for _, _, value in measured], better)
    left, right, top, bottom = 56.0, 12.0, 12.0, 30.0
    across = svg.Scale(1, max(len(search.trials), 2), left + 6, width - right)
    up = svg.Scale(low, high, height - bottom - 8, top)
    shapes = [*_level_lines(up, metric, left, width - right), *_order_ticks(across, height - bottom)]
    bests, marked = list[str](), set[int]()
    for strategy in dict.fromkeys(trial.strategy for _, trial, _ in measured):
        own = [(index, value) for index, trial, value in measured if trial.strategy == strategy]
        records = _records(own, better)
        marked.update(index for index, _ in records)
        shapes.append(_best_line(records, own[-1][0], across, up))
        bests.append(f"{metric_value(metric, records[-1][1])} by a {strategy_label(strategy)}")
    stride = -(-len(search.trials) // MOST_MARKS) or 1
    shapes.extend(
        _mark(trial, across(index), up(value), f"{trial.id}: {metric_value(metric, value)}")
        if low <= value <= high
        else _arrow(
            trial, across(index), up(value), f"{trial.id}: {metric_value(metric, value)}", value < low
        )
        for index, trial, value in measured
        if index in marked or index % stride == 0
    )
    shapes.extend(
        _cross(across(index), height - bottom - 2, trial)
        for index, trial in enumerate(search.trials, start=1)
        if trial.state == "Failed" and index % stride == 0
    )
    label = f"{metric_label(metric)} on validation of {len(measured)} trials in the order of the search"
    label += f"; the best is {' and '.join(bests)}." if bests else "."
    return svg.drawing(width, height, label, *shapes)


def beyond_scale(search: SearchFacts, metric: str) -> bool:
    """Whether `progress` draws a trial as an arrow."""
    values = [value for _, _, value in _measured(search, metric)]
    low, high = _focus(values, higher_is_better(metric))
    return any(not low <= value <= high for value in values)


def _measured(search: SearchFacts, metric: str) -> list[tuple[int, TrialRow, float]]:
    return [
        (index, trial, value)
        for index, trial in enumerate(search.trials, start=1)
        if known(value := trial.metric(metric))
    ]


def _records(values: Sequence[tuple[int, float]], better: bool) -> list[tuple[int, float]]:
    """Those that were the best so far."""
    records: list[tuple[int, float]] = []
    for index, value in values:
        if not records or (value > records[-1][1] if better else value < records[-1][1]):
            records.append((index, value))
    return records


def _best_line(records: Sequence[tuple[int, float]], last: int, across: svg.Scale, up: svg.Scale) -> Markup:
    """Steps from record to record, and on to the last trial of the strategy."""
    steps = [(across(records[0][0]), up(records[0][1]))]
    for (_, before), (index, value) in pairwise(records):
        steps.extend([(across(index), up(before)), (across(index), up(value))])
    steps.append((across(last), up(records[-1][1])))
    return svg.element("path", d=svg.path(steps), class_="best-line")


def _focus(values: Sequence[float], better: bool) -> tuple[float, float]:
    """The range that shows the good half well: three times the distance from the best to the median."""
    if not values:
        return 0.0, 1.0
    best = max(values) if better else min(values)
    reach = max(3 * abs(best - median(values)), 0.02 * max(abs(best), 0.1))
    low, high = (best - reach, best) if better else (best, best + reach)
    low, high = max(low, min(values)), min(high, max(values))
    pad = 0.06 * (high - low) or 0.05
    return low - pad, high + pad


def _level_lines(up: svg.Scale, metric: str, left: float, right: float) -> list[Markup]:
    shapes: list[Markup] = []
    for tick in up.ticks(5):
        shapes.append(svg.line(left, up(tick), right, up(tick), "grid"))
        shapes.append(
            svg.text(left - 8, up(tick) + 4, metric_value(metric, tick), anchor="end", class_="m num")
        )
    return shapes


def _order_ticks(across: svg.Scale, base: float) -> list[Markup]:
    shapes = [
        svg.text(across(tick), base + 14, f"{tick:.0f}", anchor="middle", class_="m num")
        for tick in across.ticks(6)
        if tick >= 1 and tick == int(tick)
    ]
    return [
        *shapes,
        svg.text(across.end, base + 28, "trial, in the order of the search", anchor="end", class_="m"),
    ]


def _mark(trial: TrialRow, x: float, y: float, tip: str) -> Markup:
    """A circle for a probe, a square for a fine-tune."""
    title = svg.element("title", f"{tip} ({strategy_label(trial.strategy)}, {printable(trial.backbone, 40)})")
    if trial.strategy == "FineTune":
        return svg.element(
            "rect", title, x=x - 4.5, y=y - 4.5, width=9, height=9, class_="mark tune", data_trial=trial.id
        )
    return svg.element("circle", title, cx=x, cy=y, r=4, class_="mark probe", data_trial=trial.id)


def _arrow(trial: TrialRow, x: float, y: float, tip: str, down: bool) -> Markup:
    """A triangle that points to where the trial would be."""
    title = svg.element("title", f"{tip}, beyond the scale ({strategy_label(trial.strategy)})")
    tail = 5 if down else -5
    kind = "tune" if trial.strategy == "FineTune" else "probe"
    shape = f"M{x - 5:.1f} {y - tail:.1f}h10L{x:.1f} {y + tail:.1f}z"
    return svg.element("path", title, d=shape, class_=f"mark beyond {kind}", data_trial=trial.id)


def _cross(x: float, y: float, trial: TrialRow) -> Markup:
    arms = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"
    tip = f"{trial.id} failed: {trial.reason or 'no reason given'}"
    return svg.element("path", svg.element("title", tip), d=arms, class_="mark failed", data_trial=trial.id)


def learning_curve(
    trial: TrialRow,
    *,
    accuracies: tuple[float, float],
    losses: tuple[float, float],
) -> Markup:
    """One fine-tune: validation accuracy above, training and validation loss below, over its epochs.

    Args:
        trial: With a curve.
        accuracies: Range of the upper panel, shared by all small multiples.
        losses: Range of the lower panel, shared too; what is above it is drawn at its edge.
    """
    left, right = 56.0, CURVE_WIDTH - 8
    last = max(trial.max_epochs, trial.epochs, *(point.epoch for point in trial.curve), 1)
    across = svg.Scale(0, last, left, right)
    up = svg.Scale(*accuracies, 82, 30)
    loss_up = svg.Scale(*losses, 152, 102)
    shapes = [
        svg.text(0, 13, trial.id, class_="strong"),
        svg.text(right, 13, f"{_ending(trial)} {trial.epochs} of {last}", anchor="end", class_="m"),
    ]
    for scale, name, written in ((up, "accuracy", percent), (loss_up, "loss", number)):
        shapes.extend(
            svg.line(left, scale(value), right, scale(value), "grid") for value in (scale.low, scale.high)
        )
        for value, drop in ((scale.low, 0), (scale.high, 8)):
            figure = written(value, 0) if written is percent else written(value, 2)
            shapes.append(svg.text(left - 6, scale(value) + drop, figure, anchor="end", class_="m num small"))
        shapes.append(
            svg.text(left - 6, (scale.start + scale.end) / 2 + 4, name, anchor="end", class_="m small")
        )
    shapes.extend(_curve(trial.curve, lambda point: point.validation_accuracy, across, up, "curve"))
    shapes.extend(_curve(trial.curve, lambda point: point.train_loss, across, loss_up, "curve train"))
    shapes.extend(_curve(trial.curve, lambda point: point.validation_loss, across, loss_up, "curve"))
    shapes.extend(
        svg.text(across(epoch), 170, f"{epoch}", anchor="middle", class_="m num small") for epoch in (0, last)
    )
    shapes.append(svg.text((left + right) / 2, 170, "epoch", anchor="middle", class_="m small"))
    best = max(
        (p.validation_accuracy for p in trial.curve if p.validation_accuracy is not None), default=None
    )
    label = f"Learning curves of {trial.id}: {trial.epochs} of {last} epochs, best accuracy {percent(best)}."
    return svg.drawing(CURVE_WIDTH, CURVE_HEIGHT, label, *shapes)


def beyond_losses(trials: Sequence[TrialRow], highest: float) -> bool:
    """Whether some loss is above the range of `learning_curve`."""
    losses = (
        loss for trial in trials for one in trial.curve for loss in (one.train_loss, one.validation_loss)
    )
    return any(known(loss) and loss > highest for loss in losses)


def _ending(trial: TrialRow) -> str:
    return {"Succeeded": "finished", "Stopped": "stopped early", "Failed": "failed"}.get(
        trial.state, "running"
    )


def _curve(
    points: Sequence[CurvePoint],
    value_of: Callable[[CurvePoint], float | None],
    across: svg.Scale,
    up: svg.Scale,
    class_: str,
) -> list[Markup]:
    positions = [(across(point.epoch), up(value)) for point in points if known(value := value_of(point))]
    if not positions:
        return []
    x, y = positions[-1]
    end = svg.element("circle", cx=x, cy=y, r=2.6, class_=f"{class_} end")
    return [svg.element("path", d=svg.path(positions), class_=class_), end]


def epochs_granted(trials: Sequence[TrialRow], width: float) -> Markup:
    """A bar per fine-tune: the epochs it ran, of those it would have run without early stopping."""
    row, label_width, number_width = 20.0, 60.0, 62.0
    most = max((max(trial.max_epochs, trial.epochs) for trial in trials), default=1) or 1
    scale = svg.Scale(0, most, 0, width - label_width - number_width)
    shapes: list[Markup] = []
    for index, trial in enumerate(trials):
        top = index * row
        budget = max(trial.max_epochs, trial.epochs)
        tip = f"{trial.id}: {_ending(trial)} after {trial.epochs} of {budget} epochs"
        shapes.append(svg.text(0, top + 14, trial.id, class_="num"))
        shapes.append(svg.rect(label_width, top + 4, scale(budget), 12, "bar-room"))
        shapes.append(
            svg.element(
                "g",
                svg.rect(label_width, top + 4, scale(trial.epochs), 12, "bar-fill", tip),
                data_trial=trial.id,
            )
        )
        shapes.append(svg.text(width, top + 14, f"{trial.epochs} of {budget}", anchor="end", class_="m num"))
    ran = sum(trial.epochs for trial in trials)
    label = f"Epochs run by {len(trials)} fine-tunes: {ran} of {sum(t.max_epochs for t in trials)}."
    return svg.drawing(width, max(len(trials), 1) * row + 2, label, *shapes)


def time_spent(timings: Sequence[tuple[str, float]], width: float) -> Markup:
    """A bar per part of the work, with its seconds and its share."""
    row, label_width, number_width = 24.0, 84.0, 128.0
    total = sum(value for _, value in timings) or 1.0
    scale = svg.Scale(
        0, max((value for _, value in timings), default=1) or 1, 0, width - label_width - number_width
    )
    shapes: list[Markup] = []
    for index, (task, value) in enumerate(timings):
        top = index * row
        shapes.append(svg.text(0, top + 16, timing_label(task)))
        shapes.append(svg.rect(label_width, top + 5, max(scale(value), 1), 14, "bar-fill"))
        written = f"{seconds(value)} · {percent(value / total, 0)}"
        shapes.append(svg.text(label_width + max(scale(value), 1) + 7, top + 16, written, class_="m num"))
    spoken = ", ".join(f"{timing_label(task)} {seconds(value)}" for task, value in timings)
    return svg.drawing(width, max(len(timings), 1) * row + 2, f"Time spent: {spoken}.", *shapes)
