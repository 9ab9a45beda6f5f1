"""Operators that start, stop, are killed, stand still and compete, on a real API server."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.controlplane.cluster import Cluster
from tests.controlplane.operator_metrics import writes
from tests.testbed.kube_api import wait_for
from tests.testbed.operators import Operator

from tunesmith_operator.kinds import TRAINING_JOB


@pytest.fixture
def operators(cluster: Cluster, tmp_path: Path) -> Iterator[list[Operator]]:
    """Two operators that are not started yet."""
    pair = []
    for number in (1, 2):
        folder = tmp_path / f"{tmp_path.name}-{number}"
        folder.mkdir()
        pair.append(cluster.operator(folder))
    yield pair
    for one in pair:
        one.kill()
    cluster.forget_lease()


def leads(operator: Operator) -> bool:
    return "tunesmith_operator_leader 1.0" in operator.read("/metrics")


def test_jobs_created_and_deleted_while_no_operator_runs_are_seen_to_when_one_does(
    cluster: Cluster, namespace: str, operators: list[Operator]
) -> None:
    cluster.submit(namespace, "kept")
    cluster.submit(namespace, "dropped")
    cluster.api.delete(TRAINING_JOB, namespace, "dropped")
    operators[0].start()
    cluster.wait_for_pod(namespace, name="kept")
    assert cluster.batch_job(namespace, "dropped") is None


def test_what_happened_while_the_operator_was_away_is_told_when_it_is_back(
    cluster: Cluster, namespace: str, operators: list[Operator]
) -> None:
    operators[0].start()
    cluster.submit(namespace)
    pod = cluster.wait_for_pod(namespace)
    cluster.wait_for_condition(namespace, "Succeeded", reason="Running")
    assert operators[0].stop() == 0
    cluster.kubelet.end(pod, 0)
    operators[1].start()
    cluster.wait_for_condition(namespace, "Succeeded", status="True")


def test_asked_to_stop_it_gives_the_lease_back_and_the_other_leads_within_seconds(
    cluster: Cluster, namespace: str, operators: list[Operator]
) -> None:
    first, second = (one.start() for one in operators)
    leader = wait_for(lambda: next((one for one in (first, second) if leads(one)), None), "a leader")
    other = second if leader is first else first
    assert not leads(other)
    begun = time.monotonic()
    assert leader.stop() == 0
    wait_for(lambda: leads(other), "the other leads", 10)
    assert time.monotonic() - begun < 12  # well below the 15 s that a lease lasts
    cluster.submit(namespace)
    cluster.wait_for_pod(namespace)


def test_leader_that_stood_still_past_its_lease_writes_nothing_more(
    cluster: Cluster, namespace: str, operators: list[Operator]
) -> None:
    for one in operators:
        one.flags += ("--namespace", namespace)  # what an earlier test has left would be written about
    first, second = (one.start() for one in operators)
    leader = wait_for(lambda: next((one for one in (first, second) if leads(one)), None), "a leader")
    other = second if leader is first else first
    leader.signal(signal.SIGSTOP)
    for number in range(5):
        cluster.submit(namespace, f"while-stopped-{number}")
    wait_for(lambda: leads(other), "the other leads", 40)
    for number in range(5):
        cluster.wait_for_pod(namespace, name=f"while-stopped-{number}")
    leader.signal(signal.SIGCONT)
    wait_for(lambda: not leads(leader), "the first has understood", 10)
    for number in range(3):
        cluster.submit(namespace, f"afterwards-{number}")
        cluster.wait_for_pod(namespace, name=f"afterwards-{number}")
    assert writes(leader.read("/metrics")) == 0
    for number in range(5):
        assert len(cluster.pods(namespace, f"while-stopped-{number}")) == 1


def test_nothing_is_written_while_nothing_happens(
    cluster: Cluster, namespace: str, operators: list[Operator]
) -> None:
    # Looked at again every second: what a resync would write, it would write here.
    operator = operators[0]
    operator.flags += ("--resync-seconds", "1", "--namespace", namespace)
    operator.start()
    for name in ("running", "suspended", "done"):
        cluster.submit(namespace, name, suspend=name == "suspended")
    cluster.wait_for_condition(namespace, "Succeeded", name="running", reason="Running")
    cluster.wait_for_condition(namespace, "Suspended", name="suspended", status="True")
    cluster.kubelet.end(cluster.wait_for_pod(namespace, name="done"))
    cluster.wait_for_condition(namespace, "Succeeded", name="done", status="True")
    time.sleep(1.0)  # the events that follow a status
    before = writes(operator.read("/metrics"))
    time.sleep(6.0)
    assert writes(operator.read("/metrics")) == before


def test_stranger_to_the_api_server_ends_and_says_that_nothing_can_be_listed(
    tmp_path: Path, cluster: Cluster
) -> None:
    operator = cluster.operator(tmp_path, "--namespace", "no-such-namespace")
    operator.kubeconfig = cluster.plane.kubeconfig_of("stranger", "not-a-token")
    operator.start()
    assert operator.process is not None
    assert operator.process.wait(30) != 0
    assert "TrainingJobs cannot be listed" in operator.log
