"""A TrainingJob that has every stage and every kind of trial, and takes seconds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors.numpy import load

from tunesmith_package.store import Store

COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200))
PER_CLASS = 16
SIDE = 48
UNSTEADY = ("latency",)
"""Metrics of the machine's speed, which differ from run to run."""


def write_photos(folder: Path, seed: int = 0) -> Path:
    """Three classes of patchy pictures, each with a tint."""
    rng = np.random.default_rng(seed)
    for number, colour in enumerate(COLOURS):
        target = folder / f"class{number}"
        target.mkdir(parents=True)
        for index in range(PER_CLASS):
            patches = np.array(colour) * 0.4 + rng.integers(0, 150, (8, 8, 3))
            image = Image.fromarray(patches.clip(0, 255).astype(np.uint8))
            image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(target / f"{index:03d}.jpg", quality=92)
    return folder


def tiny_job(photos: Path, store: str, *, name: str = "tiny", seed: int = 0) -> dict[str, Any]:
    """Four heads, two fine-tunings of two epochs, and the better one once more on all images."""
    return {
        "apiVersion": "tunesmith.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {
            "dataset": {"uri": f"file://{photos}"},
            "backbones": [{"name": "shufflenet_v2_x0_5", "weights": "Random"}],
            "transfer": {
                "imageSize": SIDE,
                "maxEpochs": 2,
                "augmentation": "Flip",
                "batchSize": 8,
                "strategies": ["FineTune"],
            },
            "search": {"numTrials": 6, "maxFineTuneTrials": 2, "seed": seed},
            "verification": {
                "corruptions": {"kinds": ["Brightness"], "severities": [3], "maxImages": 4},
                "bootstrapSamples": 50,
            },
            "store": {"uri": store},
        },
    }


@dataclass(frozen=True)
class Outcome:
    """What a finished job left in its store, without what differs from run to run.

    Attributes:
        facts: of the chosen model.
        trials: of each trial its parameters, state, epochs and score.
        weights: of the published model.
        metrics: on the test split.
    """

    facts: dict[str, Any]
    trials: dict[str, dict[str, Any]]
    weights: dict[str, npt.NDArray[Any]]
    metrics: dict[str, Any]

    @classmethod
    def read(cls, store: Store, name: str = "tiny") -> "Outcome":
        """Read a store that holds one run of the job."""
        (run,) = {
            info.key.rpartition("/")[0]
            for info in store.list(f"jobs/{name}/")
            if info.key.endswith("/publish.json")
        }
        digest = json.loads(store.get(f"{run}/publish.json"))["digest"].removeprefix("sha256:")
        package = f"models/{name}/{digest}"
        metrics = json.loads(store.get(f"{package}/metrics.json"))["metrics"]
        return cls(
            json.loads(store.get(f"{run}/search.json"))["facts"],
            {key: _steady(row) for key, row in ledger(store, run).items()},
            load(store.get(f"{package}/weights.safetensors")),
            {name: value for name, value in metrics.items() if not name.startswith(UNSTEADY)},
        )

    def assert_equals(self, other: "Outcome") -> None:
        """Same choice, same trials, same model, same metrics."""
        assert _close(self.trials, other.trials), (self.trials, other.trials)
        assert _close(self.facts, other.facts), (self.facts, other.facts)
        assert self.weights.keys() == other.weights.keys()
        for name, value in self.weights.items():
            np.testing.assert_allclose(value, other.weights[name], rtol=1e-4, atol=1e-5, err_msg=name)
        assert _close(self.metrics, other.metrics), (self.metrics, other.metrics)


def ledger(store: Store, run: str) -> dict[str, dict[str, Any]]:
    """The rows of the ledger under a run's prefix, by the trials' ids."""
    rows = [json.loads(store.get(info.key)) for info in store.list(f"{run}/ledger/")]
    return {row["id"]: row for row in rows}


def _steady(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("parameters", "state", "epochs", "score", "parent")}


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_close(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, rtol=1e-4, atol=1e-6))
    return bool(one == other)
