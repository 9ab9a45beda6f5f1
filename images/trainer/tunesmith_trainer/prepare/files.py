"""What lies below a root: images, shards, tables and clutter, told apart by their names alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from tunesmith_api.reasons import DatasetMissing
from tunesmith_package.store import FOLDER_LINK, OUTSIDE, ObjectInfo, Store
from tunesmith_trainer.prepare.source import Fingerprint, Ignored, is_clutter

SHARD_EXTENSION = ".tar"
PACKED_EXTENSIONS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
"""Compressed shards: recognised to be refused by name, as single images in them could not be found again."""
TABLE_EXTENSIONS = (".csv", ".parquet")
_MOST_IGNORED = 200
_BATCH = 4_096
_SCHEMA = pa.schema([("path", pa.string()), ("size", pa.int64())])


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


@dataclass(frozen=True)
class Files:
    """The files of a root, sorted by name.

    Attributes:
        table: path and size of each file that may be an image.
        shards: the .tar files.
        packed: names of the compressed ones, which are not read.
        tables: the CSV and Parquet files that lie directly in the root.
        folders: names of the top folders that hold files of ``table``.
        fingerprint: over the names, sizes and versions of all of these.
        leftovers: clutter, links out of the root and links to folders.
    """

    table: pa.Table
    shards: tuple[ObjectInfo, ...]
    packed: tuple[str, ...]
    tables: tuple[ObjectInfo, ...]
    folders: frozenset[str]
    fingerprint: Fingerprint
    leftovers: Leftovers

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Yield path and size of each file that may be an image."""
        for batch in self.table.to_batches(max_chunksize=_BATCH):
            yield from zip(batch["path"].to_pylist(), batch["size"].to_pylist(), strict=True)

    def only_shard(self, key: str) -> Files:
        """The same root as if it held nothing but one shard."""
        fingerprint = Fingerprint("files")
        shards = tuple(each for each in self.shards if each.key == key)
        packed = tuple(each for each in self.packed if each == key)
        for each in shards:
            fingerprint.add(each.key, each.size, each.version)
        return replace(
            self,
            table=_SCHEMA.empty_table(),
            shards=shards,
            packed=packed,
            fingerprint=fingerprint,
            leftovers=Leftovers(),
        )


def list_files(store: Store) -> Files:
    """List a root. Memory: the names, in columns.

    Raises:
        DatasetMissing: there is not a single file.
        StoreError: the store cannot be read.
    """
    fingerprint, leftovers = Fingerprint("files"), Leftovers()
    shards: list[ObjectInfo] = []
    packed: list[str] = []
    tables: list[ObjectInfo] = []
    folders: set[str] = set()
    batches: list[pa.RecordBatch] = []
    pending: list[tuple[str, int]] = []

    def flush() -> None:
        columns = [[each[at] for each in pending] for at in (0, 1)]
        batches.append(pa.record_batch(columns, schema=_SCHEMA))
        pending.clear()

    for info in store.list():
        if not is_text(info.key):
            # Neither the ledger nor a report could write such a name down.
            leftovers.add(
                info.key.encode(errors="surrogateescape").decode(errors="backslashreplace"), "odd-name"
            )
            continue
        if info.version == OUTSIDE:
            leftovers.add(info.key, "outside-root")
        elif info.version == FOLDER_LINK:
            leftovers.add(info.key, "folder-link")
        elif "/" not in info.key and info.key.lower().endswith(TABLE_EXTENSIONS) and info.key[0] != ".":
            tables.append(info)
        elif is_clutter(info.key):
            leftovers.add(info.key, "clutter")
            continue
        elif info.key.lower().endswith(SHARD_EXTENSION):
            shards.append(info)
        elif info.key.lower().endswith(PACKED_EXTENSIONS):
            packed.append(info.key)
        else:
            pending.append((info.key, info.size))
            if "/" in info.key:
                folders.add(info.key.partition("/")[0])
            if len(pending) == _BATCH:
                flush()
        fingerprint.add(info.key, info.size, info.version)
    flush()
    table = pa.Table.from_batches(batches, _SCHEMA)
    if not (table.num_rows or shards or packed or tables or leftovers.counts):
        raise DatasetMissing(f"There is nothing at {store.uri}.", "Check spec.dataset.uri.")
    return Files(
        table, tuple(shards), tuple(packed), tuple(tables), frozenset(folders), fingerprint, leftovers
    )


def is_text(name: str) -> bool:
    """Say whether a name is Unicode; on a file system it may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
