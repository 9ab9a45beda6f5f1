"""Intervals of 95 % confidence that need no resampling."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def wilson_interval(
    successes: npt.NDArray[np.int64] | FloatArray, trials: npt.NDArray[np.int64] | FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Ends of the score interval of a fraction (Wilson 1927), elementwise; 0 and 1 where there are no trials.

    Good down to a handful of trials, where the bootstrap of a class without errors would have no width.
    """
    z2 = 1.959963984540054**2
    n = np.maximum(trials, 1).astype(np.float64)
    p = successes / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    empty = trials == 0
    low = np.where(empty, 0.0, np.clip(centre - half, 0.0, 1.0))
    high = np.where(empty, 1.0, np.clip(centre + half, 0.0, 1.0))
    return low, high


def wilson_ends(share: float, images: float) -> tuple[float, float]:
    """Ends of the score interval of a share of so many images, or of the worth of so many."""
    low, high = wilson_interval(np.array([share * images]), np.array([images], np.float64))
    return float(low[0]), float(high[0])
