"""One leader among the replicas, by a Lease; and a fence, so that a leader that lost it writes nothing.

As client-go's leader election: a follower takes the lease when it has not changed for its whole duration by
the follower's own clock, so clocks need not agree. What is added is the fence: every write asks for the
seconds that are left, counted from *before* the last renewal was sent, by a clock that goes on while the
process is stopped. No write is sent, or waited for, beyond that.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tunesmith_api.reasons import TunesmithError
from tunesmith_operator.kinds import LEASE, Object
from tunesmith_operator.kube import AlreadyExists, ApiError, Conflict, Kube, NotLeader

_log = logging.getLogger(__name__)


def boot_clock() -> float:
    """Seconds that go on while the process or the machine is stopped, and that nobody can set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class HistoryWentBack(TunesmithError):
    """The cluster's store was restored from an older state: nothing that this process remembers counts."""


@dataclass(frozen=True)
class Terms:
    """How long a lease lasts and how it is kept, in seconds."""

    duration: float = 15.0
    """After so long without a renewal another may take it."""
    renewal: float = 3.0
    """How often the leader renews it."""
    retry: float = 2.0
    """How often a follower looks."""
    margin: float = 2.0
    """The leader stops writing so long before the lease ends."""


@dataclass(frozen=True)
class Sighting:
    """A version of the lease and when this process first saw it."""

    version: str
    holder: str
    duration: float
    since: float

    def expired(self, now: float) -> bool:
        """Whether its holder let it run out."""
        return not self.holder or now >= self.since + self.duration


class Elector:
    """Keeps the lease, or waits for it.

    Args:
        kube: for the lease itself.
        namespace: of the lease.
        name: of the lease.
        identity: of this process, unique.
        terms: durations.
        clock: see ``boot_clock``.
        on_change: told when this process becomes leader (True) and when it is no longer (False).
    """

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        name: str,
        identity: str,
        terms: Terms | None = None,
        clock: Callable[[], float] = boot_clock,
        on_change: Callable[[bool], None] = lambda _leads: None,
    ) -> None:
        """A follower."""
        self._kube, self._namespace, self._name, self._identity = kube, namespace, name, identity
        self._terms, self._clock, self._on_change = terms or Terms(), clock, on_change
        self._until = -math.inf
        self._leads = False
        self._seen: Sighting | None = None

    @property
    def leads(self) -> bool:
        """Whether this process may write now."""
        return self._clock() < self._until

    def may_write_for(self) -> float:
        """Seconds for which this process may write.

        Raises:
            NotLeader: it may not.
        """
        left = self._until - self._clock()
        if left <= 0:
            raise NotLeader("this process does not hold the lease")
        return left

    async def run(self) -> None:
        """Keep or seek the lease until cancelled, then give it back.

        Raises:
            HistoryWentBack: the lease is of an earlier version than one that was seen before.
        """
        try:
            while True:
                await self._turn()
                await asyncio.sleep(self._terms.renewal if self._leads else self._terms.retry)
        finally:
            if self.leads:
                await asyncio.shield(self._give_back())

    async def _turn(self) -> None:
        begun = self._clock()
        try:
            held = await self._acquire(begun)
        except ApiError as error:
            _log.warning("The lease %s/%s cannot be kept: %s", self._namespace, self._name, error)
            held = self.leads  # Until it runs out it is ours, whether the server can be reached or not.
        else:
            if held:
                self._until = begun + self._terms.duration - self._terms.margin
        self._tell(held)

    def _tell(self, leads: bool) -> None:
        if leads == self._leads:
            return
        self._leads = leads
        if not leads:
            self._until = -math.inf
        _log.info("%s %s", self._identity, "leads" if leads else "no longer leads")
        self._on_change(leads)

    async def _acquire(self, now: float) -> bool:
        """Look at the lease and renew or take it; returns whether it is ours."""
        lease = await self._kube.get(LEASE, self._namespace, self._name)
        try:
            if lease is None:
                fresh = {"apiVersion": LEASE.api_version, "kind": LEASE.name}
                metadata = {"name": self._name, "namespace": self._namespace}
                await self._kube.create_unfenced(
                    LEASE, {**fresh, "metadata": metadata, "spec": self._spec(0)}
                )
                return True
            spec = lease.get("spec") or {}
            seen = self._sighting(lease, now)
            # One that carries our name although we do not lead is of before we were stopped: it must run out.
            ours = self._leads and spec.get("holderIdentity") == self._identity
            if not ours and not seen.expired(now):
                return False
            transitions = int(spec.get("leaseTransitions") or 0)
            renewed = spec.get("acquireTime") if self._leads else None
            lease["spec"] = self._spec(transitions + (0 if self._leads else 1), renewed)
            await self._kube.replace(LEASE, lease)
        except (Conflict, AlreadyExists):
            return False
        return True

    def _sighting(self, lease: Object, now: float) -> Sighting:
        spec = lease.get("spec") or {}
        seen = Sighting(
            version=lease["metadata"]["resourceVersion"],
            holder=str(spec.get("holderIdentity") or ""),
            duration=float(spec.get("leaseDurationSeconds") or self._terms.duration),
            since=now,
        )
        if self._seen is None or self._seen.version != seen.version:
            if self._seen is not None and int(seen.version) < int(self._seen.version):
                # Watches that were open would go on from versions that are not reached again for long.
                raise HistoryWentBack(
                    f"The lease {self._namespace}/{self._name} is older than it was: the cluster's store was "
                    "restored from a backup.",
                    "Nothing needs to be done: started again, the operator looks at everything anew.",
                )
            self._seen = seen
        return replace(self._seen)

    def _spec(self, transitions: int, acquired: str | None = None) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": round(self._terms.duration),
            "acquireTime": acquired or now,
            "renewTime": now,
            "leaseTransitions": transitions,
        }

    async def _give_back(self) -> None:
        self._until = -math.inf
        try:
            lease = await self._kube.get(LEASE, self._namespace, self._name)
            if lease is not None and (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                await self._kube.replace(LEASE, lease)
        except ApiError as error:
            _log.info("The lease was not given back and will run out: %s", error)
        self._tell(False)
