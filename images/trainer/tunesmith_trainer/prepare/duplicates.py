"""The same image twice: duplicates, near duplicates, leakage between splits, conflicting labels.

Identity is equality of the decoded pixels: it covers equal bytes, and the same picture under other metadata.
Near duplicates are pairs of identities that `perceptual` names and confirms. Each check works on what the
ones before it left: conflicts, then leakage, then duplicates, then near duplicates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunesmith_api.dataset_spec import Checks
from tunesmith_api.reasons import DatasetInvalid
from tunesmith_trainer.prepare.checks import evidence, number
from tunesmith_trainer.prepare.findings import MOST_EVIDENCE
from tunesmith_trainer.prepare.observed import BoolArray, Draft, IntArray, Observed
from tunesmith_trainer.prepare.perceptual import similar_hashes

Confirm = Callable[[IntArray], BoolArray]
"""Says which pairs, int64 ``[k, 2]`` of images of the pixel file, show nearly the same."""

SIDES = ("train", "validation", "test")


@dataclass(frozen=True)
class Twins:
    """Which identities are nearly the same.

    Attributes:
        count: number of identities.
        near: pairs of values of ``Observed.same``, int64 ``[m, 2]``.
        complete: False when so many images are alike that not all pairs were compared.
    """

    count: int
    near: IntArray
    complete: bool

    def neighbours(self, identity: int) -> IntArray:
        """The identity itself and those nearly the same."""
        touching = self.near[(self.near == identity).any(axis=1)]
        return np.unique(np.r_[identity, touching.reshape(-1)])


def find_twins(observed: Observed, distance: int, confirm: Confirm) -> Twins:
    """Compare all living images with each other."""
    count = int(observed.same.max(initial=-1)) + 1
    first = originals(observed, count)
    codes = np.flatnonzero(first >= 0)
    found = similar_hashes(observed.perceptual[first[codes]], distance)
    near = codes[found.pairs]
    if len(near):
        near = near[confirm(observed.pixel[first[near]])]
    return Twins(count, near.astype(np.int64), found.complete)


def originals(observed: Observed, count: int, among: BoolArray | None = None) -> IntArray:
    """The living image of the lowest rank of each of ``count`` identities, int64 ``[count]``; -1: none."""
    rows = np.flatnonzero(observed.alive if among is None else observed.alive & among)
    rows = rows[np.argsort(-observed.rank[rows])]
    out = np.full(count, -1, np.int64)
    out[observed.same[rows]] = rows  # of equal indices the last one stays
    return out


def pools(observed: Observed) -> npt.NDArray[np.uint8]:
    """The side that the source gave each image; what it leaves open counts as training."""
    return np.where(observed.given <= 2, observed.given, 0).astype(np.uint8)


def check_conflicts(observed: Observed, twins: Twins, checks: Checks) -> None:
    """Judge images that lie under two labels, the same or nearly the same.

    Raises:
        DatasetInvalid: there are some and onConflictingLabel is Fail.
    """
    living = observed.living()
    least = np.full(twins.count, len(observed.names), np.int64)
    most = np.full(twins.count, -1, np.int64)
    np.minimum.at(least, observed.same[living], observed.label[living])
    np.maximum.at(most, observed.same[living], observed.label[living])
    torn = least < most
    a, b = twins.near[:, 0], twins.near[:, 1]
    differ = np.minimum(least[a], least[b]) < np.maximum(most[a], most[b])
    torn[twins.near[differ]] = True
    rows = living[torn[observed.same[living]]]
    if len(rows) == 0:
        return
    details = [
        f"here {observed.names[observed.label[row]]!r}, as {observed.path(other)} "
        f"{observed.names[observed.label[other]]!r}"
        for row, other in _partners(observed, twins, rows, observed.label)
    ]
    policy = checks.on_conflicting_label
    if policy == "Fail":
        raise DatasetInvalid(
            f"{number(len(rows), 'image')} lie under two labels: {observed.path(rows[0])}, {details[0]}.",
            "Remove the wrong ones, or set spec.dataset.checks.onConflictingLabel: Drop to use neither.",
        )
    done = "all of them are left out" if policy == "Drop" else "they are kept"
    sentence = f"{number(len(rows), 'image')} show the same under two labels; {done}."
    _note(observed, "conflicting-label", policy, rows, sentence, details)


def check_leakage(observed: Observed, twins: Twins, checks: Checks) -> None:
    """Judge images that lie in two splits of a source that comes split.

    Drop removes the twin of the training side; between validation and test, that of validation.

    Raises:
        DatasetInvalid: there are some and onLeakage is Fail.
    """
    living, side = observed.living(), pools(observed)
    own = np.zeros(twins.count, np.uint8)
    np.maximum.at(own, observed.same[living], side[living])
    reached = own.copy()
    np.maximum.at(reached, twins.near[:, 0], own[twins.near[:, 1]])
    np.maximum.at(reached, twins.near[:, 1], own[twins.near[:, 0]])
    rows = living[side[living] < reached[observed.same[living]]]
    if len(rows) == 0:
        return
    details = [
        f"in {SIDES[side[row]]}, and in {SIDES[side[other]]} as {observed.path(other)}"
        for row, other in _partners(observed, twins, rows, side)
    ]
    policy = checks.on_leakage
    if policy == "Fail":
        raise DatasetInvalid(
            f"{number(len(rows), 'image')} {_lie(rows)} in two splits: "
            f"{observed.path(rows[0])}, {details[0]}.",
            "Remove one of each, or set spec.dataset.checks.onLeakage: Drop to train without them.",
        )
    done = "left out of training" if policy == "Drop" else "kept, so the results look better than they are"
    sentence = (
        f"{number(len(rows), 'image')} of the training side also {_lie(rows)} in another split; {done}."
    )
    _note(observed, "leakage", policy, rows, sentence, details)


def check_duplicates(observed: Observed, twins: Twins, checks: Checks) -> None:
    """Judge images whose pixels lie twice in one class and one split; the original of each is kept.

    Raises:
        DatasetInvalid: there are some and onDuplicate is Fail.
    """
    living, side = observed.living(), pools(observed)
    ordered = living[
        np.lexsort((observed.rank[living], side[living], observed.label[living], observed.same[living]))
    ]
    keys = np.stack([observed.same[ordered], observed.label[ordered], side[ordered]])
    again = np.r_[False, (keys[:, 1:] == keys[:, :-1]).all(axis=0)] if len(ordered) else np.empty(0, np.bool_)
    first = ordered[np.maximum.accumulate(np.where(again, 0, np.arange(len(ordered))))]
    rows, kept = ordered[again], first[again]
    if len(rows) == 0:
        return
    by_row = np.argsort(rows)
    rows, kept = rows[by_row], kept[by_row]
    details = [f"the same as {observed.path(row)}" for row in kept[:MOST_EVIDENCE]]
    policy = checks.on_duplicate
    if policy == "Fail":
        raise DatasetInvalid(
            f"{number(len(rows), 'image')} {_lie(rows)} twice in a class: "
            f"{observed.path(rows[0])} is {details[0]}.",
            "Remove them, or set spec.dataset.checks.onDuplicate: Drop.",
        )
    done = "one of each is kept" if policy == "Drop" else "all are kept, on the same side of the split"
    copies = "is a copy" if len(rows) == 1 else "are copies"
    sentence = f"{number(len(rows), 'image')} {copies} of another in its class; {done}."
    _note(observed, "duplicate", policy, rows, sentence, details)


def check_near_duplicates(observed: Observed, twins: Twins, checks: Checks) -> None:
    """Judge images that nearly show the same within one split of the source.

    Drop keeps the original of each pair; Group leaves it to `split.assign` to keep them together.

    Raises:
        DatasetInvalid: there are some and onNearDuplicate is Fail.
    """
    pairs = np.concatenate([near_pairs(observed, twins, side) for side in range(3)])
    if len(pairs) == 0:
        return
    rows, at = np.unique(pairs[:, 1], return_index=True)
    details = [f"nearly the same as {observed.path(row)}" for row in pairs[at[:MOST_EVIDENCE], 0]]
    policy = checks.on_near_duplicate
    if policy == "Fail":
        raise DatasetInvalid(
            f"{number(len(rows), 'image')} nearly show the same as another: "
            f"{observed.path(rows[0])} is {details[0]}.",
            "Remove them, or set spec.dataset.checks.onNearDuplicate: Group to keep twins on one side.",
        )
    done = "they are on the same side of the split" if policy == "Group" else "the best one of each is kept"
    show = "shows" if len(rows) == 1 else "show"
    sentence = f"{number(len(rows), 'image')} nearly {show} the same as another; {done}."
    if not twins.complete:
        sentence += " So many images are alike that not all pairs were compared."
    _note(observed, "near-duplicate", policy, rows, sentence, details)


def near_pairs(observed: Observed, twins: Twins, side: int) -> IntArray:
    """Living originals of one side that are nearly the same, int64 ``[k, 2]``, the lower rank first."""
    first = originals(observed, twins.count, pools(observed) == side)
    pairs = first[twins.near]
    pairs = pairs[(pairs >= 0).all(axis=1)]
    swap = observed.rank[pairs[:, 0]] > observed.rank[pairs[:, 1]]
    pairs[swap] = pairs[swap, ::-1]
    return pairs[np.lexsort((observed.rank[pairs[:, 0]], observed.rank[pairs[:, 1]]))]


def _note(
    observed: Observed, check: str, policy: str, rows: IntArray, sentence: str, details: list[str]
) -> None:
    """Leave the draft and, where the policy says so, drop the rows."""
    observed.drafts.append(Draft(check, policy, len(rows), sentence, evidence(observed, rows, details)))
    if policy == "Drop":
        observed.drop(rows)


def _partners(
    observed: Observed, twins: Twins, rows: IntArray, kind: npt.NDArray[np.integer]
) -> Iterator[tuple[int, int]]:
    """For each of the first rows a living twin of another kind."""
    for row in rows[:MOST_EVIDENCE]:
        family = twins.neighbours(int(observed.same[row]))
        others = observed.alive & np.isin(observed.same, family) & (kind != kind[row])
        yield int(row), int(np.flatnonzero(others)[0])


def _lie(rows: IntArray) -> str:
    return "lies" if len(rows) == 1 else "lie"
