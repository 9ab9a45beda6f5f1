"""The report's tables as values: columns, rows, and what each cell is sorted by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunesmith_trainer.publish.report.charts import glyphs
from tunesmith_trainer.publish.report.charts.parallel import value_of
from tunesmith_trainer.publish.report.data import (
    CorruptionResult,
    Estimate,
    QualityFacts,
    ReliabilityBin,
    SearchFacts,
    Setting,
    TrialRow,
)
from tunesmith_trainer.publish.report.formats import (
    UNKNOWN,
    count,
    known,
    metric_interval,
    metric_label,
    metric_value,
    name,
    number,
    percent,
    seconds,
    setting,
    strategy_label,
    title,
    words,
)
from tunesmith_trainer.publish.report.palette import heat_step
from tunesmith_trainer.publish.report.summary import LIKELIHOOD, ranked, varied_parameters

MOST_METRICS = 4
MOST_PARAMETERS = 14

STATE_MARKS = {"Succeeded": "✓", "Stopped": "■", "Failed": "✗", "Running": "…", "Queued": "…"}


@dataclass(frozen=True)
class Column:
    """A column's heading; numbers are set to the right."""

    label: str
    numeric: bool = False


@dataclass(frozen=True)
class Cell:
    """What a cell says, what it is sorted by, and further: a note under it, a drawing before it, a class."""

    text: str
    sort: str | float | None = None
    note: str = ""
    drawing: str = ""
    class_: str = ""


@dataclass(frozen=True)
class Row:
    """A row; `key` is a trial's id where the row is one."""

    cells: tuple[Cell, ...]
    key: str = ""
    chosen: bool = False


@dataclass(frozen=True)
class Table:
    """A table; `left_out` rows exist that are not in it."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    left_out: int = 0


def percent_cell(value: float | None, *, bar: bool = False, class_: str = "") -> Cell:
    """A fraction as a percentage, with a bar if wanted."""
    return Cell(
        percent(value),
        value if known(value) else None,
        drawing=glyphs.bar(value) if bar else "",
        class_=class_,
    )


def _interval_cell(low: float | None, high: float | None) -> Cell:
    return Cell(metric_interval(Estimate("accuracy", None, low, high)) or UNKNOWN, low)


def count_cell(value: int) -> Cell:
    """A whole number."""
    return Cell(count(value), value)


def trial_metrics(search: SearchFacts) -> tuple[str, ...]:
    """The metrics that a trial's row shows: the objective, the likelihood, then as they first appear."""
    seen = dict.fromkeys(name for trial in search.trials for name, value in trial.metrics if known(value))
    wanted = dict.fromkeys([search.objective, *([LIKELIHOOD] if LIKELIHOOD in seen else []), *seen])
    return tuple(name for name in wanted if name in seen)[:MOST_METRICS]


def trials_in_order(search: SearchFacts, chosen: str) -> tuple[TrialRow, ...]:
    """Every trial: the chosen one, those of its strategy, then those of the other, each the best first.

    Strategies do not mix, as their metrics may come from different images: heads are cross-validated where
    images are few, fine-tunes are measured on one held-out part. Trials without the objective's metric stand
    behind those of their strategy that have it, trials without any metric last.
    """
    placed = ranked(search)
    with_result = {trial.id for trial in placed}
    ordered = [*placed, *(trial for trial in search.trials if trial.id not in with_result)]
    strategy = next((trial.strategy for trial in ordered if trial.id == chosen), "")
    return tuple(
        sorted(
            ordered,
            key=lambda trial: (trial.id != chosen, not trial.metrics, trial.strategy != strategy),
        )
    )


def trial_table(search: SearchFacts, chosen: str, most: int) -> Table:
    """Every trial as `trials_in_order` has them; parameters that never vary are left out.

    At most `most` rows are given, and the table says how many more there are.
    """
    ordered = trials_in_order(search, chosen)
    metrics, parameters = trial_metrics(search), varied_parameters(search.trials)
    parameters = tuple(name for name in parameters if name not in ("strategy", "backbone"))[:MOST_PARAMETERS]
    several = len({trial.backbone for trial in search.trials}) > 1
    columns = (
        Column("Trial"),
        Column("Strategy"),
        *([Column("Backbone")] if several else []),
        *(Column(metric_label(metric), True) for metric in metrics),
        Column("State"),
        Column("Epochs", True),
        Column("Time", True),
        *(Column(title(name), True) for name in parameters),
    )
    rows = tuple(
        Row(_trial_cells(trial, several, metrics, parameters), trial.id, trial.id == chosen)
        for trial in ordered[:most]
    )
    return Table(columns, rows, max(len(ordered) - most, 0))


def _trial_cells(
    trial: TrialRow, several: bool, metrics: Sequence[str], parameters: Sequence[str]
) -> tuple[Cell, ...]:
    why = trial.message or words(trial.reason)
    started = f"weights of {trial.parent}" if trial.parent else ""
    epochs = f"{trial.epochs} of {trial.max_epochs}" if trial.max_epochs else UNKNOWN
    return (
        Cell(trial.id, trial.id),
        Cell(strategy_label(trial.strategy), trial.strategy, started),
        *([Cell(trial.backbone, trial.backbone)] if several else []),
        *(Cell(metric_value(name, trial.metric(name)), trial.metric(name)) for name in metrics),
        Cell(
            f"{STATE_MARKS[trial.state]} {trial.state.lower()}",
            trial.state,
            why,
            class_=f"state-{trial.state}",
        ),
        Cell(epochs, trial.epochs),
        Cell(seconds(trial.duration_seconds), trial.duration_seconds),
        *(_setting_cell(value_of(trial, name)) for name in parameters),
    )


def _setting_cell(value: Setting | None) -> Cell:
    return Cell(setting(value), value)


def class_table(quality: QualityFacts, most: int) -> Table:
    """Every class with its precision, recall and F1, the lowest recall first."""
    ordered = sorted(quality.per_class, key=lambda each: each.recall if each.recall is not None else 2.0)
    intervals = any(known(each.recall_low) for each in ordered)
    columns = (
        Column("Class"),
        Column("Test photos", True),
        Column("Recall", True),
        *([Column("95 % interval", True)] if intervals else []),
        Column("Precision", True),
        Column("F1", True),
    )
    rows = tuple(
        Row(
            (
                Cell(name(each.name), each.name),
                count_cell(each.support),
                percent_cell(each.recall, bar=True),
                *([_interval_cell(each.recall_low, each.recall_high)] if intervals else []),
                percent_cell(each.precision),
                percent_cell(each.f1),
            )
        )
        for each in ordered[:most]
    )
    return Table(columns, rows, max(len(ordered) - most, 0))


def slice_table(quality: QualityFacts, most: int) -> Table:
    """Every slice with its accuracy and interval."""
    columns = (
        Column("Column"),
        Column("Value"),
        Column("Test photos", True),
        Column("Accuracy", True),
        Column("95 % interval", True),
    )
    rows = tuple(
        Row(
            (
                Cell(name(each.column), each.column),
                Cell(name(each.value), each.value, "" if each.judged else "too few photos to judge"),
                count_cell(each.images),
                percent_cell(each.accuracy, bar=True),
                _interval_cell(each.low, each.high),
            )
        )
        for each in quality.slices[:most]
    )
    return Table(columns, rows, max(len(quality.slices) - most, 0))


def reliability_table(bins: Sequence[ReliabilityBin]) -> Table:
    """The numbers behind the reliability diagram."""
    columns = (
        Column("Probability"),
        Column("Images", True),
        Column("Mean probability", True),
        Column("Accuracy", True),
    )
    rows = tuple(
        Row(
            (
                Cell(f"{percent(each.low, 0)} to {percent(each.high, 0)}", each.low),
                count_cell(each.count),
                percent_cell(each.confidence),
                percent_cell(each.accuracy),
            )
        )
        for each in bins
    )
    return Table(columns, rows)


def corruption_table(corruptions: Sequence[CorruptionResult], clean: float | None) -> Table:
    """Kinds down, severities across; a cell is as warm as the accuracy it lost against the clean images."""
    severities = sorted({each.severity for each in corruptions})
    by_kind: dict[str, dict[int, CorruptionResult]] = defaultdict(dict)
    for each in corruptions:
        by_kind[each.kind][each.severity] = each
    columns = (Column("Corruption"), *(Column(f"Severity {severity}", True) for severity in severities))
    rows = tuple(
        Row(
            (
                Cell(title(kind), kind),
                *(_corruption_cell(row.get(severity), clean) for severity in severities),
            )
        )
        for kind, row in by_kind.items()
    )
    return Table(columns, rows)


def _corruption_cell(result: CorruptionResult | None, clean: float | None) -> Cell:
    if result is None or not known(result.accuracy):
        return Cell(UNKNOWN)
    cell = percent_cell(result.accuracy)
    if not known(clean):
        return cell
    lost = clean - result.accuracy
    points = number(100 * abs(lost), 1)
    sign = "−" if lost > 0.0005 else "+" if lost < -0.0005 else "±"
    # A loss of 30 points is as bad as the scale goes; smaller ones must still be told apart.
    return replace(cell, note=f"{sign}{points}", class_=f"heat wb{heat_step(max(lost, 0.0) / 0.3)}")
