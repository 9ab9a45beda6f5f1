"""Where datasets, checkpoints and packages lie: one small interface over ``file://`` and ``s3://``.

A store is a flat map from keys to bytes. Writing is atomic, a key written once with `put_if_absent` has
exactly one winner, and reading never needs more memory than what the caller asks for. Passing errors of
the network are waited for; everything else is an error with a reason at once.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote

from tunesmith_api.reasons import SpecInvalid, StoreDenied
from tunesmith_package.patience import Patience

AFTER_FULL = "What is there is kept: make room and run the same command again."
"""What to do when a store or a disk has no room; every write is whole or not there."""

OUTSIDE, UNREADABLE, FOLDER_LINK = "outside", "unreadable", "folder-link"
"""Versions in a listing of what has a key and is no object: a link out of the root; a link to nothing, a pipe
or a device; a link to a folder below the root, whose content is listed under its own name."""

PATIENCE_SECONDS = 300.0
"""How long a store may stay away unless somebody says otherwise."""

_KEY_BYTES = 1024  # S3's own limit, counted in UTF-8


class KeyRefused(StoreDenied):
    """A key that would leave the store's root, or that no store could hold."""


class ObjectDenied(StoreDenied):
    """One object that may not be used, in a store that may."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object in a listing.

    Attributes:
        key: its key, relative to the store's root, with ``/`` between the parts.
        size: bytes.
        version: changes whenever the object is written: S3's ETag, or a file's time of change in ns;
            or one of `OUTSIDE`, `UNREADABLE` and `FOLDER_LINK`.
    """

    key: str
    size: int
    version: str


class Store(Protocol):
    """What can be done with a place that holds objects.

    Every method may raise `StoreUnreachable` (waited in vain), `StoreDenied` (credentials or
    permissions), and `KeyRefused` for a key that leaves the root; writing may raise `StoreFull`, reading
    `ObjectMissing`.
    """

    uri: str

    def get(self, key: str) -> bytes:
        """Return an object's bytes."""
        ...

    def open(self, key: str) -> BinaryIO:
        """Open an object for reading from its beginning to its end, a block at a time; close it after use."""
        ...

    def download(self, key: str, path: Path) -> None:
        """Copy an object into a local file, which appears whole or not at all.

        Raises:
            DiskFull: the local disk has no room.
        """
        ...

    def put(self, key: str, data: bytes | Path) -> None:
        """Write an object, from bytes or from a local file; readers see the old or the new one, whole."""
        ...

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        """Write an object unless the key exists; of any number of writers at once exactly one gets True."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with ``prefix`` (any string), sorted by key."""
        ...

    def folders(self, key: str = "") -> tuple[str, ...]:
        """Name the folders directly below a key or the root, sorted, empty ones too; a bucket has none."""
        ...

    def exists(self, key: str) -> bool:
        """Say whether the key holds an object."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is fine."""
        ...

    def url(self, key: str) -> str:
        """Return the full address of a key, which `open_store` accepts again."""
        ...


def check_key(key: str) -> str:
    """Return the key, or refuse one that leaves the root or that some store could not hold.

    Raises:
        KeyRefused: empty, absolute, longer than 1024 bytes, with a NUL, or with an empty part or one
            that is ``.`` or ``..``.
    """
    problem = ""
    if not key:
        problem = "is empty"
    elif "\0" in key:
        problem = "holds a NUL character"
    elif key.startswith("/"):
        problem = "is absolute"
    elif any(part in ("", ".", "..") for part in key.split("/")):
        problem = "has an empty part, '.' or '..'"
    elif len(os.fsencode(key)) > _KEY_BYTES:
        problem = f"is longer than {_KEY_BYTES} bytes"
    if problem:
        raise KeyRefused(f"The key {key[:200]!r} {problem}.", "Use relative paths below the root.")
    return key


def open_store(
    uri: str,
    *,
    credentials: Mapping[str, str] | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
    on_wait: Callable[[str], None] | None = None,
) -> Store:
    """Open the store at an address; nothing is read or written yet.

    Args:
        uri: ``file:///absolute``, ``file://./relative`` to the working directory, or
            ``s3://bucket/prefix``.
        credentials: boto3's own variables (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
            ``AWS_SESSION_TOKEN``, ``AWS_REGION``, ``AWS_ENDPOINT_URL``, ``AWS_CA_BUNDLE``); what is not
            named comes from boto3's usual places.
        patience_seconds: how long a store may stay away, counted from the first failure of a call.
        on_wait: told a sentence when waiting begins and every 30 seconds while it lasts.

    Raises:
        SpecInvalid: the address is of no kind known here.
    """
    patience = Patience(seconds=patience_seconds, on_wait=on_wait)
    scheme, separator, rest = uri.partition("://")
    if separator and scheme == "file":
        # Imported here because each store module needs this module's names.
        from tunesmith_package.file_store import FileStore

        return FileStore(_file_root(uri, rest), patience)
    if separator and scheme == "s3":
        from tunesmith_package.s3_store import S3Store

        bucket, _, prefix = rest.partition("/")
        if not bucket:
            raise SpecInvalid(f"The address {uri!r} names no bucket.", "Write s3://bucket/prefix.")
        prefix = prefix.strip("/")
        return S3Store(bucket, check_key(prefix) if prefix else "", credentials or {}, patience)
    raise SpecInvalid(
        f"The address {uri!r} is of no kind that holds objects.",
        "Write file:///absolute, file://./relative or s3://bucket/prefix.",
    )


def _file_root(uri: str, rest: str) -> Path:
    path = unquote(rest.removeprefix("localhost") if rest.startswith("localhost/") else rest)
    if "\0" not in path and (path.startswith("/") or path == "." or path.startswith(("./", "../"))):
        return Path(path).absolute()
    raise SpecInvalid(
        f"The address {uri!r} is neither absolute nor marked as relative.",
        f"Write file:///{path.lstrip('/')} or file://./{path}.",
    )
