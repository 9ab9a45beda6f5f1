"""Features of every image, and the linear heads on them: what a search learns before it fine-tunes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tunesmith_api.reasons import SearchFailed
from tunesmith_package.preprocess import Preprocess
from tunesmith_trainer.prepare.dataset import TRAIN, VALIDATION, Dataset
from tunesmith_trainer.search import engine, space
from tunesmith_trainer.search.backbones import Pretrained
from tunesmith_trainer.search.context import Budget, SearchContext
from tunesmith_trainer.search.feature_matrix import FeatureMatrix
from tunesmith_trainer.search.features import compute_features
from tunesmith_trainer.search.head_trials import HeadBatchTrainable, HeadSource, head_config, save_task
from tunesmith_trainer.search.heads import HeadConfig, HeadTask, TrainedHead, train_heads
from tunesmith_trainer.search.label_noise import ROUNDS, Suspect, find_suspects
from tunesmith_trainer.search.ledger import Ledger, Trial
from tunesmith_trainer.search.selection import fold_count, stratified_folds
from tunesmith_trainer.search.study import Proposer

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

FOLDS_WITHOUT_VALIDATION = 3
"""Of large sets that have no validation split."""


@dataclass(frozen=True)
class Embedded:
    """A backbone with the features of all training and validation images."""

    pretrained: Pretrained
    preprocess: Preprocess
    features: FeatureMatrix
    weights_name: str


class Probes:
    """The features of one search, its heads, and the suspected labels that they find.

    Attributes:
        rows: dataset rows of the training and validation images, int64 ``[n]``; the features have this order.
        labels: class of each, int64 ``[n]``.
        groups: near duplicates share a number, int64 ``[n]``.
        weights: importance of each, float32 ``[n]``.
        folds: of the cross-validation; 0 where the validation split alone is held out.
        suspects: suspected wrong labels, after ``find_suspects``.
        embedded: by backbone, after ``embed``.
    """

    def __init__(self, context: SearchContext, ledger: Ledger, budget: Budget) -> None:
        """Take the labels of the training and validation images."""
        self.context, self.spec, self.dataset = context, context.spec, context.dataset
        self.ledger, self.budget = ledger, budget
        self.rows = self.dataset.rows(TRAIN, VALIDATION)
        self.labels = self.dataset.labels[self.rows].astype(np.int64)
        self.groups = self.dataset.groups[self.rows]
        self.classes = len(self.dataset.classes)
        self.seed = self.spec.search.seed
        validated = len(self.dataset.rows(VALIDATION)) > 0
        self.folds = fold_count(len(self.rows)) or (0 if validated else FOLDS_WITHOUT_VALIDATION)
        self.weights = importance(self.dataset, self.rows, self.labels, self.classes)
        self.suspects: tuple[Suspect, ...] = ()
        self.embedded: dict[str, Embedded] = {}

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
            self.embedded[name] = Embedded(
                pretrained, preprocess, features, source.weights_uri or source.weights_name or ""
            )

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
            total=self.budget.heads,
            objective=self.budget.objective.metric,
            over=self.budget.over,
            on_trial=self.context.tell,
            device=self.context.device.type,
            threads=self.context.device.threads,
        )
        # The features are on this machine's disk.
        share = engine.trial_share(self.context.device, 1, None, self.context.machines.first)
        if not self._heads_done(source.total):
            if note := source.proposer.left_out(source.total):
                self.context.events.note(note)
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
        """Train one head on some of the rows.

        Raises:
            SearchFailed: it diverged, although the models of its cross-validation did not.
        """
        task = self.head_task(backbone, part, folds)
        trained = train_heads(task, [config], device=self.context.device.type)[0]
        if not np.isfinite(trained.head.weight).all():
            raise SearchFailed(
                f"A linear head on {backbone} diverged when it was trained on all of its images.",
                "Lower the learning rate in spec.search.parameters.",
            )
        return trained

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


def importance(dataset: Dataset, rows: IntArray, labels: IntArray, classes: int) -> FloatArray:
    """Weight of each image: its own, over its class's share where classes are to be balanced."""
    weights = dataset.weights[rows].astype(np.float64)
    if dataset.imbalance in ("Loss", "Sampling"):
        totals = np.bincount(labels, weights=weights, minlength=classes)
        weights = weights * weights.sum() / (classes * np.maximum(totals[labels], 1e-12))
    return np.asarray(weights, np.float32)
