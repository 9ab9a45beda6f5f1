"""What held-out images say of one model, and the score that an objective makes of it. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tunesmith_trainer.search.label_noise import softmax

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

BINS = 15
"""Of the calibration error."""


@dataclass(frozen=True)
class Judgement:
    """What held-out images say of one model.

    Attributes:
        losses: negative log likelihood of each image, nats, float32 ``[n]``.
        correct: whether each image was classified right, bool ``[n]``.
        labels: class of each image, int64 ``[n]``.
        predicted: the most probable class of each, int64 ``[n]``.
        confidence: its probability, float32 ``[n]``.
    """

    losses: FloatArray
    correct: npt.NDArray[np.bool_]
    labels: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    predicted: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    confidence: FloatArray = field(default_factory=lambda: np.empty(0, np.float32))

    @property
    def loss(self) -> float:
        """Mean negative log likelihood, nats; infinite without images."""
        return float(self.losses.mean()) if len(self.losses) else math.inf

    @property
    def accuracy(self) -> float:
        """Part classified right; 0 without images."""
        return float(self.correct.mean()) if len(self.correct) else 0.0

    def of(self, images: IntArray) -> Judgement:
        """The judgement by some of the images, which may be repeated."""
        return Judgement(
            self.losses[images],
            self.correct[images],
            self.labels[images],
            self.predicted[images],
            self.confidence[images],
        )

    def score(self, objective: str) -> float:
        """What the search minimises; see ``score_of``."""
        if leading_metric(objective) == LIKELIHOOD or not len(self.losses):
            return self.loss
        return score_of(measure(self), objective)


def judge(logits: FloatArray, labels: IntArray) -> Judgement:
    """Judge logits ``[n, K]`` against labels ``[n]``; rows with NaN count as a uniform guess."""
    finite = np.where(np.isfinite(logits).all(1, keepdims=True), logits, 0.0)
    shifted = finite - finite.max(1, keepdims=True)
    log_likelihood = shifted[np.arange(len(labels)), labels] - np.log(np.exp(shifted).sum(1))
    predicted = finite.argmax(1)
    return Judgement(
        np.asarray(-log_likelihood, np.float32),
        predicted == labels,
        labels,
        predicted,
        softmax(np.asarray(finite, np.float32)).max(1),
    )


def measure(judged: Judgement) -> dict[str, float]:
    """The metrics that held-out images give, by the spec's names."""
    bins = np.minimum((judged.confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=judged.confidence - judged.correct, minlength=BINS)
    recalls, f1 = _per_class(judged.labels, judged.predicted)
    return {
        "accuracy": judged.accuracy,
        "negativeLogLikelihood": judged.loss,
        "macroF1": float(f1.mean()),
        "worstClassRecall": float(recalls.min()),
        "calibrationError": float(np.abs(gaps).sum() / len(judged.labels)),
    }


def held_out_metrics(logits: FloatArray, labels: IntArray) -> dict[str, float]:
    """What held-out logits ``[n, K]`` say of a model, by the spec's names of metrics."""
    return measure(judge(logits, labels))


def _per_class(labels: IntArray, predicted: IntArray) -> tuple[FloatArray, FloatArray]:
    """Recall of each class that has images, and F1 of each that has images or predictions."""
    classes = int(max(labels.max(), predicted.max())) + 1
    right = np.bincount(labels[labels == predicted], minlength=classes)
    given, said = np.bincount(labels, minlength=classes), np.bincount(predicted, minlength=classes)
    seen = given + said > 0
    f1 = 2 * right[seen] / (given + said)[seen]
    return np.asarray((right / np.maximum(given, 1))[given > 0], np.float32), np.asarray(f1, np.float32)


LIKELIHOOD = "negativeLogLikelihood"
LEADING: Mapping[str, str] = {
    "macroF1": "macro F1",
    "worstClassRecall": "worst-class recall",
    "calibrationError": "calibration error",
}
"""Objectives that lead a search in the likelihood's place, with their names for people."""


def leading_metric(objective: str) -> str:
    """The metric that leads the search under an objective."""
    return objective if objective in LEADING else LIKELIHOOD


def leading_name(objective: str) -> str:
    """The leading metric, for people."""
    return LEADING.get(objective, "likelihood")


def score_of(metrics: Mapping[str, float], objective: str) -> float:
    """What the search minimises: the likelihood, unless the objective is one that it does not speak for.

    Accuracy on a few hundred images is a step function with many ties; the likelihood orders the same models
    without them (see the case in ``search/README.md``). Metrics that held-out images do not give (latency,
    size, corruptions, slices) are judged at verification, and likelihood leads the search.
    """
    loss = metrics[LIKELIHOOD]
    match objective:
        case "macroF1" | "worstClassRecall":
            return 1.0 - metrics[objective] + 0.01 * loss
        case "calibrationError":
            return metrics[objective] + 0.01 * loss
    return loss
