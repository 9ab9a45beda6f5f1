"""``spec.objectives`` and ``spec.verification``: what is good, and how good is good enough."""

from typing import Annotated, Literal

from pydantic import Field

from tunesmith_api.fields import LOWER_IS_BETTER, UNBOUNDED, ApiModel, Corruption, Direction, Metric, cel_list
from tunesmith_api.rules import Rule

_LOWER = cel_list(LOWER_IS_BETTER)
_FREE = cel_list(UNBOUNDED)
_FREE_NAMES = "negativeLogLikelihood, latencyP95Milliseconds and modelSizeMegabytes"
_NOT_SEARCHED = ("worstSliceAccuracy", "corruptionAccuracy", "latencyP95Milliseconds", "modelSizeMegabytes")
"""Metrics that are measured on the chosen model alone."""

MetricValue = Annotated[float, Field(ge=0, le=1_000_000_000)]


class Objective(ApiModel):
    """A metric that the search improves."""

    rules = (
        Rule(
            f"!has(self.direction) || (self.metric in {_LOWER}) == (self.direction == 'Minimize')",
            "negativeLogLikelihood, calibrationError, latencyP95Milliseconds and modelSizeMegabytes are "
            "better when smaller (Minimize), all others when larger (Maximize); leave direction out or "
            "write the other",
            ".direction",
        ),
        Rule(
            f"!has(self.goal) || self.metric in {_FREE} || self.goal <= 1.0",
            f"only {_FREE_NAMES} can be above 1; all others are fractions: write 0.97 for 97 %",
            ".goal",
        ),
        Rule(
            f"!has(self.goal) || !(self.metric in {cel_list(_NOT_SEARCHED)})",
            f"a search measures none of {', '.join(_NOT_SEARCHED)}, so it would never see this goal: leave "
            "goal out and write a gate in verification.gates",
            ".goal",
        ),
    )

    metric: Metric
    """The metric, measured on held-out images of the training and validation splits."""
    direction: Direction | None = None
    """Whether larger or smaller is better; follows from the metric when left out."""
    goal: MetricValue | None = None
    """The search ends when a trial reaches this. Only the primary objective may have one."""

    @property
    def maximize(self) -> bool:
        """Whether larger is better."""
        return self.metric not in LOWER_IS_BETTER


class Gate(ApiModel):
    """A limit that the model must meet on the test split before anything may serve it."""

    rules = (
        Rule(
            "[has(self.minimum), has(self.maximum), has(self.relativeTo)].exists_one(given, given)",
            "a gate has exactly one of minimum, maximum and relativeTo",
        ),
        Rule(
            f"!has(self.minimum) || !(self.metric in {_LOWER})",
            "this metric is better when smaller: write maximum instead of minimum",
            ".minimum",
        ),
        Rule(
            f"!has(self.maximum) || self.metric in {_LOWER}",
            "this metric is better when larger: write minimum instead of maximum",
            ".maximum",
        ),
        Rule(
            f"self.metric in {_FREE} || ((!has(self.minimum) || self.minimum <= 1.0) && "
            "(!has(self.maximum) || self.maximum <= 1.0))",
            f"only {_FREE_NAMES} can be above 1; all others are fractions: write 0.90 for 90 %",
        ),
        Rule(
            "!has(self.minimumDelta) || has(self.relativeTo)",
            "minimumDelta says by how much the champion must be beaten: add relativeTo: Champion or leave "
            "it out",
            ".minimumDelta",
        ),
    )

    metric: Metric
    """The metric, measured on the test split."""
    minimum: MetricValue | None = None
    """The metric must be at least this."""
    maximum: MetricValue | None = None
    """The metric must be at most this."""
    relative_to: Literal["Champion"] | None = None
    """Compare with the newest verified model of this TrainingJob's name by a paired test; passes when there
    is none yet."""
    minimum_delta: Annotated[float, Field(ge=-1_000_000_000, le=1_000_000_000)] | None = None
    """By how much the model must be better than the champion (negative: how much worse it may be); 0 when
    left out."""

    @property
    def delta(self) -> float:
        """The margin over the champion, 0 when none is written."""
        return self.minimum_delta or 0.0


class Corruptions(ApiModel):
    """Disturbed copies of the test images, on which corruptionAccuracy is measured."""

    kinds: Annotated[
        tuple[Corruption, ...],
        Field(min_length=1, max_length=8),
        Rule(
            "self.all(kind, self.exists_one(other, other == kind))",
            "each kind of corruption may stand there once",
        ),
    ] = ("GaussianNoise", "Blur", "JPEG", "Brightness", "Contrast")
    """Which disturbances."""
    severities: Annotated[
        tuple[Annotated[int, Field(ge=1, le=5)], ...],
        Field(min_length=1, max_length=5),
        Rule("self.all(one, self.exists_one(other, other == one))", "each severity may stand there once"),
    ] = (1, 3, 5)
    """How strong, from 1 to 5, as in Hendrycks and Dietterich (2019)."""
    max_images: Annotated[int, Field(ge=1, le=100_000)] = 200
    """How many test images are disturbed; always the same ones, over all classes."""


class VerificationSpec(ApiModel):
    """How the chosen model is judged."""

    gates: Annotated[tuple[Gate, ...], Field(max_length=16)] = ()
    """Limits; a model that misses one is kept for study but never served."""
    corruptions: Corruptions = Field(default_factory=Corruptions)
    """Disturbed copies of the test images."""
    bootstrap_samples: Annotated[int, Field(ge=0, le=10_000)] = 1_000
    """Resamples behind the intervals around each metric; 0 for none."""
