"""The one pass over the data: read, hash, decode and look at each image, and keep its pixels.

The result lies in the cache under a key made of the listing and the preprocessing: ``pixels.u8`` and
``scan-NNNNN.parquet``, one part for each thousand images. A killed pass goes on behind its last part. Memory
does not depend on the number of images: results leave the queue in order and go to disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith_package.preprocess import ImageInvalid, Preprocess, decode
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare.perceptual import SMALL_SIDE, perceptual_hash, small_picture
from tunesmith_trainer.prepare.pixels import PixelStore, translated
from tunesmith_trainer.prepare.source import Item, Listing, Unreadable
from tunesmith_trainer.processors import allowed_processors

PART_IMAGES = 1_024
PIXELS_FILE = "pixels.u8"
SMALL_FILE = "small.u8"
FORMAT = 2
"""Raise it whenever the same listing would give another scan."""

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("label", pa.string()),
        ("given_split", pa.uint8()),
        ("weight", pa.float32()),
        ("slices", pa.list_(pa.string())),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.binary()),
        ("pixel_hash", pa.binary()),
        ("perceptual", pa.uint64()),
        ("area", pa.int64()),
        ("observations", pa.list_(pa.string())),
        ("fault", pa.string()),
        ("message", pa.string()),
        ("pixel", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Scanned:
    """What was seen of all images.

    Attributes:
        table: one line per image in the order of the listing, with the columns of `SCHEMA`.
        folder: holds ``pixels.u8`` and, averaged down, ``small.u8``; ``table["pixel"]`` says which image of
            these, -1 where there is none.
        reused: whether an earlier run had done all of it.
    """

    table: pa.Table
    folder: Path
    reused: bool


def scan_key(listing: Listing, preprocess: Preprocess, choice: str) -> str:
    """Name of a scan in the cache: everything that decides what is in it, hashed.

    Mean and standard deviation are left out: they do not change a pixel.
    """
    shape = [preprocess.image_size, preprocess.resize, preprocess.interpolation, preprocess.max_pixels]
    parts = [FORMAT, listing.format, listing.source.uri, listing.fingerprint, choice, *shape]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def scan(listing: Listing, preprocess: Preprocess, folder: Path, events: Events) -> Scanned:
    """Look at every image of a listing, or take over what an earlier run left in ``folder``.

    Raises:
        DiskFull: the cache's disk is full; what is done is kept.
        StoreError: the source cannot be read.
        OSError: another error of the local disk.
    """
    with _alone(folder):
        finished = folder / "finished"
        reused = finished.exists() and _whole(folder, preprocess)
        if not reused:
            finished.unlink(missing_ok=True)
            _run(listing, preprocess, folder, events)
            with translated(finished):
                finished.write_bytes(b"")
        return Scanned(_read(folder), folder, reused)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time write into the folder; the others find its work done."""
    with translated(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("ab")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("scan-*.parquet"))


def _read(folder: Path) -> pa.Table:
    parts = [pq.read_table(part, schema=SCHEMA) for part in _parts(folder)]
    return pa.concat_tables(parts) if parts else SCHEMA.empty_table()


def _whole(folder: Path, preprocess: Preprocess) -> bool:
    try:
        count = _stored(_parts(folder))
        sides = {PIXELS_FILE: preprocess.image_size, SMALL_FILE: SMALL_SIDE}
        return all((folder / name).stat().st_size == count * 3 * side**2 for name, side in sides.items())
    except (OSError, pa.ArrowException):
        return False


def _stored(parts: list[Path]) -> int:
    """Images whose pixels the parts say are in the file."""
    highest = -1
    for part in parts:
        column = pq.read_table(part, columns=["pixel"])["pixel"].to_numpy()
        highest = max(highest, int(column.max(initial=-1)))
    return highest + 1


@dataclass
class _Output:
    """The files of a scan while they grow."""

    folder: Path
    pixels: PixelStore
    small: PixelStore
    parts: int
    done: int
    writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "parts"))
    writing: Future[None] | None = None

    def __enter__(self) -> Self:
        """Finish or give up in `__exit__`."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Wait for the last part and close the files."""
        with self.pixels, self.small:
            self.writer.shutdown()
            if kind is None:
                self.wait()

    @classmethod
    def resume(cls, folder: Path, image_size: int) -> Self:
        """Go on behind the last whole part, or begin anew where the files do not fit together."""
        for left in folder.glob("*.partial"):
            left.unlink()
        parts = _parts(folder)
        try:
            lengths = [pq.read_metadata(part).num_rows for part in parts]
            if any(length != PART_IMAGES for length in lengths[:-1]):
                raise ValueError("parts of another version")
            return cls._open(folder, image_size, _stored(parts), len(parts), sum(lengths))
        except (ValueError, pa.ArrowException):
            for part in parts:
                part.unlink()
            return cls._open(folder, image_size, 0, 0, 0)

    @classmethod
    def _open(cls, folder: Path, image_size: int, stored: int, parts: int, done: int) -> Self:
        pixels = PixelStore.resume(folder / PIXELS_FILE, image_size, stored)
        small = PixelStore.resume(folder / SMALL_FILE, SMALL_SIDE, stored)
        return cls(folder, pixels, small, parts, done)

    def write_part(self, rows: list[dict[str, Any]]) -> None:
        """Make ``rows`` and all pixels up to them safe from a kill, while decoding goes on."""
        self.wait()
        self.pixels.flush()
        self.small.flush()
        self.writing = self.writer.submit(self.save_part, self.parts, pa.Table.from_pylist(rows, SCHEMA))
        self.parts += 1
        rows.clear()

    def save_part(self, part: int, table: pa.Table) -> None:
        """Write one part; it must not name pixels that a power cut would take back."""
        self.pixels.sync()
        self.small.sync()
        path = self.folder / f"scan-{part:06d}.parquet"
        partial = path.with_suffix(".partial")
        with translated(path):
            pq.write_table(table, partial, compression="zstd")
            partial.replace(path)

    def wait(self) -> None:
        """Return once the last part is written.

        Raises:
            DiskFull: it found no room.
        """
        if self.writing is not None:
            self.writing.result()


def _run(listing: Listing, preprocess: Preprocess, folder: Path, events: Events) -> None:
    known = listing.entries is not None
    rows: list[dict[str, Any]] = []
    out = _Output.resume(folder, preprocess.image_size)
    before = out.done if known else 0
    with out, events.progress("decode", listing.total, listing.unit, done=before) as bar:
        for seen, pictures in _seen(listing, preprocess, out.done, bar.advance):
            if pictures is not None:
                seen["pixel"] = len(out.pixels)
                out.pixels.append(pictures[0])
                out.small.append(pictures[1])
            rows.append(seen)
            if known:
                bar.advance()
            if len(rows) == PART_IMAGES:
                out.write_part(rows)
        if rows:
            out.write_part(rows)


Pictures = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
Seen = tuple[dict[str, Any], Pictures | None]


def _seen(
    listing: Listing, preprocess: Preprocess, skip: int, advance: Callable[[int], None]
) -> Iterator[Seen]:
    """Look at the images behind ``skip`` with several threads; yield in order, a bounded number ahead."""
    processors = allowed_processors()
    threads = max(processors, listing.source.readers)
    look = _Look(listing, preprocess, threading.Semaphore(processors))
    with ThreadPoolExecutor(threads, "decode") as pool:
        pending: deque[Future[Seen]] = deque()
        try:
            for item in listing.source.items(listing.entries, skip, advance):
                pending.append(pool.submit(look, item))
                if len(pending) >= 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for each in pending:
                each.cancel()


class _Look:
    """Reads, hashes and decodes one image; as many threads decode at once as there are processors."""

    def __init__(self, listing: Listing, preprocess: Preprocess, decoding: threading.Semaphore) -> None:
        self.source, self.preprocess, self.decoding = listing.source, preprocess, decoding

    def __call__(self, item: Item) -> Seen:
        entry = item.entry
        seen: dict[str, Any] = {
            "path": entry.path,
            "label": entry.label,
            "given_split": entry.split,
            "weight": entry.weight,
            "slices": list(entry.slices),
            "offset": entry.offset,
            "size": max(entry.size, 0),
            "sha256": b"",
            "pixel_hash": b"",
            "perceptual": 0,
            "area": 0,
            "observations": [],
            "fault": "",
            "message": "",
            "pixel": -1,
        }
        try:
            data = item.load()
        except Unreadable as error:
            return {**seen, "fault": error.kind, "message": str(error)}, None
        with self.decoding:
            return self._decoded(seen, data)

    def _decoded(self, seen: dict[str, Any], data: bytes) -> Seen:
        seen["size"] = len(data)
        try:
            decoded = decode(data, self.preprocess, name=seen["path"])
        except ImageInvalid as error:
            return {**seen, "fault": error.kind, "message": error.message}, None
        seen["sha256"] = self.source.content_digest(seen["path"], data)
        seen["pixel_hash"] = hashlib.sha256(decoded.pixels.data).digest()[:16]
        small = small_picture(decoded.pixels)
        seen["perceptual"] = perceptual_hash(small)
        seen["area"] = decoded.width * decoded.height
        seen["observations"] = list(decoded.observations)
        return seen, (decoded.pixels, small)
