"""The result of the verify stage, and how it is kept: ``metrics.json`` for everybody, arrays beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field, InstanceOf, TypeAdapter
from pydantic.dataclasses import dataclass

from tunesmith_api.status import GateStatus, VerificationStatus
from tunesmith_trainer.verify.bootstrap import Interval
from tunesmith_trainer.verify.calibration import Calibration
from tunesmith_trainer.verify.corruptions import CorruptionResult
from tunesmith_trainer.verify.gates import GateResult
from tunesmith_trainer.verify.latency import Latency
from tunesmith_trainer.verify.metrics import ClassResult, SliceResult
from tunesmith_trainer.verify.records import CAMEL

METRICS_FILE = "metrics.json"
"""Part of every model package."""
PREDICTIONS_FILE = "predictions.npz"
"""Kept with the run, not in the package: its size grows with the test split."""
_MESSAGE_LENGTH = 1024


@dataclasses.dataclass(frozen=True)
class TestPredictions:
    """What the exported model says of the test images.

    Attributes:
        rows: int64 [n], rows of the dataset.
        labels: int64 [n].
        probabilities: float32 [n, K].
        embeddings: float16 [r, D] of at most 1,000 of them, evenly taken.
    """

    __test__ = False  # the name is no promise to pytest

    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    embeddings: npt.NDArray[np.float16]


_NO_PREDICTIONS = TestPredictions(
    np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 0), np.float32), np.empty((0, 0), np.float16)
)


@dataclass(frozen=True, config=CAMEL)
class ChampionResult:
    """The champion, the dataset it was trained on, and its values on the same test images."""

    digest: str
    dataset_digest: str
    metrics: dict[str, float]


@dataclass(frozen=True, config=CAMEL)
class Verification:
    """How good the exported model is on the test split.

    Attributes:
        metrics: metric -> value with its 95 % interval (percentile, Wilson where that has no width; the
            calibration error's is the basic one).
        images: test images.
        classes: K names.
        worst_class: the class of worstClassRecall.
        worst_slice: the slice of worstSliceAccuracy as ``column=value``; None where no slice is judged.
        per_class: in the order of the classes.
        confusion: K rows of K counts: the row is the label, the column the prediction.
        calibration: error, its reference and the reliability bins.
        slices: the worst first.
        corruptions: by kind and severity.
        corruption_images: different test images among the corrupted ones.
        clean_accuracy: accuracy on these images as they are.
        latency: of the exported model here.
        gates: in the order of the spec.
        champion: None when the job has no verified model yet, or no gate asks for one.
        verified_at: in UTC, like 2026-01-31T12:00:00Z; the newest verified model is the champion.
        predictions: arrays; not part of the JSON.
    """

    metrics: dict[str, Interval]
    images: int
    classes: tuple[str, ...]
    worst_class: str
    worst_slice: str | None
    per_class: tuple[ClassResult, ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration: Calibration
    slices: tuple[SliceResult, ...]
    corruptions: tuple[CorruptionResult, ...]
    corruption_images: int
    clean_accuracy: float
    latency: Latency
    gates: tuple[GateResult, ...]
    champion: ChampionResult | None
    verified_at: str
    predictions: InstanceOf[TestPredictions] = Field(default=_NO_PREDICTIONS, exclude=True)

    @property
    def passed(self) -> bool:
        """Whether every gate passed, so that the model is verified."""
        return all(gate.passed for gate in self.gates)

    def to_json(self) -> str:
        """The text of ``metrics.json``."""
        return _ADAPTER.dump_json(self).decode()

    def status(self) -> VerificationStatus:
        """The same in short, for the TrainingJob's status."""
        metrics = {name: round(interval.value, 6) for name, interval in self.metrics.items()}
        metrics["latencyP50Milliseconds"] = round(self.latency.p50_milliseconds, 6)
        gates = tuple(
            GateStatus.model_validate(
                {
                    "metric": gate.metric,
                    "limit": gate.limit,
                    "value": gate.value,
                    "passed": gate.passed,
                    "message": gate.message[:_MESSAGE_LENGTH],
                }
            )
            for gate in self.gates
        )
        return VerificationStatus(metrics=metrics, gates=gates)


_ADAPTER = TypeAdapter(Verification)


def save_verification(verification: Verification, directory: Path) -> None:
    """Write ``metrics.json`` and ``predictions.npz``, from which `load_verification` makes it again."""
    (directory / METRICS_FILE).write_text(verification.to_json(), encoding="utf-8")
    np.savez_compressed(
        directory / PREDICTIONS_FILE,
        rows=verification.predictions.rows,
        labels=verification.predictions.labels,
        probabilities=verification.predictions.probabilities,
        embeddings=verification.predictions.embeddings,
    )


def load_verification(directory: Path) -> Verification:
    """Read what `save_verification` wrote.

    Raises:
        OSError: a file is missing.
        ValueError: a file is not what was written.
    """
    with np.load(directory / PREDICTIONS_FILE, allow_pickle=False) as arrays:
        predictions = TestPredictions(
            arrays["rows"], arrays["labels"], arrays["probabilities"], arrays["embeddings"]
        )
    verification = _ADAPTER.validate_json((directory / METRICS_FILE).read_bytes())
    return dataclasses.replace(verification, predictions=predictions)
