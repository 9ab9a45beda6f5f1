"""What a set that cannot be used still tells: counts of what was found, and what left its images out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.testbed.photo_sets import Bench, PhotoSet, two_classes

from tunesmith_api.reasons import DatasetInvalid
from tunesmith_api.status import DatasetStatus
from tunesmith_trainer.prepare.dataset import DatasetUnusable


def findings(bench: Bench) -> dict[str, int]:
    """What was told of each check."""
    told = [each for each in map(json.loads, bench.log.getvalue().splitlines()) if each["type"] == "finding"]
    return {each["check"]: each["count"] for each in told}


def refused(bench: Bench, root: Path, *arguments: Any, **dataset: Any) -> tuple[str, DatasetStatus]:
    """The error's text and what the status says of the set."""
    with pytest.raises(DatasetUnusable) as caught:
        bench.prepare(root, *arguments, **dataset)
    return str(caught.value), DatasetStatus.model_validate(caught.value.status)


def test_two_classes_of_the_same_images_are_refused_with_the_true_cause(tmp_path: Path) -> None:
    photos = PhotoSet(tmp_path / "photos").photos("ants", 20).add("ants/empty.jpg", b"")
    for path in sorted((photos.root / "ants").glob("0*.jpg")):
        photos.add(f"bees/{path.name}", path.read_bytes())
    bench = Bench(tmp_path)
    text, status = refused(bench, photos.root, {"maxCorruptFraction": 0.1})
    assert "'ants' (0), 'bees' (0). 40 images show the same under two labels; all of them are left" in text
    assert text.index("40 images show") < text.index("1 file is empty and left out.")
    assert "See to what was left out" in text
    assert findings(bench) == {"zero-byte": 1, "conflicting-label": 40}
    assert (status.digest, status.images, status.classes, status.skipped) == (None, 0, 0, 41)
    assert {each.check: each.count for each in status.findings} == findings(bench)


def test_small_class_without_anything_left_out_is_told_to_grow(tmp_path: Path) -> None:
    text, status = refused(Bench(tmp_path), two_classes(tmp_path / "photos", 7).root)
    assert text.endswith(
        "'ants' (7), 'bees' (7). Add images, lower spec.dataset.checks.minImagesPerClass, "
        "or set onSmallClass: Drop or Keep."
    )
    assert (status.images, status.classes, status.skipped, status.findings) == (14, 2, 0, ())


def test_class_that_is_small_because_of_max_images_per_class_says_so(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 20)
    text, status = refused(Bench(tmp_path), photos.root, maxImagesPerClass=5)
    assert "30 images beyond the first 5 of each class are not used." in text
    assert (status.images, status.skipped) == (10, 30)


def test_corrupt_images_beyond_what_is_allowed_are_counted_by_kind(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos").add("ants/a.jpg", b"").add("ants/b.jpg", b"<html>")
    bench = Bench(tmp_path)
    refused(bench, photos.root)
    assert findings(bench) == {"zero-byte": 1, "not-an-image": 1}


def test_class_whose_training_images_all_leak_says_so(tmp_path: Path) -> None:
    photos = PhotoSet(tmp_path / "photos")
    for name in ("ants", "bees"):
        photos.photos(f"train/{name}", 12).photos(f"test/{name}", 8)
    photos.photos("test/wasps", 12)
    for path in sorted((photos.root / "test" / "wasps").iterdir()):
        photos.add(f"train/wasps/{path.name}", path.read_bytes())
    text, _ = refused(Bench(tmp_path), photos.root)
    assert "No training image is left of 'wasps'. 12 images of the training side also lie" in text


def test_folders_of_links_that_leave_the_root_are_refused_with_that_cause(tmp_path: Path) -> None:
    real = two_classes(tmp_path / "elsewhere", 8).root
    for path in sorted(real.rglob("*.jpg")):
        link = tmp_path / "photos" / path.relative_to(real)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    with pytest.raises(
        DatasetInvalid, match=r"16 files link out of the dataset's root and are refused\. Copy what is linked"
    ):
        Bench(tmp_path).prepare(tmp_path / "photos")
