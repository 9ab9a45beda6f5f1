"""The one pass over the data: read, hash, decode and look at each image, and keep its pixels.

The result lies in the cache under a key made of the listing and the preprocessing: ``pixels.u8`` and
``scan-NNNNN.parquet``, one part for each thousand images. A killed pass goes on behind its last part. Memory
does not depend on the number of images: results leave the queue in order and go to disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith_package.preprocess import ImageInvalid, Preprocess, decode
from tunesmith_trainer.devices import allowed_processors
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare.perceptual import perceptual_hash
from tunesmith_trainer.prepare.pixels import PixelStore, translated
from tunesmith_trainer.prepare.source import Item, Listing, Unreadable

PART_IMAGES = 1_024
PIXELS_FILE = "pixels.u8"
FORMAT = 1
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
        pixels: the file; ``table["pixel"]`` says which image of it, -1 where there is none.
        reused: whether an earlier run had done all of it.
    """

    table: pa.Table
    pixels: Path
    reused: bool


def scan_key(listing: Listing, preprocess: Preprocess, choice: str) -> str:
    """Name of a scan in the cache: everything that decides what is in it, hashed.

    Mean and standard deviation are left out: they do not change a pixel.
    """
    shape = [preprocess.image_size, preprocess.resize, preprocess.interpolation, preprocess.max_pixels]
    parts = [FORMAT, listing.format, listing.fingerprint, choice, *shape]
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
        return Scanned(_read(folder), folder / PIXELS_FILE, reused)


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
        return (folder / PIXELS_FILE).stat().st_size == count * 3 * preprocess.image_size**2
    except (OSError, pa.ArrowException):
        return False


def _stored(parts: list[Path]) -> int:
    """Images whose pixels the parts say are in the file."""
    highest = -1
    for part in parts:
        column = pq.read_table(part, columns=["pixel"])["pixel"].to_numpy()
        highest = max(highest, int(column.max(initial=-1)))
    return highest + 1


def _resume(folder: Path, preprocess: Preprocess) -> tuple[PixelStore, int, int]:
    """Open the pixel file behind the last whole part; say how many images and parts are done."""
    for left in folder.glob("*.partial"):
        left.unlink()
    parts = _parts(folder)
    try:
        lengths = [pq.read_metadata(part).num_rows for part in parts]
        if any(length != PART_IMAGES for length in lengths[:-1]):
            raise ValueError("parts of another version")
        store = PixelStore.resume(folder / PIXELS_FILE, preprocess.image_size, _stored(parts))
        return store, sum(lengths), len(parts)
    except (ValueError, pa.ArrowException):
        for part in parts:
            part.unlink()
        return PixelStore.create(folder / PIXELS_FILE, preprocess.image_size), 0, 0


def _run(listing: Listing, preprocess: Preprocess, folder: Path, events: Events) -> None:
    store, done, part = _resume(folder, preprocess)
    rows: list[dict[str, Any]] = []
    with store, events.progress("decode", listing.total, listing.unit) as bar:
        if listing.entries is not None:
            bar.advance(min(done, listing.total))
        for seen, pixels in _seen(listing, preprocess, done, bar.advance):
            if pixels is not None:
                seen["pixel"] = len(store)
                store.append(pixels)
            rows.append(seen)
            if listing.entries is not None:
                bar.advance()
            if len(rows) == PART_IMAGES:
                _write_part(folder, part, rows, store)
                part += 1
        if rows:
            _write_part(folder, part, rows, store)


def _write_part(folder: Path, number: int, rows: list[dict[str, Any]], store: PixelStore) -> None:
    # A part must not name pixels that a power cut would take back.
    store.flush(durable=True)
    path = folder / f"scan-{number:06d}.parquet"
    partial = path.with_suffix(".partial")
    with translated(path):
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), partial, compression="zstd")
        partial.replace(path)
    rows.clear()


Seen = tuple[dict[str, Any], npt.NDArray[np.uint8] | None]


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
            return {**seen, "fault": "unreadable", "message": str(error)}, None
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
        seen["perceptual"] = perceptual_hash(decoded.pixels)
        seen["area"] = decoded.width * decoded.height
        seen["observations"] = list(decoded.observations)
        return seen, decoded.pixels


def free_bytes(folder: Path) -> int:
    """Bytes that a file in ``folder`` may still take."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
