"""Images that are objects of a store, each read once and several at a time."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from tunesmith_api.reasons import DatasetInvalid, ObjectMissing
from tunesmith_package.store import KeyRefused, Store
from tunesmith_trainer.prepare.source import MAX_IMAGE_BYTES, Entry, EntryTable, Item


class ObjectSource:
    """Images that are files of a folder or objects of a bucket."""

    def __init__(self, store: Store, format: str) -> None:
        """Read from ``store``."""
        self.store, self.uri, self.format = store, store.uri, format

    def items(self, entries: EntryTable | None, skip: int, readers: int) -> Iterator[Item]:
        """Yield the images in order, reading ``readers`` of them at once."""
        if entries is None:
            raise ValueError("objects are read by their listing")
        if not self.uri.startswith("s3://"):
            # A local file is read by the thread that decodes it next; more threads would only wait.
            yield from (self._load(entry) for entry in entries.from_row(skip))
            return
        with ThreadPoolExecutor(readers, "read") as pool:
            pending: deque[Future[Item]] = deque()
            try:
                yield from self._ahead(pool, pending, entries.from_row(skip), readers)
            finally:
                for each in pending:
                    each.cancel()

    def _ahead(
        self, pool: ThreadPoolExecutor, pending: deque[Future[Item]], entries: Iterable[Entry], readers: int
    ) -> Iterator[Item]:
        for entry in entries:
            pending.append(pool.submit(self._load, entry))
            if len(pending) > readers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _load(self, entry: Entry) -> Item:
        if entry.size > MAX_IMAGE_BYTES:
            return Item(entry, None, f"{entry.path} has {entry.size:,} bytes; the limit is {MAX_IMAGE_BYTES:,}.")
        try:
            return Item(entry, self.store.get(entry.path))
        except KeyRefused as error:
            return Item(entry, None, error.message)
        except ObjectMissing:
            return Item(entry, None, f"{entry.path} does not exist.")

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Read one image again.

        Raises:
            DatasetInvalid: it is gone.
        """
        try:
            return self.store.get(path)
        except ObjectMissing as error:
            raise DatasetInvalid(
                f"{path} has vanished from {self.uri}.", "Put it back, or run it again without it."
            ) from error

    def content_digest(self, path: str, data: bytes) -> bytes:
        """The sha256 of the encoded bytes."""
        return hashlib.sha256(data).digest()
