"""What is looked for in each image, class and name, and what each policy makes of it."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.testbed.photo_sets import Bench, PhotoSet, encode, finding, picture, two_classes
from tests.testbed.pictures import png16

from tunesmith_api.reasons import DatasetInvalid
from tunesmith_trainer.prepare.dataset import DROPPED, TRAIN, Dataset

LENIENT = {"maxCorruptFraction": 0.5, "minImagesPerClass": 1}


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in some bytes."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def animation() -> bytes:
    return encode(picture(900), "GIF", save_all=True, append_images=[picture(901)], duration=100)


def lie() -> bytes:
    return encode(picture(910), "PNG")


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(picture(902), exif=exif)


def transparent() -> bytes:
    image = picture(903).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return encode(image, "PNG")


def deep() -> bytes:
    return png16(np.random.default_rng(0).integers(0, 65_536, (48, 48, 3)).astype(np.uint16))


BAD = {
    "zero-byte": ("empty.jpg", b""),
    "not-an-image": ("page.jpg", b"<html>not found</html>"),
    "truncated": ("cut.jpg", encode(picture(904))[:700]),
    "unreadable": ("damaged.png", encode(picture(905), "PNG")[:60] + bytes(4_000) + b"IEND\xaeB`\x82"),
    "pixel-bomb": ("bomb.png", bomb()),
}
CONVERTED = {
    "exif-orientation": ("turned.jpg", turned()),
    "cmyk": ("printed.jpg", encode(picture(906).convert("CMYK"))),
    "16-bit": ("deep.png", deep()),
    "palette": ("palette.png", encode(picture(907).quantize(32), "PNG")),
    "alpha": ("alpha.png", transparent()),
    "grey": ("grey.jpg", encode(picture(908).convert("L"))),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_image_is_skipped_counted_and_shown(tmp_path: Path, kind: str) -> None:
    name, data = BAD[kind]
    photos = two_classes(tmp_path / "photos").add(f"ants/{name}", data)
    dataset = Bench(tmp_path).prepare(photos.root, {"maxCorruptFraction": 0.05})
    found = finding(dataset, kind)
    assert (found.count, found.policy) == (1, "Skip")
    assert found.evidence[0].path == f"ants/{name}"
    assert name in found.evidence[0].detail
    assert found.evidence[0].thumbnail_jpeg is None
    assert (len(dataset), dataset.skipped) == (24, 1)


@pytest.mark.parametrize("kind", BAD)
def test_bad_image_with_on_corrupt_fail_stops_and_says_which(tmp_path: Path, kind: str) -> None:
    name, data = BAD[kind]
    photos = two_classes(tmp_path / "photos").add(f"ants/{name}", data)
    with pytest.raises(DatasetInvalid, match=rf"ants/{name}.*onCorrupt: Skip"):
        Bench(tmp_path).prepare(photos.root, {"onCorrupt": "Fail"})


def test_bad_images_beyond_the_fraction_allowed_stop(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 48)
    for at in range(2):
        photos.add(f"ants/empty{at}.jpg", b"")
    with pytest.raises(DatasetInvalid, match=r"2 images of 98 \(2\.0%\).*maxCorruptFraction"):
        Bench(tmp_path).prepare(photos.root)


@pytest.mark.parametrize("kind", CONVERTED)
def test_unusual_image_is_converted_counted_and_shown(tmp_path: Path, kind: str) -> None:
    name, data = CONVERTED[kind]
    photos = two_classes(tmp_path / "photos").add(f"ants/{name}", data)
    dataset = Bench(tmp_path).prepare(photos.root)
    found = finding(dataset, kind)
    assert (found.count, found.policy) == (1, "Convert")
    (shown,) = found.evidence
    assert shown.path == f"ants/{name}"
    assert shown.thumbnail_jpeg is not None
    with Image.open(io.BytesIO(shown.thumbnail_jpeg)) as thumbnail:
        assert thumbnail.format == "JPEG"
        assert max(thumbnail.size) <= 96
    assert len(dataset) == 25


@pytest.mark.parametrize(
    ("name", "data", "check", "field"),
    [
        pytest.param("moving.gif", animation(), "animated", "onAnimated", id="an animation"),
        pytest.param("png.jpg", lie(), "format-mismatch", "onFormatMismatch", id="a PNG called .jpg"),
    ],
)
def test_policy_of_an_odd_image_decides(
    tmp_path: Path, name: str, data: bytes, check: str, field: str
) -> None:
    lenient = {"onAnimated": "FirstFrame", "onFormatMismatch": "Accept"}[field]
    photos = two_classes(tmp_path / "photos").add(f"bees/{name}", data)
    kept = Bench(tmp_path, "kept").prepare(photos.root, {field: lenient})
    skipped = Bench(tmp_path, "skipped").prepare(photos.root, {field: "Skip"})
    assert [int((each.split != DROPPED).sum()) for each in (kept, skipped)] == [25, 24]
    assert [finding(each, check).policy for each in (kept, skipped)] == [lenient, "Skip"]
    with pytest.raises(DatasetInvalid, match=rf"bees/{name}.*{field}: {lenient}"):
        Bench(tmp_path, "failed").prepare(photos.root, {field: "Fail"})


# Classes


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("Ants", "ants"), id="case"),
        pytest.param(("fire ants", "fireants"), id="spaces inside"),
        pytest.param(("ants", "ants "), id="a space at the end"),
        pytest.param(("Stra\u00dfe", "STRASSE"), id="case of other scripts"),
        pytest.param(("caf\u00e9", "cafe\u0301"), id="the same letters encoded differently"),
    ],
)
def test_class_names_that_differ_by_case_or_spaces_stop(tmp_path: Path, names: tuple[str, str]) -> None:
    photos = two_classes(tmp_path / "photos")
    for name in names:
        photos.photos(name, 8)
    with pytest.raises(DatasetInvalid, match=r"by case or spaces: .*onClassNameCollision: Merge"):
        Bench(tmp_path).prepare(photos.root)


def test_class_names_that_collide_are_merged_into_the_more_frequent(tmp_path: Path) -> None:
    photos = PhotoSet(tmp_path / "photos").photos("Ants", 4).photos("ants", 9).photos("bees", 12)
    dataset = Bench(tmp_path).prepare(photos.root, {"onClassNameCollision": "Merge"})
    assert dataset.classes == ("ants", "bees")
    assert dataset.class_counts().sum(axis=1).tolist() == [13, 12]
    found = finding(dataset, "class-name-collision")
    assert "'Ants' and 'ants'" in found.sentence
    assert [(each.path, each.detail) for each in found.evidence] == [
        ("Ants", "4 images"),
        ("ants", "9 images"),
    ]


def test_class_names_that_collide_may_be_reported_and_kept(tmp_path: Path) -> None:
    photos = PhotoSet(tmp_path / "photos").photos("Ants", 9).photos("ants", 9)
    dataset = Bench(tmp_path).prepare(photos.root, {"onClassNameCollision": "Report"})
    assert dataset.classes == ("Ants", "ants")
    assert finding(dataset, "class-name-collision").policy == "Report"


def three_classes(root: Path) -> PhotoSet:
    return two_classes(root).photos("wasps", 5)


def test_small_class_stops_and_says_how_small(tmp_path: Path) -> None:
    with pytest.raises(DatasetInvalid, match=r"fewer than 8 usable .*'wasps' \(5\).*onSmallClass: Drop"):
        Bench(tmp_path).prepare(three_classes(tmp_path / "photos").root)


@pytest.mark.parametrize(
    ("policy", "classes"), [("Drop", ("ants", "bees")), ("Keep", ("ants", "bees", "wasps"))]
)
def test_small_class_is_dropped_or_kept_as_its_policy_says(
    tmp_path: Path, policy: str, classes: tuple[str, ...]
) -> None:
    dataset = Bench(tmp_path).prepare(three_classes(tmp_path / "photos").root, {"onSmallClass": policy})
    assert dataset.classes == classes
    assert finding(dataset, "small-class").policy == policy
    assert dataset.labels[dataset.split == DROPPED].tolist() == ([-1] * 5 if policy == "Drop" else [])


def test_small_class_counts_only_what_the_other_checks_left(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos").photos("wasps", 7)
    for at in range(5):
        photos.add(f"wasps/copy{at}.jpg", (photos.root / "wasps" / "00025.jpg").read_bytes())
    with pytest.raises(DatasetInvalid, match=r"'wasps' \(7\)"):
        Bench(tmp_path).prepare(photos.root)


def test_class_whose_images_are_all_bad_is_small(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos")
    for at in range(3):
        photos.add(f"wasps/{at}.jpg", b"")
    with pytest.raises(DatasetInvalid, match=r"'wasps' \(0\)"):
        Bench(tmp_path).prepare(photos.root, {"maxCorruptFraction": 0.5})


def with_empty_folders(root: Path, above: str = "") -> PhotoSet:
    """Two classes, two folders where nobody put a file, one with annotations, and hidden ones."""
    photos = PhotoSet(root).photos(f"{above}ants", 12).photos(f"{above}bees", 12)
    for name in (".git", "@eaDir", "moths"):
        (photos.root / above / name).mkdir()
    photos.add(f"{above}annotations/1.xml", b"<no image/>")
    return photos.add(f"{above}wasps/Thumbs.db", b"the system's")


@pytest.mark.parametrize("above", ["", "train/"])
def test_class_folder_without_images_is_a_class_of_none(tmp_path: Path, above: str) -> None:
    photos = with_empty_folders(tmp_path / "photos", above)
    with pytest.raises(DatasetInvalid, match=r"2 classes have fewer than 8 .*: 'moths' \(0\), 'wasps' \(0\)"):
        Bench(tmp_path).prepare(photos.root)


@pytest.mark.parametrize(
    ("policy", "done"), [("Drop", "are left out"), ("Keep", "are kept where there is any image")]
)
def test_class_folder_without_images_is_reported_where_small_classes_are_let_through(
    tmp_path: Path, policy: str, done: str
) -> None:
    photos = with_empty_folders(tmp_path / "photos")
    dataset = Bench(tmp_path).prepare(photos.root, {"onSmallClass": policy})
    assert dataset.classes == ("ants", "bees")
    assert finding(dataset, "small-class").count == 2
    assert done in finding(dataset, "small-class").sentence


def test_run_is_not_taken_over_once_a_class_folder_lost_all_its_images(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos")
    Bench(tmp_path).prepare(photos.root)
    (photos.root / "moths").mkdir()
    with pytest.raises(DatasetInvalid, match="changed since this run began"):
        Bench(tmp_path).prepare(photos.root)


@pytest.mark.parametrize("checks", [{}, {"onSmallClass": "Drop"}])
def test_one_class_alone_is_refused(tmp_path: Path, checks: dict[str, Any]) -> None:
    photos = PhotoSet(tmp_path / "photos").photos("ants", 12)
    if checks:
        photos.photos("bees", 2)
    with pytest.raises(DatasetInvalid, match="needs two classes"):
        Bench(tmp_path).prepare(photos.root, checks)


def unbalanced(tmp_path: Path, few: int, imbalance: str) -> Dataset:
    photos = PhotoSet(tmp_path / "photos")
    for split, factor in (("train", 1), ("validation", 0), ("test", 0)):
        photos.photos(f"{split}/ants", 40 * factor or 2).photos(f"{split}/bees", few * factor or 2)
    return Bench(tmp_path).prepare(photos.root, {**LENIENT, "imbalance": imbalance})


@pytest.mark.parametrize(
    ("few", "policy", "in_force", "words"),
    [
        pytest.param(3, "Auto", "Loss", "the loss weighs small classes more", id="Auto balances beyond 10:1"),
        pytest.param(10, "Auto", "None", "imbalance: Loss or Sampling to do so", id="Auto offers it below"),
        pytest.param(10, "Sampling", "Sampling", "drawn more often", id="Sampling"),
        pytest.param(3, "None", "None", "nothing makes up for it", id="None"),
    ],
)
def test_imbalance_is_reported_with_what_is_done(
    tmp_path: Path, few: int, policy: str, in_force: str, words: str
) -> None:
    dataset = unbalanced(tmp_path, few, policy)
    assert dataset.imbalance == in_force
    found = finding(dataset, "imbalance")
    assert words in found.sentence
    assert f"({40} and {few})" in found.sentence


def test_balanced_set_reports_no_imbalance(tmp_path: Path) -> None:
    dataset = unbalanced(tmp_path, 30, "Auto")
    assert dataset.imbalance == "None"
    assert "imbalance" not in {each.check for each in dataset.findings}


def test_bad_set_with_everything_at_once_reports_everything(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 30)
    for name, data in (*BAD.values(), *CONVERTED.values()):
        photos.add(f"bees/{name}", data)
    photos.add("bees/moving.gif", animation()).add("bees/png.jpg", lie())
    dataset = Bench(tmp_path).prepare(photos.root, {"maxCorruptFraction": 0.1})
    expected = {*BAD, *CONVERTED, "animated", "format-mismatch"}
    assert expected <= {each.check for each in dataset.findings}
    assert dataset.skipped == len(BAD)
    status = dataset.status()
    assert status["images"] == len(dataset.rows(TRAIN, 1, 2)) == 60 + len(CONVERTED) + 2
    assert {each["check"] for each in status["findings"]} >= expected


def test_hymenoptera_with_its_gif_is_taken_as_it_is(tmp_path: Path) -> None:
    root = Path(__file__).parents[3] / "shared" / "data" / "hymenoptera"
    if not root.is_dir():
        pytest.skip("no photos")
    dataset = Bench(tmp_path).prepare(root)
    assert dataset.classes == ("ants", "bees")
    assert dataset.counts()["test"] == 153
    assert [each.path for each in finding(dataset, "palette").evidence] == ["train/ants/imageNotFound.gif"]
