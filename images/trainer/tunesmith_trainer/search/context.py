"""Where a search runs, and for how long."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_package.store import Store
from tunesmith_trainer.devices import Device
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare.dataset import Dataset
from tunesmith_trainer.search import space
from tunesmith_trainer.search.backbones import Pretrained
from tunesmith_trainer.search.ledger import Ledger, Trial, trial_to_json
from tunesmith_trainer.search.machines import Machines


@dataclass
class SearchContext:
    """Where a search runs and whom it tells.

    Attributes:
        spec: of the job.
        dataset: without its test split.
        store: for features, ledger and checkpoints.
        prefix: of this run's keys in the store, ending in ``/``.
        cache_dir: for what can be made again.
        scratch: for this process's files.
        device: where to compute.
        events: told progress and trials.
        on_trial: told every trial that changed.
        load_backbone: builds a backbone of the spec with its weights.
        earlier: trials of the job to warm-start from.
        clock: seconds that only grow.
        machines: where trials run.
    """

    spec: TrainingJobSpec
    dataset: Dataset
    store: Store
    prefix: str
    cache_dir: Path
    scratch: Path
    device: Device
    events: Events
    on_trial: Callable[[Trial], None]
    load_backbone: Callable[[str], Pretrained]
    earlier: Sequence[Trial] = ()
    clock: Callable[[], float] = time.monotonic
    timings: dict[str, float] = field(default_factory=dict)
    machines: Machines = field(default_factory=Machines)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the seconds of a block to ``timings``."""
        started = self.clock()
        try:
            yield
        finally:
            self.timings[what] = round(self.timings.get(what, 0.0) + self.clock() - started, 3)

    def tell(self, trial: Trial) -> None:
        """Pass a changed trial on."""
        self.events.emit("trial", trial=trial_to_json(trial))
        self.on_trial(trial)


class Budget:
    """How many trials of each kind there are, and whether new ones may start.

    Attributes:
        strategies: those that the model may have.
        heads: linear heads at most.
        fine_tunings: fine-tunings at most.
        ended: why no new trials started, in a sentence; empty while all may.
    """

    def __init__(self, context: SearchContext, ledger: Ledger) -> None:
        """Divide the trials and start the clock."""
        self.context, self.spec, self.ledger = context, context.spec, ledger
        # A run that goes on has the seconds left that the trials before it did not spend.
        self.started = context.clock() - sum(row.duration_seconds for row in ledger.trials)
        self.ended = ""
        self.strategies = space.strategies_of(self.spec)
        wanted = self.spec.search.max_fine_tune_trials if "FineTune" in self.strategies else 0
        # A fine-tuning starts from a head; where nothing else is allowed there is always one.
        least = 0 if "LinearProbe" in self.strategies else 1
        self.fine_tunings = max(least, min(wanted, self.spec.search.num_trials - 1))
        self.heads = max(1, self.spec.search.num_trials - self.fine_tunings)
        self.objective = self.spec.objectives[0]

    def over(self) -> bool:
        """Whether no new trial may start, and why."""
        budget = self.spec.search.time_budget_seconds
        if budget is not None and self.context.clock() - self.started > budget:
            self.ended = f"The search ended because its {budget} seconds were spent."
            return True
        goal = self.objective.goal
        if goal is not None and any(self._reaches(row, goal) for row in self.ledger.trials):
            self.ended = (
                f"The search ended because a trial reached the goal of {goal:g} {self.objective.metric}."
            )
            return True
        return False

    def fine_tuned_enough(self) -> bool:
        """Whether no new fine-tuning may start; one is always needed where nothing else is allowed."""
        done = [row for row in self.ledger.trials if row.strategy == "FineTune" and row.state == "Succeeded"]
        return ("LinearProbe" in self.strategies or bool(done)) and self.over()

    def ending(self, alive: Sequence[str]) -> tuple[str, ...]:
        """Which fine-tunings of a population end now: none before the search is over, then all others.

        Trials that were begun have all their epochs, as far as time goes; in a population all are begun at
        once, so its best one has them, unless another is done.
        """
        rows = [row for one in alive if (row := self.ledger.get(one)) is not None]
        if not rows or not self.over():
            return ()
        tuned = [row for row in self.ledger.trials if row.strategy == "FineTune"]
        best = min(rows, key=lambda row: (math.inf if row.score is None else row.score, row.id))
        kept = "" if any(row.state == "Succeeded" for row in tuned) else best.id
        return tuple(row.id for row in rows if row.id != kept)

    def _reaches(self, row: Trial, goal: float) -> bool:
        usable = row.state == "Succeeded" and row.strategy in self.strategies
        value = row.metrics.get(self.objective.metric) if usable else None
        return value is not None and (value >= goal if self.objective.maximize else value <= goal)
