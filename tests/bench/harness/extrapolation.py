"""From a few small searches to the time of a large one, openly. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A least-squares line through (trials, seconds).

    Attributes:
        intercept: seconds that no trial costs.
        slope: seconds for each trial.
        residuals: measured minus fitted seconds of each point, in order.
        r_squared: share of the variance that the line explains; 1 is a straight line.
    """

    intercept: float
    slope: float
    residuals: tuple[float, ...]
    r_squared: float

    def at(self, trials: float) -> float:
        """Seconds for a number of trials."""
        return self.intercept + self.slope * trials


def fit_line(trials: Sequence[float], seconds: Sequence[float]) -> Line:
    """Fit a line through at least two points of different numbers of trials.

    Raises:
        ValueError: there are no two.
    """
    count = len(trials)
    if count != len(seconds) or len(set(trials)) < 2:
        raise ValueError("a line needs measurements at two different numbers of trials")
    mean_x, mean_y = math.fsum(trials) / count, math.fsum(seconds) / count
    spread = math.fsum((x - mean_x) ** 2 for x in trials)
    slope = math.fsum((x - mean_x) * (y - mean_y) for x, y in zip(trials, seconds, strict=True)) / spread
    intercept = mean_y - slope * mean_x
    residuals = tuple(y - intercept - slope * x for x, y in zip(trials, seconds, strict=True))
    total = math.fsum((y - mean_y) ** 2 for y in seconds)
    explained = 1 - math.fsum(r * r for r in residuals) / total if total else 1.0
    return Line(intercept, slope, residuals, explained)


def least_epochs(trials: int, *, max_epochs: int, grace_epochs: int = 1, reduction_factor: int = 2) -> float:
    """Epochs that successive halving grants when it never lets a trial go on that does not belong.

    Asynchronous halving (Li et al. 2020) lets early trials pass before it has others to compare them with, so
    a real search needs more; this is the least that ``trials`` trials can cost.
    """
    epochs, alive, rung = 0.0, float(trials), 0
    following = grace_epochs
    while rung < max_epochs:
        following = min(following, max_epochs)
        epochs += alive * (following - rung)
        rung, following = following, following * reduction_factor
        alive /= reduction_factor
    return epochs
