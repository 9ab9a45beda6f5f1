"""What is known of a TrainingJob and everything around it, as frozen data: the input of every decision."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from tunesmith_api.status import TrainingJobStatus
from tunesmith_api.training_job import TrainingJob
from tunesmith_operator.kinds import (
    CONFIG_MAP,
    JOB,
    NETWORK_POLICY,
    ROLE,
    ROLE_BINDING,
    SERVICE_ACCOUNT,
    Kind,
    Object,
)
from tunesmith_operator.obstacles import Conflict, Refusal
from tunesmith_operator.training_job.children import COMPUTE_ANNOTATION, SPEC_FILE
from tunesmith_operator.training_job.pods import Pod, moment


@dataclass(frozen=True)
class Companion:
    """A ConfigMap, ServiceAccount, Role, RoleBinding or NetworkPolicy that is there and ours."""

    uid: str
    essence: Any
    terminating: bool


@dataclass(frozen=True)
class Run:
    """The batch/v1 Job or the RayJob, as far as decisions need it.

    Attributes:
        kind: which of them.
        end: of a RayJob's trainer, as that of a pod: KubeRay tells it, and removes the pods.
        trains: of a RayJob, whether the trainer has been started.
        cluster: of a RayJob, the name of its RayCluster.
    """

    name: str
    uid: str
    suspended: bool
    terminating: bool
    compute_mark: str
    backoff_limit: int | None
    active_deadline_seconds: int | None
    ttl_seconds: int | None
    failed: int
    created: datetime
    started: datetime | None
    ended: datetime | None
    outcome: Literal["Complete", "Failed"] | None
    outcome_reason: str
    outcome_message: str
    kind: Kind = JOB
    end: Pod | None = None
    trains: bool = False
    cluster: str = ""


@dataclass(frozen=True)
class Observed:
    """A TrainingJob and what surrounds it at one moment.

    Attributes:
        job: the resource; its status as the server has it.
        status: the same status as plain JSON.
        resource_version: of the job as it was seen.
        companions: those that are there and ours, by kind.
        run: the Job or RayJob, when it is there and ours.
        pods: all that carry the job's label, the oldest first.
        outcome: how it ended, as the ConfigMap remembers it; a whole status.
        failures: uids of its RayJobs that have failed, as the ConfigMap remembers them.
        refusal: what the server said when something was to be created.
        conflict: what is in the way.
        leaving: objects of an earlier TrainingJob of this name, or of a deleted Job, that are not gone yet.
    """

    job: TrainingJob
    status: Mapping[str, Any]
    resource_version: str
    companions: Mapping[Kind, Companion]
    run: Run | None
    pods: tuple[Pod, ...]
    outcome: Mapping[str, Any] | None = None
    failures: tuple[str, ...] = ()
    refusal: Refusal | None = None
    conflict: Conflict | None = None
    leaving: tuple[str, ...] = ()

    @property
    def told(self) -> TrainingJobStatus:
        """The status as the server has it; empty when there is none."""
        return self.job.status or TrainingJobStatus()

    @property
    def live_pods(self) -> tuple[Pod, ...]:
        """Pods in which a trainer may be running."""
        return tuple(pod for pod in self.pods if pod.live)

    @property
    def last_failure(self) -> Pod | None:
        """The pod that failed last."""
        if self.run is not None and self.run.end is not None:
            return self.run.end
        failed = [pod for pod in self.pods if pod.phase == "Failed"]
        return max(failed, key=lambda pod: pod.created, default=None)


_ESSENTIAL: Mapping[Kind, tuple[str, ...]] = {
    CONFIG_MAP: (),
    SERVICE_ACCOUNT: ("automountServiceAccountToken",),
    ROLE: ("rules",),
    ROLE_BINDING: ("roleRef", "subjects"),
    NETWORK_POLICY: ("spec",),
}


def essence(kind: Kind, obj: Object) -> Any:
    """What must be so in a companion; compared with what it should be."""
    labels = obj["metadata"].get("labels") or {}
    content: Any = {field: obj.get(field) for field in _ESSENTIAL[kind]}
    if kind is CONFIG_MAP:
        content = {SPEC_FILE: (obj.get("data") or {}).get(SPEC_FILE)}
    return {"labels": {key: value for key, value in labels.items() if "tunesmith" in key}, **content}


def parse_companion(kind: Kind, raw: Object) -> Companion:
    """Read a companion."""
    metadata = raw["metadata"]
    return Companion(metadata["uid"], essence(kind, raw), bool(metadata.get("deletionTimestamp")))


def parse_run(raw: Object) -> Run:
    """Read the batch/v1 Job."""
    metadata, spec, status = raw["metadata"], raw["spec"], raw.get("status") or {}
    ends = [
        one
        for one in status.get("conditions") or ()
        if one["status"] == "True" and one["type"] in ("Complete", "Failed")
    ]
    end = ends[0] if ends else {}
    finished = status.get("completionTime") or end.get("lastTransitionTime")
    return Run(
        name=metadata["name"],
        uid=metadata["uid"],
        suspended=bool(spec.get("suspend")),
        terminating=bool(metadata.get("deletionTimestamp")),
        compute_mark=(metadata.get("annotations") or {}).get(COMPUTE_ANNOTATION, ""),
        backoff_limit=spec.get("backoffLimit"),
        active_deadline_seconds=spec.get("activeDeadlineSeconds"),
        ttl_seconds=spec.get("ttlSecondsAfterFinished"),
        failed=int(status.get("failed") or 0),
        created=moment(metadata["creationTimestamp"]),
        started=moment(status["startTime"]) if status.get("startTime") else None,
        ended=moment(finished) if finished else None,
        outcome=end.get("type"),
        outcome_reason=str(end.get("reason") or ""),
        outcome_message=str(end.get("message") or ""),
    )
