"""The analysis of a rollout reads from a real Prometheus."""

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import scenarios
from tests.cluster.load import Load
from tests.cluster.platform import Platform, Team
from tests.testbed import debian, prometheus
from tests.testbed.addons import tunesmith
from tests.testbed.kube_api import wait_for

ROLLOUT = {
    **scenarios.CANARY,
    "steps": [{"weight": 50, "holdSeconds": 10}],
    "analysis": [
        {"metric": "errorRate", "maximum": 0.01},
        {"metric": "latencyP95Milliseconds", "maximum": 20, "relativeTo": "Stable"},
    ],
}


@pytest.fixture
def operator(platform: Platform) -> Iterator[None]:
    """As it was, afterwards."""
    try:
        debian.unpacked("prometheus")
    except debian.NotToBeHad as error:
        pytest.skip(f"There is no Prometheus here: {error}")
    yield
    tunesmith.release(platform.node, tunesmith.values())


@contextlib.contextmanager
def listing(team: Team, file: Path) -> Iterator[dict[str, Any]]:
    """A job of Prometheus for the team's predictors, from a file: Debian's knows no Kubernetes."""
    over = threading.Event()

    def write() -> None:
        selector = "--selector=app.kubernetes.io/component=predictor"
        where = ("--namespace", team.namespace.name, selector)
        pods = team.namespace.kubectl.json("get", "pods", *where)["items"]
        targets = [f"{pod['status']['podIP']}:8080" for pod in pods if pod["status"].get("podIP")]
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps([{"targets": targets}]))
        unfinished.replace(file)

    def keep() -> None:
        while not over.wait(2):
            write()

    write()
    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield {
            "job_name": "predictors",
            "file_sd_configs": [{"files": [str(file)], "refresh_interval": "1s"}],
        }
    finally:
        over.set()
        thread.join(60)


def test_rollout_waits_for_prometheus_and_goes_on_by_what_that_has_read(
    team: Team, operator: None, tmp_path: Path
) -> None:
    node = team.platform.node
    nobody = f"http://{node.address}:9"
    scenarios.first_model(team)
    tunesmith.release(node, {**tunesmith.values(), "prometheus.url": nobody})
    old = scenarios.stable(team)
    with Load(team, scenarios.NAME) as load:
        change = {"rollout": ROLLOUT, "compute": {"cpu": "190m"}}
        team.merge("modeldeployment", scenarios.NAME, {"spec": change})

        def said() -> bool:
            message = team.condition("modeldeployment", scenarios.NAME, "Progressing").get("message", "")
            return f"Prometheus at {nobody} did not answer" in message

        wait_for(said, "the missing Prometheus is named", 120)
        assert scenarios.weight(team) == 50
        with (
            listing(team, tmp_path / "predictors.json") as job,
            prometheus.running(tmp_path, node.address, job) as url,
        ):
            tunesmith.release(node, {**tunesmith.values(), "prometheus.url": url})
            wait_for(lambda: scenarios.stable(team) not in ("", old), "promoted", 120)
    assert load.failures == []
    entry = team.status("modeldeployment", scenarios.NAME)["history"][0]
    assert entry["outcome"] == "Promoted"
    print(entry["message"])
