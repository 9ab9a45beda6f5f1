"""From what is observed to what should be done: pure functions, asked in order until one has an answer.

As cert-manager's policy chain: each looks at one concern, the order is the priority between them, and adding
a concern is adding a function.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from tunesmith_api.reasons import Reason
from tunesmith_api.status import TrainingJobStatus
from tunesmith_operator.findings import Finding, finding_of
from tunesmith_operator.kinds import CONFIG_MAP, JOB, POD, RAY_JOB, Object
from tunesmith_operator.plan import Action, Change, Ensure, Plan, Remove
from tunesmith_operator.settings import Settings
from tunesmith_operator.training_job import ray_run
from tunesmith_operator.training_job.children import (
    QUEUE_LABEL,
    addresses,
    companions,
    compute_mark,
    config_map,
)
from tunesmith_operator.training_job.observed import Observed, Run, essence
from tunesmith_operator.training_job.pods import Pod, blocker, cause_of_end
from tunesmith_operator.training_job.ray_job import run_of
from tunesmith_operator.training_job.verdict import Verdict, differs, news_of, status_of

LEAVING_SECONDS = 1.0
POD_SECONDS = 2.0
"""So long a Job may take to start its pod before we say that it is about to, and ask why it does not."""
RAY_SECONDS = 3.0
"""How often a RayJob is read while it goes on; KubeRay asks Ray as often."""
BLOCKED_SECONDS = 30.0
"""How often something that is in the way, and of which no watch tells us, is looked at again."""

Policy = Callable[[Observed, Settings, datetime], Plan | None]


def decide(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """What to do about a TrainingJob now.

    Args:
        observed: what is.
        settings: the installation's.
        now: in UTC.
    """
    for policy in POLICIES:
        plan = policy(observed, settings, now)
        if plan is not None:
            return plan
    raise AssertionError("the last policy always answers")


def being_deleted(observed: Observed, _: Settings, __: datetime) -> Plan | None:
    """Garbage collection removes what it owns; there is nothing to do."""
    return Plan() if observed.job.metadata.deletion_timestamp else None


def over(observed: Observed, _: Settings, now: datetime) -> Plan | None:
    """It ended before: keep the record in both places, let the Job go by its TTL, and never begin again."""
    told = _is_over(observed.told)
    if not told and observed.outcome is None:
        return None
    actions: list[Action] = []
    record = dict(observed.status if told else observed.outcome or {})
    present = observed.companions.get(CONFIG_MAP)
    if observed.outcome != record and present is not None:
        actions.append(Ensure(CONFIG_MAP, config_map(observed.job, _record(record)), present.uid))
    actions += _ttl(observed)
    if told:
        return Plan(tuple(actions))
    return _plan(observed, record, tuple(actions))


def tried_again(observed: Observed, _: Settings, now: datetime) -> Plan | None:
    """A RayJob failed, and another may not: what batch/v1 does by its podFailurePolicy is done here."""
    run, limit = observed.run, observed.job.spec.backoff_limit
    if run is None or run.kind is not RAY_JOB or run.outcome != "Failed" or not ray_run.worth_a_retry(run):
        return None
    failures = ray_run.failures(observed, run)
    if len(failures) > limit:
        return None
    actions: tuple[Action, ...] = (_remove(run),)
    if failures != observed.failures:
        present = observed.companions.get(CONFIG_MAP)
        counted = config_map(observed.job, failures=failures)
        actions = (Ensure(CONFIG_MAP, counted, present.uid if present else ""), *actions)
    finding = cause_of_end(run.end) if run.end else ray_run.failure(run)
    again = f" It is started again in a moment ({len(failures)} of {limit} retries used)."
    verdict = Verdict("Pending", Finding(finding.reason, finding.message + again))
    return _plan(observed, status_of(observed, verdict, now), actions, LEAVING_SECONDS)


def ended(observed: Observed, _: Settings, now: datetime) -> Plan | None:
    """The Job is over: say how, write it down in the ConfigMap first, then in the status."""
    run = observed.run
    if run is None or run.outcome is None:
        return None
    verdict = _succeeded(observed) if run.outcome == "Complete" else _failed(observed, run)
    status = status_of(observed, verdict, now)
    present = observed.companions.get(CONFIG_MAP)
    record = _record(_merged(observed.status, status))
    actions = (Ensure(CONFIG_MAP, config_map(observed.job, record), present.uid if present else ""),)
    return _plan(observed, status, (*actions, *_ttl(observed)))


def out_of_reach(observed: Observed, _: Settings, now: datetime) -> Plan | None:
    """Addresses that only mean something on one machine."""
    for field, uri in addresses(observed.job):
        scheme = uri.partition("://")[0]
        if scheme in ("file", "torchvision"):
            message = (
                f"{field} is {uri}, and a pod has no such folder. Put the data into s3:// or pvc:// and "
                "create the job again, or run it here with tunesmith run."
            )
            return _refuse(observed, Finding(Reason.SPEC_INVALID, message), now)
    return None


def name_taken(observed: Observed, _: Settings, now: datetime) -> Plan | None:
    """Somebody else's object has the name of a child; it is left alone."""
    taken = observed.conflict
    if taken is None:
        return None
    whose = f"belongs to {taken.owner}" if taken.owner else "is not ours"
    message = (
        f"The {taken.kind} {taken.name} exists and {whose}. Delete or rename it, or create the TrainingJob "
        "under another name."
    )
    return _refuse(observed, Finding(Reason.NAME_CONFLICT, message), now, BLOCKED_SECONDS)


def others_leaving(observed: Observed, _: Settings, now: datetime) -> Plan | None:
    """What an earlier job of this name or a deleted Job left must go first: one trainer at a time."""
    if not observed.leaving:
        return None
    what = ", ".join(observed.leaving[:3])
    finding = Finding(Reason.QUEUED, f"Waiting until {what} of an earlier run is gone.")
    verdict = Verdict(_suspended_or(observed, "Pending"), finding, suspended=observed.job.spec.suspend)
    return _plan(observed, status_of(observed, verdict, now), again_after=LEAVING_SECONDS)


def suspended(observed: Observed, _: Settings, now: datetime) -> Plan | None:
    """spec.suspend is true: no pods; everything finished stays in the store."""
    if not observed.job.spec.suspend:
        return None
    run, actions = observed.run, tuple[Action, ...]()
    if run is not None and not run.suspended:
        # Kueue would admit a suspended Job of its queue again.
        actions = (_remove(run) if _queue(observed) else _change(run, {"suspend": True}),)
    elif run is not None and not observed.live_pods and _compute_changed(observed):
        actions = (_remove(run),)
    message = "spec.suspend is true; everything finished is kept. Set it to false to go on."
    if observed.live_pods:
        message = "spec.suspend is true; the trainer stores its checkpoint and stops."
    verdict = Verdict("Suspended", Finding(Reason.SUSPENDED, message), suspended=True)
    return _plan(observed, status_of(observed, verdict, now), actions)


def refused(observed: Observed, _: Settings, now: datetime) -> Plan | None:
    """The API server will not do what we asked of it; it is tried again."""
    if observed.refusal is None or observed.refusal.kind == POD.name:
        return None
    return _refuse(observed, finding_of(observed.refusal), now, BLOCKED_SECONDS)


def not_created(observed: Observed, settings: Settings, now: datetime) -> Plan | None:
    """There is no Job, or it was made for another compute: create what it needs, then the Job."""
    run = observed.run
    if run is not None:
        if run.suspended and _compute_changed(observed) and not observed.live_pods:
            return Plan((_remove(run),), again_after=LEAVING_SECONDS)
        return None
    actions = (*_companions(observed), Ensure(*run_of(observed.job, settings), first_look=True))
    if not observed.status:
        return Plan(actions, again_after=POD_SECONDS)  # The first word is its pod's.
    verdict = Verdict("Pending", Finding(Reason.QUEUED, "The Job is created and starts its pod."))
    return _plan(observed, status_of(observed, verdict, now), actions, again_after=POD_SECONDS)


def running(observed: Observed, _: Settings, now: datetime) -> Plan:
    """The Job is there: keep it as the spec says and tell how its pod does."""
    run = observed.run
    assert run is not None
    actions: tuple[Action, ...] = (*_companions(observed), *_limits(observed, run))
    verdict, again_after = _progress(observed, run)
    if _about_to_start(observed, run, verdict, now):
        return Plan(actions, again_after=POD_SECONDS)
    if run.kind is RAY_JOB:
        again_after = RAY_SECONDS
    return _plan(observed, status_of(observed, verdict, now), actions, again_after)


POLICIES: tuple[Policy, ...] = (
    being_deleted,
    over,
    tried_again,
    ended,
    out_of_reach,
    name_taken,
    others_leaving,
    refused,
    suspended,
    not_created,
    running,
)


def _plan(
    observed: Observed,
    status: dict[str, Any],
    actions: tuple[Action, ...] = (),
    again_after: float | None = None,
) -> Plan:
    if not differs(status, observed.status):
        return Plan(actions, again_after=again_after)
    return Plan(actions, status, news_of(status, observed.status), again_after)


def _refuse(observed: Observed, finding: Finding, now: datetime, again_after: float | None = None) -> Plan:
    verdict = Verdict("Pending", finding, finding)
    if observed.run is not None and observed.live_pods and not observed.job.spec.suspend:
        verdict = replace(_progress(observed, observed.run)[0], obstacle=finding)  # The trainer goes on.
    return _plan(observed, status_of(observed, verdict, now), again_after=again_after)


def _is_over(status: TrainingJobStatus) -> bool:
    return any(one.type in ("Succeeded", "Failed") and one.status == "True" for one in status.conditions)


def _companions(observed: Observed) -> list[Ensure]:
    """Those that are missing or not as they should be."""
    wanted = []
    for kind, body in companions(observed.job, failures=observed.failures):
        present = observed.companions.get(kind)
        if present is None or present.essence != essence(kind, body):
            wanted.append(Ensure(kind, body, present.uid if present else ""))
    return wanted


def _limits(observed: Observed, run: Run) -> list[Change]:
    """What of a Job may change while it is there, and has."""
    spec = observed.job.spec
    changes: Object = {}
    if run.suspended and not _queue(observed):
        changes["suspend"] = False
    if run.kind is JOB and run.backoff_limit != spec.backoff_limit:
        changes["backoffLimit"] = spec.backoff_limit
    if run.active_deadline_seconds != spec.active_deadline_seconds:
        changes["activeDeadlineSeconds"] = spec.active_deadline_seconds
    return [_change(run, changes)] if changes else []


def _about_to_start(observed: Observed, run: Run, verdict: Verdict, now: datetime) -> bool:
    """Whether there is only to tell of a new job that it will start: in a moment it will have.

    That saves a write of status and an event for each job whose pod starts at once. A status that is there
    is never left to be wrong.
    """
    young = abs((now - run.created).total_seconds()) < POD_SECONDS
    waits = verdict.phase == "Pending" and verdict.finding.reason is Reason.QUEUED
    return not observed.status and young and waits


def _progress(observed: Observed, run: Run) -> tuple[Verdict, float | None]:
    """How a Job does that is neither suspended by us nor over."""
    if run.suspended and _queue(observed):
        message = f"The job waits for its turn in the queue {_queue(observed)}."
        return Verdict("Queued", Finding(Reason.QUEUED, message)), None
    if run.kind is RAY_JOB and (verdict := ray_run.progress(observed, run)) is not None:
        return verdict, None
    live = observed.live_pods
    if not live and observed.refusal is not None and observed.refusal.kind == POD.name:
        # The Job's controller tries again by itself; what it lacks of ours is put right meanwhile.
        return Verdict("Pending", finding_of(observed.refusal)), BLOCKED_SECONDS
    if not live:
        failure = observed.last_failure
        if failure is None:
            return Verdict(
                "Pending", Finding(Reason.QUEUED, "The Job is created and starts its pod.")
            ), POD_SECONDS
        finding = cause_of_end(failure)
        again = f" Another pod starts in a moment ({run.failed} of {run.backoff_limit} retries used)."
        return Verdict("Pending", Finding(finding.reason, finding.message + again)), POD_SECONDS
    pod = next((one for one in live if one.role == "head"), live[-1])
    if obstacle := blocker(pod):
        return Verdict("Pending", obstacle), None
    if pod.terminating:
        message = (
            f"The pod {pod.name} is asked to stop, and another starts when it has. If it stays, its node is "
            f"lost: once you know that the machine is off, kubectl delete node {pod.node or 'NAME'}."
        )
        return Verdict("Pending", Finding(Reason.INTERRUPTED, message)), None
    if pod.phase == "Pending":
        return Verdict("Pending", Finding(Reason.QUEUED, f"The pod {pod.name} is starting.")), None
    return Verdict(
        _stage(observed.told), Finding(Reason.RUNNING, f"The trainer runs in the pod {pod.name}.")
    ), None


def _stage(status: TrainingJobStatus) -> Any:
    """Which stage the trainer is in, by the conditions that it has set."""
    reached = {one.type for one in status.conditions if one.status == "True"}
    for condition, phase in (
        ("DataReady", "Preparing"),
        ("SearchComplete", "Searching"),
        ("Verified", "Verifying"),
    ):
        if condition not in reached:
            return phase
    return "Publishing"


def _succeeded(observed: Observed) -> Verdict:
    pods = [pod for pod in observed.pods if pod.phase == "Succeeded"]
    finding = Finding(Reason.COMPLETED, "The verified model is in the store.")
    fields = _last_words(observed, pods[-1] if pods else None)
    return Verdict("Succeeded", finding, succeeded="True", fields=fields)


def _last_words(observed: Observed, pod: Pod | None) -> dict[str, Any]:
    """What of the model only the pod's termination message says, because the trainer could not report it."""
    said = pod.ended.model if pod is not None and pod.ended else {}
    return {field: value for field, value in said.items() if field not in observed.status}


def _failed(observed: Observed, run: Run) -> Verdict:
    failure = observed.last_failure
    if run.outcome_reason == "DeadlineExceeded":
        limit = run.active_deadline_seconds
        finding = Finding(
            Reason.DEADLINE_EXCEEDED,
            f"The job ran for longer than activeDeadlineSeconds ({limit}). Create a new TrainingJob with "
            "more; it goes on from the finished trials.",
        )
    elif failure is not None:
        finding = cause_of_end(failure)
        if run.outcome_reason == "BackoffLimitExceeded":
            times = f" The trainer failed {run.failed} times; backoffLimit is {run.backoff_limit}."
            finding = Finding(finding.reason, finding.message + times)
    elif run.kind is RAY_JOB:
        finding = ray_run.failure(run)
    else:
        said = run.outcome_message.rstrip(".") or run.outcome_reason
        finding = Finding(
            Reason.BACKOFF_LIMIT_EXCEEDED, f"The Job {run.name} failed: {said}. Its pods are gone."
        )
    if run.kind is RAY_JOB and ray_run.worth_a_retry(run):
        times = f" The trainer failed {len(ray_run.failures(observed, run))} times; backoffLimit is "
        finding = Finding(finding.reason, f"{finding.message}{times}{observed.job.spec.backoff_limit}.")
    # A model that failed its gates is published too, as unverified.
    return Verdict("Failed", finding, succeeded="False", fields=_last_words(observed, failure))


def _ttl(observed: Observed) -> list[Change]:
    """Set only now, so that the Job cannot go before its end is written down."""
    run, wanted = observed.run, observed.job.spec.ttl_seconds_after_finished
    if run is None or run.terminating or run.ttl_seconds == wanted or run.outcome is None:
        return []
    if run.kind is RAY_JOB:
        return []  # It has had it from the start: KubeRay then removes its pods only.
    return [_change(run, {"ttlSecondsAfterFinished": wanted})]


def _merged(present: Any, ours: dict[str, Any]) -> dict[str, Any]:
    """The whole status as it will be once our part is written."""
    own = {one["type"] for one in ours["conditions"]}
    kept = [one for one in present.get("conditions") or () if one["type"] not in own]
    return {**present, **ours, "conditions": [*kept, *ours["conditions"]]}


def _record(status: Any) -> str:
    return json.dumps(dict(status), sort_keys=True, separators=(",", ":"))


def _queue(observed: Observed) -> str:
    return observed.job.metadata.labels.get(QUEUE_LABEL, "")


def _compute_changed(observed: Observed) -> bool:
    return observed.run is not None and observed.run.compute_mark != compute_mark(observed.job.spec.compute)


def _suspended_or(observed: Observed, phase: Any) -> Any:
    return "Suspended" if observed.job.spec.suspend else phase


def _change(run: Run, spec: Object) -> Change:
    return Change(run.kind, run.name, {"metadata": {"uid": run.uid}, "spec": spec})


def _remove(run: Run) -> Remove:
    return Remove(run.kind, run.name, run.uid)
