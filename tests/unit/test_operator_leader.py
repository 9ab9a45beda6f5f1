"""The lease: one leader at a time, judged by each process's own clock; and the fence."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from tunesmith_operator.kinds import Kind
from tunesmith_operator.kube import AlreadyExists, Conflict, NotLeader, Unavailable
from tunesmith_operator.leader import Elector, HistoryWentBack, Terms

TERMS = Terms(duration=15, renewal=3, retry=2, margin=2)


@dataclass
class Server:
    """Keeps one lease with optimistic locking, as the API server does; can be made to fail."""

    lease: dict[str, Any] | None = None
    version: int = 0
    down: bool = False
    writes: list[str] = field(default_factory=list)

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        self._answer()
        return None if self.lease is None else {**self.lease, "spec": dict(self.lease["spec"])}

    async def create_unfenced(self, kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
        self._answer()
        if self.lease is not None:
            raise AlreadyExists(409, "AlreadyExists", "", {})
        return self._store(body)

    async def replace(self, kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
        self._answer()
        if self.lease is None or body["metadata"]["resourceVersion"] != str(self.version):
            raise Conflict(409, "Conflict", "", {})
        return self._store(body)

    def _answer(self) -> None:
        if self.down:
            raise Unavailable(0, "NoAnswer", "", {})

    def _store(self, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        self.writes.append(body["spec"]["holderIdentity"])
        return self.lease


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


def elector(server: Server, identity: str, clock: Clock) -> Elector:
    return Elector(server, "system", "lease", identity, TERMS, clock)  # type: ignore[arg-type]


def turn(one: Elector) -> None:
    asyncio.run(one._turn())


def test_first_to_come_leads_and_the_second_does_not() -> None:
    server, clock = Server(), Clock()
    first, second = elector(server, "first", clock), elector(server, "second", clock)
    turn(first)
    turn(second)
    assert first.leads
    assert not second.leads
    with pytest.raises(NotLeader):
        second.may_write_for()


def test_fence_closes_before_the_lease_ends_and_counts_from_before_the_renewal() -> None:
    server, clock = Server(), Clock()
    leader = elector(server, "first", clock)
    turn(leader)
    assert leader.may_write_for() == TERMS.duration - TERMS.margin
    clock.now += TERMS.duration - TERMS.margin
    with pytest.raises(NotLeader):
        leader.may_write_for()


def test_follower_takes_a_lease_only_when_it_has_stood_still_for_all_its_duration() -> None:
    server, clock = Server(), Clock()
    first, second = elector(server, "first", clock), elector(server, "second", clock)
    turn(first)
    turn(second)
    clock.now += TERMS.duration - 0.1
    turn(second)
    assert not second.leads
    clock.now += 0.1
    turn(second)
    assert second.leads
    assert not first.leads  # by its own clock, before it has asked anybody


@pytest.mark.parametrize("jump", [-3_600, 3_600], ids=["an hour back", "an hour on"])
def test_clocks_that_differ_change_nothing(jump: float) -> None:
    server = Server()
    own, others = Clock(), Clock(1_000.0 + jump)
    first, second = elector(server, "first", own), elector(server, "second", others)
    turn(first)
    for _ in range(20):
        own.now += 3
        others.now += 3
        turn(first)
        turn(second)
    assert first.leads
    assert not second.leads


def test_leader_that_stood_still_does_not_write_until_it_has_the_lease_again() -> None:
    server, clock = Server(), Clock()
    first, second = elector(server, "first", clock), elector(server, "second", clock)
    turn(first)
    turn(second)
    clock.now += TERMS.duration
    turn(second)
    with pytest.raises(NotLeader):
        first.may_write_for()
    turn(first)
    assert not first.leads
    assert second.leads


def test_leader_that_cannot_reach_the_server_leads_only_as_long_as_its_lease() -> None:
    server, clock = Server(), Clock()
    leader = elector(server, "first", clock)
    turn(leader)
    server.down = True
    clock.now += 5
    turn(leader)
    assert leader.leads
    clock.now += 8
    turn(leader)
    assert not leader.leads
    server.down = False
    turn(leader)
    assert not leader.leads  # its own lease of before must run out as anybody's
    clock.now += TERMS.duration
    turn(leader)
    assert leader.leads


def test_lease_given_back_is_taken_at_once() -> None:
    async def main() -> tuple[Elector, Elector]:
        server, clock = Server(), Clock()
        first, second = elector(server, "first", clock), elector(server, "second", clock)
        running = asyncio.create_task(first.run())
        while not first.leads:  # noqa: ASYNC110
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await second._turn()
        return first, second

    first, second = asyncio.run(main())
    assert not first.leads
    assert second.leads


def test_two_that_try_at_once_never_both_lead() -> None:
    server, clock = Server(), Clock()
    both = [elector(server, name, clock) for name in ("first", "second")]

    async def main() -> None:
        await asyncio.gather(*(one._turn() for one in both))

    asyncio.run(main())
    assert sum(one.leads for one in both) == 1


def test_store_restored_from_a_backup_ends_the_process_because_its_memory_is_of_another_history() -> None:
    server, clock = Server(version=7), Clock()
    leading, following = elector(server, "first", clock), elector(server, "second", clock)
    turn(leading)
    backup, version = server.lease, server.version
    for _ in range(2):
        clock.now += 3
        turn(leading)
        turn(following)
    server.lease, server.version = backup, version
    for one in (leading, following):
        with pytest.raises(HistoryWentBack, match="restored from a backup"):
            turn(one)


def test_lease_that_was_deleted_and_made_anew_is_no_restored_store() -> None:
    server, clock = Server(), Clock()
    first = elector(server, "first", clock)
    turn(first)
    server.lease = None
    clock.now += 3
    turn(first)
    turn(first)
    assert first.leads
