"""The search stage: features once, heads in bulk, the best few fine-tuned from their heads, one choice.

1. Each backbone embeds the training and validation images once (``features``).
2. Heads are trained in batches and judged by cross-validation on the features (``head_trials``).
3. Suspected wrong labels come from the best head's held-out predictions (``label_noise``).
4. The best head of each backbone starts the fine-tunings, which are judged on a held-out part
   (``finetune_trials``); early stopping ends the worse ones.
5. A fine-tuned network is kept only when it beats its own linear probe beyond noise (``selection``); then its
   hyper-parameters are trained once more on all these images.

The test split is not read here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from ray import tune
from safetensors.torch import load_file

from tunesmith_api.reasons import SearchFailed
from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_package.preprocess import Preprocess
from tunesmith_package.store import Store
from tunesmith_trainer.devices import Device
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare.dataset import TRAIN, VALIDATION, Dataset
from tunesmith_trainer.search import engine, space
from tunesmith_trainer.search.backbones import ImageClassifier, Pretrained
from tunesmith_trainer.search.candidate import Candidate, CandidateFacts, scale_head, set_head
from tunesmith_trainer.search.feature_matrix import FeatureMatrix
from tunesmith_trainer.search.features import compute_features
from tunesmith_trainer.search.finetune import classify
from tunesmith_trainer.search.finetune_trials import (
    REFIT,
    FineTuneSource,
    FineTuneTask,
    FineTuneTrainable,
    finetune_ids,
    save_classifier,
)
from tunesmith_trainer.search.head_trials import HeadBatchTrainable, HeadSource, head_config, save_task
from tunesmith_trainer.search.heads import HeadConfig, HeadTask, TrainedHead, train_heads
from tunesmith_trainer.search.label_noise import ROUNDS, Suspect, find_suspects
from tunesmith_trainer.search.ledger import Ledger, Setting, Trial, trial_to_json
from tunesmith_trainer.search.selection import (
    SHARES,
    Choice,
    Contender,
    Judgement,
    choose,
    fold_count,
    judge,
    stratified_folds,
)
from tunesmith_trainer.search.study import EarlyStopper, Proposer
from tunesmith_trainer.verify.calibration import fit_temperature

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


@dataclass(frozen=True)
class SearchResult:
    """What the search found.

    Attributes:
        candidate: the chosen model.
        trials: all trials, in the order of their ids.
        suspects: suspected wrong labels, the most certain first.
        timings: seconds spent on features, heads and finetune.
        ended: one sentence: why the search ended.
    """

    candidate: Candidate
    trials: tuple[Trial, ...]
    suspects: tuple[Suspect, ...]
    timings: Mapping[str, float]
    ended: str


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

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the seconds of a block to ``timings``."""
        started = self.clock()
        try:
            yield
        finally:
            self.timings[what] = round(self.timings.get(what, 0.0) + self.clock() - started, 3)


def run_search(context: SearchContext) -> SearchResult:
    """Run or continue the search.

    Raises:
        SearchFailed: no trial gave a usable model.
        StoreError: the store stayed away or is full; everything finished is kept.
    """
    search = _Search(context)
    with context.timed("features"):
        search.embed()
    with engine.local_ray(context.device, engine.trial_slots(context.spec)):
        with context.timed("heads"):
            search.run_heads()
        with context.timed("finetune"):
            candidate = search.fine_tune_and_choose()
    trials = search.ledger.trials
    ended = search.ended or f"The search ended because all of its {len(trials)} trials were done."
    return SearchResult(candidate, trials, search.suspects, dict(context.timings), ended)


@dataclass(frozen=True)
class _Embedded:
    """A backbone with the features of all training and validation images."""

    pretrained: Pretrained
    preprocess: Preprocess
    features: FeatureMatrix
    weights_name: str


class _Search:
    """The steps of one search, in the order of ``run_search``."""

    def __init__(self, context: SearchContext) -> None:
        self.context, self.spec, self.dataset = context, context.spec, context.dataset
        self.ledger = Ledger(context.store, f"{context.prefix}ledger/")
        self.rows = self.dataset.rows(TRAIN, VALIDATION)
        self.labels = self.dataset.labels[self.rows].astype(np.int64)
        self.groups = self.dataset.groups[self.rows]
        self.classes = len(self.dataset.classes)
        self.seed = self.spec.search.seed
        validated = len(self.dataset.rows(VALIDATION)) > 0
        self.folds = fold_count(len(self.rows)) or (0 if validated else FINE_TUNE_FOLDS)
        self.weights = importance(self.dataset, self.rows, self.labels, self.classes)
        self.suspects: tuple[Suspect, ...] = ()
        self.embedded: dict[str, _Embedded] = {}
        # A run that goes on has the seconds left that the trials before it did not spend.
        self.started = context.clock() - sum(row.duration_seconds for row in self.ledger.trials)
        self.ended = ""
        self.strategies = space.strategies_of(self.spec)
        wanted = self.spec.search.max_fine_tune_trials if "FineTune" in self.strategies else 0
        # A fine-tuning starts from a head; where nothing else is allowed there is always one.
        least = 0 if "LinearProbe" in self.strategies else 1
        self.fine_tunings = max(least, min(wanted, self.spec.search.num_trials - 1))
        self.heads = max(1, self.spec.search.num_trials - self.fine_tunings)
        self.objective = self.spec.objectives[0]

    # Features

    def embed(self) -> None:
        """Embed all images with each backbone."""
        for name in space.backbone_choices(self.spec):
            pretrained = self.context.load_backbone(name)
            preprocess = replace(self.dataset.preprocess, mean=pretrained.mean, std=pretrained.std)
            with self.context.events.progress(
                f"features of {name}", total=len(self.rows), unit="images"
            ) as bar:
                features = compute_features(
                    self.dataset,
                    pretrained,
                    preprocess,
                    self.rows,
                    device=self.context.device,
                    store=self.context.store,
                    cache_dir=self.context.cache_dir,
                    on_images=bar.advance,
                )
            source = next(one for one in self.spec.backbones if one.name == name)
            self.embedded[name] = _Embedded(
                pretrained, preprocess, features, source.weights_uri or source.weights_name or ""
            )

    # Heads

    def head_task(self, backbone: str, part: IntArray, folds: IntArray) -> HeadTask:
        """A task on some of the rows (positions in ``self.rows``)."""
        return HeadTask(
            self.embedded[backbone].features,
            part,
            self.labels[part],
            self.weights[part],
            folds,
            self.classes,
            self.seed,
        )

    @property
    def head_folds(self) -> IntArray:
        """Cross-validation folds of all rows; on large sets only the validation split is held out."""
        if self.folds:
            return stratified_folds(self.labels, self.groups, self.folds, self.seed)
        return np.where(self.dataset.split[self.rows] == VALIDATION, 0, -1).astype(np.int64)

    def run_heads(self) -> None:
        """Train all heads, then look for suspected labels."""
        everything = np.arange(len(self.rows))
        tasks: dict[str, Path] = {}
        for name in self.embedded:
            tasks[name] = self.context.scratch / f"heads-{name}.npz"
            save_task(self.head_task(name, everything, self.head_folds), tasks[name])
        source = HeadSource(
            proposer=Proposer(self.spec, "LinearProbe", list(self.embedded), self.context.earlier),
            ledger=self.ledger,
            tasks=tasks,
            total=self.heads,
            objective=self.objective.metric,
            over=self.over,
            on_trial=self.tell,
            device=self.context.device.type,
            threads=self.context.device.threads,
        )
        share = engine.trial_share(self.context.device, 1, None)
        if not self._heads_done(source.total):
            engine.run(HeadBatchTrainable, source, share, parallel=1, scratch=self.context.scratch)
        self.find_suspects()

    def _heads_done(self, total: int) -> bool:
        done = [row for row in self.ledger.trials if row.strategy == "LinearProbe" and row.finished]
        return len(done) >= total

    def best_head(self, backbone: str | None = None) -> Trial:
        """The linear probe of the best score, of one backbone or of all."""
        rows = [
            row
            for row in self.ledger.trials
            if row.strategy == "LinearProbe"
            and row.score is not None
            and backbone in (None, row.backbone)
            and row.backbone in self.embedded
        ]
        if not rows:
            raise SearchFailed(
                "No linear head could be trained on the features.",
                "See the failed trials; a lower learning rate in spec.search.parameters may help.",
            )
        return min(rows, key=lambda row: (row.score, row.id))

    def backbones_with_heads(self) -> list[str]:
        """Backbones that a fine-tuning can start from: a small search need not have drawn each of them."""
        scored = {
            row.backbone
            for row in self.ledger.trials
            if row.strategy == "LinearProbe" and row.score is not None
        }
        return [name for name in self.embedded if name in scored]

    def train_probe(self, trial: Trial, part: IntArray, folds: IntArray) -> TrainedHead:
        """Train the head of a trial on some of the rows."""
        return self.train_head(trial.backbone, head_config(trial.parameters), part, folds)

    def train_head(self, backbone: str, config: HeadConfig, part: IntArray, folds: IntArray) -> TrainedHead:
        """Train one head on some of the rows."""
        task = self.head_task(backbone, part, folds)
        return train_heads(task, [config], device=self.context.device.type, on_epoch=lambda heads: None)[0]

    def find_suspects(self) -> None:
        """Look for wrong labels; with labelNoise: Drop they get no weight from here on."""
        policy = self.spec.dataset.checks.label_noise
        if policy == "Ignore" or self.classes < 2:
            return
        best = self.best_head()
        folds = stratified_folds(self.labels, self.groups, self.folds or 3, self.seed)
        task = self.head_task(best.backbone, np.arange(len(self.rows)), folds)
        with self.context.events.progress("label check", total=ROUNDS, unit="rounds") as bar:
            self.suspects = find_suspects(
                task,
                head_config(best.parameters),
                self.rows,
                device=self.context.device.type,
                on_round=bar.advance,
            )
        if policy == "Drop" and self.suspects:
            suspected = np.isin(self.rows, [one.row for one in self.suspects])
            self.weights = np.where(suspected, np.float32(0), self.weights)

    # Fine-tuning and the choice

    def fine_tune_and_choose(self) -> Candidate:
        """Fine-tune from the best heads, choose, and build the model that leaves the search."""
        choice, held_out, part = self._fine_tune() if self.fine_tunings else (_no_fine_tuning(), None, None)
        if choice.contender is None:
            return self._probe_candidate(choice)
        row = self.ledger.get(choice.contender.trial_id)
        assert row is not None
        assert held_out is not None
        assert part is not None
        temperature = fit_temperature(held_out, self.labels[part], self.weights[part])
        model = self._refit(row, choice.contender.share) if self.folds else None
        if model is None:
            model = self._as_judged(row, choice)
        return self._candidate(model, row, choice, float(temperature))

    def _probe_candidate(self, choice: Choice) -> Candidate:
        best = self.best_head()
        everything = np.arange(len(self.rows))
        probe = self.train_probe(best, everything, self.head_folds)
        judged = np.flatnonzero(self.head_folds >= 0)
        temperature = float(
            fit_temperature(probe.held_out_logits[judged], self.labels[judged], self.weights[judged])
        )
        model = ImageClassifier(self.embedded[best.backbone].pretrained.backbone, self.classes)
        set_head(model, probe.head)
        return self._candidate(model, best, choice, temperature)

    def _candidate(self, model: ImageClassifier, row: Trial, choice: Choice, temperature: float) -> Candidate:
        scale_head(model.cpu(), temperature)
        source = self.embedded[row.backbone]
        probe = self.best_head(row.backbone)
        facts = CandidateFacts(
            backbone=row.backbone,
            weights=source.weights_name,
            weights_digest=source.pretrained.weights_digest,
            strategy=row.strategy,
            trial_id=row.id,
            image_size=source.preprocess.image_size,
            mean=source.preprocess.mean,
            std=source.preprocess.std,
            num_classes=self.classes,
            temperature=temperature,
            selection=choice.sentence,
            probe_accuracy=probe.metrics["accuracy"],
            probe_loss=probe.metrics["negativeLogLikelihood"],
        )
        return Candidate(model.to(memory_format=torch.contiguous_format).eval(), facts)

    def fine_tune_parts(self) -> tuple[IntArray, IntArray]:
        """Positions to train on and positions held out, for the fine-tunings that are compared.

        Images without weight, such as those of suspected labels that are to be dropped, are in neither.
        """
        if self.folds:
            held_out = stratified_folds(self.labels, self.groups, FINE_TUNE_FOLDS, self.seed + 1) == 0
        else:
            held_out = self.dataset.split[self.rows] == VALIDATION
        used = self.weights > 0
        return np.flatnonzero(used & ~held_out), np.flatnonzero(used & held_out)

    def _fine_tune(self) -> tuple[Choice, FloatArray | None, IntArray | None]:
        train, held_out = self.fine_tune_parts()
        tasks = {name: self._task(name, "part", train, held_out) for name in self.backbones_with_heads()}
        ids = finetune_ids(self.heads, self.fine_tunings)
        known = [row for one in ids if (row := self.ledger.get(one)) is not None]
        source = self._source(tasks, ids, known)
        parallel = min(self.spec.search.parallel_trials, self.fine_tunings)
        unfinished = sum(row.finished for row in known) < len(ids)
        # Ray asks for no more once it was told that there are none; a trial that died after that runs here.
        while unfinished or source.waiting:
            unfinished = False
            share = engine.trial_share(self.context.device, parallel, self.spec.compute.gpus_per_trial)
            engine.run(
                FineTuneTrainable,
                source,
                share,
                parallel=parallel,
                scratch=self.context.scratch,
                mutations=_mutations() if self.spec.search.algorithm.name == "PBT" else None,
                seed=self.seed,
            )
        return self._choose(tasks, ids, held_out)

    def _task(
        self, backbone: str, name: str, train: IntArray, held_out: IntArray
    ) -> tuple[FineTuneTask, str]:
        """Files for the fine-tunings of one backbone: a head, from their training part, and the images."""
        trial = self.best_head(backbone)
        source = self.embedded[backbone]
        folder = self.context.scratch / f"{name}-{backbone}"
        folder.mkdir(exist_ok=True)
        start = self.train_head(backbone, START_HEAD, train, np.full(len(train), -1, np.int64))
        model = ImageClassifier(source.pretrained.backbone, self.classes)
        set_head(model, start.head)
        save_classifier(model, folder / "probe.safetensors")
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for part, positions in (("train", train), ("held_out", held_out)):
            arrays[f"{part}_rows"] = self.rows[positions]
            arrays[f"{part}_labels"] = self.labels[positions]
            arrays[f"{part}_weights"] = self.weights[positions]
        np.savez(folder / "images.npz", **arrays)  # type: ignore[arg-type]
        task = FineTuneTask(
            backbone,
            self.classes,
            source.preprocess,
            folder / "probe.safetensors",
            folder / "images.npz",
            self.dataset.pixels.path,
            self.dataset.imbalance == "Sampling",
        )
        return task, trial.id

    def _source(
        self, tasks: Mapping[str, tuple[FineTuneTask, str]], ids: tuple[str, ...], known: Sequence[Trial]
    ) -> FineTuneSource:
        parallel = min(self.spec.search.parallel_trials, len(ids))
        share = engine.trial_share(self.context.device, parallel, self.spec.compute.gpus_per_trial)
        refit = ids == (REFIT,)
        return FineTuneSource(
            proposer=None if refit else Proposer(self.spec, "FineTune", list(tasks), self.context.earlier),
            stopper=None if refit else EarlyStopper(self.spec, self.spec.transfer.max_epochs, known),
            ledger=self.ledger,
            store=self.context.store,
            prefix=f"{self.context.prefix}checkpoints/",
            tasks=tasks,
            backbone=self.best_head().backbone,
            ids=ids,
            transfer=self.spec.transfer,
            prescribed=()
            if self.spec.search.parameters or self.spec.search.algorithm.name == "Grid"
            else FIRST_FINE_TUNINGS,
            over=(lambda: False) if refit else self.fine_tuned_enough,
            on_trial=self.tell,
            folder=self.context.scratch,
            device=self.context.device.type,
            threads=int(share.cpus),
            seed=self.seed,
        )

    def _choose(
        self, tasks: Mapping[str, tuple[FineTuneTask, str]], ids: tuple[str, ...], held_out: IntArray
    ) -> tuple[Choice, FloatArray | None, IntArray]:
        """Judge every fine-tuning that had all its epochs, and its probe, on the held-out part."""
        rows = [row for one in ids if (row := self.ledger.get(one)) is not None and row.state == "Succeeded"]
        best = self.best_head()
        train, _ = self.fine_tune_parts()
        head = self.train_probe(best, train, np.full(len(train), -1, np.int64)).head
        features = self.embedded[best.backbone].features.read(held_out)
        probe = judge(head.logits(features), self.labels[held_out])
        contenders: list[Contender] = []
        logits: dict[tuple[str, float], FloatArray] = {}
        with self.context.events.progress("judge", total=len(rows), unit="fine-tunings") as bar:
            for row in rows:
                for share, outputs in self._outputs(tasks[row.backbone][0], row):
                    logits[row.id, share] = outputs
                    contenders.append(Contender(row.id, share, judge(outputs, self.labels[held_out])))
                bar.advance()
        choice = choose(probe, contenders) if "LinearProbe" in self.strategies else _best(contenders)
        chosen = choice.contender
        return choice, None if chosen is None else logits[chosen.trial_id, chosen.share], held_out

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
            self.context.store.download(row.checkpoint, path)
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

    def _as_judged(self, row: Trial, choice: Choice) -> ImageClassifier:
        """The very network that was judged: on large sets a refit would gain little."""
        assert choice.contender is not None
        train, held_out = self.fine_tune_parts()
        task, _ = self._task(row.backbone, "part", train, held_out)
        return self._network(task, row, choice.contender.share)

    def _refit(self, row: Trial, share: float) -> ImageClassifier | None:
        """Train the chosen hyper-parameters once more, on all training and validation images.

        Returns None when that fails, as any trial may; there is still the network that was judged.
        """
        everything = np.flatnonzero(self.weights > 0)
        task, parent = self._task(row.backbone, "all", everything, np.empty(0, np.int64))
        source = self._source({row.backbone: (task, parent)}, (REFIT,), ())
        source.backbone, source.prescribed = row.backbone, (row.parameters,)
        done = self.ledger.get(REFIT)
        unfinished = done is None or not done.finished
        while unfinished or source.waiting:
            unfinished = False
            gpus = self.spec.compute.gpus_per_trial
            engine.run(
                FineTuneTrainable,
                source,
                engine.trial_share(self.context.device, 1, gpus),
                parallel=1,
                scratch=self.context.scratch,
            )
        done = self.ledger.get(REFIT)
        if done is None or done.state != "Succeeded":
            why = done.message if done else "it never started"
            self.context.events.note(
                f"The last fine-tuning on all images failed ({why}), so the model is {row.id} as judged."
            )
            return None
        return self._network(task, done, share)

    def _network(self, task: FineTuneTask, row: Trial, share: float) -> ImageClassifier:
        model = task.classifier()
        weights = self._interpolate(task, row, share)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        return model

    # Ends and news

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

    def _reaches(self, row: Trial, goal: float) -> bool:
        usable = row.state == "Succeeded" and row.strategy in self.strategies
        value = row.metrics.get(self.objective.metric) if usable else None
        return value is not None and (value >= goal if self.objective.maximize else value <= goal)

    def tell(self, trial: Trial) -> None:
        """Pass a changed trial on."""
        self.context.events.emit("trial", trial=trial_to_json(trial))
        self.context.on_trial(trial)


def importance(dataset: Dataset, rows: IntArray, labels: IntArray, classes: int) -> FloatArray:
    """Weight of each image: its own, over its class's share where classes are to be balanced."""
    weights = dataset.weights[rows].astype(np.float64)
    if dataset.imbalance in ("Loss", "Sampling"):
        totals = np.bincount(labels, weights=weights, minlength=classes)
        weights = weights * weights.sum() / (classes * np.maximum(totals[labels], 1e-12))
    return np.asarray(weights, np.float32)


def _no_fine_tuning() -> Choice:
    return choose(Judgement(np.empty(0, np.float32), np.empty(0, np.bool_)), [])


def _best(contenders: Sequence[Contender]) -> Choice:
    """Without LinearProbe among the strategies the best fine-tuned network is the model."""
    if not contenders:
        raise SearchFailed(
            "No fine-tuning came to its end, and spec.transfer.strategies allows nothing else.",
            "See the failed trials in the ledger, or add LinearProbe to the strategies.",
        )
    best = min(contenders, key=lambda one: one.judgement.loss)
    return Choice(best, f"{best.trial_id} has the best held-out likelihood of the fine-tunings.")


def _mutations() -> dict[str, object]:
    """Where population based training draws new rates; see ``finetune_trials.EVOLVING``."""
    return {
        "finetune": {
            "learning_rate": tune.loguniform(1e-4, 3e-3),
            "backbone_learning_rate_factor": tune.loguniform(0.05, 1.0),
            "weight_decay": tune.loguniform(1e-3, 0.3),
        }
    }
