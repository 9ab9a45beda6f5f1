"""One holder at a time for a key of a store, so that two runs never mix.

In a folder the operating system's lock holds the lease: it ends with its process, however that ends. In
a bucket the lease is an object that its holder renews; it is taken over when it has not been renewed for
its time to live, judged by the server's clock alone, so that wrong clocks of machines do no harm. Every
write of it is conditional (If-None-Match, If-Match), hence of several that try exactly one succeeds.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunesmith_api.reasons import RunInProgress, StoreError
from tunesmith_package.file_store import FileStore
from tunesmith_package.patience import Patience
from tunesmith_package.store import Store

if TYPE_CHECKING:  # boto3 is not for those who work in a folder
    from tunesmith_package.s3_store import S3Store, Seen

_POLL_SECONDS = 0.5
# A killed process keeps its lock until the kernel has taken it apart.
_FILE_WAIT_SECONDS = 1.0
_held_handles: set[int] = set()


@dataclass(frozen=True)
class Lease:
    """A lease that is held.

    Attributes:
        key: its key in the store.
        owner: whom it was given to.
    """

    key: str
    owner: str
    _lost: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def lost(self) -> bool:
        """Whether somebody else has taken it over, which happens when it could not be renewed in time."""
        return self._lost.is_set()

    def ensure_held(self) -> None:
        """Call before writing what only the holder may write.

        Raises:
            RunInProgress: somebody else has taken the lease over.
        """
        if self.lost:
            raise RunInProgress(
                f"The lease {self.key} was taken over by another process after this one could not renew it.",
                "Nothing was overwritten: let the other process finish.",
            )


@contextlib.contextmanager
def acquire_lease(store: Store, key: str, owner: str, ttl_seconds: float = 30.0) -> Iterator[Lease]:
    """Hold the lease of a key while the block runs.

    A lease left behind by a dead process is taken over: in a folder at once, in a bucket when it is
    ``ttl_seconds`` old. A lease whose holder lives is recognised by its being renewed, which takes up to a
    third of ``ttl_seconds``; only then is it an error.

    Args:
        store: a file or S3 store.
        key: names what is leased; an object of that name appears in the store.
        owner: said to others who want the lease, for example host name and process id.
        ttl_seconds: a holder that does not renew for so long has lost it.

    Raises:
        RunInProgress: another process holds it.
    """
    if isinstance(store, FileStore):
        with _file_lease(store, key, owner) as lease:
            yield lease
        return
    from tunesmith_package.s3_store import S3Store

    if isinstance(store, S3Store):
        with _s3_lease(store, key, owner, ttl_seconds) as lease:
            yield lease
    else:
        raise TypeError(f"no leases in a {type(store).__name__}")


def _forget_handles() -> None:
    """Close inherited locks in a forked child: it must not keep the lease of a parent that was killed."""
    for handle in _held_handles:
        with contextlib.suppress(OSError):
            os.close(handle)
    _held_handles.clear()


os.register_at_fork(after_in_child=_forget_handles)


@contextlib.contextmanager
def _file_lease(store: FileStore, key: str, owner: str) -> Iterator[Lease]:
    store.put_if_absent(key, b"")
    # The lock lies on the file itself, which is therefore written in place and never replaced.
    handle = os.open(store.path(key), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        _lock(handle, store.url(key))
    except BaseException:
        os.close(handle)
        raise
    _held_handles.add(handle)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"owner": owner}).encode(), 0)
        yield Lease(key, owner)
    finally:
        if handle in _held_handles:  # a forked child has closed it, its number may be another file's now
            _held_handles.discard(handle)
            os.ftruncate(handle, 0)
            os.close(handle)


def _lock(handle: int, where: str) -> None:
    deadline = time.monotonic() + _FILE_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise _in_progress(where, os.pread(handle, 4096, 0)) from None
        time.sleep(_POLL_SECONDS / 5)


@contextlib.contextmanager
def _s3_lease(store: S3Store, key: str, owner: str, ttl_seconds: float) -> Iterator[Lease]:
    lease = Lease(key, owner)
    record = {"owner": owner, "token": secrets.token_hex(16), "ttlSeconds": ttl_seconds}
    version = _take(store, key, record, ttl_seconds)
    stop = threading.Event()
    # Renewing and releasing must not wait as long as the run itself may wait for its store.
    hurried = store.with_patience(Patience(seconds=ttl_seconds / 3))
    renewer = _Renewer(hurried, lease, record, version, stop)
    thread = threading.Thread(target=renewer.run, name=f"lease {key}", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        stop.set()
        thread.join(timeout=ttl_seconds)
        if not lease.lost and not thread.is_alive():
            renewer.release()


def _take(store: S3Store, key: str, record: dict[str, Any], ttl_seconds: float) -> str:
    """Write our record once the key is free, released or left behind; return its version."""
    first: Seen | None = None
    while True:
        seen = store.look(key)
        if seen is None:
            version = store.create(key, _encode(record, 0))
        elif _is_free(seen, ttl_seconds):
            version = store.replace(key, _encode(record, 0), seen.version)
        elif first is not None and seen.version != first.version:
            raise _in_progress(store.url(key), seen.data)
        else:
            first = first or seen
            time.sleep(min(_POLL_SECONDS, ttl_seconds / 10))
            continue
        if version is not None:
            return version


def _is_free(seen: Seen, ttl_seconds: float) -> bool:
    record = _decode(seen.data)
    try:
        limit = max(float(record.get("ttlSeconds", 0)), ttl_seconds)
    except (TypeError, ValueError):
        limit = ttl_seconds
    # HTTP dates have whole seconds, so an age may be a second too high.
    return bool(record.get("released")) or seen.age_seconds > limit + 1


@dataclass
class _Renewer:
    """Writes the record again and again until it is told to stop or finds another's."""

    store: S3Store
    lease: Lease
    record: dict[str, Any]
    version: str
    stop: threading.Event
    beats: int = 0

    def run(self) -> None:
        while not self.stop.wait(float(self.record["ttlSeconds"]) / 3):
            try:
                if not self._write(self.record):
                    self.lease._lost.set()
                    return
            except StoreError:
                continue  # the run itself meets the same store and decides; the lease is tried again

    def release(self) -> None:
        with contextlib.suppress(StoreError):  # it runs out by itself
            self._write({**self.record, "released": True})

    def _write(self, record: dict[str, Any]) -> bool:
        self.beats += 1
        key = self.lease.key
        version = self.store.replace(key, _encode(record, self.beats), self.version)
        if version is None:
            # A renewal whose answer was lost has changed the version too: the token says whose it is.
            seen = self.store.look(key)
            if seen is None or _decode(seen.data).get("token") != self.record["token"]:
                return False
            version = self.store.replace(key, _encode(record, self.beats), seen.version)
        if version is None:
            return False
        self.version = version
        return True


def _encode(record: dict[str, Any], beats: int) -> bytes:
    return json.dumps({**record, "beats": beats}).encode()


def _decode(data: bytes) -> dict[str, Any]:
    try:
        record = json.loads(data)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _in_progress(where: str, data: bytes) -> RunInProgress:
    holder = _decode(data).get("owner") or "another process"
    return RunInProgress(
        f"{holder} works on the same run ({where}).",
        "Let it finish, or stop it, and run the same command again.",
    )
