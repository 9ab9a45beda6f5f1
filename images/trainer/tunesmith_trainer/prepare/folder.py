"""A tree with one folder for each class, with or without train/, validation/ and test/ above them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tunesmith_api.reasons import DatasetInvalid, DatasetMissing
from tunesmith_package.store import ObjectInfo, Store
from tunesmith_trainer.prepare.dataset import TEST, TRAIN, VALIDATION
from tunesmith_trainer.prepare.objects import ObjectSource
from tunesmith_trainer.prepare.source import (
    NO_SPLIT,
    Entry,
    EntryTable,
    Fingerprint,
    Ignored,
    Listing,
    is_clutter,
)

_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
_MOST_IGNORED = 200


@dataclass(frozen=True)
class _File:
    key: str
    size: int


class Leftovers:
    """Counts files that are no images of the dataset and remembers some of them."""

    def __init__(self) -> None:
        """Begin with none."""
        self.counts: Counter[str] = Counter()
        self.some: list[Ignored] = []

    def add(self, path: str, kind: str) -> None:
        """Count one file."""
        self.counts[kind] += 1
        if self.counts[kind] <= _MOST_IGNORED:
            self.some.append(Ignored(path, kind))


def list_folder(store: Store, fingerprint: Fingerprint, objects: Iterator[ObjectInfo]) -> Listing:
    """List a class-per-folder tree.

    Raises:
        DatasetMissing: there is not a single file.
        DatasetInvalid: the files lie in no class folders.
    """
    leftovers = Leftovers()
    files = list(_images(objects, fingerprint, leftovers))
    if not files and not leftovers.counts:
        raise DatasetMissing(f"There is nothing at {store.uri}.", "Check spec.dataset.uri.")
    splits = split_folders({file.key.split("/", 1)[0] for file in files if "/" in file.key})
    table = EntryTable.build(_entries(files, splits, leftovers))
    if len(table) == 0:
        raise DatasetInvalid(
            f"{store.uri} has no folders with images in them.",
            "Make one folder for each class and put its images there, "
            "or describe the images in a manifest with the columns path and label.",
        )
    return Listing(
        fingerprint=fingerprint.hex(),
        source=ObjectSource(store, "Folder"),
        format="Folder",
        total=len(table),
        entries=table,
        ignored=tuple(leftovers.some),
        ignored_counts=dict(leftovers.counts),
    )


def split_folders(names: set[str]) -> dict[str, int]:
    """Which top folders are splits, and which.

    They are splits when one is called train and another val, validation or test. Without a test folder, the
    validation folder is the test split: whoever made it compared models on it, and validation is cut from
    train.
    """
    found = {name: _NAMES[name.lower()] for name in names if name.lower() in _NAMES}
    kinds = set(found.values())
    if TRAIN not in kinds or not kinds & {VALIDATION, TEST}:
        return {}
    if TEST not in kinds:
        return {name: TEST if kind == VALIDATION else kind for name, kind in found.items()}
    return found


def _images(
    objects: Iterator[ObjectInfo], fingerprint: Fingerprint, leftovers: Leftovers
) -> Iterator[_File]:
    for info in objects:
        if info.key.endswith("/"):  # a placeholder that S3 consoles make for an empty folder
            continue
        if info.version == "outside":
            fingerprint.add(info.key, info.version)
            leftovers.add(info.key, "outside-root")
        elif is_clutter(info.key):
            leftovers.add(info.key, "clutter")
        else:
            fingerprint.add(info.key, info.size, info.version)
            yield _File(info.key, info.size)


def _entries(files: list[_File], splits: dict[str, int], leftovers: Leftovers) -> Iterator[Entry]:
    for file in files:
        top, _, rest = file.key.partition("/")
        if splits and top not in splits:
            leftovers.add(file.key, "outside-splits")
            continue
        label = (rest if splits else file.key).partition("/")
        if not label[1]:
            leftovers.add(file.key, "outside-classes")
            continue
        yield Entry(file.key, label[0], splits.get(top, NO_SPLIT) if splits else NO_SPLIT, size=file.size)
