"""compute.workers above 0 with KubeRay's real controller: one RayJob, a head, workers, the same story."""

import json
from collections.abc import Iterator

import pytest
from tests.controlplane.cluster import Cluster
from tests.testbed.kube_api import Object, wait_for
from tests.testbed.kuberay_controller import JobServer, KubeRay, owned_by, remove_ray_jobs

from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_operator.kinds import CONFIG_MAP, RAY_CLUSTER, RAY_JOB, TRAINING_JOB
from tunesmith_operator.training_job.children import FAILURES_FILE, child_name
from tunesmith_operator.training_job.ray_job import ray_job_name

pytestmark = pytest.mark.usefixtures("operator")

CHILD = ray_job_name("flowers")
SECONDS = 60.0
"""KubeRay looks every three seconds, and goes through several stages."""


@pytest.fixture(scope="module")
def kuberay(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeRay]:
    """The controller while the module's later tests run."""
    running = KubeRay(cluster.plane, tmp_path_factory.mktemp("kuberay"), JobServer(cluster.api))
    try:
        running.start()
    except RuntimeError as error:
        pytest.skip(f"KubeRay's controller cannot be built here: {error}")
    yield running
    running.stop()
    for left in cluster.api.list(
        RAY_JOB, ""
    ):  # of namespaces that are going: KubeRay has a finalizer on them
        place = left["metadata"]["namespace"], left["metadata"]["name"]
        cluster.api.merge(RAY_JOB, *place, {"metadata": {"finalizers": None}})
    remove_ray_jobs(cluster.plane)


def submit(cluster: Cluster, namespace: str) -> None:
    """A job of two pods, in a namespace that takes restricted pods only."""
    enforced = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    cluster.plane.kubectl("patch", "namespace", namespace, "-p", json.dumps(enforced))
    cluster.submit(namespace, compute={"workers": 1})


def ray_job(cluster: Cluster, namespace: str) -> Object | None:
    return cluster.api.get(RAY_JOB, namespace, CHILD)


def trains(cluster: Cluster, kuberay: KubeRay, namespace: str, times: int = 1) -> str:
    """Wait until the trainer was submitted so often and is told to run; the RayCluster's name."""

    def submitted() -> str:
        found = ray_job(cluster, namespace) or {}
        name = str((found.get("status") or {}).get("rayClusterName") or "-")
        own = [one for one in kuberay.jobs.submitted if one[0].startswith(CHILD) and one[0] in ours(name)]
        return name if len(own) >= times else ""

    def ours(name: str) -> set[str]:
        clusters = {one["metadata"]["name"] for one in cluster.api.list(RAY_CLUSTER, namespace)}
        return clusters | {name}

    name = wait_for(submitted, f"the trainer is submitted {times} times; {kuberay.log}", SECONDS)
    cluster.wait_for_condition(namespace, "Succeeded", reason="Running", seconds=SECONDS)
    return name


def failed(code: int, **result: object) -> str:
    line = json.dumps({"type": "result", "exitCode": code, **result}, separators=(",", ":"))
    return f"Job entrypoint command failed with exit code {code}, last available logs:\nwords\n{line}"


def test_cluster_without_kuberay_says_so_and_the_job_begins_once_it_is_there(
    cluster: Cluster, namespace: str, request: pytest.FixtureRequest
) -> None:
    remove_ray_jobs(cluster.plane)
    submit(cluster, namespace)
    cluster.wait_for_condition(namespace, "Admitted", status="False", reason="RuntimeMissing")
    kuberay: KubeRay = request.getfixturevalue("kuberay")
    # It is tried again by itself every half minute; any news of the job is sooner.
    cluster.api.merge(TRAINING_JOB, namespace, "flowers", {"metadata": {"labels": {"seen": "true"}}})
    name = trains(cluster, kuberay, namespace)
    assert cluster.condition(namespace, "Admitted")["status"] == "True"

    pods = cluster.pods(namespace)
    roles = sorted(pod["metadata"]["labels"]["ray.io/node-type"] for pod in pods)
    assert roles == ["head", "worker"]
    assert {owned_by(pod, "RayCluster") for pod in pods} == {name}
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["command"][:2] == ["ray", "start"], "no shell"
        token = [one for one in container["env"] if one["name"] == "RAY_AUTH_TOKEN"]
        assert token[0]["valueFrom"]["secretKeyRef"] == {"name": name, "key": "auth_token"}
    assert not kuberay.jobs.refused, "KubeRay has the token"
    assert kuberay.jobs.submitted[-1][1].startswith("python -m tunesmith_trainer --spec /etc/tunesmith/")

    kuberay.jobs.end(name, "SUCCEEDED", "Job finished successfully.")
    cluster.wait_for_condition(namespace, "Succeeded", status="True", reason="Completed", seconds=SECONDS)
    wait_for(lambda: not cluster.pods(namespace), "the pods are gone", SECONDS)
    assert ray_job(cluster, namespace) is not None


def test_head_that_is_evicted_is_replaced_and_given_the_trainer_again(
    cluster: Cluster, namespace: str, kuberay: KubeRay
) -> None:
    submit(cluster, namespace)
    name = trains(cluster, kuberay, namespace)
    (head,) = [
        one for one in cluster.pods(namespace) if one["metadata"]["labels"]["ray.io/node-type"] == "head"
    ]
    kuberay.jobs.forget(name)
    cluster.kubelet.evict(head, "The node was low on resource: memory.")
    assert trains(cluster, kuberay, namespace, times=2) == name
    found = ray_job(cluster, namespace)
    assert found is not None
    assert not found["status"].get("failed"), "a disruption is no failure"
    config_map = cluster.api.get(CONFIG_MAP, namespace, child_name("flowers"))
    assert config_map is not None
    assert FAILURES_FILE not in config_map["data"]


def test_failure_that_need_not_repeat_is_tried_again_and_one_that_would_ends_the_job(
    cluster: Cluster, namespace: str, kuberay: KubeRay
) -> None:
    submit(cluster, namespace)
    first = trains(cluster, kuberay, namespace)
    kuberay.jobs.end(first, "FAILED", failed(-9))
    # The status says it for some milliseconds only, until the next attempt begins; the event stays.
    wait_for(
        lambda: [one for one in cluster.events(namespace) if one["reason"] == "OutOfMemory"],
        "the failure is told",
        SECONDS,
    )
    second = trains(cluster, kuberay, namespace)
    assert second != first
    code = EXIT_CODES[Reason.GATE_FAILED]
    kuberay.jobs.end(second, "FAILED", failed(code, message="accuracy is 0.5.", nextStep="Lower the gate."))
    told = cluster.wait_for_condition(
        namespace, "Failed", status="True", reason="GateFailed", seconds=SECONDS
    )
    assert told["message"] == "accuracy is 0.5. Lower the gate."
    wait_for(lambda: not cluster.pods(namespace), "the pods are gone", SECONDS)
    assert len([one for one in kuberay.jobs.submitted if one[0] in (first, second)]) == 2


def test_suspended_job_has_no_pods_and_goes_on_when_resumed_and_deletion_leaves_nothing(
    cluster: Cluster, namespace: str, kuberay: KubeRay
) -> None:
    submit(cluster, namespace)
    first = trains(cluster, kuberay, namespace)
    cluster.change(namespace, suspend=True)
    cluster.wait_for_condition(namespace, "Suspended", status="True")
    wait_for(lambda: not cluster.pods(namespace), "the pods are gone", SECONDS)
    cluster.change(namespace, suspend=False)
    assert trains(cluster, kuberay, namespace) != first
    cluster.api.delete(TRAINING_JOB, namespace, "flowers")

    def left() -> list[str]:
        kinds = (RAY_JOB, RAY_CLUSTER)
        found = [f"{one.name}" for one in kinds if cluster.api.list(one, namespace)]
        return found + [pod["metadata"]["name"] for pod in cluster.pods(namespace)]

    wait_for(lambda: not left(), f"nothing is left; {kuberay.log}", SECONDS)
