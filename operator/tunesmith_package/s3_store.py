"""A bucket as a store, on any server that speaks S3 with conditional writes.

Each request is made once and repeated by our own patience alone, never by boto3 behind our back: only so
can a conditional write tell its own lost answer from another writer.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from hashlib import md5
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeAlias, TypeVar

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from tunesmith_api.reasons import ObjectMissing, StoreError
from tunesmith_package.file_store import write_local
from tunesmith_package.patience import Patience, Transient
from tunesmith_package.s3_errors import is_conflict, translate
from tunesmith_package.store import KeyRefused, ObjectInfo, check_key

T = TypeVar("T")
_Parts: TypeAlias = list[dict[str, Any]]

_PART_BYTES = 16 << 20
_MOST_PARTS = 10_000  # S3's own limit
_BUFFER_BYTES = 1 << 18
_SESSION = {
    "aws_access_key_id": ("AWS_ACCESS_KEY_ID",),
    "aws_secret_access_key": ("AWS_SECRET_ACCESS_KEY",),
    "aws_session_token": ("AWS_SESSION_TOKEN",),
    "region_name": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "endpoint_url": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "verify": ("AWS_CA_BUNDLE",),
}


@dataclass(frozen=True)
class Seen:
    """An object with what conditional writes and leases need to know of it.

    Attributes:
        data: its bytes.
        version: its ETag.
        age_seconds: since it was written, by the server's own clock.
    """

    data: bytes
    version: str
    age_seconds: float


class S3Store:
    """Objects below one prefix of one bucket. Safe to use from many threads."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        credentials: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Remember where; the client is made by the first request."""
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self.patience = patience or Patience()
        self._credentials = dict(credentials or {})
        self._connected: tuple[int, Any] | None = None

    @property
    def _client(self) -> Any:
        # Connections must not be shared with a forked process: answers would reach the wrong one.
        if self._connected is None or self._connected[0] != os.getpid():
            self._connected = (os.getpid(), _connect(self._credentials))
        return self._connected[1]

    def __getstate__(self) -> dict[str, Any]:
        """Travel to another process without the connections."""
        return {**self.__dict__, "_connected": None}

    def with_patience(self, patience: Patience) -> Self:
        """Return the same store, and the same connections, with another patience."""
        twin = type(self)(self.bucket, self.prefix.rstrip("/"), self._credentials, patience)
        twin._connected = (os.getpid(), self._client)
        return twin

    def get(self, key: str) -> bytes:
        """Return an object's bytes."""

        def attempt() -> bytes:
            with contextlib.closing(self._client.get_object(**self._at(key))["Body"]) as body:
                return bytes(body.read())

        return self._ask(key, attempt)

    def open(self, key: str) -> BinaryIO:
        """Open an object for reading; when the connection breaks, reading goes on where it stopped."""
        return io.BufferedReader(_Stream(self, key), _BUFFER_BYTES)

    def download(self, key: str, path: Path) -> None:
        """Copy an object into a local file, which appears whole or not at all."""
        with self.open(key) as source:
            write_local(path, source)

    def put(self, key: str, data: bytes | Path) -> None:
        """Write an object; files larger than 16 MiB travel in parts."""
        self._write(key, data)

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        """Write an object unless the key exists (``If-None-Match: *``)."""
        if isinstance(data, Path) and data.stat().st_size > _PART_BYTES and self.exists(key):
            return False
        return self._write(key, data, IfNoneMatch="*") is not None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with ``prefix``, sorted by key.

        Not every server keeps S3's order (SeaweedFS lists folder by folder), so the listing is sorted here;
        it takes about 300 bytes of memory per object. Keys that could not be read back (a folder's
        placeholder, a part ``..``) are left out.
        """
        if "\0" in prefix:
            raise KeyRefused(f"The prefix {prefix[:200]!r} holds a NUL character.", "Leave it out.")
        yield from sorted(self._pages(prefix), key=lambda info: info.key)

    def folders(self, key: str = "") -> tuple[str, ...]:
        """A bucket holds objects only."""
        return ()

    def exists(self, key: str) -> bool:
        """Say whether the key holds an object."""
        try:
            self._ask(key, lambda: self._client.head_object(**self._at(key)))
        except ObjectMissing:
            return False
        return True

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is fine."""
        with contextlib.suppress(ObjectMissing):
            self._ask(key, lambda: self._client.delete_object(**self._at(key)))

    def url(self, key: str) -> str:
        """Return the full address of a key."""
        return f"{self.uri}/{check_key(key)}"

    def look(self, key: str) -> Seen | None:
        """Return an object with its version and age, or None when it does not exist."""

        def attempt() -> Seen:
            answer = self._client.get_object(**self._at(key))
            with contextlib.closing(answer["Body"]) as body:
                data = bytes(body.read())
            now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            return Seen(data, str(answer["ETag"]), (now - answer["LastModified"]).total_seconds())

        try:
            return self._ask(key, attempt)
        except ObjectMissing:
            return None

    def create(self, key: str, data: bytes) -> str | None:
        """Write an object unless the key exists; return its version, or None when it existed."""
        return self._write(key, data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, version: str) -> str | None:
        """Write an object if it still has this version; return its new one, or None when it has not."""
        return self._write(key, data, IfMatch=version)

    def _at(self, key: str) -> dict[str, str]:
        full = self.prefix + check_key(key)
        if len(full.encode("utf-8", "surrogateescape")) > 1024:
            raise KeyRefused(f"The key {full[:200]!r} is longer than 1024 bytes.", "Use a shorter prefix.")
        return {"Bucket": self.bucket, "Key": full}

    def _ask(self, key: str, attempt: Callable[[], T]) -> T:
        """Make a request until it is answered; raise the store's errors."""

        def translated() -> T:
            try:
                return attempt()
            except (ClientError, BotoCoreError) as error:
                raise translate(error, f"{self.uri}/{key}".rstrip("/")) from error

        return self.patience.call(self.uri, translated)

    def _write(self, key: str, data: bytes | Path, **condition: str) -> str | None:
        """Write an object; return its version, or None when the condition did not hold."""
        if isinstance(data, bytes):
            return self._put_bytes(key, data, condition)
        if data.stat().st_size <= _PART_BYTES:
            return self._put_bytes(key, data.read_bytes(), condition)
        return self._put_parts(key, data, condition)

    def _put_bytes(self, key: str, data: bytes, condition: dict[str, str]) -> str | None:
        attempts = 0

        def attempt() -> str | None:
            nonlocal attempts
            attempts += 1
            try:
                return str(self._client.put_object(**self._at(key), Body=data, **condition)["ETag"])
            except ClientError as error:
                if not is_conflict(error):
                    raise
                # The answer to an earlier attempt may have been lost after the server had obeyed it.
                return self._version_of(key, data) if attempts > 1 else None

        return self._ask(key, attempt)

    def _version_of(self, key: str, data: bytes) -> str | None:
        seen = self.look(key)
        return seen.version if seen is not None and seen.data == data else None

    def _put_parts(self, key: str, path: Path, condition: dict[str, str]) -> str | None:
        """Write a large file part by part; each part is waited for on its own, so none is sent twice."""
        at, client = self._at(key), self._client
        upload = self._ask(key, lambda: client.create_multipart_upload(**at)["UploadId"])
        try:
            parts = self._send_parts(key, path, upload)
            return self._complete(key, upload, parts, condition)
        except BaseException:
            with contextlib.suppress(ClientError, BotoCoreError):
                client.abort_multipart_upload(**at, UploadId=upload)
            raise

    def _send_parts(self, key: str, path: Path, upload: str) -> _Parts:
        size = max(_PART_BYTES, -(-path.stat().st_size // _MOST_PARTS))
        parts: _Parts = []
        with path.open("rb") as file:
            while block := file.read(size):
                number = len(parts) + 1
                tag = self._ask(key, lambda n=number, b=block: self._send(key, upload, n, b))  # type: ignore[misc]
                parts.append({"PartNumber": number, "ETag": tag})
        return parts

    def _send(self, key: str, upload: str, number: int, block: bytes) -> str:
        answer = self._client.upload_part(
            **self._at(key), UploadId=upload, PartNumber=number, Body=block, ContentLength=len(block)
        )
        return str(answer["ETag"])

    def _complete(self, key: str, upload: str, parts: _Parts, condition: dict[str, str]) -> str | None:
        expected = _tag_of_parts(parts)
        attempts = 0

        def attempt() -> str | None:
            nonlocal attempts
            attempts += 1
            try:
                answer = self._client.complete_multipart_upload(
                    **self._at(key), UploadId=upload, MultipartUpload={"Parts": parts}, **condition
                )
                return str(answer["ETag"])
            except ClientError as error:
                if attempts > 1 and (tag := self._tag(key)) is not None and tag == expected:
                    return tag  # an earlier attempt had been obeyed and its answer lost
                if not is_conflict(error):
                    raise
            self._client.abort_multipart_upload(**self._at(key), UploadId=upload)
            return None

        return self._ask(key, attempt)

    def _tag(self, key: str) -> str | None:
        try:
            return str(self._client.head_object(**self._at(key))["ETag"])
        except ClientError:
            return None

    def _pages(self, prefix: str) -> Iterator[ObjectInfo]:
        more: dict[str, str] = {}
        while True:
            page = self._ask(
                prefix,
                lambda more=more: self._client.list_objects_v2(  # type: ignore[misc]
                    Bucket=self.bucket, Prefix=self.prefix + prefix, **more
                ),
            )
            for found in page.get("Contents", ()):
                key = found["Key"][len(self.prefix) :]
                with contextlib.suppress(KeyRefused):
                    yield ObjectInfo(check_key(key), int(found["Size"]), str(found["ETag"]))
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}


class _Stream(io.RawIOBase):
    """An object's bytes from beginning to end, over as many connections as it takes."""

    def __init__(self, store: S3Store, key: str) -> None:
        self._store = store
        self._key = key
        self._body: Any = None
        self._position = 0
        self._connect()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        if self._position >= self._size:
            return 0
        block = self._store._ask(self._key, lambda: self._next_block(len(view)))
        view[: len(block)] = block
        self._position += len(block)
        return len(block)

    def close(self) -> None:
        self._drop()
        super().close()

    def _connect(self) -> None:
        answer = self._store._ask(
            self._key, lambda: self._store._client.get_object(**self._store._at(self._key))
        )
        self._body, self._version, self._size = answer["Body"], answer["ETag"], int(answer["ContentLength"])

    def _reconnect(self) -> None:
        try:
            answer = self._store._client.get_object(
                **self._store._at(self._key), Range=f"bytes={self._position}-", IfMatch=self._version
            )
        except ClientError as error:
            if not is_conflict(error):
                raise
            where = self._store.url(self._key)
            raise StoreError(f"{where} was changed while it was read.", "Read it again.") from error
        self._body = answer["Body"]

    def _next_block(self, size: int) -> bytes:
        if self._body is None:
            self._reconnect()
        try:
            block = bytes(self._body.read(min(size, self._size - self._position)))
        except (ClientError, BotoCoreError):
            self._drop()
            raise
        if not block:
            self._drop()
            raise Transient("the answer ended too early")
        return block

    def _drop(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None


def _tag_of_parts(parts: _Parts) -> str | None:
    """Return the ETag that S3 gives an object made of these parts, or None where encryption hides it."""
    try:
        sums = b"".join(bytes.fromhex(part["ETag"].strip('"')) for part in parts)
    except ValueError:
        return None
    return f'"{md5(sums, usedforsecurity=False).hexdigest()}-{len(parts)}"'


def _connect(credentials: Mapping[str, str]) -> Any:
    chosen = {
        argument: next((credentials[name] for name in names if credentials.get(name)), None)
        for argument, names in _SESSION.items()
    }
    endpoint = chosen["endpoint_url"]
    settings: dict[str, Any] = {
        "connect_timeout": 5,
        "read_timeout": 60,
        "max_pool_connections": 32,
        "retries": {"mode": "standard", "total_max_attempts": 1},
        # Servers other than AWS answer 400 to checksums in trailers, boto3's default since 1.36.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    if endpoint is not None:
        settings["s3"] = {"addressing_style": "path"}  # no DNS name per bucket outside AWS
    # A session of our own: boto3's default session is not made for many threads.
    return boto3.session.Session().client("s3", config=Config(**settings), **chosen)
