"""The fine-tunings of a search: run, judged on a held-out part, and trained once more on everything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from tunesmith_api.reasons import ObjectMissing, SearchFailed
from tunesmith_trainer.prepare.dataset import VALIDATION
from tunesmith_trainer.search import engine
from tunesmith_trainer.search.backbones import ImageClassifier
from tunesmith_trainer.search.candidate import set_head
from tunesmith_trainer.search.context import Budget, SearchContext
from tunesmith_trainer.search.finetune import classify
from tunesmith_trainer.search.finetune_task import FineTuneTask, save_classifier
from tunesmith_trainer.search.finetune_trials import FineTuneSource, FineTuneTrainable, finetune_ids
from tunesmith_trainer.search.head_trials import head_settings
from tunesmith_trainer.search.heads import HeadConfig
from tunesmith_trainer.search.judgement import Judgement, judge, leading_name
from tunesmith_trainer.search.ledger import REFIT, Ledger, Setting, Trial
from tunesmith_trainer.search.machines import Machines
from tunesmith_trainer.search.population import mutable_parameters, mutations
from tunesmith_trainer.search.probes import Probes
from tunesmith_trainer.search.selection import (
    SHARES,
    Choice,
    Contender,
    choose,
    stratified_folds,
)
from tunesmith_trainer.search.shelf import Shelf
from tunesmith_trainer.search.stored_weights import fetch_weights
from tunesmith_trainer.search.study import EarlyStopper, Proposer
from tunesmith_trainer.verify.calibration import fit_temperature
from tunesmith_trainer.workspace import ObjectDamaged

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

FIRST_FINE_TUNINGS: tuple[Mapping[str, Setting], ...] = (
    {"learningRate": 1e-3, "backboneLearningRateFactor": 0.3},
    {"learningRate": 1e-3, "backboneLearningRateFactor": 0.1},
)
"""Where the search begins: the rates that did best on a few hundred photos, and more careful ones."""
START_HEAD = HeadConfig(learning_rate=1e-3, weight_decay=1.0, epochs=10, label_smoothing=0.1)
"""The head that fine-tunings start from: trained softly, because the best head leaves hardly any loss on its
own training images, and without a loss the network below it has nothing to learn from."""
FINE_TUNE_FOLDS = 3
"""On small sets one in three images is held out from the fine-tunings that are compared."""


class FineTunings:
    """Runs the fine-tunings, and judges them."""

    def __init__(self, context: SearchContext, ledger: Ledger, budget: Budget, probes: Probes) -> None:
        """Nothing runs yet."""
        self.context, self.spec, self.dataset = context, context.spec, context.dataset
        self.ledger, self.budget, self.probes = ledger, budget, probes
        self._shelf = Shelf(context.store, f"{context.prefix}shelf/", context.cache_dir)

    @property
    def prescribed(self) -> tuple[Mapping[str, Setting], ...]:
        """Hyper-parameters of the first fine-tunings, unless the spec has a space of its own."""
        own = self.spec.search.parameters or self.spec.search.algorithm.name == "Grid"
        return () if own else FIRST_FINE_TUNINGS

    @property
    def evolving(self) -> bool:
        """Whether population based training changes the fine-tunings as they run."""
        return self.spec.search.algorithm.name == "PBT"

    @property
    def machines(self) -> Machines:
        """Where fine-tunings run; a population stays on one machine, where its trials copy weights."""
        return self.context.machines.first if self.evolving else self.context.machines

    def clear_shelf(self) -> None:
        """Remove from the store what only other machines needed."""
        if self.context.machines.count > 1:
            self._shelf.clear()

    def fine_tune_parts(self) -> tuple[IntArray, IntArray]:
        """Positions to train on and positions held out, for the fine-tunings that are compared.

        Images without weight, such as those of suspected labels that are to be dropped, are in neither.
        """
        if self.probes.folds:
            held_out = (
                stratified_folds(
                    self.probes.labels, self.probes.groups, FINE_TUNE_FOLDS, self.probes.seed + 1
                )
                == 0
            )
        else:
            held_out = self.dataset.split[self.probes.rows] == VALIDATION
        used = self.probes.weights > 0
        return np.flatnonzero(used & ~held_out), np.flatnonzero(used & held_out)

    def run(self) -> tuple[Choice, FloatArray | None, IntArray | None]:
        """Run what is left of them; the choice, its held-out logits, and the positions of these."""
        train, held_out = self.fine_tune_parts()
        tasks = {
            name: self._task(name, "part", train, held_out) for name in self.probes.backbones_with_heads()
        }
        ids = finetune_ids(self.budget.heads, self.budget.fine_tunings)
        known = [row for one in ids if (row := self.ledger.get(one)) is not None]
        source = self._source(tasks, ids, known)
        parallel = self._parallel(self.budget.fine_tunings)
        unfinished = sum(row.finished for row in known) < len(ids)
        if unfinished and parallel < min(self.spec.search.parallel_trials, len(ids)):
            self.context.events.note(
                f"{parallel} fine-tunings run at once instead of {self.spec.search.parallel_trials}, because "
                f"{'this machine has' if self.machines.count == 1 else 'these machines have'} no more "
                "processors. Lower spec.search.parallelTrials, or give the job more."
            )
        if unfinished and self.machines.count < self.context.machines.count:
            self.context.events.note(
                "Population based training runs in one pod: its trials copy each other's weights on disk. "
                "Set spec.compute.workers to 0, or choose another algorithm to use the others."
            )
        if unfinished and source.proposer is not None and (note := source.proposer.left_out(len(ids))):
            self.context.events.note(note)
        # Ray asks for no more once it was told that there are none; a trial that died after that runs here.
        while unfinished or source.waiting:
            unfinished = False
            share = self._share(parallel)
            engine.run(
                FineTuneTrainable,
                source,
                share,
                parallel=parallel,
                scratch=self.context.scratch,
                mutations=mutations(self.spec) if self.evolving else None,
                seed=self.probes.seed,
            )
        return self._choose(tasks, ids, held_out)

    def _parallel(self, trials: int) -> int:
        """How many of these trials run at once: no more than there are processors."""
        return min(self.spec.search.parallel_trials, trials, self.machines.slots(self.context.device))

    def _share(self, parallel: int) -> engine.Share:
        gpus = self.spec.compute.gpus_per_trial
        return engine.trial_share(self.context.device, parallel, gpus, self.machines)

    def _task(self, backbone: str, name: str, train: IntArray, held_out: IntArray) -> FineTuneTask:
        """Files for the fine-tunings of one backbone: a head, from their training part, and the images."""
        source = self.probes.embedded[backbone]
        folder = self.context.scratch / f"{name}-{backbone}"
        folder.mkdir(exist_ok=True)
        start = self.probes.train_head(backbone, START_HEAD, train, np.full(len(train), -1, np.int64))
        model = ImageClassifier(source.pretrained.backbone, self.probes.classes)
        set_head(model, start.head)
        save_classifier(model, folder / "probe.safetensors")
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for part, positions in (("train", train), ("held_out", held_out)):
            arrays[f"{part}_rows"] = self.probes.rows[positions]
            arrays[f"{part}_labels"] = self.probes.labels[positions]
            arrays[f"{part}_weights"] = self.probes.weights[positions]
        np.savez(folder / "images.npz", **arrays)  # type: ignore[arg-type]
        return FineTuneTask(
            backbone,
            self.probes.classes,
            source.preprocess,
            folder / "probe.safetensors",
            folder / "images.npz",
            self.dataset.pixels.path,
            self.dataset.imbalance == "Sampling",
        )

    def _source(
        self, tasks: Mapping[str, FineTuneTask], ids: tuple[str, ...], known: Sequence[Trial]
    ) -> FineTuneSource:
        share = self._share(self._parallel(len(ids)))
        refit = ids == (REFIT,)
        return FineTuneSource(
            proposer=None if refit else Proposer(self.spec, "FineTune", list(tasks), self.context.earlier),
            stopper=None if refit else EarlyStopper(self.spec, self.spec.transfer.max_epochs, known),
            ledger=self.ledger,
            store=self.context.store,
            prefix=f"{self.context.prefix}checkpoints/",
            tasks=tasks,
            start_head=head_settings(START_HEAD),
            backbone=self.probes.best_head().backbone,
            ids=ids,
            transfer=self.spec.transfer,
            prescribed=self.prescribed,
            over=(lambda: False) if refit else self.budget.fine_tuned_enough,
            on_trial=self.context.tell,
            folder=self.context.scratch,
            device=self.context.device.type,
            threads=int(share.cpus),
            seed=self.probes.seed,
            objective=self.budget.objective.metric,
            spent=self.budget.ending,
            mutable={one.name for one in mutable_parameters(self.spec)} if self.evolving else (),
            shelf=self._shelf if self.machines.count > 1 else None,
        )

    def _choose(
        self, tasks: Mapping[str, FineTuneTask], ids: tuple[str, ...], held_out: IntArray
    ) -> tuple[Choice, FloatArray | None, IntArray]:
        """Judge every fine-tuning that had all its epochs, and its probe, on the held-out part."""
        rows = [row for one in ids if (row := self.ledger.get(one)) is not None and row.state == "Succeeded"]
        best = self.probes.best_head()
        train, _ = self.fine_tune_parts()
        head = self.probes.train_probe(best, train, np.full(len(train), -1, np.int64)).head
        features = self.probes.embedded[best.backbone].features.read(held_out)
        probe = self._judgement(head.logits(features), held_out)
        contenders: list[Contender] = []
        logits: dict[tuple[str, float], FloatArray] = {}
        with self.context.events.progress("judge", total=len(rows), unit="fine-tunings") as bar:
            for row in rows:
                try:
                    for share, outputs in self._outputs(tasks[row.backbone], row):
                        logits[row.id, share] = outputs
                        contenders.append(Contender(row.id, share, self._judgement(outputs, held_out)))
                except (ObjectMissing, ObjectDamaged) as error:
                    self.context.events.note(f"{row.id} cannot be chosen: {error.message}")
                bar.advance()
        recommended = [row.id for known in self.prescribed for row in rows if row.parameters == known]
        choice = (
            choose(probe, contenders, recommended, self.budget.objective.metric)
            if "LinearProbe" in self.budget.strategies
            else _best(contenders, self.budget.objective.metric)
        )
        chosen = choice.contender
        return choice, None if chosen is None else logits[chosen.trial_id, chosen.share], held_out

    def _judgement(self, logits: FloatArray, held_out: IntArray) -> Judgement:
        return judge_calibrated(logits, self.probes.labels[held_out], self.probes.weights[held_out])

    def _outputs(self, task: FineTuneTask, row: Trial) -> Iterator[tuple[float, FloatArray]]:
        """Held-out logits of a fine-tuned network at each share of the way from its probe."""
        model = task.classifier().to(self.context.device.type).to(memory_format=torch.channels_last)
        _, images = task.parts()
        for share in SHARES:
            weights = self._interpolate(task, row, share)
            yield share, classify(model, weights, images, task.preprocess, self.context.device)

    def _interpolate(self, task: FineTuneTask, row: Trial, share: float) -> dict[str, torch.Tensor]:
        path = self.context.scratch / f"{row.id}-final.safetensors"
        if not path.exists():
            fetch_weights(self.context.store, row.checkpoint, path, "")
        averaged = load_file(path)
        device = self.context.device.type
        initial = load_file(task.weights)
        return {
            name.removeprefix("average/"): initial[name.removeprefix("average/")]
            .lerp(value, share)
            .to(device)
            for name, value in averaged.items()
            if name.startswith("average/")
        }

    def as_judged(self, row: Trial, choice: Choice) -> ImageClassifier:
        """The very network that was judged: on large sets a refit would gain little."""
        assert choice.contender is not None
        train, held_out = self.fine_tune_parts()
        task = self._task(row.backbone, "part", train, held_out)
        return self._network(task, row, choice.contender.share)

    def refit(self, row: Trial, share: float) -> ImageClassifier | None:
        """Train the chosen hyper-parameters once more, on all training and validation images.

        Returns None when that fails, as any trial may; there is still the network that was judged.
        """
        done = self.ledger.get(REFIT)
        if done is not None and (done.backbone, done.parameters) != (row.backbone, row.parameters):
            # An earlier run chose another trial, whose checkpoint is damaged by now.
            self.context.events.note(
                f"The last fine-tuning was that of another trial, so the model is {row.id} as judged."
            )
            return None
        everything = np.flatnonzero(self.probes.weights > 0)
        task = self._task(row.backbone, "all", everything, np.empty(0, np.int64))
        source = self._source({row.backbone: task}, (REFIT,), ())
        source.backbone, source.prescribed = row.backbone, (row.parameters,)
        unfinished = done is None or not done.finished
        while unfinished or source.waiting:
            unfinished = False
            engine.run(FineTuneTrainable, source, self._share(1), parallel=1, scratch=self.context.scratch)
        done = self.ledger.get(REFIT)
        why = "it never started" if done is None else done.message
        if done is not None and done.state == "Succeeded":
            try:
                return self._network(task, done, share)
            except (ObjectMissing, ObjectDamaged) as error:
                why = error.message
        self.context.events.note(
            f"The last fine-tuning on all images failed ({why}), so the model is {row.id} as judged."
        )
        return None

    def _network(self, task: FineTuneTask, row: Trial, share: float) -> ImageClassifier:
        model = task.classifier()
        weights = self._interpolate(task, row, share)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        return model


def judge_calibrated(logits: FloatArray, labels: IntArray, weights: FloatArray) -> Judgement:
    """Judge a network as it would leave the search: with its temperature.

    Args:
        logits: held-out ``[n, K]``.
        labels: classes ``[n]``.
        weights: importance of each image for the temperature ``[n]``.
    """
    usable = np.isfinite(logits).all(1)
    temperature = fit_temperature(logits[usable], labels[usable], weights[usable])
    return judge(logits / np.float32(temperature), labels)


def _best(contenders: Sequence[Contender], objective: str) -> Choice:
    """Without LinearProbe among the strategies the best fine-tuned network is the model."""
    if not contenders:
        raise SearchFailed(
            "No fine-tuning came to its end, and spec.transfer.strategies allows nothing else.",
            "See the failed trials in the ledger, or add LinearProbe to the strategies.",
        )
    best = min(contenders, key=lambda one: one.judgement.score(objective))
    name = leading_name(objective)
    return Choice(best, f"{best.trial_id} has the best held-out {name} of the fine-tunings.")
