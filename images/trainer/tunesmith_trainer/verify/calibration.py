"""Whether 90 % means nine times out of ten: temperature scaling and the calibration error."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic.dataclasses import dataclass
from scipy.optimize import minimize_scalar

from tunesmith_trainer.verify.bootstrap import (
    CONFIDENCE,
    FloatArray,
    Interval,
    basic_interval,
    resample_counts,
)
from tunesmith_trainer.verify.records import CAMEL

BINS = 15
"""Bins of equal width over the confidence, as in Guo et al. (2017)."""
_LOG_TEMPERATURE_BOUNDS = (np.log(0.05), np.log(20.0))
_CHUNK = 4_000_000


def fit_temperature(
    logits: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """Fit the temperature T for which ``softmax(logits / T)`` has the least negative log likelihood.

    Temperature scaling (Guo et al. 2017) on logits of images that the head was not trained on. On few images
    the plain optimum is useless: without a single error among them it is T = 0, certainty about everything.
    So the targets are smoothed by the rule of succession, as Platt (1999) does: of n images one more is
    expected to be wrong, so each keeps 1 - 1/(n + 2) on its label and has 1/(n + 2) on the strongest other
    class. This costs nothing where n is large and beat both the plain fit and priors on log T in simulations
    from 24 to 500 images (README).

    Args:
        logits: [n, K], any real dtype, of out-of-fold or validation predictions.
        labels: [n] class indices.
        weights: [n] non-negative image weights; all one unless given.

    Returns:
        T, within 0.05 to 20; 1.0 when there are no images, no weight or only one class.

    Raises:
        ValueError: shapes do not fit, or a logit is not finite.
    """
    z = np.asarray(logits, dtype=np.float64)
    y = np.asarray(labels, dtype=np.int64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    if z.ndim != 2 or y.shape != z.shape[:1] or w.shape != y.shape:
        raise ValueError(f"logits {z.shape}, labels {y.shape} and weights {w.shape} do not fit together")
    if not np.isfinite(z).all():
        raise ValueError("a logit is not finite")
    if z.shape[1] < 2 or w.sum() <= 0:
        return 1.0
    w = w / w.sum()
    z = z - z.max(axis=1, keepdims=True)
    rows = np.arange(len(y))
    true = z[rows, y]
    buffer = z.copy()
    buffer[rows, y] = -np.inf
    doubt = 1.0 / ((w > 0).sum() + 2)
    target = (1 - doubt) * true + doubt * buffer.max(axis=1)

    def smoothed_nll(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        np.exp(np.multiply(z, scale, out=buffer), out=buffer)
        return float(w @ (np.log(buffer.sum(axis=1)) - target * scale))

    found = minimize_scalar(
        smoothed_nll, bounds=_LOG_TEMPERATURE_BOUNDS, method="bounded", options={"xatol": 1e-4}
    )
    return float(np.exp(found.x))


@dataclass(frozen=True, config=CAMEL)
class ReliabilityBin:
    """One bin of the reliability diagram.

    Attributes:
        lower: confidences in the bin are above this (the first bin includes it).
        upper: and at most this.
        count: images in the bin.
        confidence: their mean confidence; None when there are none.
        accuracy: the fraction of them that is right; None when there are none.
    """

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, config=CAMEL)
class Calibration:
    """The calibration error and what it has to be compared with.

    Attributes:
        error: the expected calibration error with its basic bootstrap interval.
        expected_if_calibrated: the mean error that a perfectly calibrated model of the same confidences shows
            on as many images. The error of n images is biased upwards; below this it says nothing.
        highest_if_calibrated: 95 % of such models show at most this.
        bins: the reliability diagram.
    """

    error: Interval
    expected_if_calibrated: float
    highest_if_calibrated: float
    bins: tuple[ReliabilityBin, ...]

    @property
    def consistent(self) -> bool:
        """Whether chance alone explains the error."""
        return self.error.value <= self.highest_if_calibrated


def bin_index(confidence: FloatArray, bins: int = BINS) -> npt.NDArray[np.int64]:
    """The bin of each confidence [n]: bin m holds (m / bins, (m + 1) / bins], the first one 0 as well."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def expected_calibration_error(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = BINS
) -> float:
    """The expected calibration error: sum over bins of n_b / n times |accuracy_b - confidence_b|.

    Naeini et al. (2015), as used by Guo et al. (2017): the confidence is the largest probability, the bins
    have equal width.

    Args:
        probabilities: [n, K], rows sum to one.
        labels: [n] class indices.
        bins: how many.

    Raises:
        ValueError: there are no images.
    """
    confidence, correct = confidence_and_correctness(probabilities, labels)
    gaps = np.bincount(bin_index(confidence, bins), weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def calibrate_error(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, samples: int = 1000, seed: int = 0
) -> Calibration:
    """The calibration error with its interval, its reference and the reliability diagram.

    Args:
        probabilities: [n, K].
        labels: [n] class indices.
        samples: resamples for the interval and draws for the reference; 0 leaves both at their trivial
            values.
        seed: of both.

    Raises:
        ValueError: there are no images.
    """
    confidence, correct = confidence_and_correctness(probabilities, labels)
    index = bin_index(confidence)
    member = np.zeros((len(index), BINS))
    member[np.arange(len(index)), index] = correct - confidence
    error = float(np.abs(member.sum(axis=0)).sum() / len(index))
    resampled = [
        np.abs(counts @ member).sum(axis=1) / len(index)
        for counts in resample_counts(len(index), samples, seed)
    ]
    interval = basic_interval(error, np.concatenate(resampled) if resampled else np.empty(0))
    reference = _errors_if_calibrated(confidence, index, samples, seed)
    return Calibration(
        error=interval,
        expected_if_calibrated=float(reference.mean()) if len(reference) else 0.0,
        highest_if_calibrated=float(np.quantile(reference, CONFIDENCE)) if len(reference) else 0.0,
        bins=_reliability(confidence, correct, index),
    )


def confidence_and_correctness(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """The largest probability of each row and whether it is the label's (1.0 or 0.0), both [n].

    Raises:
        ValueError: there are no images, or shapes do not fit.
    """
    p = np.asarray(probabilities)
    y = np.asarray(labels)
    if p.ndim != 2 or not len(p) or y.shape != p.shape[:1]:
        raise ValueError(f"probabilities {p.shape} and labels {y.shape} do not fit together")
    chosen = p.argmax(axis=1)
    confidence = p[np.arange(len(p)), chosen].astype(np.float64)
    return confidence, (chosen == y).astype(np.float64)


def _errors_if_calibrated(
    confidence: FloatArray, index: npt.NDArray[np.int64], samples: int, seed: int
) -> FloatArray:
    """Errors [samples] of outcomes drawn from the confidences themselves (Bröcker and Smith 2007)."""
    generator = np.random.default_rng([seed, 1])
    order = np.argsort(index, kind="stable")
    sorted_confidence, sorted_index = confidence[order], index[order]
    starts = np.flatnonzero(np.r_[True, sorted_index[1:] != sorted_index[:-1]])
    errors = []
    block = max(1, _CHUNK // len(order))
    for start in range(0, samples, block):
        rows = min(block, samples - start)
        gaps = (generator.random((rows, len(order))) < sorted_confidence) - sorted_confidence
        errors.append(np.abs(np.add.reduceat(gaps, starts, axis=1)).sum(axis=1) / len(order))
    return np.concatenate(errors) if errors else np.empty(0)


def _reliability(
    confidence: FloatArray, correct: FloatArray, index: npt.NDArray[np.int64]
) -> tuple[ReliabilityBin, ...]:
    count = np.bincount(index, minlength=BINS)
    confidences = np.bincount(index, weights=confidence, minlength=BINS)
    corrects = np.bincount(index, weights=correct, minlength=BINS)
    return tuple(
        ReliabilityBin(
            lower=i / BINS,
            upper=(i + 1) / BINS,
            count=int(count[i]),
            confidence=float(confidences[i] / count[i]) if count[i] else None,
            accuracy=float(corrects[i] / count[i]) if count[i] else None,
        )
        for i in range(BINS)
    )
