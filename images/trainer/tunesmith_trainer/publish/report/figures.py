"""Which charts the report shows, drawn from `ReportData`: one size for wide pages and one for phones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tunesmith_trainer.publish.report import summary, svg, tables
from tunesmith_trainer.publish.report.charts import dataset, parallel, quality, search
from tunesmith_trainer.publish.report.data import ReportData, TrialRow
from tunesmith_trainer.publish.report.formats import known
from tunesmith_trainer.publish.report.palette import HEAT_STEPS

WIDE, HALF, NARROW = 860.0, 410.0, 348.0
"""Natural widths in pixels: a whole desktop page, half of it, a phone."""

MOST_LINES = 300
MOST_AXES = 9
MOST_RESULT_AXES = 2
MOST_CURVES = 24
MOST_EPOCH_BARS = 24
MOST_MATRIX_CLASSES = 100


@dataclass(frozen=True)
class Charts:
    """The drawings by their place in the page; an empty one has nothing to show."""

    split_wide: Markup
    split_narrow: Markup
    classes_wide: Markup
    classes_narrow: Markup
    progress: tuple[tuple[str, Markup, Markup], ...]
    parallel_wide: Markup
    parallel_narrow: Markup
    curves: tuple[Markup, ...]
    epochs_wide: Markup
    epochs_narrow: Markup
    time_wide: Markup
    time_narrow: Markup
    confusion: Markup
    reliability: Markup


def draw(data: ReportData) -> Charts:
    """Draw everything there is data for."""
    counts, splits = data.dataset.classes, data.dataset.splits
    tuned = fine_tunes(data)
    accuracies, losses = curve_ranges(tuned)
    parallel_wide, parallel_narrow = _parallel(data)
    return Charts(
        split_wide=dataset.split_bar(splits, WIDE),
        split_narrow=dataset.split_bar(splits, NARROW),
        classes_wide=dataset.class_counts(counts, WIDE),
        classes_narrow=dataset.class_counts(counts, NARROW),
        progress=tuple(
            (metric, search.progress(data.search, metric, HALF), search.progress(data.search, metric, NARROW))
            for metric in tables.trial_metrics(data.search)[:2]
        ),
        parallel_wide=parallel_wide,
        parallel_narrow=parallel_narrow,
        curves=tuple(
            search.learning_curve(trial, accuracies=accuracies, losses=losses)
            for trial in tuned[:MOST_CURVES]
        ),
        epochs_wide=search.epochs_granted(tuned[:MOST_EPOCH_BARS], WIDE),
        epochs_narrow=search.epochs_granted(tuned[:MOST_EPOCH_BARS], NARROW),
        time_wide=search.time_spent(data.search.timings, WIDE),
        time_narrow=search.time_spent(data.search.timings, NARROW),
        confusion=_confusion(data),
        reliability=quality.reliability(data.quality.reliability),
    )


def fine_tunes(data: ReportData) -> tuple[TrialRow, ...]:
    """Trials with a learning curve: the chosen one first, then those with results, the best of them first."""
    return tuple(trial for trial in tables.trials_in_order(data.search, data.model.trial) if trial.curve)


def drawn_trials(data: ReportData) -> tuple[TrialRow, ...]:
    """Trials that have a result to draw in parallel coordinates, the chosen one first."""
    metrics = tables.trial_metrics(data.search)[:MOST_RESULT_AXES]
    ordered = tables.trials_in_order(data.search, data.model.trial)
    return tuple(trial for trial in ordered if any(known(trial.metric(metric)) for metric in metrics))


def curve_ranges(trials: Sequence[TrialRow]) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ranges of accuracy and loss that all small multiples share.

    The loss is cut at four times the median of its points, so that one diverged trial does not flatten the
    rest.
    """
    points = [point for trial in trials for point in trial.curve]
    accuracies = [value for point in points if known(value := point.validation_accuracy)]
    losses = sorted(
        value for point in points for value in (point.train_loss, point.validation_loss) if known(value)
    )
    low, high = (min(accuracies), max(accuracies)) if accuracies else (0.0, 1.0)
    top = min(losses[-1], 4 * losses[len(losses) // 2]) if losses else 1.0
    return (low, high if high > low else low + 0.01), (0.0, top or 1.0)


def _parallel(data: ReportData) -> tuple[Markup, Markup]:
    """Wide and narrow parallel coordinates, or nothing when no two trials differ."""
    ordered = drawn_trials(data)[:MOST_LINES]
    parameters = summary.varied_parameters(ordered)[:MOST_AXES]
    if len(ordered) < 2 or not parameters:
        return Markup(), Markup()
    metrics = tables.trial_metrics(data.search)[:MOST_RESULT_AXES]
    best = data.model.trial

    def drawn(width: float, upright: bool) -> Markup:
        return parallel.parallel_coordinates(
            ordered, parameters, metrics, best=best, width=width, upright=upright
        )

    return drawn(WIDE, False), drawn(NARROW, True)


def shown_classes(data: ReportData) -> tuple[int, ...]:
    """Indices of the classes in the confusion matrix: all, or those with the most mistakes."""
    return summary.most_confused(data.quality.confusion, MOST_MATRIX_CLASSES)


def _confusion(data: ReportData) -> Markup:
    if not data.quality.confusion:
        return Markup()
    shown = shown_classes(data)
    names = [data.dataset.classes[index].name for index in shown]
    return quality.confusion_matrix(
        names, [[data.quality.confusion[given][predicted] for predicted in shown] for given in shown]
    )


def legend_mark(kind: str) -> Markup:
    """A sample of a mark, a line or a colour scale, to stand before its meaning."""
    match kind:
        case "probe":
            shapes, width = [svg.element("circle", cx=6, cy=6, r=4, class_="mark probe")], 12
        case "tune":
            shapes, width = [svg.rect(2, 2, 9, 9, "mark tune")], 12
        case "beyond":
            shapes, width = [svg.element("path", d="M1.5 3h9l-4.5 7z", class_="mark probe")], 12
        case "failed":
            shapes, width = [svg.element("path", d="M2 2l8 8m0 -8l-8 8", class_="mark failed")], 12
        case "scale-cool" | "scale-warm":
            letter = "h" if kind == "scale-cool" else "w"
            steps = range(1, len(HEAT_STEPS))
            shapes, width = [svg.rect(10 * (step - 1), 1, 10, 10, f"{letter}{step}") for step in steps], 60
        case _:
            line = {
                "best": "best-line",
                "line-probe": "trial probe",
                "line-tune": "trial tune",
                "line-best": "trial best",
                "line-curve": "curve",
                "line-train": "curve train",
            }[kind]
            shapes, width = [svg.element("path", d="M0 6L26 6", class_=line)], 26
    return svg.element(
        "svg",
        *shapes,
        viewBox=f"0 0 {width} 12",
        width=width,
        height=12,
        class_="chart legend-mark",
        aria_hidden="true",
    )
