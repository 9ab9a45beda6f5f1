"""Kopf's part: it keeps the watches open and hands over what they tell. Handlers remember and enqueue only.

Nothing of Kopf is left on users' objects: no annotations, no finalizers, no events of its own.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from typing import Any

import kopf
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory

from tunesmith_operator.cache import Cache
from tunesmith_operator.kinds import OURS, RESOURCES, TRAINING_JOB, WATCHED, Key, Kind, Object, key_of
from tunesmith_operator.kube import LIST_CHUNK

TASK_SECONDS = 0.1
"""How long Kopf's task for an object waits for more news of it; ours have nothing to wait for."""


class Patience:
    """Delays between attempts, without end: a server that is away for an hour must not end the operator."""

    def __iter__(self) -> Iterator[float]:
        """Seconds: short at first, five from then on."""
        return chain((0.2, 0.5, 1.0, 2.0), repeat(5.0))


def registry_of(
    cache: Cache,
    news: Callable[[Key], None],
    login: Callable[[], Any],
    told: Callable[[Key, str | None], None],
    listed: Callable[[Kind], None],
    kinds: Iterable[Kind],
) -> kopf.OperatorRegistry:
    """Kopf's handlers.

    Args:
        cache: remembers.
        news: of this resource something is new.
        login: gives the connection.
        told: which phase a resource is in, and None when it is gone, for metrics.
        listed: objects of this kind come from a list: what is not in it may have been deleted unseen.
        kinds: to watch; the API server must know them.
    """
    registry = kopf.OperatorRegistry()

    async def on_login(**_: Any) -> Any:
        return await login()

    kopf.on.login(registry=registry)(on_login)
    for kind in kinds:
        handler = _handler(kind, cache, news, told, listed)
        group, _, version = kind.api_version.rpartition("/")
        kopf.on.event(group, version, kind.plural, registry=registry, id=f"remember-{kind.plural}")(handler)
    return registry


def _handler(
    kind: Kind,
    cache: Cache,
    news: Callable[[Key], None],
    told: Callable[[Key, str | None], None],
    listed: Callable[[Kind], None],
) -> Callable[..., Any]:
    async def remember(event: kopf.RawEvent, **_: Any) -> None:
        obj: Any = event["object"]
        change = event["type"]
        if change is None:
            listed(kind)
        if change == "DELETED":
            cache.remove(kind, obj)
        elif not cache.put(kind, obj, listed=change is None):
            return
        owner = key_of(kind, obj)
        if owner is not None:
            news(owner)
            if kind in RESOURCES:
                told(owner, None if change == "DELETED" else _phase(kind, obj))

    return remember


def _phase(kind: Kind, obj: Object) -> str:
    """A word for how a resource does, for metrics."""
    status = obj.get("status") or {}
    if kind is TRAINING_JOB:
        return status.get("phase") or "New"
    conditions = {one["type"]: one["status"] for one in status.get("conditions") or ()}
    return "Ready" if conditions.get("Ready") == "True" else "NotReady"


class NoMemory(kopf.DiffBaseStorage, kopf.ProgressStorage):
    """Nothing is kept on objects of what handlers saw and did: ours have no use for it.

    Kopf's own would copy each object four times for it, which was a quarter of the operator's work.
    """

    def build(self, **_: Any) -> Any:
        """Nothing of an object is to be compared with an earlier version."""
        return {}

    def fetch(self, **_: Any) -> Any:
        """Nothing was kept."""

    def store(self, **_: Any) -> None:
        """Keep nothing."""

    def purge(self, **_: Any) -> None:
        """There is nothing to remove."""

    def touch(self, **_: Any) -> None:
        """Leave the object as it is."""

    def clear(self, *, essence: Any) -> Any:
        """There is nothing of ours in it."""
        return essence


class NoRecords(ResourceMemories):
    """No record of each object for daemons, timers and indices, of which we have none.

    Kopf's take a kilobyte each: 21 MB for 3,000 jobs with all that belongs to them.
    """

    async def recall(self, raw_body: kopf.RawBody, **how: Any) -> ResourceMemory:
        """A record for this event alone."""
        return await super().recall(raw_body, **{**how, "ephemeral": True})


def settings_of() -> kopf.OperatorSettings:
    """Kopf's settings: quiet, no memory, no peering, children by label only, lists in chunks."""
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = settings.persistence.progress_storage = NoMemory()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.watching.chunk_size = LIST_CHUNK
    settings.queueing.idle_timeout = TASK_SECONDS
    settings.networking.error_backoffs = Patience()
    settings.networking.connect_timeout = 10.0
    settings.process.ultimate_exiting_timeout = 10.0
    for kind in WATCHED:
        group, _, version = kind.api_version.rpartition("/")
        settings.watching.label_selectors[group, version, kind.plural] = OURS
    return settings
