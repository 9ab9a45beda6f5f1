"""Linear heads as trials: a trial of Ray Tune trains a batch of proposals at once, the ledger gets each."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ray import tune

from tunesmith_api.reasons import Reason
from tunesmith_trainer.search.engine import report
from tunesmith_trainer.search.failures import failure, require_machine
from tunesmith_trainer.search.feature_matrix import FeatureMatrix
from tunesmith_trainer.search.heads import HeadConfig, HeadTask, cross_validate
from tunesmith_trainer.search.judgement import held_out_metrics, score_of
from tunesmith_trainer.search.ledger import Ledger, Setting, Trial, trial_id

if TYPE_CHECKING:  # Optuna is not for the processes that train
    from tunesmith_trainer.search.study import Proposer

MIN_BATCH = 16
"""Heads trained at once at least; TPE learns between batches."""


def batch_size(total: int) -> int:
    """Heads in one batch: four rounds for small searches, sixteen for large ones."""
    return max(MIN_BATCH, -(-total // 16))


def head_config(parameters: Mapping[str, Setting]) -> HeadConfig:
    """Hyper-parameters of a head by the names of the spec; what is not given keeps its default."""
    default = HeadConfig()
    return HeadConfig(
        learning_rate=float(parameters.get("learningRate", default.learning_rate)),
        weight_decay=float(parameters.get("weightDecay", default.weight_decay)),
        epochs=int(parameters.get("epochs", default.epochs)),
        label_smoothing=float(parameters.get("labelSmoothing", default.label_smoothing)),
    )


def head_settings(config: HeadConfig) -> dict[str, Setting]:
    """Hyper-parameters of a head by the names of the spec."""
    return {
        "learningRate": config.learning_rate,
        "weightDecay": config.weight_decay,
        "epochs": config.epochs,
        "labelSmoothing": config.label_smoothing,
    }


def save_task(task: HeadTask, path: Path) -> None:
    """Write a task (without the features, which stay where they are) for other processes."""
    facts = {
        "features": str(task.features.path),
        "count": task.features.count,
        "dim": task.features.dim,
        "classes": task.num_classes,
        "seed": task.seed,
    }
    np.savez(
        path,
        facts=np.array(json.dumps(facts)),
        rows=task.rows,
        labels=task.labels,
        weights=task.weights,
        folds=task.folds,
    )


def load_task(path: Path) -> HeadTask:
    """Read what ``save_task`` wrote."""
    with np.load(path, allow_pickle=False) as data:
        facts = json.loads(str(data["facts"]))
        matrix = FeatureMatrix(Path(facts["features"]), facts["count"], facts["dim"])
        return HeadTask(
            matrix,
            data["rows"],
            data["labels"],
            data["weights"],
            data["folds"],
            facts["classes"],
            facts["seed"],
        )


class HeadBatchTrainable(tune.Trainable):
    """Trains the heads of one batch in one step. Its configuration: see ``HeadSource.next``."""

    def setup(self, config: dict[str, Any]) -> None:
        """Remember what to train."""
        self.batch = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next batch in the same process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train all heads of the batch, backbone by backbone; an error is the result of them all."""
        try:
            outcomes = self._train()
        except Exception as error:
            return failure(error)
        losses = [one["negativeLogLikelihood"] for one in outcomes.values()]
        return report(min(filter(math.isfinite, losses), default=math.inf), {"outcomes": outcomes}, done=True)

    def _train(self) -> dict[str, dict[str, float]]:
        """Held-out metrics of each head and its share of the seconds; NaN where its weights are none."""
        torch.set_num_threads(self.batch["threads"])
        outcomes: dict[str, dict[str, float]] = {}
        for backbone in sorted({one["backbone"] for one in self.batch["proposals"]}):
            mine = [one for one in self.batch["proposals"] if one["backbone"] == backbone]
            task = load_task(Path(self.batch["tasks"][backbone]))
            started = time.monotonic()
            configs = [HeadConfig(**one["head"]) for one in mine]
            trained = cross_validate(task, configs, device=self.batch["device"])
            share = (time.monotonic() - started) / len(mine)
            judged = task.folds >= 0
            for one, logits in zip(mine, trained, strict=True):
                metrics = held_out_metrics(logits[judged], task.labels[judged])
                if not np.isfinite(logits[judged]).all():
                    metrics = dict.fromkeys(metrics, math.nan)
                outcomes[one["id"]] = {**metrics, "seconds": share}
        return outcomes


@dataclass
class HeadSource:
    """Proposes batches of heads and records each head as a trial; see ``engine.Source``.

    Attributes:
        proposer: for linear probes.
        ledger: of the job.
        tasks: for each backbone the file of its ``HeadTask``.
        total: heads in all.
        objective: the primary objective's metric.
        over: asked before each batch but the first; True ends the search.
        on_trial: told each recorded trial.
        device: ``cpu`` or ``cuda``.
        threads: of the process that trains.
    """

    proposer: Proposer
    ledger: Ledger
    tasks: Mapping[str, Path]
    total: int
    objective: str
    over: Callable[[], bool]
    on_trial: Callable[[Trial], None]
    device: str
    threads: int

    def __post_init__(self) -> None:
        """Start before the first batch."""
        if self.proposer.limit is not None:
            self.total = min(self.total, self.proposer.limit)
        self._first = 0
        self._batch: list[Trial] = []
        self._died: set[str] = set()
        self._again: Mapping[str, Any] | None = None
        mine = [row for row in self.ledger.trials if row.strategy == "LinearProbe"]
        # Without a single head there is no model, so a run that lost them all tries once more.
        self._finished = {
            row.id for row in mine if row.finished and any(one.score is not None for one in mine)
        }

    def next(self) -> Mapping[str, Any] | None:
        """The next batch that is not in the ledger yet, or once more the one whose process died."""
        if self._again is not None:
            batch, self._again = self._again, None
            return batch
        size = batch_size(self.total)
        while self._first < self.total:
            count = min(size, self.total - self._first)
            ids = [trial_id(self._first + offset + 1) for offset in range(count)]
            first, self._first = self._first, self._first + count
            if self._finished.issuperset(ids):
                continue
            # However short the time, a search needs a head to end with.
            if first > 0 and self.over():
                return None
            self._batch = self._propose(ids, first)
            return self._config()
        return None

    def _propose(self, ids: Sequence[str], first: int) -> list[Trial]:
        """The trials of a batch that are not finished; what is proposed depends on earlier batches alone."""
        before = {trial_id(number) for number in range(1, first + 1)}
        history = [row for row in self.ledger.trials if row.id in before]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        batch = []
        for one, values in zip(ids, self.proposer.propose(history, first, len(ids)), strict=True):
            backbone = str(values.pop("backbone"))
            batch.append(Trial(one, "LinearProbe", backbone, values, start_time=now))
        return [row for row in batch if row.id not in self._finished]

    def _config(self) -> Mapping[str, Any]:
        return {
            "id": f"batch-{self._batch[0].id}",
            "tasks": {name: str(path) for name, path in self.tasks.items()},
            "proposals": [
                {"id": row.id, "backbone": row.backbone, "head": asdict(head_config(row.parameters))}
                for row in self._batch
            ],
            "device": self.device,
            "threads": self.threads,
        }

    def result(self, trial_id: str, metrics: Mapping[str, Any]) -> bool:
        """Record the heads of a batch."""
        if "failed" in metrics:
            require_machine(metrics)
            self._fail(metrics["failed"], metrics["message"])
            return False
        batch, self._batch = self._batch, []
        for row in batch:
            outcome = dict(metrics["outcomes"][row.id])
            seconds = outcome.pop("seconds")
            epochs = head_config(row.parameters).epochs
            good = all(np.isfinite(list(outcome.values())))
            self._record(
                Trial(
                    row.id,
                    row.strategy,
                    row.backbone,
                    row.parameters,
                    state="Succeeded" if good else "Failed",
                    score=score_of(outcome, self.objective) if good else None,
                    reason="" if good else Reason.DIVERGED.value,
                    message=""
                    if good
                    else "The head's likelihood is not a number: its learning rate is too high.",
                    metrics=outcome if good else {},
                    epochs=epochs,
                    max_epochs=epochs,
                    start_time=row.start_time,
                    duration_seconds=round(seconds, 4),
                )
            )
        return True

    def ended(self, trial_id: str, *, failed: bool) -> None:
        """Have a batch whose process died trained once more; the second death is its end.

        The system may have taken the memory for somebody else's process.
        """
        if not failed or not self._batch:
            return
        if trial_id in self._died:
            self._fail(
                Reason.OUT_OF_MEMORY.value,
                "The process that trained these heads died twice, most likely for want of memory.",
            )
        else:
            self._died.add(trial_id)
            self._again = self._config()

    def _fail(self, reason: str, message: str) -> None:
        for row in self._batch:
            self._record(
                Trial(
                    row.id,
                    row.strategy,
                    row.backbone,
                    row.parameters,
                    state="Failed",
                    reason=reason,
                    message=message,
                    start_time=row.start_time,
                )
            )
        self._batch = []

    def _record(self, trial: Trial) -> None:
        self.ledger.record(trial)
        self.on_trial(trial)
