"""What a model says of one image, as values."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        label: the most probable class.
        probability: its calibrated probability.
        probabilities: of every class.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
