"""Writing, checking and opening model packages, which are named by the digest of their manifest.

A package lies at ``models/{name}/{digest}/`` of a store. Its files are written first and its manifest last,
so a package that has a manifest is whole. Its name is its content, so two publishers either write the same
bytes to the same place or different places.
"""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith_api.reasons import DigestMismatch, ModelUnverified, ObjectMissing, PackageInvalid
from tunesmith_package.file_store import FileStore
from tunesmith_package.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    PackageHeader,
    check_model_name,
    describe_files,
    digest_of,
    hash_file,
    hash_stream,
    parse_manifest,
)
from tunesmith_package.store import Store, open_store

_HEX_NAME = re.compile(r"[0-9a-f]{64}")
_OTHER_BYTES = "other bytes than were published"
_PART = ".part"
_RESTORE = "Publish it again from its training job, or use another package."


@dataclass(frozen=True)
class PublishedPackage:
    """Where a package lies, and its digest ``sha256:...``."""

    uri: str
    digest: str


@dataclass(frozen=True)
class ModelPackage:
    """A package on this machine, every file of which has been checked.

    Attributes:
        directory: holds the files.
        manifest: says what they are.
        digest: ``sha256:`` and the sha256 of the manifest.
    """

    directory: Path
    manifest: Manifest
    digest: str


@dataclass(frozen=True)
class FileCheck:
    """What a rehash found for one file.

    Attributes:
        name: of the file.
        size: bytes promised by the manifest, or found for a file it does not name.
        sha256: promised by the manifest, or empty.
        problem: what is wrong, as a few words; empty when nothing is.
    """

    name: str
    size: int
    sha256: str
    problem: str = ""


def publish_package(directory: Path, store: Store, name: str, header: PackageHeader) -> PublishedPackage:
    """Write a folder's files as a package, the manifest last.

    Safe to repeat after a kill at any moment, and safe for several at once: files that are there are
    checked instead of sent, damaged ones are written again, and an existing manifest must be the same.

    Args:
        directory: the package's files, flat; a ``manifest.json`` among them is ignored.
        store: the model store; the package goes to ``models/{name}/{digest}/`` in it.
        name: the model's name, a DNS label.
        header: what the manifest says about the origin.

    Raises:
        PackageInvalid: the folder is no package.
        DigestMismatch: another manifest lies where this one belongs.
        StoreError: the store cannot be written.
    """
    manifest = Manifest(check_model_name(name), header, describe_files(directory))
    base = f"models/{name}/{manifest.digest.removeprefix('sha256:')}"
    for file, entry in manifest.files.items():
        key = f"{base}/{file}"
        if not store.put_if_absent(key, directory / file) and _found(store, key) != entry:
            store.put(key, directory / file)
    data = manifest.to_bytes()
    if not store.put_if_absent(f"{base}/{MANIFEST}", data) and store.get(f"{base}/{MANIFEST}") != data:
        raise DigestMismatch(f"{store.url(base)} holds another manifest.", "Remove that folder.")
    return PublishedPackage(store.url(base), manifest.digest)


def read_manifest(store: Store, *, digest: str | None = None) -> Manifest:
    """Read the manifest of the package at a store's root, without its files.

    Args:
        store: opened at the package's own address.
        digest: the digest it must have; one named by the last part of the address is checked as well.

    Raises:
        PackageInvalid: there is no manifest, or it breaks a rule.
        DigestMismatch: it is not the one whose digest was asked for.
    """
    try:
        with store.open(MANIFEST) as stream:
            data = stream.read(MAX_MANIFEST_BYTES + 1)
    except ObjectMissing as error:
        raise PackageInvalid(
            f"{store.uri} holds no {MANIFEST}: it is not a package, or its publishing was never finished.",
            "Check the address.",
        ) from error
    found, last = digest_of(data), store.uri.rpartition("/")[2]
    named = f"sha256:{last}" if _HEX_NAME.fullmatch(last) else None
    for wanted in (digest, named):
        if wanted is not None and wanted != found:
            raise DigestMismatch(f"The package at {store.uri} is {found}, not {wanted}.", _RESTORE)
    return parse_manifest(data)


def open_package(
    uri: str,
    *,
    credentials: Mapping[str, str] | None = None,
    digest: str | None = None,
    cache: Path | None = None,
    require_verified: bool = False,
    patience_seconds: float = 300,
    on_wait: Callable[[str], None] | None = None,
) -> ModelPackage:
    """Bring a package onto this machine and check every byte of it before anything is parsed.

    A package in a folder is used where it lies, unless a cache is named. One that is in the cache already
    is checked again and, if damaged, fetched again.

    Args:
        uri: the package's own address.
        credentials: as for `open_store`.
        digest: ``sha256:...`` that the package must have; give it wherever it is known.
        cache: folder that keeps packages by digest; default ``$XDG_CACHE_HOME/tunesmith/packages``.
        require_verified: refuse a model that did not pass its gates.
        patience_seconds: as for `open_store`.
        on_wait: as for `open_store`.

    Raises:
        DigestMismatch: the manifest or a file is not what the digest promises.
        PackageInvalid: a file is missing or not named by the manifest, or the manifest breaks a rule.
        ModelUnverified: the model did not pass its gates and ``require_verified`` is set.
        StoreError: the store cannot be read.
    """
    store = open_store(uri, credentials=credentials, patience_seconds=patience_seconds, on_wait=on_wait)
    manifest = _admitted(store, digest, require_verified=require_verified)
    if isinstance(store, FileStore) and cache is None:
        _require(check_files(store, manifest), uri)
        return ModelPackage(store.root, manifest, manifest.digest)
    return ModelPackage(_cached(store, manifest, cache or _default_cache()), manifest, manifest.digest)


def fetch_package(
    uri: str,
    directory: Path,
    *,
    credentials: Mapping[str, str] | None = None,
    digest: str | None = None,
    require_verified: bool = False,
    patience_seconds: float = 300,
    on_wait: Callable[[str], None] | None = None,
) -> ModelPackage:
    """Bring a package into a folder, every byte checked, the manifest last.

    Safe to repeat after a kill at any moment: files that are there and whole are not fetched again. The
    folder may be a mount, so nothing is renamed but the files in it.

    Args:
        uri: the package's own address.
        directory: made if need be; it must hold nothing else.
        credentials: as for `open_store`.
        digest: ``sha256:...`` that the package must have; give it wherever it is known.
        require_verified: refuse a model that did not pass its gates.
        patience_seconds: as for `open_store`.
        on_wait: as for `open_store`.

    Raises:
        DigestMismatch: the manifest or a file is not what the digest promises.
        PackageInvalid: the folder holds other files, or the package lacks one.
        ModelUnverified: the model did not pass its gates and ``require_verified`` is set.
        StoreError: the store cannot be read.
    """
    store = open_store(uri, credentials=credentials, patience_seconds=patience_seconds, on_wait=on_wait)
    manifest = _admitted(store, digest, require_verified=require_verified)
    directory.mkdir(parents=True, exist_ok=True)
    ours = {MANIFEST, *manifest.files}
    others = sorted(
        path.name for path in directory.iterdir() if path.name not in ours and not path.name.endswith(_PART)
    )
    if others:
        raise PackageInvalid(
            f"{directory} holds {others[0]}, which is not of this package.", "Choose an empty folder."
        )
    for name, entry in manifest.files.items():
        target, part = directory / name, directory / f".{name}{_PART}"
        if target.is_file() and not target.is_symlink() and hash_file(target) == entry:
            continue
        store.download(name, part)
        if hash_file(part) != entry:
            part.unlink()
            _require([FileCheck(name, entry.size, entry.sha256, _OTHER_BYTES)], store.uri)
        part.replace(target)
    for left in directory.glob(f".*{_PART}"):
        left.unlink()
    part = directory / f".{MANIFEST}{_PART}"
    part.write_bytes(manifest.to_bytes())
    part.replace(directory / MANIFEST)
    return ModelPackage(directory, manifest, manifest.digest)


def _admitted(store: Store, digest: str | None, *, require_verified: bool) -> Manifest:
    manifest = read_manifest(store, digest=digest)
    if require_verified and not manifest.header.verified:
        raise ModelUnverified(
            f"The model at {store.uri} did not pass its verification.", "Read its report; train a better one."
        )
    return manifest


def verify_package(
    uri: str, *, credentials: Mapping[str, str] | None = None, digest: str | None = None
) -> list[FileCheck]:
    """Rehash every file of a package where it lies; return one result per file, sorted by name.

    Raises:
        PackageInvalid: there is no readable manifest.
        DigestMismatch: the manifest itself is not the one asked for.
    """
    store = open_store(uri, credentials=credentials)
    return check_files(store, read_manifest(store, digest=digest))


def check_files(store: Store, manifest: Manifest) -> list[FileCheck]:
    """Compare the files at a store's root with a manifest, by name, size and sha256."""
    listed = {info.key: info.size for info in store.list() if info.key != MANIFEST}
    checks = [
        FileCheck(name, size, "", "not named by the manifest")
        for name, size in listed.items()
        if name not in manifest.files
    ]
    for name, entry in manifest.files.items():
        problem = "missing" if name not in listed else _difference(store, name, entry, listed[name])
        checks.append(FileCheck(name, entry.size, entry.sha256, problem))
    return sorted(checks, key=lambda check: check.name)


def _difference(store: Store, name: str, entry: FileEntry, size: int) -> str:
    if size != entry.size:
        return f"{size} bytes instead of {entry.size}"
    return "" if _found(store, name) == entry else _OTHER_BYTES


def _found(store: Store, key: str) -> FileEntry:
    with store.open(key) as stream:
        return hash_stream(stream)


def _require(checks: list[FileCheck], where: str) -> None:
    wrong = [check for check in checks if check.problem]
    if not wrong:
        return
    shown = "; ".join(f"{check.name}: {check.problem}" for check in wrong[:5])
    incomplete = any(check.problem.startswith(("missing", "not named")) for check in wrong)
    error = PackageInvalid if incomplete else DigestMismatch
    raise error(f"The package at {where} is not what was published ({shown}).", _RESTORE)


def _cached(store: Store, manifest: Manifest, cache: Path) -> Path:
    """Return the package's folder in the cache, after fetching it if it is not there unharmed."""
    target = cache / manifest.digest.removeprefix("sha256:")
    if _is_unharmed(target, manifest):
        return target
    listed = {info.key: info.size for info in store.list() if info.key != MANIFEST}
    promised = {name: entry.size for name, entry in manifest.files.items()}
    if listed != promised:
        _require(check_files(store, manifest), store.uri)
    part = cache / f".{target.name}.{secrets.token_hex(8)}.part"
    try:
        for name, entry in manifest.files.items():
            store.download(name, part / name)
            if hash_file(part / name) != entry:
                _require([FileCheck(name, entry.size, entry.sha256, _OTHER_BYTES)], store.uri)
        (part / MANIFEST).write_bytes(manifest.to_bytes())
        _move(part, target, manifest)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _move(part: Path, target: Path, manifest: Manifest) -> None:
    """Give a fetched folder its name; another process that was faster wins, a damaged folder makes room."""
    if target.exists() and not _is_unharmed(target, manifest):
        damaged = target.with_name(f"{part.name}.damaged")
        with contextlib.suppress(FileNotFoundError):
            target.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        part.rename(target)
    except OSError:
        if not _is_unharmed(target, manifest):
            raise


def _is_unharmed(folder: Path, manifest: Manifest) -> bool:
    try:
        names = {path.name for path in folder.iterdir()}
        return (
            names == {MANIFEST, *manifest.files}
            and (folder / MANIFEST).read_bytes() == manifest.to_bytes()
            and all(
                not (folder / name).is_symlink() and hash_file(folder / name) == entry
                for name, entry in manifest.files.items()
            )
        )
    except OSError:
        return False


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tunesmith" / "packages"
