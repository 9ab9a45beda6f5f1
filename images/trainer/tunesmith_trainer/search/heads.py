"""Many linear heads trained at once on the same features.

All heads of a batch, and for each of them one model per cross-validation fold, see the same mini-batches of
features, so one matrix product serves them all. Each head keeps its own learning rate, weight decay, label
smoothing and number of epochs; each step is torch's fused AdamW, called as a function: the optimiser class
would import torch's compiler first, which takes longer than the heads of a small set.

Rows are read from the feature file mini-batch by mini-batch, all at once only where they are few: memory does
not grow with the dataset.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.adamw import adamw

from tunesmith_trainer.search.feature_matrix import FeatureMatrix

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

BATCH_SIZE = 64
MAX_PARAMETERS = 64_000_000
"""Head parameters held at once (each with its gradient and two moments, so 1 GB in float32)."""

MAX_KEPT = 8_000_000
"""Features of a small set that are kept in memory (32 MB)."""


@dataclass(frozen=True)
class HeadConfig:
    """Hyper-parameters of one linear head."""

    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    epochs: int = 20
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Scaling:
    """Standardisation of features: ``(x - mean) / std`` per dimension, both float32 ``[D]``."""

    mean: FloatArray
    std: FloatArray


@dataclass(frozen=True)
class Head:
    """A trained linear head on raw (unscaled) features: ``logits = features @ weight.T + bias``.

    Attributes:
        weight: float32 ``[K, D]``.
        bias: float32 ``[K]``.
    """

    weight: FloatArray
    bias: FloatArray

    def logits(self, features: FloatArray) -> FloatArray:
        """Logits ``[n, K]`` of features ``[n, D]``."""
        return features @ self.weight.T + self.bias


@dataclass(frozen=True)
class TrainedHead:
    """A head with what cross-validation says of it.

    Attributes:
        head: trained on all rows.
        held_out_logits: float32 ``[n, K]``; row i comes from the model that did not see row i. NaN for rows
            that belong to no fold.
    """

    head: Head
    held_out_logits: FloatArray


@dataclass(frozen=True)
class HeadTask:
    """What all heads of a batch have in common.

    Attributes:
        features: the feature matrix.
        rows: rows of ``features`` to train on, int64 ``[n]``.
        labels: class of each row, int64 ``[n]``.
        weights: importance of each row in the loss, float32 ``[n]``; 0 leaves a row out of training.
        folds: fold of each row in which it is held out, int64 ``[n]``; -1 never.
        num_classes: K.
        seed: of the order of the mini-batches.
    """

    features: FeatureMatrix
    rows: IntArray
    labels: IntArray
    weights: FloatArray
    folds: IntArray
    num_classes: int
    seed: int = 0

    @property
    def num_folds(self) -> int:
        """Number of folds F; 0 without cross-validation."""
        return int(self.folds.max(initial=-1)) + 1


def measure_scaling(task: HeadTask) -> Scaling:
    """Mean and standard deviation of each feature over the rows, in one bounded pass.

    The deviation has a floor of a thousandth of the overall one, so that dead features stay small.
    """
    total = np.zeros(task.features.dim)
    squares = np.zeros(task.features.dim)
    for _, chunk in task.features.chunks(task.rows):
        wide = chunk.astype(np.float64)
        total += wide.sum(0)
        squares += np.square(wide).sum(0)
    mean = total / len(task.rows)
    variance = np.maximum(squares / len(task.rows) - np.square(mean), 0.0)
    std = np.maximum(np.sqrt(variance), 1e-3 * math.sqrt(variance.mean()) + 1e-12)
    return Scaling(mean.astype(np.float32), std.astype(np.float32))


def train_heads(task: HeadTask, configs: Sequence[HeadConfig], *, device: str) -> list[TrainedHead]:
    """Train a head for each configuration and its cross-validation models, as many at once as memory allows.

    Args:
        task: the data.
        configs: H configurations.
        device: ``cpu`` or ``cuda``.

    Returns:
        H trained heads in the order of ``configs``.
    """
    trained: list[TrainedHead] = []
    for batch in _batches(task, configs, task.num_folds + 1, device):
        batch.train()
        heads, logits = batch.heads(), batch.held_out_logits()
        trained += [TrainedHead(head, held_out) for head, held_out in zip(heads, logits, strict=True)]
    return trained


def cross_validate(task: HeadTask, configs: Sequence[HeadConfig], *, device: str) -> list[FloatArray]:
    """Held-out logits as of ``train_heads``, without training the heads on all rows.

    Args:
        task: the data, with one fold at least.
        configs: H configurations.
        device: ``cpu`` or ``cuda``.

    Returns:
        For each configuration the ``held_out_logits`` of a ``TrainedHead``.
    """
    held_out: list[FloatArray] = []
    for batch in _batches(task, configs, task.num_folds, device):
        batch.train()
        held_out += list(batch.held_out_logits())
    return held_out


def _batches(task: HeadTask, configs: Sequence[HeadConfig], models: int, device: str) -> Iterator[_HeadBatch]:
    at_once = max(1, MAX_PARAMETERS // (models * task.features.dim * task.num_classes))
    scaling = measure_scaling(task)
    for start in range(0, len(configs), at_once):
        yield _HeadBatch(task, scaling, configs[start : start + at_once], models, device)


class _HeadBatch:
    """H heads with M models each; column ``(h, m, k)`` of the product is class k of model m of head h.

    Model m does not see fold m; with M of F + 1 the last one sees all rows. Inside, the heads lie in the
    order of their epochs, so that those still in training are always the first ones.
    """

    def __init__(
        self, task: HeadTask, scaling: Scaling, configs: Sequence[HeadConfig], models: int, device: str
    ) -> None:
        self.task, self.models, self.device = task, models, device
        order = np.argsort([-config.epochs for config in configs], kind="stable")
        self.configs, self.place = [configs[at] for at in order], np.argsort(order)
        columns = self.models * task.num_classes
        size = (len(configs), task.features.dim, columns)
        self.weight = torch.zeros(size, device=device)
        self.bias = torch.zeros((len(configs), columns), device=device)
        self.mean = torch.from_numpy(scaling.mean).to(device)
        self.std = torch.from_numpy(scaling.std).to(device)
        small = len(task.rows) * task.features.dim <= MAX_KEPT
        self.kept = self._scaled(task.features.read(task.rows)) if small else None
        self.smoothing = torch.tensor([one.label_smoothing for one in self.configs], device=device)
        # By head: [weight, bias], their first and second moments, and the steps so far; all are views.
        self.parameters = _by_head(self.weight, self.bias)
        self.first, self.second = (
            _by_head(torch.zeros_like(self.weight), torch.zeros_like(self.bias)) for _ in range(2)
        )
        self.steps = [list(torch.zeros(2, device=device)) for _ in configs]

    def train(self) -> None:
        """Train all heads, each for its own number of epochs."""
        count = len(self.task.rows)
        steps = math.ceil(count / BATCH_SIZE)
        order = np.random.default_rng(self.task.seed)
        for epoch in range(self.configs[0].epochs):
            heads = sum(config.epochs > epoch for config in self.configs)
            shuffled = order.permutation(count)
            for step in range(steps):
                part = np.sort(shuffled[step * BATCH_SIZE : (step + 1) * BATCH_SIZE])
                self._step(heads, part, epoch + step / steps)

    def _step(self, heads: int, part: IntArray, epoch: float) -> None:
        """One AdamW step of the first heads on some rows, with the gradient of the softmax written out."""
        task = self.task
        features = self._features(part)
        labels = torch.from_numpy(task.labels[part]).to(self.device)
        classes, smoothing = task.num_classes, self.smoothing[:heads]
        logits = (features @ self.weight[:heads]).add_(self.bias[:heads, None, :])
        error = _softmax(logits.view(heads, len(part), self.models, classes))
        error -= (smoothing / classes)[:, None, None, None]
        # Indexing with two lists puts their common dimension first: [b, H, M].
        error[:, torch.arange(len(part)), :, labels] -= (1 - smoothing)[None, :, None]
        importance = self._importance(part)
        error *= (importance / importance.sum(0).clamp_min(1e-12))[None, :, :, None]
        gradient = error.view(heads, len(part), -1)
        self._update(features.T @ gradient, gradient.sum(1), epoch)

    def _update(self, weight_gradient: Tensor, bias_gradient: Tensor, epoch: float) -> None:
        """Let AdamW change each head by its own learning rate and weight decay."""
        for head, gradient in enumerate(zip(weight_gradient, bias_gradient, strict=True)):
            config = self.configs[head]
            adamw(
                self.parameters[head],
                list(gradient),
                self.first[head],
                self.second[head],
                [],
                self.steps[head],
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.99,
                lr=learning_rate_at(config, epoch),
                weight_decay=config.weight_decay,
                eps=1e-8,
                maximize=False,
            )

    def _importance(self, part: IntArray) -> Tensor:
        """Weight of each row for each model ``[b, F + 1]``: 0 where the row is held out."""
        folds = torch.from_numpy(self.task.folds[part])
        weights = torch.from_numpy(self.task.weights[part])
        held_out = folds[:, None] == torch.arange(self.models)[None, :]
        return (weights[:, None] * ~held_out).to(self.device)

    def _features(self, part: IntArray) -> Tensor:
        """Scaled features of some rows; small sets are read and scaled once."""
        if self.kept is not None:
            return self.kept[torch.from_numpy(part)]
        return self._scaled(self.task.features.read(self.task.rows[part]))

    def _scaled(self, features: FloatArray) -> Tensor:
        return (torch.from_numpy(features).to(self.device) - self.mean) / self.std

    def held_out_logits(self) -> FloatArray:
        """Logits ``[H, n, K]`` of each row by the model that did not see it; NaN where all did."""
        task, heads, classes = self.task, len(self.configs), self.task.num_classes
        held_out = np.full((heads, len(task.rows), classes), np.nan, np.float32)
        for part, chunk in task.features.chunks(task.rows):
            logits = (self._scaled(chunk) @ self.weight).add_(self.bias[:, None, :]).cpu().numpy()
            logits = logits.reshape(heads, len(chunk), self.models, classes)
            folds = task.folds[part]
            inside = np.flatnonzero(folds >= 0)
            held_out[:, part][:, inside] = logits[self.place][:, inside, folds[inside]]
        return held_out

    def heads(self) -> list[Head]:
        """The last model of each head, with the scaling folded in."""
        heads, classes = len(self.configs), self.task.num_classes
        weight = self.weight.view(heads, -1, self.models, classes)[:, :, -1] / self.std[None, :, None]
        bias = self.bias.view(heads, self.models, classes)[:, -1]
        bias = bias - torch.einsum("d,hdk->hk", self.mean, weight)
        pairs = zip(weight.cpu().numpy()[self.place], bias.cpu().numpy()[self.place], strict=True)
        return [Head(np.ascontiguousarray(w.T), b) for w, b in pairs]


def _by_head(weight: Tensor, bias: Tensor) -> list[list[Tensor]]:
    return [[one, other] for one, other in zip(weight, bias, strict=True)]


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension; torch's own takes five times as long over a dozen classes."""
    shifted = (logits - logits.amax(-1, keepdim=True)).exp_()
    return shifted.div_(shifted.sum(-1, keepdim=True))


def learning_rate_at(config: HeadConfig, epoch: float) -> float:
    """Linear warm-up over a tenth of the training, then a cosine to zero (Loshchilov & Hutter 2017)."""
    done = min(epoch / config.epochs, 1.0)
    warm = min(1.0, (done + 0.5 / config.epochs) / 0.1)
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * done))
