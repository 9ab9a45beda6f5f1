"""A package is exactly what its digest says, or it is refused."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.testbed.s3 import S3Server
from tests.testbed.tiny_package import HEADER, write_tiny_package

from tunesmith_api.reasons import DigestMismatch, ModelUnverified, PackageError, PackageInvalid
from tunesmith_package.file_store import FileStore
from tunesmith_package.inference import Predictor
from tunesmith_package.manifest import MANIFEST, digest_of, hash_file
from tunesmith_package.package import (
    PublishedPackage,
    open_package,
    publish_package,
    read_manifest,
    verify_package,
)
from tunesmith_package.store import Store, open_store

CONTENTS = {
    "model.onnx": b"onnx" * 100,
    "weights.safetensors": b"w" * 50,
    "preprocess.json": b"{}",
    "labels.json": b"[]",
}


@pytest.fixture(params=["file", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str] | None]:
    if request.param == "file":
        return (tmp_path / "store").as_uri(), None
    server: S3Server = request.getfixturevalue("s3_server")
    return f"s3://{request.getfixturevalue('s3_bucket')}/team", server.credentials


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source")


def write_source(folder: Path, **more: bytes) -> Path:
    folder.mkdir()
    for name, content in {**CONTENTS, **more}.items():
        (folder / name).write_bytes(content)
    return folder


def published(tmp_path: Path) -> tuple[PublishedPackage, Path]:
    """A package in a folder store, and the folder it lies in."""
    store = FileStore(tmp_path / "store")
    package = publish_package(write_source(tmp_path / "source"), store, "flowers", HEADER)
    return package, store.root / "models" / "flowers" / package.digest.removeprefix("sha256:")


def test_publish_then_open_brings_the_same_files_to_a_cache(
    address: tuple[str, dict[str, str] | None], source: Path, tmp_path: Path
) -> None:
    uri, credentials = address
    store = open_store(uri, credentials=credentials)

    package = publish_package(source, store, "flowers", HEADER)
    opened = open_package(
        package.uri, credentials=credentials, digest=package.digest, cache=tmp_path / "cache"
    )

    assert package.uri == f"{uri}/models/flowers/{package.digest.removeprefix('sha256:')}"
    assert opened.digest == package.digest == digest_of((opened.directory / MANIFEST).read_bytes())
    assert opened.manifest.name == "flowers"
    assert opened.manifest.header == HEADER
    assert {
        each.name: each.read_bytes() for each in opened.directory.iterdir() if each.name != MANIFEST
    } == CONTENTS
    assert [each.name for each in (tmp_path / "cache").iterdir()] == [package.digest.removeprefix("sha256:")]
    assert [check.problem for check in verify_package(package.uri, credentials=credentials)] == [""] * 4


def test_publish_of_a_real_model_predicts_after_opening(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    package = publish_package(write_tiny_package(tmp_path / "source"), store, "tiny", HEADER)

    opened = open_package(package.uri, digest=package.digest, require_verified=True)

    assert Predictor(opened.directory, threads=1).labels == ("red", "green", "blue")


def test_publish_twice_writes_nothing_the_second_time(
    address: tuple[str, dict[str, str] | None], source: Path
) -> None:
    store = open_store(address[0], credentials=address[1])

    first = publish_package(source, store, "flowers", HEADER)
    before = list(store.list())
    second = publish_package(source, store, "flowers", HEADER)

    assert second == first
    assert list(store.list()) == before


def test_publish_of_an_opened_package_gives_the_same_digest(tmp_path: Path) -> None:
    package, folder = published(tmp_path)

    assert publish_package(folder, FileStore(tmp_path / "other"), "flowers", HEADER).digest == package.digest


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda header: replace(header, verified=False), id="not verified"),
        pytest.param(lambda header: replace(header, run_key="other"), id="another run"),
    ],
)
def test_publish_of_the_same_files_under_another_header_is_another_package(
    tmp_path: Path, source: Path, change: Callable[..., object]
) -> None:
    store = FileStore(tmp_path / "store")

    first = publish_package(source, store, "flowers", HEADER)
    second = publish_package(source, store, "flowers", change(HEADER))  # type: ignore[arg-type]

    assert first.digest != second.digest
    assert verify_package(first.uri)
    assert verify_package(second.uri)


class Interrupted(Exception):
    pass


class InterruptedStore:
    """A real store whose process 'dies' before its n-th write."""

    def __init__(self, store: Store, writes: int) -> None:
        self.store, self.left = store, writes

    def __getattr__(self, name: str) -> object:
        method = getattr(self.store, name)
        if name not in ("put", "put_if_absent"):
            return method

        def counted(*arguments: object) -> object:
            if self.left == 0:
                raise Interrupted
            self.left -= 1
            return method(*arguments)

        return counted


@pytest.mark.parametrize("writes", range(5))
def test_publish_cut_off_after_any_write_is_no_package_and_goes_on_later(
    tmp_path: Path, source: Path, writes: int
) -> None:
    store = FileStore(tmp_path / "store")
    with pytest.raises(Interrupted):
        publish_package(source, InterruptedStore(store, writes), "flowers", HEADER)  # type: ignore[arg-type]
    left = {info.key.rpartition("/")[2]: info.version for info in store.list()}
    assert MANIFEST not in left
    assert len(left) == writes

    package = publish_package(source, store, "flowers", HEADER)

    after = {info.key.rpartition("/")[2]: info.version for info in store.list()}
    assert all(after[name] == version for name, version in left.items()), "a finished file was sent again"
    assert [check.problem for check in verify_package(package.uri)] == [""] * 4


def test_publish_killed_at_any_moment_leaves_a_whole_package_or_none(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", **{"report.html": os.urandom(4 << 20)})
    program = (
        "import sys; from pathlib import Path; from tunesmith_package.package import publish_package;"
        "from tunesmith_package.file_store import FileStore; from tests.testbed.tiny_package import HEADER;"
        "print('ready', flush=True); sys.stdin.readline();"
        "publish_package(Path(sys.argv[1]), FileStore(Path(sys.argv[2])), 'flowers', HEADER)"
    )
    store = FileStore(tmp_path / "store")
    for delay in (0.0, 0.002, 0.005, 0.01, 0.02, 0.04):
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(source), str(store.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        with child.stdin, child.stdout:
            child.stdout.readline()
            child.stdin.write(b"go\n")
            child.stdin.flush()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(delay)
            child.send_signal(signal.SIGKILL)
            child.wait()
        manifests = [info.key for info in store.list() if info.key.endswith(MANIFEST)]
        for key in manifests:
            assert all(not check.problem for check in verify_package(store.url(key.rpartition("/")[0])))

    package = publish_package(source, store, "flowers", HEADER)

    assert all(not check.problem for check in verify_package(package.uri))


def test_publish_over_damaged_files_mends_them(tmp_path: Path) -> None:
    package, folder = published(tmp_path)
    (folder / "model.onnx").write_bytes(b"damaged")

    again = publish_package(tmp_path / "source", FileStore(tmp_path / "store"), "flowers", HEADER)

    assert again == package
    assert all(not check.problem for check in verify_package(package.uri))


def test_publish_where_another_manifest_lies_is_refused(tmp_path: Path) -> None:
    _, folder = published(tmp_path)
    (folder / MANIFEST).write_bytes(b"{}")

    with pytest.raises(DigestMismatch, match="another manifest"):
        publish_package(tmp_path / "source", FileStore(tmp_path / "store"), "flowers", HEADER)


def test_publish_by_several_at_once_never_mixes_them(
    address: tuple[str, dict[str, str] | None], tmp_path: Path
) -> None:
    uri, credentials = address
    sources = [
        write_source(tmp_path / f"s{each}", **{"metrics.json": str(each % 2).encode()}) for each in range(6)
    ]
    packages: list[PublishedPackage] = []

    def publish(folder: Path) -> None:
        packages.append(publish_package(folder, open_store(uri, credentials=credentials), "flowers", HEADER))

    threads = [threading.Thread(target=publish, args=(folder,)) for folder in sources]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)

    assert len(packages) == 6
    assert len(set(packages)) == 2
    for package in set(packages):
        assert all(not check.problem for check in verify_package(package.uri, credentials=credentials))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(lambda folder: (folder / "model.onnx").unlink(), "lacks model.onnx", id="no model"),
        pytest.param(lambda folder: (folder / "sub").mkdir(), "sub in the package", id="a folder"),
        pytest.param(lambda folder: (folder / "link").symlink_to("model.onnx"), "link in the", id="a link"),
        pytest.param(
            lambda folder: (folder / ".hidden").touch(), "'.hidden' is not a name", id="a hidden file"
        ),
        pytest.param(lambda folder: (folder / "a b").touch(), "'a b' is not a name", id="a space"),
    ],
)
def test_publish_of_a_folder_that_is_no_package_is_refused(
    tmp_path: Path, source: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    spoil(source)

    with pytest.raises(PackageInvalid, match=sentence):
        publish_package(source, FileStore(tmp_path / "store"), "flowers", HEADER)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["", "../x", "Flowers", "a/b", "a" * 64, "-a"])
def test_publish_under_a_name_that_is_no_label_is_refused(tmp_path: Path, source: Path, name: str) -> None:
    with pytest.raises(PackageInvalid, match="DNS label"):
        publish_package(source, FileStore(tmp_path / "store"), name, HEADER)


@pytest.mark.parametrize(
    ("name", "content", "error", "sentence"),
    [
        pytest.param(
            "model.onnx",
            CONTENTS["model.onnx"][:-1] + b"X",
            DigestMismatch,
            "model.onnx: other bytes",
            id="other bytes of the same size",
        ),
        pytest.param("labels.json", b"[1]", DigestMismatch, "labels.json: 3 bytes instead of 2", id="larger"),
        pytest.param("labels.json", None, PackageInvalid, "labels.json: missing", id="missing"),
        pytest.param("evil.py", b"", PackageInvalid, "evil.py: not named", id="extra"),
        pytest.param("sub/x", b"", PackageInvalid, "sub/x: not named", id="extra in a folder"),
        pytest.param(MANIFEST, None, PackageInvalid, "never finished", id="no manifest"),
        pytest.param(MANIFEST, b"{}", DigestMismatch, "not sha256:", id="another manifest"),
    ],
)
@pytest.mark.parametrize("cached", [False, True], ids=["where it lies", "through the cache"])
def test_open_of_a_package_that_was_changed_is_refused(
    tmp_path: Path, name: str, content: bytes | None, error: type[Exception], sentence: str, cached: bool
) -> None:
    package, folder = published(tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_bytes(content)

    with pytest.raises(error, match=sentence):
        open_package(package.uri, digest=package.digest, cache=tmp_path / "cache" if cached else None)
    assert not list((tmp_path / "cache").glob("*"))


@settings(max_examples=60)
@given(data=st.data())
def test_open_of_a_package_with_any_byte_changed_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    tmp_path = tmp_path_factory.mktemp("tampered")
    package, folder = published(tmp_path)
    victim = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(victim.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    victim.write_bytes(content)

    with pytest.raises(PackageError):
        open_package(package.uri)


def test_open_with_another_digest_than_the_package_has_is_refused(tmp_path: Path) -> None:
    package, _ = published(tmp_path)
    wanted = f"sha256:{'1' * 64}"

    with pytest.raises(DigestMismatch, match=f"is {package.digest}, not {wanted}"):
        open_package(package.uri, digest=wanted)


def test_open_of_a_package_copied_to_a_folder_of_another_digest_is_refused(tmp_path: Path) -> None:
    _, folder = published(tmp_path)
    moved = folder.rename(folder.with_name("2" * 64))

    with pytest.raises(DigestMismatch):
        open_package(moved.as_uri())
    assert open_package(moved.rename(folder.with_name("mounted")).as_uri()).manifest.name == "flowers"


def test_open_that_requires_verification_refuses_a_model_that_failed_it(tmp_path: Path, source: Path) -> None:
    package = publish_package(
        source, FileStore(tmp_path / "store"), "flowers", replace(HEADER, verified=False)
    )

    assert open_package(package.uri).manifest.header.verified is False
    with pytest.raises(ModelUnverified):
        open_package(package.uri, require_verified=True)


def test_open_twice_uses_the_cache_and_mends_it_when_damaged(tmp_path: Path) -> None:
    package, _ = published(tmp_path)
    first = open_package(package.uri, cache=tmp_path / "cache")
    inode = (first.directory / "model.onnx").stat().st_ino
    assert open_package(package.uri, cache=tmp_path / "cache") == first
    assert (first.directory / "model.onnx").stat().st_ino == inode

    (first.directory / "model.onnx").write_bytes(b"damaged")
    again = open_package(package.uri, cache=tmp_path / "cache")

    assert hash_file(again.directory / "model.onnx") == again.manifest.files["model.onnx"]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_open_by_several_at_once_gives_each_the_whole_package(tmp_path: Path) -> None:
    package, _ = published(tmp_path)
    opened: list[Path] = []

    threads = [
        threading.Thread(
            target=lambda: opened.append(open_package(package.uri, cache=tmp_path / "cache").directory)
        )
        for _ in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)

    assert len(opened) == 8
    assert len(set(opened)) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_open_without_a_cache_named_keeps_packages_in_the_users_cache(
    s3_server: S3Server, s3_bucket: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    store = open_store(f"s3://{s3_bucket}", credentials=s3_server.credentials)
    package = publish_package(source, store, "flowers", HEADER)

    opened = open_package(package.uri, credentials=s3_server.credentials)

    assert opened.directory.parent == tmp_path / "home" / "tunesmith" / "packages"


def test_verify_names_every_file_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    package, folder = published(tmp_path)
    (folder / "model.onnx").write_bytes(b"short")
    (folder / "extra").touch()
    (folder / "labels.json").unlink()

    found = {check.name: check.problem for check in verify_package(package.uri)}

    assert found == {
        "extra": "not named by the manifest",
        "labels.json": "missing",
        "model.onnx": "5 bytes instead of 400",
        "preprocess.json": "",
        "weights.safetensors": "",
    }


def test_read_manifest_needs_no_files(tmp_path: Path) -> None:
    package, folder = published(tmp_path)
    (folder / "model.onnx").unlink()

    assert read_manifest(open_store(package.uri), digest=package.digest).header == HEADER
