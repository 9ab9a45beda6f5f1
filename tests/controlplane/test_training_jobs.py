"""TrainingJobs from creation to their end, on a real API server with its own Job controller."""

import json
from typing import Any

import httpx
import pytest
from tests.controlplane.cluster import Cluster
from tests.testbed.kube_api import Api, Object, wait_for
from tests.testbed.operators import Operator

from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_operator.kinds import COMPANIONS, CONFIG_MAP, JOB, POD, ROLE, TRAINING_JOB
from tunesmith_operator.training_job.children import child_name

pytestmark = pytest.mark.usefixtures("operator")

MODEL = {"uri": "s3://models/models/flowers/abc", "digest": "sha256:" + "a" * 64, "verified": True}
CHILD = child_name("flowers")


def last_words(**status: Any) -> str:
    return json.dumps({"reason": "Completed", "message": "The model is verified.", "status": status})


def succeed(cluster: Cluster, namespace: str, name: str = "flowers") -> Object:
    """Have the trainer end well; returns the job as it then is."""
    cluster.kubelet.end(cluster.wait_for_pod(namespace, name=name), 0, last_words(model=MODEL))
    cluster.wait_for_condition(namespace, "Succeeded", name=name, status="True")
    return cluster.job(namespace, name)


def test_job_becomes_one_job_with_everything_its_pod_needs_all_owned_by_it(
    cluster: Cluster, namespace: str
) -> None:
    uid = cluster.submit(namespace)["metadata"]["uid"]
    cluster.wait_for_pod(namespace)
    for kind in (*COMPANIONS, JOB):
        child = cluster.api.get(kind, namespace, CHILD)
        assert child is not None, kind
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("TrainingJob", uid)
    assert len(cluster.pods(namespace)) == 1


def test_pods_pass_pod_security_restricted(cluster: Cluster, namespace: str) -> None:
    enforced = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    cluster.plane.kubectl("patch", "namespace", namespace, "-p", json.dumps(enforced))
    cluster.submit(namespace)
    assert cluster.wait_for_pod(namespace)


def test_trainer_reads_the_spec_as_it_was_when_it_was_created(cluster: Cluster, namespace: str) -> None:
    job = cluster.submit(namespace)
    cluster.wait_for_pod(namespace)
    config_map = cluster.api.get(CONFIG_MAP, namespace, CHILD)
    assert config_map is not None
    frozen = json.loads(config_map["data"]["spec.json"])
    changeable = {"suspend", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"}
    assert frozen["spec"] == {key: value for key, value in job["spec"].items() if key not in changeable}


def test_trainer_may_write_the_status_of_its_own_job_and_of_no_other(
    cluster: Cluster, namespace: str
) -> None:
    cluster.submit(namespace)
    cluster.submit(namespace, "other")
    cluster.wait_for_pod(namespace)
    cluster.wait_for_pod(namespace, name="other")
    token = cluster.plane.kubectl("create", "token", CHILD, "-n", namespace).strip()
    trainer = Api(cluster.plane.kubeconfig_of(f"trainer-{namespace}", token))

    def report(name: str) -> Object:
        body = {
            "apiVersion": "tunesmith.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": name, "namespace": namespace},
            "status": {"search": {"trials": 7}},
        }
        return trainer.apply(TRAINING_JOB, body, "tunesmith-trainer", "status")

    assert report("flowers")["status"]["search"]["trials"] == 7
    with pytest.raises(httpx.HTTPStatusError, match="cannot patch resource"):
        report("other")
    for forbidden in (
        lambda: trainer.list(JOB, namespace),
        lambda: trainer.get(CONFIG_MAP, namespace, CHILD),
    ):
        with pytest.raises(httpx.HTTPStatusError, match="forbidden"):
            forbidden()
    trainer.close()


def test_success_is_told_in_status_columns_and_events(cluster: Cluster, namespace: str) -> None:
    cluster.submit(namespace)
    status = succeed(cluster, namespace)["status"]
    assert status["model"]["digest"] == MODEL["digest"]
    assert status["phase"] == "Succeeded"
    assert status["startTime"] <= status["completionTime"]
    row = cluster.plane.kubectl("get", "tj", "flowers", "-n", namespace, "--no-headers").split()
    assert row[:2] == ["flowers", "Succeeded"]
    described = cluster.plane.kubectl("describe", "tj", "flowers", "-n", namespace)
    assert "The verified model is in the store." in described.partition("Events:")[2]


def test_exit_code_that_another_pod_would_repeat_ends_the_job_at_once(
    cluster: Cluster, namespace: str
) -> None:
    cluster.submit(namespace, backoffLimit=5)
    said = json.dumps({"message": "accuracy is 0.81, below 0.9.", "nextStep": "Add images."})
    cluster.kubelet.end(cluster.wait_for_pod(namespace), EXIT_CODES[Reason.GATE_FAILED], said)
    failed = cluster.wait_for_condition(namespace, "Failed", status="True")
    assert (failed["reason"], failed["message"]) == ("GateFailed", "accuracy is 0.81, below 0.9. Add images.")
    assert len(cluster.pods(namespace)) == 1


def test_failure_that_may_pass_is_told_retried_and_counted(cluster: Cluster, namespace: str) -> None:
    cluster.submit(namespace, backoffLimit=1)
    first = cluster.wait_for_pod(namespace)
    cluster.kubelet.end(first, EXIT_CODES[Reason.STORE_UNREACHABLE])
    cluster.wait_for_condition(namespace, "Succeeded", status="Unknown", reason="StoreUnreachable")
    second = wait_for(lambda: _other(cluster.pods(namespace), first), "another pod", 40)
    cluster.kubelet.end(cluster.wait_for_pod(namespace), EXIT_CODES[Reason.STORE_UNREACHABLE])
    failed = cluster.wait_for_condition(namespace, "Failed", status="True")
    assert second["metadata"]["name"] != first["metadata"]["name"]
    assert failed["reason"] == "StoreUnreachable"
    assert "backoffLimit is 1" in failed["message"]


def test_eviction_is_told_and_does_not_count_as_a_failure(cluster: Cluster, namespace: str) -> None:
    cluster.submit(namespace, backoffLimit=0)
    first = cluster.wait_for_pod(namespace)
    cluster.kubelet.evict(first, "The node was low on resource: memory.")
    wait_for(lambda: _other(cluster.pods(namespace), first), "another pod", 40)
    assert cluster.condition(namespace, "Failed") == {}
    assert succeed(cluster, namespace)["status"]["phase"] == "Succeeded"
    assert any("low on resource: memory" in one["message"] for one in cluster.events(namespace))


TROUBLES: dict[str, tuple[str, str, Reason]] = {
    "an image that is not there": ("ImagePullBackOff", "not found", Reason.IMAGE_PULL_FAILED),
    "a Secret that is not there": (
        "CreateContainerConfigError",
        'secret "model-store" not found',
        Reason.SECRET_MISSING,
    ),
}


@pytest.mark.parametrize("case", TROUBLES)
def test_pod_that_waits_in_vain_is_told_and_the_job_goes_on_when_it_is_mended(
    cluster: Cluster, namespace: str, case: str
) -> None:
    word, message, reason = TROUBLES[case]
    cluster.submit(namespace)
    pod = cluster.wait_for_pod(namespace)
    cluster.kubelet.wait_in(pod, word, message)
    told = cluster.wait_for_condition(namespace, "Succeeded", reason=reason.value)
    assert message in told["message"]
    cluster.kubelet.run(pod)
    cluster.wait_for_condition(namespace, "Succeeded", reason="Running")


def test_pod_that_no_node_takes_is_told_in_the_schedulers_words(cluster: Cluster, namespace: str) -> None:
    cluster.kubelet.hold = lambda pod: pod["metadata"]["namespace"] == namespace
    try:
        cluster.submit(namespace, compute={"gpus": 8})
        pod = cluster.wait_for_pod(namespace, "Pending")
        cluster.kubelet.unschedulable(pod, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
        told = cluster.wait_for_condition(namespace, "Succeeded", reason="Unschedulable")
        assert "1 Insufficient nvidia.com/gpu" in told["message"]
    finally:
        cluster.kubelet.hold = lambda pod: False


def quota(namespace: str, **hard: str) -> Object:
    return {"metadata": {"name": "small", "namespace": namespace}, "spec": {"hard": hard}}


@pytest.mark.parametrize("counted", ["count/jobs.batch", "pods"])
def test_quota_that_leaves_no_room_is_told_and_the_job_begins_when_there_is(
    cluster: Cluster, namespace: str, counted: str
) -> None:
    quotas = f"/api/v1/namespaces/{namespace}/resourcequotas"
    cluster.api.post(quotas, quota(namespace, **{counted: "0"}))
    wait_for(lambda: cluster.api.read(f"{quotas}/small").get("status", {}).get("used"), "the quota counts")
    cluster.submit(namespace)
    told = cluster.wait_for_condition(namespace, "Succeeded", reason="QuotaExceeded")
    assert "small" in told["message"]
    cluster.api.put(
        f"{quotas}/small", cluster.api.read(f"{quotas}/small") | {"spec": {"hard": {counted: "5"}}}
    )
    cluster.wait_for_condition(namespace, "Succeeded", reason="Running", seconds=60)


def test_suspending_stops_the_pod_and_resuming_goes_on(cluster: Cluster, namespace: str) -> None:
    cluster.submit(namespace)
    cluster.wait_for_pod(namespace)
    cluster.change(namespace, suspend=True)
    cluster.wait_for_condition(namespace, "Suspended", status="True")
    wait_for(lambda: not cluster.pods(namespace), "no pods")
    assert cluster.job(namespace)["status"]["phase"] == "Suspended"
    cluster.change(namespace, suspend=False)
    cluster.wait_for_pod(namespace)
    cluster.wait_for_condition(namespace, "Suspended", status="False")
    cluster.wait_for_condition(namespace, "Succeeded", reason="Running")


def test_compute_changed_while_suspended_is_what_the_next_pod_gets(cluster: Cluster, namespace: str) -> None:
    cluster.submit(namespace, compute={"memory": "1Gi"})
    cluster.wait_for_pod(namespace)
    with pytest.raises(httpx.HTTPStatusError, match="compute can change only while the job is suspended"):
        cluster.change(namespace, compute={"memory": "2Gi"})
    cluster.change(namespace, suspend=True)
    wait_for(lambda: not cluster.pods(namespace), "no pods")
    cluster.change(namespace, compute={"memory": "2Gi"})
    cluster.change(namespace, suspend=False)
    pod = cluster.wait_for_pod(namespace)
    assert pod["spec"]["containers"][0]["resources"]["limits"]["memory"] == "2Gi"


def test_changing_what_the_result_is_a_result_of_is_refused_with_what_to_do(
    cluster: Cluster, namespace: str
) -> None:
    cluster.submit(namespace)
    with pytest.raises(httpx.HTTPStatusError, match="create a new TrainingJob with the new value"):
        cluster.change(namespace, search={"numTrials": 3})


def test_deleting_a_running_job_leaves_nothing_and_its_name_can_be_used_again(
    cluster: Cluster, namespace: str
) -> None:
    first = cluster.submit(namespace)
    cluster.wait_for_pod(namespace)
    cluster.api.delete(TRAINING_JOB, namespace, "flowers")
    second = cluster.submit(namespace)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]

    def uids() -> bool:
        job = cluster.batch_job(namespace)
        return bool(job and job["metadata"]["ownerReferences"][0]["uid"] == second["metadata"]["uid"])

    wait_for(uids, "a Job of the new TrainingJob", 40)
    cluster.wait_for_pod(namespace)
    cluster.api.delete(TRAINING_JOB, namespace, "flowers")
    wait_for(lambda: not left(cluster, namespace), "nothing left", 40)


def left(cluster: Cluster, namespace: str) -> list[str]:
    """What still carries the label of the job."""
    selector = "tunesmith.dev/training-job=flowers"
    return [
        f"{kind.name} {one['metadata']['name']}"
        for kind in (*COMPANIONS, JOB, POD)
        for one in cluster.api.list(kind, namespace, labelSelector=selector)
    ]


def test_foreign_job_under_our_name_is_left_alone_until_its_owner_removes_it(
    cluster: Cluster, namespace: str
) -> None:
    container = {"name": "shop", "image": "shop:1"}
    foreign = {
        "metadata": {"name": CHILD, "namespace": namespace},
        "spec": {
            "suspend": True,
            "template": {"spec": {"containers": [container], "restartPolicy": "Never"}},
        },
    }
    created = cluster.api.create(JOB, foreign)
    cluster.submit(namespace)
    told = cluster.wait_for_condition(namespace, "Admitted", status="False", reason="NameConflict")
    assert CHILD in told["message"]
    kept = cluster.batch_job(namespace)
    assert kept is not None
    assert kept["metadata"]["uid"] == created["metadata"]["uid"]
    assert kept["spec"]["template"]["spec"]["containers"][0]["image"] == "shop:1"
    cluster.api.delete(JOB, namespace, CHILD, propagationPolicy="Background")
    cluster.wait_for_condition(namespace, "Succeeded", reason="Running", seconds=60)


def test_status_wiped_by_hand_comes_back_and_nothing_is_trained_again(
    cluster: Cluster, namespace: str
) -> None:
    cluster.submit(namespace, ttlSecondsAfterFinished=0)
    done = succeed(cluster, namespace)
    wait_for(lambda: cluster.batch_job(namespace) is None, "the Job goes by its TTL")
    current = cluster.job(namespace)
    current["status"] = {}
    cluster.api.put(TRAINING_JOB.path(namespace, "flowers", "status"), current)
    cluster.wait_for_condition(namespace, "Succeeded", status="True")
    assert cluster.job(namespace)["status"] == done["status"]
    assert cluster.batch_job(namespace) is None


def test_job_removed_by_its_ttl_is_not_created_again(cluster: Cluster, namespace: str) -> None:
    cluster.submit(namespace, ttlSecondsAfterFinished=1)
    before = succeed(cluster, namespace)
    wait_for(lambda: cluster.batch_job(namespace) is None, "the Job goes by its TTL")
    wait_for(lambda: not cluster.pods(namespace), "its pod too")
    assert cluster.job(namespace)["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_job_deleted_by_hand_while_it_runs_is_created_again_after_its_pod_has_gone(
    cluster: Cluster, namespace: str
) -> None:
    cluster.submit(namespace)
    first = cluster.wait_for_pod(namespace)
    cluster.api.delete(JOB, namespace, CHILD, propagationPolicy="Background")
    wait_for(lambda: _other(cluster.pods(namespace), first), "another pod", 40)
    names = [pod["metadata"]["name"] for pod in cluster.pods(namespace)]
    assert first["metadata"]["name"] not in names
    assert len(names) == 1


@pytest.mark.parametrize("kind", COMPANIONS, ids=lambda kind: kind.name)
def test_companion_deleted_by_hand_comes_back(cluster: Cluster, namespace: str, kind: Any) -> None:
    cluster.submit(namespace)
    cluster.wait_for_pod(namespace)
    before = cluster.api.get(kind, namespace, CHILD)
    assert before is not None
    cluster.api.delete(kind, namespace, CHILD)

    def again() -> Object | None:
        found = cluster.api.get(kind, namespace, CHILD)
        return found if found and found["metadata"]["uid"] != before["metadata"]["uid"] else None

    assert wait_for(again, f"another {kind.name}")


def test_role_widened_by_hand_is_narrowed_again(cluster: Cluster, namespace: str) -> None:
    cluster.submit(namespace)
    cluster.wait_for_pod(namespace)
    wide = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]
    cluster.api.merge(ROLE, namespace, CHILD, {"rules": wide})

    def narrow() -> bool:
        found = cluster.api.get(ROLE, namespace, CHILD)
        return found is not None and found["rules"] != wide

    wait_for(narrow, "the Role as it was")


def test_address_of_one_machine_is_refused_in_the_status(cluster: Cluster, namespace: str) -> None:
    cluster.submit(namespace, dataset={"uri": "file:///photos"})
    told = cluster.wait_for_condition(namespace, "Admitted", status="False", reason="SpecInvalid")
    assert "s3:// or pvc://" in told["message"]
    assert cluster.batch_job(namespace) is None


def test_metrics_and_probes_answer(cluster: Cluster, namespace: str, operator: Operator) -> None:
    cluster.submit(namespace)
    cluster.wait_for_condition(namespace, "Succeeded", reason="Running")
    metrics = operator.read("/metrics")
    assert 'tunesmith_operator_api_calls_total{code="201",resource="jobs",verb="create"}' in metrics
    assert "tunesmith_operator_leader 1.0" in metrics
    assert "tunesmith_operator_reconcile_seconds_bucket" in metrics
    assert operator.read("/healthz") == operator.read("/readyz") == "ok\n"


def _other(pods: list[Object], than: Object) -> Object | None:
    return next((pod for pod in pods if pod["metadata"]["uid"] != than["metadata"]["uid"]), None)
