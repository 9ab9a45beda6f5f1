"""A bucket on a real server: outages, lost answers, refusals, large objects."""

import contextlib
import os
import pickle
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from tests.testbed.s3 import S3Server, free_ports, running_s3

from tunesmith_api.reasons import ObjectMissing, StoreDenied, StoreError, StoreFull, StoreUnreachable
from tunesmith_package.patience import Transient
from tunesmith_package.s3_errors import translate
from tunesmith_package.s3_store import S3Store
from tunesmith_package.store import open_store


@pytest.fixture
def store(s3_server: S3Server, s3_bucket: str) -> S3Store:
    return opened(s3_server, s3_bucket)


def opened(server: S3Server, bucket: str, **credentials: str) -> S3Store:
    store = open_store(
        f"s3://{bucket}/prefix", credentials={**server.credentials, **credentials}, patience_seconds=20
    )
    assert isinstance(store, S3Store)
    return store


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server of our own, to be killed."""
    with running_s3(tmp_path_factory.mktemp("mortal")) as server:
        yield server


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda store: store.get("small") == b"small", id="get"),
        pytest.param(
            lambda store: store.put_if_absent(f"fresh{os.urandom(4).hex()}", b"x"), id="put_if_absent"
        ),
        pytest.param(lambda store: "small" in [each.key for each in store.list()], id="list"),
    ],
)
def test_s3_call_while_the_server_is_down_waits_and_succeeds_when_it_is_back(
    mortal: S3Server, call: Callable[[S3Store], bool]
) -> None:
    said: list[str] = []

    def revive(sentence: str) -> None:
        if not said:
            mortal.start()
        said.append(sentence)

    opened(mortal, "probe-bucket").put("small", b"small")
    store = open_store(
        "s3://probe-bucket/prefix", credentials=mortal.credentials, patience_seconds=60, on_wait=revive
    )
    mortal.kill()

    assert isinstance(store, S3Store)
    assert call(store)
    assert "does not answer" in said[0]
    assert "waiting up to 60 s" in said[0]


def test_s3_stream_cut_by_a_dying_server_goes_on_where_it_stopped(mortal: S3Server) -> None:
    content = os.urandom(24 << 20)
    opened(mortal, "probe-bucket").put("large", content)
    revived = threading.Event()

    def revive(_: str) -> None:
        if not revived.is_set():
            revived.set()
            mortal.start()

    store = open_store(
        "s3://probe-bucket/prefix", credentials=mortal.credentials, patience_seconds=60, on_wait=revive
    )
    with store.open("large") as stream:
        first = stream.read(1 << 20)
        mortal.kill()
        rest = stream.read()

    assert revived.is_set()
    assert first + rest == content


def test_s3_upload_in_parts_cut_by_a_dying_server_finishes_when_it_is_back(
    mortal: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(1 << 20) * 40)
    store = open_store(
        "s3://probe-bucket/prefix",
        credentials=mortal.credentials,
        patience_seconds=60,
        on_wait=lambda _: revive(),
    )
    assert isinstance(store, S3Store)
    sent = 0
    send = store._send

    def revive() -> None:
        if mortal.process is None:
            mortal.start()

    def send_and_kill_after_the_first(*arguments: object) -> str:
        nonlocal sent
        sent += 1
        if sent == 2:
            mortal.kill()
        return send(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "_send", send_and_kill_after_the_first)
    store.put("parts", large)

    with store.open("parts") as stream:
        assert stream.read() == large.read_bytes()


def test_s3_call_to_a_server_that_stays_away_ends_when_patience_is_spent() -> None:
    said: list[str] = []
    (port,) = free_ports(1)
    credentials = {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    store = open_store("s3://models", credentials=credentials, patience_seconds=0.5, on_wait=said.append)

    with pytest.raises(StoreUnreachable, match="did not answer for"):
        store.get("key")
    assert len(said) == 1


@pytest.mark.parametrize(
    ("credentials", "bucket", "sentence"),
    [
        pytest.param({"AWS_ACCESS_KEY_ID": "stranger"}, None, "AWS_ACCESS_KEY_ID", id="an unknown key"),
        pytest.param({"AWS_SECRET_ACCESS_KEY": "wrong"}, None, "AWS_SECRET_ACCESS_KEY", id="a wrong secret"),
        pytest.param(
            {"AWS_ACCESS_KEY_ID": "readerkey", "AWS_SECRET_ACCESS_KEY": "readersecretreader"},
            None,
            "what they may do",
            id="a key that may only read",
        ),
        pytest.param({}, "no-such-bucket", "Create the bucket", id="a bucket that is not there"),
        pytest.param({}, "Not_A_Bucket!", "Correct the", id="a name that no bucket can have"),
    ],
)
def test_s3_write_that_the_server_refuses_is_an_error_at_once(
    s3_server: S3Server, s3_bucket: str, credentials: dict[str, str], bucket: str | None, sentence: str
) -> None:
    store = open_store(
        f"s3://{bucket or s3_bucket}",
        credentials={**s3_server.credentials, **credentials},
        on_wait=lambda said: pytest.fail(said),
    )

    with pytest.raises(StoreError, match=sentence) as caught:
        store.put("key", b"x")
    assert not isinstance(caught.value, StoreUnreachable | ObjectMissing)


def test_s3_with_a_key_that_may_only_read_reads(s3_server: S3Server, s3_bucket: str) -> None:
    opened(s3_server, s3_bucket).put("key", b"x")
    reader = opened(
        s3_server, s3_bucket, AWS_ACCESS_KEY_ID="readerkey", AWS_SECRET_ACCESS_KEY="readersecretreader"
    )

    assert reader.get("key") == b"x"
    assert [each.key for each in reader.list()] == ["key"]


def test_s3_without_any_credentials_is_denied_at_once(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    only_place = {name: s3_server.credentials[name] for name in ("AWS_REGION", "AWS_ENDPOINT_URL")}

    with pytest.raises(StoreDenied, match="no credentials"):
        open_store(f"s3://{s3_bucket}", credentials=only_place).get("key")


def test_s3_credentials_come_from_the_environment_when_none_are_given(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.credentials.items():
        monkeypatch.setenv("AWS_DEFAULT_REGION" if name == "AWS_REGION" else name, value)

    store = open_store(f"s3://{s3_bucket}")
    store.put("key", b"x")

    assert store.get("key") == b"x"


def test_s3_store_travels_to_another_process(s3_server: S3Server, s3_bucket: str) -> None:
    store = opened(s3_server, s3_bucket)
    store.put("key", b"x")

    assert pickle.loads(pickle.dumps(store)).get("key") == b"x"


def test_s3_store_used_before_and_after_a_fork_answers_both(s3_server: S3Server, s3_bucket: str) -> None:
    store = opened(s3_server, s3_bucket)
    store.put("parent", b"p" * 1000)
    store.put("child", b"c" * 1000)

    child = os.fork()
    if child == 0:
        ok = all(store.get("child") == b"c" * 1000 for _ in range(50))
        os._exit(0 if ok else 1)
    assert all(store.get("parent") == b"p" * 1000 for _ in range(50))
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0


class Proxy:
    """A TCP proxy that obeys everything, but loses the server's answer to the n-th request."""

    def __init__(self, target: int, lose: int) -> None:
        self.target, self.lose, self.requests = target, lose, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", self.target)) as server:
                self.relay(client, server)

    def relay(self, client: socket.socket, server: socket.socket) -> None:
        """One request for each connection: head and body to the server, its answer back or lost."""
        request = client.recv(1 << 16)
        head, _, body = request.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if fields.get(b"expect") == b"100-continue":
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(body) < int(fields.get(b"content-length", b"0")):
            body += client.recv(1 << 16)
        kept = [
            line for line in head.split(b"\r\n") if not line.lower().startswith((b"expect:", b"connection:"))
        ]
        self.requests += 1
        lost = self.requests == self.lose
        server.sendall(b"\r\n".join([*kept, b"Connection: close", b"", b""]) + body)
        while answer := server.recv(1 << 16):
            if not lost:
                client.sendall(answer)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)


@contextlib.contextmanager
def losing(server: S3Server, bucket: str, request: int) -> Iterator[S3Store]:
    """The bucket, through a line that loses the answer to one request."""
    proxy = Proxy(server.ports["s3.port"], request)
    try:
        yield opened(server, bucket, AWS_ENDPOINT_URL=f"http://127.0.0.1:{proxy.port}")
    finally:
        proxy.close()


def test_s3_put_if_absent_whose_answer_was_lost_still_knows_that_it_won(
    s3_server: S3Server, s3_bucket: str
) -> None:
    with losing(s3_server, s3_bucket, request=1) as store:
        assert store.put_if_absent("key", b"mine") is True

    assert opened(s3_server, s3_bucket).get("key") == b"mine"


def test_s3_put_if_absent_whose_answer_was_lost_still_knows_that_it_lost(
    s3_server: S3Server, s3_bucket: str
) -> None:
    opened(s3_server, s3_bucket).put("key", b"theirs")
    with losing(s3_server, s3_bucket, request=1) as store:
        assert store.put_if_absent("key", b"mine") is False

    assert opened(s3_server, s3_bucket).get("key") == b"theirs"


@pytest.mark.parametrize("request_number", [1, 2, 3, 4], ids=["head", "create", "a part", "last part"])
def test_s3_upload_in_parts_through_a_bad_line_arrives_whole(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path, request_number: int
) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(1 << 20) * 17)
    with losing(s3_server, s3_bucket, request_number) as store:
        assert store.put_if_absent("key", large) is True

    with opened(s3_server, s3_bucket).open("key") as stream:
        assert stream.read() == large.read_bytes()


def test_s3_upload_in_parts_whose_last_answer_was_lost_still_knows_that_it_won(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"x" * (17 << 20))
    with losing(s3_server, s3_bucket, request=5) as store:
        assert store.put_if_absent("key", large) is True


def test_s3_large_file_travels_both_ways_in_bounded_memory(store: S3Store, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(100 << 20)
    tracemalloc.start()
    try:
        store.put("large", large)
        store.download("large", tmp_path / "back")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (tmp_path / "back").stat().st_size == 100 << 20
    assert peak < 50 << 20


def test_s3_object_changed_while_it_is_read_is_not_mixed(s3_server: S3Server, s3_bucket: str) -> None:
    store = opened(s3_server, s3_bucket)
    store.put("key", b"1" * (8 << 20))

    with store.open("key") as stream:
        stream.read(1)
        store.put("key", b"2" * (8 << 20))
        stream.raw._drop()  # type: ignore[attr-defined]
        with pytest.raises(StoreError, match="changed while it was read"):
            stream.read()


def test_s3_list_leaves_out_keys_that_could_not_be_read_back(
    s3_server: S3Server, s3_bucket: str, store: S3Store
) -> None:
    client = s3_server.client()
    client.put_object(Bucket=s3_bucket, Key="prefix/folder/", Body=b"")
    client.close()
    store.put("folder/file", b"x")

    assert [each.key for each in store.list()] == ["folder/file"]


def answer(code: str, status: int) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": "said"}, "ResponseMetadata": {"HTTPStatusCode": status}},
        "PutObject",
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(answer("NoSuchKey", 404), ObjectMissing, id="a missing key"),
        pytest.param(answer("404", 404), ObjectMissing, id="a missing key, asked by HEAD"),
        pytest.param(answer("NoSuchBucket", 404), StoreDenied, id="a missing bucket"),
        pytest.param(answer("AccessDenied", 403), StoreDenied, id="no permission"),
        pytest.param(answer("ExpiredToken", 400), StoreDenied, id="an expired session"),
        pytest.param(answer("PermanentRedirect", 301), StoreDenied, id="another region"),
        pytest.param(answer("QuotaExceeded", 403), StoreFull, id="a quota"),
        pytest.param(answer("XMinioStorageFull", 507), StoreFull, id="a full disk of MinIO"),
        pytest.param(answer("InsufficientStorage", 507), StoreFull, id="a full disk"),
        pytest.param(answer("SlowDown", 503), Transient, id="too many requests"),
        pytest.param(answer("InternalError", 500), Transient, id="an internal error"),
        pytest.param(answer("", 502), Transient, id="a proxy without its server"),
        pytest.param(answer("RequestTimeout", 400), Transient, id="a request that came too slowly"),
        pytest.param(
            answer("ConditionalRequestConflict", 409), Transient, id="two conditional writes at once"
        ),
        pytest.param(answer("NotImplemented", 501), StoreError, id="a missing function"),
        pytest.param(answer("Whatever", 400), StoreError, id="an unknown refusal"),
        pytest.param(EndpointConnectionError(endpoint_url="http://x"), Transient, id="no connection"),
        pytest.param(NoCredentialsError(), StoreDenied, id="no credentials"),
    ],
)
def test_translate_of_what_boto_raises_says_whether_to_wait(
    error: ClientError, expected: type[Exception]
) -> None:
    assert type(translate(error, "s3://bucket/key")) is expected
