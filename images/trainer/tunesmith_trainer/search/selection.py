"""Which model leaves the search: decisions that a small validation set cannot fool. Pure functions.

Validation sets of a few dozen photos say 100 % for nearly every fine-tuned network. So heads are compared by
their held-out likelihood in cross-validation over training and validation images together, and a fine-tuned
network must beat the linear probe it started from on the same images, by more than its paired standard error
and without losing accuracy. Otherwise the linear probe, the simpler of the two, is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

SHARES = (0.5, 0.75, 1.0)
"""How far between the linear probe (0) and the fine-tuned weights (1) a network may lie."""


@dataclass(frozen=True)
class Judgement:
    """What held-out images say of one model.

    Attributes:
        losses: negative log likelihood of each image, nats, float32 ``[n]``.
        correct: whether each image was classified right, bool ``[n]``.
    """

    losses: FloatArray
    correct: npt.NDArray[np.bool_]

    @property
    def loss(self) -> float:
        """Mean negative log likelihood, nats; infinite without images."""
        return float(self.losses.mean()) if len(self.losses) else math.inf

    @property
    def accuracy(self) -> float:
        """Part classified right; 0 without images."""
        return float(self.correct.mean()) if len(self.correct) else 0.0


@dataclass(frozen=True)
class Contender:
    """A fine-tuned network at a share of the way from its linear probe."""

    trial_id: str
    share: float
    judgement: Judgement


@dataclass(frozen=True)
class Choice:
    """The contender that is kept, or None for the linear probe, and why in a sentence."""

    contender: Contender | None
    sentence: str


def judge(logits: FloatArray, labels: IntArray) -> Judgement:
    """Judge logits ``[n, K]`` against labels ``[n]``; rows with NaN count as a uniform guess."""
    finite = np.where(np.isfinite(logits).all(1, keepdims=True), logits, 0.0)
    shifted = finite - finite.max(1, keepdims=True)
    log_likelihood = shifted[np.arange(len(labels)), labels] - np.log(np.exp(shifted).sum(1))
    return Judgement(np.asarray(-log_likelihood, np.float32), finite.argmax(1) == labels)


def choose(probe: Judgement, contenders: Sequence[Contender], recommended: Sequence[str] = ()) -> Choice:
    """Choose between a linear probe and the networks fine-tuned from it.

    Args:
        probe: the linear probe, trained on the same images as the contenders, judged on validation.
        contenders: the fine-tuned networks.
        recommended: trials that have hyper-parameters known to be good, the best first.

    Returns:
        The contender of the highest likelihood, if it beats the probe by more than one standard error of the
        paired difference (the rule of Breiman et al. 1984 for the simpler of two that tie) and is no less
        accurate; otherwise the probe. By the same rule a recommended trial is chosen in its place where it
        beats the probe too and ties with it: what was known before says more than a difference within the
        noise of one held-out part.
    """
    if not contenders:
        return Choice(None, "No network was fine-tuned, so the linear probe is the model.")
    best = min(contenders, key=lambda contender: contender.judgement.loss)
    for trial_id in recommended:
        own = [one for one in contenders if one.trial_id == trial_id]
        if not own:
            continue
        rival = min(own, key=lambda contender: contender.judgement.loss)
        gain, error = paired_gain(rival.judgement, best.judgement)
        if gain <= error and beats(probe, rival.judgement):
            best = rival
            break
    gain, error = paired_gain(probe, best.judgement)
    numbers = (
        f"validation likelihood {-best.judgement.loss:.3f} against {-probe.loss:.3f} nats, "
        f"a gain of {gain:+.3f} with a standard error of {error:.3f}, and accuracy "
        f"{best.judgement.accuracy:.3f} against {probe.accuracy:.3f}, on {len(probe.losses)} images"
    )
    if beats(probe, best.judgement):
        return Choice(
            best, f"Fine-tuning {best.trial_id} beats its own linear probe beyond noise: {numbers}."
        )
    return Choice(
        None,
        f"Fine-tuning {best.trial_id} does not beat the linear probe beyond noise, which is kept: {numbers}.",
    )


def beats(probe: Judgement, network: Judgement) -> bool:
    """Whether a network is better than its probe beyond noise, and no less accurate."""
    gain, error = paired_gain(probe, network)
    return gain > error and network.accuracy >= probe.accuracy


def paired_gain(before: Judgement, after: Judgement) -> tuple[float, float]:
    """Mean gain in log likelihood over the same images, and its standard error; (0, inf) below two images."""
    if len(before.losses) < 2:
        return 0.0, math.inf
    gains = before.losses.astype(np.float64) - after.losses
    return float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains)))


def stratified_folds(labels: IntArray, groups: IntArray, count: int, seed: int) -> IntArray:
    """Fold of each image, int64 ``[n]``: classes spread evenly, near duplicates (one group) together.

    Classes with fewer images than ``count`` simply miss in some folds.
    """
    random = np.random.default_rng(seed)
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    fold_of_group = np.empty(len(first), np.int64)
    offset = 0
    for label in np.unique(labels[first]):
        members = np.flatnonzero(labels[first] == label)
        fold_of_group[random.permutation(members)] = (np.arange(len(members)) + offset) % count
        # The next class goes on where this one ended, so that small classes do not all miss the last folds.
        offset += len(members)
    return fold_of_group[inverse]


def fold_count(images: int) -> int:
    """Folds of the cross-validation over ``images``; 0 means that one validation set is enough.

    With over 20,000 images the standard error of a likelihood on 15 % of them is already below a hundredth of
    a nat, and five folds would make heads six times as expensive.
    """
    return 5 if images <= 4_000 else 3 if images <= 20_000 else 0
