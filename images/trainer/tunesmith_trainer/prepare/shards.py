"""WebDataset shards: .tar files in which files of one name belong together (001.jpg, 001.cls, 001.json).

Shards are streamed from beginning to end, once; what they hold is known only then. Nothing is ever extracted
to a path: members' names are names and no more.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Self

from tunesmith_api.reasons import DatasetInvalid, ObjectMissing
from tunesmith_package.image_formats import IMAGE_EXTENSIONS
from tunesmith_package.store import KeyRefused, Store, check_key
from tunesmith_trainer.prepare.checks import named
from tunesmith_trainer.prepare.files import Files
from tunesmith_trainer.prepare.manifest import checked_weight
from tunesmith_trainer.prepare.source import (
    INCOMPLETE,
    MAX_IMAGE_BYTES,
    NO_SPLIT,
    Entry,
    EntryTable,
    Item,
    Listing,
    Unreadable,
    is_clutter,
)
from tunesmith_trainer.prepare.split_names import split_of

_LABEL_EXTENSIONS = ("cls", "json", "txt")
_LABEL_FIELDS = ("label", "cls", "class")
_MOST_LABEL_BYTES = 1 << 20
_MOST_LABEL_CHARACTERS = 256
_BLOCK_BYTES = 1 << 20
_UNIT_BYTES = 1 << 20
_REMEDY = "Upload the shard again; nothing of a dataset with a broken shard is used."


def list_shards(store: Store, files: Files, slice_names: tuple[str, ...] = ()) -> Listing:
    """List the shards below a root; their samples are found while they are read.

    Raises:
        DatasetInvalid: there is no shard, or one is compressed.
    """
    if files.packed:
        verb = "is" if len(files.packed) == 1 else "are"
        raise DatasetInvalid(
            f"{named(files.packed)} in {store.uri} {verb} compressed; only plain .tar shards are read.",
            f"Unpack the compression, for example with gunzip {files.packed[0]}; images gain nothing by it.",
        )
    if not files.shards:
        raise DatasetInvalid(
            f"{store.uri} holds no .tar files.", "Point spec.dataset.uri at the folder with the shards."
        )
    leftovers = files.leftovers
    for key, _ in files:
        leftovers.add(key, "clutter")
    files.fingerprint.add("shards", *slice_names)
    return Listing(
        fingerprint=files.fingerprint.hex(),
        source=ShardSource(store, tuple(info.key for info in files.shards), slice_names),
        format="WebDataset",
        total=max(1, sum(info.size for info in files.shards) // _UNIT_BYTES),
        unit="MiB",
        ignored=tuple(leftovers.some),
        ignored_counts=dict(leftovers.counts),
        slice_names=slice_names,
    )


class ShardSource:
    """Samples of WebDataset shards."""

    def __init__(self, store: Store, shards: tuple[str, ...] = (), slice_names: tuple[str, ...] = ()) -> None:
        """Read from ``store``; without shards only `read` can be used."""
        self.store, self.uri, self.format = store, store.uri, "WebDataset"
        self.readers = 0
        self._shards, self._slice_names = shards, slice_names

    def items(self, entries: EntryTable | None, skip: int, advance: Callable[[int], None]) -> Iterator[Item]:
        """Yield the samples shard by shard.

        Raises:
            DatasetInvalid: a shard is broken or a member's name leaves the shard.
        """
        meter = _Meter(advance)
        for shard in self._shards:
            with closing(self.store.open(shard)) as stream:
                for sample in _samples(shard, meter.watching(stream)):
                    if skip:
                        skip -= 1
                    else:
                        yield self._item(shard, sample)

    def _item(self, shard: str, sample: _Sample) -> Item:
        fields = _Fields.read(shard, sample)
        name = sample.image or f"{sample.key}.?"
        entry = Entry(
            path=f"{shard}/{name}",
            label=fields.label,
            split=fields.split,
            weight=fields.weight,
            size=sample.size,
            offset=sample.offset,
            slices=tuple(fields.slices.get(each, "") for each in self._slice_names),
        )
        lacking = "image" if sample.image is None else "label" if not fields.label else None
        if lacking is not None:
            return Item(entry, partial(_refuse, f"{entry.path} has no {lacking}.", INCOMPLETE))
        if sample.size > MAX_IMAGE_BYTES:
            text = f"{entry.path} has {sample.size:,} bytes; the limit is {MAX_IMAGE_BYTES:,}."
            return Item(entry, partial(_refuse, text, "unreadable"))
        data = sample.data
        return Item(entry, lambda: data)

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Read one image again, from its place in its shard.

        Raises:
            DatasetInvalid: the shard is gone or shorter than it was.
        """
        shard = _shard_of(path)
        try:
            with closing(self.store.open(shard)) as stream:
                _skip(stream, offset)
                data = stream.read(size)
        except ObjectMissing as error:
            raise DatasetInvalid(
                f"{shard} has vanished from {self.uri}.", "Put it back, or run it again without it."
            ) from error
        return data

    def content_digest(self, path: str, data: bytes) -> bytes:
        """The sha256 of the encoded bytes."""
        return hashlib.sha256(data).digest()


@dataclass
class _Sample:
    """Members of one name. ``image`` is the image's name inside the shard, None while there is none."""

    key: str
    image: str | None = None
    data: bytes = b""
    size: int = -1
    offset: int = -1
    texts: dict[str, bytes] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)


def _samples(shard: str, stream: BinaryIO) -> Iterator[_Sample]:
    """Group the members of a shard; those of one sample stand one after the other, as WebDataset asks.

    A member whose name the sample has already, as ``tar -r`` makes them, begins another sample.
    """
    current: _Sample | None = None
    with _broken(shard), tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictTarInfo) as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else it remembers every member: cpython#81763
            name = _checked_name(shard, member.name)
            if not member.isreg() or is_clutter_in_shard(name):
                continue
            key, extension = _key_and_extension(name)
            if current is None or current.key != key or name in current.names:
                if current is not None:
                    yield current
                current = _Sample(key)
            current.names.add(name)
            _take(current, tar, member, name, extension)
    if current is not None:
        yield current


def _take(sample: _Sample, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, extension: str) -> None:
    if f".{extension}" in IMAGE_EXTENSIONS and sample.image is None:
        sample.image, sample.size, sample.offset = name, member.size, member.offset_data
        if member.size <= MAX_IMAGE_BYTES:
            sample.data = _content(tar, member)
    elif extension in _LABEL_EXTENSIONS and member.size <= _MOST_LABEL_BYTES:
        sample.texts[extension] = _content(tar, member)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


class _StrictTarInfo(tarfile.TarInfo):
    """Makes damage behind the first member an error: tarfile takes it for the archive's end.

    See the handling of ``InvalidHeaderError`` and ``EmptyHeaderError`` in ``tarfile.TarFile.next``.
    """

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        """Read the next header."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the end mark: as it should be
            raise
        except tarfile.HeaderError as error:
            raise _ShardDamaged(str(error)) from error


class _ShardDamaged(Exception):
    """Becomes `DatasetInvalid` in `_broken`."""


@contextmanager
def _broken(shard: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, _ShardDamaged, EOFError) as error:
        raise DatasetInvalid(f"The shard {shard} is broken or cut off ({error}).", _REMEDY) from error


def _checked_name(shard: str, name: str) -> str:
    name = name.removeprefix("./").rstrip("/")
    if name in ("", "."):
        return "."
    try:
        return check_key(name)
    except KeyRefused as error:
        raise DatasetInvalid(
            f"The shard {shard} has a member named {name[:200]!r}, which leads out of it.",
            "Write the shard again with plain relative names.",
        ) from error


def is_clutter_in_shard(name: str) -> bool:
    """Say whether a member is nobody's sample: hidden files, and macOS's resource forks."""
    return name == "." or is_clutter(str(PurePosixPath(name).with_suffix("")))


def _key_and_extension(name: str) -> tuple[str, str]:
    """``a/b.seg.png`` is the member ``seg.png`` of the sample ``a/b``."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


@dataclass
class _Fields:
    """What a sample says about its image."""

    label: str
    split: int
    weight: float
    slices: dict[str, str]

    @classmethod
    def read(cls, shard: str, sample: _Sample) -> Self:
        """Read label, split, weight and slices; the label comes from .cls, else .json, else .txt."""
        where = f"{shard}, sample {sample.key}:"
        record = _record(where, sample.texts.get("json"))
        label = _text(sample.texts.get("cls"))
        if not label:
            label = next((_scalar(record[name]) for name in _LABEL_FIELDS if name in record), "")
        if not label:
            label = _text(sample.texts.get("txt"))
        said = _scalar(record.get("split", ""))
        split = split_of(said) if said else _split_of_shard(shard)
        if split is None:
            raise DatasetInvalid(f"{where} {said!r} is not the name of a split.", "Write train, val or test.")
        weight = checked_weight(where, _scalar(record.get("weight", "")))
        return cls(label, split, weight, {name: _scalar(value) for name, value in record.items()})


def _record(where: str, data: bytes | None) -> dict[str, Any]:
    if data is None:
        return {}
    try:
        record = json.loads(data)
    except ValueError as error:
        raise DatasetInvalid(f"{where} its .json cannot be read ({error}).", "Write valid JSON.") from error
    return record if isinstance(record, dict) else {"label": record}


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    return "" if value is None or isinstance(value, dict | list) else json.dumps(value)


def _text(data: bytes | None) -> str:
    """A label file's text; empty when it is no short text in UTF-8."""
    try:
        text = (data or b"").decode().strip()
    except UnicodeDecodeError:
        return ""
    return text if len(text) <= _MOST_LABEL_CHARACTERS and "\n" not in text else ""


def _split_of_shard(shard: str) -> int:
    """The split that a shard's name tells, like ``flowers-train-000.tar`` or ``test/000.tar``."""
    words = re.split(r"[^a-z]+", shard.lower().removesuffix(".tar"))
    found = {split for word in words if (split := split_of(word)) is not None}
    return found.pop() if len(found) == 1 else NO_SPLIT


def _shard_of(path: str) -> str:
    stem, found, _ = path.lower().partition(".tar/")
    return path[: len(stem) + len(found) - 1]


def _skip(stream: BinaryIO, count: int) -> None:
    if stream.seekable():
        stream.seek(count)
        return
    while count > 0:
        block = stream.read(min(count, _BLOCK_BYTES))
        if not block:
            return
        count -= len(block)


def _refuse(text: str, kind: str) -> bytes:
    raise Unreadable(text, kind)


class _Meter:
    """Tells the progress bar how many whole MiB have been read."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance, self._bytes = advance, 0

    def watching(self, stream: BinaryIO) -> BinaryIO:
        """The stream, with every read counted."""
        return _Watched(stream, self)  # type: ignore[return-value]  # tarfile only calls read

    def add(self, count: int) -> None:
        """Count bytes."""
        before, self._bytes = self._bytes // _UNIT_BYTES, self._bytes + count
        if (whole := self._bytes // _UNIT_BYTES) > before:
            self._advance(whole - before)


class _Watched:
    def __init__(self, stream: BinaryIO, meter: _Meter) -> None:
        self._stream, self._meter = stream, meter

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        data = self._stream.read(size)
        self._meter.add(len(data))
        return data
