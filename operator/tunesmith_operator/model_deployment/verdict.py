"""What the status of a ModelDeployment says, and the events that follow from it; pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tunesmith_api.reasons import ModelDeploymentCondition, Reason
from tunesmith_api.status import Condition, RevisionStatus, with_condition
from tunesmith_operator.findings import Finding, finding_of
from tunesmith_operator.kinds import DEPLOYMENT_LABEL
from tunesmith_operator.model_deployment.children import REVISION_LABEL, RUNTIME, host_name
from tunesmith_operator.model_deployment.observed import Observed, Revision
from tunesmith_operator.model_deployment.pods import trouble
from tunesmith_operator.model_deployment.rollout import Move
from tunesmith_operator.obstacles import Refusal
from tunesmith_operator.plan import News
from tunesmith_operator.settings import Settings

_LONGEST_MESSAGE = 1_000


def status_of(observed: Observed, move: Move, settings: Settings, now: datetime) -> dict[str, Any]:
    """The whole status: what server-side apply is given."""
    state, generation = move.state, observed.deployment.metadata.generation
    ready = _ready(observed, move, settings)
    kinds = ModelDeploymentCondition
    conditions = observed.told.conditions
    for kind, answer, finding in (
        (kinds.READY, ready.reason is Reason.SERVING, ready),
        (kinds.PROGRESSING, move.progressing, move.finding),
    ):
        new = Condition(
            type=kind.value,
            status="True" if answer else "False",
            observed_generation=generation,
            last_transition_time=now,
            reason=finding.reason.value,
            message=finding.message[:_LONGEST_MESSAGE],
        )
        conditions = with_condition(conditions, new)
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "conditions": [one.to_dict() for one in conditions],
        "history": [one.to_dict() for one in state.history],
        "replicas": _available(observed, state.stable),
        "selector": f"{DEPLOYMENT_LABEL}={observed.deployment.name}",
    }
    if state.stable is not None:
        status["stable"] = state.stable.to_dict()
        status["url"] = _url(observed, settings)
        status["selector"] = f"{REVISION_LABEL}={state.stable.revision}"
    if state.canary is not None:
        status["canary"] = state.canary.to_dict()
    return status


def _available(observed: Observed, stable: RevisionStatus | None) -> int:
    revision = observed.revisions.get(stable.revision) if stable is not None else None
    return revision.workload.available if revision is not None and revision.workload is not None else 0


def _url(observed: Observed, settings: Settings) -> str:
    deployment = observed.deployment
    if not by_service(observed, settings):
        return f"http://{host_name(deployment, settings)}"
    return f"http://{deployment.name}.{deployment.metadata.namespace}.svc"


def _ready(observed: Observed, move: Move, settings: Settings) -> Finding:
    """Whether requests are answered; the reason is Serving where they are."""
    stable = move.state.stable
    if stable is None:
        return move.finding
    if observed.told.stable is None or observed.told.stable.revision != stable.revision:
        before = _said(observed, ModelDeploymentCondition.READY)
        if before is not None and before.reason == Reason.SERVING.value:
            return Finding(Reason.SERVING, f"{stable.revision} answers.")
        return Finding(Reason.ROLLING_OUT, f"{stable.revision} is put behind the address.")
    revision = observed.revisions.get(stable.revision)
    if revision is None or not revision.ready:
        found = trouble_of(revision) if revision is not None else None
        message = f"No pod of {stable.revision} is ready."
        return found or Finding(Reason.PREDICTOR_UNAVAILABLE, f"{message} It starts again by itself.")
    if not by_service(observed, settings):
        platform, route = observed.platform, observed.route
        if not platform.gateway:
            message = f"The Gateway {settings.gateway} cannot be used: {platform.complaint}"
            return Finding(Reason.GATEWAY_MISSING, message)
        if route is None or not (route.accepted or route.complaint):
            before = _said(observed, ModelDeploymentCondition.READY)
            if before is not None and before.reason == Reason.SERVING.value:
                return Finding(Reason.SERVING, before.message)  # The gateway is about to take a new weight.
            return Finding(Reason.ROLLING_OUT, "The gateway has not taken the route yet.")
        if not route.accepted:
            return Finding(Reason.GATEWAY_MISSING, f"The gateway refuses the route: {route.complaint}")
    if observed.answered:
        return Finding(Reason.PREDICTOR_UNAVAILABLE, f"A prediction was tried: {observed.answered}")
    if observed.answered is None:
        return Finding(Reason.ROLLING_OUT, "No prediction was tried yet.")
    return Finding(Reason.SERVING, f"{stable.revision} answers.")


def _said(observed: Observed, kind: ModelDeploymentCondition) -> Condition | None:
    return next((one for one in observed.told.conditions if one.type == kind.value), None)


def differs(status: Mapping[str, Any], present: Mapping[str, Any]) -> bool:
    """Whether writing the status would change the present one."""
    ours = {"observedGeneration", "conditions", "history", "replicas", "selector", "stable", "url", "canary"}
    there = {key: value for key, value in present.items() if key in ours}
    if not there.get("history"):
        there["history"] = []
    return dict(status) != {"replicas": 0, **there}


def ready_news(status: Mapping[str, Any], present: Mapping[str, Any]) -> tuple[News, ...]:
    """The event for a change of readiness."""
    new, old = _condition(status), _condition(present)
    if new is None or (old is not None and (old["status"], old["reason"]) == (new["status"], new["reason"])):
        return ()
    quiet = (Reason.SERVING.value, Reason.ROLLING_OUT.value, Reason.MODEL_PENDING.value)
    return (News(new["reason"] not in quiet, new["reason"], new["message"]),)


def _condition(status: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((one for one in status.get("conditions") or () if one["type"] == "Ready"), None)


def by_service(observed: Observed, settings: Settings) -> bool:
    """Whether requests come through a plain Service, because there is no gateway for them."""
    return not settings.gateway or not observed.platform.routes


def trouble_of(revision: Revision) -> Finding | None:
    """What keeps a revision from being ready."""
    found = trouble(revision.pods)
    if found is not None or revision.ready:
        return found
    if revision.workload is not None and revision.workload.failure:
        return finding_of(Refusal("Pod", 403, "Forbidden", revision.workload.failure))
    if revision.refusal:
        advice = "Look at KServe's controller."
        if not revision.runtime_found:
            advice = (
                f"The cluster has no ServingRuntime {RUNTIME} that works: install the chart with "
                "serving.enabled=true, or kubectl apply -k manifests/serving; KServe then goes on by itself, "
                "the later the longer it has waited."
            )
        message = f"KServe cannot run it: {revision.refusal.rstrip('.')}. {advice}"
        return Finding(Reason.RUNTIME_MISSING, message)
    return None
