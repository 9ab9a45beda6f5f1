"""From what is observed of a ModelDeployment to what should be done: pure.

The rollout moves first (`rollout.advance`); which InferenceServices there should be and what the route says
follow from its new state, and so does the status.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tunesmith_api.model_deployment import Analysis
from tunesmith_api.reasons import Reason
from tunesmith_operator.findings import Finding, finding_of
from tunesmith_operator.kinds import HTTP_ROUTE, INFERENCE_SERVICE, SERVICE, Kind, Object
from tunesmith_operator.model_deployment.analysis import Judgement, Window, judge, measure
from tunesmith_operator.model_deployment.children import (
    http_route,
    inference_service,
    mark_of,
    probe_name,
    probe_route,
    revision_name,
    stable_service,
)
from tunesmith_operator.model_deployment.observed import Child, Observed, Package
from tunesmith_operator.model_deployment.rollout import (
    Facts,
    Move,
    State,
    Target,
    advance,
    warm,
    warm_for,
    weights,
)
from tunesmith_operator.model_deployment.verdict import (
    by_service,
    differs,
    ready_news,
    status_of,
    trouble_of,
)
from tunesmith_operator.plan import Action, Change, Ensure, Plan, Remove
from tunesmith_operator.settings import Settings

DRAIN_SECONDS = 10.0
"""So long a revision that has left the route still finishes what it was sent."""
BLOCKED_SECONDS = 30.0


def decide(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """What to do about a ModelDeployment now.

    Args:
        observed: what is.
        settings: the installation's.
        now: in UTC.
    """
    if observed.deployment.metadata.deletion_timestamp:
        return Plan()
    state = State.of(observed.told)
    obstacle = _obstacle(observed, settings)
    if obstacle is not None:
        move = Move(state, obstacle, again_after=BLOCKED_SECONDS)
        return _plan(observed, move, (), settings, now)
    move = advance(state, _target(observed, settings), facts_of(observed, settings), _rollout(observed), now)
    if observed.package is None and observed.pending is not None and move.state.canary is None:
        move = Move(move.state, observed.pending, news=move.news, again_after=move.again_after)
    actions, again_after = _actions(observed, move.state, settings, now)
    cooling = warm_for(move.state, _rollout(observed), now)
    soonest = [one for one in (move.again_after, again_after, cooling) if one is not None]
    move = Move(move.state, move.finding, move.progressing, move.news, min(soonest, default=None))
    return _plan(observed, move, actions, settings, now)


def facts_of(observed: Observed, settings: Settings) -> Facts:
    """What the rollout needs to know of the cluster."""
    revisions = observed.revisions
    canary = observed.told.canary
    rollout = _rollout(observed)
    judgement = Judgement("Waiting", "The step begins.")
    if canary is not None and (canary.weight or canary.mirrored):
        judgement = judge(observed.window, rollout.analysis, rollout.minimum_requests)
        if rollout.strategy == "Shadow" and observed.window is not None:
            judgement = _with_shift(judgement, observed.window)
    found = {name: trouble_of(revision) for name, revision in revisions.items()}
    return Facts(
        ready=frozenset(name for name, one in revisions.items() if one.ready),
        complete=frozenset(name for name, one in revisions.items() if one.complete),
        trouble={name: finding for name, finding in found.items() if finding is not None},
        judgement=judgement,
        reached=by_service(observed, settings) or bool(observed.proven),
        mirrors=observed.mirrors,
        obstacle=None if rollout.strategy == "Replace" else _no_gateway(observed, settings),
    )


def _with_shift(judgement: Judgement, window: Window) -> Judgement:
    """A shadow is for comparing: say how far its predictions are from the stable revision's."""
    value, _ = measure(window, Analysis(metric="predictionShift", maximum=1.0))
    if value is None or "predictionShift" in judgement.message:
        return judgement
    return Judgement(judgement.verdict, f"{judgement.message} predictionShift is {value:.3g}.")


def _rollout(observed: Observed) -> Any:
    return observed.deployment.spec.rollout


def _target(observed: Observed, settings: Settings) -> Target | None:
    package = observed.package
    if package is None:
        return None
    revision = revision_name(observed.deployment, package, settings)
    return Target(revision, package.uri, package.digest)


def _obstacle(observed: Observed, settings: Settings) -> Finding | None:
    """What keeps us from doing anything at all."""
    platform, conflict = observed.platform, observed.conflict
    if not settings.predictor_image:
        message = "The operator was started without --predictor-image. Have its administrator set it."
        return Finding(Reason.RUNTIME_MISSING, message)
    if not platform.kserve:
        message = (
            "KServe is not installed: the cluster has no serving.kserve.io/v1beta1 InferenceService. Install "
            "KServe 0.17 or newer; the deployment then goes on by itself."
        )
        return Finding(Reason.RUNTIME_MISSING, message)
    if conflict is not None:
        whose = f"belongs to {conflict.owner}" if conflict.owner else "is not ours"
        message = (
            f"The {conflict.kind} {conflict.name} exists and {whose}. Delete or rename it, or create the "
            "ModelDeployment under another name."
        )
        return Finding(Reason.NAME_CONFLICT, message)
    if observed.leaving:
        return Finding(Reason.QUEUED, f"Waiting until {', '.join(observed.leaving[:3])} is gone.")
    if observed.refusal is not None:
        return finding_of(observed.refusal)
    metric = observed.deployment.spec.replicas.scale_metric
    if metric in ("concurrency", "rps"):
        message = f"replicas.scaleMetric {metric} needs KEDA, which is not set up here. Use cpu or memory."
        return Finding(Reason.SPEC_INVALID, message)
    return None


def _no_gateway(observed: Observed, settings: Settings) -> Finding | None:
    platform = observed.platform
    if not settings.gateway:
        message = (
            "Canary and Shadow need a Gateway, and the operator was started without --gateway. Use strategy "
            "Replace, or have its administrator name one."
        )
    elif not platform.routes:
        message = (
            "Canary and Shadow need the Gateway API, which is not installed. Use strategy Replace, or "
            "install it with a gateway; the rollout then goes on."
        )
    elif not platform.gateway:
        message = f"The Gateway {settings.gateway} cannot be used: {platform.complaint}"
    else:
        return None
    return Finding(Reason.GATEWAY_MISSING, message)


# What there should be


@dataclass(frozen=True)
class _Wish:
    """A revision that should be there."""

    name: str
    package: Package


def _actions(
    observed: Observed, state: State, settings: Settings, now: datetime
) -> tuple[tuple[Action, ...], float | None]:
    wishes = _wishes(observed, state, now)
    actions: list[Action] = []
    for wish in wishes:
        actions += _revision(observed, wish, settings)
    actions += _traffic(observed, state, {wish.name for wish in wishes}, settings)
    removals, again_after = _removals(observed, {wish.name for wish in wishes}, state, now)
    return (*actions, *removals), again_after


def _wishes(observed: Observed, state: State, now: datetime) -> list[_Wish]:
    """The stable revision, the one on its way and the one that is kept warm."""
    ones: list[Any] = [state.stable, state.canary, warm(state, _rollout(observed), now)]
    secret = observed.package.secret if observed.package else ""
    return [_Wish(one.revision, Package(one.uri, one.digest, secret)) for one in ones if one is not None]


def _revision(observed: Observed, wish: _Wish, settings: Settings) -> list[Action]:
    deployment, present = observed.deployment, observed.revisions.get(wish.name)
    body = inference_service(deployment, wish.name, wish.package, settings)
    if present is None:
        return [Ensure(INFERENCE_SERVICE, body)]
    if present.terminating:
        return []
    current = observed.package is not None and wish.name == revision_name(
        deployment, observed.package, settings
    )
    if current:
        return _ensured(INFERENCE_SERVICE, body, present.child)
    # Of an earlier spec: only the number of its pods follows the present one.
    wanted = body["spec"]["predictor"]
    if (present.minimum, present.maximum) == (wanted["minReplicas"], wanted["maxReplicas"]):
        return []
    replicas = {key: wanted[key] for key in ("minReplicas", "maxReplicas")}
    change: Object = {"metadata": {"uid": present.child.uid}, "spec": {"predictor": replicas}}
    return [Change(INFERENCE_SERVICE, wish.name, change)]


def _ensured(kind: Kind, body: Object, present: Child | None) -> list[Action]:
    if present is None:
        return [Ensure(kind, body)]
    if present.untouched and present.mark == mark_of(body):
        return []
    return [Ensure(kind, body, present.uid)]


def _traffic(observed: Observed, state: State, kept: set[str], settings: Settings) -> list[Action]:
    """The route through the gateway, or the plain Service of a cluster without one."""
    if state.stable is None:
        return []
    if by_service(observed, settings):
        return _ensured(SERVICE, stable_service(observed.deployment, state.stable.revision), observed.service)
    ready = frozenset(name for name, one in observed.revisions.items() if one.ready and name in kept)
    canary = state.canary
    mirrors = {}
    if canary is not None and canary.mirrored and canary.revision in ready:
        mirrors = {canary.revision: canary.mirrored}
    probes = _probes(observed, state, settings)
    body = http_route(observed.deployment, weights(state, ready), mirrors, ready, settings)
    return [*_ensured(HTTP_ROUTE, body, observed.route.child if observed.route else None), *probes]


def _probes(observed: Observed, state: State, settings: Settings) -> list[Action]:
    """The route on which mirroring is tried, for as long as nobody knows whether it works."""
    canary, stable = state.canary, state.stable
    wanted = ""
    if _rollout(observed).strategy == "Shadow" and observed.mirrors is None and canary and stable:
        revision = observed.revisions.get(canary.revision)
        wanted = canary.revision if revision is not None and revision.complete else ""
    actions: list[Action] = [
        Remove(HTTP_ROUTE, probe_name(name), route.child.uid)
        for name, route in observed.probes.items()
        if name != wanted
    ]
    if wanted and stable is not None and wanted not in observed.probes:
        body = probe_route(observed.deployment, stable.revision, wanted, settings)
        actions.append(Ensure(HTTP_ROUTE, body))
    return actions


def _removals(
    observed: Observed, kept: set[str], state: State, now: datetime
) -> tuple[list[Action], float | None]:
    """Revisions that nobody needs, once they are out of the route and have finished what they were sent."""
    route = observed.route
    routed = {*route.weights, *route.mirrors, *route.reachable} if route is not None else set()
    routed |= observed.probes.keys()
    actions: list[Action] = []
    waits = []
    for name, revision in observed.revisions.items():
        if name in kept or revision.terminating:
            continue
        left = max((one.when for one in state.history if one.revision == name), default=None)
        drained = left is None or now >= left + timedelta(seconds=DRAIN_SECONDS)
        if name in routed or not drained:
            waits.append(DRAIN_SECONDS / 2)
        else:
            actions.append(Remove(INFERENCE_SERVICE, name, revision.child.uid))
    return actions, min(waits, default=None)


def _plan(
    observed: Observed, move: Move, actions: tuple[Action, ...], settings: Settings, now: datetime
) -> Plan:
    status = status_of(observed, move, settings, now)
    if not differs(status, observed.status):
        return Plan(actions, None, move.news, _soon(observed, move))
    news = (*move.news, *ready_news(status, observed.status))
    return Plan(actions, status, news, _soon(observed, move))


def _soon(observed: Observed, move: Move) -> float | None:
    """What no watch tells of is looked at again: a gateway that does not answer yet."""
    if observed.answered and move.again_after is None:
        return 2.0
    return move.again_after
