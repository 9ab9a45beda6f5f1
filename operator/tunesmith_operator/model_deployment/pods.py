"""What a predictor's pod says, and what a person should know about it."""

from dataclasses import dataclass
from datetime import datetime

from tunesmith_api.reasons import Reason, reason_named, reason_of_exit_code
from tunesmith_operator.findings import Finding
from tunesmith_operator.kinds import Object
from tunesmith_operator.parts import KILLED, PULL_REASONS

FETCH = "storage-initializer"
"""KServe's name for the init container that brings the model; this one is ours."""
SERVE = "kserve-container"
"""KServe's name for the container that predicts."""
FINAL = frozenset(
    {
        Reason.DIGEST_MISMATCH,
        Reason.PACKAGE_INVALID,
        Reason.MODEL_UNVERIFIED,
        Reason.SELF_TEST_FAILED,
        Reason.SPEC_INVALID,
    }
)
"""What a predictor will say again however often it starts: the package is not what it should be."""


@dataclass(frozen=True)
class Container:
    """One container's state: what it waits for, how it ended last."""

    waiting: str = ""
    message: str = ""
    exit_code: int | None = None
    exit_reason: str = ""
    last_words: str = ""
    restarts: int = 0


@dataclass(frozen=True)
class PredictorPod:
    """A predictor's pod, as far as decisions need it."""

    name: str
    uid: str
    address: str
    created: datetime
    ready: bool
    terminating: bool = False
    unschedulable: str = ""
    fetch: Container = Container()
    serve: Container = Container()


def parse_pod(raw: Object) -> PredictorPod:
    """Read the pod's status."""
    metadata, status = raw["metadata"], raw.get("status") or {}
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled") or {}
    waits = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    return PredictorPod(
        name=metadata["name"],
        uid=metadata["uid"],
        address=str(status.get("podIP") or ""),
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        ready=(conditions.get("Ready") or {}).get("status") == "True",
        terminating=bool(metadata.get("deletionTimestamp")),
        unschedulable=str(scheduled.get("message") or "no node fits") if waits else "",
        fetch=_container(status.get("initContainerStatuses"), FETCH),
        serve=_container(status.get("containerStatuses"), SERVE),
    )


def _container(statuses: list[Object] | None, name: str) -> Container:
    found: Object = next((one for one in statuses or () if one.get("name") == name), {})
    state = found.get("state") or {}
    waiting = state.get("waiting") or {}
    # A container that is started again waits, and its end stands in the last state.
    ended = state.get("terminated") or (found.get("lastState") or {}).get("terminated") or {}
    return Container(
        waiting=str(waiting.get("reason") or ""),
        message=str(waiting.get("message") or ""),
        exit_code=ended.get("exitCode"),
        exit_reason=str(ended.get("reason") or ""),
        last_words=str(ended.get("message") or ""),
        restarts=int(found.get("restartCount") or 0),
    )


def trouble(pods: tuple[PredictorPod, ...]) -> Finding | None:
    """What keeps a revision's pods from being ready; None when nothing is known to be in their way."""
    for pod in pods:
        if pod.ready or pod.terminating:
            continue
        found = _unschedulable(pod) or _waiting(pod, pod.fetch) or _waiting(pod, pod.serve)
        found = found or _ended(pod, pod.fetch, FETCH) or _ended(pod, pod.serve, SERVE)
        if found is not None:
            return found
    return None


def _unschedulable(pod: PredictorPod) -> Finding | None:
    if not pod.unschedulable:
        return None
    return Finding(
        Reason.UNSCHEDULABLE,
        f"No node takes the pod {pod.name}: {pod.unschedulable.rstrip('.')}. Free or add such a node, or ask "
        "for less in spec.compute.",
    )


def _waiting(pod: PredictorPod, container: Container) -> Finding | None:
    said = container.message.rstrip(".")
    if container.waiting in PULL_REASONS:
        return Finding(
            Reason.IMAGE_PULL_FAILED,
            f"The predictor's image cannot be pulled ({container.waiting}): {said}. Check the operator's "
            "--predictor-image and the credentials of its registry.",
        )
    if container.waiting == "CreateContainerConfigError":
        return Finding(
            Reason.SECRET_MISSING,
            f"The pod {pod.name} cannot start: {said}. Create the Secret with which the model is read, with "
            "the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; the pod then starts by itself.",
        )
    if container.waiting in ("CreateContainerError", "RunContainerError"):
        return Finding(
            Reason.INTERNAL_ERROR,
            f"A container of {pod.name} cannot be started ({container.waiting}): {said}. Ask the "
            "administrator of the node.",
        )
    return None


def _ended(pod: PredictorPod, container: Container, name: str) -> Finding | None:
    code = container.exit_code
    if not code:
        return None
    if container.exit_reason == "OOMKilled" or code == KILLED:
        return Finding(
            Reason.OUT_OF_MEMORY,
            f"The predictor in {pod.name} needed more memory than its limit and was killed. Raise "
            "spec.compute.memory.",
        )
    reason = reason_of_exit_code(code)
    word, _, rest = container.last_words.strip().partition(": ")
    said = rest.strip() if reason_named(word) is not None else container.last_words.strip()
    return Finding(
        reason or Reason.INTERNAL_ERROR,
        said
        or f"The container {name} of {pod.name} ended with exit code {code}; see "
        f"kubectl logs {pod.name} -c {name}.",
    )
