"""What the fine-tunings of one backbone have in common, as files that any process can read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from tunesmith_api.training_job import TransferSpec
from tunesmith_package.preprocess import Preprocess
from tunesmith_trainer.devices import Device
from tunesmith_trainer.prepare.pixels import PixelStore
from tunesmith_trainer.search.backbones import ImageClassifier, build_backbone
from tunesmith_trainer.search.finetune import FineTuneConfig, FineTuner, Images
from tunesmith_trainer.search.ledger import Setting

CONFIG_FIELDS: Mapping[str, str] = {
    "learningRate": "learning_rate",
    "backboneLearningRateFactor": "backbone_learning_rate_factor",
    "weightDecay": "weight_decay",
    "epochs": "epochs",
    "batchSize": "batch_size",
    "augmentation": "augmentation",
    "labelSmoothing": "label_smoothing",
    "layerDecay": "layer_decay",
    "warmupFraction": "warmup_fraction",
    "unfreezing": "gradual_unfreezing",
    "mixup": "mixup",
}
"""Fields of ``FineTuneConfig`` by the spec's names of hyper-parameters."""


def finetune_config(parameters: Mapping[str, Setting], transfer: TransferSpec) -> FineTuneConfig:
    """Hyper-parameters by the names of the spec; what is not searched comes from spec.transfer."""
    default = FineTuneConfig()
    get = parameters.get
    return FineTuneConfig(
        learning_rate=float(get("learningRate", default.learning_rate)),
        backbone_learning_rate_factor=float(
            get("backboneLearningRateFactor", default.backbone_learning_rate_factor)
        ),
        weight_decay=float(get("weightDecay", default.weight_decay)),
        epochs=min(int(get("epochs", transfer.max_epochs)), transfer.max_epochs),
        batch_size=int(get("batchSize", transfer.batch_size)),
        augmentation=str(get("augmentation", transfer.augmentation)),  # type: ignore[arg-type]
        label_smoothing=float(get("labelSmoothing", transfer.label_smoothing)),
        layer_decay=float(get("layerDecay", transfer.layer_decay)),
        warmup_fraction=float(get("warmupFraction", transfer.warmup_fraction)),
        frozen_fraction=transfer.frozen_fraction,
        gradual_unfreezing=str(get("unfreezing", transfer.unfreezing)) == "Gradual",
        mixup=float(get("mixup", default.mixup)),
        ema=transfer.ema,
    )


def finetune_settings(config: Mapping[str, Any], names: Collection[str]) -> dict[str, Setting]:
    """Hyper-parameters of these names, as ``finetune_config`` would read them, out of a configuration."""
    return {name: _setting(name, config[CONFIG_FIELDS[name]]) for name in CONFIG_FIELDS if name in names}


def _setting(name: str, value: Any) -> Setting:
    if name == "unfreezing":
        return "Gradual" if value else "All"
    return value  # type: ignore[no-any-return]


@dataclass(frozen=True)
class FineTuneTask:
    """What the fine-tunings of one backbone have in common, as files that any process can read.

    Attributes:
        backbone: torchvision's name.
        num_classes: K.
        preprocess: of the backbone.
        weights: safetensors file of an ``ImageClassifier`` whose head is the linear probe.
        images: npz file of rows, labels and weights of both parts.
        pixels: the pixel file.
        resample: draw images by their weights instead of weighing the loss.
    """

    backbone: str
    num_classes: int
    preprocess: Preprocess
    weights: Path
    images: Path
    pixels: Path
    resample: bool

    def to_config(self) -> dict[str, Any]:
        """The task as plain values for another process."""
        return {
            **asdict(self),
            "preprocess": self.preprocess.to_json(),
            "weights": str(self.weights),
            "images": str(self.images),
            "pixels": str(self.pixels),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FineTuneTask:
        """Read what ``to_config`` wrote."""
        return cls(
            str(config["backbone"]),
            int(config["num_classes"]),
            Preprocess.from_json(str(config["preprocess"])),
            Path(config["weights"]),
            Path(config["images"]),
            Path(config["pixels"]),
            bool(config["resample"]),
        )

    def classifier(self) -> ImageClassifier:
        """The linear probe as a network."""
        model = ImageClassifier(build_backbone(self.backbone, self.preprocess.image_size), self.num_classes)
        model.load_state_dict(load_file(self.weights))
        return model

    def parts(self) -> tuple[Images, Images]:
        """Training and held-out images."""
        store = PixelStore.open(self.pixels, self.preprocess.image_size)
        with np.load(self.images, allow_pickle=False) as data:
            train, held_out = (
                Images(
                    store,
                    data[f"{part}_rows"],
                    data[f"{part}_labels"],
                    data[f"{part}_weights"],
                    self.resample,
                )
                for part in ("train", "held_out")
            )
        return train, held_out

    def tuner(self, config: FineTuneConfig, device: Device, seed: int) -> FineTuner:
        """A fine-tuning that starts from the probe."""
        return FineTuner(self.classifier(), self.preprocess, *self.parts(), config, device, seed)


def save_classifier(model: ImageClassifier, path: Path) -> None:
    """Write a classifier's state as safetensors."""
    save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, path)
