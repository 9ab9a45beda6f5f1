"""`tunesmith submit`, `status`, `logs`, `wait`, `cancel` against a real API server."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.controlplane.cluster import Cluster
from tests.controlplane.commands import call, start
from tests.testbed.kube_api import Object, wait_for

from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_operator.kinds import TRAINING_JOB
from tunesmith_trainer.cluster import StatusReporter, cluster_writer
from tunesmith_trainer.events import Events

pytestmark = pytest.mark.usefixtures("operator")


def job_file(cluster: Cluster, folder: Path, **spec: object) -> Path:
    path = folder / "job.yaml"
    document = cluster.job_document("ignored", "flowers", **spec)
    del document["metadata"]["namespace"]
    path.write_text(yaml.safe_dump(document))
    return path


def test_submitted_job_runs_and_is_told_of(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    path = job_file(cluster, tmp_path)
    code, out, errors = call(cluster, "submit", "-f", str(path), "-n", namespace)
    assert code == 0, errors
    assert f"Submitted flowers to the namespace {namespace}." in out
    cluster.wait_for_condition(namespace, "Succeeded", reason="Running")
    code, out, _ = call(cluster, "status", "-n", namespace)
    assert code == 0
    assert "The trainer runs in the pod" in out
    code, out, _ = call(cluster, "status", "flowers", "-n", namespace, "-o", "json")
    assert json.loads(out)["status"]["phase"] == "Preparing"


def test_submitting_the_same_file_again_changes_nothing(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    path = job_file(cluster, tmp_path)
    for _ in range(2):
        assert call(cluster, "submit", "-f", str(path), "-n", namespace)[0] == 0
    assert cluster.job(namespace)["metadata"]["generation"] == 1


def test_submitting_a_changed_file_is_refused_in_the_servers_words(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    call(cluster, "submit", "-f", str(job_file(cluster, tmp_path)), "-n", namespace)
    other = job_file(cluster, tmp_path, search={"numTrials": 3})
    code, _, errors = call(cluster, "submit", "-f", str(other), "-n", namespace)
    assert code == EXIT_CODES[Reason.SPEC_INVALID]
    assert "create a new TrainingJob with the new value" in errors.replace("\n", " ")


def trainer_says(cluster: Cluster, pod: Object, tell: Callable[[Events], None]) -> None:
    """Have the pod's trainer tell something as trainers do: events, among lines of libraries."""
    stream = io.StringIO()
    tell(Events(stream))
    cluster.kubelet.say(pod, "a library's warning")
    for line in stream.getvalue().splitlines():
        cluster.kubelet.say(pod, line)


def test_job_that_is_followed_is_shown_through_its_pods_to_its_end(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    path = job_file(cluster, tmp_path)
    following = start(cluster, "submit", "-f", str(path), "-n", namespace, "--follow")
    first = cluster.wait_for_pod(namespace)
    trainer_says(cluster, first, lambda events: events.note("The first pod has begun."))
    cluster.kubelet.end(first, 137, reason="OOMKilled")
    wait_for(lambda: len(cluster.pods(namespace)) == 2, "a second pod", 40)
    second = cluster.wait_for_pod(namespace)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]

    def to_its_end(events: Events) -> None:
        with events.stage("search"):
            events.note("The second pod goes on.")
        events.emit("result", exitCode=0, reason="Completed", message="", nextStep="", status={})

    trainer_says(cluster, second, to_its_end)
    uri = "s3://models/models/flowers/abc"
    model = {"uri": uri, "digest": "sha256:" + "a" * 64, "verified": True}
    cluster.kubelet.end(second, 0, json.dumps({"message": "Done.", "status": {"model": model}}))
    out, errors = following.communicate(timeout=60)
    assert following.returncode == 0, errors
    begun, goes_on = out.index("The first pod has begun."), out.index("The second pod goes on.")
    assert begun < out.index("needed more memory than its limit") < goes_on
    assert uri in out[goes_on:]


def test_logs_hand_the_trainers_events_on_and_end_with_its_code(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    call(cluster, "submit", "-f", str(job_file(cluster, tmp_path)), "-n", namespace)
    pod = cluster.wait_for_pod(namespace)
    trainer_says(cluster, pod, lambda events: events.note("Half-way."))
    code, out, errors = call(cluster, "logs", "flowers", "-n", namespace, "-o", "json")
    assert (code, errors) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [{"type": "note", "message": "Half-way."}]
    following = start(cluster, "logs", "-f", "flowers", "-n", namespace, "-o", "json")
    trainer_says(cluster, pod, lambda events: events.note("Nearly there."))
    said = json.dumps({"message": "accuracy is 0.81, below 0.9.", "nextStep": "Add images."})
    cluster.kubelet.end(pod, EXIT_CODES[Reason.GATE_FAILED], said)
    out, errors = following.communicate(timeout=60)
    assert following.returncode == EXIT_CODES[Reason.GATE_FAILED], errors
    assert [json.loads(line)["message"] for line in out.splitlines()] == ["Half-way.", "Nearly there."]


def test_waiting_ends_with_the_exit_code_of_the_reason(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    call(cluster, "submit", "-f", str(job_file(cluster, tmp_path)), "-n", namespace)
    pod = cluster.wait_for_pod(namespace)
    waiting = start(cluster, "wait", "flowers", "-n", namespace, "--timeout", "60")
    said = json.dumps({"message": "accuracy is 0.81, below 0.9.", "nextStep": "Add images."})
    cluster.kubelet.end(pod, EXIT_CODES[Reason.GATE_FAILED], said)
    out, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == EXIT_CODES[Reason.GATE_FAILED]
    assert "accuracy is 0.81, below 0.9. Add images." in out


def test_waiting_in_vain_says_that_the_job_goes_on(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    call(cluster, "submit", "-f", str(job_file(cluster, tmp_path, suspend=True)), "-n", namespace)
    code, _, errors = call(cluster, "wait", "flowers", "-n", namespace, "--timeout", "0")
    assert code == EXIT_CODES[Reason.DEADLINE_EXCEEDED]
    assert "it goes on" in errors


def test_cancelled_job_is_suspended_or_with_delete_gone(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    call(cluster, "submit", "-f", str(job_file(cluster, tmp_path)), "-n", namespace)
    cluster.wait_for_pod(namespace)
    code, out, _ = call(cluster, "cancel", "flowers", "-n", namespace)
    assert (code, "Suspended flowers" in out) == (0, True)
    wait_for(lambda: not cluster.pods(namespace), "no pods")
    assert call(cluster, "cancel", "flowers", "-n", namespace, "--delete")[0] == 0
    assert cluster.api.get(TRAINING_JOB, namespace, "flowers") is None


def test_job_that_is_not_there_is_a_sentence(cluster: Cluster, namespace: str) -> None:
    code, _, errors = call(cluster, "status", "tulips", "-n", namespace)
    assert code != 0
    assert f"There is no TrainingJob tulips in the namespace {namespace}." in errors


def test_trainer_reports_into_its_job_and_leaves_a_successor_alone(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith_api.status import TrainingJobStatus

    uid = cluster.submit(namespace)["metadata"]["uid"]
    cluster.wait_for_pod(namespace)
    child = "flowers-trainer"
    token = cluster.plane.kubectl("create", "token", child, "-n", namespace).strip()
    monkeypatch.setenv("KUBECONFIG", str(cluster.plane.kubeconfig_of(f"{child}-{namespace}", token)))
    reporter = StatusReporter(cluster_writer(namespace, "flowers", uid))
    reporter.tell(TrainingJobStatus.model_validate({"search": {"trials": 12}}))
    assert reporter.finish(20)
    status = cluster.job(namespace)["status"]
    assert status["search"]["trials"] == 12
    assert status["phase"] == "Preparing"  # the operator's part is still there
    late = StatusReporter(cluster_writer(namespace, "flowers", "00000000-0000-4000-8000-000000000000"))
    late.tell(TrainingJobStatus.model_validate({"search": {"trials": 99}}))
    assert not late.finish(20)
    assert cluster.job(namespace)["status"]["search"]["trials"] == 12
