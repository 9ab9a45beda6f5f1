"""Each of torchvision's classes that is read, from a few pictures in the layout that torchvision expects."""

from __future__ import annotations

import bz2
import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from tests.testbed.photo_sets import PhotoSet, encode, picture

from tunesmith_api.dataset_spec import DatasetSpec
from tunesmith_api.reasons import DatasetInvalid
from tunesmith_package.preprocess import Preprocess, decode
from tunesmith_trainer.prepare.dataset import TEST, TRAIN, VALIDATION
from tunesmith_trainer.prepare.source import NO_SPLIT, Listing
from tunesmith_trainer.prepare.sources import list_source
from tunesmith_trainer.prepare.torchvision_source import ALLOWED

Found = set[tuple[str, int]]
Layout = Callable[[PhotoSet], Found]
PREPROCESS = Preprocess(32, "Squash", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LAYOUTS: dict[str, Layout] = {}


def listed(name: str, root: Path) -> Listing:
    return list_source(DatasetSpec.model_validate({"uri": f"torchvision://{name}?root={root}"}))


def layout(*names: str) -> Callable[[Layout], Layout]:
    def remember(function: Layout) -> Layout:
        LAYOUTS.update(dict.fromkeys(names, function))
        return function

    return remember


def jpegs(photos: PhotoSet, *paths: str) -> None:
    for path in paths:
        photos.photos(Path(path).parent.as_posix(), 1)
        written = photos.root / Path(path).parent / f"{photos.seed:05d}.jpg"
        written.rename(photos.root / path)


def both(*labels: str, train: int = TRAIN, test: int = TEST) -> Found:
    return {(label, split) for label in labels for split in (train, test)}


def three(*labels: str) -> Found:
    return {(label, split) for label in labels for split in (TRAIN, VALIDATION, TEST)}


def whole(*labels: str) -> Found:
    return {(label, NO_SPLIT) for label in labels}


def idx(values: np.ndarray[Any, Any], kind: int = 8) -> bytes:
    """The format of MNIST's files."""
    head = struct.pack(">HBB", 0, kind, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.astype(values.dtype.newbyteorder(">")).tobytes()


def digits(count: int = 2) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)


@layout("MNIST", "KMNIST", "FashionMNIST", "EMNIST")
def idx_files(photos: PhotoSet) -> Found:
    """Two digits each; every class has names of its own for them, which are not looked at."""
    for name, names in {
        "MNIST": ("train-", "t10k-"),
        "KMNIST": ("train-", "t10k-"),
        "FashionMNIST": ("train-", "t10k-"),
        "EMNIST": ("emnist-balanced-train-", "emnist-balanced-test-"),
    }.items():
        for prefix in names:
            photos.add(f"{name}/raw/{prefix}images-idx3-ubyte", idx(digits()))
            photos.add(f"{name}/raw/{prefix}labels-idx1-ubyte", idx(np.asarray([0, 1], np.uint8)))
    return set()


@layout("QMNIST")
def qmnist(photos: PhotoSet) -> Found:
    for part in ("train", "test"):
        labels = np.asarray([[0, 5, 6, 7, 8, 9, 9, 9], [1, 5, 6, 7, 8, 9, 9, 9]], np.int32)
        photos.add(f"QMNIST/raw/qmnist-{part}-images-idx3-ubyte", idx(digits()))
        photos.add(f"QMNIST/raw/qmnist-{part}-labels-idx2-int", idx(labels, 12))
    return both("0 - zero", "1 - one")


@layout("USPS")
def usps(photos: PhotoSet) -> Found:
    lines = "".join(f"{label} {' '.join(f'{at}:0.5' for at in range(1, 257))}\n" for label in (1, 2))
    for name in ("usps.bz2", "usps.t.bz2"):
        photos.add(name, bz2.compress(lines.encode()))
    return both("0", "1")


@layout("SEMEION")
def semeion(photos: PhotoSet) -> Found:
    rows = [[1.0] * 256 + [float(at == label) for at in range(10)] for label in (0, 1)]
    photos.add("semeion.data", "\n".join(" ".join(map(str, row)) for row in rows).encode())
    return whole("0", "1")


@layout("FER2013")
def fer2013(photos: PhotoSet) -> Found:
    face = " ".join(["9"] * 48 * 48)
    rows = [f"{label},{face},{use}" for label in (0, 1) for use in ("Training", "PublicTest")]
    photos.add("fer2013/fer2013.csv", "\n".join(["emotion,pixels,Usage", *rows]).encode())
    return both("0", "1")


@layout("CIFAR10", "CIFAR100")
def cifar(photos: PhotoSet) -> Found:
    data = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
    for name in (*(f"data_batch_{at}" for at in range(1, 6)), "test_batch"):
        batch = pickle.dumps({"data": data, "labels": [0, 1]})
        photos.add(f"cifar-10-batches-py/{name}", batch)
    photos.add("cifar-10-batches-py/batches.meta", pickle.dumps({"label_names": ["plane", "car"]}))
    for name in ("train", "test"):
        photos.add(f"cifar-100-python/{name}", pickle.dumps({"data": data, "fine_labels": [0, 1]}))
    photos.add("cifar-100-python/meta", pickle.dumps({"fine_label_names": ["plane", "car"]}))
    return both("plane", "car")


def mat(**values: Any) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, values)
    return buffer.getvalue()


@layout("SVHN")
def svhn(photos: PhotoSet) -> Found:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 2), np.uint8)
    for part in ("train", "test"):
        photos.add(f"{part}_32x32.mat", mat(X=pixels, y=np.asarray([[1], [10]])))
    return both("1", "0")


@layout("STL10")
def stl10(photos: PhotoSet) -> Found:
    for part in ("train", "test"):
        photos.add(f"stl10_binary/{part}_X.bin", bytes(range(256)) * (2 * 3 * 96 * 96 // 256))
        photos.add(f"stl10_binary/{part}_y.bin", bytes([1, 2]))
    for name in ("unlabeled_X.bin", "fold_indices.txt"):
        photos.add(f"stl10_binary/{name}", b"")
    photos.add("stl10_binary/class_names.txt", b"airplane\nbird\n")
    return both("airplane", "bird")


@layout("GTSRB")
def gtsrb(photos: PhotoSet) -> Found:
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for label in (0, 1):
        photos.add(f"gtsrb/GTSRB/Training/0000{label}/1.ppm", encode(picture(label), "PPM"))
        photos.add(f"gtsrb/GTSRB/Final_Test/Images/{label}.ppm", encode(picture(2 + label), "PPM"))
        lines.append(f"{label}.ppm;48;48;0;0;1;1;{label}")
    photos.add("gtsrb/GT-final_test.csv", "\n".join(lines).encode())
    return both("0", "1")


@layout("Food101")
def food101(photos: PhotoSet) -> Found:
    for part in ("train", "test"):
        meta = {label: [f"{label}/{part}"] for label in ("pie", "soup")}
        photos.add(f"food-101/meta/{part}.json", json.dumps(meta).encode())
        jpegs(photos, *(f"food-101/images/{label}/{part}.jpg" for label in meta))
    return both("pie", "soup")


@layout("StanfordCars")
def stanford_cars(photos: PhotoSet) -> Found:
    kinds = np.asarray(["Audi", "BMW"], dtype=object)
    photos.add("stanford_cars/devkit/cars_meta.mat", mat(class_names=kinds))
    annotations = np.asarray([("1.jpg", 1), ("2.jpg", 2)], dtype=[("fname", object), ("class", object)])
    photos.add("stanford_cars/devkit/cars_train_annos.mat", mat(annotations=annotations))
    photos.add("stanford_cars/cars_test_annos_withlabels.mat", mat(annotations=annotations))
    for part in ("train", "test"):
        jpegs(photos, *(f"stanford_cars/cars_{part}/{at}.jpg" for at in (1, 2)))
    return both("Audi", "BMW")


@layout("OxfordIIITPet")
def pets(photos: PhotoSet) -> Found:
    photos.add("oxford-iiit-pet/annotations/trimaps/.keep", b"")
    for part in ("trainval", "test"):
        lines = []
        for label, kind in enumerate(("Abyssinian", "yorkshire_terrier"), 1):
            jpegs(photos, f"oxford-iiit-pet/images/{kind}_{part}.jpg")
            lines.append(f"{kind}_{part} {label} 1 1")
        photos.add(f"oxford-iiit-pet/annotations/{part}.txt", "\n".join(lines).encode())
    return both("Abyssinian", "Yorkshire Terrier")


@layout("Flowers102")
def flowers102(photos: PhotoSet) -> Found:
    ids = {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6]]}
    photos.add("flowers-102/setid.mat", mat(**{name: np.asarray(found) for name, found in ids.items()}))
    photos.add("flowers-102/imagelabels.mat", mat(labels=np.asarray([[1, 2] * 3])))
    jpegs(photos, *(f"flowers-102/jpg/image_{at:05d}.jpg" for at in range(1, 7)))
    return three("pink primrose", "hard-leaved pocket orchid")


@layout("DTD")
def dtd(photos: PhotoSet) -> Found:
    for part in ("train", "val", "test"):
        names = [f"{label}/{part}.jpg" for label in ("banded", "dotted")]
        photos.add(f"dtd/dtd/labels/{part}1.txt", "\n".join(names).encode())
        jpegs(photos, *(f"dtd/dtd/images/{name}" for name in names))
    return three("banded", "dotted")


@layout("FGVCAircraft")
def aircraft(photos: PhotoSet) -> Found:
    folder = "fgvc-aircraft-2013b/data"
    photos.add(f"{folder}/variants.txt", b"707-320\n727-200\n")
    for part in ("train", "val", "test"):
        lines = [f"{part}{at} {label}" for at, label in enumerate(("707-320", "727-200"))]
        photos.add(f"{folder}/images_variant_{part}.txt", "\n".join(lines).encode())
        jpegs(photos, *(f"{folder}/images/{part}{at}.jpg" for at in (0, 1)))
    return three("707-320", "727-200")


@layout("RenderedSST2")
def sst2(photos: PhotoSet) -> Found:
    for part in ("train", "valid", "test"):
        for at, label in enumerate(("negative", "positive")):
            photos.add(f"rendered-sst2/{part}/{label}/1.png", encode(picture(at), "PNG"))
    return three("negative", "positive")


@layout("Country211")
def country211(photos: PhotoSet) -> Found:
    for part in ("train", "valid", "test"):
        jpegs(photos, *(f"country211/{part}/{label}/1.jpg" for label in ("AD", "AE")))
    return three("AD", "AE")


@layout("Imagenette")
def imagenette(photos: PhotoSet) -> Found:
    for part in ("train", "val"):
        for at, wnid in enumerate(("n01440764", "n02102040")):
            photos.add(f"imagenette2/{part}/{wnid}/1.JPEG", encode(picture(at)))
    return both("tench", "English springer")


@layout("ImageNet")
def imagenet(photos: PhotoSet) -> Found:
    names = {"n01440764": ("tench", "Tinca tinca"), "n02012849": ("crane",), "n03126707": ("crane",)}
    buffer = io.BytesIO()
    torch.save((names, []), buffer)
    photos.add("meta.bin", buffer.getvalue())
    for part in ("train", "val"):
        for at, wnid in enumerate(names):
            photos.add(f"{part}/{wnid}/1.JPEG", encode(picture(at)))
    return both("tench", "crane (1)", "crane (2)")


@layout("Places365")
def places365(photos: PhotoSet) -> Found:
    photos.add("categories_places365.txt", b"/a/airfield 0\n/b/bar 1\n")
    for part, folder in (("train_standard", "data_256_standard"), ("val", "val_256")):
        photos.add(f"places365_{part}.txt", b"/a/1.jpg 0\n/b/1.jpg 1\n")
        jpegs(photos, f"{folder}/a/1.jpg", f"{folder}/b/1.jpg")
    return both("/a/airfield", "/b/bar")


@layout("EuroSAT")
def eurosat(photos: PhotoSet) -> Found:
    jpegs(photos, "eurosat/2750/Forest/1.jpg", "eurosat/2750/River/1.jpg")
    return whole("Forest", "River")


@layout("SUN397")
def sun397(photos: PhotoSet) -> Found:
    photos.add("SUN397/ClassName.txt", b"/a/abbey\n/b/bar\n")
    jpegs(photos, "SUN397/a/abbey/sun_1.jpg", "SUN397/b/bar/sun_2.jpg")
    return whole("abbey", "bar")


@layout("Caltech101")
def caltech101(photos: PhotoSet) -> Found:
    for label in ("ant", "beaver", "BACKGROUND_Google"):
        jpegs(photos, f"caltech101/101_ObjectCategories/{label}/image_0001.jpg")
    photos.add("caltech101/Annotations/ant/annotation_0001.mat", b"")
    return whole("ant", "beaver")


@layout("Caltech256")
def caltech256(photos: PhotoSet) -> Found:
    jpegs(photos, *(f"caltech256/256_ObjectCategories/00{at}.{at}/00{at}_0001.jpg" for at in (1, 2)))
    return whole("001.1", "002.2")


@pytest.fixture
def any_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has torchvision take files for whole that are there: fixtures have not the digests that it pins."""
    from torchvision import datasets

    for name in ("cifar", "fer2013", "flowers102", "places365", "semeion", "stl10", "svhn"):
        module = getattr(datasets, name)
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: Path(path).is_file())


@pytest.mark.parametrize("name", sorted(ALLOWED))
@pytest.mark.usefixtures("any_digest")
def test_class_of_torchvision_is_listed_and_decoded(tmp_path: Path, name: str) -> None:
    expected = LAYOUTS[name](PhotoSet(tmp_path))
    listing = listed(name, tmp_path)
    assert listing.entries is not None
    found = {(entry.label, entry.split) for entry in listing.entries}
    if expected:
        assert found == expected
    assert len({label for label, _ in found}) >= 2
    for item in listing.source.items(listing.entries, 0, lambda count: None):
        decode(item.load(), PREPROCESS, name=item.entry.path)


def test_images_without_labels_are_refused(tmp_path: Path, any_digest: None) -> None:
    face = " ".join(["9"] * 48 * 48)
    photos = PhotoSet(tmp_path).add("fer2013/train.csv", f"emotion,pixels\n0,{face}\n".encode())
    photos.add("fer2013/test.csv", f"pixels\n{face}\n".encode())
    with pytest.raises(DatasetInvalid, match=r"test images without labels.*fer2013\.csv"):
        listed("FER2013", tmp_path)
