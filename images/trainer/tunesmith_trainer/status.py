"""The TrainingJob's status as the run goes on: what a cluster would show, kept here and told as events."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

from tunesmith_api.reasons import Reason, TrainingJobCondition
from tunesmith_api.status import Condition, ConditionStatus, Phase, TrainingJobStatus, with_condition
from tunesmith_trainer.events import Events


class StatusBoard:
    """Holds the status, changes it field by field and emits a ``status`` event for each change.

    Any thread may change it: changes come one after another, also where they are told.

    Args:
        events: where the status is told.
        clock: the time, in UTC.
        generation: metadata.generation of the TrainingJob, where there is one.
        on_change: given the status after each change.
    """

    def __init__(
        self,
        events: Events,
        clock: Callable[[], datetime],
        generation: int | None = None,
        on_change: Callable[[TrainingJobStatus], None] = lambda status: None,
    ) -> None:
        """Start with a job that is pending."""
        self._events, self._clock, self._generation = events, clock, generation
        self._on_change = on_change
        self._lock = threading.RLock()
        self.status = TrainingJobStatus(
            observed_generation=generation, phase="Pending", start_time=clock(), conditions=()
        )

    def update(self, **fields: Any) -> None:
        """Replace fields of the status."""
        with self._lock:
            self.status = self.status.model_copy(update=fields)
            self._events.emit("status", status=self.as_json())
            self._on_change(self.status)

    def enter(self, phase: Phase) -> None:
        """Say which stage the job is in."""
        self.update(phase=phase)

    def condition(
        self, kind: TrainingJobCondition, status: ConditionStatus, reason: Reason, message: str
    ) -> None:
        """Set a condition."""
        new = Condition(
            type=kind.value,
            status=status,
            observed_generation=self._generation,
            last_transition_time=self._clock(),
            reason=reason.value,
            message=message[:4_000],
        )
        with self._lock:
            self.update(conditions=with_condition(self.status.conditions, new))

    def finish(self, phase: Phase) -> None:
        """Say that the job ended."""
        self.update(phase=phase, completion_time=self._clock())

    def as_json(self) -> dict[str, Any]:
        """The status as JSON in the API's spelling."""
        return self.status.model_dump(mode="json", by_alias=True, exclude_none=True)
