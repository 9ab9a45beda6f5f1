"""Waiting for a store that is away, for a stated time and not in silence."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from tunesmith_api.reasons import StoreUnreachable

T = TypeVar("T")

_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0
_SENTENCE_EVERY_SECONDS = 30.0


class Transient(Exception):
    """An attempt failed for a cause that may pass; ``__cause__`` is the original error.

    It never leaves this package.
    """


@dataclass(frozen=True)
class Patience:
    """How long to wait for a store, and whom to tell.

    Attributes:
        seconds: the longest time from the first failure of a call to the last attempt; 0 never waits.
        on_wait: told a sentence when waiting begins and every 30 seconds while it lasts.
        clock: monotonic seconds.
        sleep: waits that many seconds.
    """

    seconds: float = 300.0
    on_wait: Callable[[str], None] | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def call(self, where: str, attempt: Callable[[], T]) -> T:
        """Return what ``attempt`` returns; repeat it while it raises `Transient` and patience lasts.

        Waits grow exponentially from 0.1 to 5 seconds, with jitter, so that many waiting processes do
        not come back all at once.

        Args:
            where: the store's address, for the sentences.
            attempt: does the work once; must be safe to repeat.

        Raises:
            StoreUnreachable: patience is spent.
        """
        wait = _Wait(self, where)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Transient),
            stop=wait.is_over,
            wait=wait.next_seconds,
            before_sleep=wait.tell,
            sleep=self.sleep,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except Transient as error:
            raise StoreUnreachable(
                f"The store {where} did not answer for {wait.waited():.0f} s ({error}).",
                "Nothing is lost: bring it back and run the same command again.",
            ) from (error.__cause__ or error)


class _Wait:
    """One call's waiting: tenacity counts from the first attempt, we from the first failure.

    An upload that took long before the store went away must not have used up the patience.
    """

    def __init__(self, patience: Patience, where: str) -> None:
        self._patience = patience
        self._where = where
        self._since: float | None = None
        self._told: float | None = None
        self._jittered = tenacity.wait_exponential(
            multiplier=_FIRST_WAIT_SECONDS, max=_LONGEST_WAIT_SECONDS
        ) + tenacity.wait_random(0, _FIRST_WAIT_SECONDS)

    def waited(self) -> float:
        """Seconds since the first failure."""
        return 0.0 if self._since is None else self._patience.clock() - self._since

    def is_over(self, _: tenacity.RetryCallState) -> bool:
        """Say whether patience is spent; called after each failure."""
        if self._since is None:
            self._since = self._patience.clock()
        return self.waited() >= self._patience.seconds

    def next_seconds(self, state: tenacity.RetryCallState) -> float:
        """Return the next pause, cut so that the last attempt comes when patience ends."""
        remaining = self._patience.seconds - self.waited()
        return max(0.0, min(self._jittered(state), remaining))

    def tell(self, state: tenacity.RetryCallState) -> None:
        """Say that we wait, and for what."""
        now = self._patience.clock()
        if self._patience.on_wait is None or state.outcome is None:
            return
        if self._told is not None and now - self._told < _SENTENCE_EVERY_SECONDS:
            return
        self._told = now
        remaining = self._patience.seconds - self.waited()
        self._patience.on_wait(
            f"The store {self._where} does not answer ({state.outcome.exception()}); "
            f"waiting up to {remaining:.0f} s for it."
        )
