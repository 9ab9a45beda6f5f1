"""The manifest of a model package: what it is, and the sha256 of every file in it.

A package is named by the sha256 of its manifest's bytes, so there must be only one way to write a manifest:
JSON with sorted keys, no spaces and only ASCII. A manifest written in any other way is refused.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tunesmith_api.reasons import PackageInvalid

FORMAT = "tunesmith.dev/model-package/v1"
MANIFEST = "manifest.json"
REQUIRED_FILES = frozenset({"model.onnx", "weights.safetensors", "preprocess.json", "labels.json"})
"""Without these a package cannot predict."""

MAX_MANIFEST_BYTES = 1 << 20
_MAX_FILES = 256
_MAX_TEXT = 1024
_BLOCK_BYTES = 1 << 20
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODEL_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_TEXTS = {
    "createdBy": "created_by",
    "datasetDigest": "dataset_digest",
    "runKey": "run_key",
    "backbone": "backbone",
    "strategy": "strategy",
}
_FIX = "Publish the package again from its training job."


@dataclass(frozen=True)
class PackageHeader:
    """What a package says about its origin.

    Attributes:
        verified: whether the model passed every gate; nothing serves a package that did not.
        created_by: program and version, for example ``tunesmith 0.1.0``.
        dataset_digest: digest of the prepared dataset.
        run_key: key of the run that made it.
        backbone: torchvision's name of the model.
        strategy: ``LinearProbe`` or ``FineTune``.
    """

    verified: bool
    created_by: str
    dataset_digest: str
    run_key: str
    backbone: str
    strategy: str


@dataclass(frozen=True)
class FileEntry:
    """One file's sha256 in lower case hexadecimal, and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """A package's name, header and files by name."""

    name: str
    header: PackageHeader
    files: Mapping[str, FileEntry]

    def to_bytes(self) -> bytes:
        """Return the one way to write this manifest."""
        fields: dict[str, Any] = {
            "format": FORMAT,
            "name": self.name,
            "verified": self.header.verified,
            "files": {name: {"sha256": file.sha256, "size": file.size} for name, file in self.files.items()},
        }
        fields.update({key: getattr(self.header, attribute) for key, attribute in _TEXTS.items()})
        return _canonical(fields)

    @property
    def digest(self) -> str:
        """``sha256:`` and the hexadecimal sha256 of the manifest's bytes: the name of the package."""
        return digest_of(self.to_bytes())


def digest_of(manifest: bytes) -> str:
    """Return the digest of a manifest's bytes, ``sha256:`` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def describe_files(directory: Path) -> dict[str, FileEntry]:
    """Hash every file of a package that is to be written; a manifest in the folder is not part of it.

    Raises:
        PackageInvalid: a folder, a link or a strange name among them, or a required file is missing.
    """
    files = {}
    for path in sorted(directory.iterdir()):
        if path.name == MANIFEST:
            continue
        if path.is_symlink() or not path.is_file():
            raise PackageInvalid(f"{path.name} in the package is not a plain file.", "Remove it.")
        files[_checked_name(path.name)] = hash_file(path)
    return _checked_files(files)


def hash_file(path: Path) -> FileEntry:
    """Return a file's sha256 and size, reading it block by block."""
    with path.open("rb") as file:
        return hash_stream(file)


def hash_stream(stream: BinaryIO) -> FileEntry:
    """Return the sha256 and size of what a stream still holds."""
    sha256, size = hashlib.sha256(), 0
    while block := stream.read(_BLOCK_BYTES):
        sha256.update(block)
        size += len(block)
    return FileEntry(sha256.hexdigest(), size)


def check_model_name(name: str) -> str:
    """Return the name, which becomes a part of keys.

    Raises:
        PackageInvalid: it is no DNS label of at most 63 characters.
    """
    if not _MODEL_NAME.fullmatch(name):
        raise PackageInvalid(f"The model name {name[:80]!r} is not a DNS label.", "Use a-z, 0-9 and '-'.")
    return name


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest and trust nothing in it.

    Raises:
        PackageInvalid: not a manifest of this format, not written canonically, a name that is no plain
            file name, a missing required file, or a value of a wrong type or size.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise PackageInvalid(f"The manifest is larger than {MAX_MANIFEST_BYTES} bytes.", _FIX)
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PackageInvalid("The manifest is not JSON.", _FIX) from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise PackageInvalid(
            f"The manifest's format is not {FORMAT}.", "Use the version of Tunesmith that wrote the package."
        )
    if set(fields) != {"format", "name", "verified", "files", *_TEXTS}:
        raise PackageInvalid("The manifest lacks a field or holds an unknown one.", _FIX)
    manifest = Manifest(check_model_name(_text(fields, "name")), _header(fields), _files(fields["files"]))
    if manifest.to_bytes() != data:
        raise PackageInvalid("The manifest is not written canonically, so its digest means nothing.", _FIX)
    return manifest


def _header(fields: Mapping[str, Any]) -> PackageHeader:
    if not isinstance(fields["verified"], bool):
        raise PackageInvalid("The manifest's verified is neither true nor false.", _FIX)
    texts = {attribute: _text(fields, key) for key, attribute in _TEXTS.items()}
    return PackageHeader(verified=fields["verified"], **texts)


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields[key]
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise PackageInvalid(f"The manifest's {key} is not a text of at most {_MAX_TEXT} characters.", _FIX)
    return value


def _files(entries: object) -> dict[str, FileEntry]:
    if not isinstance(entries, dict):
        raise PackageInvalid("The manifest's files are not a map.", _FIX)
    return _checked_files({_checked_name(name): _entry(name, entry) for name, entry in entries.items()})


def _entry(name: str, entry: object) -> FileEntry:
    if isinstance(entry, dict) and set(entry) == {"sha256", "size"}:
        sha256, size = entry["sha256"], entry["size"]
        if isinstance(sha256, str) and _SHA256.fullmatch(sha256) and type(size) is int and size >= 0:
            return FileEntry(sha256, size)
    raise PackageInvalid(f"The manifest's entry of {name} is not a sha256 and a size.", _FIX)


def _checked_name(name: str) -> str:
    if not _FILE_NAME.fullmatch(name) or name == MANIFEST:
        raise PackageInvalid(f"{name[:80]!r} is not a name that a package's file may have.", _FIX)
    return name


def _checked_files(files: dict[str, FileEntry]) -> dict[str, FileEntry]:
    if missing := REQUIRED_FILES - set(files):
        raise PackageInvalid(f"The package lacks {', '.join(sorted(missing))}.", _FIX)
    if len(files) > _MAX_FILES:
        raise PackageInvalid(f"The package has more than {_MAX_FILES} files.", _FIX)
    return files


def _canonical(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")
