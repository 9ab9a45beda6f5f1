"""What every store promises, on a folder and on a real S3 server alike."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.testbed.s3 import S3Server

from tunesmith_api.reasons import ObjectMissing, SpecInvalid, StoreUnreachable
from tunesmith_package.patience import Patience, Transient
from tunesmith_package.store import KeyRefused, Store, check_key, open_store


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return open_store((tmp_path / "store").as_uri())
    server: S3Server = request.getfixturevalue("s3_server")
    bucket = request.getfixturevalue("s3_bucket")
    return open_store(f"s3://{bucket}/some/prefix", credentials=server.credentials, patience_seconds=20)


def keys(store: Store, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]


def test_store_put_then_get_returns_the_same_bytes(store: Store, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(1 << 20) * 17)
    store.put("a/bytes", b"one")
    store.put("a/file", large)
    store.put("a/empty", b"")

    assert store.get("a/bytes") == b"one"
    assert store.get("a/empty") == b""
    assert store.get("a/file") == large.read_bytes()


def test_store_put_on_an_existing_key_replaces_it_and_its_version(store: Store) -> None:
    store.put("key", b"one")
    before = next(store.list("key"))
    store.put("key", b"two!")
    after = next(store.list("key"))

    assert store.get("key") == b"two!"
    assert (before.size, after.size) == (3, 4)
    assert before.version != after.version


def test_store_open_streams_the_object_in_blocks(store: Store) -> None:
    content = os.urandom(3 << 20)
    store.put("stream", content)

    with store.open("stream") as stream:
        first = stream.read(10)
        rest = stream.read()

    assert first + rest == content


def test_store_open_of_an_empty_object_ends_at_once(store: Store) -> None:
    store.put("empty", b"")

    with store.open("empty") as stream:
        assert stream.read() == b""


def test_store_download_makes_the_folders_and_the_whole_file(store: Store, tmp_path: Path) -> None:
    content = os.urandom(2 << 20)
    store.put("down", content)
    target = tmp_path / "new" / "folder" / "file"

    store.download("down", target)

    assert target.read_bytes() == content
    assert [each.name for each in target.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda store, path: store.get("absent"), id="get"),
        pytest.param(lambda store, path: store.open("absent"), id="open"),
        pytest.param(lambda store, path: store.download("absent", path / "file"), id="download"),
    ],
)
def test_store_reading_an_absent_key_says_that_it_is_missing(
    store: Store, tmp_path: Path, read: Callable[[Store, Path], object]
) -> None:
    store.put("present", b"")

    with pytest.raises(ObjectMissing, match="absent"):
        read(store, tmp_path)
    assert not (tmp_path / "file").exists()


def test_store_list_is_sorted_by_key_and_filtered_by_any_prefix(store: Store) -> None:
    names = ["a.txt", "a/b", "a-b", "a/c/d", "ab", "b/1", "b/10", "Ä/é", "with space", "per%20cent+plus"]
    for name in names:
        store.put(name, name.encode())

    assert keys(store) == sorted(names)
    assert keys(store, "a") == ["a-b", "a.txt", "a/b", "a/c/d", "ab"]
    assert keys(store, "a/") == ["a/b", "a/c/d"]
    assert keys(store, "b/1") == ["b/1", "b/10"]
    assert keys(store, "nothing") == []
    assert {info.key: info.size for info in store.list()} == {name: len(name.encode()) for name in names}
    assert store.get("per%20cent+plus") == b"per%20cent+plus"


def test_store_list_of_more_than_a_page_yields_every_object_once(store: Store) -> None:
    names = [f"page/{number:04}" for number in range(1001)]

    def write(worker: int) -> None:
        for name in names[worker::8]:
            store.put(name, b"")

    with_threads(8, write)

    assert keys(store, "page/") == names


def test_store_list_of_a_store_that_nobody_wrote_to_is_empty(store: Store) -> None:
    assert keys(store) == []


def test_store_exists_and_delete_agree_and_delete_twice_is_fine(store: Store) -> None:
    store.put("a/key", b"x")
    assert store.exists("a/key")
    assert not store.exists("a")
    assert not store.exists("a/ke")

    store.delete("a/key")
    store.delete("a/key")

    assert not store.exists("a/key")


def test_store_put_if_absent_on_a_taken_key_keeps_the_first(store: Store) -> None:
    assert store.put_if_absent("key", b"first") is True
    assert store.put_if_absent("key", b"second") is False
    assert store.get("key") == b"first"


def test_store_put_if_absent_of_a_large_file_keeps_the_first(store: Store, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"1" * (17 << 20))
    second.write_bytes(b"2" * (17 << 20))

    assert store.put_if_absent("key", first) is True
    assert store.put_if_absent("key", second) is False
    with store.open("key") as stream:
        assert stream.read(4) == b"1111"


def test_store_put_if_absent_by_many_at_once_has_exactly_one_winner(store: Store) -> None:
    for race in range(5):
        winners: list[int] = []

        def write(worker: int, key: str = f"race{race}", winners: list[int] = winners) -> None:
            if store.put_if_absent(key, str(worker).encode()):
                winners.append(worker)

        with_threads(8, write)

        assert len(winners) == 1
        assert store.get(f"race{race}") == str(winners[0]).encode()


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "..",
        "../outside",
        "a/../../outside",
        "a//b",
        "a/",
        "./a",
        "a/.",
        "nul\0byte",
        "x" * 1025,
    ],
)
def test_store_key_that_leaves_the_root_is_refused_by_every_method(
    store: Store, tmp_path: Path, key: str
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.get(key),
        lambda: store.open(key),
        lambda: store.download(key, tmp_path / "file"),
        lambda: store.put(key, b""),
        lambda: store.put_if_absent(key, b""),
        lambda: store.exists(key),
        lambda: store.delete(key),
        lambda: store.url(key),
    ]
    for call in calls:
        with pytest.raises(KeyRefused):
            call()


def test_store_url_of_a_key_opens_as_a_store_of_its_own(store: Store, request: pytest.FixtureRequest) -> None:
    store.put("models/näme 1/file", b"x")
    credentials = None
    if store.uri.startswith("s3"):
        credentials = request.getfixturevalue("s3_server").credentials

    inner = open_store(store.url("models/näme 1"), credentials=credentials)

    assert keys(inner) == ["file"]
    assert inner.uri == store.url("models/näme 1")


@given(st.text(max_size=40))
def test_check_key_accepts_only_keys_whose_path_stays_below_the_root(key: str) -> None:
    try:
        check_key(key)
    except KeyRefused:
        return
    path = os.path.normpath(os.path.join("/root/of/store", key))  # noqa: PTH118 -- pathlib hides '.' parts
    assert path == f"/root/of/store/{key}"


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("/plain/path", "Write file:///absolute"),
        ("http://example.org/x", "Write file:///absolute"),
        ("pvc://claim/path", "Write file:///absolute"),
        ("file://relative/path", "Write file:///relative/path or file://./relative/path"),
        ("file://", "neither absolute nor marked as relative"),
        ("s3://", "names no bucket"),
    ],
)
def test_open_store_of_an_address_that_holds_no_objects_says_what_to_write(uri: str, sentence: str) -> None:
    with pytest.raises(SpecInvalid, match=sentence):
        open_store(uri)


def test_open_store_of_a_relative_address_starts_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_store("file://./models").put("key", b"x")

    assert (tmp_path / "models" / "key").read_bytes() == b"x"
    assert open_store("file://./models").uri == (tmp_path / "models").as_uri()


class FakeTime:
    """Seconds that pass only by waiting for them."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_patience_with_a_store_that_comes_back_returns_and_says_once_that_it_waits() -> None:
    time, said = FakeTime(), list[str]()
    outcomes = iter([Transient("refused"), Transient("refused"), None])

    def attempt() -> str:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        return "done"

    patience = Patience(60, said.append, clock=time.clock, sleep=time.sleep)

    assert patience.call("s3://bucket", attempt) == "done"
    assert said == ["The store s3://bucket does not answer (refused); waiting up to 60 s for it."]


@pytest.mark.parametrize("seconds", [0.0, 1.0, 45.0, 300.0])
def test_patience_with_a_store_that_stays_away_ends_at_the_stated_second(seconds: float) -> None:
    time, said = FakeTime(), list[str]()
    time.now = 1000.0  # patience counts from the first failure, not from the start of the call

    def attempt() -> None:
        raise Transient("refused")

    with pytest.raises(StoreUnreachable, match=f"did not answer for {seconds:.0f} s"):
        Patience(seconds, said.append, clock=time.clock, sleep=time.sleep).call("s3://bucket", attempt)

    assert time.now == pytest.approx(1000.0 + seconds)
    assert min(seconds, 1) <= len(said) <= 1 + seconds / 30


def with_threads(count: int, work: Callable[[int], object]) -> None:
    """Run ``work`` in threads at once; raise what any of them raised."""
    errors: list[BaseException] = []

    def guarded(worker: int) -> None:
        try:
            work(worker)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(worker,)) for worker in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    if errors:
        raise errors[0]
