"""What every source of images offers, and the table that lists one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

NO_SPLIT = 254
"""Split of an image whose source says nothing about it."""

INCOMPLETE = "incomplete-sample"
"""What a sample of a shard is that lacks an image or a label."""

MAX_IMAGE_BYTES = 256 << 20
"""Larger files are no images that anybody labels; they would have to be held in memory."""


@dataclass(frozen=True)
class Entry:
    """One image as the source names it, before its bytes are read.

    Attributes:
        path: its name, relative to the root; unique with ``offset``.
        label: its class as written.
        split: `dataset.TRAIN`, `VALIDATION`, `TEST` or `NO_SPLIT`.
        weight: at least 0.
        size: bytes, -1 where not known.
        offset: where its bytes begin inside the file that holds it; -1: it is a file of its own.
        slices: a value for each slice column.
    """

    path: str
    label: str
    split: int = NO_SPLIT
    weight: float = 1.0
    size: int = -1
    offset: int = -1
    slices: tuple[str, ...] = ()


class Unreadable(Exception):  # never leaves the pass over the data
    """The bytes of one image cannot be had; the text says why.

    Attributes:
        kind: ``unreadable`` or `INCOMPLETE`.
    """

    def __init__(self, text: str, kind: str = "unreadable") -> None:
        """Keep the kind beside the text."""
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Item:
    """An image on its way through the one pass over the data.

    Attributes:
        entry: what the source says.
        load: returns the encoded image; called once, from any thread. Raises `Unreadable`.
    """

    entry: Entry
    load: Callable[[], bytes]


@dataclass(frozen=True)
class Ignored:
    """A file that is no image of the dataset: clutter, or a path out of the root."""

    path: str
    kind: str


@dataclass(frozen=True)
class Listing:
    """What lies in a source, found without reading any image.

    Attributes:
        fingerprint: hex sha256 over names, sizes and versions: equal while nothing has changed.
        source: where to read.
        format: Folder, Manifest, WebDataset or the name of torchvision's class.
        total: images, or for WebDataset units of the progress bar.
        unit: what ``total`` counts.
        entries: one per image, or None where only reading tells (WebDataset).
        ignored: files left out, at most some hundred of them.
        ignored_counts: how many of each kind.
        slice_names: names of the slice columns.
        empty_classes: class folders without any image.
    """

    fingerprint: str
    source: Source
    format: str
    total: int
    unit: str = "images"
    entries: EntryTable | None = None
    ignored: tuple[Ignored, ...] = ()
    ignored_counts: dict[str, int] = field(default_factory=dict)
    slice_names: tuple[str, ...] = ()
    empty_classes: tuple[str, ...] = ()


class Source(Protocol):
    """A place that images are read from.

    Attributes:
        uri: its address.
        format: what kind it is.
        readers: how many images are worth reading at once, 0: as many as there are processors.
    """

    uri: str
    format: str

    readers: int

    def items(self, entries: EntryTable | None, skip: int, advance: Callable[[int], None]) -> Iterator[Item]:
        """Yield images in the order of the listing, beginning after the first ``skip``.

        Args:
            entries: which images; None: all that the source holds.
            skip: how many to leave out at the beginning.
            advance: moves the progress bar, by sources whose listing does not know how many images come.
        """
        ...

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Read one image again."""
        ...

    def content_digest(self, path: str, data: bytes) -> bytes:
        """The sha256 that stands for an image's content, the same on every machine."""
        ...


class EntryTable:
    """Entries in columns: a hundred bytes for each image instead of a thousand."""

    def __init__(self, table: pa.Table) -> None:
        """Wrap a table made by `build`."""
        self.table = table

    @classmethod
    def build(cls, entries: Iterable[Entry], slice_names: tuple[str, ...] = ()) -> EntryTable:
        """Collect entries, a few thousand at a time."""
        schema = pa.schema(
            [
                ("path", pa.string()),
                ("label", pa.string()),
                ("split", pa.uint8()),
                ("weight", pa.float32()),
                ("size", pa.int64()),
                ("offset", pa.int64()),
                ("slices", pa.list_(pa.string(), len(slice_names))),
            ]
        )
        batches: list[pa.RecordBatch] = []
        pending: list[Entry] = []

        def flush() -> None:
            rows = [{**entry.__dict__, "slices": list(entry.slices)} for entry in pending]
            batches.append(pa.RecordBatch.from_pylist(rows, schema))
            pending.clear()

        for entry in entries:
            pending.append(entry)
            if len(pending) == 4_096:
                flush()
        flush()
        return cls(pa.Table.from_batches(batches, schema))

    def __len__(self) -> int:
        """Number of entries."""
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries in order."""
        yield from self.from_row(0)

    def from_row(self, start: int) -> Iterator[Entry]:
        """Yield the entries from one on."""
        for batch in self.table.slice(start).to_batches(max_chunksize=1_024):
            for row in batch.to_pylist():
                yield Entry(**{**row, "slices": tuple(row["slices"])})

    def take(self, keep: npt.NDArray[np.bool_]) -> EntryTable:
        """The entries where ``keep`` is true."""
        return EntryTable(self.table.filter(pa.array(keep)))

    def column(self, name: str) -> pa.ChunkedArray:
        """One column."""
        return self.table[name]


class Fingerprint:
    """Hashes what a listing consists of, line by line."""

    def __init__(self, *parts: str) -> None:
        """Begin with what the source is."""
        self._hash = hashlib.sha256()
        self.add(*parts)

    def add(self, *parts: str | int) -> None:
        """Add one line."""
        self._hash.update(json.dumps(parts, ensure_ascii=True).encode() + b"\n")

    def hex(self) -> str:
        """The sha256 so far."""
        return self._hash.hexdigest()


_SYSTEM_NAMES = frozenset({"thumbs.db", "desktop.ini"})
_CLUTTER_NAMES = frozenset({"readme", "license", "licence", "copying", "makefile"})
_CLUTTER_EXTENSIONS = frozenset(
    {
        ".txt",
        ".md",
        ".rst",
        ".html",
        ".htm",
        ".log",
        ".csv",
        ".tsv",
        ".parquet",
        ".json",
        ".jsonl",
        ".xml",
        ".db",
        ".mat",
        ".npy",
        ".npz",
        ".pkl",
        ".yaml",
        ".yml",
        ".ini",
        ".cfg",
        ".toml",
        ".py",
        ".ipynb",
        ".sh",
        ".sha256",
        ".md5",
        ".tmp",
        ".part",
        ".bak",
        ".lock",
    }
)


def is_visible(key: str) -> bool:
    """Say whether a file was put there by a person, rather than by the system."""
    path = PurePosixPath(key)
    hidden = any(part.startswith((".", "__MACOSX", "@eaDir")) for part in path.parts)
    return not hidden and path.name.lower() not in _SYSTEM_NAMES


def is_clutter(key: str) -> bool:
    """Say whether a file is something that lies beside images rather than one of them.

    Hidden files and folders, macOS's resource forks, Windows' thumbnails, and text, tables and code by their
    extension. Everything else is looked into: what turns out to be no image is a finding.
    """
    path = PurePosixPath(key)
    named_so = path.name.lower() in _CLUTTER_NAMES or path.suffix.lower() in _CLUTTER_EXTENSIONS
    return named_so or not is_visible(key)
