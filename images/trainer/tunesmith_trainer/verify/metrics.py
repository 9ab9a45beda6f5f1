"""How good predictions are: accuracy, macro F1, worst class, worst slice, likelihood, calibration.

All metrics are computed from sums over images. One sparse matrix holds what each image adds to each sum, so
the value on the test split (every image once) and on all bootstrap resamples come from the same lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from pydantic import dataclasses as pydantic_dataclasses
from scipy import sparse

from tunesmith_package.intervals import wilson_ends, wilson_interval
from tunesmith_trainer.verify.bootstrap import FloatArray, resample_counts
from tunesmith_trainer.verify.calibration import BINS, bin_index, confidence_and_correctness
from tunesmith_trainer.verify.records import CAMEL

MIN_SLICE_SUPPORT = 10
"""A slice with fewer test images is shown but never the worst slice: chance would choose it."""
MAX_SLICES = 200
"""At most this many slices are judged; of a column with more values the largest ones."""
_LEAST_PROBABILITY = 1e-12

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """What a model says of images whose labels are known.

    Attributes:
        probabilities: float32 [n, K].
        labels: int64 [n].
        slices: column name -> value per image [n]; empty values belong to no slice.

    Raises:
        ValueError: no images, or shapes that do not fit.
    """

    probabilities: npt.NDArray[np.float32]
    labels: IntArray
    slices: Mapping[str, npt.NDArray[np.str_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no metric is defined on."""
        if self.probabilities.ndim != 2 or not len(self.labels):
            raise ValueError("there are no predictions to judge")
        wrong = [name for name, values in self.slices.items() if len(values) != len(self.labels)]
        if len(self.probabilities) != len(self.labels) or wrong:
            raise ValueError(f"probabilities, labels and slices {wrong} have different lengths")

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return int(self.probabilities.shape[1])


@pydantic_dataclasses.dataclass(frozen=True, config=CAMEL)
class ClassResult:
    """A class on the test split; recall with its Wilson interval; what is undefined (no images) is None."""

    name: str
    support: int
    precision: float | None
    recall: float | None
    recall_low: float
    recall_high: float
    f1: float | None


@pydantic_dataclasses.dataclass(frozen=True, config=CAMEL)
class SliceResult:
    """The images of one value of a slice column; accuracy with its Wilson interval.

    Attributes:
        judged: whether the slice has enough images to count for worstSliceAccuracy.
    """

    column: str
    value: str
    support: int
    accuracy: float
    low: float
    high: float
    judged: bool


@dataclass(frozen=True)
class _Sums:
    """What each image adds to each sum, sparse [n, columns], and where the sums are."""

    matrix: sparse.csr_array
    num_classes: int
    num_slices: int

    def metrics(self, counts: npt.NDArray[np.float32]) -> dict[str, FloatArray]:
        """Every metric on each row of counts [b, n]."""
        sums = np.asarray(self.matrix.T @ counts.T, dtype=np.float64).T
        k, m = self.num_classes, self.num_slices
        parts = np.split(sums, np.cumsum([1, 1, k, k, k, BINS, m]), axis=1)
        correct, nll, hits, support, predicted, gaps, slice_hits, slice_support = parts
        n = counts.sum(axis=1, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            f1 = 2 * hits / (support + predicted)
            recall = hits / support
            accuracy_of_slice = slice_hits / slice_support
        values = {
            "accuracy": correct[:, 0] / n,
            "macroF1": _mean_defined(f1),
            "worstClassRecall": _min_defined(recall),
            "negativeLogLikelihood": nll[:, 0] / n,
            "calibrationError": np.abs(gaps).sum(axis=1) / n,
        }
        if m:
            values["worstSliceAccuracy"] = _min_defined(accuracy_of_slice)
        return values


def _mean_defined(values: FloatArray) -> FloatArray:
    defined = np.isfinite(values)
    mean: FloatArray = np.where(defined, values, 0.0).sum(axis=1) / np.maximum(defined.sum(axis=1), 1)
    return mean


def _min_defined(values: FloatArray) -> FloatArray:
    least = np.where(np.isfinite(values), values, np.inf).min(axis=1)
    return np.where(np.isfinite(least), least, np.nan)


def measure(predictions: Predictions) -> dict[str, float]:
    """The metrics by the names that gates use.

    accuracy; macroF1 (mean over the classes that occur among labels or predictions); worstClassRecall (over
    classes with test images); negativeLogLikelihood (nats per image, probabilities at least 1e-12);
    calibrationError (see `calibration.expected_calibration_error`); worstSliceAccuracy if a slice has at
    least `MIN_SLICE_SUPPORT` images.
    """
    once = np.ones((1, len(predictions.labels)), dtype=np.float32)
    return {name: float(values[0]) for name, values in _sums(predictions).metrics(once).items()}


def measure_resamples(predictions: Predictions, samples: int, seed: int) -> dict[str, FloatArray]:
    """The metrics of `measure` on each bootstrap resample, [samples] each; NaN where one is undefined.

    Two models' predictions of the same images and the same seed are resampled alike.
    """
    sums = _sums(predictions)
    blocks = [sums.metrics(counts) for counts in resample_counts(len(predictions.labels), samples, seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in (blocks[0] if blocks else ())}


def score_ends(predictions: Predictions) -> dict[str, tuple[float, float]]:
    """Ends of the score intervals (Wilson 1927) of the metrics that are made of shares of images.

    They are for predictions whose resamples all agree, as without a mistake. The worst class and the worst
    slice have the lowest ends among all of them: without a mistake these are the ends of the smallest. Macro
    F1 counts every class alike, so its images are worth K / mean(1 / n_k): n if the classes are equally
    large, fewer else, as in the variance of a stratified mean.
    """
    correct = predictions.probabilities.argmax(axis=1) == predictions.labels
    support = np.bincount(predictions.labels, minlength=predictions.num_classes)
    hits = np.bincount(predictions.labels, weights=correct, minlength=predictions.num_classes)
    present = support > 0
    ends = {
        "accuracy": wilson_ends(float(correct.mean()), len(correct)),
        "macroF1": wilson_ends(
            measure(predictions)["macroF1"], present.sum() / (1.0 / support[present]).mean()
        ),
        "worstClassRecall": _lowest_ends(hits[present], support[present]),
    }
    members = [member for _, _, member in judged_slices(predictions)]
    if members:
        of_slice = np.stack(members).astype(np.float64)
        ends["worstSliceAccuracy"] = _lowest_ends(of_slice @ correct, of_slice.sum(axis=1))
    return ends


def _lowest_ends(hits: FloatArray | IntArray, support: FloatArray | IntArray) -> tuple[float, float]:
    low, high = wilson_interval(hits, support)
    return float(low.min()), float(high.min())


def _sums(predictions: Predictions) -> _Sums:
    p, y = predictions.probabilities, predictions.labels
    n, k = p.shape
    confidence, correct = confidence_and_correctness(p, y)
    likelihood = np.maximum(p[np.arange(n), y].astype(np.float64), _LEAST_PROBABILITY)
    chosen = p.argmax(axis=1)
    ones = np.ones(n)
    blocks = [
        sparse.csr_array(correct[:, None]),
        sparse.csr_array(-np.log(likelihood)[:, None]),
        _indicator(y, k, correct),
        _indicator(y, k, ones),
        _indicator(chosen, k, ones),
        _indicator(bin_index(confidence), BINS, correct - confidence),
    ]
    members = [member for _, _, member in judged_slices(predictions)]
    blocks += [sparse.csr_array(np.stack(members, axis=1) * correct[:, None])] if members else []
    blocks += [sparse.csr_array(np.stack(members, axis=1).astype(np.float64))] if members else []
    return _Sums(sparse.hstack(blocks, format="csr"), k, len(members))


def _indicator(columns: IntArray, width: int, values: FloatArray) -> sparse.csr_array:
    """Row i has values[i] in column columns[i]."""
    n = len(columns)
    return sparse.csr_array((values, columns, np.arange(n + 1)), shape=(n, width))


def judged_slices(predictions: Predictions) -> list[tuple[str, str, npt.NDArray[np.bool_]]]:
    """Column, value and membership [n] of each slice with enough images, the largest ones of each column."""
    judged = []
    for column, values in sorted(predictions.slices.items()):
        names, index, counts = np.unique(values, return_inverse=True, return_counts=True)
        largest = np.argsort(-counts, kind="stable")[:MAX_SLICES]
        judged += [
            (column, str(names[i]), index == i)
            for i in sorted(largest)
            if counts[i] >= MIN_SLICE_SUPPORT and names[i]
        ]
    return judged[:MAX_SLICES]


def confusion_matrix(predictions: Predictions) -> IntArray:
    """Counts int64 [K, K]: the row is the label, the column the prediction."""
    k = predictions.num_classes
    cells = predictions.labels * k + predictions.probabilities.argmax(axis=1)
    return np.bincount(cells, minlength=k * k).reshape(k, k).astype(np.int64)


def per_class(confusion: IntArray, classes: tuple[str, ...]) -> tuple[ClassResult, ...]:
    """Precision, recall and F1 of every class from the confusion matrix [K, K]."""
    hits, support, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    low, high = wilson_interval(hits, support)
    return tuple(
        ClassResult(
            name=name,
            support=int(support[i]),
            precision=float(hits[i] / predicted[i]) if predicted[i] else None,
            recall=float(hits[i] / support[i]) if support[i] else None,
            recall_low=float(low[i]),
            recall_high=float(high[i]),
            f1=float(2 * hits[i] / (support[i] + predicted[i])) if support[i] + predicted[i] else None,
        )
        for i, name in enumerate(classes)
    )


def per_slice(predictions: Predictions) -> tuple[SliceResult, ...]:
    """Accuracy on every slice, the worst judged slice first, those with too few images last."""
    correct = predictions.probabilities.argmax(axis=1) == predictions.labels
    judged = {(column, value) for column, value, _ in judged_slices(predictions)}
    results = []
    for column, values in sorted(predictions.slices.items()):
        names, index, counts = np.unique(values, return_inverse=True, return_counts=True)
        hits = np.bincount(index, weights=correct, minlength=len(names)).astype(np.int64)
        low, high = wilson_interval(hits, counts)
        results += [
            SliceResult(
                column=column,
                value=str(names[i]),
                support=int(counts[i]),
                accuracy=float(hits[i] / counts[i]),
                low=float(low[i]),
                high=float(high[i]),
                judged=(column, str(names[i])) in judged,
            )
            for i in range(len(names))
            if names[i]
        ]
    ordered = sorted(results, key=lambda one: (not one.judged, one.accuracy, one.column, one.value))
    return tuple(ordered[:MAX_SLICES])
