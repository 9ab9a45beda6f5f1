"""observe -> decide -> act, for one TrainingJob."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from tunesmith_operator.cache import Cache
from tunesmith_operator.kinds import Key
from tunesmith_operator.kube import Kube, NotLeader
from tunesmith_operator.settings import Settings
from tunesmith_operator.training_job.act import Actor, InTheWay, Outdated
from tunesmith_operator.training_job.decide import decide
from tunesmith_operator.training_job.observe import Unreadable, observe

_log = logging.getLogger(__name__)
OUTDATED_SECONDS = 0.2
SETTLE_SECONDS = 0.2


class Reconciler:
    """Brings one TrainingJob after another to where its spec says.

    Args:
        kube: behind the fence.
        cache: what the watches told.
        settings: the installation's.
        identity: of this process.
        clock: the time, in UTC.
        leads: whether this process may write.
    """

    def __init__(
        self,
        kube: Kube,
        cache: Cache,
        settings: Settings,
        identity: str,
        clock: Callable[[], datetime],
        leads: Callable[[], bool],
    ) -> None:
        """Nothing is done yet."""
        self._kube, self._cache, self._settings, self._clock = kube, cache, settings, clock
        self._leads = leads
        self._actor = Actor(kube, cache, identity)

    async def reconcile(self, key: Key) -> float | None:
        """Look at a job and do what is to be done.

        Returns:
            The seconds after which to look again whatever happens, or None.

        Raises:
            ApiError: the server did not answer, or will not; to be tried again, later and later.
        """
        if not self._leads():
            return None
        now = self._clock()
        try:
            observed = await observe(key, self._cache, self._kube, now)
        except Unreadable as error:
            _log.error("%s cannot be read by this version: %s", key, error, extra={"object": str(key)})
            return None
        if observed is None:
            return None
        plan = decide(observed, self._settings, now)
        try:
            try:
                await self._actor.do(plan.actions, observed)
            except InTheWay as obstacle:
                observed = replace(
                    observed,
                    refusal=obstacle.refusal,
                    conflict=obstacle.conflict,
                    leaving=(*observed.leaving, *obstacle.leaving),
                )
                plan = replace(decide(observed, self._settings, now), actions=())
            if plan.status is not None:
                await self._actor.tell(observed, plan.status)
                _log.info("%s: %s", key, _summary(plan.status), extra={"object": str(key)})
                await self._actor.post(observed, plan.news, now)
                # The answer to our write may hold what no watch has told yet, and its echo will be no news.
                return min(SETTLE_SECONDS, plan.again_after or SETTLE_SECONDS)
        except Outdated as error:
            _log.debug("%s: %s", key, error, extra={"object": str(key)})
            return OUTDATED_SECONDS
        except NotLeader:
            return None
        return plan.again_after


def _summary(status: object) -> str:
    if not isinstance(status, dict):
        return ""
    last = status["conditions"][-1]
    return f"{status['phase']}, {last['reason']}: {last['message']}"
