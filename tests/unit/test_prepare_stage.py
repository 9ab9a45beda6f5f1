"""The stage as a whole: one digest everywhere, everything taken over, nothing lost."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.testbed.photo_sets import Bench, PhotoSet, encode, picture, splits, two_classes
from tests.testbed.s3 import S3Server

from tunesmith_api.reasons import DatasetInvalid, DiskFull
from tunesmith_api.status import DatasetStatus
from tunesmith_trainer.prepare.dataset import TEST, TRAIN, VALIDATION, Dataset, TestSealed

PROJECT = Path(__file__).parents[2]


def events(bench: Bench, kind: str) -> list[dict[str, Any]]:
    return [each for each in map(json.loads, bench.log.getvalue().splitlines()) if each["type"] == kind]


def decoded(bench: Bench) -> list[int]:
    """How far the bar of the decoder stood, from its first to its last event."""
    return [each["done"] for each in events(bench, "progress")]


# One digest


def as_manifest(photos: Path, root: Path, name: str) -> str:
    """The same images under other names, listed backwards."""
    rows = []
    for at, path in enumerate(sorted(photos.rglob("*.jpg"), reverse=True)):
        target = root / "pile" / f"{at}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        rows.append({"path": f"pile/{at}.jpg", "label": path.parent.name, "unused": at})
    if name.endswith(".csv"):
        with (root / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, ["label", "unused", "path"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), root / name)
    return f"file://{root / name}"


def as_shards(photos: Path, root: Path) -> str:
    root.mkdir()
    for shard, folder in enumerate(sorted(photos.iterdir(), reverse=True)):
        with tarfile.open(root / f"{shard}.tar", "w") as tar:
            for path in folder.iterdir():
                tar.add(path, path.name)
                label = tarfile.TarInfo(path.with_suffix(".txt").name)
                label.size = len(folder.name)
                tar.addfile(label, io.BytesIO(folder.name.encode()))
    return f"file://{root}"


@pytest.mark.parametrize("form", ["list.csv", "list.parquet", "shards"])
def test_digest_and_rows_are_the_same_in_every_form_and_order(tmp_path: Path, form: str) -> None:
    photos = two_classes(tmp_path / "photos", 30)
    other = tmp_path / "other"
    uri = as_shards(photos.root, other) if form == "shards" else as_manifest(photos.root, other, form)
    one = Bench(tmp_path / "one").prepare(photos.root)
    two = Bench(tmp_path / "two").prepare(uri)
    assert two.format == ("WebDataset" if form == "shards" else "Manifest")
    assert one.digest == two.digest
    assert one.classes == two.classes
    assert np.array_equal(one.labels, two.labels)
    assert np.array_equal(one.split, two.split)
    rows = np.arange(len(one))
    assert np.array_equal(one.pixels.read(rows), two.pixels.read(rows))


def test_digest_of_known_images_is_this_one(tmp_path: Path) -> None:
    # neither these bytes nor what is decoded from them depends on any library's version
    photos = PhotoSet(tmp_path / "photos")
    for at in range(40):
        patches = np.arange(8 * 8 * 3).reshape(8, 8, 3) * (2 * at + 37) % 251
        pixels = np.kron(patches, np.ones((4, 4, 1))).astype(np.uint8)
        photos.add(f"{'ab'[at % 2]}/{at}.bmp", encode(Image.fromarray(pixels), "BMP"))
    dataset = Bench(tmp_path).prepare(photos.root)
    assert dataset.counts() == {"train": 28, "validation": 8, "test": 4}
    assert dataset.digest == "sha256:db74d2a60a6697c64a90f3a458d1a2f540a6008e785b008cfa23eeb765578939"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"add": True}, id="one more image"),
        pytest.param({"label": True}, id="another label"),
        pytest.param({"dataset": {"split": {"seed": 1}}}, id="another split"),
        pytest.param({"weight": True}, id="another weight"),
        pytest.param({"slice": True}, id="another slice"),
    ],
)
def test_digest_changes_with_what_training_sees(tmp_path: Path, change: dict[str, Any]) -> None:
    photos = two_classes(tmp_path / "photos", 20)

    def digest(name: str, change: dict[str, Any]) -> str:
        if change.get("add"):
            photos.photos("ants", 1)
        rows = []
        for at, path in enumerate(sorted(photos.root.rglob("*.jpg"))):
            label = "bees" if change.get("label") and at == 0 else path.parent.name
            row = {"path": path.relative_to(photos.root).as_posix(), "label": label}
            row["weight"] = "2" if change.get("weight") and at == 0 else "1"
            row["site"] = "north" if change.get("slice") and at == 0 else "south"
            rows.append(row)
        pq.write_table(pa.Table.from_pylist(rows), photos.root / "manifest.parquet")
        settings = change.get("dataset", {})
        return Bench(tmp_path, name).prepare(photos.root, sliceColumns=["site"], **settings).digest

    assert digest("before", {}) != digest("after", change)


def test_s3_dataset_equals_the_folder_it_was_copied_from(
    tmp_path: Path, s3_server: S3Server, s3_bucket: str
) -> None:
    photos = two_classes(tmp_path / "photos", 30).add("ants/README.txt", b"clutter")
    client = s3_server.client()
    for path in photos.root.rglob("*"):
        if path.is_file():
            key = f"sets/photos/{path.relative_to(photos.root).as_posix()}"
            client.put_object(Bucket=s3_bucket, Key=key, Body=path.read_bytes())
    local = Bench(tmp_path / "local").prepare(photos.root)
    bench = Bench(tmp_path / "s3")
    remote = bench.prepare(f"s3://{s3_bucket}/sets/photos", credentials=s3_server.credentials)
    assert remote.digest == local.digest
    assert remote.paths.to_pylist() == local.paths.to_pylist()
    assert np.array_equal(remote.pixels.read(remote.rows(TEST)), local.pixels.read(local.rows(TEST)))
    assert remote.source_bytes(3) == local.source_bytes(3)
    assert decoded(bench)[-1] == 60
    assert pickle.loads(pickle.dumps(remote)).source_bytes(3) == local.source_bytes(3)
    assert s3_server.credentials["AWS_SECRET_ACCESS_KEY"] not in repr(remote)
    for path in bench.folder.rglob("*"):
        if path.is_file():
            assert s3_server.credentials["AWS_SECRET_ACCESS_KEY"].encode() not in path.read_bytes()


def test_s3_shard_gives_single_images_back(tmp_path: Path, s3_server: S3Server, s3_bucket: str) -> None:
    photos = two_classes(tmp_path / "photos", 20)
    as_shards(photos.root, tmp_path / "shards")
    client = s3_server.client()
    for path in (tmp_path / "shards").iterdir():
        client.put_object(Bucket=s3_bucket, Key=path.name, Body=path.read_bytes())
    dataset = Bench(tmp_path).prepare(f"s3://{s3_bucket}", credentials=s3_server.credentials)
    row = dataset.paths.to_pylist().index("0.tar/00040.jpg")
    assert dataset.source_bytes(row) == (photos.root / "bees" / "00040.jpg").read_bytes()


# The dataset


def test_dataset_without_test_refuses_its_test_rows_only(tmp_path: Path) -> None:
    dataset = Bench(tmp_path).prepare(two_classes(tmp_path / "photos", 30).root)
    sealed = pickle.loads(pickle.dumps(dataset.without_test()))
    assert len(sealed.rows(TRAIN, VALIDATION)) + len(dataset.rows(TEST)) == 60
    with pytest.raises(TestSealed):
        sealed.rows(TRAIN, TEST)


def test_pixels_of_a_row_are_those_of_its_image(tmp_path: Path) -> None:
    photos = PhotoSet(tmp_path / "photos")
    for at in range(40):
        photos.add(f"{'ab'[at % 2]}/{at}.bmp", encode(picture(at, 32), "BMP"))
    dataset = Bench(tmp_path).prepare(photos.root)
    found = dataset.pixels.read(np.arange(len(dataset)))
    for row, path in enumerate(dataset.paths.to_pylist()):
        assert np.array_equal(found[row], np.asarray(picture(int(Path(path).stem), 32)))


def test_source_bytes_of_an_image_that_changed_are_refused(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 30)
    dataset = Bench(tmp_path).prepare(photos.root)
    path = str(dataset.paths[5])
    photos.add(path, encode(picture(999)))
    with pytest.raises(DatasetInvalid, match=rf"{path} is no longer the image"):
        dataset.source_bytes(5)
    (photos.root / path).unlink()
    with pytest.raises(DatasetInvalid, match=rf"{path} has vanished"):
        dataset.source_bytes(5)


def test_status_is_what_the_api_takes(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 60).add("ants/empty.jpg", b"")
    bench = Bench(tmp_path)
    dataset = bench.prepare(photos.root)
    status = DatasetStatus.model_validate(dataset.status())
    assert (status.images, status.classes, status.skipped) == (120, 2, 1)
    assert status.splits.train + status.splits.validation + status.splits.test == 120
    assert [each.check for each in status.findings] == ["zero-byte"]
    (told,) = events(bench, "finding")
    assert told == {
        "type": "finding",
        "check": "zero-byte",
        "count": 1,
        "policy": "Skip",
        "sentence": "1 file is empty and left out.",
    }


# Taken over, not done again


def test_second_process_of_a_run_takes_everything_over(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 30).add("ants/empty.jpg", b"")
    checks = {"maxCorruptFraction": 0.1}
    first = Bench(tmp_path).prepare(photos.root, checks)
    again = Bench(tmp_path)
    second = again.prepare(photos.root, checks)
    assert decoded(again) == []
    assert second.digest == first.digest
    assert second.findings == first.findings
    names = {each.key.rpartition("/")[2] for each in again.workspace.store.list(again.run)}
    assert names == {"prepare.json", "index.parquet", "dataset.json"}


@pytest.mark.parametrize("form", ["folder", "shards"])
def test_replaced_pod_decodes_again_and_decides_nothing_anew(tmp_path: Path, form: str) -> None:
    photos = two_classes(tmp_path / "photos", 30)
    uri = as_shards(photos.root, tmp_path / "shards") if form == "shards" else f"file://{photos.root}"
    first = Bench(tmp_path).prepare(uri)
    rows = np.arange(len(first))
    pixels = first.pixels.read(rows)
    shutil.rmtree(tmp_path / "cache")
    # whatever the store says was decided is what holds
    store = Bench(tmp_path).workspace.store
    facts = json.loads(store.get("jobs/photos/run/dataset.json"))
    store.put("jobs/photos/run/dataset.json", json.dumps({**facts, "imbalance": "Sampling"}).encode())
    second = Bench(tmp_path).prepare(uri)
    assert second.imbalance == "Sampling"
    assert second.digest == first.digest
    assert np.array_equal(second.split, first.split)
    assert np.array_equal(second.pixels.read(rows), pixels)


def test_another_run_on_the_same_images_decodes_nothing(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 30)
    Bench(tmp_path, "jobs/one").prepare(photos.root)
    other = Bench(tmp_path, "jobs/two")
    dataset = other.prepare(photos.root, {"onNearDuplicate": "Drop"}, split={"seed": 5})
    assert decoded(other) == []
    assert len(dataset) == 60


def test_another_image_size_decodes_into_a_place_of_its_own(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 30)
    small = Bench(tmp_path, "jobs/small").prepare(photos.root)
    large = Bench(tmp_path, "jobs/large", image_size=48).prepare(photos.root)
    assert small.pixels.read(np.asarray([0])).shape == (1, 32, 32, 3)
    assert large.pixels.read(np.asarray([0])).shape == (1, 48, 48, 3)


def test_run_whose_dataset_changed_is_refused(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 30)
    Bench(tmp_path).prepare(photos.root)
    photos.photos("ants", 1)
    with pytest.raises(DatasetInvalid, match="changed since this run began"):
        Bench(tmp_path).prepare(photos.root)


def test_images_that_changed_behind_an_unchanged_listing_are_noticed(tmp_path: Path) -> None:
    photos = PhotoSet(tmp_path / "photos")
    for at in range(40):
        photos.add(f"{'ab'[at % 2]}/{at}.bmp", encode(picture(at), "BMP"))
    Bench(tmp_path).prepare(photos.root)
    shutil.rmtree(tmp_path / "cache")
    target = photos.root / "a" / "0.bmp"
    stamp = target.stat().st_mtime_ns
    target.write_bytes(encode(picture(999), "BMP"))
    os.utime(target, ns=(stamp, stamp))
    with pytest.raises(DatasetInvalid, match="Images have changed"):
        Bench(tmp_path).prepare(photos.root)


@pytest.mark.parametrize("name", ["index.parquet", "dataset.json"])
def test_prepared_dataset_that_is_not_whole_says_what_to_delete(tmp_path: Path, name: str) -> None:
    photos = two_classes(tmp_path / "photos", 30)
    Bench(tmp_path).prepare(photos.root)
    Bench(tmp_path).workspace.store.delete(f"jobs/photos/run/{name}")
    with pytest.raises(DatasetInvalid, match=r"not whole: .*Delete .*prepare\.json"):
        Bench(tmp_path).prepare(photos.root)


# Killed, and out of room

KILLED_AT = """
import os, signal, sys
from pathlib import Path
from tests.testbed.photo_sets import Bench
from tunesmith_trainer.prepare import scan

part, moment = int(sys.argv[2]), sys.argv[3]
scan.PART_IMAGES = 32
save_part = scan._Output.save_part

def dying(self, number, table):
    if number == part and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    save_part(self, number, table)
    if number == part and moment == "after":
        os.kill(os.getpid(), signal.SIGKILL)

scan._Output.save_part = dying
Bench(Path(sys.argv[1])).prepare(Path(sys.argv[1]) / "photos")
"""


@pytest.mark.parametrize(("part", "moment", "kept"), [(0, "before", 0), (0, "after", 32), (2, "before", 64)])
def test_killed_pass_goes_on_behind_its_last_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int, moment: str, kept: int
) -> None:
    photos = two_classes(tmp_path / "photos", 60).add("ants/00000.jpg", b"")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT, str(tmp_path), str(part), moment],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path])},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    monkeypatch.setattr("tunesmith_trainer.prepare.scan.PART_IMAGES", 32)
    bench = Bench(tmp_path)
    dataset = bench.prepare(photos.root)
    assert (decoded(bench)[0], decoded(bench)[-1]) == (kept, 121)
    undisturbed = Bench(tmp_path / "undisturbed").prepare(photos.root)
    assert dataset.digest == undisturbed.digest
    rows = np.arange(len(dataset))
    assert np.array_equal(dataset.pixels.read(rows), undisturbed.pixels.read(rows))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no small file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_says_so_and_with_room_the_run_goes_on(tmp_path: Path, small_disk: Path) -> None:
    photos = two_classes(tmp_path / "photos", 60)
    bench = Bench(tmp_path)
    (tmp_path / "cache").symlink_to(small_disk)
    with pytest.raises(DiskFull, match=r"no room for .*the same command again"):
        bench.prepare(photos.root)
    assert bench.workspace.read_marker("prepare") is None
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    dataset = Bench(tmp_path).prepare(photos.root)
    assert dataset.digest == Bench(tmp_path / "elsewhere").prepare(photos.root).digest


SIDE_BY_SIDE = """
import sys
from pathlib import Path
from tests.testbed.photo_sets import Bench

bench = Bench(Path(sys.argv[1]), sys.argv[2])
dataset = bench.prepare(Path(sys.argv[1]) / "photos")
print(dataset.digest, "progress" in bench.log.getvalue())
"""


def test_two_processes_on_one_cache_do_the_work_once(tmp_path: Path) -> None:
    two_classes(tmp_path / "photos", 60)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path])}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SIDE_BY_SIDE, str(tmp_path), run],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            env=environment,
        )
        for run in ("jobs/one", "jobs/two")
    ]
    said = [process.communicate(timeout=60)[0].decode().split() for process in running]
    assert said[0][0] == said[1][0]
    assert sorted(each[1] for each in said) == ["False", "True"]


def test_load_of_a_folder_that_holds_no_dataset_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetInvalid, match="holds no prepared dataset"):
        Dataset.load(tmp_path)


def test_splits_of_a_prepared_set_cover_every_image(tmp_path: Path) -> None:
    dataset = Bench(tmp_path).prepare(two_classes(tmp_path / "photos", 30).root)
    assert set(splits(dataset).values()) == {TRAIN, VALIDATION, TEST}
    assert dataset.class_counts().sum() == 60


def test_splits_that_the_source_has_of_its_own_are_kept_in_mind(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 30)
    dataset = Bench(tmp_path).prepare(photos.root)
    assert dataset.given_splits == ()
    divided = PhotoSet(tmp_path / "divided")
    for folder in ("train/ants", "train/bees", "val/ants", "val/bees"):
        divided.photos(folder, 30)
    own = Bench(tmp_path / "own").prepare(divided.root)
    assert own.given_splits == ("train", "test")
    assert Dataset.load(own.directory).given_splits == ("train", "test")


def test_areas_are_those_of_the_sources_and_not_of_the_decoded_squares(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 12)
    dataset = Bench(tmp_path).prepare(photos.root)
    for path, area in zip(dataset.paths.to_pylist(), dataset.areas, strict=True):
        with Image.open(photos.root / path) as image:
            assert image.width * image.height == area != dataset.image_size**2
