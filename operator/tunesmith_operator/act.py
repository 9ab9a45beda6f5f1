"""Carries out a plan: the only place that writes."""

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from tunesmith_api.fields import ObjectMeta
from tunesmith_operator.kinds import EVENT, FIELD_MANAGER, Kind, Object
from tunesmith_operator.kube import AlreadyExists, ApiError, Kube, Refused
from tunesmith_operator.kube import Conflict as VersionConflict
from tunesmith_operator.obstacles import Conflict, Refusal, belongs_to, conflict_with, is_leaving
from tunesmith_operator.plan import Action, Change, Ensure, News, Remove

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """The resource that a plan is about, as it was observed."""

    kind: Kind
    metadata: ObjectMeta
    resource_version: str


FirstLook = Callable[[Mapping[Kind, Object]], Awaitable[None]]


class Memory(Protocol):
    """Is told what the server answers to our writes."""

    def put(self, kind: Kind, obj: Object) -> object:
        """The object as it is now."""

    def discard(self, kind: Kind, namespace: str, name: str) -> object:
        """The object is not there."""


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

    def __init__(self, kube: Kube, cache: Memory, identity: str) -> None:
        """Nothing is written yet."""
        self._kube, self._cache, self._identity = kube, cache, identity

    async def do(
        self,
        actions: tuple[Action, ...],
        subject: Subject,
        first_look: FirstLook | None = None,
    ) -> None:
        """Carry out actions in order.

        Args:
            actions: of a plan.
            subject: whose plan it is.
            first_look: done before an action that wants it, with what the server has answered to those before
                it; raises Outdated where something forbids to begin.

        Raises:
            InTheWay: one cannot be done now.
            Outdated: the world has moved on.
            ApiError: the server did not answer; the same plan may be tried again.
            NotLeader: this process may not write.
        """
        answers: dict[Kind, Object] = {}
        for action in actions:
            try:
                await self._one(action, subject, first_look, answers)
            except VersionConflict as error:
                raise Outdated(str(error)) from error
            except Refused as error:
                if error.status == 404 and error.reason:  # without one the server has no such kind
                    if isinstance(action, Change):
                        self._cache.discard(action.kind, subject.metadata.namespace, action.name)
                    raise Outdated(str(error)) from error
                raise InTheWay(refusal=_refusal(action, error)) from error

    async def tell(self, subject: Subject, status: Mapping[str, Any]) -> None:
        """Write our part of the status, over the version that was observed.

        Raises:
            Outdated: the resource has changed meanwhile.
            ApiError: the server did not answer or will not.
        """
        metadata = subject.metadata
        body = {
            "apiVersion": subject.kind.api_version,
            "kind": subject.kind.name,
            "metadata": {
                "name": metadata.name,
                "namespace": metadata.namespace,
                "uid": metadata.uid,
                "resourceVersion": subject.resource_version,
            },
            "status": dict(status),
        }
        try:
            self._cache.put(subject.kind, await self._kube.apply(subject.kind, body, "status"))
        except VersionConflict as error:
            raise Outdated(str(error)) from error
        except Refused as error:
            if error.status == 404:
                self._cache.discard(subject.kind, metadata.namespace, metadata.name)
                raise Outdated(str(error)) from error
            raise

    async def post(self, subject: Subject, news: tuple[News, ...], now: datetime) -> None:
        """Post events; what cannot be posted is only logged."""
        for one in news:
            try:
                await self._kube.create(EVENT, self._event(subject, one, now))
            except AlreadyExists:
                continue
            except ApiError as error:
                _log.warning("An event was not posted: %s", error)

    async def _one(
        self, action: Action, subject: Subject, first_look: FirstLook | None, answers: dict[Kind, Object]
    ) -> None:
        """Carry out one action; what the server answers goes into ``answers`` and the cache."""
        namespace = subject.metadata.namespace
        match action:
            case Remove():
                await self._kube.delete(action.kind, namespace, action.name, action.uid)
                return
            case Change():
                answer = await self._kube.patch(action.kind, namespace, action.name, action.body)
            case Ensure(uid=uid) if uid:
                body = {**action.body, "metadata": {**action.body["metadata"], "uid": uid}}
                answer = await self._kube.apply(action.kind, body)
            case Ensure():
                if action.first_look and first_look is not None:
                    await first_look(answers)
                answer = await self._create(action, subject)
        answers[action.kind] = answer
        self._cache.put(action.kind, answer)

    async def _create(self, action: Ensure, subject: Subject) -> Object:
        metadata = action.body["metadata"]
        try:
            return await self._kube.create(action.kind, action.body)
        except AlreadyExists:
            present = await self._kube.get(action.kind, metadata["namespace"], metadata["name"])
        if present is None:
            raise Outdated(f"{action.kind.name} {metadata['name']} came and went")
        if is_leaving(present, subject.kind.name, subject.metadata.name) and not _stays(present, subject):
            raise InTheWay(leaving=(f"the {action.kind.name} {metadata['name']}",))
        if not belongs_to(present, subject.metadata.uid or ""):
            raise InTheWay(conflict=conflict_with(present, action.kind.name))
        return present

    def _event(self, subject: Subject, news: News, now: datetime) -> Object:
        metadata = subject.metadata
        mark = f"{metadata.uid}{subject.resource_version}{news.reason}{news.message}"
        when = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.name,
            "metadata": {
                "name": f"{metadata.name}.{hashlib.sha256(mark.encode()).hexdigest()[:16]}",
                "namespace": metadata.namespace,
            },
            "involvedObject": {
                "apiVersion": subject.kind.api_version,
                "kind": subject.kind.name,
                "name": metadata.name,
                "namespace": metadata.namespace,
                "uid": metadata.uid,
                "resourceVersion": subject.resource_version,
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


def _stays(present: Object, subject: Subject) -> bool:
    return belongs_to(present, subject.metadata.uid or "") and not present["metadata"].get(
        "deletionTimestamp"
    )


def _refusal(action: Action, error: Refused) -> Refusal:
    deed = "deleted" if isinstance(action, Remove) else "created"
    if isinstance(action, Change) or (isinstance(action, Ensure) and action.uid):
        deed = "changed"
    return Refusal(action.kind.name, error.status, error.reason, error.message, deed)
