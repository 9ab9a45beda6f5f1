"""A queue of keys: each is handled by one worker at a time, and again when news came meanwhile.

As the work queue of client-go, which every controller in Go stands on: a key that is added many times before
a worker takes it is handled once; a failure comes back later and later.
"""

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backoff:
    """How long a key waits after failures in a row: doubling from ``first`` up to ``most`` seconds."""

    first: float = 0.2
    most: float = 60.0

    def delay(self, failures: int, chance: float) -> float:
        """Seconds after so many failures; ``chance`` in [0, 1) takes up to a fifth off, to spread them."""
        return min(self.most, self.first * 2.0 ** min(failures - 1, 30)) * (1 - 0.2 * chance)


class KeyedQueue(Generic[K]):
    """Keys that wait for a worker.

    Args:
        backoff: for keys whose handling failed.
        chance: randomness in [0, 1) for the backoff.
        on_failure: told of each failure, for metrics.
    """

    def __init__(
        self,
        backoff: Backoff | None = None,
        chance: Callable[[], float] = random.random,
        on_failure: Callable[[K, Exception], None] = lambda _key, _error: None,
    ) -> None:
        """An empty queue; ``run`` works it off."""
        self._backoff, self._chance, self._on_failure = backoff or Backoff(), chance, on_failure
        self._ready: OrderedDict[K, None] = OrderedDict()
        self._busy: set[K] = set()
        self._again: set[K] = set()
        self._later: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._wake = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        """Keys that could be handled now and wait for a worker."""
        return len(self._ready)

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting or going on; what is due later does not count."""
        return not self._ready and not self._busy

    def add(self, key: K) -> None:
        """Have the key handled as soon as a worker is free."""
        if key in self._busy:
            self._again.add(key)
            return
        self._ready[key] = None
        self._wake.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Have the key handled in so many seconds at the latest; an earlier appointment stands."""
        loop = asyncio.get_running_loop()
        present = self._later.get(key)
        if present is not None and present.when() <= loop.time() + seconds:
            return
        if present is not None:
            present.cancel()
        self._later[key] = loop.call_later(seconds, self._due, key)

    def forget(self, key: K) -> None:
        """Drop the appointment and the failures of a key that is gone."""
        self._failures.pop(key, None)
        if handle := self._later.pop(key, None):
            handle.cancel()

    def close(self) -> None:
        """Begin nothing more; ``run`` returns when what is going on is done."""
        self._closed = True
        for appointment in self._later.values():
            appointment.cancel()
        self._wake.set()

    async def run(self, handle: Callable[[K], Awaitable[float | None]], workers: int) -> None:
        """Hand keys to ``handle`` until ``close``.

        Args:
            handle: returns the seconds after which the key wants to be handled again, or None.
            workers: how many keys are handled at once.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work(handle))

    async def _work(self, handle: Callable[[K], Awaitable[float | None]]) -> None:
        while (key := await self._next()) is not None:
            try:
                again_after = await handle(key)
            except Exception as error:
                self._failed(key, error)
            else:
                self._failures.pop(key, None)
                if again_after is not None:
                    self.add_after(key, again_after)
            finally:
                self._busy.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)

    async def _next(self) -> K | None:
        while not self._ready and not self._closed:
            self._wake.clear()
            await self._wake.wait()
        if self._closed:
            return None
        key, _ = self._ready.popitem(last=False)
        self._busy.add(key)
        return key

    def _failed(self, key: K, error: Exception) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = self._backoff.delay(failures, self._chance())
        _log.log(
            logging.INFO if failures < 3 else logging.WARNING,
            "%s: attempt %d failed, the next is in %.1f s: %s",
            key,
            failures,
            delay,
            f"{type(error).__name__}: {error}",
            extra={"object": str(key)},
        )
        self._on_failure(key, error)
        self.add_after(key, delay)

    def _due(self, key: K) -> None:
        self._later.pop(key, None)
        self.add(key)
