"""The same picture twice, and what each policy makes of it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.testbed.photo_sets import Bench, PhotoSet, encode, finding, splits, two_classes

from tunesmith_api.reasons import DatasetInvalid
from tunesmith_trainer.prepare.dataset import DROPPED, TEST, TRAIN, Dataset


def again(data: bytes, quality: int = 60) -> bytes:
    """The same picture, compressed again."""
    with Image.open(io.BytesIO(data)) as image:
        return encode(image.copy(), quality=quality)


def commented(data: bytes) -> bytes:
    """The same pixels in other bytes: a JPEG with a comment behind its start mark."""
    return data[:2] + b"\xff\xfe\x00\x06note" + data[2:]


def kept(dataset: Dataset) -> set[str]:
    return {path for path, split in splits(dataset).items() if split != DROPPED}


def with_copy(root: Path, source: str, target: str, change: Any = bytes) -> PhotoSet:
    """Ants and bees of two given splits, and a copy of one image at another place."""
    photos = PhotoSet(root)
    for split in ("train", "test"):
        photos.photos(f"{split}/ants", 10).photos(f"{split}/bees", 10)
    return photos.add(target, change((root / source).read_bytes()))


ANT, OTHER_ANT = "train/ants/00001.jpg", "train/ants/copy.jpg"
TESTED_ANT, BEE = "test/ants/copy.jpg", "train/bees/copy.jpg"

CASES = [
    pytest.param(OTHER_ANT, bytes, "duplicate", {}, {ANT}, id="a duplicate goes"),
    pytest.param(OTHER_ANT, commented, "duplicate", {}, {OTHER_ANT}, id="the same pixels in fewer bytes go"),
    pytest.param(
        OTHER_ANT, bytes, "duplicate", {"onDuplicate": "Keep"}, {ANT, OTHER_ANT}, id="duplicates may stay"
    ),
    pytest.param(OTHER_ANT, again, "near-duplicate", {}, {ANT, OTHER_ANT}, id="a near duplicate is grouped"),
    pytest.param(
        OTHER_ANT, again, "near-duplicate", {"onNearDuplicate": "Drop"}, {ANT}, id="near duplicates may go"
    ),
    pytest.param(TESTED_ANT, bytes, "leakage", {}, {TESTED_ANT}, id="of a leak the training twin goes"),
    pytest.param(TESTED_ANT, again, "leakage", {}, {TESTED_ANT}, id="a near twin leaks too"),
    pytest.param(
        TESTED_ANT, bytes, "leakage", {"onLeakage": "Report"}, {ANT, TESTED_ANT}, id="leaks may stay"
    ),
    pytest.param(BEE, bytes, "conflicting-label", {}, set(), id="of two labels neither stays"),
    pytest.param(BEE, again, "conflicting-label", {}, set(), id="nor of near twins"),
    pytest.param(
        BEE, bytes, "conflicting-label", {"onConflictingLabel": "Report"}, {ANT, BEE}, id="both may stay"
    ),
]


@pytest.mark.parametrize(("target", "change", "check", "checks", "expected"), CASES)
def test_copy_is_found_and_treated_as_its_policy_says(
    tmp_path: Path, target: str, change: Any, check: str, checks: dict[str, Any], expected: set[str]
) -> None:
    photos = with_copy(tmp_path / "photos", ANT, target, change)
    dataset = Bench(tmp_path).prepare(photos.root, checks)
    assert kept(dataset) & {ANT, target} == expected
    found = finding(dataset, check)
    assert found.count == (2 if check == "conflicting-label" else 1)
    shown = found.evidence[0]
    assert shown.thumbnail_jpeg is not None
    assert {shown.path, shown.detail.split(" ")[-1], shown.detail.split(" ")[-2]} & {ANT, target}
    others = {each.check for each in dataset.findings} - {check}
    assert not others & {"duplicate", "near-duplicate", "leakage", "conflicting-label"}


@pytest.mark.parametrize(
    ("target", "change", "policy"),
    [
        pytest.param(OTHER_ANT, bytes, "onDuplicate", id="duplicate"),
        pytest.param(OTHER_ANT, again, "onNearDuplicate", id="near duplicate"),
        pytest.param(TESTED_ANT, again, "onLeakage", id="leak"),
        pytest.param(BEE, bytes, "onConflictingLabel", id="conflict"),
    ],
)
def test_copy_with_policy_fail_stops_and_names_both(
    tmp_path: Path, target: str, change: Any, policy: str
) -> None:
    photos = with_copy(tmp_path / "photos", ANT, target, change)
    with pytest.raises(DatasetInvalid) as caught:
        Bench(tmp_path).prepare(photos.root, {policy: "Fail"})
    assert {ANT, target} <= {word.strip(".,:'") for word in str(caught.value).split()}
    assert f"spec.dataset.checks.{policy}:" in caught.value.next_step


def test_copies_in_all_three_splits_leave_the_test_copy(tmp_path: Path) -> None:
    photos = PhotoSet(tmp_path / "photos")
    for split in ("train", "validation", "test"):
        photos.photos(f"{split}/ants", 10).photos(f"{split}/bees", 10)
    data = (photos.root / ANT).read_bytes()
    for split in ("validation", "test"):
        photos.add(f"{split}/ants/copy.jpg", data)
    dataset = Bench(tmp_path).prepare(photos.root)
    assert finding(dataset, "leakage").count == 2
    assert kept(dataset) & {ANT, "validation/ants/copy.jpg", TESTED_ANT} == {TESTED_ANT}


def test_kept_duplicates_are_on_the_same_side(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 40)
    for path in sorted(photos.root.rglob("*.jpg")):
        photos.add(f"{path.parent.name}/copy-{path.name}", commented(path.read_bytes()))
    found = splits(Bench(tmp_path).prepare(photos.root, {"onDuplicate": "Keep"}))
    copies = {name: side for name, side in found.items() if "copy-" in name}
    assert set(copies.values()) == {TRAIN, 1, TEST}
    assert {name: found[name.replace("copy-", "")] for name in copies} == copies


def test_near_duplicate_distance_decides_how_close_twins_must_be(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 30)
    for path in sorted(photos.root.rglob("*.jpg")):
        photos.add(f"{path.parent.name}/twin-{path.name}", again(path.read_bytes(), 30))
    strict, usual = (
        finding(
            Bench(tmp_path, f"at {bits}").prepare(photos.root, {"nearDuplicateDistance": bits}),
            "near-duplicate",
        )
        for bits in (0, 4)
    )
    assert 0 < strict.count < usual.count <= 60


def test_conflict_of_many_copies_drops_all_and_shows_a_dozen(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 12)
    data = (photos.root / "ants" / "00001.jpg").read_bytes()
    for at in range(20):
        photos.add(f"bees/copy{at:02}.jpg", data)
    found = finding(Bench(tmp_path).prepare(photos.root), "conflicting-label")
    assert found.count == 21
    assert len(found.evidence) == 12
    assert found.evidence[0].detail == "here 'ants', as bees/copy00.jpg 'bees'"


def test_flowers_without_planted_twins_keep_to_known_ones(tmp_path: Path) -> None:
    root = Path(__file__).parents[3] / "shared" / "data" / "flowers12"
    if not root.is_dir():
        pytest.skip("no photos")
    dataset = Bench(tmp_path, image_size=224).prepare(root)
    # looked at one by one: this set holds some photos twice, mostly of irises, and no two of different kinds
    assert "conflicting-label" not in {each.check for each in dataset.findings}
    assert finding(dataset, "leakage").count + finding(dataset, "duplicate").count <= 60
