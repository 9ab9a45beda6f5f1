"""Bringing a package into a folder: whole, checked, and again after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.testbed.tiny_package import HEADER, write_tiny_package

from tunesmith_api.reasons import DigestMismatch, ModelUnverified, PackageInvalid
from tunesmith_package.file_store import FileStore
from tunesmith_package.package import PublishedPackage, fetch_package, open_package, publish_package
from tunesmith_package.store import open_store

OTHER = "sha256:" + "0" * 64


def publish(folder: Path, *, verified: bool = True) -> PublishedPackage:
    store = open_store((folder / "store").as_uri())
    header = replace(HEADER, verified=verified)
    return publish_package(write_tiny_package(folder / "built"), store, "colours", header)


@pytest.fixture
def package(tmp_path: Path) -> PublishedPackage:
    return publish(tmp_path)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are copied."""
    real, found = FileStore.download, list[str]()

    def download(store: FileStore, key: str, path: Path) -> None:
        found.append(key)
        real(store, key, path)

    monkeypatch.setattr(FileStore, "download", download)
    return found


def test_fetched_package_is_whole_and_opens_where_it_lies(package: PublishedPackage, tmp_path: Path) -> None:
    fetched = fetch_package(package.uri, tmp_path / "models", digest=package.digest)
    assert fetched.digest == package.digest
    opened = open_package((tmp_path / "models").as_uri(), digest=package.digest)
    assert opened.manifest == fetched.manifest


def test_fetch_again_takes_only_what_is_missing_or_damaged(
    package: PublishedPackage, tmp_path: Path, downloads: list[str]
) -> None:
    target = tmp_path / "models"
    fetch_package(package.uri, target)
    everything = len(downloads)
    (target / "manifest.json").unlink()
    (target / "labels.json").unlink()
    (target / "model.onnx").write_bytes(b"half")
    (target / ".weights.safetensors.part").write_bytes(b"left by a kill")
    downloads.clear()

    fetch_package(package.uri, target)

    assert everything > 3
    assert sorted(downloads) == ["labels.json", "model.onnx"]
    assert not list(target.glob(".*"))
    assert open_package(target.as_uri(), digest=package.digest).digest == package.digest


def test_fetch_never_writes_a_manifest_over_a_file_that_is_not_what_was_published(
    package: PublishedPackage, tmp_path: Path
) -> None:
    (Path(package.uri.removeprefix("file://")) / "labels.json").write_text('["other"]')
    with pytest.raises(DigestMismatch, match=r"labels\.json"):
        fetch_package(package.uri, tmp_path / "models")
    assert not (tmp_path / "models" / "manifest.json").exists()
    assert not (tmp_path / "models" / "labels.json").exists()


def test_fetch_follows_no_link_in_the_folder(package: PublishedPackage, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    target.mkdir()
    elsewhere.write_text("precious")
    (target / "labels.json").symlink_to(elsewhere)
    fetch_package(package.uri, target)
    assert elsewhere.read_text() == "precious"
    assert not (target / "labels.json").is_symlink()


def test_fetch_into_a_folder_that_holds_something_else_is_refused(
    package: PublishedPackage, tmp_path: Path
) -> None:
    target = tmp_path / "models"
    target.mkdir()
    (target / "thesis.pdf").touch()
    with pytest.raises(PackageInvalid, match=r"thesis\.pdf"):
        fetch_package(package.uri, target)
    assert [path.name for path in target.iterdir()] == ["thesis.pdf"]


def test_fetch_of_another_digest_or_an_unverified_model_brings_nothing(tmp_path: Path) -> None:
    package = publish(tmp_path, verified=False)
    with pytest.raises(DigestMismatch):
        fetch_package(package.uri, tmp_path / "models", digest=OTHER)
    with pytest.raises(ModelUnverified):
        fetch_package(package.uri, tmp_path / "models", require_verified=True)
    assert not (tmp_path / "models").exists()
