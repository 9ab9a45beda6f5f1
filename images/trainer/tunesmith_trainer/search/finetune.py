"""Fine-tuning of a whole network from its trained head (LP-FT, Kumar et al. 2022).

Batch-norm statistics stay frozen: a few hundred images give worse ones than ImageNet did, and with them
frozen the weights of the pretrained and the fine-tuned network may be interpolated (WiSE-FT, Wortsman et al.
2022), which ``selection`` does.

Randomness follows from (seed, epoch) alone, so a restored trial goes on exactly as it would have.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tunesmith_api.reasons import Diverged
from tunesmith_package.preprocess import Preprocess
from tunesmith_trainer.devices import Device
from tunesmith_trainer.prepare.pixels import PixelStore
from tunesmith_trainer.search.augment import Augmenter, Policy, training_size
from tunesmith_trainer.search.backbones import ImageClassifier
from tunesmith_trainer.search.judgement import held_out_metrics

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

MIN_WARMUP_STEPS = 20
"""Adam's first steps move every weight by the whole rate, before its second moments mean anything; with the
handful of warm-up steps that a tenth of a small set's training gives, they threw a trained head away."""


@dataclass(frozen=True)
class FineTuneConfig:
    """Hyper-parameters of one fine-tuning; rates are those at their peak."""

    learning_rate: float = 1e-3
    backbone_learning_rate_factor: float = 0.1
    weight_decay: float = 0.05
    epochs: int = 12
    batch_size: int = 32
    augmentation: Policy = "RandomResizedCrop"
    label_smoothing: float = 0.0
    layer_decay: float = 1.0
    warmup_fraction: float = 0.1
    frozen_fraction: float = 0.01
    gradual_unfreezing: bool = False
    mixup: float = 0.0
    ema: bool = True


@dataclass(frozen=True)
class Images:
    """Rows of a pixel store with their labels.

    Attributes:
        pixels: the store.
        rows: rows of it, int64 ``[n]``.
        labels: classes, int64 ``[n]``.
        weights: importance of each in the loss, float32 ``[n]``.
        resample: draw rows with these weights instead of weighing the loss.
    """

    pixels: PixelStore
    rows: IntArray
    labels: IntArray
    weights: FloatArray
    resample: bool = False


@dataclass(frozen=True)
class EpochResult:
    """Mean training loss of one epoch, and what held-out images say of the averaged weights after it."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    metrics: Mapping[str, float] = field(default_factory=dict)


class FineTuner:
    """Trains a classifier epoch by epoch; can be saved after and restored before any epoch."""

    def __init__(
        self,
        model: ImageClassifier,
        preprocess: Preprocess,
        train: Images,
        validation: Images,
        config: FineTuneConfig,
        device: Device,
        seed: int,
    ) -> None:
        """Prepare the training of ``model``, whose head should be trained already; it is changed in place."""
        self.model = model.to(device.type).to(memory_format=torch.channels_last)
        self.train, self.validation, self.config, self.device = train, validation, config, device
        self.preprocess, self.seed, self.epoch = preprocess, seed, 0
        fixed = model.backbone.name.startswith(("vit_", "maxvit", "swin"))
        self.augment = Augmenter(
            config.augmentation,
            training_size(preprocess.image_size, fixed=fixed),
            preprocess.mean,
            preprocess.std,
        )
        freeze_first_blocks(self.model, config.frozen_fraction)
        self.average = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        self.groups = parameter_groups(self.model, config)
        self.optimizer = torch.optim.AdamW(
            [{"params": list(group.parameters), "weight_decay": group.weight_decay} for group in self.groups],
            # Not fused: torch's fused CPU kernel ignores memory layouts, and those of gradients and
            # channels-last parameters differ.
            foreach=True,
        )
        self.scaler = torch.GradScaler(device.type, enabled=device.autocast is torch.float16)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one epoch."""
        return max(1, math.ceil(len(self.train.rows) / self.config.batch_size))

    def run_epoch(self, on_images: Callable[[int], None] = lambda count: None) -> EpochResult:
        """Train for one epoch and evaluate the averaged weights.

        Raises:
            Diverged: the loss is not finite.
        """
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        losses = torch.zeros((), device=self.device.type)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self.seed << 20) + self.epoch)
            for step, (pixels, labels, weights) in enumerate(self._batches()):
                losses += self._step(self.epoch * self.steps_per_epoch + step, pixels, labels, weights)
                on_images(len(labels))
        mean_loss = float(losses) / self.steps_per_epoch
        if not math.isfinite(mean_loss):
            raise Diverged(
                f"The training loss is {mean_loss} after epoch {self.epoch + 1}.",
                "Lower the learning rate, or its upper bound in spec.search.parameters.",
            )
        logits = self.validation_logits(1.0)
        truth = self.validation.labels
        loss = (
            float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(truth)))
            if len(truth)
            else math.nan
        )
        accuracy = float((logits.argmax(1) == truth).mean()) if len(truth) else math.nan
        self.epoch += 1
        rate = self._rate(self.epoch * self.steps_per_epoch - 1)
        metrics = held_out_metrics(logits, truth) if len(truth) else {}
        return EpochResult(self.epoch, mean_loss, loss, accuracy, rate, metrics)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Shuffled mini-batches; the next one is read while this one trains."""
        train = self.train
        random = np.random.default_rng((self.seed, self.epoch))
        count = len(train.rows)
        if train.resample:
            order = random.choice(count, count, p=train.weights / train.weights.sum())
        else:
            order = random.permutation(count)
        parts = [np.sort(part) for part in np.array_split(order, self.steps_per_epoch)]
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._load, train, parts[0])
            for following in [*parts[1:], None]:
                batch = ahead.result()
                if following is not None:
                    ahead = reader.submit(self._load, train, following)
                yield batch

    def _load(self, images: Images, part: IntArray) -> tuple[Tensor, Tensor, Tensor]:
        pixels = torch.from_numpy(images.pixels.read(images.rows[part]))
        weights = np.ones(len(part), np.float32) if images.resample else images.weights[part]
        tensors = pixels, torch.from_numpy(images.labels[part]), torch.from_numpy(weights)
        if self.device.type == "cpu":
            return tensors
        pixels, labels, importance = (
            tensor.pin_memory().to(self.device.type, non_blocking=True) for tensor in tensors
        )
        return pixels, labels, importance

    def _step(self, step: int, pixels: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        config = self.config
        rate = self._rate(step)
        for group, place in zip(self.optimizer.param_groups, self.groups, strict=True):
            group["lr"] = rate * place.factor * (1.0 if self._unfrozen(place.depth, step) else 0.0)
        images = self.augment(pixels)
        mixed, share = self._mixup(images)
        with torch.autocast(self.device.type, self.device.autocast, enabled=self.device.autocast is not None):
            logits = self.model.logits(images if mixed is None else images.lerp(images[mixed], 1 - share))
        each = F.cross_entropy(
            logits.float(), labels, label_smoothing=config.label_smoothing, reduction="none"
        )
        if mixed is not None:
            other = F.cross_entropy(
                logits.float(), labels[mixed], label_smoothing=config.label_smoothing, reduction="none"
            )
            each = share * each + (1 - share) * other
        loss = (each * weights).sum() / weights.sum().clamp_min(1e-12)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._average(step)
        return loss.detach()

    def _mixup(self, images: Tensor) -> tuple[Tensor | None, float]:
        """Partners of a batch and the share of the first image (Zhang et al. 2018), Beta(mixup, mixup)."""
        if self.config.mixup <= 0:
            return None, 1.0
        concentration = torch.tensor(self.config.mixup)
        share = float(torch.distributions.Beta(concentration, concentration).sample())
        return torch.randperm(len(images)).to(images.device), share

    def _rate(self, step: int) -> float:
        """Peak rate times linear warm-up and cosine to zero (Loshchilov & Hutter 2017)."""
        total = self.config.epochs * self.steps_per_epoch
        ramp = max(self.config.warmup_fraction * total, min(MIN_WARMUP_STEPS, total / 2), 1.0)
        warm = min(1.0, (step + 1) / ramp)
        return self.config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, (step + 1) / total)))

    def _unfrozen(self, depth: float, step: int) -> bool:
        """Gradual unfreezing (Howard & Ruder 2018): the head first, the stem at half of the training."""
        if not self.config.gradual_unfreezing:
            return True
        return depth <= step / (0.5 * self.config.epochs * self.steps_per_epoch)

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """Exponential moving average with a decay that grows to 0.99 (Polyak & Juditsky 1992; TF's ramp)."""
        decay = min(0.99, (2 + step) / (11 + step)) if self.config.ema else 0.0
        own = [value.detach() for value in self.model.parameters()]
        torch._foreach_lerp_(list(self.average.values()), own, 1 - decay)

    def interpolated(self, initial: dict[str, Tensor], share: float) -> dict[str, Tensor]:
        """Parameters between those before (share 0) and the averaged ones now (share 1)."""
        return {
            name: initial[name].to(value.device).lerp(value, share) for name, value in self.average.items()
        }

    def validation_logits(self, share: float, initial: dict[str, Tensor] | None = None) -> FloatArray:
        """Held-out logits ``[n, K]`` of the averaged weights, or of their interpolation with ``initial``."""
        weights = self.average if initial is None else self.interpolated(initial, share)
        return classify(self.model, weights, self.validation, self.preprocess, self.device)

    def save(self, path: Path) -> None:
        """Write model, average and optimiser state as one safetensors file."""
        tensors: dict[str, Tensor] = {}
        for name, value in self.model.named_parameters():
            tensors[f"model/{name}"] = value.detach()
            tensors[f"average/{name}"] = self.average[name]
            for key, moment in self.optimizer.state.get(value, {}).items():
                tensors[f"optimizer.{key}/{name}"] = moment
        contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(
            contiguous, path, {"epoch": json.dumps(self.epoch), "scale": json.dumps(self.scaler.get_scale())}
        )

    def restore(self, path: Path) -> None:
        """Go on from a file that ``save`` wrote."""
        with safe_open(path, "pt", device=self.device.type) as file, torch.no_grad():
            self.epoch = json.loads(file.metadata()["epoch"])
            names = dict(self.model.named_parameters())
            for key in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                kind, name = key.split("/", 1)
                tensor = file.get_tensor(key)
                if kind == "model":
                    names[name].copy_(tensor)
                elif kind == "average":
                    self.average[name].copy_(tensor)
                else:
                    state = self.optimizer.state.setdefault(names[name], {})
                    state[kind.removeprefix("optimizer.")] = tensor


def freeze_first_blocks(model: ImageClassifier, fraction: float) -> int:
    """Stop training the first blocks that together hold at most this part of the backbone's weights.

    In convolutional networks they see the image at its highest resolution: the first 4 of MobileNetV2's 19
    blocks hold 0.7 % of its weights, and without them an epoch takes about seven tenths of the time. Returns
    how many blocks that is.
    """
    total = sum(parameter.numel() for parameter in model.backbone.parameters())
    held = 0
    for count, block in enumerate(model.backbone.blocks):
        held += sum(parameter.numel() for parameter in block.parameters())
        if held > fraction * total:
            return count
        block.requires_grad_(False)
    return len(model.backbone.blocks)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate.

    Attributes:
        parameters: of one block, with or without weight decay.
        factor: learning rate relative to the head's.
        weight_decay: 0 for biases and norms.
        depth: 0 for the head to 1 for the stem.
    """

    parameters: tuple[nn.Parameter, ...]
    factor: float
    weight_decay: float
    depth: float


def parameter_groups(model: ImageClassifier, config: FineTuneConfig) -> list[ParameterGroup]:
    """Group a model's parameters by block: the head at the full rate, each block below at a decayed one.

    The rate of block i of n, counted from the head, is ``factor * layer_decay ** (i - 1)`` of the head's.
    Parameters of no block (a ViT's class token) go with the stem.
    """
    blocks = [model.head, *reversed(model.backbone.blocks)]
    seen: set[int] = set()
    groups: list[ParameterGroup] = []
    owners: list[tuple[float, float, list[nn.Parameter]]] = []
    for index, block in enumerate(blocks):
        factor = (
            1.0 if index == 0 else config.backbone_learning_rate_factor * config.layer_decay ** (index - 1)
        )
        owners.append((factor, index / (len(blocks) - 1), list(block.parameters())))
    owners.append((owners[-1][0], 1.0, list(model.parameters())))
    for factor, depth, parameters in owners:
        own = [one for one in parameters if one.requires_grad and id(one) not in seen]
        seen.update(id(parameter) for parameter in own)
        for decay, chosen in (
            (config.weight_decay, tuple(p for p in own if p.ndim > 1)),
            (0.0, tuple(p for p in own if p.ndim <= 1)),
        ):
            if chosen:
                groups.append(ParameterGroup(chosen, factor, decay, depth))
    return groups


@torch.inference_mode()
def classify(
    model: ImageClassifier, weights: dict[str, Tensor], images: Images, preprocess: Preprocess, device: Device
) -> FloatArray:
    """Logits ``[n, K]`` of the model with other parameter values, in bounded batches."""
    outputs = [np.empty((0, model.head.out_features), np.float32)]
    model.eval()
    for start in range(0, len(images.rows), 32):
        pixels = images.pixels.read(images.rows[start : start + 32])
        batch = torch.from_numpy(preprocess.normalise(pixels)).to(device.type)
        batch = batch.contiguous(memory_format=torch.channels_last)
        (logits, _, _) = torch.func.functional_call(model, weights, (batch,))
        outputs.append(logits.float().cpu().numpy())
    return np.concatenate(outputs)
