"""compute.workers above 0: the RayJob that is made, what its status means, what is decided then."""

import json
import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.operator_samples import (
    NOW,
    SETTINGS,
    after,
    condition,
    observed,
    training_job,
    with_companions,
    with_pod,
)

from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_operator.kinds import COMPANIONS, CONFIG_MAP, RAY_JOB, Object
from tunesmith_operator.obstacles import Refusal
from tunesmith_operator.plan import Change, Ensure, Plan, Remove
from tunesmith_operator.training_job.children import QUEUE_LABEL, network_policy
from tunesmith_operator.training_job.decide import RAY_SECONDS, decide
from tunesmith_operator.training_job.observe import failures_of
from tunesmith_operator.training_job.observed import Observed
from tunesmith_operator.training_job.ray_job import LONGEST_NAME, RAY_VERSION, ray_job, ray_job_name
from tunesmith_operator.training_job.ray_run import parse_ray_job

REPOSITORY = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden" / "operator_ray_job.yaml"
WORKERS = {"compute": {"workers": 2, "cpu": "1500m", "memory": "8Gi", "gpus": 1}}
TRAINS = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": "flowers-trainer-x1x1x"}


def stored(job: Any, status: Object | None = None) -> Object:
    """The job's RayJob as the API server has it."""
    body = deepcopy(ray_job(job, SETTINGS))
    body["metadata"] |= {"uid": "uid-of-RayJob", "creationTimestamp": "2026-11-29T11:50:00Z"}
    return {**body, "status": status or {}}


def with_ray_job(status: Object | None = None, spec: Object | None = None, **metadata: Any) -> Observed:
    """A job of three pods with its RayJob."""
    job = training_job(WORKERS | (spec or {}), **metadata)
    return replace(with_companions(observed(job)), run=parse_ray_job(stored(job, status)))


def with_pods(seen: Observed, *phases: str) -> Observed:
    """The same with a head and workers."""
    for number, phase in enumerate(phases):
        seen = with_pod(seen, phase, role="worker" if number else "head")
    return seen


def failed_with(code: int, result: Object | None = None) -> Object:
    """The status of a RayJob whose trainer ended so."""
    line = "" if result is None else json.dumps({"type": "result", **result}, separators=(",", ":"))
    said = f"Job entrypoint command failed with exit code {code}, last available logs (truncated):"
    return {
        **TRAINS,
        "jobDeploymentStatus": "Failed",
        "jobStatus": "FAILED",
        "reason": "AppFailed",
        "failed": 1,
        "message": f"{said}\nsome words\n{line}\n",
    }


def decided(seen: Observed) -> Plan:
    return decide(seen, SETTINGS, NOW)


def test_ray_job_is_the_golden_one() -> None:
    assert ray_job(training_job(WORKERS), SETTINGS) == yaml.safe_load(GOLDEN.read_text())


def test_ray_version_is_that_of_the_trainers_image() -> None:
    lock = (REPOSITORY / "images" / "trainer" / "requirements.txt").read_text()
    assert re.search(r"^ray(\[[a-z,]+\])?==(\S+)", lock, re.MULTILINE)[2] == RAY_VERSION  # type: ignore[index]


@pytest.mark.parametrize("name", ["a", "a" * 39, "a" * 40, "a" * 63, "2026-flowers"])
def test_names_are_what_kuberay_takes(name: str) -> None:
    made = ray_job_name(name)
    assert len(made) <= LONGEST_NAME
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", made)
    assert made != ray_job_name(name[:-1] + "b")


def test_queue_is_copied_and_the_ray_job_waits_for_it() -> None:
    body = ray_job(training_job(WORKERS, labels={QUEUE_LABEL: "team"}), SETTINGS)
    assert body["metadata"]["labels"][QUEUE_LABEL] == "team"
    assert body["spec"]["suspend"] is True


def test_network_policy_lets_the_pods_talk_and_kuberay_to_the_job_server_only() -> None:
    assert "ingress" not in network_policy(training_job())["spec"]
    among, kuberay = network_policy(training_job(WORKERS))["spec"]["ingress"]
    assert among == {"from": [{"podSelector": {"matchLabels": {"tunesmith.dev/training-job": "flowers"}}}]}
    assert kuberay["ports"] == [{"protocol": "TCP", "port": 8265}]


def test_new_job_gets_a_ray_job_in_the_place_of_a_job() -> None:
    plan = decided(observed(training_job(WORKERS)))
    assert [action.kind for action in plan.actions] == [*COMPANIONS, RAY_JOB]
    assert isinstance(plan.actions[-1], Ensure)
    assert plan.actions[-1].first_look


def test_cluster_without_kuberay_is_told_and_tried_again() -> None:
    refusal = Refusal("RayJob", 404, "", "no explanation")
    plan = decided(replace(observed(training_job(WORKERS)), refusal=refusal))
    told = condition(plan, "Admitted")
    assert (told["status"], told["reason"]) == ("False", Reason.RUNTIME_MISSING)
    assert "Install KubeRay" in told["message"]
    assert plan.again_after is not None


GOING_ON = {
    "KubeRay has not seen it": ({}, (), "Pending", Reason.QUEUED, "0 of 3 run"),
    "a pod is missing": (
        {"jobDeploymentStatus": "Initializing"},
        ("Running", "Running", "Pending"),
        "Pending",
        Reason.QUEUED,
        "2 of 3 run",
    ),
    "the trainer runs": (
        TRAINS,
        ("Running", "Running", "Running"),
        "Preparing",
        Reason.RUNNING,
        "in the pod flowers-trainer-1",
    ),
    "a worker is replaced": (
        TRAINS,
        ("Running", "Running"),
        "Preparing",
        Reason.RUNNING,
        "in the pod flowers-trainer-1",
    ),
}


@pytest.mark.parametrize("case", GOING_ON)
def test_ray_job_that_goes_on_is_told_and_read_again_soon(case: str) -> None:
    status, phases, phase, reason, words = GOING_ON[case]
    seen = with_pods(with_ray_job(status), *phases)
    plan = decided(seen)
    assert plan.status is not None
    assert plan.status["phase"] == phase
    assert condition(plan, "Succeeded")["reason"] == reason
    assert words in condition(plan, "Succeeded")["message"]
    assert (plan.actions, plan.again_after) == ((), RAY_SECONDS)
    settled = decided(after(seen, plan))
    assert (settled.actions, settled.status) == ((), None)


def test_worker_that_no_node_takes_is_told() -> None:
    seen = with_pods(with_ray_job({"jobDeploymentStatus": "Initializing"}), "Running")
    plan = decided(with_pod(seen, "Pending", role="worker", unschedulable="0/1 nodes are available"))
    assert condition(plan, "Succeeded")["reason"] == Reason.UNSCHEDULABLE


def test_pods_that_may_not_be_created_are_told() -> None:
    refusal = Refusal("Pod", 403, "Forbidden", "exceeded quota: none")
    plan = decided(replace(with_ray_job({"jobDeploymentStatus": "Initializing"}), refusal=refusal))
    assert condition(plan, "Succeeded")["reason"] == Reason.QUOTA_EXCEEDED


MODEL = {"uri": "s3://models/flowers/x", "digest": f"sha256:{'0' * 64}"}


def test_success_is_written_down_before_it_is_told() -> None:
    status = {**TRAINS, "jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
    plan = decided(with_pods(with_ray_job(status), "Running", "Running"))
    assert [action.kind for action in plan.actions] == [CONFIG_MAP]
    assert condition(plan, "Succeeded")["status"] == "True"


ENDS = {
    "a gate is not met": (
        failed_with(
            EXIT_CODES[Reason.GATE_FAILED],
            result={"message": "accuracy is 0.5.", "nextStep": "Lower the gate."},
        ),
        (),
        Reason.GATE_FAILED,
        "accuracy is 0.5. Lower the gate.",
    ),
    "the trainer failed for the last time": (
        failed_with(1),
        ("a", "b", "c"),
        Reason.INTERNAL_ERROR,
        "failed 4 times; backoffLimit is 3",
    ),
    "its time is over": (
        {**TRAINS, "jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"},
        (),
        Reason.DEADLINE_EXCEEDED,
        "activeDeadlineSeconds",
    ),
    "KubeRay does not take it": (
        {"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": "no such field"},
        (),
        Reason.INTERNAL_ERROR,
        "no such field. See kubectl describe rayjob flowers-trainer.",
    ),
    "somebody stopped it": (
        {**TRAINS, "jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"},
        (),
        Reason.INTERNAL_ERROR,
        "somebody stopped the trainer",
    ),
}


@pytest.mark.parametrize("case", ENDS)
def test_failure_that_is_final_is_written_down_and_told_by_its_cause(case: str) -> None:
    status, failures, reason, words = ENDS[case]
    seen = replace(with_ray_job(status), failures=failures)
    plan = decided(seen)
    failed = condition(plan, "Failed")
    assert (failed["status"], failed["reason"]) == ("True", reason)
    assert words in failed["message"]
    assert [action.kind for action in plan.actions] == [CONFIG_MAP]
    assert decided(after(seen, plan)).status is None


RETRIES = {
    "the kernel killed it": (failed_with(-9), (), ("uid-of-RayJob",), Reason.OUT_OF_MEMORY, "1 of 3"),
    "it crashed again": (failed_with(1), ("a",), ("a", "uid-of-RayJob"), Reason.INTERNAL_ERROR, "2 of 3"),
    "it was asked to stop": (failed_with(75), ("a",), None, Reason.INTERRUPTED, "1 of 3"),
    "its head went away": (
        {**failed_with(1), "message": "The actor died."},
        (),
        ("uid-of-RayJob",),
        Reason.INTERNAL_ERROR,
        "The actor died.",
    ),
    "it was counted, and then the operator ended": (
        failed_with(1),
        ("uid-of-RayJob",),
        None,
        Reason.INTERNAL_ERROR,
        "1 of 3",
    ),
}


@pytest.mark.parametrize("case", RETRIES)
def test_failure_that_need_not_repeat_is_counted_before_the_ray_job_is_replaced(case: str) -> None:
    status, failures, counted, reason, words = RETRIES[case]
    plan = decided(replace(with_ray_job(status), failures=failures))
    told = condition(plan, "Succeeded")
    assert (told["status"], told["reason"]) == ("Unknown", reason)
    assert words in told["message"]
    assert plan.actions[-1] == Remove(RAY_JOB, "flowers-trainer", "uid-of-RayJob")
    notes = [failures_of(one.body) for one in plan.actions if isinstance(one, Ensure)]
    assert notes == ([] if counted is None else [counted])


def test_failures_stay_counted_when_the_config_map_is_put_right() -> None:
    seen = replace(with_ray_job(TRAINS), failures=("a",))
    left = {kind: one for kind, one in seen.companions.items() if kind is not CONFIG_MAP}
    (action,) = decided(replace(seen, companions=left)).actions
    assert isinstance(action, Ensure)
    assert failures_of(action.body) == ("a",)


def test_unverified_model_of_a_failed_job_is_taken_from_the_last_line() -> None:
    code = EXIT_CODES[Reason.GATE_FAILED]
    result = {"message": "m", "nextStep": "", "status": {"reportUri": "s3://models/report.html"}}
    plan = decided(with_ray_job(failed_with(code, result=result)))
    assert plan.status is not None
    assert plan.status["reportUri"] == "s3://models/report.html"


def test_suspending_and_resuming_change_the_ray_job() -> None:
    running = with_pods(with_ray_job(TRAINS, {"suspend": True}), "Running")
    running = replace(running, run=replace(running.run, suspended=False))  # type: ignore[type-var]
    assert decided(running).actions == (
        Change(RAY_JOB, "flowers-trainer", {"metadata": {"uid": "uid-of-RayJob"}, "spec": {"suspend": True}}),
    )
    waiting = with_ray_job()
    waiting = replace(waiting, run=replace(waiting.run, suspended=True))  # type: ignore[type-var]
    (action,) = decided(waiting).actions
    assert isinstance(action, Change)
    assert action.body["spec"] == {"suspend": False}


def test_job_of_several_pods_that_becomes_one_of_one_is_replaced() -> None:
    seen = with_ray_job(spec={"suspend": True})
    job = training_job({"suspend": True})
    plan = decided(replace(seen, job=job, run=replace(seen.run, suspended=True)))  # type: ignore[type-var]
    assert plan.actions == (Remove(RAY_JOB, "flowers-trainer", "uid-of-RayJob"),)
