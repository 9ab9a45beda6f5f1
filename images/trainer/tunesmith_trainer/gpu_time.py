"""How long a run has held GPUs, over all its processes; a killed one loses the last period at most."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tunesmith_api.reasons import StoreError, TunesmithError

PERIOD_SECONDS = 60.0


class GpuTime:
    """Adds up GPU seconds while its block runs: seconds times GPUs, whether or not they are busy.

    Args:
        gpus: that this process holds; with 0 nothing is counted, and what earlier processes used stays.
        earlier: GPU seconds of earlier processes.
        keep: given the sum now and then and at the end; an error of its store is not the run's.
        clock: seconds that only grow.
        period: seconds between two calls of ``keep``.
    """

    def __init__(
        self,
        gpus: int,
        earlier: float,
        keep: Callable[[float], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        period: float = PERIOD_SECONDS,
    ) -> None:
        """Count from the beginning of the block."""
        self._gpus, self._earlier, self._keep, self._clock, self._period = gpus, earlier, keep, clock, period
        self._begun = clock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu-time", daemon=True)

    @property
    def seconds(self) -> float:
        """GPU seconds so far."""
        return round(self._earlier + self._gpus * (self._clock() - self._begun), 1)

    def __enter__(self) -> Self:
        """Begin to count."""
        self._begun = self._clock()
        if self._gpus:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep the sum, however the block ended, unless it ended because the store is away."""
        self._over.set()
        # It has been waited for: waiting as long again for a sum would put the end off by minutes.
        if self._gpus and not isinstance(error, StoreError):
            self._thread.join()
            self._keep_now()

    def _run(self) -> None:
        while not self._over.wait(self._period):
            self._keep_now()

    def _keep_now(self) -> None:
        try:
            self._keep(self.seconds)
        except TunesmithError:
            return  # The run itself meets the store, or the loss of its lease, soon enough.
