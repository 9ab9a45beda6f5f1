"""The analysis of a rollout reads from a real Prometheus, which finds the predictors by itself."""

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


def looks_at_predictors(kubeconfig: Path) -> dict[str, Any]:
    """A job of Prometheus, as an administrator would write it: pods by a label, at their port `http`."""
    labels = {"pod_label_app_kubernetes_io_component": "predictor", "pod_container_port_name": "http"}
    return {
        "job_name": "predictors",
        "kubernetes_sd_configs": [{"role": "pod", "kubeconfig_file": str(kubeconfig)}],
        "relabel_configs": [
            {"source_labels": [f"__meta_kubernetes_{label}"], "regex": value, "action": "keep"}
            for label, value in labels.items()
        ],
    }


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
        with prometheus.running(tmp_path, node.address, looks_at_predictors(node.kubeconfig)) as url:
            tunesmith.release(node, {**tunesmith.values(), "prometheus.url": url})
            wait_for(lambda: scenarios.stable(team) not in ("", old), "promoted", 120)
    assert load.failures == []
    entry = team.status("modeldeployment", scenarios.NAME)["history"][0]
    assert entry["outcome"] == "Promoted"
    print(entry["message"])
