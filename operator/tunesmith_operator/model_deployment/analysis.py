"""Whether a new revision does well enough, from what the predictors counted; pure.

What is counted is in Prometheus' cumulative form; a window is the difference of two readings.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from tunesmith_api.model_deployment import Analysis

K = TypeVar("K", str, float)
FEWEST = 30
"""Predictions or labels from which on shares of them say something."""
OVERLOADED = "429"
_NORMAL_95 = 1.959963984540054
QUANTILES: Mapping[str, float] = {
    "latencyP50Milliseconds": 0.50,
    "latencyP95Milliseconds": 0.95,
    "latencyP99Milliseconds": 0.99,
}


@dataclass(frozen=True)
class Counts:
    """What the pods of a revision have counted.

    Attributes:
        requests: by HTTP's code, those that asked for a prediction or an explanation.
        seconds: predictions answered within so many seconds, by that bound; cumulative, as Prometheus has it.
        predicted: images by their most probable class.
        labels: true labels that clients gave, over the life of the pods.
        right: how many of them the model had said.
    """

    requests: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[float, float] = field(default_factory=dict)
    predicted: Mapping[str, float] = field(default_factory=dict)
    labels: float = 0.0
    right: float = 0.0

    @property
    def answered(self) -> float:
        """Requests, whatever came of them."""
        return sum(self.requests.values())

    @property
    def failed(self) -> float:
        """Requests that a server failed or had no room for; what clients did wrong does not count."""
        return sum(
            count for code, count in self.requests.items() if code.startswith("5") or code == OVERLOADED
        )

    def __add__(self, other: "Counts") -> "Counts":
        """Of the pods of both."""
        return Counts(
            Counter(self.requests) + Counter(other.requests),
            Counter(self.seconds) + Counter(other.seconds),
            Counter(self.predicted) + Counter(other.predicted),
            self.labels + other.labels,
            self.right + other.right,
        )

    def since(self, before: "Counts") -> "Counts":
        """What was counted since; labels stay those of the whole life, as they come long after requests."""
        return Counts(
            _less(self.requests, before.requests),
            _less(self.seconds, before.seconds),
            _less(self.predicted, before.predicted),
            self.labels,
            self.right,
        )


@dataclass(frozen=True)
class Window:
    """What both revisions counted since the step began.

    Attributes:
        stable: of the revision that serves.
        canary: of the new one.
        complaint: which of their pods were not heard, as a sentence.
    """

    stable: Counts
    canary: Counts
    complaint: str = ""


@dataclass(frozen=True)
class Judgement:
    """What the analysis says.

    Attributes:
        verdict: ``Waiting`` for more to be counted.
        message: as a sentence, with the numbers.
    """

    verdict: Literal["Waiting", "Broken", "Passed"]
    message: str


def judge(window: Window | None, analysis: Sequence[Analysis], minimum_requests: int) -> Judgement:
    """Compare a window with the limits.

    Args:
        window: None when nobody has looked yet.
        analysis: the limits.
        minimum_requests: that the new revision must have answered before anything is said.
    """
    if window is None:
        return Judgement("Waiting", "The predictors have not been asked yet.")
    answered = int(window.canary.answered)
    if answered < minimum_requests:
        message = f"The new revision has answered {answered} of {minimum_requests} requests."
        return Judgement("Waiting", f"{message} {window.complaint}".rstrip())
    waiting, passed = [], []
    for limit in analysis:
        value, lacking = measure(window, limit)
        if value is None:
            waiting.append(f"{limit.metric} waits for {lacking}")
            continue
        said = f"{limit.metric} is {_text(value)}{_compared(limit)}"
        if _broken(window, limit, value):
            least, most = limit.minimum, limit.maximum
            bound = f"at most {most:g}" if most is not None else f"at least {least:g}"
            return Judgement("Broken", f"{said}, and must be {bound} (after {answered} requests).")
        passed.append(said)
    if waiting:
        return Judgement("Waiting", f"{', '.join(waiting)}. {window.complaint}".rstrip())
    if window.complaint:
        return Judgement("Waiting", window.complaint)
    return Judgement("Passed", f"{', '.join(passed) or 'Nothing is limited'} (after {answered} requests).")


def measure(window: Window, limit: Analysis) -> tuple[float | None, str]:
    """A metric's value, or None and what it lacks."""
    canary, stable = window.canary, window.stable
    if limit.metric == "errorRate":
        return (canary.failed / canary.answered if canary.answered else 0.0), ""
    if limit.metric == "feedbackAccuracy":
        lacking = f"{FEWEST} true labels, of which {int(canary.labels)} have arrived"
        return (canary.right / canary.labels, "") if canary.labels >= FEWEST else (None, lacking)
    if limit.metric == "predictionShift":
        if min(sum(canary.predicted.values()), sum(stable.predicted.values())) < FEWEST:
            return None, f"{FEWEST} predictions of each revision"
        return shift(stable.predicted, canary.predicted), ""
    latency = quantile(canary.seconds, QUANTILES[limit.metric])
    if latency is None:
        return None, "predictions"
    if limit.relative_to is None:
        return latency * 1_000, ""
    reference = quantile(stable.seconds, QUANTILES[limit.metric])
    return (latency / reference, "") if reference else (None, "predictions of the stable revision")


def quantile(cumulative: Mapping[float, float], share: float) -> float | None:
    """The value below which a share lies, by linear interpolation within a bucket.

    As Prometheus' ``histogram_quantile``: beyond the last finite bound it is that bound.

    Args:
        cumulative: counts by upper bound, the last one infinite.
        share: 0 to 1.
    """
    bounds = sorted(cumulative)
    if not bounds or not (total := cumulative[bounds[-1]]):
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for bound in bounds:
        if cumulative[bound] >= rank:
            if math.isinf(bound):
                return lower
            inside = cumulative[bound] - below
            return lower + (bound - lower) * ((rank - below) / inside if inside else 1.0)
        lower, below = bound, cumulative[bound]
    return lower


def shift(stable: Mapping[str, float], canary: Mapping[str, float]) -> float:
    """How far two shares of classes are apart: 0 where chance explains it, 1 where they have none in common.

    Total variation distance, less what it would be on average if both came from the same shares: half the sum
    of the mean absolute values of normal differences, sqrt(2/pi r (1 - r) (1/n + 1/m)), r the pooled share.
    """
    n, m = sum(stable.values()), sum(canary.values())
    distance = chance = 0.0
    for label in stable.keys() | canary.keys():
        one, other = stable.get(label, 0.0), canary.get(label, 0.0)
        pooled = (one + other) / (n + m)
        distance += abs(one / n - other / m) / 2
        chance += math.sqrt(2 / math.pi * pooled * (1 - pooled) * (1 / n + 1 / m)) / 2
    return max(0.0, distance - chance)


def _broken(window: Window, limit: Analysis, value: float) -> bool:
    if limit.maximum is not None:
        return value > limit.maximum
    # Few labels say little: it is below the limit when chance does not explain it (Wilson 1927, 95 %).
    return limit.minimum is not None and _wilson_high(value, window.canary.labels) < limit.minimum


def _wilson_high(share: float, number: float) -> float:
    z2 = _NORMAL_95**2
    half = math.sqrt(z2 * (share * (1 - share) / number + z2 / (4 * number * number)))
    return (share + z2 / (2 * number) + half) / (1 + z2 / number)


def _less(now: Mapping[K, float], before: Mapping[K, float]) -> dict[K, float]:
    return {key: max(0.0, value - before.get(key, 0.0)) for key, value in now.items()}


def _text(value: float) -> str:
    return f"{value:.4g}"


def _compared(limit: Analysis) -> str:
    return " times the stable revision's" if limit.relative_to is not None else ""
