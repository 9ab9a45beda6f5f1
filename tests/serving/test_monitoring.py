"""A real predictor that is sent other images than it knows, and told what was right."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.testbed.predictors import NAME, Server, running_predictor
from tests.testbed.tiny_package import picture, shades

from tunesmith_package.package import PublishedPackage


@pytest.fixture
def watched(package: PublishedPackage, package_directory: Path, tmp_path: Path) -> Iterator[Server]:
    """A predictor of this test's own, with an empty window."""
    with running_predictor(
        package_directory, tmp_path / "log", "--drift-window", "60", "--feedback"
    ) as server:
        yield server


def send(server: Server, images: list[bytes]) -> None:
    for image in images:
        assert server.predict(image).status == 200


def monitoring(server: Server, arrived: int) -> Any:
    """What it says once it has seen so many images; a report is given again for a second."""
    deadline = time.monotonic() + 20
    while True:
        document = server.request("GET", "/monitoring").json
        if document["window"]["arrived"] == arrived:
            return document
        assert time.monotonic() < deadline, document
        time.sleep(0.1)


def metric(server: Server, name: str) -> dict[str, float]:
    """Samples of a metric by what stands in braces."""
    text = server.request("GET", "/metrics").body.decode()
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_other_images_than_the_model_knows_show_and_go_again_with_the_window(watched: Server) -> None:
    before = monitoring(watched, 0)
    assert before["window"]["samples"] == 0
    assert all("message" in one for one in before["shift"]["tests"])
    send(watched, [picture("red")] * 3)
    send(watched, shades(60, seed=1))
    same = monitoring(watched, 63)
    assert not same["shift"]["shifted"], same
    assert same["window"]["repeated"] == 2
    send(watched, shades(60, seed=2, mean=60))
    other = monitoring(watched, 123)
    inputs = {one["name"]: one for one in other["shift"]["tests"]}["inputs"]
    assert other["shift"]["shifted"]
    assert inputs["shifted"]
    assert inputs["pValue"] < inputs["threshold"]
    assert inputs["most"] in ("brightness", "contrast", "saturation")
    [(series, value)] = [one for one in metric(watched, "tunesmith_shifted").items() if "inputs" in one[0]]
    assert value == 1
    assert f'model="{NAME}"' in series
    send(watched, shades(60, seed=3))
    after = monitoring(watched, 183)
    assert not after["shift"]["shifted"], after


def test_feedback_is_taken_and_what_it_cannot_place_is_counted(watched: Server) -> None:
    ids = [watched.predict(image).json["requestId"] for image in shades(6, seed=1)]
    labels = ["red", "green", "blue", "red", "green", "red"]
    told = [{"requestId": one, "label": label} for one, label in zip(ids, labels, strict=True)]
    extra = [{"requestId": "nobody", "label": "red"}, {"requestId": ids[0], "label": "mauve"}]
    reply = watched.request("POST", "/feedback", json.dumps(told + extra).encode())
    assert reply.status == 200
    assert reply.json == {"taken": 6, "unknownRequests": 1, "unknownLabels": 1}
    feedback = watched.request("GET", "/monitoring").json["feedback"]
    assert feedback["accuracy"]["value"] == pytest.approx(5 / 6)
    assert feedback["accuracy"]["low"] < 5 / 6 < feedback["accuracy"]["high"]
    assert list(metric(watched, "tunesmith_feedback_accuracy").values()) == [pytest.approx(5 / 6)]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"[" * 100_000, b'{"requestId": null, "label": 1}'])
def test_feedback_that_makes_no_sense_is_a_400_with_a_sentence(watched: Server, body: bytes) -> None:
    reply = watched.request("POST", "/feedback", body)
    assert reply.status == 400
    assert reply.json["error"]


def test_too_much_feedback_at_once_is_refused_unread(watched: Server) -> None:
    assert watched.request("POST", "/feedback", b"[" * 1_000_001).status == 413


def test_monitoring_and_feedback_say_how_to_turn_them_on_where_they_are_off(server: Server) -> None:
    assert "--feedback" in server.request("POST", "/feedback", b"{}").json["error"]
    assert "--feedback" in server.request("GET", "/monitoring").json["feedback"]["message"]


def test_a_sample_of_images_is_kept_and_feedback_puts_them_under_their_true_class(
    package_directory: Path, tmp_path: Path
) -> None:
    sample = tmp_path / "sample"
    options = ("--sample-dir", str(sample), "--sample-rate", "1", "--feedback", "--drain-seconds", "0")
    with running_predictor(package_directory, tmp_path / "log", *options) as server:
        ids = [server.predict(image).json["requestId"] for image in shades(4, seed=1)]
        body = json.dumps({"requestId": ids[0], "label": "blue"}).encode()
        assert server.request("POST", "/feedback", body).json["taken"] == 1
        assert server.request("GET", "/monitoring").json["sample"]["letGo"] == 0
        server.terminate()
        assert server.process.wait(20) == 0
    found = sorted(path.relative_to(sample).parts[:2] for path in sample.rglob("*.png"))
    assert found == [
        ("labelled", "blue"),
        ("unlabelled", "blue"),
        ("unlabelled", "green"),
        ("unlabelled", "red"),
    ]
