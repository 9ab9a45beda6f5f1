"""Faults of machines and clusters, by their names: silent watches, a lost node, a restored store, clocks."""

import contextlib
import json
import shutil
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from tests.controlplane.cluster import Cluster
from tests.controlplane.stage import Stage, stage_of
from tests.testbed.clocks import NoFakeClock, WallClock, wall_clock
from tests.testbed.control_plane import ControlPlane
from tests.testbed.faulty_proxy import Fault
from tests.testbed.kube_api import wait_for
from tests.testbed.kubelet import NODE
from tests.testbed.operators import NAMESPACE, Operator

from tunesmith_operator.kinds import JOB, LEASE, OPTIONAL, POD, RESOURCES, TRAINING_JOB, WATCHED, Kind
from tunesmith_operator.leader import Terms
from tunesmith_operator.training_job.children import child_name

MODEL = {"uri": "s3://models/models/flowers/abc", "digest": "sha256:" + "a" * 64, "verified": True}
LAST_WORDS = json.dumps({"message": "The model is verified.", "status": {"model": MODEL}})
SILENCE_SECONDS = 70.0
"""After which Kopf gives a watch up that has not even sent a bookmark."""
FORGOTTEN_SECONDS = 120.0
"""Kubernetes waits for 40 s, then looks every 20 s, before it removes the pods of a node that was deleted."""
HOUR = 3_600


@pytest.fixture
def stage(cluster: Cluster, tmp_path: Path) -> Iterator[Stage]:
    cluster.forget_lease()
    made = stage_of(cluster, tmp_path)
    yield made
    made.end()


def succeed(cluster: Cluster, namespace: str, name: str = "flowers") -> None:
    cluster.kubelet.end(cluster.wait_for_pod(namespace, name=name), 0, LAST_WORDS)
    cluster.wait_for_condition(namespace, "Succeeded", name=name, status="True", seconds=40)


def leads(operator: Operator) -> bool:
    return "tunesmith_operator_leader 1.0" in operator.read("/metrics")


def serves(cluster: Cluster, kind: Kind) -> bool:
    """Whether the API server has a kind; other tests may have installed KServe's and the gateway's."""
    with contextlib.suppress(httpx.HTTPStatusError):
        cluster.api.read(kind.path(""))
        return True
    return False


def test_watches_that_stay_open_and_say_nothing_are_given_up_and_begun_anew(
    stage: Stage, namespace: str
) -> None:
    operator = stage.start()
    operator.port()
    lacking = [kind for kind in OPTIONAL if not serves(stage.cluster, kind)]
    watches = len(RESOURCES) + len(WATCHED) - len(lacking)
    wait_for(lambda: leads(operator) and stage.proxy.open_watches == watches, "it leads and watches")
    silent = Fault("GET", watch=True, silence=True, times=watches)
    stage.proxy.faults = [silent]
    stage.proxy.cut_all()
    wait_for(lambda: silent.met == silent.times, "all watches are silent")
    stage.cluster.submit(namespace)
    time.sleep(5)
    assert stage.cluster.batch_job(namespace) is None  # the fault is real
    wait_for(lambda: stage.cluster.batch_job(namespace), "the Job", SILENCE_SECONDS + 20)
    succeed(stage.cluster, namespace)


def test_node_that_is_lost_with_its_pod_has_no_second_trainer_begin_until_it_is_known_to_be_off(
    stage: Stage, namespace: str
) -> None:
    cluster = stage.cluster
    stage.start()
    cluster.submit(namespace)
    pod = cluster.wait_for_pod(namespace)
    cluster.kubelet.deaf = True
    try:
        # What the taint manager does to the pods of a node that has not been heard of.
        cluster.api.delete(POD, namespace, pod["metadata"]["name"])
        told = cluster.wait_for_condition(namespace, "Succeeded", reason="Interrupted")
        advice = f"kubectl delete node {NODE}"
        assert advice in told["message"]
        time.sleep(5)
        assert len(cluster.pods(namespace)) == 1
        cluster.plane.kubectl(*advice.split()[1:])
        uid = pod["metadata"]["uid"]
        wait_for(
            lambda: all(one["metadata"]["uid"] != uid for one in cluster.pods(namespace)),
            "the pod goes with its node",
            FORGOTTEN_SECONDS,
        )
    finally:
        cluster.kubelet.deaf = False
        cluster.kubelet.join()
    succeed(cluster, namespace)


@pytest.mark.parametrize("number", [1, 4, 7, 10, 13])
def test_operator_asked_to_stop_in_the_middle_ends_well_and_the_next_goes_on(
    stage: Stage, namespace: str, number: int
) -> None:
    cluster = stage.cluster
    first = stage.start()
    first.port()

    def ask_to_stop(written: int, _: object) -> None:
        if written == number:
            first.signal(signal.SIGTERM)

    stage.proxy.before_write = ask_to_stop
    cluster.submit(namespace)
    assert first.process is not None
    for _ in range(400):
        if first.process.poll() is not None:
            break
        running = [one for one in cluster.pods(namespace) if one["status"]["phase"] == "Running"]
        if running:
            cluster.kubelet.end(running[0], 0, LAST_WORDS)
        time.sleep(0.1)
    assert first.process.wait(5) == 0, first.log[-2_000:]
    stage.proxy.before_write = lambda *_: None
    # The lease was given back: nothing is waited for.
    stage.start()
    wait_for(lambda: cluster.pods(namespace), "the pod")
    if cluster.condition(namespace, "Succeeded").get("status") != "True":
        pods = cluster.pods(namespace)
        if pods[0]["status"]["phase"] != "Succeeded":
            cluster.kubelet.end(cluster.wait_for_pod(namespace), 0, LAST_WORDS)
    cluster.wait_for_condition(namespace, "Succeeded", status="True")
    assert cluster.job(namespace)["status"]["model"]["digest"] == MODEL["digest"]
    assert len(cluster.pods(namespace)) == 1


def test_operator_of_another_version_leaves_a_running_job_alone_and_sees_it_to_its_end(
    stage: Stage, namespace: str
) -> None:
    cluster = stage.cluster
    old = stage.start("--grace-seconds", "60")
    cluster.submit(namespace)
    pod = cluster.wait_for_pod(namespace)
    cluster.wait_for_condition(namespace, "Succeeded", reason="Running")
    before = cluster.batch_job(namespace)
    assert before is not None
    assert old.stop() == 0
    stage.start("--trainer-image", "tunesmith/trainer:next", "--grace-seconds", "90")
    cluster.submit(namespace, "later")
    (container,) = cluster.wait_for_pod(namespace, name="later")["spec"]["containers"]
    assert container["image"] == "tunesmith/trainer:next"
    after = cluster.batch_job(namespace)
    assert after is not None
    assert (after["metadata"]["uid"], after["spec"]) == (before["metadata"]["uid"], before["spec"])
    assert [one["metadata"]["uid"] for one in cluster.pods(namespace)] == [pod["metadata"]["uid"]]
    succeed(cluster, namespace)


def test_lists_that_are_stale_begin_no_finished_work_again(stage: Stage, namespace: str) -> None:
    cluster = stage.cluster
    cluster.submit(namespace)
    first = stage.start()  # its lists hold the job, and nothing of what it becomes
    succeed(cluster, namespace)
    time.sleep(1)  # the record follows the status
    assert first.stop() == 0
    before = cluster.job(namespace)["status"]
    cluster.api.delete(JOB, namespace, child_name("flowers"), propagationPolicy="Foreground")
    wait_for(lambda: not cluster.pods(namespace) and not cluster.batch_job(namespace), "the Job is gone")
    lists = "|".join(kind.plural for kind in (TRAINING_JOB, *WATCHED))
    stale = Fault("GET", f"/({lists})$", watch=False, stale=True)
    silent = Fault("GET", watch=True, silence=True)
    stage.proxy.faults = [stale, silent]
    already = len(stage.proxy.writes)
    second = stage.start()
    wait_for(lambda: leads(second), "it leads")
    wait_for(lambda: len(stage.proxy.writes) > already, "it tries what the stale lists ask for")
    time.sleep(5)
    assert stale.met
    posted = [str(one) for one in stage.proxy.writes[already:] if one.method == "POST"]
    assert not [one for one in posted if one.endswith("/jobs")], posted
    assert cluster.batch_job(namespace) is None
    assert cluster.job(namespace)["status"] == before


def test_spec_edited_while_no_operator_runs_is_carried_out_when_one_does(
    stage: Stage, namespace: str
) -> None:
    cluster = stage.cluster
    first = stage.start()
    for name in ("suspended", "patient"):
        cluster.submit(namespace, name)
        cluster.wait_for_condition(namespace, "Succeeded", name=name, reason="Running")
    assert first.stop() == 0
    cluster.change(namespace, "suspended", suspend=True)
    cluster.change(namespace, "patient", backoffLimit=9)
    stage.start()
    cluster.wait_for_condition(namespace, "Suspended", name="suspended", status="True")
    wait_for(lambda: not cluster.pods(namespace, "suspended"), "no pod")
    wait_for(
        lambda: (cluster.batch_job(namespace, "patient") or {})["spec"]["backoffLimit"] == 9, "the new limit"
    )


def test_job_that_a_policy_refuses_is_told_in_its_words_and_begins_when_the_policy_is_gone(
    stage: Stage, namespace: str
) -> None:
    cluster = stage.cluster
    stage.start()
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": namespace},
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "resourceRules": [
                    {
                        "apiGroups": ["batch"],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["jobs"],
                    }
                ],
            },
            "validations": [{"expression": "false", "message": "no Jobs on Sundays"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": namespace},
        "spec": {"policyName": namespace, "validationActions": ["Deny"]},
    }
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [policy, binding]})
    cluster.plane.kubectl("apply", "-f", "-", stdin=text)
    try:

        def refused() -> bool:
            """A policy takes a moment to be in force."""
            name = f"early-{time.monotonic_ns()}"
            cluster.submit(namespace, name)
            wait_for(lambda: cluster.condition(namespace, "Admitted", name), "a word")
            return bool(cluster.condition(namespace, "Admitted", name)["reason"] == "AdmissionRefused")

        wait_for(refused, "the policy is in force")
        cluster.submit(namespace)
        told = cluster.wait_for_condition(namespace, "Admitted", status="False", reason="AdmissionRefused")
        assert "no Jobs on Sundays" in told["message"]
    finally:
        cluster.plane.kubectl("delete", "-f", "-", stdin=text)
    cluster.wait_for_condition(namespace, "Succeeded", reason="Running", seconds=45)
    assert cluster.condition(namespace, "Admitted")["status"] == "True"


# Clocks


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> WallClock:
    try:
        return wall_clock(tmp_path_factory.mktemp("clock"))
    except NoFakeClock as missing:
        pytest.skip(f"No clock can be set for a process: {missing}")


@pytest.mark.parametrize("seconds", [-HOUR // 2, 10 * HOUR], ids=["back", "ahead"])
def test_clock_that_jumps_costs_no_lease_no_job_and_no_end(
    stage: Stage, namespace: str, clock: WallClock, seconds: int
) -> None:
    cluster = stage.cluster
    clock.jump(0)
    jumping = stage.start(environment=clock.environment)
    jumping.port()
    wait_for(lambda: leads(jumping), "it leads", 40)
    cluster.submit(namespace)
    cluster.wait_for_condition(namespace, "Succeeded", reason="Running")
    other = stage.start()
    other.port()
    clock.jump(seconds)
    time.sleep(20)  # longer than a lease lasts
    assert leads(jumping)
    assert not leads(other)
    cluster.submit(namespace, "afterwards")
    cluster.wait_for_pod(namespace, name="afterwards")
    succeed(cluster, namespace)
    told = datetime.fromisoformat(
        cluster.condition(namespace, "Admitted", "afterwards")["lastTransitionTime"]
    )
    apart = (told - datetime.now(UTC)).total_seconds() - seconds
    assert abs(apart) < 120, "the operator's clock was not moved"


# The store of the cluster


@pytest.fixture
def own_plane(control_plane: ControlPlane, tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane whose store may be damaged."""
    plane = ControlPlane(tmp_path / "own", control_plane.commands)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


def stop_all(plane: ControlPlane) -> None:
    plane.kill("controllers")
    plane.kill("apiserver")
    plane.kill("etcd", signal.SIGTERM)  # so that its files are whole


def lease_version(cluster: Cluster) -> str:
    lease = cluster.api.get(LEASE, NAMESPACE, "tunesmith-operator")
    assert lease is not None
    return str(lease["metadata"]["resourceVersion"])


def start_all(plane: ControlPlane) -> None:
    plane.start_etcd()
    plane.start_apiserver()
    plane.wait_ready()
    plane.start_controllers()


def test_store_restored_from_a_backup_is_looked_at_anew_and_nothing_of_the_lost_time_is_believed(
    own_plane: ControlPlane, tmp_path: Path
) -> None:
    cluster = Cluster(own_plane)
    cluster.install()
    cluster.create_namespace("shop")
    operator = cluster.operator(tmp_path).start()
    try:
        cluster.submit("shop")
        cluster.wait_for_condition("shop", "Succeeded", reason="Running")
        stop_all(own_plane)
        shutil.copytree(own_plane.folder / "etcd", tmp_path / "backup")
        start_all(own_plane)
        # What comes now is lost.
        saved = lease_version(cluster)
        succeed(cluster, "shop")
        cluster.submit("shop", "lost")
        cluster.wait_for_condition("shop", "Succeeded", name="lost", reason="Running", seconds=40)
        wait_for(lambda: lease_version(cluster) != saved, "the lease is renewed")
        time.sleep(2 * Terms().renewal)  # and read again
        stop_all(own_plane)
        shutil.rmtree(own_plane.folder / "etcd")
        shutil.copytree(tmp_path / "backup", own_plane.folder / "etcd")
        start_all(own_plane)
        assert operator.process is not None
        operator.process.wait(60)
        assert "restored from a backup" in operator.log
        operator.start()  # as the kubelet does
        # Of the same name, and older than what the first process knew of it.
        cluster.submit("shop", "lost")
        cluster.wait_for_condition("shop", "Succeeded", name="lost", reason="Running", seconds=40)
        for name in ("flowers", "lost"):
            assert len(cluster.pods("shop", name)) == 1
            succeed(cluster, "shop", name)
        assert cluster.api.get(TRAINING_JOB, "shop", "lost") is not None
        assert cluster.batch_job("shop", "lost") is not None
        assert child_name("lost") in cluster.plane.kubectl("get", "jobs", "-n", "shop", "-o", "name")
    finally:
        operator.kill()
        cluster.close()
