"""A full disk, under the cache or under the store: told in a sentence, and the same command goes on."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.resilience.reference import Reference
from tests.testbed.tiny_job import Outcome, tiny_job
from tests.testbed.trainers import POLL_SECONDS, Event, Trainers

from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_package.store import open_store

MEGABYTES = 64


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with little room."""
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root can mount a small file system to fill up")
    folder = tmp_path / "small"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={MEGABYTES}m,mode=0700", "tmpfs", str(folder)]
    if subprocess.run([mount, *options], capture_output=True).returncode:
        pytest.skip("this machine lets not even root mount a small file system to fill up")
    yield folder
    deadline = time.monotonic() + 10
    while subprocess.run(["umount", str(folder)], capture_output=True).returncode:
        assert time.monotonic() < deadline, f"{folder} cannot be unmounted"
        time.sleep(POLL_SECONDS)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        pytest.param("cache", Reason.DISK_FULL, id="the cache's disk is full"),
        pytest.param("store", Reason.STORE_FULL, id="the store's disk is full"),
    ],
)
def test_a_run_out_of_room_says_so_and_the_same_command_goes_on_after_room_is_made(
    place: str,
    reason: Reason,
    reference: Reference,
    trainers: Trainers,
    photos: Path,
    small_disk: Path,
    tmp_path: Path,
) -> None:
    places = {name: tmp_path / name for name in ("cache", "store")} | {place: small_disk / place}
    store = f"file://{places['store']}"
    job = tiny_job(photos, store)
    first = trainers.start(tmp_path / "runs", job, cache=places["cache"])
    first.wait_for(_heads_are_done)
    ballast = small_disk / "ballast"
    _fill(ballast)
    code = first.wait()

    assert (code, first.result["reason"]) == (EXIT_CODES[reason], reason), first.result
    assert "kept" in first.result["message"] + first.result["nextStep"]
    assert "run the same command again" in first.result["nextStep"]
    first.wait_until_gone()
    ballast.unlink()
    second = trainers.start(tmp_path / "runs", job, cache=places["cache"])
    assert second.wait() == 0, second.tail()
    assert second.stage_states()["prepare"] == ["reused"]
    Outcome.read(open_store(store)).assert_equals(reference.outcome)


def _heads_are_done(event: Event) -> bool:
    return bool(event["type"] == "trial" and event["trial"]["strategy"] == "FineTune")


def _fill(ballast: Path) -> None:
    """Take all room there is."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4_096))
