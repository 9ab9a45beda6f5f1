"""torchvision's own dataset classes, read from files that lie on this machine already."""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from PIL import Image

from tunesmith_api.reasons import DatasetInvalid, DatasetMissing, ObjectMissing, SpecInvalid
from tunesmith_package.file_store import FileStore
from tunesmith_package.store import KeyRefused
from tunesmith_trainer.prepare.dataset import TEST, TRAIN, VALIDATION
from tunesmith_trainer.prepare.source import (
    NO_SPLIT,
    Entry,
    EntryTable,
    Fingerprint,
    Item,
    Listing,
    Unreadable,
)

SCHEME = "torchvision://"
_INDEX_PATH = re.compile(r"[a-z]+/[0-9]{7}\.png")  # what an image of an array is called


@dataclass(frozen=True)
class _Parts:
    """How a class names its splits: the argument and its value for each part."""

    argument: str
    values: tuple[tuple[str, Any, int], ...]
    fixed: tuple[tuple[str, Any], ...] = ()


def _split(*values: tuple[str, int], **fixed: Any) -> _Parts:
    return _Parts("split", tuple((value, value, kind) for value, kind in values), tuple(fixed.items()))


_TRAIN_FLAG = _Parts("train", (("train", True, TRAIN), ("test", False, TEST)))
_TRAIN_TEST = _split(("train", TRAIN), ("test", TEST))
_ALL_THREE = _split(("train", TRAIN), ("val", VALIDATION), ("test", TEST))
_TRAIN_VAL = _split(("train", TRAIN), ("val", TEST))
_WHOLE = _Parts("", (("all", None, NO_SPLIT),))

ALLOWED: dict[str, _Parts] = {
    "MNIST": _TRAIN_FLAG,
    "FashionMNIST": _TRAIN_FLAG,
    "KMNIST": _TRAIN_FLAG,
    "QMNIST": _TRAIN_FLAG,
    "EMNIST": _Parts("train", _TRAIN_FLAG.values, (("split", "balanced"),)),
    "USPS": _TRAIN_FLAG,
    "CIFAR10": _TRAIN_FLAG,
    "CIFAR100": _TRAIN_FLAG,
    "SEMEION": _Parts("", _WHOLE.values, (("download", False),)),
    "FER2013": _TRAIN_TEST,
    "SVHN": _TRAIN_TEST,
    "STL10": _TRAIN_TEST,
    "GTSRB": _TRAIN_TEST,
    "Food101": _TRAIN_TEST,
    "StanfordCars": _TRAIN_TEST,
    "OxfordIIITPet": _split(("trainval", TRAIN), ("test", TEST)),
    "Flowers102": _ALL_THREE,
    "DTD": _ALL_THREE,
    "FGVCAircraft": _ALL_THREE,
    "RenderedSST2": _ALL_THREE,
    "Country211": _split(("train", TRAIN), ("valid", VALIDATION), ("test", TEST)),
    "Imagenette": _TRAIN_VAL,
    "ImageNet": _TRAIN_VAL,
    "Places365": _split(("train-standard", TRAIN), ("val", TEST), small=True),
    "EuroSAT": _WHOLE,
    "SUN397": _WHOLE,
    "Caltech101": _WHOLE,
    "Caltech256": _WHOLE,
}
"""The classes that are read: those with one label for each image. None of them is asked to download.

Places365 is that of 256 pixels, ImageNet and Places365 are tested on their validation images.
"""

_LABELS = ("targets", "labels", "_labels", "y")
_FILES = ("_image_files", "_images")
_SAMPLES = ("samples", "_samples", "imgs")


class TorchvisionSource:
    """Images of one of torchvision's classes: the files that it names, or PNGs of the arrays it holds."""

    def __init__(self, uri: str) -> None:
        """Take the address apart; no file is opened yet.

        Raises:
            SpecInvalid: an unknown class, an unknown option or no root.
        """
        self.uri = uri
        self.format, self.root = _parse(uri)
        self.readers = 0
        self._parts = ALLOWED[self.format]

    @cached_property
    def datasets(self) -> dict[str, Any]:
        """The dataset objects by the name of their part."""
        return {name: self._open(value) for name, value, _ in self._parts.values}

    def _open(self, value: Any) -> Any:
        from torchvision import datasets

        arguments = dict(self._parts.fixed)
        if self._parts.argument:
            arguments[self._parts.argument] = value
        try:
            return getattr(datasets, self.format)(root=str(self.root), **arguments)
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            raise DatasetMissing(
                f"torchvision cannot read {self.format} in {self.root}: {str(error).strip()[:300]}.",
                f"Put the files there as torchvision.datasets.{self.format} lays them out "
                f"(tunesmith fetch data {self.format} does it where it can); training never downloads.",
            ) from error

    def entries(self) -> Iterator[Entry]:
        """Yield an entry for each image.

        Raises:
            DatasetInvalid: an image has no label.
        """
        for name, _, split in self._parts.values:
            dataset = self.datasets[name]
            labels = _labels(dataset)
            names = _class_names(dataset)
            files = _image_files(dataset)
            for index, label in enumerate(labels):
                if label is None:
                    raise DatasetInvalid(
                        f"{self.format} in {self.root} has {name} images without labels.",
                        "Put the files there that have them, for FER2013 fer2013.csv or icml_face_data.csv.",
                    )
                if files is None:
                    yield Entry(f"{name}/{index:07d}.png", names(int(label)), split, offset=index)
                else:
                    yield Entry(self._key(files[index]), names(int(label)), split)

    def items(self, entries: EntryTable | None, skip: int, advance: Callable[[int], None]) -> Iterator[Item]:
        """Yield the images in order."""
        if entries is None:
            raise ValueError("images of torchvision are read by their listing")
        for entry in entries.from_row(skip):
            yield Item(entry, partial(self._load, entry))

    def _key(self, file: str | Path) -> str:
        return Path(file).absolute().relative_to(self.root.absolute()).as_posix()

    def _load(self, entry: Entry) -> bytes:
        try:
            return self.read(entry.path, entry.offset, entry.size)
        except (OSError, SyntaxError, ValueError, KeyRefused, ObjectMissing) as error:
            raise Unreadable(f"{entry.path} cannot be read ({error}).") from error

    def read(self, path: str, offset: int, size: int) -> bytes:
        """One image: its file's bytes, or, with its index as ``offset``, a PNG."""
        if offset < 0:
            return FileStore(self.root).get(path)
        image = self.datasets[path.partition("/")[0]][offset][0]
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def content_digest(self, path: str, data: bytes) -> bytes:
        """The sha256 of a file's bytes; of arrays that of mode, size and pixels.

        PNG encoders differ between machines, pixels do not.
        """
        if not _INDEX_PATH.fullmatch(path):
            return hashlib.sha256(data).digest()
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            head = f"{image.mode} {image.width} {image.height}\n".encode()
            return hashlib.sha256(head + image.tobytes()).digest()


def list_torchvision(uri: str) -> Listing:
    """List one of torchvision's datasets.

    Raises:
        SpecInvalid: an unknown class or option.
        DatasetMissing: the files are not there.
        DatasetInvalid: it holds no images.
    """
    source = TorchvisionSource(uri)
    fingerprint = Fingerprint("torchvision", source.format)
    for path in sorted(each for each in files_root(uri).rglob("*") if each.is_file()):
        status = path.stat()
        fingerprint.add(path.relative_to(source.root).as_posix(), status.st_size, status.st_mtime_ns)
    table = EntryTable.build(source.entries())
    if len(table) == 0:
        raise DatasetInvalid(f"{source.format} in {source.root} holds no images.", "Check its files.")
    fingerprint.add(len(table))
    return Listing(fingerprint.hex(), source, source.format, len(table), entries=table)


def files_root(uri: str) -> Path:
    """The folder with a class's files: its own where it has one, else all of the root.

    Raises:
        SpecInvalid: an unknown class, an unknown option or no root.
    """
    name, root = _parse(uri)
    return root / name if (root / name).is_dir() else root


def _parse(uri: str) -> tuple[str, Path]:
    name, _, query = uri.removeprefix(SCHEME).partition("?")
    options = dict(parse_qsl(query))
    if name not in ALLOWED:
        raise SpecInvalid(
            f"torchvision://{name} is not among the datasets that can be read.",
            f"Use one of {', '.join(sorted(ALLOWED))}, or write the images into one folder for each class.",
        )
    if set(options) - {"root"} or not options.get("root", "").startswith("/"):
        raise SpecInvalid(
            f"{uri!r} does not say where the files lie.", f"Write torchvision://{name}?root=/absolute/folder."
        )
    return name, Path(options["root"])


def _labels(dataset: Any) -> Iterable[Any]:
    for name in _LABELS:
        if hasattr(dataset, name):
            found: Any = getattr(dataset, name)
            # QMNIST says more than the class of each image
            labels: Iterable[Any] = found[:, 0] if getattr(found, "ndim", 1) == 2 else found
            return labels
    samples = _first(dataset, _SAMPLES)
    if samples is not None:
        return (label for _, label in samples)
    return (dataset[index][1] for index in range(len(dataset)))


def _image_files(dataset: Any) -> Sequence[str | Path] | None:
    """The file of each image, where the class keeps such a list (a private detail of torchvision's)."""
    files = _first(dataset, _FILES)
    if files is None and (samples := _first(dataset, _SAMPLES)) is not None:
        files = [path for path, _ in samples]
    return files if files and isinstance(files[0], str | Path) else None


def _first(dataset: Any, names: Iterable[str]) -> Any:
    return next((found for name in names if (found := getattr(dataset, name, None)) is not None), None)


def _class_names(dataset: Any) -> Callable[[int], str]:
    found = getattr(dataset, "classes", None) or getattr(dataset, "categories", None)
    names = [str(each[0] if isinstance(each, tuple) else each) for each in found or ()]
    count = Counter(names)

    def name(label: int) -> str:
        if not 0 <= label < len(names):
            return str(label)
        # ImageNet has two classes called crane and two called maillot
        return names[label] if count[names[label]] == 1 else f"{names[label]} ({label})"

    return name
