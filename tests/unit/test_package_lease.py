"""A lease has one holder at a time, and outlives none."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.testbed.s3 import S3Server

from tunesmith_api.reasons import RunInProgress
from tunesmith_package.lease import acquire_lease
from tunesmith_package.s3_store import S3Store
from tunesmith_package.store import Store, open_store

TTL = 2.0


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return open_store((tmp_path / "store").as_uri())
    server: S3Server = request.getfixturevalue("s3_server")
    return open_store(f"s3://{request.getfixturevalue('s3_bucket')}", credentials=server.credentials)


HOLDER = """
import json, os, sys
from tunesmith_package.lease import acquire_lease
from tunesmith_package.store import open_store

uri, credentials, ttl, fork = json.loads(sys.argv[1])
with acquire_lease(open_store(uri, credentials=credentials), "runs/one/lease", "holder-1", ttl):
    if fork and os.fork() == 0:
        print("child", os.getpid(), flush=True)
        sys.stdin.read()
        os._exit(0)
    print("held", os.getpid(), flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(
    store: Store, request: pytest.FixtureRequest, *, fork: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease; ends when the block ends, unless it was killed before."""
    credentials = request.getfixturevalue("s3_server").credentials if isinstance(store, S3Store) else None
    command = [sys.executable, "-c", HOLDER, json.dumps([store.uri, credentials, TTL, fork])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(2 if fork else 1)]
        assert any(line.startswith("held") for line in said)
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)


def test_lease_held_by_a_living_process_is_refused_and_names_it(
    store: Store, request: pytest.FixtureRequest
) -> None:
    with (
        holder(store, request),
        pytest.raises(RunInProgress, match="holder-1 works on the same run"),
        acquire_lease(store, "runs/one/lease", "holder-2", TTL),
    ):
        pass


def test_lease_of_a_killed_process_is_taken_over(store: Store, request: pytest.FixtureRequest) -> None:
    with holder(store, request) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(10)

        with acquire_lease(store, "runs/one/lease", "holder-2", TTL) as lease:
            lease.ensure_held()
            assert lease.owner == "holder-2"


def test_lease_of_a_killed_process_is_not_kept_by_its_forked_child(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = open_store(tmp_path.as_uri())
    with holder(store, request, fork=True) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)

        with acquire_lease(store, "runs/one/lease", "holder-2", TTL) as lease:
            lease.ensure_held()


def test_lease_given_back_is_free_at_once(store: Store, request: pytest.FixtureRequest) -> None:
    with holder(store, request):
        pass

    with acquire_lease(store, "runs/one/lease", "holder-2", ttl_seconds=600):
        pass
    with acquire_lease(store, "runs/one/lease", "holder-3", ttl_seconds=600):
        pass


def test_lease_wanted_by_many_at_once_has_one_holder_at_any_moment(store: Store) -> None:
    inside, most, refused = 0, 0, 0
    counting = threading.Lock()
    everybody_tried = threading.Barrier(5, timeout=60)

    def want(number: int) -> None:
        nonlocal inside, most, refused
        try:
            with acquire_lease(store, "key", f"holder-{number}", TTL):
                with counting:
                    inside += 1
                    most = max(most, inside)
                everybody_tried.wait()
                with counting:
                    inside -= 1
        except RunInProgress:
            with counting:
                refused += 1
            everybody_tried.wait()

    threads = [threading.Thread(target=want, args=(number,)) for number in range(5)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)

    assert (most, refused) == (1, 4)


def test_lease_taken_over_by_another_is_noticed_by_its_first_holder(
    s3_server: S3Server, s3_bucket: str
) -> None:
    store = open_store(f"s3://{s3_bucket}", credentials=s3_server.credentials)
    with acquire_lease(store, "key", "first", TTL) as lease:
        lease.ensure_held()
        store.put("key", b'{"owner": "second", "token": "other"}')

        assert lease._lost.wait(30)
        with pytest.raises(RunInProgress, match="taken over"):
            lease.ensure_held()

    assert store.get("key") == b'{"owner": "second", "token": "other"}'


@pytest.mark.parametrize("left", [b"", b"not json", b"[]", b'{"ttlSeconds": "x"}'])
def test_lease_object_that_nobody_can_read_is_taken_over_when_it_is_old(
    s3_server: S3Server, s3_bucket: str, left: bytes
) -> None:
    store = open_store(f"s3://{s3_bucket}", credentials=s3_server.credentials)
    store.put("key", left)

    with acquire_lease(store, "key", "holder", ttl_seconds=0.5) as lease:
        lease.ensure_held()
