"""Fine-tunings as trials of Ray Tune, one step an epoch, with a checkpoint in the store after each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from ray import tune

from tunesmith_api.reasons import Diverged, ObjectMissing, Reason
from tunesmith_api.training_job import TransferSpec
from tunesmith_package.store import Store
from tunesmith_trainer.devices import find_device
from tunesmith_trainer.search.engine import report
from tunesmith_trainer.search.failures import failure, require_machine
from tunesmith_trainer.search.finetune import FineTuneConfig
from tunesmith_trainer.search.finetune_task import FineTuneTask, finetune_config, finetune_settings
from tunesmith_trainer.search.judgement import LIKELIHOOD, leading_name, score_of
from tunesmith_trainer.search.ledger import CurvePoint, Ledger, Setting, Trial, trial_id
from tunesmith_trainer.search.shelf import MachineShelf, Shelf
from tunesmith_trainer.search.stored_weights import fetch_weights
from tunesmith_trainer.search.study import EarlyStopper, Proposer
from tunesmith_trainer.workspace import ObjectDamaged


class FineTuneTrainable(tune.Trainable):
    """One epoch of fine-tuning a step. Its configuration: see ``FineTuneSource.next``.

    Errors are reported as results, so that a trial that diverges or runs out of GPU memory fails alone and
    its process goes on with the next.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Build the network and go on from the checkpoint, if there is one."""
        self.settings = config
        torch.set_num_threads(config["threads"])
        self.failure: dict[str, Any] | None = None
        try:
            self.shelf = MachineShelf(config["shelf"]) if config["shelf"] else None
            task = self.shelf.task(config["task"]) if self.shelf else FineTuneTask.from_config(config["task"])
            device = replace(find_device(config["device"], config["precision"]), threads=config["threads"])
            self.tuner = task.tuner(FineTuneConfig(**config["finetune"]), device, config["seed"])
            if config["checkpoint"] and self.shelf:
                with self.shelf.checkpoint(config["checkpoint"]) as path:
                    self.tuner.restore(path)
            elif config["checkpoint"]:
                self.tuner.restore(Path(config["checkpoint"]))
        except Exception as error:
            self.failure = failure(error)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in the same process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train for one epoch and write a checkpoint."""
        if self.failure is not None:
            return self.failure
        started = time.monotonic()
        try:
            result = self.tuner.run_epoch()
            if len(self.tuner.validation.rows) and not math.isfinite(result.validation_loss):
                raise Diverged(
                    f"The held-out loss is {result.validation_loss} after epoch {result.epoch}.",
                    "Lower the learning rate, or its upper bound in spec.search.parameters.",
                )
            folder = self.shelf.folder if self.shelf else Path(self.settings["folder"])
            path = folder / f"{self.settings['id']}-{result.epoch:04d}.safetensors"
            self.save_to(path)
            if self.shelf:
                self.shelf.keep(path, f"{self.settings['checkpoints']}{path.name}")
        except Exception as error:
            return failure(error)
        known = math.isfinite(result.validation_loss)
        point = asdict(result)
        metrics = point.pop("metrics")
        if known:
            score = score_of({**metrics, LIKELIHOOD: result.validation_loss}, self.settings["objective"])
        else:
            score, point["validation_loss"], point["validation_accuracy"] = result.train_loss, None, None
        news = {
            "point": {**point, "score": score if known else None},
            "metrics": metrics,
            "checkpoint": str(path),
            "seconds": time.monotonic() - started,
        }
        done = result.epoch >= self.tuner.config.epochs
        return report(score, news, done=done)

    def save_to(self, path: Path) -> None:
        """Write a checkpoint under a name that only a whole file has."""
        partial = path.with_suffix(".partial")
        self.tuner.save(partial)
        partial.replace(path)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Ray's own checkpoint, which population based training copies between trials."""
        self.tuner.save(Path(checkpoint_dir) / "checkpoint.safetensors")

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        """Take over another trial's weights."""
        self.tuner.restore(Path(checkpoint_dir) / "checkpoint.safetensors")


@dataclass
class FineTuneSource:
    """Proposes fine-tunings and records each of their epochs; see ``engine.Source``.

    The first ones are prescribed, the others are proposed. An unfinished trial of the ledger comes first and
    goes on from its checkpoint; so does, once, a trial whose process died.

    Attributes:
        proposer: for fine-tunings; None for the refit, which has prescribed parameters.
        stopper: early stopping.
        ledger: of the job.
        store: for checkpoints.
        prefix: of the checkpoints' keys.
        tasks: for each backbone what to train on and from.
        start_head: hyper-parameters of the heads that they start from.
        backbone: of the first trial.
        ids: names of the trials to run.
        transfer: spec.transfer, for what is not searched.
        prescribed: parameters of the first trials; the others are proposed.
        over: asked before each trial; True ends the search, and with it the unfinished trials of the ledger.
        on_trial: told each change of a trial.
        folder: for checkpoints on this machine.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: of each trial.
        seed: of the job.
        objective: the primary objective's metric.
        mutable: names of the parameters that population based training changes.
        spent: which of the trials of a population end now, because the search is over.
        shelf: where trials find their files that run on other machines; None where all run on this one.
    """

    proposer: Proposer | None
    stopper: EarlyStopper | None
    ledger: Ledger
    store: Store
    prefix: str
    tasks: Mapping[str, FineTuneTask]
    start_head: Mapping[str, Setting]
    backbone: str
    ids: tuple[str, ...]
    transfer: TransferSpec
    prescribed: Sequence[Mapping[str, Setting]]
    over: Callable[[], bool]
    on_trial: Callable[[Trial], None]
    folder: Path
    device: str
    threads: int
    seed: int
    objective: str = "accuracy"
    mutable: Collection[str] = ()
    spent: Callable[[Sequence[str]], Collection[str]] = lambda alive: ()
    shelf: Shelf | None = None

    def __post_init__(self) -> None:
        """Queue the trials that are not finished."""
        rows = {one: self.ledger.get(one) for one in self.ids}
        open_ids = [one for one, row in rows.items() if row is None or not row.finished]
        self._queue = sorted(open_ids, key=lambda one: (rows[one] is None, self.ids.index(one)))
        self._died: set[str] = set()

    @property
    def waiting(self) -> bool:
        """Whether a trial whose process died still has its second start before it."""
        return any(one in self._died for one in self._queue)

    def next(self) -> Mapping[str, Any] | None:
        """The next trial: an unfinished one of the ledger, or a new one."""
        if not self._queue:
            return None
        if self.over():
            self._close_unfinished()
            return None
        name = self._queue.pop(0)
        row = self.ledger.get(name) or self._new_trial(name)
        if row is None:
            return None
        task = self.tasks[row.backbone]
        config = finetune_config(row.parameters, self.transfer)
        row, checkpoint = self._fetch(replace(row, max_epochs=config.epochs))
        self._update(row)
        return {
            "id": name,
            "task": task.to_config() if self.shelf is None else self.shelf.lend(task),
            "shelf": None if self.shelf is None else self.shelf.address,
            "checkpoints": self.prefix,
            "finetune": asdict(config),
            "checkpoint": checkpoint if self.shelf is None else row.checkpoint,
            "folder": str(self.folder),
            "device": self.device,
            "precision": self.transfer.precision,
            "threads": self.threads,
            "seed": self.seed,
            "objective": self.objective,
        }

    def _close_unfinished(self) -> None:
        """Say of the trials of an earlier run that they never come to their end."""
        rows = [row for one in self._queue if (row := self.ledger.get(one)) is not None]
        self._queue = []
        for row in rows:
            self._close(row)

    def _close(self, row: Trial) -> None:
        message = "The search was over before this fine-tuning had all its epochs."
        self._finish(replace(row, state="Stopped", reason=Reason.BUDGET_SPENT.value, message=message))

    def ending(self, alive: Sequence[str]) -> Collection[str]:
        """Close the trials of a population that the end of the search leaves without their epochs."""
        names = self.spent(alive)
        for name in names:
            row = self.ledger.get(name)
            assert row is not None, "a trial is recorded before it runs"
            self._close(row)
        return names

    def _new_trial(self, name: str) -> Trial | None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        position = self.ids.index(name)
        if position < len(self.prescribed):
            backbone, values = self.backbone, dict(self.prescribed[position])
        else:
            if self.proposer is None:
                return None
            history = [row for row in self.ledger.trials if row.id in self.ids and row.finished]
            proposed = self.proposer.propose(history, position, 1)
            if not proposed:
                return None
            backbone = str(proposed[0].pop("backbone"))
            values = proposed[0]
        return Trial(name, "FineTune", backbone, values, start_time=now, start_head=self.start_head)

    def _fetch(self, row: Trial) -> tuple[Trial, str]:
        """The trial and the local file of its checkpoint; without a usable one it begins anew."""
        if not row.checkpoint:
            return row, ""
        path = self.folder / f"{row.id}-restored.safetensors"
        try:
            fetch_weights(self.store, row.checkpoint, path, "")
        except (ObjectMissing, ObjectDamaged) as error:
            message = f"It began anew, because its checkpoint could not be used: {error.message}"
            anew = {"epochs": 0, "curve": (), "score": None, "metrics": {}, "checkpoint": ""}
            return replace(row, message=message, **anew), ""  # type: ignore[arg-type]
        for info in list(self.store.list(f"{self.prefix}{row.id}-")):
            if info.key != row.checkpoint:
                self.store.delete(info.key)
        return row, str(path)

    def result(self, trial_id: str, metrics: Mapping[str, Any]) -> bool:
        """Record an epoch; False ends the trial."""
        row = self.ledger.get(trial_id)
        assert row is not None, "a trial is recorded before it runs"
        if row.finished:
            return False
        if "failed" in metrics:
            require_machine(metrics)
            self._finish(replace(row, state="Failed", reason=metrics["failed"], message=metrics["message"]))
            return False
        point = CurvePoint(**metrics["point"])
        if point.epoch <= row.epochs:
            return True
        # A name for each epoch: the row names the checkpoint that it belongs to, wherever a kill comes.
        key, previous = f"{self.prefix}{trial_id}-{point.epoch:04d}.safetensors", row.checkpoint
        if self.shelf is None:
            self.store.put(key, Path(metrics["checkpoint"]))
            Path(metrics["checkpoint"]).unlink(missing_ok=True)
        row = replace(
            row,
            score=point.compared,
            metrics=_held_out(point, metrics.get("metrics", {})),
            curve=(*row.curve, point),
            epochs=point.epoch,
            duration_seconds=round(row.duration_seconds + metrics["seconds"], 3),
            checkpoint=key,
        )
        # The last epoch is told as well: other trials are compared with it, also in a run that goes on later.
        stop = self._stops(point, trial_id)
        if metrics["done"]:
            row = replace(row, state="Succeeded")
        elif stop:
            name = leading_name(self.objective)
            message = f"After {point.epoch} epochs other trials had a better held-out {name}."
            row = replace(row, state="Stopped", reason=Reason.EARLY_STOPPED.value, message=message)
        if row.finished:
            self._finish(row)
        else:
            self._update(row)
        if previous:
            self.store.delete(previous)
        return not row.finished

    def _stops(self, point: CurvePoint, trial_id: str) -> bool:
        if self.stopper is None or point.compared is None:
            return False
        return self.stopper.stop_after(trial_id, point.epoch, point.compared)

    def changed(self, trial_id: str, config: Mapping[str, Any], donor: str) -> None:
        """Record that population based training gave a trial another's weights and its recipe, changed."""
        row, giver = self.ledger.get(trial_id), self.ledger.get(donor)
        assert row is not None, "a trial is recorded before it runs"
        assert giver is not None, "a trial is recorded before it runs"
        if row.finished:
            return
        names = giver.parameters.keys() | self.mutable
        self._update(
            replace(
                row,
                parameters=finetune_settings(config["finetune"], names),
                backbone=str(config["task"]["backbone"]),
                max_epochs=int(config["finetune"]["epochs"]),
                parent=donor,
                message=f"Took over the weights of {donor} after {row.epochs} epochs.",
            )
        )

    def ended(self, trial_id: str, *, failed: bool) -> None:
        """Have a trial whose process died go on from its checkpoint; the second death is its end.

        The system may have taken the memory for somebody else's process.
        """
        row = self.ledger.get(trial_id)
        if not failed or row is None or row.finished:
            return
        if trial_id not in self._died:
            self._died.add(trial_id)
            self._queue.insert(0, trial_id)
        else:
            self._finish(
                replace(
                    row,
                    state="Failed",
                    reason=Reason.OUT_OF_MEMORY.value,
                    message="The trial's process died twice, most likely for want of memory.",
                )
            )

    def _finish(self, row: Trial) -> None:
        if self.stopper is not None:
            self.stopper.close(row.id, row.score)
        self._update(row)

    def _update(self, row: Trial) -> None:
        self.ledger.record(row)
        self.on_trial(row)


def _held_out(point: CurvePoint, metrics: Mapping[str, float]) -> dict[str, float]:
    if point.validation_loss is None or point.validation_accuracy is None:
        return {}
    own = {"accuracy": point.validation_accuracy, LIKELIHOOD: point.validation_loss}
    return {**own, **{name: value for name, value in metrics.items() if name not in own}}


def finetune_ids(first: int, count: int) -> tuple[str, ...]:
    """Names of ``count`` fine-tunings after ``first`` heads."""
    return tuple(trial_id(first + offset + 1) for offset in range(count))
