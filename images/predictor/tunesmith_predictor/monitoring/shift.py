"""Whether two samples come from the same distribution; pure.

Each column is tested by itself with the two-sample Kolmogorov-Smirnov test, and the smallest p-value is
corrected for their number (Bonferroni). On the softmax that detects shift better than the other methods that
Rabanser, Guennemann and Lipton compared ("Failing Loudly", 2019), there as "BBSDs".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]

FALSE_ALARMS = 0.05
"""Share of windows without any shift that may be called shifted, over all tests of a window."""
MINIMUM = 50
"""Images below which nothing is said."""


@dataclass(frozen=True)
class Finding:
    """What one test says.

    Attributes:
        name: of the test.
        samples: images of the window that it saw.
        reference: images that it compared them with.
        statistic: the largest distance between the distribution functions of a column, 0 to 1.
        p_value: corrected for the number of columns; None below the minimum of images.
        threshold: the window is shifted where the p-value is below it.
        column: where the distance is largest.
    """

    name: str
    samples: int
    reference: int
    threshold: float
    statistic: float | None = None
    p_value: float | None = None
    column: int | None = None

    @property
    def shifted(self) -> bool:
        """Whether the window differs by more than chance explains."""
        return self.p_value is not None and self.p_value < self.threshold


def compare(name: str, reference: FloatArray, window: FloatArray, threshold: float) -> Finding:
    """Compare a window [n, c] with a reference [m, c], column by column.

    Args:
        name: of the test.
        reference: without any shift.
        window: what is asked about; rounded like the reference.
        threshold: of the corrected p-value.
    """
    m, n = len(reference), len(window)
    if min(m, n) < MINIMUM:
        return Finding(name, n, m, threshold)
    from scipy.special import kolmogorov  # here: a server starts without the time that this takes

    statistics = kolmogorov_smirnov(reference, window)
    column = int(statistics.argmax())
    statistic = float(statistics[column])
    p_value = min(1.0, float(kolmogorov(np.sqrt(m * n / (m + n)) * statistic)) * len(statistics))
    return Finding(name, n, m, threshold, statistic, p_value, column)


def kolmogorov_smirnov(first: FloatArray, second: FloatArray) -> npt.NDArray[np.float64]:
    """The largest distance between the empirical distribution functions of each column, [m, c] [n, c] -> [c].

    With ties it is the distance at the values themselves, which makes the test of rounded numbers careful.
    """
    ordered_first, ordered_second = np.sort(first, axis=0), np.sort(second, axis=0)
    return np.array(
        [_distance(one, other) for one, other in zip(ordered_first.T, ordered_second.T, strict=True)]
    )


def _distance(first: FloatArray, second: FloatArray) -> float:
    values = np.concatenate([first, second])
    share_first = np.searchsorted(first, values, side="right") / len(first)
    share_second = np.searchsorted(second, values, side="right") / len(second)
    return float(np.abs(share_first - share_second).max())
