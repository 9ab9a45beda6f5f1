"""Writes an image as an archive (OCI image layout) from files: one layer, FROM scratch, no builder needed.

The same files give the same bytes, whenever and wherever: no times, no owners but root, everything in order.
"""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
OCI = "application/vnd.oci.image"
NOBODY = 65532
"""The user that images without a name for it run as, by custom."""


@dataclass(frozen=True)
class Content:
    """A file of the image: the bytes of a file here, or these; or an empty folder, where it has neither."""

    source: Path | bytes | None
    mode: int = 0o755


@dataclass(frozen=True)
class Image:
    """What an image holds and how it starts.

    Attributes:
        name: under which a node knows it, with registry and tag (`tunesmith.test/pause:1`).
        files: by their absolute paths in the image; their folders need no mention.
        entrypoint: the command.
        environment: its variables.
        user: a number, as Pod Security "restricted" wants it.
        folder: where the command starts.
    """

    name: str
    files: Mapping[str, Content]
    entrypoint: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: int = NOBODY
    folder: str = "/"

    def write(self, archive: Path) -> Path:
        """Write the archive, in one step."""
        unfinished = archive.with_name(f"{archive.name}.unfinished")
        layer = unfinished.with_name(f"{archive.name}.layer")
        try:
            _write_layer(layer, self.files)
            _write_archive(unfinished, layer, self)
            return unfinished.replace(archive)
        finally:
            layer.unlink(missing_ok=True)
            unfinished.unlink(missing_ok=True)


def _write_layer(path: Path, files: Mapping[str, Content]) -> None:
    folders: dict[PurePosixPath, int] = {}
    for name, content in files.items():
        place = PurePosixPath(name)
        if not place.is_absolute():
            raise ValueError(f"{name} is not an absolute path.")
        for folder in place.parents[:-1]:
            folders.setdefault(folder, 0o755)
        if content.source is None:
            folders[place] = content.mode
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for folder in sorted(folders):
            entry = tarfile.TarInfo(str(folder)[1:])
            entry.type, entry.mode = tarfile.DIRTYPE, folders[folder]
            tar.addfile(entry)
        for name in sorted(files):
            _add(tar, name[1:], files[name].source, files[name].mode)


def _write_archive(path: Path, layer: Path, image: Image) -> None:
    architecture = ARCHITECTURES[platform.machine()]
    layer_digest = _digest(layer)
    variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **image.environment}
    configuration = _json(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Env": [f"{name}={value}" for name, value in variables.items()],
                "Entrypoint": list(image.entrypoint),
                "User": str(image.user),
                "WorkingDir": image.folder,
            },
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": _described(f"{OCI}.config.v1+json", configuration),
            "layers": [
                {
                    "mediaType": f"{OCI}.layer.v1.tar",
                    "digest": layer_digest,
                    "size": layer.stat().st_size,
                }
            ],
        }
    )
    entry = _described(f"{OCI}.manifest.v1+json", manifest) | {
        "platform": {"architecture": architecture, "os": "linux"},
        "annotations": {
            "io.containerd.image.name": image.name,
            "org.opencontainers.image.ref.name": image.name.rpartition(":")[2],
        },
    }
    index = _json({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [entry]})
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", index)
        for blob in (configuration, manifest):
            _add(tar, _blob(_digest(blob)), blob)
        _add(tar, _blob(layer_digest), layer)


def _add(tar: tarfile.TarFile, name: str, source: Path | bytes | None, mode: int = 0o644) -> None:
    if source is None:
        return
    entry = tarfile.TarInfo(name)
    entry.mode = mode
    if isinstance(source, bytes):
        entry.size = len(source)
        tar.addfile(entry, io.BytesIO(source))
        return
    entry.size = source.stat().st_size
    with source.open("rb") as file:
        tar.addfile(entry, file)


def _described(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(blob), "size": len(blob)}


def _digest(source: Path | bytes) -> str:
    if isinstance(source, bytes):
        return f"sha256:{hashlib.sha256(source).hexdigest()}"
    with source.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _json(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True).encode()
