"""A tree with one folder for each class, with or without train/, validation/ and test/ above them."""

from __future__ import annotations

from collections.abc import Iterator, Set

from tunesmith_api.reasons import DatasetInvalid
from tunesmith_package.store import Store
from tunesmith_trainer.prepare.checks import ignored, left_out
from tunesmith_trainer.prepare.dataset import TEST, TRAIN, VALIDATION
from tunesmith_trainer.prepare.files import Files
from tunesmith_trainer.prepare.objects import ObjectSource
from tunesmith_trainer.prepare.source import NO_SPLIT, Entry, EntryTable, Listing
from tunesmith_trainer.prepare.split_names import split_of


def list_folder(store: Store, files: Files) -> Listing:
    """List a class-per-folder tree. Folders below a class's folder belong to the class.

    Raises:
        DatasetInvalid: the files lie in no class folders.
    """
    for beside in (*files.tables, *files.shards):
        files.leftovers.add(beside.key, "clutter")
    splits = split_folders(files.folders)
    table = EntryTable.build(_entries(files, splits))
    if len(table) == 0:
        tables = f" Point spec.dataset.uri at {files.tables[0].key} if it lists them." if files.tables else ""
        causes = left_out(ignored(files.leftovers.counts, files.leftovers.some))
        copy = "Copy what is linked into the root. " if "outside-root" in files.leftovers.counts else ""
        raise DatasetInvalid(
            f"{store.uri} has no folders with images in them.{causes}",
            f"{copy}Make one folder for each class and put its images there, "
            f"or describe the images in a manifest with the columns path and label.{tables}",
        )
    return Listing(
        fingerprint=files.fingerprint.hex(),
        source=ObjectSource(store, "Folder"),
        format="Folder",
        total=len(table),
        entries=table,
        ignored=tuple(files.leftovers.some),
        ignored_counts=dict(files.leftovers.counts),
    )


def split_folders(names: Set[str]) -> dict[str, int]:
    """Which top folders are splits, and which.

    They are splits when one is called train and another val, validation or test, or when train is all there
    is. What a missing test folder means is up to `split.settle`.
    """
    found = {name: split for name in names if (split := split_of(name)) is not None}
    kinds = set(found.values())
    if TRAIN not in kinds or not (kinds & {VALIDATION, TEST} or len(names) == 1):
        return {}
    return found


def _entries(files: Files, splits: dict[str, int]) -> Iterator[Entry]:
    for key, size in files:
        top, _, rest = key.partition("/")
        if splits and top not in splits:
            files.leftovers.add(key, "outside-splits")
            continue
        label, inside, _ = (rest if splits else key).partition("/")
        if not inside:
            files.leftovers.add(key, "outside-classes")
            continue
        yield Entry(key, label, splits[top] if splits else NO_SPLIT, size=size)
