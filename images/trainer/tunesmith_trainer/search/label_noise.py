"""Suspected wrong labels by confident learning (Northcutt, Jiang & Chuang 2021, JAIR 70).

A class's threshold is the mean probability that its own images get for it. An image whose most probable class
above its threshold is not the given one is a suspect. Probabilities are held-out ones of a linear head on
cached features, computed twice: the second time from heads that trained without the first suspects, which
otherwise teach the very mistakes that are looked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tunesmith_trainer.search.heads import HeadConfig, HeadTask, cross_validate

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

ROUNDS = 2


@dataclass(frozen=True)
class Suspect:
    """An image whose label a cross-validated model contradicts.

    Attributes:
        row: of the dataset.
        given: class index in the data.
        suggested: class index that the model is confident of.
        confidence: probability of the suggested class minus that of the given one, 0 to 1.
    """

    row: int
    given: int
    suggested: int
    confidence: float


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities ``[n, K]`` of logits ``[n, K]``."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True), np.float32)


def confident_disagreements(probabilities: FloatArray, labels: IntArray) -> tuple[IntArray, IntArray]:
    """Find images that are confidently of another class than their label says.

    Args:
        probabilities: held-out class probabilities ``[n, K]``; every class occurs in ``labels``.
        labels: given classes ``[n]``.

    Returns:
        Indices of the suspects and the class suggested for each.
    """
    classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    thresholds = np.bincount(labels, weights=own, minlength=classes) / counts
    above = np.where(probabilities >= thresholds[None, :], probabilities, -1.0)
    suggested = above.argmax(1)
    confident = above.max(1) >= 0
    other = confident & (suggested != labels) & (probabilities[np.arange(len(labels)), suggested] > own)
    indices = np.flatnonzero(other)
    return indices, suggested[indices]


def find_suspects(
    task: HeadTask, config: HeadConfig, dataset_rows: IntArray, *, device: str, on_round: Callable[[], None]
) -> tuple[Suspect, ...]:
    """Find suspected wrong labels, the most certain first.

    Args:
        task: rows, labels and folds; every row has a fold.
        config: hyper-parameters of the head, as the search found them.
        dataset_rows: the dataset's row of each row of the task.
        device: ``cpu`` or ``cuda``.
        on_round: told after each of the ``ROUNDS`` rounds.
    """
    weights = task.weights
    for _ in range(ROUNDS):
        logits = cross_validate(replace(task, weights=weights), [config], device=device)[0]
        probabilities = softmax(logits)
        indices, suggested = confident_disagreements(probabilities, task.labels)
        weights = task.weights.copy()
        weights[indices] = 0.0
        on_round()
    margins = probabilities[indices, suggested] - probabilities[indices, task.labels[indices]]
    order = np.argsort(-margins, kind="stable")
    return tuple(
        Suspect(
            int(dataset_rows[indices[i]]), int(task.labels[indices[i]]), int(suggested[i]), float(margins[i])
        )
        for i in order
    )
