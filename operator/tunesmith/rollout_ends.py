"""When a command that follows a ModelDeployment is over, and with which exit code; pure."""

from collections.abc import Callable

from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_api.reasons import EXIT_CODES, ModelDeploymentCondition, Reason
from tunesmith_api.status import Condition, ModelDeploymentStatus

End = Callable[[ModelDeployment], int | None]
"""The exit code, or None while it is not over."""
REJECTED = EXIT_CODES[Reason.CANARY_REJECTED]
_SETTLED = (Reason.COMPLETED.value, Reason.CANARY_REJECTED.value)


def condition(deployment: ModelDeployment, kind: ModelDeploymentCondition) -> Condition | None:
    """What the operator says of one aspect."""
    conditions = deployment.status.conditions if deployment.status else ()
    return next((one for one in conditions if one.type == kind.value), None)


def is_observed(deployment: ModelDeployment) -> bool:
    """Whether the status is about the present spec."""
    seen = deployment.status.observed_generation if deployment.status else None
    return seen is not None and seen >= (deployment.metadata.generation or 0)


def is_ready(deployment: ModelDeployment) -> bool:
    """Whether requests are answered."""
    ready = condition(deployment, ModelDeploymentCondition.READY)
    return ready is not None and ready.status == "True"


def observed(deployment: ModelDeployment) -> int | None:
    """The operator has seen the change."""
    return 0 if is_observed(deployment) else None


def serving(deployment: ModelDeployment) -> int | None:
    """Requests are answered."""
    return 0 if is_observed(deployment) and is_ready(deployment) else None


def settled(deployment: ModelDeployment) -> int | None:
    """No revision is on its way; the last one may have been rejected."""
    if not _is_settled(deployment):
        return None
    progressing = condition(deployment, ModelDeploymentCondition.PROGRESSING)
    if progressing is not None and progressing.reason == Reason.CANARY_REJECTED.value:
        return REJECTED
    return 0 if is_ready(deployment) else None


def promoted(revision: str) -> End:
    """The revision has all the requests, or was turned down."""

    def end(deployment: ModelDeployment) -> int | None:
        status = deployment.status or ModelDeploymentStatus()
        if not is_observed(deployment) or (status.canary and status.canary.revision == revision):
            return None
        if status.stable and status.stable.revision == revision:
            return 0 if is_ready(deployment) else None
        progressing = condition(deployment, ModelDeploymentCondition.PROGRESSING)
        if progressing is not None and progressing.reason == Reason.PAUSED.value:
            return None
        last = next((entry for entry in status.history if entry.revision == revision), None)
        return None if last is None else REJECTED

    return end


def rolled_back(revision: str) -> End:
    """The revision gets no requests any more, and another answers."""

    def end(deployment: ModelDeployment) -> int | None:
        status = deployment.status or ModelDeploymentStatus()
        if not is_observed(deployment) or (status.canary and status.canary.revision == revision):
            return None
        if status.stable is None or status.stable.revision == revision:
            return REJECTED if _is_settled(deployment) else None
        return 0 if is_ready(deployment) else None

    return end


def _is_settled(deployment: ModelDeployment) -> bool:
    progressing = condition(deployment, ModelDeploymentCondition.PROGRESSING)
    return (
        is_observed(deployment)
        and deployment.status is not None
        and deployment.status.canary is None
        and progressing is not None
        and progressing.status == "False"
        and progressing.reason in _SETTLED
    )
