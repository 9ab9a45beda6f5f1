"""TrainingJobs on a cluster as the operator observes them: a builder whose calls read as what happened."""

from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.api_refusals import TRAINING_JOB as SMALLEST_JOB

from tunesmith_api.training_job import TrainingJob
from tunesmith_operator.plan import Plan
from tunesmith_operator.settings import Settings
from tunesmith_operator.training_job.children import batch_job, companions
from tunesmith_operator.training_job.observed import Observed, Run, parse_companion, parse_run
from tunesmith_operator.training_job.pods import Exit, Pod

NOW = datetime(2026, 11, 29, 12, 0, 0, tzinfo=UTC)
UID = "3f0c4ab2-0000-4000-8000-000000000001"
SETTINGS = Settings(trainer_image="tunesmith/trainer:test")


def training_job(
    spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None, **metadata: Any
) -> TrainingJob:
    """The smallest job that a cluster would run."""
    body = deepcopy(SMALLEST_JOB)
    body["metadata"] = {"name": "flowers", "namespace": "team", "uid": UID, "generation": 1, **metadata}
    body["spec"] |= {"dataset": {"uri": "s3://datasets/flowers"}, "store": {"uri": "s3://models"}}
    body["spec"] |= spec or {}
    if status is not None:
        body["status"] = status
    return TrainingJob.model_validate(body)


def observed(job: TrainingJob | None = None, **fields: Any) -> Observed:
    """A job of which nothing exists yet."""
    job = job or training_job()
    status = {} if job.status is None else job.status.to_dict()
    bare = Observed(job=job, status=status, resource_version="100", companions={}, run=None, pods=())
    return replace(bare, **fields)


def with_companions(seen: Observed, record: str | None = None) -> Observed:
    """The same with everything a pod needs around it."""
    made = {}
    for kind, body in companions(seen.job, record):
        stored = {**body, "metadata": {**body["metadata"], "uid": f"uid-of-{kind.name}"}}
        made[kind] = parse_companion(kind, stored)
    return replace(seen, companions=made)


def with_run(seen: Observed, **fields: Any) -> Observed:
    """The same with the Job, as the API server stores it."""
    body = batch_job(seen.job, SETTINGS)
    stored = {
        **body,
        "metadata": {**body["metadata"], "uid": "uid-of-Job", "creationTimestamp": "2026-11-29T11:50:00Z"},
        "status": {},
    }
    run: Run = replace(parse_run(stored), **fields)
    return replace(with_companions(seen), run=run)


def with_pod(seen: Observed, phase: str = "Running", **fields: Any) -> Observed:
    """The same with one more pod."""
    number = len(seen.pods) + 1
    pod = Pod(
        name=f"flowers-trainer-{number}",
        uid=f"uid-of-pod-{number}",
        phase=phase,
        created=NOW - timedelta(minutes=10 - number),
        **fields,
    )
    return replace(seen, pods=(*seen.pods, pod))


def ended_with(code: int, said: str = "", reason: str = "Error") -> Exit:
    return Exit(code=code, reason=reason, said=said, at=NOW)


def condition(plan: Plan, kind: str) -> dict[str, Any]:
    """A condition of the status that a plan writes; empty when it writes none."""
    conditions = (plan.status or {}).get("conditions", ())
    return next((one for one in conditions if one["type"] == kind), {})


def after(seen: Observed, plan: Plan) -> Observed:
    """What is observed once the plan's status is written."""
    if plan.status is None:
        return seen
    own = {one["type"] for one in plan.status["conditions"]}
    kept = [one for one in seen.status.get("conditions", ()) if one["type"] not in own]
    status = {**seen.status, **plan.status, "conditions": [*kept, *plan.status["conditions"]]}
    body = seen.job.to_dict() | {"status": status}
    body["metadata"] = seen.job.metadata.model_dump(by_alias=True)
    return replace(seen, job=TrainingJob.model_validate(body), status=status)
