"""observe -> decide -> act, for one TrainingJob."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial

from tunesmith_operator.act import Actor, InTheWay, Outdated, Subject
from tunesmith_operator.cache import Cache
from tunesmith_operator.kinds import CONFIG_MAP, TRAINING_JOB, Key, Kind, Object
from tunesmith_operator.kube import Kube, NotLeader
from tunesmith_operator.obstacles import belongs_to
from tunesmith_operator.settings import Settings
from tunesmith_operator.training_job.children import child_name
from tunesmith_operator.training_job.decide import decide
from tunesmith_operator.training_job.observe import Unreadable, observe, outcome_of

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
        subject = Subject(TRAINING_JOB, observed.job.metadata, observed.resource_version)
        plan = decide(observed, self._settings, now)
        try:
            try:
                await self._actor.do(plan.actions, subject, partial(self._first_look, subject))
            except InTheWay as obstacle:
                observed = replace(
                    observed,
                    refusal=obstacle.refusal,
                    conflict=obstacle.conflict,
                    leaving=(*observed.leaving, *obstacle.leaving),
                )
                plan = replace(decide(observed, self._settings, now), actions=())
            if plan.status is not None:
                await self._actor.tell(subject, plan.status)
                _log.info("%s: %s", key, _summary(plan.status), extra={"object": str(key)})
                await self._actor.post(subject, plan.news, now)
                # The answer to our write may hold what no watch has told yet, and its echo will be no news.
                return min(SETTLE_SECONDS, plan.again_after or SETTLE_SECONDS)
        except Outdated as error:
            _log.debug("%s: %s", key, error, extra={"object": str(key)})
            return OUTDATED_SECONDS
        except NotLeader:
            return None
        return plan.again_after

    async def _first_look(self, subject: Subject, answers: Mapping[Kind, Object]) -> None:
        """Read from the server what forbids to begin: the job is gone or over, or its outcome is recorded.

        The record is not read again where the server has just answered with it.
        """
        metadata = subject.metadata
        live = await self._kube.get(TRAINING_JOB, metadata.namespace, metadata.name)
        if live is None:
            self._cache.discard(TRAINING_JOB, metadata.namespace, metadata.name)
            raise Outdated("the TrainingJob is gone")
        if live["metadata"]["resourceVersion"] != subject.resource_version:
            self._cache.put(TRAINING_JOB, live, listed=True)
            raise Outdated("the TrainingJob is newer than what was observed")
        record = answers.get(CONFIG_MAP)
        if record is None:
            record = await self._kube.get(CONFIG_MAP, metadata.namespace, child_name(metadata.name))
        if record is not None and outcome_of(record) is not None and belongs_to(record, metadata.uid or ""):
            self._cache.put(CONFIG_MAP, record, listed=True)
            raise Outdated("the job ended before")


def _summary(status: object) -> str:
    if not isinstance(status, dict):
        return ""
    last = status["conditions"][-1]
    return f"{status['phase']}, {last['reason']}: {last['message']}"
