"""Images from files: what a container runtime reads, and the same bytes every time."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tests.testbed.oci_image import Content, Image


def image(source: Path) -> Image:
    files = {
        "/usr/bin/tool": Content(source),
        "/etc/tool/settings": Content(b"quick", 0o644),
        "/tmp": Content(None, 0o1777),
    }
    return Image("tunesmith.test/tool:7", files, ["/usr/bin/tool", "--go"], {"HOME": "/tmp"})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "tool"
    path.write_bytes(b"\x7fELF")
    return path


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {one.name: (tar.extractfile(one) or io.BytesIO()).read() for one in tar if one.isfile()}


def blob(found: dict[str, bytes], described: dict[str, Any]) -> bytes:
    """A blob that an archive describes, checked against its digest and size."""
    kind, _, digest = described["digest"].partition(":")
    content = found[f"blobs/{kind}/{digest}"]
    assert (hashlib.sha256(content).hexdigest(), len(content)) == (digest, described["size"])
    return content


def test_archive_leads_from_its_index_to_files_and_command(tmp_path: Path, source: Path) -> None:
    found = members(image(source).write(tmp_path / "tool.tar"))
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(found["index.json"])["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == "tunesmith.test/tool:7"
    manifest = json.loads(blob(found, entry))
    (layer,) = manifest["layers"]
    configuration = json.loads(blob(found, manifest["config"]))
    assert configuration["rootfs"]["diff_ids"] == [layer["digest"]], "it is not compressed"
    assert configuration["config"]["Entrypoint"] == ["/usr/bin/tool", "--go"]
    assert configuration["config"]["User"] == "65532"
    assert "HOME=/tmp" in configuration["config"]["Env"]
    with tarfile.open(fileobj=io.BytesIO(blob(found, layer))) as tar:
        modes = {one.name: (one.isdir(), oct(one.mode), one.uid, one.mtime) for one in tar}
    assert modes == {
        "etc": (True, "0o755", 0, 0),
        "etc/tool": (True, "0o755", 0, 0),
        "tmp": (True, "0o1777", 0, 0),
        "usr": (True, "0o755", 0, 0),
        "usr/bin": (True, "0o755", 0, 0),
        "etc/tool/settings": (False, "0o644", 0, 0),
        "usr/bin/tool": (False, "0o755", 0, 0),
    }


def test_same_files_give_the_same_bytes(tmp_path: Path, source: Path) -> None:
    first = image(source).write(tmp_path / "first.tar").read_bytes()
    os.utime(source, (1, 1))
    source.chmod(0o600)
    second = image(source)
    turned = Image(second.name, dict(list(second.files.items())[::-1]), second.entrypoint, second.environment)
    assert turned.write(tmp_path / "second.tar").read_bytes() == first
    source.write_bytes(b"other")
    assert image(source).write(tmp_path / "third.tar").read_bytes() != first


def test_nothing_is_left_where_a_file_is_missing(tmp_path: Path, source: Path) -> None:
    source.unlink()
    with pytest.raises(FileNotFoundError):
        image(source).write(tmp_path / "tool.tar")
    assert list(tmp_path.iterdir()) == []


def test_relative_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="etc/x is not an absolute path"):
        Image("x", {"etc/x": Content(b"")}, ["/x"]).write(tmp_path / "x.tar")
