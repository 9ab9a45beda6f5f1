"""A verdict on a TrainingJob, and the status and events that follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tunesmith_api.reasons import Reason, TrainingJobCondition
from tunesmith_api.status import Condition, ConditionStatus, Phase, with_condition
from tunesmith_operator.findings import Finding
from tunesmith_operator.plan import News
from tunesmith_operator.training_job.observed import Observed

GOOD_NEWS = frozenset(
    {Reason.RUNNING, Reason.QUEUED, Reason.COMPLETED, Reason.SUSPENDED, Reason.INTERRUPTED, Reason.EVICTED}
)
_LONGEST_MESSAGE = 1_000


@dataclass(frozen=True)
class Verdict:
    """How a job stands.

    Attributes:
        phase: for people.
        finding: what is the case now, or how it ended.
        obstacle: what keeps us from having its objects as they should be; None when nothing does.
        succeeded: True and False are final.
        suspended: whether it waits because the spec says so.
        fields: further fields of the status.
    """

    phase: Phase
    finding: Finding
    obstacle: Finding | None = None
    succeeded: ConditionStatus = "Unknown"
    suspended: bool = False
    fields: Mapping[str, Any] | None = None


def status_of(observed: Observed, verdict: Verdict, now: datetime) -> dict[str, Any]:
    """Our part of the status: what server-side apply is given."""
    conditions = observed.told.conditions
    for kind, answer, finding in _conditions(verdict):
        new = Condition(
            type=kind.value,
            status=answer,
            observed_generation=observed.job.metadata.generation,
            last_transition_time=now,
            reason=finding.reason.value,
            message=finding.message[:_LONGEST_MESSAGE],
        )
        conditions = with_condition(conditions, new)
    ours = {kind.value for kind, _, _ in _conditions(verdict)}
    status: dict[str, Any] = {
        "observedGeneration": observed.job.metadata.generation,
        "phase": verdict.phase,
        "conditions": [one.to_dict() for one in conditions if one.type in ours],
    }
    if started := _started(observed):
        status["startTime"] = started
    if verdict.succeeded != "Unknown":
        status["completionTime"] = _text(observed.run.ended if observed.run and observed.run.ended else now)
    return status | dict(verdict.fields or {})


def differs(status: Mapping[str, Any], present: Mapping[str, Any]) -> bool:
    """Whether writing our part would change the present status."""
    there = {one["type"]: one for one in present.get("conditions") or ()}
    if any(there.get(one["type"]) != one for one in status.get("conditions", ())):
        return True
    return any(present.get(key) != value for key, value in status.items() if key != "conditions")


def news_of(status: Mapping[str, Any], present: Mapping[str, Any]) -> tuple[News, ...]:
    """The event for a change of what is the case; none while the reason and its sentence stay."""
    new, old = _condition(status, "Succeeded"), _condition(present, "Succeeded")
    if new is None or (old is not None and old["reason"] == new["reason"] and old["status"] == new["status"]):
        return ()
    warning = new["reason"] not in GOOD_NEWS
    return (News(warning, new["reason"], new["message"]),)


def _conditions(
    verdict: Verdict,
) -> tuple[tuple[TrainingJobCondition, ConditionStatus, Finding], ...]:
    kinds = TrainingJobCondition
    admitted = Finding(Reason.RUNNING, "The spec is understood, and nothing is in the way of its Job.")
    found = [
        (
            kinds.ADMITTED,
            "False" if verdict.obstacle else "True",
            verdict.obstacle or admitted,
        ),
        (kinds.SUSPENDED, "True" if verdict.suspended else "False", _suspension(verdict.suspended)),
        (kinds.SUCCEEDED, verdict.succeeded, verdict.finding),
    ]
    if verdict.succeeded == "False":
        found.append((kinds.FAILED, "True", verdict.finding))
    return tuple(found)  # type: ignore[arg-type]


def _suspension(suspended: bool) -> Finding:
    if suspended:
        return Finding(Reason.SUSPENDED, "spec.suspend is true. Set it to false to go on from here.")
    return Finding(Reason.RUNNING, "spec.suspend is false.")


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    return next((one for one in status.get("conditions") or () if one["type"] == kind), None)


def _started(observed: Observed) -> str | None:
    """When the first pod started, as it was once told."""
    if observed.told.start_time:
        return _text(observed.told.start_time)
    starts = [pod.started for pod in observed.pods if pod.started]
    return _text(min(starts)) if starts else None


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
