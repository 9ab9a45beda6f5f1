"""Bootstrap intervals without a loop over the resamples.

A resample is a row of counts: how often each image was drawn. Every metric here is a function of sums over
images, so the metric on all resamples is one matrix product followed by array arithmetic. The same seed and
number of images give the same rows, which is what makes a comparison of two models paired.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic.dataclasses import dataclass

from tunesmith_trainer.verify.records import CAMEL

FloatArray = npt.NDArray[np.float64]

CONFIDENCE = 0.95
"""Coverage of every interval."""
_CHUNK = 4_000_000  # counts in memory at once
_NO_WIDTH = 1e-9


@dataclass(frozen=True, config=CAMEL)
class Interval:
    """A value with its interval of 95 % confidence; low and high equal the value where none was asked for.

    Attributes:
        value: the metric on the data.
        low: its lower end.
        high: its upper end.
        method: ``bootstrap``, or ``wilson`` where all resamples agree, which says nothing of the next image.
    """

    value: float
    low: float
    high: float
    method: Literal["bootstrap", "wilson"] = "bootstrap"


def resample_counts(n: int, samples: int, seed: int) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the counts of ``samples`` resamples of ``n`` images with replacement, a bounded block at a time.

    Each block is float32 [b, n], its rows sum to n (Efron 1979). Blocks follow from n, samples and seed
    alone.
    """
    generator = np.random.default_rng(seed)
    block = max(1, _CHUNK // max(n, 1))
    for start in range(0, samples, block):
        rows = min(block, samples - start)
        drawn = generator.integers(n, size=(rows, n), dtype=np.int64)
        drawn += np.arange(rows, dtype=np.int64)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float32)


def percentile_interval(
    value: float, resampled: FloatArray, *, score: tuple[float, float] | None = None
) -> Interval:
    """The percentile interval (Efron 1979): the middle 95 % of the metric over the resamples [B].

    Resamples on which the metric is undefined (NaN) do not count; without any, the interval is the value.

    Args:
        value: the metric on the data.
        resampled: the metric on each resample [B].
        score: ends of the score interval, taken where the percentiles have no width: resamples of a test
            split without a mistake have none either.
    """
    low, high = _bounds(value, resampled)
    if score is not None and len(resampled) and high - low < _NO_WIDTH:
        return Interval(value, min(score[0], value), max(score[1], value), method="wilson")
    return Interval(value, low, high)


def basic_interval(value: float, resampled: FloatArray, *, least: float = 0.0) -> Interval:
    """The basic interval (Davison and Hinkley 1997, 5.2): the percentiles mirrored at the value.

    It is for metrics that chance only ever makes larger, like the calibration error: resampling adds that
    bias a second time, so the percentile interval lies too high and often misses even the estimate itself.

    Args:
        value: the metric on the data.
        resampled: the metric on each resample [B].
        least: the smallest value that the metric can have.
    """
    low, high = _bounds(value, resampled)
    return Interval(value, max(least, 2 * value - high), max(least, 2 * value - low))


def _bounds(value: float, resampled: FloatArray) -> tuple[float, float]:
    defined = resampled[np.isfinite(resampled)]
    if not len(defined):
        return value, value
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    return float(low), float(high)
