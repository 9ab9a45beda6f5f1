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

from tunesmith_trainer.search.judgement import LEADING, Judgement, leading_name, measure

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

SHARES = (0.5, 0.75, 1.0)
"""How far between the linear probe (0) and the fine-tuned weights (1) a network may lie."""
RESAMPLES = 200
"""Of the bootstrap that gives the error of a difference that is no mean over images."""


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


def choose(
    probe: Judgement,
    contenders: Sequence[Contender],
    recommended: Sequence[str] = (),
    objective: str = "accuracy",
) -> Choice:
    """Choose between a linear probe and the networks fine-tuned from it.

    Args:
        probe: the linear probe, trained on the same images as the contenders, judged on validation.
        contenders: the fine-tuned networks.
        recommended: trials that have hyper-parameters known to be good, the best first.
        objective: the primary objective's metric.

    Returns:
        The contender of the highest likelihood (of the best score, where the objective leads), if it beats
        the probe by more than one standard error of the paired difference (the rule of Breiman et al. 1984
        for the simpler of two that tie) and is no less accurate; otherwise the probe. By the same rule a
        recommended trial is chosen in its place where it beats the probe too and ties with it: what was known
        before says more than a difference within the noise of one held-out part.
    """
    if not contenders:
        return Choice(None, "No network was fine-tuned, so the linear probe is the model.")
    best = min(contenders, key=lambda contender: contender.judgement.score(objective))
    for trial_id in recommended:
        own = [one for one in contenders if one.trial_id == trial_id]
        if not own:
            continue
        rival = min(own, key=lambda contender: contender.judgement.score(objective))
        gain, error = paired_gain(rival.judgement, best.judgement, objective)
        if gain <= error and beats(probe, rival.judgement, objective):
            best = rival
            break
    gain, error = paired_gain(probe, best.judgement, objective)
    numbers = (
        f"{_compared(best.judgement, probe, objective)}, "
        f"a gain of {gain:+.3f} with a standard error of {error:.3f}, and accuracy "
        f"{best.judgement.accuracy:.3f} against {probe.accuracy:.3f}, on {len(probe.losses)} images"
    )
    if beats(probe, best.judgement, objective):
        return Choice(
            best, f"Fine-tuning {best.trial_id} beats its own linear probe beyond noise: {numbers}."
        )
    return Choice(
        None,
        f"Fine-tuning {best.trial_id} does not beat the linear probe beyond noise, which is kept: {numbers}.",
    )


def _compared(network: Judgement, probe: Judgement, objective: str) -> str:
    if objective not in LEADING:
        return f"validation likelihood {-network.loss:.3f} against {-probe.loss:.3f} nats"
    values = (f"{measure(one)[objective]:.3f}" for one in (network, probe))
    return f"validation {leading_name(objective)} " + " against ".join(values)


def beats(probe: Judgement, network: Judgement, objective: str = "accuracy") -> bool:
    """Whether a network is better than its probe beyond noise, and no less accurate.

    Macro F1 and the worst class's recall count right answers themselves, so accuracy has no say beside them.
    """
    gain, error = paired_gain(probe, network, objective)
    counted = objective in ("macroF1", "worstClassRecall")
    return gain > error and (counted or network.accuracy >= probe.accuracy)


def paired_gain(before: Judgement, after: Judgement, objective: str = "accuracy") -> tuple[float, float]:
    """Gain over the same images, and its standard error; (0, inf) below two images.

    The gain is the mean of that in log likelihood. Under an objective that leads the search it is that in
    score, which is no mean over images: its error comes from the bootstrap (Efron 1979).
    """
    if len(before.losses) < 2:
        return 0.0, math.inf
    if objective in LEADING:
        random, count = np.random.default_rng(0), len(before.losses)
        samples = (random.integers(0, count, count) for _ in range(RESAMPLES))
        drawn = [before.of(one).score(objective) - after.of(one).score(objective) for one in samples]
        return before.score(objective) - after.score(objective), float(np.std(drawn, ddof=1))
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
