"""A folder as a store: what only a file system can do to it."""

import errno
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tunesmith_api.reasons import DiskFull, ObjectMissing, StoreDenied, StoreError, StoreFull
from tunesmith_package.file_store import STAGING, FileStore
from tunesmith_package.patience import Patience
from tunesmith_package.store import FOLDER_LINK, OUTSIDE, UNREADABLE, KeyRefused, ObjectDenied

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB in memory."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def leftovers(store: FileStore) -> list[Path]:
    return list((store.root / STAGING).iterdir())


@pytest.mark.parametrize("write", ["put", "put_if_absent"])
@pytest.mark.parametrize("kind", ["bytes", "file"])
def test_file_store_on_a_full_disk_says_so_and_keeps_what_was_there(
    small_disk: Path, tmp_path: Path, write: str, kind: str
) -> None:
    store = FileStore(small_disk / "store")
    store.put("kept", b"x" * 1000)
    large: bytes | Path = b"x" * 2 * MIB
    if kind == "file":
        (tmp_path / "large").write_bytes(b"x" * 2 * MIB)
        large = tmp_path / "large"

    with pytest.raises(StoreFull, match="no room for large"):
        getattr(store, write)("large", large)

    assert [each.key for each in store.list()] == ["kept"]
    assert store.get("kept") == b"x" * 1000
    assert leftovers(store) == []
    store.put("small", b"x" * 1000)


def test_file_store_overwriting_on_a_full_disk_keeps_the_old_object(small_disk: Path) -> None:
    store = FileStore(small_disk / "store")
    store.put("key", b"old")

    with pytest.raises(StoreFull):
        store.put("key", b"x" * 2 * MIB)

    assert store.get("key") == b"old"


def test_file_store_download_to_a_full_disk_blames_this_machine_and_leaves_nothing(
    store: FileStore, small_disk: Path
) -> None:
    store.put("large", b"x" * 2 * MIB)

    with pytest.raises(DiskFull, match="disk has no room"):
        store.download("large", small_disk / "large")

    assert list(small_disk.iterdir()) == []


LIMITED_WRITER = """
import resource, signal, sys
from pathlib import Path
from tunesmith_api.reasons import StoreFull
from tunesmith_package.file_store import FileStore

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999))
try:
    FileStore(Path(sys.argv[1])).put("key", b"x" * 10_000)
except StoreFull as error:
    print(error.reason)
"""


def test_file_store_writer_limited_in_file_size_gets_the_same_error(tmp_path: Path) -> None:
    assert output_of(LIMITED_WRITER, tmp_path / "store") == ["StoreFull"]
    assert list(FileStore(tmp_path / "store").list()) == []


METHODS: dict[str, Callable[[FileStore, str], object]] = {
    "get": lambda store, key: store.get(key),
    "open": lambda store, key: store.open(key),
    "exists": lambda store, key: store.exists(key),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("link", "target", "key"),
    [
        pytest.param("link", "../secret/file", "link", id="a link to a file outside"),
        pytest.param("link", "../secret", "link/file", id="a link to a folder outside"),
        pytest.param("link", "/etc/passwd", "link", id="an absolute link"),
        pytest.param("link", "../store-twin/file", "link", id="a folder whose name begins like the root's"),
        pytest.param("a/b/link", "../../../secret/file", "a/b/link", id="a link deep inside"),
    ],
)  # fmt: skip
def test_file_store_reading_through_a_link_that_leaves_the_root_is_refused(
    tmp_path: Path, store: FileStore, method: str, link: str, target: str, key: str
) -> None:
    for folder in ("secret", "store-twin"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_bytes(b"secret")
    (store.root / link).parent.mkdir(parents=True)
    (store.root / link).symlink_to(target)

    with pytest.raises(KeyRefused, match="symbolic link"):
        METHODS[method](store, key)


def test_file_store_links_that_stay_inside_are_followed(store: FileStore) -> None:
    store.put("real/file", b"x")
    (store.root / "link").symlink_to("real/file")
    (store.root / "folder").symlink_to("real")

    assert store.get("link") == b"x"
    assert store.get("folder/file") == b"x"


def test_file_store_writing_below_a_link_that_leaves_the_root_is_refused(
    tmp_path: Path, store: FileStore
) -> None:
    (tmp_path / "outside").mkdir()
    store.root.mkdir()
    (store.root / "link").symlink_to("../outside")

    for write in (store.put, store.put_if_absent):
        with pytest.raises(KeyRefused):
            write("link/file", b"x")
    with pytest.raises(KeyRefused):
        store.delete("link/file")
    assert list((tmp_path / "outside").iterdir()) == []


def test_file_store_writing_onto_a_link_replaces_the_link_and_not_its_target(
    tmp_path: Path, store: FileStore
) -> None:
    (tmp_path / "outside").write_bytes(b"precious")
    store.root.mkdir()
    (store.root / "link").symlink_to("../outside")

    store.put("link", b"new")

    assert store.get("link") == b"new"
    assert (tmp_path / "outside").read_bytes() == b"precious"


def test_file_store_list_names_what_is_no_object_so_that_it_can_be_reported(
    tmp_path: Path, store: FileStore
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    store.put("class/photo", b"x")
    for name, target in (
        ("class/escape", "../../secret"),
        ("class/dangling", "nothing"),
        ("class/beyond", "photo/deeper"),
        ("class/itself", "itself"),
        ("loop", "."),
    ):
        (store.root / name).symlink_to(target)
    os.mkfifo(store.root / "class" / "pipe")

    found = {each.key: (each.size, each.version) for each in store.list()}

    assert found.pop("class/photo")[0] == 1
    assert found == {
        "class/escape": (0, OUTSIDE),
        "class/dangling": (0, UNREADABLE),
        "class/beyond": (0, UNREADABLE),
        "class/itself": (0, UNREADABLE),
        "class/pipe": (0, UNREADABLE),
        "loop": (0, FOLDER_LINK),
    }


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("pipe", "no file, but a folder, a pipe or a device"),
        ("folder", "no file, but a folder, a pipe or a device"),
        ("itself", "leads back to itself"),
        ("dangling", "does not exist"),
    ],
)
def test_file_store_pipes_folders_and_broken_links_are_no_objects(
    store: FileStore, key: str, words: str
) -> None:
    store.put("folder/file", b"x")
    os.mkfifo(store.root / "pipe")
    (store.root / "itself").symlink_to("itself")
    (store.root / "dangling").symlink_to("nothing")

    with pytest.raises(ObjectMissing, match=words):
        store.get(key)
    assert not store.exists(key)


@pytest.mark.parametrize("key", ["object/below", "object/below/deeper"])
def test_file_store_key_below_another_objects_key_is_refused(store: FileStore, key: str) -> None:
    store.put("object", b"x")

    with pytest.raises(KeyRefused, match="an object has that name"):
        store.put(key, b"y")
    with pytest.raises(ObjectMissing):
        store.get(key)


STRANGER = """
import os, sys
from pathlib import Path
from tunesmith_api.reasons import StoreDenied
from tunesmith_package.file_store import FileStore

if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
store = FileStore(Path(sys.argv[1]))
calls = {"get": lambda: store.get("key"), "list": lambda: next(store.list()), "put": lambda: store.put("new", b"")}
for name, call in calls.items():
    try:
        call()
    except StoreDenied as error:
        print(name, error.reason)
"""  # noqa: E501 -- a program


def test_file_store_without_permission_says_so_at_once(tmp_path: Path, store: FileStore) -> None:
    store.put("key", b"x")
    ways = [folder for folder in store.root.parents if folder.stat().st_uid == os.geteuid()]
    modes = [(folder, folder.stat().st_mode & 0o7777) for folder in ways if folder != Path("/")]
    store.root.chmod(0)
    try:
        for folder, mode in modes:
            folder.chmod(mode | 0o011)
        printed = output_of(STRANGER, store.root)
    finally:
        store.root.chmod(0o755)
        for folder, mode in modes:
            folder.chmod(mode)

    assert printed == ["get StoreDenied", "list StoreDenied", "put StoreDenied"]


def test_file_store_with_one_object_that_may_not_be_read_denies_that_object(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("key", b"x")

    def denied(*arguments: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", denied)  # root may read everything
    with pytest.raises(ObjectDenied, match="key may not be used"):
        store.get("key")


def output_of(program: str, *arguments: object) -> list[str]:
    """Lines that a Python program prints, which must end well."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_file_store_on_a_read_only_file_system_is_denied(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    with pytest.raises(StoreDenied, match="Read-only"):
        FileStore(small_disk / "store").put("key", b"x")


def test_file_store_staging_is_not_part_of_the_store(store: FileStore) -> None:
    store.put("key", b"x")
    (store.root / STAGING / "left").write_bytes(b"half")

    assert [each.key for each in store.list()] == ["key"]
    with pytest.raises(KeyRefused):
        store.get(f"{STAGING}/left")


def test_file_store_first_write_removes_what_was_left_a_day_ago(store: FileStore) -> None:
    store.put("key", b"x")
    old, new = store.root / STAGING / "old", store.root / STAGING / "new"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)

    FileStore(store.root).put("key", b"y")

    assert leftovers(store) == [new]


def test_file_store_names_that_are_not_utf8_are_listed_and_read(store: FileStore) -> None:
    store.root.mkdir()
    with open(os.fsencode(store.root) + b"/caf\xe9.jpg", "wb") as file:  # noqa: PTH123 -- a name of raw bytes
        file.write(b"x")

    (found,) = store.list()

    assert store.get(found.key) == b"x"
    assert os.fsencode(found.key) == b"caf\xe9.jpg"


def test_folders_names_empty_ones_too_but_no_links_and_nothing_of_its_own(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "s")
    store.put("b/c/x", b"1")
    (tmp_path / "s" / "a").mkdir()
    (tmp_path / "s" / "link").symlink_to(tmp_path / "s" / "a")
    assert store.folders() == ("a", "b")
    assert store.folders("b") == ("c",)
    with pytest.raises(KeyRefused):
        store.folders("../s")


# Away for a while


class Outage:
    """Lets one call of a function fail as a network file system does, and remembers what was said of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.monkeypatch, self.said = monkeypatch, list[str]()
        self.store = FileStore(root, Patience(60, self.said.append, sleep=lambda _: None))

    def strike(self, target: object, name: str, number: int) -> None:
        real, left = getattr(target, name), [OSError(number, os.strerror(number))]

        def failing_once(*arguments: Any, **options: Any) -> Any:
            if left:
                raise left.pop()
            return real(*arguments, **options)

        self.monkeypatch.setattr(target, name, failing_once)


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Outage:
    return Outage(monkeypatch, tmp_path / "store")


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
@pytest.mark.parametrize(
    ("name", "call", "expected"),
    [
        pytest.param("scandir", lambda store: [each.key for each in store.list()], ["a/b", "c"], id="list"),
        pytest.param("stat", lambda store: store.exists("a/b"), True, id="exists"),
        pytest.param("stat", lambda store: store.put_if_absent("new", b"x"), True, id="put_if_absent"),
        pytest.param("open", lambda store: store.open("a/b").read(), b"x", id="open"),
    ],
)
def test_file_store_that_is_away_for_a_moment_is_waited_for(
    outage: Outage, number: int, name: str, call: Callable[[FileStore], object], expected: object
) -> None:
    for key in ("a/b", "c"):
        outage.store.put(key, b"x")
    outage.strike(os, name, number)

    assert call(outage.store) == expected
    (said,) = outage.said
    assert os.strerror(number) in said


def test_file_store_that_goes_away_below_a_listing_lists_each_object_once(outage: Outage) -> None:
    for key in ("a/b", "a/c", "d"):
        outage.store.put(key, b"x")
    listing = outage.store.list()
    first = next(listing)
    outage.strike(os, "scandir", errno.ESTALE)

    assert [first.key, *(each.key for each in listing)] == ["a/b", "a/c", "d"]


def stop_reading_at(monkeypatch: pytest.MonkeyPatch, position: int, meanwhile: Callable[[], None]) -> None:
    """Let the first read behind a position fail; ``meanwhile`` happens while the file system is away."""
    passing = [OSError(errno.EIO, "away")]

    class Stopping(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            if passing and self.tell() >= position:
                meanwhile()
                raise passing.pop()
            return super().readinto(buffer) or 0

    monkeypatch.setattr(FileStore, "_open", lambda store, key: Stopping(store.path(key), "rb"))


def test_file_store_stream_goes_on_where_its_file_system_went_away(
    outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(2 * MIB)
    outage.store.put("shard", content)
    stop_reading_at(monkeypatch, MIB, lambda: None)

    with outage.store.open("shard") as stream:
        assert b"".join(iter(lambda: stream.read(10_000), b"")) == content
        stream.seek(MIB + 5)
        assert stream.read(10) == content[MIB + 5 : MIB + 15]
    assert len(outage.said) == 1


def test_file_store_stream_of_a_file_that_was_replaced_meanwhile_says_so(
    outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage.store.put("shard", bytes(2 * MIB))
    stop_reading_at(monkeypatch, MIB, lambda: outage.store.put("shard", b"another"))

    with outage.store.open("shard") as stream, pytest.raises(StoreError, match="changed while it was read"):
        stream.read()
