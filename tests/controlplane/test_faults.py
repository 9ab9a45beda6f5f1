"""What goes wrong between operator and API server, each fault by name, each against the run without it."""

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.controlplane.cluster import Cluster
from tests.controlplane.stage import Stage, stage_of
from tests.testbed.faulty_proxy import Fault, Request
from tests.testbed.kube_api import Object, wait_for
from tests.testbed.operators import Operator

from tunesmith_operator.kinds import COMPANIONS, JOB, TRAINING_JOB
from tunesmith_operator.training_job.children import child_name

MODEL = {"uri": "s3://models/models/flowers/abc", "digest": "sha256:" + "a" * 64, "verified": True}
CHILD = child_name("flowers")
SETTLED_SECONDS = 15.0
VOLATILE = frozenset(
    {
        "creationTimestamp",
        "completionTime",
        "startTime",
        "lastTransitionTime",
        "lastProbeTime",
        "uid",
        "resourceVersion",
        "managedFields",
        "namespace",
        "controller-uid",
        "batch.kubernetes.io/controller-uid",
    }
)


@pytest.fixture
def stage(cluster: Cluster, tmp_path: Path) -> Iterator[Stage]:
    made = stage_of(cluster, tmp_path)
    yield made
    made.end()


def live(cluster: Cluster, namespace: str) -> None:
    """A job's whole life, as a user and a trainer make it; the operator has to follow."""
    cluster.submit(namespace)
    pod = cluster.wait_for_pod(namespace)
    train(cluster, namespace, pod)


def train(cluster: Cluster, namespace: str, pod: Object) -> None:
    """What a trainer does: report, and end with its last words."""
    report = {
        "apiVersion": "tunesmith.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "flowers", "namespace": namespace},
        "status": {"search": {"trials": 7, "succeeded": 7}},
    }
    cluster.api.apply(TRAINING_JOB, report, "tunesmith-trainer", "status")
    said = json.dumps({"message": "The model is verified.", "status": {"model": MODEL}})
    cluster.kubelet.end(pod, 0, said)


def converged(cluster: Cluster, namespace: str, seconds: float = 60) -> None:
    cluster.wait_for_condition(namespace, "Succeeded", status="True", seconds=seconds)


def end_state(cluster: Cluster, namespace: str) -> Object:
    """What is there at the end, without what differs from run to run."""
    job = cluster.job(namespace)
    found: dict[str, Any] = {"TrainingJob": job}
    for kind in (*COMPANIONS, JOB):
        child = cluster.api.get(kind, namespace, CHILD)
        found[kind.name] = child and {key: value for key, value in child.items() if key != "status"}
    found["pods"] = len(cluster.pods(namespace))
    text = json.dumps(found).replace(job["metadata"]["uid"], "its uid")
    return _steady(json.loads(text))  # type: ignore[no-any-return]


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(item) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [_steady(item) for item in value]
    if isinstance(value, str):
        try:
            inner = json.loads(value)
        except ValueError:
            return value
        return _steady(inner) if isinstance(inner, dict) else value
    return value


def assert_ends_as(cluster: Cluster, namespace: str, state: Object, what: str = "") -> None:
    """Whether everything comes to this state; the record of the end may follow the status by a moment."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while (found := end_state(cluster, namespace)) != state and time.monotonic() < deadline:
        time.sleep(0.1)
    differing = [kind for kind in state if found.get(kind) != state[kind]]
    assert not differing, json.dumps({kind: [state[kind], found.get(kind)] for kind in differing}) + what


def creations(requests: list[Request], namespace: str) -> Counter[str]:
    """How often each kind of object was asked to be created or deleted; events may get lost."""
    return Counter(
        f"{one.method} {one.path.rpartition('/')[2] if one.method == 'POST' else one.path.split('/')[-2]}"
        for one in requests
        if one.method in ("POST", "DELETE") and f"/{namespace}/" in one.path and "/events" not in one.path
    )


@pytest.fixture(scope="module")
def faultless(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Object, Counter[str], int]:
    """End state, creations and the number of writes of a run without faults."""
    stage = stage_of(cluster, tmp_path_factory.mktemp("faultless"))
    namespace = "faultless"
    cluster.create_namespace(namespace)
    try:
        stage.start()
        live(cluster, namespace)
        converged(cluster, namespace)
        time.sleep(0.5)  # the event that follows the status
        writes = list(stage.proxy.writes)
        return end_state(cluster, namespace), creations(writes, namespace), len(writes)
    finally:
        stage.end()
        cluster.delete_namespace(namespace)


FAULTS: dict[str, list[Fault]] = {
    "conflicts": [Fault("PATCH|POST", "(?<!leases)$", status=409, times=5)],
    "too many requests": [Fault("POST|PATCH|GET", status=429, watch=False, times=8)],
    "server errors": [Fault("POST|PATCH|GET", status=500, watch=False, times=8)],
    "requests that are lost": [Fault("POST|PATCH", "flowers|/n", lose="request", times=6)],
    "answers that are lost": [Fault("POST|PATCH", lose="answer", times=6)],
    "writes that time out": [Fault("POST|PATCH", delay=12.0, times=1)],
    "slow answers": [Fault("POST|PATCH|GET", watch=False, delay=0.5)],
    "watches that are closed at once": [Fault("GET", watch=True, times=12, lose="request")],
    "watches that are gone": [Fault("GET", watch=True, times=6, status=410)],
    "events that come late": [Fault("GET", watch=True, late=0.4)],
    "events in another order and twice": [Fault("GET", watch=True, reorder=True)],
}


@pytest.mark.parametrize("case", FAULTS)
def test_fault_changes_neither_the_end_nor_what_is_created(
    stage: Stage, namespace: str, faultless: tuple[Object, Counter[str], int], case: str
) -> None:
    state, created, _ = faultless
    operator = stage.start()
    operator.port()
    stage.proxy.faults = [Fault(**{**one.__dict__, "met": 0}) for one in FAULTS[case]]
    if "watches" in case or "events" in case:
        stage.proxy.cut_all()  # so that there are new watches, which meet the fault
    live(stage.cluster, namespace)
    converged(stage.cluster, namespace)
    assert stage.proxy.faults[0].met
    stage.proxy.faults = []
    assert_ends_as(stage.cluster, namespace, state)
    if case not in (
        "conflicts",
        "too many requests",
        "server errors",
        "requests that are lost",
        "answers that are lost",
        "writes that time out",
    ):
        assert creations(stage.proxy.writes, namespace) == created


@pytest.mark.parametrize("moment", ["before", "after"])
def test_operator_killed_at_each_of_its_writes_ends_as_if_it_had_lived(
    stage: Stage, namespace: str, faultless: tuple[Object, Counter[str], int], moment: str
) -> None:
    state, _, count = faultless
    cluster = stage.cluster
    for number in range(1, count + 1):
        own = f"{namespace}-{number}"
        cluster.create_namespace(own)
        operator = stage.start()
        operator.port()
        hook = _killer(operator, len(stage.proxy.writes) + number)
        stage.proxy.before_write, stage.proxy.after_write = (
            (hook, lambda *_: None) if moment == "before" else (lambda *_: None, hook)
        )
        cluster.submit(own)
        _play(cluster, own, stage, operator)
        stage.proxy.before_write = stage.proxy.after_write = lambda *_: None
        assert_ends_as(cluster, own, state, f", killed {moment} write {number}")
        for one in stage.operators:
            one.kill()
        stage.free_lease()
        cluster.delete_namespace(own)


def _killer(operator: Operator, number: int) -> Any:
    def hook(written: int, request: Request) -> None:
        if written == number and operator.process is not None:
            operator.process.send_signal(signal.SIGKILL)

    return hook


def _play(cluster: Cluster, namespace: str, stage: Stage, operator: Operator) -> None:
    """The rest of a job's life; when the operator is dead, another takes its place."""
    replaced = False

    def pod() -> Object | None:
        nonlocal replaced
        if not replaced and operator.process is not None and operator.process.poll() is not None:
            stage.free_lease()
            stage.start()
            replaced = True
        running = [one for one in cluster.pods(namespace) if one["status"]["phase"] == "Running"]
        return running[0] if running else None

    found = wait_for(pod, "a running pod", 60)
    train(cluster, namespace, found)

    def over() -> bool:
        pod()
        return bool(cluster.condition(namespace, "Succeeded").get("status") == "True")

    wait_for(over, "the end", 60)


def test_api_server_that_is_away_and_comes_back_is_caught_up_with(stage: Stage, namespace: str) -> None:
    cluster = stage.cluster
    stage.start().port()
    cluster.submit(namespace)
    cluster.wait_for_condition(namespace, "Succeeded", reason="Running")
    cluster.plane.kill("apiserver")
    time.sleep(8)
    cluster.plane.start_apiserver()
    cluster.plane.wait_ready()
    cluster.submit(namespace, "afterwards")
    # A server that has just begun refuses all for a moment; its controllers then pause for up to 30 s.
    cluster.wait_for_pod(namespace, name="afterwards", seconds=60)
    cluster.wait_for_condition(namespace, "Succeeded", name="afterwards", reason="Running", seconds=60)
    assert len(cluster.pods(namespace)) == 1
