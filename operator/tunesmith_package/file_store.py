"""A folder as a store: atomic by rename and hard link, durable by fsync, closed against escaping paths."""

import builtins
import contextlib
import errno
import io
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

from tunesmith_api.reasons import DiskFull, ObjectMissing, StoreDenied, StoreError, StoreFull
from tunesmith_package.patience import Patience, Transient
from tunesmith_package.store import (
    AFTER_FULL,
    FOLDER_LINK,
    OUTSIDE,
    UNREADABLE,
    KeyRefused,
    ObjectDenied,
    ObjectInfo,
    check_key,
)

T = TypeVar("T")

STAGING = ".tunesmith-staging"
"""Folder below the root where objects are written before they get their name; never listed."""

_CHECK = "Check the address."
_BLOCK_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 18
_STALE_SECONDS = 86_400
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
_BROKEN_LINK = {*_MISSING, errno.EACCES, errno.ENAMETOOLONG}
# What a network file system answers while its server is away.
_PASSING = {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EAGAIN,
    errno.EBUSY,
    errno.EINTR,
}


class FileStore:
    """Objects as files below one folder, which is created by the first write.

    Symbolic links are followed only while they stay below the root.
    """

    def __init__(self, root: Path, patience: Patience | None = None) -> None:
        """Remember the folder; nothing is touched yet."""
        self.root = root.absolute()
        self.uri = f"file://{quote(str(self.root))}"
        self._patience = patience or Patience()
        self._swept = False

    def get(self, key: str) -> bytes:
        """Return an object's bytes."""

        def attempt() -> bytes:
            with self._translated(key), self._open(key) as file:
                return file.read()

        return self._patience.call(self.uri, attempt)

    def open(self, key: str) -> BinaryIO:
        """Open an object for reading; when its file system was away, reading goes on where it stopped."""
        return io.BufferedReader(_Stream(self, key), _BUFFER_BYTES)

    def download(self, key: str, path: Path) -> None:
        """Copy an object into a local file, which appears whole or not at all."""
        with self.open(key) as source:
            write_local(path, source)

    def put(self, key: str, data: bytes | Path) -> None:
        """Write an object by renaming a finished file over its name."""

        def attempt() -> None:
            with self._staged(key, data) as (staged, target):
                staged.replace(target)
                _sync_folder(target.parent)

        self._patience.call(self.uri, attempt)

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        """Write an object by giving a finished file its name, which fails when the name is taken."""
        if self.exists(key):
            return False

        def attempt() -> bool:
            with self._staged(key, data) as (staged, target):
                try:
                    os.link(staged, target)
                except FileExistsError:
                    return False
                _sync_folder(target.parent)
                return True

        return self._patience.call(self.uri, attempt)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with ``prefix``, sorted by key.

        What is no object is listed too, so that it can be named, with a version that says what it is, and
        refused when it is read. A link to a folder is not followed.
        """
        if "\0" in prefix or any(part in (".", "..") for part in prefix.split("/")) or prefix.startswith("/"):
            raise KeyRefused(f"The prefix {prefix[:200]!r} leaves the root.", "Use relative prefixes.")
        folder = prefix.rpartition("/")[0]
        yield from self._walk(folder, prefix, self._real_root())

    def folders(self, key: str = "") -> tuple[str, ...]:
        """Name the folders directly below a key or the root, sorted; links to folders are none."""

        def attempt() -> tuple[str, ...]:
            path = self._resolve(key) if key else self._real_root()
            with self._translated(key or "."), os.scandir(path) as entries:
                found = [each.name for each in entries if each.is_dir(follow_symlinks=False)]
            return tuple(sorted(name for name in found if key or name != STAGING))

        return self._patience.call(self.uri, attempt)

    def exists(self, key: str) -> bool:
        """Say whether the key holds a file."""

        def attempt() -> bool:
            try:
                with self._translated(key):
                    return stat.S_ISREG(self._resolve(key).stat().st_mode)
            except ObjectMissing:
                return False

        return self._patience.call(self.uri, attempt)

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is fine."""

        def attempt() -> None:
            target = self._target(key)
            with self._translated(key), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                target.unlink()

        self._patience.call(self.uri, attempt)

    def url(self, key: str) -> str:
        """Return the full address of a key."""
        return f"{self.uri}/{quote(check_key(key))}"

    def path(self, key: str) -> Path:
        """Return the local path of a key, whether or not anything lies there."""
        return self._target(key)

    def _real_root(self) -> Path:
        return Path(os.path.realpath(self.root))

    def _resolve(self, key: str) -> Path:
        """Follow every link of a key's path; refuse the key when they lead out of the root."""
        root = self._real_root()
        real = Path(os.path.realpath(root / check_key(key)))
        if not real.is_relative_to(root) or real == root or real.is_relative_to(root / STAGING):
            raise KeyRefused(
                f"The key {key[:200]!r} leads out of {self.uri} through a symbolic link.",
                "Copy the file into the folder instead of linking it.",
            )
        return real

    def _target(self, key: str) -> Path:
        """Return where a key is written: a link at the last part is replaced, not followed."""
        folder, _, name = check_key(key).rpartition("/")
        return (self._resolve(folder) if folder else self._real_root()) / name

    def _open(self, key: str) -> io.FileIO:
        path = self._resolve(key)
        # O_NONBLOCK: opening a pipe that somebody put into a dataset must not wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise ObjectMissing(f"{self.url(key)} is no file, but a folder, a pipe or a device.", _CHECK)
        return os.fdopen(handle, "rb", buffering=0)

    @contextlib.contextmanager
    def _staged(self, key: str, data: bytes | Path) -> Iterator[tuple[Path, Path]]:
        """Write the object's bytes under a name nobody looks at; yield it and the name it shall get."""
        target = self._target(key)
        source = data.open("rb") if isinstance(data, Path) else None
        staged = self._real_root() / STAGING / secrets.token_hex(16)
        try:
            with self._translated(key):
                self._make_folders(target.parent, staged.parent)
                with staged.open("xb") as file:
                    if source is not None:
                        shutil.copyfileobj(source, file, _BLOCK_BYTES)
                    elif isinstance(data, bytes):
                        file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield staged, target
        finally:
            if source is not None:
                source.close()
            with contextlib.suppress(OSError):  # what stays is swept later; the first error counts
                staged.unlink(missing_ok=True)

    def _make_folders(self, *folders: Path) -> None:
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise KeyRefused(
                    f"{folder} cannot be a folder of {self.uri}: an object has that name.",
                    "Use keys that do not continue another object's key.",
                ) from error
        if not self._swept:
            self._swept = True
            self._sweep(self._real_root() / STAGING)

    def _sweep(self, staging: Path) -> None:
        """Remove what killed writers left behind a day ago or earlier."""
        oldest = time.time() - _STALE_SECONDS
        for left in staging.iterdir():
            with contextlib.suppress(OSError):
                if left.stat().st_mtime < oldest:
                    left.unlink()

    def _walk(self, folder: str, prefix: str, root: Path) -> Iterator[ObjectInfo]:
        found = self._patience.call(self.uri, lambda: self._entries(folder, prefix, root))
        for key, info in sorted(found, key=lambda pair: pair[0]):
            if info is not None:
                yield info
            else:
                yield from self._walk(key[:-1], prefix, root)

    def _entries(self, folder: str, prefix: str, root: Path) -> builtins.list[tuple[str, ObjectInfo | None]]:
        """Return the key of each folder and object of a folder, with what a listing says of objects."""
        found: list[tuple[str, ObjectInfo | None]] = []
        with self._translated(folder or "."):
            try:
                entries = os.scandir(root / folder)
            except (FileNotFoundError, NotADirectoryError):
                return found
            with entries:
                for entry in entries:
                    key = self._child(folder, entry)
                    if key.endswith("/"):
                        if key != f"{STAGING}/" and (key.startswith(prefix) or prefix.startswith(key)):
                            found.append((key, None))
                    elif key.startswith(prefix) and (info := self._info(key, entry, root)) is not None:
                        found.append((key, info))
        return found

    @staticmethod
    def _child(folder: str, entry: os.DirEntry[str]) -> str:
        """Return an entry's key; folders end in ``/`` so that siblings sort as their contents' keys do."""
        name = f"{folder}/{entry.name}" if folder else entry.name
        return f"{name}/" if entry.is_dir(follow_symlinks=False) else name

    @staticmethod
    def _info(key: str, entry: os.DirEntry[str], root: Path) -> ObjectInfo | None:
        link = entry.is_symlink()
        if link and not Path(os.path.realpath(entry.path)).is_relative_to(root):
            return ObjectInfo(key, 0, OUTSIDE)
        try:
            status = entry.stat()
        except OSError as error:
            if link and error.errno in _BROKEN_LINK:
                return ObjectInfo(key, 0, UNREADABLE)
            if error.errno == errno.ENOENT:  # removed while we listed
                return None
            raise
        if stat.S_ISREG(status.st_mode):
            return ObjectInfo(key, status.st_size, str(status.st_mtime_ns))
        return ObjectInfo(key, 0, FOLDER_LINK if stat.S_ISDIR(status.st_mode) else UNREADABLE)

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Turn the operating system's errors about an object into the store's."""
        try:
            yield
        except OSError as error:
            raise self._error(key, error) from error

    def _error(self, key: str, error: OSError) -> Exception:
        where, cause = f"{self.uri}/{quote(key)}", os.strerror(error.errno) if error.errno else str(error)
        if error.errno in _FULL:
            return StoreFull(f"{self.uri} has no room for {key} ({cause}).", AFTER_FULL)
        if error.errno in _DENIED:
            denied = ObjectDenied if os.access(self.root, os.R_OK | os.X_OK) else StoreDenied
            return denied(f"{where} may not be used ({cause}).", "Give this user the permission.")
        if error.errno == errno.ELOOP:
            return ObjectMissing(f"{where} is a link that leads back to itself.", _CHECK)
        if error.errno in _MISSING:
            return ObjectMissing(f"{where} does not exist.", _CHECK)
        if error.errno in _PASSING:
            return Transient(cause)
        return StoreError(f"{where} cannot be used ({cause}).", "Check the folder and its disk.")


class _Stream(io.RawIOBase):
    """A file's bytes; it is opened again where reading stopped, unless it has become another one."""

    def __init__(self, store: FileStore, key: str) -> None:
        self._store, self._key = store, key
        self._position = 0
        self._file: io.FileIO | None = None
        self._version: tuple[int, int] | None = None
        self._attempt(self._connected)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = self._attempt(lambda: self._connected().seek(offset, whence))
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = self._attempt(lambda: self._connected().readinto(buffer)) or 0
        self._position += count
        return count

    def close(self) -> None:
        self._drop()
        super().close()

    def _attempt(self, work: Callable[[], T]) -> T:
        def attempt() -> T:
            try:
                with self._store._translated(self._key):
                    return work()
            except Transient:
                self._drop()
                raise

        return self._store._patience.call(self._store.uri, attempt)

    def _connected(self) -> io.FileIO:
        if self._file is None:
            file = self._store._open(self._key)
            try:
                status = os.fstat(file.fileno())
                version = (status.st_size, status.st_mtime_ns)
                if self._version not in (None, version):
                    where = self._store.url(self._key)
                    raise StoreError(f"{where} was changed while it was read.", "Read it again.")
                file.seek(self._position)
            except BaseException:
                file.close()
                raise
            self._file, self._version = file, version
        return self._file

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


def write_local(path: Path, source: BinaryIO) -> None:
    """Copy a stream into a file on this machine, block by block; the file appears whole or not at all.

    Raises:
        DiskFull: this machine's disk has no room.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            while block := source.read(_BLOCK_BYTES):
                file.write(block)
        part.replace(path)
    except OSError as error:
        if error.errno in _FULL:
            message = f"This machine's disk has no room for {path}."
            raise DiskFull(message, AFTER_FULL) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
