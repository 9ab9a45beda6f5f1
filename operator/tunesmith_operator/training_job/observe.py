"""Gathers what is known of a TrainingJob: from the watches' cache, and live where the cache cannot tell."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from tunesmith_api.status import TrainingJobStatus
from tunesmith_api.training_job import TrainingJob
from tunesmith_operator.cache import Cache
from tunesmith_operator.kinds import (
    COMPANIONS,
    CONFIG_MAP,
    EVENT,
    JOB,
    JOB_LABEL,
    POD,
    RAY_CLUSTER,
    RAY_JOB,
    TRAINING_JOB,
    Key,
    Object,
)
from tunesmith_operator.kube import Kube
from tunesmith_operator.obstacles import (
    Conflict,
    Refusal,
    belongs_to,
    conflict_with,
    is_leaving,
    owner_of,
)
from tunesmith_operator.training_job.children import FAILURES_FILE, OUTCOME_FILE, child_name
from tunesmith_operator.training_job.observed import Companion, Observed, Run, parse_companion, parse_run
from tunesmith_operator.training_job.pods import Pod, moment, parse_pod
from tunesmith_operator.training_job.ray_job import ray_job_name
from tunesmith_operator.training_job.ray_run import parse_ray_job

_CREATING = re.compile(r"^(Error creating: |Failed to create (head|worker) Pod .*?, )")
POD_PATIENCE_SECONDS = 1.5
"""A Job that has made no pod for so long is asked why."""


class Unreadable(Exception):
    """The resource in the cluster is not what this version's schema allows."""


async def observe(key: Key, cache: Cache, kube: Kube, now: datetime) -> Observed | None:
    """Everything that is known of a TrainingJob, or None when there is none.

    Raises:
        Unreadable: the stored resource does not fit the schema.
        ApiError: a live read failed.
    """
    raw = cache.get(TRAINING_JOB, key.namespace, key.name)
    if raw is None:
        return None
    job = _parse(raw)
    name, uid = child_name(key.name), str(raw["metadata"]["uid"])
    companions: dict[Any, Companion] = {}
    outcome: Mapping[str, Any] | None = None
    failures: tuple[str, ...] = ()
    conflict: Conflict | None = None
    leaving: list[str] = []
    run: Run | None = None
    children = [(kind, cache.get(kind, key.namespace, name)) for kind in (*COMPANIONS, JOB)]
    if _may_have_ray_job(job, children[-1][1]):
        children.append((RAY_JOB, await kube.get(RAY_JOB, key.namespace, ray_job_name(key.name))))
    for kind, child in children:
        if child is None:
            continue
        if not belongs_to(child, uid) or child["metadata"].get("deletionTimestamp"):
            if is_leaving(child, TRAINING_JOB.name, key.name):
                leaving.append(f"the {kind.name} {child['metadata']['name']}")
            else:
                conflict = conflict_with(child, kind.name)
        elif kind is JOB:
            run = parse_run(child)
        elif kind is RAY_JOB:
            run = parse_ray_job(child)
        else:
            companions[kind] = parse_companion(kind, child)
            if kind is CONFIG_MAP:
                outcome, failures = outcome_of(child), failures_of(child)
    pods, strays = _pods(cache.children(POD, key), run)
    # When a Job is over its pods are: where the cache says otherwise, their last words are on their way.
    behind = (
        run is not None
        and run.kind is JOB
        and run.outcome is not None
        and (not pods or any(pod.live for pod in pods))
    )
    if strays or behind:
        pods, strays = _pods(await _live_pods(key, cache, kube), run)
    return Observed(
        job=job,
        status=raw.get("status") or {},
        resource_version=raw["metadata"]["resourceVersion"],
        companions=companions,
        run=run,
        pods=pods,
        outcome=outcome,
        failures=failures,
        refusal=await _pod_refusal(key, run, pods, kube, now),
        conflict=conflict,
        leaving=(*leaving, *(f"the Pod {pod.name}" for pod in strays)),
    )


def _may_have_ray_job(job: TrainingJob, batch_job: Object | None) -> bool:
    """Whether there may be a RayJob: asked for now, or before the spec was changed."""
    changed = (job.metadata.generation or 1) > 1
    return job.spec.compute.workers > 0 or (changed and batch_job is None)


def outcome_of(config_map: Object) -> Mapping[str, Any] | None:
    """How the job ended, as its ConfigMap remembers it."""
    try:
        outcome = json.loads((config_map.get("data") or {}).get(OUTCOME_FILE, "null"))
    except ValueError:
        return None
    if not isinstance(outcome, dict) or not outcome.get("conditions"):
        return None
    try:
        TrainingJobStatus.model_validate(outcome)
    except ValidationError:
        return None  # somebody has edited it; the status is there, or the Job says it again
    return outcome


def failures_of(config_map: Object) -> tuple[str, ...]:
    """Which RayJobs of the job have failed, as its ConfigMap remembers it."""
    try:
        failures = json.loads((config_map.get("data") or {}).get(FAILURES_FILE, "[]"))
    except ValueError:
        return ()
    return tuple(map(str, failures)) if isinstance(failures, list) else ()


def _parse(raw: Object) -> TrainingJob:
    try:
        return TrainingJob.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise Unreadable(f"{where}: {first['msg']}") from error


def _pods(raw: list[Object], run: Run | None) -> tuple[tuple[Pod, ...], tuple[Pod, ...]]:
    """The Job's pods, the oldest first, and live ones of other Jobs."""
    own, strays = [], []
    for one in raw:
        pod = parse_pod(one)
        owner = owner_of(one)
        # A RayJob is only made when no pods of another are left.
        of_ray = run is not None and run.kind is RAY_JOB and owner.get("kind") == RAY_CLUSTER.name
        if of_ray or (run is not None and owner.get("uid") == run.uid):
            own.append(pod)
        elif pod.live:
            strays.append(pod)
    return tuple(sorted(own, key=lambda pod: (pod.created, pod.name))), tuple(strays)


async def _live_pods(key: Key, cache: Cache, kube: Kube) -> list[Object]:
    """The pods as the server has them; corrects the cache where a watch missed that one went."""
    found = await kube.list(POD, key.namespace, label_selector=f"{JOB_LABEL}={key.name}")
    names = {pod["metadata"]["name"] for pod in found}
    for known in cache.children(POD, key):
        if known["metadata"]["name"] not in names:
            cache.discard(POD, key.namespace, known["metadata"]["name"])
    for pod in found:
        cache.put(POD, pod)
    return found


async def _pod_refusal(
    key: Key, run: Run | None, pods: tuple[Pod, ...], kube: Kube, now: datetime
) -> Refusal | None:
    """Why a Job has no pod; only its events say that its controller may not create one."""
    if run is None or run.suspended or run.outcome or any(pod.live for pod in pods):
        return None
    since = max([run.started or run.created, *(pod.ended.at for pod in pods if pod.ended and pod.ended.at)])
    if (now - since).total_seconds() < POD_PATIENCE_SECONDS:
        return None
    selector = f"involvedObject.uid={run.uid},reason=FailedCreate"
    if run.kind is RAY_JOB:
        selector = f"involvedObject.kind={RAY_CLUSTER.name},involvedObject.name={run.cluster},type=Warning"
    events = await kube.list(EVENT, key.namespace, field_selector=selector)
    recent = [one for one in events if _when(one) >= since and "ailed" in one["reason"]]
    if not recent:
        return None
    message = _CREATING.sub("", max(recent, key=_when)["message"])
    return Refusal("Pod", 403, "Forbidden", message)


def _when(event: Object) -> datetime:
    text = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"]
    return moment(text)
