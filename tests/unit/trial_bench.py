"""What the tests of heads and of fine-tunings as trials have in common."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_package.preprocess import Preprocess
from tunesmith_package.store import Store, open_store
from tunesmith_trainer.search.backbones import IMAGENET_MEAN, IMAGENET_STD
from tunesmith_trainer.search.finetune_task import FineTuneTask
from tunesmith_trainer.search.finetune_trials import FineTuneSource, finetune_ids
from tunesmith_trainer.search.head_trials import (
    HeadSource,
)
from tunesmith_trainer.search.ledger import Ledger, Setting, Trial
from tunesmith_trainer.search.study import EarlyStopper, Proposer

START_HEAD = {"learningRate": 1e-3, "weightDecay": 1.0, "epochs": 10, "labelSmoothing": 0.1}
BACKBONES = ("resnet18", "mobilenet_v2")
ASHA = {"name": "ASHA", "graceEpochs": 1, "reductionFactor": 2}


def spec_with(**search: Any) -> TrainingJobSpec:
    return TrainingJobSpec.model_validate(
        {
            "dataset": {"uri": "file:///photos"},
            "backbones": [{"name": name} for name in BACKBONES],
            "transfer": {"maxEpochs": 4},
            "store": {"uri": "file:///store"},
            "search": {"earlyStopping": ASHA, **search},
        }
    )


def checkpoint(name: str, epoch: int) -> bytes:
    """A checkpoint that says whose it is."""
    return save({"epoch": np.array([epoch])}, {"of": name})


def content(config: Mapping[str, Any]) -> tuple[str, int]:
    """Whose checkpoint a trial starts from, and after how many epochs it was written."""
    with safe_open(config["checkpoint"], framework="numpy") as file:
        return file.metadata()["of"], int(file.get_tensor("epoch")[0])


@dataclass
class Bench:
    """A store, and sources of either kind on its ledger, as a run that goes on makes them anew."""

    folder: Path
    spec: TrainingJobSpec = field(default_factory=spec_with)
    over: Callable[[], bool] = lambda: False
    told: list[Trial] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return open_store(f"file://{self.folder / 'store'}")

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store, "run/ledger")

    def heads(self, total: int = 40) -> HeadSource:
        return HeadSource(
            Proposer(self.spec, "LinearProbe", BACKBONES),
            self.ledger,
            {name: self.folder / f"{name}.npz" for name in BACKBONES},
            total,
            "accuracy",
            self.over,
            self.told.append,
            "cpu",
            1,
        )

    def fine_tunings(self, count: int = 4, **changes: Any) -> FineTuneSource:
        ids = finetune_ids(8, count)
        ledger = self.ledger
        tasks = {
            name: FineTuneTask(
                name,
                2,
                Preprocess(32, "CenterCrop", IMAGENET_MEAN, IMAGENET_STD),
                self.folder / "probe.safetensors",
                self.folder / "images.npz",
                self.folder / "pixels.u8",
                False,
            )
            for name in BACKBONES
        }
        known = [row for one in ids if (row := ledger.get(one)) is not None]
        source = FineTuneSource(
            Proposer(self.spec, "FineTune", BACKBONES),
            EarlyStopper(self.spec, 4, known),
            ledger,
            self.store,
            "run/checkpoints/",
            tasks,
            START_HEAD,
            "resnet18",
            ids,
            self.spec.transfer,
            ({"learningRate": 0.001},),
            self.over,
            self.told.append,
            self.folder,
            "cpu",
            1,
            0,
        )
        return replace(source, **changes)

    def epoch(self, name: str, epoch: int, loss: float | None, *, done: bool = False) -> dict[str, Any]:
        """News of an epoch, with a checkpoint file whose content says which it is."""
        path = self.folder / f"{name}-{epoch:04d}.safetensors"
        path.write_bytes(checkpoint(name, epoch))
        point = {
            "epoch": epoch,
            "train_loss": 0.5,
            "validation_loss": loss,
            "validation_accuracy": None if loss is None else 0.75,
            "learning_rate": 1e-3,
        }
        return {"point": point, "checkpoint": str(path), "seconds": 2.0, "done": done}


def outcome(batch: Mapping[str, Any], **changes: float) -> dict[str, Any]:
    """What training a batch would say; the likelihood follows from the learning rate."""
    names = ("accuracy", "macroF1", "worstClassRecall", "calibrationError")
    return {
        "done": True,
        "outcomes": {
            one["id"]: {
                **dict.fromkeys(names, 0.5),
                "negativeLogLikelihood": abs(math.log10(one["head"]["learning_rate"]) + 2),
                "seconds": 0.25,
                **changes,
            }
            for one in batch["proposals"]
        },
    }


def run_heads(source: HeadSource, batches: int = 100) -> list[list[str]]:
    """Run so many batches to their end; the ids of each."""
    ran = []
    for _ in range(batches):
        batch = source.next()
        if batch is None:
            break
        ran.append([one["id"] for one in batch["proposals"]])
        source.result(batch["id"], outcome(batch))
        source.ended(batch["id"], failed=False)
    return ran


def recipe(ledger: Ledger) -> list[tuple[str, str, Mapping[str, Setting], float | None]]:
    return [(row.id, row.backbone, row.parameters, row.score) for row in ledger.trials]
