"""Who trains, who validates, who tests: properties of the split, by itself and of whole sets."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.testbed.photo_sets import Bench, PhotoSet, encode, finding, splits, two_classes

from tunesmith_api.dataset_spec import DatasetSpec
from tunesmith_api.reasons import DatasetInvalid
from tunesmith_trainer.prepare.dataset import DROPPED, TEST, TRAIN, VALIDATION
from tunesmith_trainer.prepare.duplicates import Twins
from tunesmith_trainer.prepare.observed import Observed
from tunesmith_trainer.prepare.source import NO_SPLIT
from tunesmith_trainer.prepare.split import assign, settle

Pair = tuple[int, int]


def observed(contents: list[int], given: int = NO_SPLIT) -> Observed:
    """Images of one class whose content is a number; small numbers rank first."""
    count = len(contents)
    names = pa.chunked_array([[f"{content}.jpg" for content in contents]], pa.string())
    hashes = [hashlib.sha256(str(content).encode()).digest() for content in contents]
    rank = np.empty(count, np.int64)
    rank[np.argsort(contents)] = np.arange(count)
    return Observed(
        paths=names,
        label=np.zeros(count, np.int64),
        names=["ants"],
        given=np.full(count, given, np.uint8),
        weight=np.ones(count, np.float32),
        slices={},
        sha256=np.frombuffer(b"".join(hashes), np.uint8).reshape(count, 32).copy(),
        same=np.arange(count, dtype=np.int64),
        perceptual=np.zeros(count, np.uint64),
        rank=rank,
        pixel=np.arange(count, dtype=np.int64),
        alive=np.ones(count, np.bool_),
    )


def cut(contents: list[int], near: list[Pair] | None = None, seed: int = 0) -> dict[int, int]:
    """The side of each content; ``near`` lists contents that are nearly the same."""
    at = {content: row for row, content in enumerate(contents)}
    pairs = [sorted((at[one], at[other])) for one, other in near or [] if one in at and other in at]
    twins = Twins(len(contents), np.asarray(pairs, np.int64).reshape(-1, 2), complete=True)
    spec = DatasetSpec.model_validate(
        {"uri": "file:///photos", "split": {"validation": 0.2, "test": 0.2, "seed": seed}}
    )
    sides = assign(observed(contents), twins, spec)
    return dict(zip(contents, sides.split.tolist(), strict=True))


some = st.lists(st.integers(0, 10_000), min_size=1, max_size=40, unique=True)
links = st.lists(
    st.tuples(st.integers(0, 79), st.integers(0, 79)).filter(lambda p: p[0] != p[1]), max_size=60
)


def shuffled(contents: Iterable[int]) -> list[int]:
    return sorted(contents, key=lambda content: hashlib.md5(str(content).encode()).digest())


@given(some, some, st.integers(0, 3))
@settings(deadline=None)
def test_split_of_an_image_never_changes_when_others_are_added(
    old: list[int], new: list[int], seed: int
) -> None:
    before = cut(old, seed=seed)
    after = cut(sorted({*old, *new}, key=lambda content: hash((content, seed))), seed=seed)
    assert {content: after[content] for content in old} == before


@given(some, links)
@settings(deadline=None)
def test_near_duplicates_are_never_on_two_sides(contents: list[int], near: list[Pair]) -> None:
    pairs = named(contents, near)
    sides = cut(contents, pairs)
    for one, other in pairs:
        assert sides[one] == sides[other] or DROPPED in (sides[one], sides[other])


def named(contents: list[int], near: list[Pair]) -> list[Pair]:
    """Pairs of positions as pairs of contents."""
    return list({(contents[a], contents[b]) for a, b in near if max(a, b) < len(contents)})


@given(some, some, links)
@settings(deadline=None)
def test_split_of_an_image_never_changes_when_lesser_twins_are_added(
    old: list[int], new: list[int], near: list[Pair]
) -> None:
    added = [content + 100_000 for content in new]  # larger numbers rank behind
    pairs = named([*old, *added], near)
    before, after = cut(old, pairs), cut([*added, *old], pairs)
    assert {content: after[content] for content in old} == before


@given(some, links)
@settings(deadline=None)
def test_split_does_not_depend_on_the_order_of_the_images(contents: list[int], near: list[Pair]) -> None:
    pairs = named(contents, near)
    assert cut(shuffled(contents), pairs) == cut(contents, pairs)


def test_split_of_many_images_has_the_fractions_asked_for() -> None:
    sides = np.asarray(list(cut(list(range(20_000))).values()))
    assert abs((sides == TEST).mean() - 0.2) < 0.01
    assert abs((sides == VALIDATION).mean() - 0.2) < 0.01


def test_split_with_another_seed_is_another_one() -> None:
    contents = list(range(500))
    assert cut(contents, seed=0) != cut(contents, seed=1)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        pytest.param([TRAIN, VALIDATION, TEST], [TRAIN, VALIDATION, TEST], id="all three stay"),
        pytest.param([TRAIN, VALIDATION], [TRAIN, TEST], id="validation alone is the test split"),
        pytest.param([TRAIN, TEST], [TRAIN, TEST], id="train and test stay"),
        pytest.param([TRAIN, TRAIN], [NO_SPLIT, NO_SPLIT], id="train alone says nothing"),
        pytest.param([NO_SPLIT, NO_SPLIT], [NO_SPLIT, NO_SPLIT], id="nothing said"),
        pytest.param([TEST, NO_SPLIT], [TEST, NO_SPLIT], id="the rest of a partial split stays open"),
    ],
)
def test_settle_reads_a_given_split_as_its_maker_meant_it(given_: list[int], expected: list[int]) -> None:
    assert settle(np.asarray(given_, np.uint8)).tolist() == expected


def test_image_that_nearly_equals_two_on_different_sides_is_left_out() -> None:
    sides = cut(list(range(100)))
    train = next(content for content, side in sides.items() if side == TRAIN)
    test = next(content for content, side in sides.items() if side == TEST)
    between = cut([train, test, 1_000], [(train, 1_000), (test, 1_000)])
    assert between == {train: TRAIN, test: TEST, 1_000: DROPPED}


# Whole sets


def test_set_that_grows_keeps_every_image_on_its_side(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 40)
    before = splits(Bench(tmp_path, "before").prepare(photos.root))
    photos.photos("ants", 30).photos("wasps", 30)
    after = splits(Bench(tmp_path, "after").prepare(photos.root))
    assert {path: after[path] for path in before} == before
    assert set(before.values()) == {TRAIN, VALIDATION, TEST}


def test_renamed_and_moved_set_has_the_same_split_by_content(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 30)
    before = splits(Bench(tmp_path, "before").prepare(photos.root))
    for path in photos.root.rglob("*.jpg"):
        target = tmp_path / "moved" / path.parent.name / f"renamed-{path.name[::-1]}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    after = splits(Bench(tmp_path, "after").prepare(tmp_path / "moved"))
    assert {f"{path[:5]}renamed-{path[5:][::-1]}.jpg": split for path, split in before.items()} == after


def test_twin_that_is_added_sits_where_the_original_is_and_moves_nobody(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 40)
    before = splits(Bench(tmp_path, "before").prepare(photos.root))
    for path in sorted(photos.root.rglob("*.jpg")):
        with Image.open(path) as image:
            photos.add(f"{path.parent.name}/twin-{path.name}", encode(image.copy(), quality=60))
    dataset = Bench(tmp_path, "after").prepare(photos.root)
    after = splits(dataset)
    assert {path: after[path] for path in before} == before
    assert {name.replace("twin-", ""): side for name, side in after.items() if "twin-" in name} == before
    assert finding(dataset, "near-duplicate").count == 80
    assert len(np.unique(dataset.groups)) == 80


def test_given_split_with_validation_cut_from_train_keeps_twins_together(tmp_path: Path) -> None:
    photos = PhotoSet(tmp_path / "photos").photos("test/ants", 8).photos("test/bees", 8)
    photos.photos("train/ants", 40).photos("train/bees", 40)
    for path in sorted((photos.root / "train").rglob("*.jpg")):
        with Image.open(path) as image:
            photos.add(f"train/{path.parent.name}/twin-{path.name}", encode(image.copy(), quality=60))
    found = splits(Bench(tmp_path).prepare(photos.root))
    twins = {name: side for name, side in found.items() if "twin-" in name}
    assert set(twins.values()) == {TRAIN, VALIDATION}
    assert {name: found[name.replace("twin-", "")] for name in twins} == twins


def test_class_without_a_test_image_is_reported_and_nobody_is_moved_for_it(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 40)
    bench = Bench(tmp_path)
    everywhere = splits(bench.prepare(photos.root))
    for name, split in everywhere.items():
        if name.startswith("bees") and split == TEST:
            (photos.root / name).unlink()
    dataset = Bench(tmp_path, "less").prepare(photos.root)
    assert splits(dataset).items() <= everywhere.items()
    found = finding(dataset, "no-test-image")
    assert found.sentence.startswith("1 class has no test image: 'bees'")


@pytest.mark.parametrize("side", [VALIDATION, TEST])
def test_set_without_any_image_on_a_side_is_refused(tmp_path: Path, side: int) -> None:
    photos = two_classes(tmp_path / "photos", 20)
    for path, found in splits(Bench(tmp_path, "all").prepare(photos.root)).items():
        if found == side:
            (photos.root / path).unlink()
    name = {VALIDATION: "validation", TEST: "test"}[side]
    with pytest.raises(DatasetInvalid, match=rf"no image is on the {name} side.*split\.{name}"):
        Bench(tmp_path, "less").prepare(photos.root)


def test_set_that_is_to_have_no_test_image_is_refused_and_one_without_validation_is_not(
    tmp_path: Path,
) -> None:
    photos = two_classes(tmp_path / "photos", 20)
    with pytest.raises(DatasetInvalid, match=r"no test image and .*so no model could be verified\. Set "):
        Bench(tmp_path, "untested").prepare(photos.root, split={"test": 0})
    dataset = Bench(tmp_path, "cross-validated").prepare(photos.root, split={"validation": 0})
    assert dataset.counts()["validation"] == 0


def test_test_split_of_the_dataset_itself_is_enough(tmp_path: Path) -> None:
    photos = PhotoSet(tmp_path / "photos")
    for name in ("ants", "bees"):
        photos.photos(f"train/{name}", 20).photos(f"test/{name}", 8)
    assert Bench(tmp_path).prepare(photos.root, split={"test": 0}).counts()["test"] == 16


def test_class_that_only_the_test_folder_has_is_refused(tmp_path: Path) -> None:
    photos = PhotoSet(tmp_path / "photos")
    for name in ("ants", "bees"):
        photos.photos(f"train/{name}", 20).photos(f"test/{name}", 8)
    photos.photos("test/wasps", 8)
    with pytest.raises(DatasetInvalid, match="No training image is left of 'wasps'"):
        Bench(tmp_path).prepare(photos.root)


def test_class_whose_training_images_all_weigh_nothing_is_refused(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 20)
    lines = ["path,label,weight"]
    for path in sorted(photos.root.rglob("*.jpg")):
        label = path.parent.name
        lines.append(f"{label}/{path.name},{label},{0 if label == 'bees' else 1}")
    photos.add("manifest.csv", "\n".join(lines).encode())
    with pytest.raises(DatasetInvalid, match="All training images of 'bees' have the weight 0"):
        Bench(tmp_path).prepare(photos.root)
