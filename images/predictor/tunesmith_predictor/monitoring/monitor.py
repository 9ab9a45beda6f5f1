"""Watches what arrives and what is answered, and says in JSON how far it is from the package's reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith_package.properties import PROPERTIES
from tunesmith_package.reference import Reference
from tunesmith_predictor.engine import Answer
from tunesmith_predictor.monitoring.shift import FALSE_ALARMS, MINIMUM, Finding, compare
from tunesmith_predictor.monitoring.window import Sample, Window, mean_confidence

TESTS = ("predictions", "embedding", "inputs")


@dataclass(frozen=True)
class Report:
    """What monitoring says at one moment.

    Attributes:
        samples: images of the window.
        findings: one for each of `TESTS`.
        estimated_accuracy: None below the minimum of images, or without the test metrics.
        document: all of it, for JSON.
    """

    samples: int
    findings: Sequence[Finding]
    estimated_accuracy: float | None
    document: Mapping[str, Any]


class Monitor:
    """The window of one model."""

    def __init__(
        self, labels: Sequence[str], reference: Reference, metrics: Mapping[str, float], images: int
    ) -> None:
        """Begin with an empty window.

        Args:
            labels: the K classes.
            reference: of the package.
            metrics: on its test split; ``accuracy`` is what the estimate starts from.
            images: length of the window.
        """
        self._labels, self._reference, self._metrics = labels, reference, metrics
        self._length = images
        self._window = Window(images, len(labels), reference)

    def add(self, answer: Answer) -> None:
        """Take note of an answer; takes some microseconds."""
        self._window.add(answer)

    def sample(self) -> Sample:
        """The window now, for `report` in another thread."""
        return self._window.sample()

    def report(self, sample: Sample) -> Report:
        """Compare a window with the reference. It computes: not for an event loop."""
        threshold = FALSE_ALARMS / len(TESTS)
        known = self._reference
        findings = [
            compare("predictions", known.probabilities, sample.probabilities, threshold),
            compare("embedding", known.embedding_scores, sample.scores, threshold),
        ]
        if known.properties is not None:
            findings.append(compare("inputs", known.properties, sample.properties, threshold))
        accuracy = self._estimated_accuracy(sample)
        document = self._document(sample, findings, accuracy)
        return Report(len(sample.probabilities), findings, accuracy, document)

    def _estimated_accuracy(self, sample: Sample) -> float | None:
        """The test accuracy, less what the mean confidence has lost since (Guillory et al. 2021, "DoC")."""
        tested = self._metrics.get("accuracy")
        if tested is None or len(sample.probabilities) < MINIMUM:
            return None
        lost = mean_confidence(self._reference.probabilities) - mean_confidence(sample.probabilities)
        return min(1.0, max(0.0, tested - lost))

    def _document(
        self, sample: Sample, findings: Sequence[Finding], accuracy: float | None
    ) -> dict[str, Any]:
        few = _few(len(sample.probabilities))
        estimated: dict[str, Any] = {"message": few} if few else {"value": accuracy}
        if accuracy is None and not few:
            estimated = {"message": "The package has no test accuracy to start from."}
        return {
            "window": {
                "images": self._length,
                "samples": len(sample.probabilities),
                "minimum": MINIMUM,
                "arrived": sample.images,
                "repeated": sample.repeated,
            },
            "shift": {
                "shifted": any(one.shifted for one in findings),
                "falseAlarms": FALSE_ALARMS,
                "tests": [self._told(one) for one in findings],
            },
            "estimatedAccuracy": {**estimated, "onTestSplit": self._metrics.get("accuracy")},
        }

    def _told(self, one: Finding) -> dict[str, Any]:
        told: dict[str, Any] = {"name": one.name, "samples": one.samples, "reference": one.reference}
        if one.p_value is None or one.column is None:
            few = _few(one.samples) or f"The package's reference has only {one.reference} images."
            return {**told, "shifted": False, "message": few}
        measured = {"statistic": one.statistic, "pValue": one.p_value, "threshold": one.threshold}
        names = {"predictions": self._labels, "inputs": PROPERTIES}.get(one.name)
        where = {} if names is None else {"most": names[one.column]}
        return {**told, "shifted": one.shifted, **measured, **where}


def _few(samples: int) -> str:
    if samples >= MINIMUM:
        return ""
    return f"{samples} different images so far; from {MINIMUM} on there is something to say."
