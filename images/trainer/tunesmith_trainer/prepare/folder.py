"""A tree with one folder for each class, with or without train/, validation/ and test/ above them."""

from __future__ import annotations

from collections.abc import Iterator, Set

import pyarrow.compute as pc

from tunesmith_api.reasons import DatasetInvalid
from tunesmith_package.store import Store
from tunesmith_trainer.prepare.checks import ignored, left_out, named
from tunesmith_trainer.prepare.dataset import TEST, TRAIN, VALIDATION
from tunesmith_trainer.prepare.files import Files, is_text
from tunesmith_trainer.prepare.objects import ObjectSource
from tunesmith_trainer.prepare.source import NO_SPLIT, Entry, EntryTable, Listing, is_clutter, is_visible
from tunesmith_trainer.prepare.split_names import split_of


def list_folder(store: Store, files: Files) -> Listing:
    """List a class-per-folder tree. Folders below a class's folder belong to the class.

    Raises:
        DatasetInvalid: the files lie in no class folders, or in folders that are called like splits and
            make none.
    """
    for beside in (*files.tables, *files.shards):
        files.leftovers.add(beside.key, "clutter")
    for packed in files.packed:
        files.leftovers.add(packed, "clutter")
    splits = split_folders(files.folders)
    if not splits:
        _refuse_half_a_split(store.uri, files)
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
    if empty := _empty_classes(store, table, splits):
        files.fingerprint.add("empty", *empty)
    return Listing(
        fingerprint=files.fingerprint.hex(),
        source=ObjectSource(store, "Folder"),
        format="Folder",
        total=len(table),
        entries=table,
        ignored=tuple(files.leftovers.some),
        ignored_counts=dict(files.leftovers.counts),
        empty_classes=empty,
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


def _empty_classes(store: Store, table: EntryTable, splits: dict[str, int]) -> tuple[str, ...]:
    """Folders where classes lie that hold no image: left by a copy that failed, or still to be filled."""
    full = set(pc.unique(table.column("label")).to_pylist())
    found = {
        name
        for above in splits or ("",)
        for name in store.folders(above)
        if name not in full
        and is_text(name)
        and not is_clutter(name)
        # Annotations and scripts lie in folders of their own, which nobody means for classes.
        and not any(is_visible(info.key) for info in store.list(f"{above}/{name}/" if above else f"{name}/"))
    }
    return tuple(sorted(found))


def _refuse_half_a_split(uri: str, files: Files) -> None:
    """Refuse folders like test/ants where they are neither splits nor, by their look, classes."""
    called = {name for name in files.folders if split_of(name) is not None}
    if not called:
        return
    tops = {key.partition("/")[0] for key, _ in files if key.count("/") > 1}
    if not (inner := sorted(called & tops)):
        return
    if TRAIN in map(split_of, called):
        others = sorted(files.folders - called)
        problem = f"beside them lie {named(others)} and no validation or test folder"
        remedy = f"Point spec.dataset.uri at the folder {inner[0]} alone, or add a test folder"
    else:
        problem = "there is no train folder beside them"
        remedy = "Add a train folder, or move the classes up to have the split cut"
    raise DatasetInvalid(
        f"The top folders {named(inner)} of {uri} are called like splits and hold folders, but {problem}.",
        f"{remedy}. If these are classes, rename them, or describe the images in a manifest.",
    )


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
