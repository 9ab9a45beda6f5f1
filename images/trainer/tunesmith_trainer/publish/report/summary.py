"""What the facts add up to: rankings, savings, confusions and the sentences that a hurried reader needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith_api.reasons import Reason
from tunesmith_trainer.publish.report.charts.parallel import value_of
from tunesmith_trainer.publish.report.data import ReportData, SearchFacts, TrialRow
from tunesmith_trainer.publish.report.formats import (
    NARROW_SPACE,
    count,
    known,
    metric_interval,
    name,
    percent,
    plural,
    words,
)
from tunesmith_trainer.search.ledger import REFIT

LIKELIHOOD = "negativeLogLikelihood"
MOST_SENTENCES = 6


def ranked(search: SearchFacts) -> tuple[TrialRow, ...]:
    """Trials that have the objective's metric, the best first; ties go to the better likelihood."""

    def key(trial: TrialRow) -> tuple[float, float]:
        value, loss = trial.metric(search.objective), trial.metric(LIKELIHOOD)
        worse_by = float("inf") if not known(value) else -value if search.maximize else value
        return worse_by, loss if known(loss) else float("inf")

    return tuple(sorted((trial for trial in search.trials if known(trial.metric(search.objective))), key=key))


def varied_parameters(trials: Sequence[TrialRow]) -> tuple[str, ...]:
    """What differs between trials, backbone and strategy first, then parameters as they first appear."""
    names = dict.fromkeys(
        ["backbone", "strategy", *(name for trial in trials for name, _ in trial.parameters)]
    )
    return tuple(name for name in names if len({value_of(trial, name) for trial in trials}) > 1)


def proposed(trials: Sequence[TrialRow]) -> tuple[TrialRow, ...]:
    """Trials that the search tried: without the last training of the chosen one on all images."""
    return tuple(trial for trial in trials if trial.id != REFIT)


@dataclass(frozen=True)
class Saving:
    """What early stopping saved.

    Attributes:
        tuned: Fine-tunes that ran.
        stopped: How many of them it stopped.
        budget: Epochs they would have run without it.
        ran: Epochs they ran.
        saved: Epochs not run because of it (not because of failures).
        seconds: The saved epochs at each trial's own pace.
    """

    tuned: int
    stopped: int
    budget: int
    ran: int
    saved: int
    seconds: float


def early_stopping_saving(trials: Sequence[TrialRow]) -> Saving:
    """Add up the epochs of all trials that have a budget of epochs.

    A trial that the end of the search left without its epochs would not have had them without early stopping
    either.
    """
    tuned = [trial for trial in proposed(trials) if trial.max_epochs > 0]
    spent = [trial for trial in tuned if trial.reason == Reason.BUDGET_SPENT]
    stopped = [trial for trial in tuned if trial.state == "Stopped" and trial not in spent]
    spared = [(trial, max(trial.max_epochs - trial.epochs, 0)) for trial in stopped]
    return Saving(
        tuned=len(tuned),
        stopped=len(stopped),
        budget=sum(trial.epochs if trial in spent else trial.max_epochs for trial in tuned),
        ran=sum(trial.epochs for trial in tuned),
        saved=sum(epochs for _, epochs in spared),
        seconds=sum(
            epochs * trial.duration_seconds / trial.epochs
            for trial, epochs in spared
            if trial.epochs and trial.duration_seconds is not None
        ),
    )


@dataclass(frozen=True)
class ConfusedPair:
    """`images` of the `total` test images labelled `given` were taken for `predicted`."""

    given: str
    predicted: str
    images: int
    total: int


def confused_pairs(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> tuple[ConfusedPair, ...]:
    """All pairs of classes that were confused, the most images first."""
    pairs = [
        ConfusedPair(names[given], names[predicted], images, sum(row))
        for given, row in enumerate(confusion)
        for predicted, images in enumerate(row)
        if images and given != predicted
    ]
    return tuple(sorted(pairs, key=lambda pair: (-pair.images, -pair.images / pair.total)))


def most_confused(confusion: Sequence[Sequence[int]], keep: int) -> tuple[int, ...]:
    """Ascending indices of the `keep` classes with the most mistakes, as given or as predicted label."""
    classes = range(len(confusion))
    mistakes = [
        sum(confusion[index]) + sum(row[index] for row in confusion) - 2 * confusion[index][index]
        for index in classes
    ]
    return tuple(sorted(sorted(classes, key=lambda index: -mistakes[index])[:keep]))


def mistake_count(data: ReportData) -> int:
    """How many test images the model got wrong, as far as the facts say."""
    matrix = data.quality.confusion
    right = sum(row[index] for index, row in enumerate(matrix))
    return max(sum(map(sum, matrix)) - right, len(data.mistakes))


def lede(data: ReportData) -> str:
    """The result in one plain sentence."""
    kinds = plural(len(data.dataset.classes), "class", "classes")
    accuracy = data.quality.metric("accuracy")
    if accuracy is None or not known(accuracy.value):
        return f"A classifier for {kinds}. Its accuracy was not measured."
    interval = metric_interval(accuracy)
    told = f" (95{NARROW_SPACE}% interval {interval})" if interval else ""
    photos = plural(data.quality.images, "test photo")
    return (
        f"Tells {kinds} apart and is right on {percent(accuracy.value)}{told} of {photos} it had never seen."
    )


@dataclass(frozen=True)
class Remark:
    """A sentence worth knowing and the id of the section that shows more."""

    sentence: str
    section: str


def worth_knowing(data: ReportData) -> tuple[Remark, ...]:
    """The weak points and surprises, at most `MOST_SENTENCES`; empty when nothing stands out."""
    remarks = (
        *_unreadable_size(data),
        *_weakest_class(data),
        *_commonest_confusion(data),
        *_weakest_slice(data),
        *_costliest_corruption(data),
        *_suspected_labels(data),
        *_findings(data),
        *_failed_trials(data),
    )
    return remarks[:MOST_SENTENCES]


def _unreadable_size(data: ReportData) -> tuple[Remark, ...]:
    if not 0 < data.quality.images < 100:
        return ()
    photos = plural(data.quality.images, "test photo")
    return (
        Remark(f"There are only {photos}, so every figure here is rough: read the intervals.", "quality"),
    )


def _weakest_class(data: ReportData) -> tuple[Remark, ...]:
    results = [
        (each.recall, each) for each in data.quality.per_class if each.recall is not None and each.support
    ]
    if not results:
        return ()
    recall, worst = min(results, key=lambda pair: pair[0])
    if recall >= 1:
        return ()
    right = f"{round(recall * worst.support)} of {count(worst.support)} test photos right"
    told = f"Weakest class: {name(worst.name)}, {right} ({percent(recall)})."
    return (Remark(told, "per-class"),)


def _commonest_confusion(data: ReportData) -> tuple[Remark, ...]:
    names = [each.name for each in data.dataset.classes]
    pairs = confused_pairs(names, data.quality.confusion)
    if not pairs or pairs[0].images < 2:
        return ()
    first = pairs[0]
    times = f"{first.images} of {first.total} times"
    told = f"Commonest mistake: {name(first.given)} taken for {name(first.predicted)}, {times}."
    return (Remark(told, "confusion"),)


def _weakest_slice(data: ReportData) -> tuple[Remark, ...]:
    slices = [
        (each.accuracy, each) for each in data.quality.slices if each.accuracy is not None and each.judged
    ]
    overall = data.quality.metric("accuracy")
    if not slices or overall is None or overall.value is None:
        return ()
    accuracy, worst = min(slices, key=lambda pair: pair[0])
    if overall.value - accuracy < 0.02:
        return ()
    photos = plural(worst.images, "photo")
    told = f"Weakest slice: {name(worst.column)} = {name(worst.value)}, {percent(accuracy)} of {photos}."
    return (Remark(told, "slices"),)


def _costliest_corruption(data: ReportData) -> tuple[Remark, ...]:
    clean = data.quality.clean_accuracy
    measured = [(each.accuracy, each) for each in data.quality.corruptions if each.accuracy is not None]
    if not measured or clean is None:
        return ()
    accuracy, worst = min(measured, key=lambda pair: pair[0])
    if clean - accuracy < 0.05:
        return ()
    points = f"{100 * (clean - accuracy):.0f} points"
    told = f"Most sensitive to {words(worst.kind)}: severity {worst.severity} costs {points} of accuracy."
    return (Remark(told, "corruptions"),)


def _suspected_labels(data: ReportData) -> tuple[Remark, ...]:
    suspected = data.suspect_count
    if not suspected:
        return ()
    verb = "label is" if suspected == 1 else "labels are"
    return (Remark(f"{count(suspected)} {verb} probably wrong in the dataset.", "suspects"),)


def _findings(data: ReportData) -> tuple[Remark, ...]:
    hits = [finding for finding in data.dataset.findings if finding.count]
    if not hits:
        return ()
    largest = max(hits, key=lambda finding: finding.count)
    checks = plural(len(hits), "check")
    return (
        Remark(
            f"{checks} found something, most of all {words(largest.check)} ({count(largest.count)}).",
            "findings",
        ),
    )


def _failed_trials(data: ReportData) -> tuple[Remark, ...]:
    failed = [trial for trial in proposed(data.search.trials) if trial.state == "Failed"]
    if not failed:
        return ()
    return (
        Remark(f"{len(failed)} of {plural(len(proposed(data.search.trials)), 'trial')} failed.", "trials"),
    )
