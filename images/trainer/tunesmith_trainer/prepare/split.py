"""Who trains, who validates, who tests: by content, so that an image never moves when others are added.

An image's position in [0, 1) follows from the sha256 of its content and the seed. Below ``split.test`` it is
a test image, below ``split.test + split.validation`` a validation image, else it trains. No other image
enters into that, so adding images moves none.

Near duplicates stand on the same side, and still adding one moves no image that ranks before it. The better
one (more pixels, then more bytes: the original of a copy that was scaled down or compressed again) keeps its
own side; each other one goes to the side of the best-ranked image that it nearly equals. Where an image
nearly equals two that are on different sides, because these do not resemble each other enough, it is left
out: it can be on neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunesmith_api.dataset_spec import DatasetSpec
from tunesmith_api.reasons import DatasetInvalid
from tunesmith_trainer.prepare.checks import evidence, left_out, named, number
from tunesmith_trainer.prepare.dataset import DROPPED, SPLIT_NAMES, TEST, TRAIN, VALIDATION
from tunesmith_trainer.prepare.duplicates import Twins, near_pairs, originals, pools
from tunesmith_trainer.prepare.findings import MOST_EVIDENCE
from tunesmith_trainer.prepare.observed import BoolArray, Draft, IntArray, Observed, content_position
from tunesmith_trainer.prepare.source import NO_SPLIT

Uint8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Sides:
    """The outcome of the split.

    Attributes:
        split: uint8 ``[N]``, `DROPPED` for images that the checks dropped.
        groups: int64 ``[N]``, for each image the row of the best-ranked image of its family.
    """

    split: Uint8Array
    groups: IntArray


def settle(given: Uint8Array) -> Uint8Array:
    """What a source's own split means, uint8 ``[N]`` in and out.

    Train and validation without test: the validation images are the test split, as whoever made it compared
    models on them, and validation is cut from train. Train alone says nothing.
    """
    kinds = set(np.unique(given).tolist())
    if kinds == {TRAIN}:
        return np.full_like(given, NO_SPLIT)
    if TRAIN in kinds and VALIDATION in kinds and TEST not in kinds:
        return np.where(given == VALIDATION, np.uint8(TEST), given).astype(np.uint8)
    return given


def assign(observed: Observed, twins: Twins, spec: DatasetSpec) -> Sides:
    """Give each living image its side; images between two sides are dropped and reported."""
    kinds = set(np.unique(observed.given[observed.alive]).tolist())
    test = 0.0 if TEST in kinds else spec.split.test
    validation = 0.0 if VALIDATION in kinds else spec.split.validation
    free = observed.given == NO_SPLIT
    open_ = free | ((observed.given == TRAIN) & (VALIDATION not in kinds))
    split = np.where(open_, TRAIN, observed.given).astype(np.uint8)
    position = content_position(observed.sha256[open_], spec.split.seed)
    split[open_] = np.select([position < test, position < test + validation], [TEST, VALIDATION], TRAIN)
    split[~free & open_ & (split == TEST)] = TRAIN  # the source called it train
    groups = _families(observed, twins, split, open_)
    split[~observed.alive] = DROPPED
    return Sides(split, groups)


def given_splits(observed: Observed) -> tuple[str, ...]:
    """Names of the splits that the source has of its own, after `settle`."""
    kinds = set(np.unique(observed.given[observed.alive]).tolist())
    return tuple(SPLIT_NAMES[kind] for kind in (TRAIN, VALIDATION, TEST) if kind in kinds)


def _families(observed: Observed, twins: Twins, split: Uint8Array, open_: BoolArray) -> IntArray:
    groups = np.arange(len(observed), dtype=np.int64)
    pool = pools(observed)
    torn = np.zeros(len(observed), np.bool_)
    for side in (TRAIN, VALIDATION, TEST):
        pairs = near_pairs(observed, twins, side)
        _join(pairs, groups, split, open_)
        _copies_follow(observed, twins, split, groups, pool == side)
        apart = pairs[split[pairs[:, 0]] != split[pairs[:, 1]], 1]
        torn |= np.isin(observed.same, observed.same[apart]) & (pool == side) & observed.alive
    rows = np.flatnonzero(torn)
    if len(rows):
        verb = "equals" if len(rows) == 1 else "equal"
        sentence = (
            f"{number(len(rows), 'image')} nearly {verb} images on two sides of the split, so that neither "
            "side fits; left out."
        )
        observed.drafts.append(Draft("between-splits", "Drop", len(rows), sentence, evidence(observed, rows)))
        observed.drop(rows)
    return groups


def _join(pairs: IntArray, groups: IntArray, split: Uint8Array, open_: BoolArray) -> None:
    """Let each image follow the best-ranked one that it nearly equals.

    Pairs are sorted by the rank of the second, then of the first: the leader's own side is settled before.
    """
    followed = -1
    for leader, follower in pairs.tolist():
        if follower != followed:
            followed = follower
            groups[follower] = groups[leader]
            if open_[follower]:
                split[follower] = split[leader]


def _copies_follow(
    observed: Observed, twins: Twins, split: Uint8Array, groups: IntArray, among: BoolArray
) -> None:
    """Put copies with the same pixels where their original is."""
    first = originals(observed, twins.count, among)
    rows = np.flatnonzero(observed.alive & among)
    split[rows] = split[first[observed.same[rows]]]
    groups[rows] = groups[first[observed.same[rows]]]


def check_empty_sides(observed: Observed, sides: Sides, spec: DatasetSpec) -> None:
    """Report classes without a validation or test image; refuse what cannot be trained or verified.

    Nothing is moved to fill a gap: it would move back when images are added.

    Raises:
        DatasetInvalid: a class has no training image or none that weighs anything, or there is no test image
            at all, or no validation image although the spec wants some.
    """
    counts = np.zeros((len(observed.names), 3), np.int64)
    used = sides.split != DROPPED
    np.add.at(counts, (observed.label[used], sides.split[used]), 1)
    living = np.flatnonzero(counts.sum(axis=1))
    untrained = [observed.names[code] for code in living if counts[code, TRAIN] == 0]
    if untrained:
        raise DatasetInvalid(
            f"No training image is left of {named(untrained, 5)}.{left_out(observed.drafts)}",
            "Add images to the class's training side, or choose another spec.dataset.split.seed.",
        )
    weights = np.zeros(len(observed.names))
    trained = sides.split == TRAIN
    np.add.at(weights, observed.label[trained], observed.weight[trained])
    if weightless := [observed.names[code] for code in living if weights[code] == 0]:
        raise DatasetInvalid(
            f"All training images of {named(weightless, 5)} have the weight 0, so that nothing is learned of "
            "what they show.",
            "Give some of them a weight above 0, or leave the class out.",
        )
    for side, name in ((VALIDATION, "validation"), (TEST, "test")):
        lacking = [observed.names[code] for code in living if counts[code, side] == 0]
        wanted = getattr(spec.split, name) > 0
        if side == TEST and len(lacking) == len(living) and not wanted:
            raise DatasetInvalid(
                "There is no test image and spec.dataset.split.test is 0, so no model could be verified.",
                "Set spec.dataset.split.test to 0.15, or bring a test split with the dataset.",
            )
        if lacking and (len(lacking) < len(living) or wanted):
            observed.drafts.append(_lacking(name, lacking, len(living), left_out(observed.drafts)))


def _lacking(name: str, classes: list[str], of: int, causes: str) -> Draft:
    if len(classes) == of:
        raise DatasetInvalid(
            f"Of these few images no image is on the {name} side of the split.{causes}",
            f"Add images, raise spec.dataset.split.{name}, or choose another spec.dataset.split.seed.",
        )
    has = "has" if len(classes) == 1 else "have"
    sentence = (
        f"{number(len(classes), 'class', 'classes')} {has} no {name} image: "
        f"{named(classes, 5)}; add images, or raise spec.dataset.split.{name}."
    )
    rows = tuple((-1, each, "") for each in classes[:MOST_EVIDENCE])
    return Draft(f"no-{name}-image", "Report", len(classes), sentence, rows)
