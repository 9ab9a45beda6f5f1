"""torchvision's own classes, from files in torchvision's own layouts."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.testbed.photo_sets import Bench, PhotoSet, encode, finding, picture

from tunesmith_api.dataset_spec import DatasetSpec
from tunesmith_api.reasons import DatasetMissing, SpecInvalid
from tunesmith_trainer.prepare.sources import list_source
from tunesmith_trainer.prepare.torchvision_source import ALLOWED


def idx(values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """The format of MNIST's files."""
    return (
        struct.pack(">HBB", 0, 8, values.ndim)
        + struct.pack(f">{values.ndim}I", *values.shape)
        + values.tobytes()
    )


def fashion(root: Path, train: int = 60, test: int = 20) -> Path:
    """A small Fashion-MNIST of three kinds."""
    generator = np.random.default_rng(0)
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", train), ("t10k", test)):
        pictures = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(idx(pictures))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(idx((np.arange(count) % 3).astype(np.uint8)))
    return root


def test_arrays_keep_their_split_and_their_class_names(tmp_path: Path) -> None:
    root = fashion(tmp_path / "data")
    dataset = Bench(tmp_path).prepare(f"torchvision://FashionMNIST?root={root}")
    assert dataset.format == "FashionMNIST"
    assert dataset.classes == ("Pullover", "T-shirt/top", "Trouser")
    counts = dataset.counts()
    assert counts["train"] + counts["validation"] == 60
    assert counts["test"] == 20
    assert counts["validation"] > 0
    assert finding(dataset, "grey").count == 80


def test_arrays_are_handed_on_as_png_with_their_own_pixels(tmp_path: Path) -> None:
    root = fashion(tmp_path / "data")
    dataset = Bench(tmp_path).prepare(f"torchvision://FashionMNIST?root={root}")
    row = dataset.paths.to_pylist().index("test/0000007.png")
    with Image.open(io.BytesIO(dataset.source_bytes(row))) as image:
        assert image.format == "PNG"
        found = np.asarray(image)
    raw = (root / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    assert np.array_equal(found, np.frombuffer(raw, np.uint8, 28 * 28, 16 + 7 * 28 * 28).reshape(28, 28))


def test_classes_of_files_hand_on_the_files_themselves(tmp_path: Path) -> None:
    photos = PhotoSet(tmp_path / "data" / "eurosat" / "2750")
    photos.photos("Forest", 20).photos("River", 20).add("River/turned.jpg", rotated())
    dataset = Bench(tmp_path).prepare(f"torchvision://EuroSAT?root={tmp_path}/data")
    assert dataset.classes == ("Forest", "River")
    assert finding(dataset, "exif-orientation").count == 1
    row = dataset.paths.to_pylist().index("eurosat/2750/Forest/00001.jpg")
    assert dataset.source_bytes(row) == encode(picture(1))


def test_classes_of_files_have_the_digest_of_a_folder_with_them(tmp_path: Path) -> None:
    photos = PhotoSet(tmp_path / "data" / "eurosat" / "2750").photos("Forest", 20).photos("River", 20)
    bench = Bench(tmp_path)
    by_class = bench.prepare(f"torchvision://EuroSAT?root={tmp_path}/data")
    assert Bench(tmp_path, "folder").prepare(photos.root).digest == by_class.digest


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 3
    return encode(picture(500), exif=exif)


def test_pets_keep_the_split_of_their_lists(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "oxford-iiit-pet"
    photos = PhotoSet(folder).add("annotations/trimaps/.keep", b"")
    for name, first in (("trainval", 1), ("test", 101)):
        lines = []
        for at in range(40 if name == "trainval" else 16):
            kind, label = (("Abyssinian", 1), ("yorkshire_terrier", 2))[at % 2]
            photos.add(f"images/{kind}_{first + at}.jpg", encode(picture(first + at)))
            lines.append(f"{kind}_{first + at} {label} 1 1\n")
        photos.add(f"annotations/{name}.txt", "".join(lines).encode())
    dataset = Bench(tmp_path).prepare(f"torchvision://OxfordIIITPet?root={tmp_path}/data")
    assert dataset.classes == ("Abyssinian", "Yorkshire Terrier")
    assert dataset.counts()["test"] == 16


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        pytest.param("torchvision://INaturalist?root=/data", "not among the datasets", id="a class left out"),
        pytest.param("torchvision://MNIST", "does not say where", id="no root"),
        pytest.param("torchvision://MNIST?root=data", "does not say where", id="a relative root"),
        pytest.param("torchvision://MNIST?root=/data&download=1", "does not say where", id="an option"),
    ],
)
def test_address_that_is_not_understood_is_refused(uri: str, words: str) -> None:
    with pytest.raises(SpecInvalid, match=words):
        list_source(DatasetSpec.model_validate({"uri": uri}))


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_class_without_files_is_missing_and_nothing_is_downloaded(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetMissing, match=rf"torchvision cannot read {name} in .*never downloads"):
        list_source(DatasetSpec.model_validate({"uri": f"torchvision://{name}?root={tmp_path}"}))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
