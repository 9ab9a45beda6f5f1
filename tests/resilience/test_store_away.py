"""A store that goes away: waited for while patience lasts, then a clear end with everything kept."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.resilience.reference import Reference
from tests.testbed.s3 import S3Server, running_s3
from tests.testbed.tiny_job import Outcome, tiny_job
from tests.testbed.trainers import POLL_SECONDS, Event, Trainers

from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_package.store import open_store

AWAY_SECONDS = 4.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    """A server that the test may kill."""
    with running_s3(tmp_path / "s3") as server:
        yield server


def test_a_store_that_goes_away_is_waited_for_and_one_that_stays_away_ends_the_run_with_all_kept(
    reference: Reference, trainers: Trainers, photos: Path, server: S3Server, tmp_path: Path
) -> None:
    job = tiny_job(photos, f"s3://{server.new_bucket()}/jobs")
    patient, environment = tmp_path / "patient", server.credentials
    first = trainers.start(patient, job, environment=environment)
    first.wait_for(lambda event: _epoch(event, 0))
    server.kill()
    first.wait_for(lambda event: event["type"] == "note" and "waiting" in event["message"])
    _pass(AWAY_SECONDS)
    server.start()
    server.wait_until_ready()
    first.wait_for(lambda event: _epoch(event, 2))
    first.terminate()
    assert first.wait() == EXIT_CODES[Reason.INTERRUPTED], first.tail()

    second = trainers.start(patient, job, "--store-patience", "3", environment=environment)
    second.wait_for(lambda event: _epoch(event, 1))
    server.kill()
    assert second.wait() == EXIT_CODES[Reason.STORE_UNREACHABLE], second.tail()
    assert second.result["reason"] == Reason.STORE_UNREACHABLE
    assert "Nothing is lost" in second.result["nextStep"]
    second.wait_until_gone()

    server.start()
    server.wait_until_ready()
    third = trainers.start(patient, job, environment=environment)
    assert third.wait() == 0, third.tail()
    assert third.stage_states()["prepare"] == ["reused"]
    store = open_store(job["spec"]["store"]["uri"], credentials=environment)
    Outcome.read(store).assert_equals(reference.outcome)


def _epoch(event: Event, number: int) -> bool:
    """Whether a fine-tuning has had so many epochs."""
    if event["type"] != "trial" or event["trial"]["strategy"] != "FineTune":
        return False
    return bool(event["trial"]["epochs"] >= number)


def _pass(seconds: float) -> None:
    """Let an outage last."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(POLL_SECONDS)
