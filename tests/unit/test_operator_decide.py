"""What the operator decides, as tables: a situation, what it does, what it says."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.operator_samples import (
    NOW,
    SETTINGS,
    after,
    condition,
    ended_with,
    observed,
    training_job,
    with_companions,
    with_pod,
    with_run,
)

from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_operator.kinds import COMPANIONS, CONFIG_MAP, JOB, ROLE, SERVICE_ACCOUNT
from tunesmith_operator.obstacles import Conflict, Refusal
from tunesmith_operator.plan import Change, Ensure, Plan, Remove
from tunesmith_operator.training_job.children import OUTCOME_FILE, QUEUE_LABEL
from tunesmith_operator.training_job.decide import POD_SECONDS, decide
from tunesmith_operator.training_job.observe import outcome_of
from tunesmith_operator.training_job.observed import Observed
from tunesmith_operator.training_job.pods import Pod


def decided(seen: Observed) -> Plan:
    return decide(seen, SETTINGS, NOW)


def test_new_job_gets_everything_in_order_and_the_job_last_after_a_live_look() -> None:
    plan = decided(observed())
    assert [action.kind for action in plan.actions] == [*COMPANIONS, JOB]
    assert [isinstance(action, Ensure) and action.first_look for action in plan.actions] == [False] * 5 + [
        True
    ]
    assert plan.status is None  # its pod's news come in a moment
    assert plan.again_after == POD_SECONDS  # nobody tells us of a Job that may not create its pod


def test_new_job_whose_status_says_otherwise_is_told_at_once() -> None:
    waiting = observed(conflict=Conflict("ConfigMap", "flowers-trainer", "the Deployment shop"))
    plan = decided(replace(after(waiting, decided(waiting)), conflict=None))
    assert [action.kind for action in plan.actions] == [*COMPANIONS, JOB]
    assert condition(plan, "Admitted")["status"] == "True"
    assert condition(plan, "Succeeded")["reason"] == Reason.QUEUED


@pytest.mark.parametrize("pods", [0, 1])
@pytest.mark.parametrize(("age", "told"), [(0, False), (1, False), (2, True), (-1, False), (-30, True)])
def test_that_a_new_job_is_about_to_start_is_told_once_it_has_taken_long(
    age: int, told: bool, pods: int
) -> None:
    seen = with_run(observed(), created=NOW - timedelta(seconds=age))
    for _ in range(pods):
        seen = with_pod(seen, "Pending")
    plan = decided(seen)
    assert (condition(plan, "Succeeded").get("reason") == Reason.QUEUED) is told
    assert plan.again_after == POD_SECONDS or (told and pods)


STARTS: dict[str, tuple[Callable[[Observed], Observed], Reason]] = {
    "its pod runs": (with_pod, Reason.RUNNING),
    "its pod is in no node's reach": (
        lambda seen: with_pod(seen, "Pending", unschedulable="0/3 nodes are available"),
        Reason.UNSCHEDULABLE,
    ),
    "it may have no pod": (
        lambda seen: replace(seen, refusal=Refusal("Pod", 403, "Forbidden", "exceeded quota: small")),
        Reason.QUOTA_EXCEEDED,
    ),
}


@pytest.mark.parametrize("case", STARTS)
def test_news_of_a_new_jobs_pod_are_told_at_once(case: str) -> None:
    happens, reason = STARTS[case]
    plan = decided(happens(with_run(observed(), created=NOW)))
    assert condition(plan, "Succeeded")["reason"] == reason


def test_new_job_that_a_queue_holds_is_told_at_once() -> None:
    job = training_job(labels={QUEUE_LABEL: "gpus"})
    plan = decided(with_run(observed(job), created=NOW, suspended=True))
    assert plan.status is not None
    assert plan.status["phase"] == "Queued"


def test_wiped_status_of_a_job_that_runs_is_told_again() -> None:
    assert condition(decided(with_pod(with_run(observed()))), "Succeeded")["reason"] == Reason.RUNNING


def test_job_being_deleted_is_left_to_garbage_collection() -> None:
    job = training_job(deletion_timestamp="2026-11-29T11:59:00Z")
    assert decided(observed(job)) == Plan()


def test_running_job_that_is_as_it_should_be_needs_no_write() -> None:
    seen = with_pod(with_run(observed()))
    told = after(seen, decided(seen))
    assert decided(told) == Plan()


@pytest.mark.parametrize("kind", COMPANIONS, ids=lambda kind: kind.name)
def test_companion_that_somebody_deleted_comes_back(kind: object) -> None:
    seen = with_pod(with_run(observed()))
    left = {one: companion for one, companion in seen.companions.items() if one is not kind}
    (action,) = decided(replace(seen, companions=left)).actions
    assert isinstance(action, Ensure)
    assert (action.kind, action.uid) == (kind, "")


def test_companion_that_somebody_changed_is_put_right_in_place() -> None:
    seen = with_pod(with_run(observed()))
    wrong = replace(seen.companions[ROLE], essence={"rules": []})
    (action,) = decided(replace(seen, companions={**seen.companions, ROLE: wrong})).actions
    assert isinstance(action, Ensure)
    assert (action.kind, action.uid) == (ROLE, "uid-of-Role")


def test_pod_that_is_asked_to_stop_and_stays_is_told_with_what_to_do_when_its_node_is_lost() -> None:
    plan = decided(with_pod(with_run(observed()), terminating=True, node="gpu-3"))
    assert plan.actions == ()  # two trainers at once would be worse than a wait
    told = condition(plan, "Succeeded")
    assert (told["status"], told["reason"]) == ("Unknown", Reason.INTERRUPTED)
    assert "kubectl delete node gpu-3" in told["message"]


PODS_IN_TROUBLE = {
    "no node takes the pod": (
        {"phase": "Pending", "unschedulable": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."},
        Reason.UNSCHEDULABLE,
        "3 Insufficient nvidia.com/gpu",
    ),
    "the image is not there": (
        {"phase": "Pending", "waiting_reason": "ImagePullBackOff", "waiting_message": "not found"},
        Reason.IMAGE_PULL_FAILED,
        "--trainer-image",
    ),
    "the Secret is not there": (
        {
            "phase": "Pending",
            "waiting_reason": "CreateContainerConfigError",
            "waiting_message": 'secret "model-store" not found',
        },
        Reason.SECRET_MISSING,
        "AWS_SECRET_ACCESS_KEY",
    ),
    "the container cannot be made": (
        {"phase": "Pending", "waiting_reason": "CreateContainerError", "waiting_message": "no space"},
        Reason.INTERNAL_ERROR,
        "no space",
    ),
}


@pytest.mark.parametrize("case", PODS_IN_TROUBLE)
def test_pod_in_trouble_is_told_with_what_to_do_and_the_job_goes_on_waiting(case: str) -> None:
    fields, reason, words = PODS_IN_TROUBLE[case]
    plan = decided(with_pod(with_run(observed()), **fields))
    succeeded = condition(plan, "Succeeded")
    assert (succeeded["status"], succeeded["reason"]) == ("Unknown", reason)
    assert words in succeeded["message"]
    assert plan.news[0].warning
    assert plan.actions == ()


ENDS = {
    "a gate is not met": (ended_with(EXIT_CODES[Reason.GATE_FAILED]), {}, Reason.GATE_FAILED),
    "the kernel killed it for its memory": (
        ended_with(137, reason="OOMKilled"),
        {},
        Reason.OUT_OF_MEMORY,
    ),
    "the node pushed it out": (
        None,
        {"reason": "Evicted", "message": "The node was low on resource: memory."},
        Reason.EVICTED,
    ),
    "the node was drained": (ended_with(75), {"disruption": "EvictionByEvictionAPI"}, Reason.EVICTED),
    "it was asked to stop": (ended_with(75), {}, Reason.INTERRUPTED),
    "its node was restarted": (ended_with(255, reason="Unknown"), {}, Reason.INTERRUPTED),
    "the kubelet cannot find it": (
        ended_with(137, reason="ContainerStatusUnknown"),
        {},
        Reason.INTERRUPTED,
    ),
    "it crashed without a word": (ended_with(1), {}, Reason.INTERNAL_ERROR),
}


@pytest.mark.parametrize("case", ENDS)
def test_pod_that_ended_while_the_job_goes_on_is_told_by_its_cause(case: str) -> None:
    ended, fields, reason = ENDS[case]
    plan = decided(with_pod(with_run(observed(), failed=1), "Failed", ended=ended, **fields))
    succeeded = condition(plan, "Succeeded")
    assert (succeeded["status"], succeeded["reason"]) == ("Unknown", reason)
    assert "Another pod starts" in succeeded["message"]


@pytest.mark.parametrize("case", ENDS)
def test_job_that_failed_is_over_for_the_cause_of_its_last_pod(case: str) -> None:
    ended, fields, reason = ENDS[case]
    run = with_run(observed(), outcome="Failed", outcome_reason="PodFailurePolicy", ended=NOW, failed=1)
    plan = decided(with_pod(run, "Failed", ended=ended, **fields))
    assert condition(plan, "Failed")["reason"] == reason
    assert condition(plan, "Succeeded")["status"] == "False"
    assert (plan.status or {})["completionTime"] == "2026-11-29T12:00:00Z"


def test_trainers_own_last_words_are_the_message() -> None:
    said = json.dumps({"message": "accuracy is 0.81, below 0.9.", "nextStep": "Add images."})
    run = with_run(observed(), outcome="Failed", outcome_reason="PodFailurePolicy", ended=NOW)
    plan = decided(with_pod(run, "Failed", ended=ended_with(EXIT_CODES[Reason.GATE_FAILED], said)))
    assert condition(plan, "Failed")["message"] == "accuracy is 0.81, below 0.9. Add images."


def test_job_over_its_deadline_says_so_whatever_its_pod_said() -> None:
    run = with_run(observed(), outcome="Failed", outcome_reason="DeadlineExceeded", ended=NOW)
    plan = decided(with_pod(run, "Failed", ended=ended_with(75)))
    assert condition(plan, "Failed")["reason"] == Reason.DEADLINE_EXCEEDED


MODEL = {"uri": "s3://models/models/flowers/abc", "digest": "sha256:" + "a" * 64, "verified": True}


def finished(**spec: object) -> Observed:
    said = json.dumps({"status": {"model": MODEL, "reportUri": "s3://models/report.html"}})
    run = with_run(observed(training_job(dict(spec))), outcome="Complete", ended=NOW)
    return with_pod(
        run, "Succeeded", ended=ended_with(0, said, "Completed"), started=NOW - timedelta(minutes=5)
    )


def test_success_is_written_into_the_config_map_before_the_status() -> None:
    plan = decided(finished())
    (record,) = plan.actions
    assert isinstance(record, Ensure)
    assert record.kind is CONFIG_MAP
    assert json.loads(record.body["data"][OUTCOME_FILE])["phase"] == "Succeeded"
    assert condition(plan, "Succeeded")["status"] == "True"


def test_model_of_the_termination_message_is_taken_where_the_trainer_could_not_report() -> None:
    plan = decided(finished())
    assert (plan.status or {})["model"] == MODEL
    assert (plan.status or {})["startTime"] == "2026-11-29T11:55:00Z"


def test_unverified_model_of_a_failed_job_is_taken_from_its_last_words() -> None:
    model = {**MODEL, "verified": False}
    said = json.dumps({"message": "accuracy is 0.81, below 0.9.", "status": {"model": model}})
    run = with_run(observed(), outcome="Failed", outcome_reason="PodFailurePolicy", ended=NOW)
    plan = decided(with_pod(run, "Failed", ended=ended_with(EXIT_CODES[Reason.GATE_FAILED], said)))
    assert (plan.status or {})["model"] == model


@pytest.mark.parametrize("said", ["", "[]", '{"status": []}', '{"status": {"model": {"uri": 7}}}'])
def test_last_words_that_are_unsound_are_no_model_and_no_obstacle(said: str) -> None:
    run = with_run(observed(), outcome="Complete", ended=NOW)
    plan = decided(with_pod(run, "Succeeded", ended=ended_with(0, said, "Completed")))
    assert condition(plan, "Succeeded")["status"] == "True"
    assert "model" not in (plan.status or {})


@pytest.mark.parametrize("record", ["", "{", "[]", '{"conditions": [{"type": 7}]}', '{"conditions": []}'])
def test_record_that_somebody_has_edited_is_no_record(record: str) -> None:
    assert outcome_of({"data": {OUTCOME_FILE: record}}) is None


def test_ttl_is_set_only_once_the_end_is_known() -> None:
    wanted = {"ttlSecondsAfterFinished": 60}
    assert not any(
        isinstance(one, Change) for one in decided(with_pod(with_run(observed(training_job(wanted))))).actions
    )
    last = decided(finished(**wanted)).actions[-1]
    assert isinstance(last, Change)
    assert last.body["spec"] == wanted


def test_job_that_is_over_never_begins_again_although_its_job_is_gone() -> None:
    done = after(finished(), decided(finished()))
    gone = replace(done, run=None, pods=(), companions={})
    assert decided(gone) == Plan()


def test_wiped_status_is_restored_from_the_config_map_and_nothing_begins_again() -> None:
    done = after(finished(), decided(finished()))
    wiped = observed(outcome=dict(done.status))
    plan = decided(wiped)
    assert plan.actions == ()
    assert plan.status == done.status


def test_record_that_somebody_deleted_is_written_again_from_the_status() -> None:
    done = after(finished(), decided(finished()))
    (action,) = decided(with_companions(done)).actions
    assert isinstance(action, Ensure)
    assert json.loads(action.body["data"][OUTCOME_FILE]) == done.status


def test_record_follows_what_the_trainer_reports_last() -> None:
    done = after(finished(), decided(finished()))
    more = replace(done, status={**done.status, "search": {"trials": 9}}, outcome=dict(done.status))
    (action, *_) = decided(with_companions(more)).actions
    assert isinstance(action, Ensure)
    assert json.loads(action.body["data"][OUTCOME_FILE])["search"] == {"trials": 9}
    same = replace(with_companions(done), outcome=dict(done.status))
    assert decided(same) == Plan()


def test_suspending_a_running_job_suspends_its_job_and_says_so() -> None:
    job = training_job({"suspend": True})
    plan = decided(with_pod(with_run(observed(job), suspended=False)))
    (action,) = plan.actions
    assert isinstance(action, Change)
    assert action.body["spec"] == {"suspend": True}
    assert condition(plan, "Suspended")["status"] == "True"
    assert "checkpoint" in condition(plan, "Succeeded")["message"]


def test_job_created_suspended_makes_nothing() -> None:
    plan = decided(observed(training_job({"suspend": True})))
    assert plan.actions == ()
    assert (plan.status or {})["phase"] == "Suspended"


def test_resuming_goes_on_with_the_same_job() -> None:
    (action,) = decided(with_run(observed(), suspended=True)).actions
    assert isinstance(action, Change)
    assert action.body["spec"] == {"suspend": False}


def test_compute_changed_while_suspended_replaces_the_job_once_its_pods_are_gone() -> None:
    changed = training_job({"suspend": True, "compute": {"memory": "32Gi"}})
    seen = with_run(observed(changed), suspended=True, compute_mark="another")
    assert decided(with_pod(seen)).actions == ()
    (action,) = decided(seen).actions
    assert isinstance(action, Remove)
    assert action.uid == "uid-of-Job"


def test_compute_changed_and_resumed_at_once_still_replaces_the_job() -> None:
    seen = with_run(
        observed(training_job({"compute": {"memory": "32Gi"}})), suspended=True, compute_mark="another"
    )
    (action,) = decided(seen).actions
    assert isinstance(action, Remove)


def test_compute_of_a_newer_operator_never_touches_a_running_job() -> None:
    seen = with_pod(with_run(observed(), compute_mark="of an older version"))
    assert decided(seen).actions == ()


def test_limits_changed_while_running_reach_the_job() -> None:
    seen = with_pod(with_run(observed(training_job({"backoffLimit": 7})), backoff_limit=3))
    (action,) = decided(seen).actions
    assert isinstance(action, Change)
    assert action.body["spec"] == {"backoffLimit": 7}


def test_queued_job_is_created_suspended_and_never_resumed_by_us() -> None:
    job = training_job(labels={QUEUE_LABEL: "gpus"})
    created = decided(observed(job)).actions[-1]
    assert isinstance(created, Ensure)
    assert created.body["spec"]["suspend"] is True
    assert created.body["metadata"]["labels"][QUEUE_LABEL] == "gpus"
    waiting = decided(with_run(observed(job), suspended=True))
    assert waiting.actions == ()
    assert (waiting.status or {})["phase"] == "Queued"


def test_suspending_a_queued_job_removes_its_job_because_the_queue_would_resume_it() -> None:
    job = training_job({"suspend": True}, labels={QUEUE_LABEL: "gpus"})
    (action,) = decided(with_pod(with_run(observed(job), suspended=False))).actions
    assert isinstance(action, Remove)


REFUSALS = {
    "a quota leaves no room": (
        'jobs.batch "flowers-trainer" is forbidden: exceeded quota: small, requested: count/jobs.batch=1',
        Reason.QUOTA_EXCEEDED,
    ),
    "a policy forbids it": (
        "jobs.batch is forbidden: ValidatingAdmissionPolicy 'images' denied request: not our registry",
        Reason.ADMISSION_REFUSED,
    ),
    "the operator may not": (
        'jobs.batch is forbidden: User "system:serviceaccount:x:y" cannot create resource "jobs"',
        Reason.PERMISSION_MISSING,
    ),
    "the operator may not grant": (
        'roles is forbidden: user "y" is attempting to grant RBAC permissions not currently held',
        Reason.PERMISSION_MISSING,
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal_of_the_api_server_is_told_and_tried_again(case: str) -> None:
    message, reason = REFUSALS[case]
    plan = decided(observed(refusal=Refusal("Job", 403, "Forbidden", message)))
    assert condition(plan, "Admitted")["status"] == "False"
    assert condition(plan, "Admitted")["reason"] == reason
    assert plan.again_after is not None


def test_refusal_of_the_pod_alone_leaves_the_job_admitted() -> None:
    message = 'pods "flowers-trainer-x" is forbidden: exceeded quota: small, requested: cpu=4'
    plan = decided(with_run(observed(refusal=Refusal("Pod", 403, "Forbidden", message))))
    assert condition(plan, "Admitted")["status"] == "True"
    assert condition(plan, "Succeeded")["reason"] == Reason.QUOTA_EXCEEDED
    assert plan.again_after is not None


def test_refusal_of_the_pod_for_want_of_a_companion_has_that_put_right() -> None:
    message = 'pods "flowers-trainer-" is forbidden: serviceaccount "flowers-trainer" not found'
    seen = with_run(observed(refusal=Refusal("Pod", 403, "Forbidden", message)))
    left = {kind: one for kind, one in seen.companions.items() if kind is not SERVICE_ACCOUNT}
    (action,) = decided(replace(seen, companions=left)).actions
    assert isinstance(action, Ensure)
    assert action.kind is SERVICE_ACCOUNT


def test_refusal_while_the_trainer_runs_is_told_beside_how_it_does() -> None:
    message = 'roles is forbidden: User "x" cannot patch resource "roles"'
    seen = with_pod(with_run(observed(refusal=Refusal("Role", 403, "Forbidden", message, "changed"))))
    plan = decided(seen)
    assert plan.status is not None
    assert plan.status["phase"] == "Preparing"
    assert condition(plan, "Succeeded")["reason"] == Reason.RUNNING
    admitted = condition(plan, "Admitted")
    assert (admitted["status"], admitted["reason"]) == ("False", Reason.PERMISSION_MISSING)
    assert admitted["message"].startswith("The Role cannot be changed: ")


def test_end_is_told_although_a_foreign_object_has_a_childs_name() -> None:
    foreign = Conflict("ConfigMap", "flowers-trainer", "the Deployment shop")
    plan = decided(replace(finished(), conflict=foreign))
    assert condition(plan, "Succeeded")["status"] == "True"


def test_foreign_object_under_our_name_is_left_alone_and_named() -> None:
    plan = decided(observed(conflict=Conflict("ConfigMap", "flowers-trainer", "the Deployment shop")))
    assert plan.actions == ()
    assert condition(plan, "Admitted")["reason"] == Reason.NAME_CONFLICT
    assert "the Deployment shop" in condition(plan, "Admitted")["message"]


def test_what_an_earlier_job_left_must_go_first() -> None:
    plan = decided(observed(leaving=("the Pod flowers-trainer-x",)))
    assert plan.actions == ()
    assert plan.again_after is not None
    assert "flowers-trainer-x" in condition(plan, "Succeeded")["message"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"dataset": {"uri": "file:///photos"}}, "spec.dataset.uri"),
        ({"store": {"uri": "file:///models"}}, "spec.store.uri"),
        ({"dataset": {"uri": "torchvision://FashionMNIST"}}, "spec.dataset.uri"),
    ],
)
def test_address_of_one_machine_is_refused_with_where_to_put_the_data(
    spec: dict[str, object], field: str
) -> None:
    plan = decided(observed(training_job(spec)))
    assert plan.actions == ()
    assert condition(plan, "Admitted")["reason"] == Reason.SPEC_INVALID
    assert field in condition(plan, "Admitted")["message"]


STAGES = {
    (): "Preparing",
    ("DataReady",): "Searching",
    ("DataReady", "SearchComplete"): "Verifying",
    ("DataReady", "SearchComplete", "Verified"): "Publishing",
}


@pytest.mark.parametrize("reached", STAGES)
def test_phase_of_a_running_job_follows_the_trainers_conditions(reached: tuple[str, ...]) -> None:
    conditions = [
        {
            "type": kind,
            "status": "True",
            "reason": "Completed",
            "message": "",
            "lastTransitionTime": "2026-11-29T11:00:00Z",
        }
        for kind in reached
    ]
    job = training_job(status={"conditions": conditions})
    plan = decided(with_pod(with_run(observed(job))))
    assert (plan.status or {})["phase"] == STAGES[reached]


def test_condition_keeps_its_transition_time_while_its_status_stays() -> None:
    seen = with_pod(with_run(observed()), "Pending")
    told = after(seen, decided(seen))
    later = decide(replace(told, pods=_running(told.pods)), SETTINGS, NOW + timedelta(minutes=1))
    assert condition(later, "Succeeded")["lastTransitionTime"] == "2026-11-29T12:00:00Z"
    assert condition(later, "Succeeded")["reason"] == Reason.RUNNING


def _running(pods: tuple[Pod, ...]) -> tuple[Pod, ...]:
    return tuple(replace(pod, phase="Running") for pod in pods)
