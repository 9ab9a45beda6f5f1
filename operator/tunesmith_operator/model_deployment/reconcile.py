"""observe -> decide -> act, for one ModelDeployment."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from tunesmith_operator.act import Actor, InTheWay, Outdated, Subject
from tunesmith_operator.kinds import MODEL_DEPLOYMENT, Key, Kind
from tunesmith_operator.kube import Kube, NotLeader
from tunesmith_operator.model_deployment.children import host_name, probe_host
from tunesmith_operator.model_deployment.decide import decide
from tunesmith_operator.model_deployment.observe import Observer, Unreadable
from tunesmith_operator.model_deployment.observed import Observed
from tunesmith_operator.model_deployment.predictors import Meter, Prober, addresses
from tunesmith_operator.model_deployment.verdict import by_service
from tunesmith_operator.model_deployment.written import Written
from tunesmith_operator.plan import Plan
from tunesmith_operator.settings import Settings

_log = logging.getLogger(__name__)
OUTDATED_SECONDS = 0.2
SETTLE_SECONDS = 0.2
PROOFS = 6
"""Answers in a row, each on a connection of its own, so that every proxy of a gateway is likely asked."""
MIRROR_RETRY_SECONDS = 600.0
"""After so long a gateway that copied nothing is tried again."""
_STATE = ("stable", "canary", "history")


class DeploymentReconciler:
    """Brings one ModelDeployment after another to where its spec says.

    Args:
        kube: behind the fence.
        settings: the installation's.
        identity: of this process.
        clock: the time, in UTC.
        leads: whether this process may write.
        serves: whether the server has a kind.
        meter: reads what predictors count.
        prober: asks for predictions.
    """

    def __init__(
        self,
        kube: Kube,
        settings: Settings,
        identity: str,
        clock: Callable[[], datetime],
        leads: Callable[[], bool],
        serves: Callable[[Kind], bool],
        meter: Meter,
        prober: Prober,
    ) -> None:
        """Nothing is done yet."""
        self._settings, self._clock, self._leads = settings, clock, leads
        self._meter, self._prober = meter, prober
        written = Written()
        self._observer = Observer(kube, settings, serves, written)
        self._actor = Actor(kube, written, identity)
        self._answered: dict[Key, str] = {}
        self._mirrors: tuple[bool, datetime] | None = None

    def forget(self, key: Key) -> None:
        """A deployment is gone."""
        self._meter.forget(key)
        self._answered.pop(key, None)

    async def reconcile(self, key: Key) -> float | None:
        """Look at a deployment and do what is to be done.

        Returns:
            The seconds after which to look again whatever happens, or None.

        Raises:
            ApiError: the server did not answer, or will not; to be tried again, later and later.
        """
        if not self._leads():
            return None
        try:
            observed = await self._observer.observe(key)
        except Unreadable as error:
            _log.error("%s cannot be read by this version: %s", key, error, extra={"object": str(key)})
            return None
        if observed is None:
            self.forget(key)
            return None
        observed = await self._ask(key, observed)
        now = self._clock()
        plan = decide(observed, self._settings, now)
        subject = Subject(MODEL_DEPLOYMENT, observed.deployment.metadata, observed.resource_version)
        try:
            if _moves(plan, observed):
                # What was decided is written down before it is done: whoever takes over goes on from there.
                await self._tell(key, subject, plan, now)
                await self._do(plan, observed, subject, now)
                return SETTLE_SECONDS
            plan = await self._do(plan, observed, subject, now)
            if plan.status is not None:
                await self._tell(key, subject, plan, now)
                return min(SETTLE_SECONDS, plan.again_after or SETTLE_SECONDS)
        except Outdated as error:
            _log.debug("%s: %s", key, error, extra={"object": str(key)})
            return OUTDATED_SECONDS
        except NotLeader:
            return None
        return plan.again_after

    async def _ask(self, key: Key, observed: Observed) -> Observed:
        """What only the predictors can tell."""
        canary, stable = observed.told.canary, observed.told.stable
        if canary is None or stable is None or not (canary.weight or canary.mirrored):
            self._meter.forget(key)
        else:
            pods = {name: one.pods for name, one in observed.revisions.items()}
            window = await self._meter.window(key, canary, stable.revision, pods)
            observed = replace(observed, window=window)
        observed = replace(observed, proven=await self._reached(observed))
        observed = replace(observed, mirrors=await self._copies(observed))
        return replace(observed, answered=await self._answer(key, observed))

    async def _reached(self, observed: Observed) -> bool | None:
        """Whether the gateway leads requests with the canary's header to it: then it knows its pods.

        A pod that is ready is known to the gateway a moment later, and requests sent in between are lost.
        """
        canary, route, address = observed.told.canary, observed.route, observed.platform.address
        if canary is None or canary.weight or canary.mirrored or not address:
            return None
        if route is None or not route.accepted or canary.revision not in route.reachable:
            return None
        revision = observed.revisions.get(canary.revision)
        if revision is None or not revision.complete:
            return None
        host, name = host_name(observed.deployment, self._settings), observed.deployment.name
        for _ in range(PROOFS):
            if await self._prober.ask(address, host, name, canary.revision):
                return False
        return True

    async def _copies(self, observed: Observed) -> bool | None:
        """Whether the gateway copies requests, once it was tried on a route that nobody uses."""
        now = self._clock()
        if self._mirrors is not None:
            copies, when = self._mirrors
            if copies or now - when < timedelta(seconds=MIRROR_RETRY_SECONDS):
                return copies
            self._mirrors = None
        canary = observed.told.canary
        probe = observed.probes.get(canary.revision) if canary is not None else None
        address = observed.platform.address
        if canary is None or probe is None or not probe.accepted or not address:
            return None
        pods = observed.revisions[canary.revision].pods if canary.revision in observed.revisions else ()
        host, name = probe_host(observed.deployment, self._settings), observed.deployment.name
        self._mirrors = await self._prober.mirrors(pods, address, host, name), now
        return self._mirrors[0]

    async def _answer(self, key: Key, observed: Observed) -> str | None:
        """Whether predictions are answered; asked until they are, and again for each new stable revision."""
        stable = observed.told.stable
        revision = observed.revisions.get(stable.revision) if stable is not None else None
        if stable is None or revision is None or not revision.ready:
            self._answered.pop(key, None)
            return None
        if self._answered.get(key) == stable.revision:
            return ""
        deployment, settings = observed.deployment, self._settings
        host = host_name(deployment, settings)
        if not by_service(observed, settings):
            if observed.route is None or not observed.route.accepted or not observed.platform.address:
                return None
            address = observed.platform.address
        else:
            found = addresses(revision.pods)
            if not found:
                return None
            address = host = found[0]
        complaint = await self._prober.ask(address, host, deployment.name)
        if not complaint:
            self._answered[key] = stable.revision
        return complaint

    async def _do(self, plan: Plan, observed: Observed, subject: Subject, now: datetime) -> Plan:
        """Carry out the actions; a plan that says why where they cannot be."""
        try:
            await self._actor.do(plan.actions, subject)
        except InTheWay as obstacle:
            hindered = replace(
                observed,
                refusal=obstacle.refusal,
                conflict=obstacle.conflict,
                leaving=(*observed.leaving, *obstacle.leaving),
            )
            return replace(decide(hindered, self._settings, now), actions=())
        return plan

    async def _tell(self, key: Key, subject: Subject, plan: Plan, now: datetime) -> None:
        if plan.status is None:
            return
        await self._actor.tell(subject, plan.status)
        last = plan.status["conditions"][-1]
        _log.info("%s: %s: %s", key, last["reason"], last["message"], extra={"object": str(key)})
        await self._actor.post(subject, plan.news, now)


def _moves(plan: Plan, observed: Observed) -> bool:
    """Whether the rollout goes a step."""
    if plan.status is None:
        return False
    return any((plan.status.get(part) or None) != (observed.status.get(part) or None) for part in _STATE)
