"""Where labelled images come from, and what of it is an image of the dataset."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.testbed.photo_sets import Bench, PhotoSet, encode, finding, picture, splits, two_classes

from tunesmith_api.dataset_spec import DatasetSpec
from tunesmith_api.reasons import DatasetInvalid, DatasetMissing
from tunesmith_trainer.prepare.dataset import DROPPED, TEST, TRAIN, VALIDATION, Dataset
from tunesmith_trainer.prepare.source import Listing
from tunesmith_trainer.prepare.sources import list_source, split_address


def listed(uri: Path | str, **dataset: Any) -> Listing:
    address = f"file://{uri}" if isinstance(uri, Path) else uri
    return list_source(DatasetSpec.model_validate({"uri": address, **dataset}))


def labels(listing: Listing) -> dict[str, str]:
    assert listing.entries is not None
    return {entry.path: entry.label for entry in listing.entries}


def kinds(dataset: Dataset) -> dict[str, set[int]]:
    """The splits of the images of each top folder."""
    found: dict[str, set[int]] = {}
    for path, split in splits(dataset).items():
        found.setdefault(path.split("/")[0], set()).add(split)
    return found


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        pytest.param(
            ["train", "validation", "test"],
            {"train": {TRAIN}, "validation": {VALIDATION}, "test": {TEST}},
            id="three folders keep their split",
        ),
        pytest.param(
            ["Train", "VAL", "Test"],
            {"Train": {TRAIN}, "VAL": {VALIDATION}, "Test": {TEST}},
            id="case does not matter and val means validation",
        ),
        pytest.param(
            ["train", "val"],
            {"train": {TRAIN, VALIDATION}, "val": {TEST}},
            id="val alone is the test split and validation is cut from train",
        ),
        pytest.param(
            ["train", "test"],
            {"train": {TRAIN, VALIDATION}, "test": {TEST}},
            id="without a validation folder validation is cut from train",
        ),
        pytest.param(
            ["train"],
            {"train": {TRAIN, VALIDATION, TEST}},
            id="train alone says nothing and everything is cut",
        ),
    ],
)
def test_folder_with_split_folders_keeps_the_split(
    tmp_path: Path, folders: list[str], expected: dict[str, set[int]]
) -> None:
    photos = PhotoSet(tmp_path / "photos")
    for folder in folders:
        photos.photos(f"{folder}/ants", 24).photos(f"{folder}/bees", 24)
    dataset = Bench(tmp_path).prepare(photos.root)
    assert dataset.classes == ("ants", "bees")
    assert kinds(dataset) == expected


def test_folder_of_classes_called_train_and_bus_is_no_split(tmp_path: Path) -> None:
    root = PhotoSet(tmp_path).photos("train", 2).photos("bus", 2).root
    assert set(labels(listed(root)).values()) == {"train", "bus"}


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        pytest.param(
            ["val/ants", "val/bees", "test/ants", "test/bees"],
            r"'test', 'val' of .* no train folder beside them.* Add a train folder",
            id="no train folder",
        ),
        pytest.param(["test/ants", "test/bees"], "'test' of .* no train folder", id="test alone"),
        pytest.param(
            ["train/ants", "train/bees", "unlabelled/x"],
            r"'train' of .* beside them lie 'unlabelled' .* at the folder train alone",
            id="train beside what is no split",
        ),
    ],
)
def test_folders_called_like_splits_that_make_none_are_not_taken_for_classes(
    tmp_path: Path, folders: list[str], words: str
) -> None:
    photos = PhotoSet(tmp_path)
    for folder in folders:
        photos.photos(folder, 2)
    with pytest.raises(DatasetInvalid, match=words):
        listed(tmp_path)


def test_folder_with_folders_inside_a_class_takes_their_images(tmp_path: Path) -> None:
    root = PhotoSet(tmp_path).photos("ants/red/small", 1).photos("bees", 1).root
    assert sorted(labels(listed(root)).values()) == ["ants", "bees"]


def test_folder_with_clutter_ignores_and_counts_it(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 8)
    for path in (
        ".DS_Store",
        "ants/Thumbs.db",
        "bees/README.txt",
        "bees/.cache/1.jpg",
        "labels.csv",
        "x.tar",
    ):
        photos.add(path, b"clutter")
    dataset = Bench(tmp_path).prepare(photos.root, format="Folder")
    found = finding(dataset, "clutter")
    assert (found.count, found.policy) == (6, "Ignore")
    assert "ants/Thumbs.db" in [each.path for each in found.evidence]
    assert len(dataset) == 16


def test_folder_with_images_beside_the_classes_says_so(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 8).photos(".", 1)
    found = finding(Bench(tmp_path).prepare(photos.root), "outside-classes")
    assert found.count == 1
    assert found.sentence == "1 file lies in no class folder and is ignored."


def test_folder_beside_train_and_test_is_ignored_and_counted(tmp_path: Path) -> None:
    photos = PhotoSet(tmp_path / "photos")
    for folder in ("train", "test"):
        photos.photos(f"{folder}/ants", 8).photos(f"{folder}/bees", 8)
    photos.photos("unlabelled", 3)
    dataset = Bench(tmp_path).prepare(photos.root)
    assert finding(dataset, "outside-splits").count == 3
    assert len(dataset) == 32


def test_link_out_of_the_root_is_refused_and_counted(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 8)
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(encode(picture(999)))
    (photos.root / "ants" / "link.jpg").symlink_to(secret)
    (photos.root / "hidden").symlink_to(tmp_path)
    dataset = Bench(tmp_path).prepare(photos.root)
    found = finding(dataset, "path-outside-root")
    assert (found.policy, found.count) == ("Refuse", 2)
    assert len(dataset) == 16


def test_entries_that_cannot_be_read_are_skipped_counted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = two_classes(tmp_path / "photos", 12).photos("bees", 1)
    for name, target in (("dangling.jpg", "nothing.jpg"), ("itself.jpg", "itself.jpg")):
        (photos.root / "ants" / name).symlink_to(target)
    os.mkfifo(photos.root / "ants" / "pipe.jpg")
    opened = os.open

    def guarded(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("bees/00025.jpg"):  # root may read everything
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", guarded)
    dataset = Bench(tmp_path, "skip").prepare(photos.root, {"maxCorruptFraction": 0.2})
    found = finding(dataset, "unreadable")
    assert (found.policy, found.count) == ("Skip", 4)
    assert {each.path: each.detail.partition("photos/")[2] for each in found.evidence} == {
        "ants/dangling.jpg": "ants/dangling.jpg does not exist.",
        "ants/itself.jpg": "ants/itself.jpg is a link that leads back to itself.",
        "ants/pipe.jpg": "ants/pipe.jpg is no file, but a folder, a pipe or a device.",
        "bees/00025.jpg": "bees/00025.jpg may not be used (Permission denied).",
    }
    assert len(dataset) == 24
    with pytest.raises(DatasetInvalid, match=r"4 images cannot be used: 'ants/dangling\.jpg'"):
        Bench(tmp_path, "fail").prepare(photos.root, {"onCorrupt": "Fail"})


def test_link_to_a_folder_inside_the_root_is_ignored_and_counted(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 8)
    (photos.root / "wasps").symlink_to("bees")
    dataset = Bench(tmp_path).prepare(photos.root)
    found = finding(dataset, "folder-link")
    assert (found.policy, found.count) == ("Ignore", 1)
    assert found.sentence.startswith("1 file links to a folder of the dataset")
    assert dataset.classes == ("ants", "bees")


def test_name_that_is_not_utf_8_is_left_out_and_said(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 8)
    odd = os.fsencode(photos.root / "ants") + b"/caf\xe9.jpg"
    Path(os.fsdecode(odd)).write_bytes(encode(picture(999)))
    dataset = Bench(tmp_path).prepare(photos.root)
    found = finding(dataset, "odd-name")
    assert (found.policy, found.count) == ("Ignore", 1)
    assert [each.path for each in found.evidence] == [r"ants/caf\xe9.jpg"]
    assert len(dataset) == 16


def test_link_inside_the_root_is_an_image_like_others(tmp_path: Path) -> None:
    photos = two_classes(tmp_path, 1)
    (photos.root / "ants" / "link.jpg").symlink_to(photos.root / "ants" / "00001.jpg")
    assert "ants/link.jpg" in labels(listed(tmp_path))


@pytest.mark.parametrize(
    ("files", "error", "words"),
    [
        pytest.param([], DatasetMissing, "Check spec.dataset.uri", id="an empty folder"),
        pytest.param(["1.jpg", "2.jpg"], DatasetInvalid, "one folder for each class", id="no class folders"),
        pytest.param(["notes.txt"], DatasetInvalid, "one folder for each class", id="nothing but clutter"),
    ],
)
def test_folder_without_images_says_what_to_do(
    tmp_path: Path, files: list[str], error: type[Exception], words: str
) -> None:
    photos = PhotoSet(tmp_path)
    for path in files:
        photos.add(path, encode(picture(1)))
    with pytest.raises(error, match=words):
        listed(tmp_path)


def test_listing_is_stable_until_a_file_changes(tmp_path: Path) -> None:
    photos = two_classes(tmp_path, 2)
    before = listed(tmp_path).fingerprint
    photos.add("ants/.DS_Store", b"clutter does not count")
    assert listed(tmp_path).fingerprint == before
    os.utime(tmp_path / "ants" / "00001.jpg", ns=(1, 1))
    changed = listed(tmp_path).fingerprint
    assert changed != before
    photos.photos("ants", 1)
    assert listed(tmp_path).fingerprint not in (before, changed)


# Manifests


def write_table(root: Path, name: str, rows: list[dict[str, Any]]) -> str:
    """Write rows as the table that the name's extension asks for; return its address."""
    table = pa.Table.from_pylist(rows)
    root.mkdir(parents=True, exist_ok=True)
    if name.endswith(".parquet"):
        pq.write_table(table, root / name)
    else:
        lines = [",".join(table.column_names)]
        lines += [",".join("" if value is None else str(value) for value in row.values()) for row in rows]
        (root / name).write_text("\n".join(lines) + "\n")
    return f"file://{root / name}"


@pytest.mark.parametrize("name", ["manifest.csv", "list.csv", "list.parquet"])
def test_manifest_with_all_columns_gives_split_weight_and_slices(tmp_path: Path, name: str) -> None:
    root = PhotoSet(tmp_path / "photos").photos("images", 40).root
    rows = [
        {
            "path": f"images/{index + 1:05d}.jpg",
            "label": index % 2,
            "split": ("train", "val", "test")[index % 3],
            "weight": 0.5 if index < 4 else None,
            "camera": "north" if index < 10 else "south",
        }
        for index in range(40)
    ]
    dataset = Bench(tmp_path).prepare(write_table(root, name, rows), sliceColumns=["camera"])
    assert dataset.format == "Manifest"
    assert dataset.classes == ("0", "1")
    assert splits(dataset)["images/00002.jpg"] == VALIDATION
    assert sorted(set(dataset.weights.tolist())) == [0.5, 1.0]
    assert (dataset.slices["camera"] == "north").sum() == 10


@pytest.mark.parametrize("separator", [";", "\t"])
def test_manifest_with_another_separator_is_read(tmp_path: Path, separator: str) -> None:
    root = PhotoSet(tmp_path).photos("images", 2).root
    rows = [("label", "path"), ("ants", "./images/00001.jpg"), ("bees, wild", "images/00002.jpg")]
    text = "".join(f"{separator.join(row)}\n" for row in rows)
    (root / "manifest.csv").write_text(f"\ufeff{text}")
    assert labels(listed(root)) == {"images/00001.jpg": "ants", "images/00002.jpg": "bees, wild"}


def test_manifest_with_a_partial_split_cuts_the_rest(tmp_path: Path) -> None:
    root = PhotoSet(tmp_path / "photos").photos("images", 60).root
    rows = [
        {
            "path": f"images/{index + 1:05d}.jpg",
            "label": "ab"[index % 2],
            "split": "test" if index < 10 else "",
        }
        for index in range(60)
    ]
    found = splits(Bench(tmp_path).prepare(write_table(root, "manifest.csv", rows)))
    assert {found[f"images/{index + 1:05d}.jpg"] for index in range(10)} == {TEST}
    assert {found[f"images/{index + 1:05d}.jpg"] for index in range(10, 60)} == {TRAIN, VALIDATION}


GOOD = {"path": "1.jpg", "label": "a"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        pytest.param({"path": "../secret.jpg", "label": "a"}, "line 2: the path '../secret.jpg'", id="above"),
        pytest.param({"path": "/etc/passwd", "label": "a"}, "does not stay below", id="absolute"),
        pytest.param({"path": "a/../../b.jpg", "label": "a"}, "does not stay below", id="up inside the path"),
        pytest.param({"path": "s3://other/1.jpg", "label": "a"}, "does not stay below", id="an address"),
        pytest.param({"path": "1.jpg", "label": " "}, "'1.jpg' has no label", id="no label"),
        pytest.param(
            {"path": "1.jpg", "label": "a", "split": "hold-out"}, "not the name of a split", id="split"
        ),
        pytest.param(
            {"path": "1.jpg", "label": "a", "weight": "heavy"}, "not a weight", id="weight in words"
        ),
        pytest.param({"path": "1.jpg", "label": "a", "weight": "-1"}, "not a weight", id="negative weight"),
        pytest.param({"path": "1.jpg", "label": "a", "weight": "nan"}, "not a weight", id="no number"),
        pytest.param(
            {"file": "1.jpg", "label": "a"}, "has no column 'path'; its columns are 'file'", id="column"
        ),
    ],
)
def test_manifest_with_a_bad_line_is_refused_by_its_number(
    tmp_path: Path, row: dict[str, Any], words: str
) -> None:
    with pytest.raises(DatasetInvalid, match=words):
        listed(write_table(tmp_path, "manifest.csv", [row]))


def test_manifest_without_a_slice_column_is_refused(tmp_path: Path) -> None:
    uri = write_table(tmp_path, "manifest.csv", [{"path": "1.jpg", "label": "a"}])
    with pytest.raises(DatasetInvalid, match="no column 'site'"):
        listed(uri, sliceColumns=["site"])


def test_slice_columns_for_class_folders_are_refused(tmp_path: Path) -> None:
    two_classes(tmp_path, 1)
    with pytest.raises(DatasetInvalid, match="this dataset has none"):
        listed(tmp_path, sliceColumns=["site"])


def test_manifest_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("path,label\na.jpg,ants\n", encoding="utf-16")
    with pytest.raises(DatasetInvalid, match="cannot be read as a table"):
        listed(tmp_path)


def test_manifest_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DatasetInvalid, match="cannot be read as a table"):
        listed(tmp_path)


def test_manifest_with_missing_and_linked_out_images_counts_them_as_unreadable(tmp_path: Path) -> None:
    root = PhotoSet(tmp_path / "photos").photos("images", 40).root
    (tmp_path / "secret.jpg").write_bytes(encode(picture(999)))
    (root / "images" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    rows = [{"path": f"images/{index + 1:05d}.jpg", "label": "ab"[index % 2]} for index in range(40)]
    rows += [{"path": "images/gone.jpg", "label": "a"}, {"path": "images/link.jpg", "label": "b"}]
    dataset = Bench(tmp_path).prepare(
        write_table(root, "manifest.csv", rows), {"maxCorruptFraction": 0.1, "minImagesPerClass": 1}
    )
    found = finding(dataset, "unreadable")
    assert found.count == 2
    details = {each.path: each.detail for each in found.evidence}
    assert "does not exist" in details["images/gone.jpg"]
    assert "symbolic link" in details["images/link.jpg"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(["a/1.jpg", "b/1.jpg"], "Folder", id="class folders"),
        pytest.param(["a/1.jpg", "b/1.jpg", "labels.csv"], "Folder", id="a table beside class folders"),
        pytest.param(["a/1.jpg", "b/1.jpg", "manifest.csv"], "Manifest", id="a table called manifest"),
        pytest.param(["images/1.jpg", "labels.csv"], "Manifest", id="one folder and one table"),
        pytest.param(["1.tar", "deep/2.tar"], "WebDataset", id="shards alone"),
        pytest.param(["a/1.jpg", "b/1.jpg", "backup.tar"], "Folder", id="an archive beside class folders"),
    ],
)
def test_format_auto_looks_what_lies_there(tmp_path: Path, files: list[str], expected: str) -> None:
    photos = PhotoSet(tmp_path)
    for path in files:
        photos.add(path, b"path,label\na/1.jpg,x\nb/1.jpg,y\n" if path.endswith(".csv") else b"data")
    assert listed(tmp_path).format == expected


def test_two_tables_and_no_class_folders_ask_which_one(tmp_path: Path) -> None:
    PhotoSet(tmp_path).add("a.csv", b"path,label\n").add("b.csv", b"path,label\n").add("i/1.jpg", b"x")
    with pytest.raises(DatasetInvalid, match=r"several tables \(a.csv, b.csv\)"):
        listed(tmp_path, format="Manifest")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket/set/labels.csv", ("s3://bucket/set", "labels.csv")),
        ("file:///data/set.PARQUET", ("file:///data", "set.PARQUET")),
        ("s3://bucket/000.tar", ("s3://bucket", "000.tar")),
        ("s3://bucket/flowers", ("s3://bucket/flowers", "")),
    ],
)
def test_address_of_a_file_is_split_into_root_and_name(uri: str, expected: tuple[str, str]) -> None:
    assert split_address(uri) == expected


def test_address_of_a_table_that_is_not_there_is_missing(tmp_path: Path) -> None:
    two_classes(tmp_path, 1)
    with pytest.raises(DatasetMissing, match=r"no labels\.csv"):
        listed(f"file://{tmp_path}/labels.csv")


def test_max_images_per_class_takes_the_same_ones_whatever_else_is_there(tmp_path: Path) -> None:
    small = two_classes(tmp_path / "small", 12)
    large = two_classes(tmp_path / "large", 12).photos("wasps", 12)
    chosen = [
        set(splits(Bench(tmp_path / name).prepare(photos.root, maxImagesPerClass=8)))
        for name, photos in (("a", small), ("b", large))
    ]
    assert chosen[0] == {path for path in chosen[1] if not path.startswith("wasps")}
    assert len(chosen[0]) == 16


def test_dropped_images_keep_their_rows(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 10)
    photos.add("ants/copy.jpg", (photos.root / "ants" / "00001.jpg").read_bytes())
    dataset = Bench(tmp_path).prepare(photos.root)
    assert len(dataset) == 21
    assert (dataset.split == DROPPED).sum() == 1
