"""Images that are objects of a store, each read once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial

from tunesmith_api.reasons import DatasetInvalid, ObjectMissing
from tunesmith_package.store import KeyRefused, ObjectDenied, Store
from tunesmith_trainer.prepare.source import MAX_IMAGE_BYTES, Entry, EntryTable, Item, Unreadable

# Enough to hide a round trip of some milliseconds behind decoding.
_REMOTE_READERS = 16


class ObjectSource:
    """Images that are files of a folder or objects of a bucket."""

    def __init__(self, store: Store, format: str) -> None:
        """Read from ``store``."""
        self.store, self.uri, self.format = store, store.uri, format
        self.readers = _REMOTE_READERS if self.uri.startswith("s3://") else 0

    def items(self, entries: EntryTable | None, skip: int, advance: Callable[[int], None]) -> Iterator[Item]:
        """Yield the images in order."""
        if entries is None:
            raise ValueError("objects are read by their listing")
        for entry in entries.from_row(skip):
            yield Item(entry, partial(self._load, entry))

    def _load(self, entry: Entry) -> bytes:
        if entry.size > MAX_IMAGE_BYTES:
            raise Unreadable(f"{entry.path} has {entry.size:,} bytes; the limit is {MAX_IMAGE_BYTES:,}.")
        try:
            return self.store.get(entry.path)
        except (KeyRefused, ObjectDenied, ObjectMissing) as error:
            raise Unreadable(error.message) from error

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
