"""WebDataset shards: read as a stream, with nothing trusted that stands in them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import webdataset  # type: ignore[import-untyped]
from tests.testbed.photo_sets import Bench, PhotoSet, encode, finding, picture, splits, two_classes

from tunesmith_api.dataset_spec import DatasetSpec
from tunesmith_api.reasons import DatasetInvalid
from tunesmith_trainer.prepare.dataset import TEST, TRAIN, VALIDATION
from tunesmith_trainer.prepare.sources import list_source


def sample(seed: int, label: Any, kind: str = "cls", **fields: Any) -> dict[str, Any]:
    """A sample as webdataset's own writer takes it."""
    text = {"json": {"label": label, **fields}, "txt": f"{label}\n"}.get(kind, label)
    return {"__key__": f"{seed:05d}", "jpg": encode(picture(seed)), kind: text}


def write_shard(path: Path, samples: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), encoder=True) as writer:
        for each in samples:
            writer.write(each)


def members(path: Path, files: dict[str, bytes], mode: Literal["w", "a"] = "w") -> None:
    """A plain tar with these members, or these behind those that it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("kind", ["cls", "json", "txt"])
def test_shards_with_any_kind_of_label_are_read(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "shards"
    for shard in range(2):
        first = 100 * shard
        write_shard(root / f"{shard:03}.tar", [sample(first + at, at % 2, kind) for at in range(20)])
    dataset = Bench(tmp_path).prepare(root)
    assert dataset.format == "WebDataset"
    assert dataset.classes == ("0", "1")
    assert dataset.paths.to_pylist().count("001.tar/00107.jpg") == 1
    assert len(dataset) == 40


def test_shards_with_json_give_split_weight_and_slices(tmp_path: Path) -> None:
    samples = [
        sample(at, "ab"[at % 2], "json", split=("train", "val", "test")[at % 3], weight=2, site=f"s{at % 2}")
        for at in range(30)
    ]
    write_shard(tmp_path / "shards" / "all.tar", samples)
    dataset = Bench(tmp_path).prepare(tmp_path / "shards", sliceColumns=["site"])
    assert dataset.counts() == {"train": 10, "validation": 10, "test": 10}
    assert set(dataset.weights.tolist()) == {2.0}
    assert sorted(set(dataset.slices["site"].tolist())) == ["s0", "s1"]


def test_shards_named_by_their_split_keep_it(tmp_path: Path) -> None:
    root = tmp_path / "shards"
    for first, name in ((0, "flowers-train-000.tar"), (100, "flowers-val-000.tar"), (200, "test/000.tar")):
        write_shard(root / name, [sample(first + at, "ab"[at % 2]) for at in range(16)])
    found = splits(Bench(tmp_path).prepare(root))
    assert {path.split("/")[0]: split for path, split in found.items()} == {
        "flowers-train-000.tar": TRAIN,
        "flowers-val-000.tar": VALIDATION,
        "test": TEST,
    }


def test_one_shard_by_its_address_is_read_alone(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write_shard(tmp_path / "shards" / name, [sample(at, "ab"[at % 2]) for at in range(20)])
    dataset = Bench(tmp_path).prepare(f"file://{tmp_path}/shards/b.tar")
    assert {path.split("/")[0] for path in dataset.paths.to_pylist()} == {"b.tar"}
    row = int(dataset.rows(TRAIN)[0])
    seed = int(str(dataset.paths[row]).removeprefix("b.tar/").removesuffix(".jpg"))
    assert dataset.source_bytes(row) == encode(picture(seed))


def test_shard_with_the_images_of_a_folder_has_the_folders_digest(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 20)
    files = {}
    for path in sorted(photos.root.rglob("*.jpg"), reverse=True):
        files[path.name] = path.read_bytes()
        files[path.with_suffix(".cls").name] = path.parent.name.encode()
    members(tmp_path / "shards" / "0.tar", files)
    bench = Bench(tmp_path)
    assert bench.prepare(photos.root).digest == Bench(tmp_path, run="b").prepare(tmp_path / "shards").digest


def test_sample_without_label_or_image_is_ignored_and_counted(tmp_path: Path) -> None:
    samples = [sample(at, "ab"[at % 2]) for at in range(20)]
    lacking: list[dict[str, Any]] = [
        {"__key__": "no-label", "jpg": encode(picture(90))},
        {"__key__": "no-image", "cls": "a"},
    ]
    write_shard(tmp_path / "shards" / "0.tar", [*samples, *lacking])
    dataset = Bench(tmp_path).prepare(tmp_path / "shards")
    found = finding(dataset, "incomplete-sample")
    assert (found.count, found.policy) == (2, "Ignore")
    assert [each.path for each in found.evidence] == ["0.tar/no-label.jpg", "0.tar/no-image.?"]
    assert len(dataset) == 20


def test_shards_without_any_whole_sample_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "shards" / "0.tar", [{"__key__": "1", "jpg": encode(picture(1))}])
    with pytest.raises(DatasetInvalid, match="None of the 1 samples"):
        Bench(tmp_path).prepare(tmp_path / "shards")


def test_picture_beside_the_shards_does_not_make_them_class_folders(tmp_path: Path) -> None:
    root = tmp_path / "shards"
    write_shard(root / "0.tar", [sample(at, "ab"[at % 2]) for at in range(20)])
    PhotoSet(root).add("preview.jpg", encode(picture(90))).add("docs/logo.png", encode(picture(91), "PNG"))
    dataset = Bench(tmp_path).prepare(root)
    assert dataset.format == "WebDataset"
    assert finding(dataset, "clutter").count == 2


@pytest.mark.parametrize("name", ["1.tar.gz", "train/1.TGZ", "1.tar.zst"])
@pytest.mark.parametrize("beside", [["0.tar"], ["0.tar", "preview.jpg"], []])
def test_compressed_shard_is_refused_by_its_name(tmp_path: Path, name: str, beside: list[str]) -> None:
    for path in (name, *beside):
        PhotoSet(tmp_path).add(path, b"bytes")
    with pytest.raises(DatasetInvalid, match=rf"'{name}' in .* is compressed.*gunzip {name}"):
        list_source(DatasetSpec.model_validate({"uri": f"file://{tmp_path}"}))


def test_compressed_shard_by_its_address_is_refused(tmp_path: Path) -> None:
    PhotoSet(tmp_path).add("1.tar.gz", b"bytes").add("2.tar.gz", b"bytes")
    with pytest.raises(DatasetInvalid, match=r"^'2\.tar\.gz' in .* is compressed"):
        list_source(DatasetSpec.model_validate({"uri": f"file://{tmp_path}/2.tar.gz"}))


def test_compressed_archive_beside_class_folders_is_clutter(tmp_path: Path) -> None:
    photos = two_classes(tmp_path / "photos", 10).add("backup.tar.gz", b"bytes")
    assert finding(Bench(tmp_path).prepare(photos.root), "clutter").count == 1


def test_slice_column_that_no_sample_has_is_refused(tmp_path: Path) -> None:
    samples = [sample(at, "ab"[at % 2], "json", **({"site": "x"} if at == 3 else {})) for at in range(20)]
    write_shard(tmp_path / "shards" / "0.tar", samples)
    assert Bench(tmp_path).prepare(tmp_path / "shards", sliceColumns=["site"]).slices["site"].tolist()
    with pytest.raises(DatasetInvalid, match=r"No sample in .* has a field 'nope' in its .json"):
        Bench(tmp_path, "other").prepare(tmp_path / "shards", sliceColumns=["site", "nope"])


def without_end_mark(data: bytes) -> bytes:
    """The members alone, in whole blocks."""
    members = data.rstrip(b"\0")
    return members + bytes(-len(members) % 512)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut in the middle of a picture"),
        pytest.param(lambda data: data[:20_480], id="cut at the end of a block"),
        pytest.param(without_end_mark, id="no end mark"),
        pytest.param(lambda data: data[:-20_000] + bytes(range(256)) * 78, id="garbage instead of a header"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"not a tar" * 400, id="no tar at all"),
    ],
)
def test_broken_shard_is_refused_by_its_name(tmp_path: Path, damage: Any) -> None:
    good, bad = tmp_path / "shards" / "0.tar", tmp_path / "shards" / "1.tar"
    for path in (good, bad):
        write_shard(path, [sample(at, "ab"[at % 2]) for at in range(40)])
    bad.write_bytes(damage(bad.read_bytes()))
    with pytest.raises(DatasetInvalid, match=r"The shard 1\.tar is broken or cut off"):
        Bench(tmp_path).prepare(tmp_path / "shards")


@pytest.mark.parametrize("name", ["../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg"])
def test_member_that_leads_out_of_the_shard_is_refused(tmp_path: Path, name: str) -> None:
    members(tmp_path / "shards" / "0.tar", {name: encode(picture(1)), "1.cls": b"a"})
    with pytest.raises(DatasetInvalid, match="leads out of it"):
        Bench(tmp_path).prepare(tmp_path / "shards")
    assert not list(tmp_path.rglob("evil.jpg"))


def test_links_devices_and_clutter_in_a_shard_are_nobodys_sample(tmp_path: Path) -> None:
    path = tmp_path / "shards" / "0.tar"
    write_shard(path, [sample(at, "ab"[at % 2]) for at in range(20)])
    with tarfile.open(path, "a") as tar:
        for kind, name in ((tarfile.SYMTYPE, "l.jpg"), (tarfile.CHRTYPE, "d.jpg"), (tarfile.DIRTYPE, "f")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        hidden = tarfile.TarInfo("._00001.jpg")
        hidden.size = 3
        tar.addfile(hidden, io.BytesIO(b"mac"))
    dataset = Bench(tmp_path).prepare(tmp_path / "shards")
    assert len(dataset) == 20
    assert [each for each in dataset.findings if "image" not in each.check] == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"json": b"{broken"}, "cannot be read"),
        ({"json": b'{"label": "a", "split": "hold-out"}'}, "not the name of a split"),
        ({"json": b'{"label": "a", "weight": "heavy"}'}, "not a weight"),
    ],
)
def test_sample_with_nonsense_beside_its_image_is_refused_by_its_name(
    tmp_path: Path, fields: dict[str, bytes], words: str
) -> None:
    files = {"x/7.jpg": encode(picture(1)), **{f"x/7.{kind}": data for kind, data in fields.items()}}
    members(tmp_path / "shards" / "0.tar", files)
    with pytest.raises(DatasetInvalid, match=rf"0\.tar, sample x/7: .*{words}"):
        Bench(tmp_path).prepare(tmp_path / "shards")


def test_max_images_per_class_of_shards_takes_the_same_ones_whatever_else_is_there(tmp_path: Path) -> None:
    chosen = []
    for count in (30, 40):
        root = tmp_path / str(count)
        write_shard(
            root / "shards" / "0.tar", [sample(at, "abcd"[at % 2 + 2 * (at >= 30)]) for at in range(count)]
        )
        dataset = Bench(root).prepare(root / "shards", {"minImagesPerClass": 1}, maxImagesPerClass=5)
        chosen.append({path for path in dataset.paths.to_pylist() if int(path[6:11]) < 30})
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 10


def test_shard_that_was_written_to_twice_is_prepared_and_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "shards" / "0.tar"
    write_shard(path, [sample(at, "ab"[at % 2]) for at in range(20)])
    members(path, {"00003.jpg": encode(picture(77)), "00003.cls": b"b"}, "a")
    first = Bench(tmp_path).prepare(path.parent)
    assert first.paths.to_pylist().count("0.tar/00003.jpg") == 2
    second = Bench(tmp_path).prepare(path.parent)
    rows = np.arange(len(first))
    assert np.array_equal(second.pixels.read(rows), first.pixels.read(rows))
    read = {second.source_bytes(int(row)) for row in rows}
    assert {encode(picture(3)), encode(picture(77))} <= read


def test_member_that_follows_one_of_its_own_name_begins_another_sample(tmp_path: Path) -> None:
    path = tmp_path / "shards" / "0.tar"
    write_shard(path, [sample(at, "ab"[at % 2]) for at in range(20)])
    for seed, label in ((80, b"a"), (81, b"b")):
        members(path, {"x.jpg": encode(picture(seed)), "x.cls": label}, "a")
    dataset = Bench(tmp_path).prepare(path.parent)
    rows = [row for row, name in enumerate(dataset.paths.to_pylist()) if name == "0.tar/x.jpg"]
    found = {dataset.source_bytes(row): dataset.classes[dataset.labels[row]] for row in rows}
    assert found == {encode(picture(80)): "a", encode(picture(81)): "b"}


def test_progress_of_shards_counts_what_was_read(tmp_path: Path) -> None:
    photos = PhotoSet(tmp_path)
    noise = encode(picture(1), "BMP")
    files = {}
    for at in range(300):
        files[f"{at}.bmp"] = noise + bytes(8_000)
        files[f"{at}.cls"] = b"ab"[at % 2 : at % 2 + 1]
    members(photos.root / "shards" / "0.tar", files)
    bench = Bench(tmp_path)
    with pytest.raises(DatasetInvalid):  # all 300 are one picture under two labels
        bench.prepare(photos.root / "shards")
    last = [line for line in bench.log.getvalue().splitlines() if '"progress"' in line][-1]
    assert '"unit":"MiB"' in last
    assert '"done":4,"task":"decode","total":4' in last
