"""What a trainer in a cluster reports: its own part of the status, the newest only; last words that fit."""

import json
import threading
from typing import Any

import pytest

from tunesmith_api.status import TrainingJobStatus
from tunesmith_trainer import cluster
from tunesmith_trainer.cluster import TERMINATION_BYTES, Refused, StatusReporter, last_words, own_part


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(cluster, "RETRY_SECONDS", 0.01)


def status(trials: int = 0, **fields: Any) -> TrainingJobStatus:
    return TrainingJobStatus.model_validate({"search": {"trials": trials}, **fields})


def condition(kind: str) -> dict[str, str]:
    return {
        "type": kind,
        "status": "True",
        "reason": "Completed",
        "message": "",
        "lastTransitionTime": "2026-11-29T12:00:00Z",
    }


def test_own_part_leaves_out_what_the_operator_says() -> None:
    kinds = ("Admitted", "DataReady", "SearchComplete", "Verified", "Succeeded", "Failed", "Suspended")
    whole = status(
        3,
        phase="Searching",
        restarts=1,
        startTime="2026-11-29T12:00:00Z",
        conditions=[*map(condition, kinds)],
    )
    part = own_part(whole)
    assert {one["type"] for one in part["conditions"]} == {"DataReady", "SearchComplete", "Verified"}
    assert set(part) == {"search", "restarts", "conditions"}


def test_reporter_sends_the_newest_and_the_last_and_not_everything_between() -> None:
    sent: list[dict[str, Any]] = []
    first = threading.Event()
    go_on = threading.Event()

    def write(part: dict[str, Any]) -> None:
        sent.append(part)
        first.set()
        assert go_on.wait(10)

    reporter = StatusReporter(write)
    reporter.tell(status(0))
    assert first.wait(10)
    for trials in range(1, 50):
        reporter.tell(status(trials))
    go_on.set()
    assert reporter.finish(10)
    assert [part["search"]["trials"] for part in sent] == [0, 49]


def test_reporter_tries_again_until_the_server_takes_it() -> None:
    attempts: list[int] = []

    def write(part: dict[str, Any]) -> None:
        attempts.append(part["search"]["trials"])
        if len(attempts) < 4:
            raise OSError("connection refused")

    reporter = StatusReporter(write)
    reporter.tell(status(7))
    assert reporter.finish(10)
    assert attempts == [7] * 4


def test_reporter_gives_up_when_the_job_is_gone_and_holds_nobody_up() -> None:
    attempts: list[int] = []

    def write(part: dict[str, Any]) -> None:
        attempts.append(1)
        raise Refused("404 Not Found")

    reporter = StatusReporter(write)
    reporter.tell(status(1))
    assert not reporter.finish(10)
    reporter.tell(status(2))
    assert attempts == [1]


def test_reporter_with_nothing_to_say_ends_at_once() -> None:
    assert StatusReporter(lambda part: None).finish(10)


MODEL = {"uri": "s3://models/flowers/abc", "digest": "sha256:" + "a" * 64, "verified": True}


@pytest.mark.parametrize("message", ["short", "long " * 2_000, "\N{SNOWMAN}" * 5_000, '"\\' * 5_000])
def test_last_words_fit_what_the_kubelet_keeps_and_always_name_the_model(message: str) -> None:
    text = last_words("GateFailed", message, message, {"model": MODEL, "search": {"trials": 9}})
    assert len(text.encode()) <= TERMINATION_BYTES
    said = json.loads(text)
    assert said["status"] == {"model": MODEL}
    assert message.startswith(said["message"][:50])
