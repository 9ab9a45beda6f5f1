"""Carries out a plan: the only place that writes."""

import hashlib
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tunesmith_operator.cache import Cache
from tunesmith_operator.kinds import CONFIG_MAP, EVENT, FIELD_MANAGER, TRAINING_JOB, Object
from tunesmith_operator.kube import AlreadyExists, ApiError, Kube, Refused
from tunesmith_operator.kube import Conflict as VersionConflict
from tunesmith_operator.training_job.children import child_name
from tunesmith_operator.training_job.observe import conflict_with, outcome_of
from tunesmith_operator.training_job.observed import Conflict, Observed, Refusal, belongs_to, is_leaving
from tunesmith_operator.training_job.plan import Action, Change, Ensure, News, Remove

_log = logging.getLogger(__name__)


class Outdated(Exception):
    """What was observed is not so any more; look again."""


class InTheWay(Exception):
    """An action could not be done, and the reason is for the status.

    Attributes:
        refusal: what the server said, or None.
        conflict: whose object has the name, or None.
        leaving: what will be gone soon, or empty.
    """

    def __init__(
        self, refusal: Refusal | None = None, conflict: Conflict | None = None, leaving: tuple[str, ...] = ()
    ) -> None:
        """One of the three."""
        super().__init__(refusal or conflict or leaving)
        self.refusal, self.conflict, self.leaving = refusal, conflict, leaving


class Actor:
    """Writes what plans say.

    Args:
        kube: behind the fence.
        cache: given what the server answers, so that a late echo of our own write does not count.
        identity: of this process, for events.
    """

    def __init__(self, kube: Kube, cache: Cache, identity: str) -> None:
        """Nothing is written yet."""
        self._kube, self._cache, self._identity = kube, cache, identity

    async def do(self, actions: tuple[Action, ...], observed: Observed) -> None:
        """Carry out actions in order.

        Raises:
            InTheWay: one cannot be done now.
            Outdated: the world has moved on.
            ApiError: the server did not answer; the same plan may be tried again.
            NotLeader: this process may not write.
        """
        for action in actions:
            try:
                await self._one(action, observed)
            except VersionConflict as error:
                raise Outdated(str(error)) from error
            except Refused as error:
                if error.status == 404:
                    if isinstance(action, Change):
                        self._cache.discard(action.kind, observed.job.metadata.namespace, action.name)
                    raise Outdated(str(error)) from error
                raise InTheWay(refusal=_refusal(action, error)) from error

    async def tell(self, observed: Observed, status: Mapping[str, Any]) -> None:
        """Write our part of the status, over the version that was observed.

        Raises:
            Outdated: the job has changed meanwhile.
            ApiError: the server did not answer or will not.
        """
        metadata = observed.job.metadata
        body = {
            "apiVersion": TRAINING_JOB.api_version,
            "kind": TRAINING_JOB.name,
            "metadata": {
                "name": metadata.name,
                "namespace": metadata.namespace,
                "uid": metadata.uid,
                "resourceVersion": observed.resource_version,
            },
            "status": dict(status),
        }
        try:
            self._cache.put(TRAINING_JOB, await self._kube.apply(TRAINING_JOB, body, "status"))
        except VersionConflict as error:
            raise Outdated(str(error)) from error
        except Refused as error:
            if error.status == 404:
                self._cache.discard(TRAINING_JOB, metadata.namespace, metadata.name)
                raise Outdated(str(error)) from error
            raise

    async def post(self, observed: Observed, news: tuple[News, ...], now: datetime) -> None:
        """Post events; what cannot be posted is only logged."""
        for one in news:
            try:
                await self._kube.create(EVENT, self._event(observed, one, now))
            except AlreadyExists:
                continue
            except ApiError as error:
                _log.warning("An event was not posted: %s", error)

    async def _one(self, action: Action, observed: Observed) -> None:
        namespace = observed.job.metadata.namespace
        match action:
            case Ensure(uid=uid) if uid:
                body = {**action.body, "metadata": {**action.body["metadata"], "uid": uid}}
                self._cache.put(action.kind, await self._kube.apply(action.kind, body))
            case Ensure():
                if action.first_look:
                    await self._look(observed)
                await self._create(action, observed)
            case Change():
                changed = await self._kube.patch(action.kind, namespace, action.name, action.body)
                self._cache.put(action.kind, changed)
            case Remove():
                await self._kube.delete(action.kind, namespace, action.name, action.uid)

    async def _create(self, action: Ensure, observed: Observed) -> None:
        metadata = action.body["metadata"]
        try:
            self._cache.put(action.kind, await self._kube.create(action.kind, action.body))
            return
        except AlreadyExists:
            present = await self._kube.get(action.kind, metadata["namespace"], metadata["name"])
        if present is None:
            raise Outdated(f"{action.kind.name} {metadata['name']} came and went")
        if is_leaving(present, observed.job.name) and not _stays(present, observed):
            raise InTheWay(leaving=(f"the {action.kind.name} {metadata['name']}",))
        if not belongs_to(present, observed.job.metadata.uid or ""):
            raise InTheWay(conflict=conflict_with(present, action.kind.name))
        self._cache.put(action.kind, present)

    async def _look(self, observed: Observed) -> None:
        """Read from the server what forbids to begin: the job is gone or over, or its outcome is recorded."""
        metadata = observed.job.metadata
        live = await self._kube.get(TRAINING_JOB, metadata.namespace, metadata.name)
        if live is None:
            self._cache.discard(TRAINING_JOB, metadata.namespace, metadata.name)
            raise Outdated("the TrainingJob is gone")
        if live["metadata"]["resourceVersion"] != observed.resource_version:
            self._cache.put(TRAINING_JOB, live, listed=True)
            raise Outdated("the TrainingJob is newer than what was observed")
        record = await self._kube.get(CONFIG_MAP, metadata.namespace, child_name(metadata.name))
        if record is not None and outcome_of(record) is not None and belongs_to(record, metadata.uid or ""):
            self._cache.put(CONFIG_MAP, record, listed=True)
            raise Outdated("the job ended before")

    def _event(self, observed: Observed, news: News, now: datetime) -> Object:
        metadata = observed.job.metadata
        mark = f"{metadata.uid}{observed.resource_version}{news.reason}{news.message}"
        when = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.name,
            "metadata": {
                "name": f"{metadata.name}.{hashlib.sha256(mark.encode()).hexdigest()[:16]}",
                "namespace": metadata.namespace,
            },
            "involvedObject": {
                "apiVersion": TRAINING_JOB.api_version,
                "kind": TRAINING_JOB.name,
                "name": metadata.name,
                "namespace": metadata.namespace,
                "uid": metadata.uid,
                "resourceVersion": observed.resource_version,
            },
            "type": "Warning" if news.warning else "Normal",
            "reason": news.reason,
            "message": news.message[:1_000],
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": self._identity,
            "firstTimestamp": when,
            "lastTimestamp": when,
            "count": 1,
        }


def _stays(present: Object, observed: Observed) -> bool:
    return belongs_to(present, observed.job.metadata.uid or "") and not present["metadata"].get(
        "deletionTimestamp"
    )


def _refusal(action: Action, error: Refused) -> Refusal:
    deed = "deleted" if isinstance(action, Remove) else "created"
    if isinstance(action, Change) or (isinstance(action, Ensure) and action.uid):
        deed = "changed"
    return Refusal(action.kind.name, error.status, error.reason, error.message, deed)
