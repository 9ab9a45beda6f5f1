"""What a pod's status says, and what a person should know about it."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from tunesmith_api.reasons import Reason, reason_of_exit_code
from tunesmith_api.status import TrainingJobStatus
from tunesmith_operator.findings import Finding
from tunesmith_operator.kinds import Object
from tunesmith_operator.parts import KILLED, PULL_REASONS
from tunesmith_operator.training_job.children import CONTAINER

LOST = ("Unknown", "ContainerStatusUnknown")
"""What container runtimes and the kubelet say of a container that they cannot find after a restart."""


@dataclass(frozen=True)
class Exit:
    """How a trainer ended: its exit code, the kubelet's word for it, and its own last words."""

    code: int
    reason: str
    said: str
    at: datetime | None

    @property
    def result(self) -> dict[str, Any]:
        """The trainer's termination message; empty when it left none."""
        try:
            said = json.loads(self.said)
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}

    @property
    def model(self) -> dict[str, Any]:
        """The status's ``model`` and ``reportUri`` where the last words hold them; nothing when unsound."""
        said = self.result.get("status")
        if not isinstance(said, dict):
            return {}
        named = {field: said[field] for field in ("model", "reportUri") if field in said}
        try:
            TrainingJobStatus.model_validate(named)
        except ValidationError:
            return {}
        return named


@dataclass(frozen=True)
class Pod:
    """A trainer's pod, as far as decisions need it."""

    name: str
    uid: str
    phase: str
    created: datetime
    started: datetime | None = None
    node: str = ""
    terminating: bool = False
    unschedulable: str = ""
    waiting_reason: str = ""
    waiting_message: str = ""
    ended: Exit | None = None
    disruption: str = ""
    reason: str = ""
    message: str = ""
    role: str = ""
    """In a RayJob: ``head`` or ``worker``."""

    @property
    def live(self) -> bool:
        """Whether a trainer may be running in it."""
        return self.phase not in ("Succeeded", "Failed")


def parse_pod(raw: Object) -> Pod:
    """Read the pod's status."""
    metadata, status = raw["metadata"], raw.get("status") or {}
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    container: Object = next(
        (one for one in status.get("containerStatuses") or () if one.get("name") == CONTAINER), {}
    )
    state = container.get("state") or {}
    waiting, ended = state.get("waiting") or {}, state.get("terminated")
    scheduled = conditions.get("PodScheduled") or {}
    disruption = conditions.get("DisruptionTarget") or {}
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        phase=status.get("phase") or "Pending",
        created=moment(metadata["creationTimestamp"]),
        started=moment(status["startTime"]) if status.get("startTime") else None,
        node=str((raw.get("spec") or {}).get("nodeName") or ""),
        terminating=bool(metadata.get("deletionTimestamp")),
        unschedulable=str(scheduled.get("message") or "no node fits")
        if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
        else "",
        waiting_reason=str(waiting.get("reason") or ""),
        waiting_message=str(waiting.get("message") or ""),
        ended=None if ended is None else _exit(ended),
        disruption=str(disruption.get("message") or disruption.get("reason") or "")
        if disruption.get("status") == "True"
        else "",
        reason=str(status.get("reason") or ""),
        message=str(status.get("message") or ""),
        role=str((metadata.get("labels") or {}).get("ray.io/node-type") or ""),
    )


def moment(text: str) -> datetime:
    """A metav1.Time."""
    return datetime.fromisoformat(text)


def blocker(pod: Pod) -> Finding | None:
    """Why a pod that should run does not, or None when nothing is known to be in its way."""
    if not pod.live:
        return None
    if pod.unschedulable:
        return Finding(
            Reason.UNSCHEDULABLE,
            f"No node takes the pod {pod.name}: {pod.unschedulable.rstrip('.')}. Free or add such a node, or "
            "suspend the job and ask for less in spec.compute.",
        )
    if pod.waiting_reason in PULL_REASONS:
        return Finding(
            Reason.IMAGE_PULL_FAILED,
            f"The trainer's image cannot be pulled ({pod.waiting_reason}): "
            f"{pod.waiting_message.rstrip('.')}. Check the operator's --trainer-image and the credentials of "
            "its registry.",
        )
    if pod.waiting_reason == "CreateContainerConfigError":
        return Finding(
            Reason.SECRET_MISSING,
            f"The pod {pod.name} cannot start: {pod.waiting_message.rstrip('.')}. Create the Secret that the "
            "spec names, with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; the pod then starts by "
            "itself.",
        )
    if pod.waiting_reason in ("CreateContainerError", "RunContainerError"):
        return Finding(
            Reason.INTERNAL_ERROR,
            f"The container of {pod.name} cannot be started ({pod.waiting_reason}): "
            f"{pod.waiting_message.rstrip('.')}. Ask the administrator of the node.",
        )
    return None


def cause_of_end(pod: Pod) -> Finding:
    """Why a pod failed, by what it said itself, its exit code, or what the kubelet said."""
    code = pod.ended.code if pod.ended else None
    reason = reason_of_exit_code(code) if code is not None else None
    result = pod.ended.result if pod.ended else {}
    if reason is not None and reason is not Reason.INTERRUPTED:
        said = " ".join(str(result.get(part) or "") for part in ("message", "nextStep")).strip()
        return Finding(reason, said or f"The trainer ended with exit code {code}; see its log.")
    if pod.ended and pod.ended.reason in LOST:
        return Finding(
            Reason.INTERRUPTED,
            f"The pod {pod.name} was lost when its node or the container runtime was restarted; the job goes "
            "on in another.",
        )
    if pod.ended and (pod.ended.reason == "OOMKilled" or code == KILLED):
        return Finding(
            Reason.OUT_OF_MEMORY,
            f"The trainer in {pod.name} needed more memory than its limit and was killed. Suspend the job, "
            "raise spec.compute.memory and resume it; finished trials are kept.",
        )
    if pod.reason == "Evicted" or pod.disruption:
        why = pod.message or pod.disruption or "the node was drained or ran out of something"
        return Finding(
            Reason.EVICTED,
            f"The pod {pod.name} had to leave its node: {why.rstrip('.')}. It goes on in another pod.",
        )
    if reason is Reason.INTERRUPTED:
        return Finding(reason, f"The pod {pod.name} was asked to stop; the job goes on in another.")
    how = f"exit code {code}" if code is not None else "no exit code"
    return Finding(
        Reason.INTERNAL_ERROR,
        f"The pod {pod.name} ended with {how}"
        + (f" ({pod.message.rstrip('.')})" if pod.message else "")
        + f"; see kubectl logs {pod.name}.",
    )


def _exit(terminated: Object) -> Exit:
    return Exit(
        code=int(terminated.get("exitCode", -1)),
        reason=str(terminated.get("reason") or ""),
        said=str(terminated.get("message") or ""),
        at=moment(terminated["finishedAt"]) if terminated.get("finishedAt") else None,
    )
