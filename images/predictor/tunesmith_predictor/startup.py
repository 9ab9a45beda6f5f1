"""What is checked before the first request: every byte of the package, and that it still says what it said.

The trainer leaves a few test images in the package as bytes, with the probabilities that the model gave
them. They are computed again here: a damaged file, another decoder or a processor that computes otherwise
shows before anybody is answered.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from tunesmith_api.reasons import DeviceMissing, PackageInvalid, SelfTestFailed
from tunesmith_package.arrays import read_arrays
from tunesmith_package.inference import Predictor
from tunesmith_package.package import ModelPackage, open_package

GOLDEN_FILE = "golden.npz"
METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Loaded:
    """A package that may serve.

    Attributes:
        package: its files and manifest.
        predictor: its model.
        metrics: what the trainer measured on the test split, by name.
        golden: how many images were computed again.
        difference: by how much their probabilities differed at most.
    """

    package: ModelPackage
    predictor: Predictor
    metrics: dict[str, float]
    golden: int
    difference: float

    @property
    def on_gpu(self) -> bool:
        """Whether the model runs there."""
        return self.predictor.providers[0] == CUDA


CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def load(
    directory: Path, *, digest: str | None, threads: int, require_verified: bool, device: str = "auto"
) -> Loaded:
    """Check a package and load its model.

    Args:
        directory: the package's folder.
        digest: ``sha256:...`` that it must have.
        threads: of one inference.
        require_verified: refuse a model that did not pass its gates.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.

    Raises:
        DeviceMissing: a GPU was asked for, and the model does not run on one.
        PackageError: the package is not what it should be.
        SelfTestFailed: its model does not say what it said.
    """
    package = open_package(directory.absolute().as_uri(), digest=digest, require_verified=require_verified)
    providers = providers_for(device)
    predictor = Predictor(package.directory, threads, providers=providers)
    if device == "cuda" and CUDA not in predictor.providers:
        raise DeviceMissing(
            "The runtime did not take the GPU; its log says which library it misses.",
            "Install what it names, or serve with --device cpu.",
        )
    count, difference = self_test(package.directory, predictor)
    return Loaded(package, predictor, read_metrics(package.directory), count, difference)


def providers_for(device: str) -> tuple[str, ...]:
    """ONNX Runtime's execution providers for a device, the preferred one first.

    Raises:
        DeviceMissing: this build of the runtime knows no GPU.
    """
    known = CUDA in onnxruntime.get_available_providers()
    if device == "cuda" and not known:
        raise DeviceMissing(
            "This build of ONNX Runtime has no CUDA.",
            "Serve with --device cpu, or install onnxruntime-gpu in place of onnxruntime.",
        )
    return (CUDA, CPU) if known and device != "cpu" else (CPU,)


def self_test(directory: Path, predictor: Predictor) -> tuple[int, float]:
    """Compute a package's golden predictions again; how many there are, and the largest difference.

    Raises:
        PackageInvalid: there are none, or they do not fit the model.
        SelfTestFailed: a probability differs by more than the package allows, or is none.
    """
    images, expected, tolerance = read_golden(directory)
    if expected.shape != (len(images), len(predictor.labels)):
        raise PackageInvalid(
            f"{GOLDEN_FILE} has probabilities {list(expected.shape)} for {len(predictor.labels)} classes.",
            "Export the model again.",
        )
    difference = float(np.abs(predictor.probabilities(images) - expected).max())
    if not difference <= tolerance:  # NaN is no less than anything
        raise SelfTestFailed(
            f"The model's golden predictions are off by {difference:.2g}, more than {tolerance:.2g}.",
            "Another build of the runtime or another processor computes otherwise: serve it with the image "
            "it was published with, or publish it again.",
        )
    return len(images), difference


def read_golden(directory: Path) -> tuple[list[bytes], np.ndarray[Any, np.dtype[np.float32]], float]:
    """Encoded images, their probabilities float32 [m, K], and the largest difference that is no fault.

    Raises:
        PackageInvalid: the file is missing or is not what the trainer writes.
    """
    file = read_arrays(directory / GOLDEN_FILE)
    try:
        data, offsets = file["images"].tobytes(), file["offsets"].tolist()
        expected = np.asarray(file["probabilities"], np.float32)
        tolerance = float(file["tolerance"])
        images = [data[start:end] for start, end in pairwise(offsets)]
    except (ValueError, KeyError, TypeError) as error:
        raise PackageInvalid(
            f"{GOLDEN_FILE} cannot be read ({error}).", "Publish the model again."
        ) from error
    if not images or offsets[-1] != len(data):
        raise PackageInvalid(f"{GOLDEN_FILE} holds no images.", "Publish the model again.")
    return images, expected, tolerance


def read_metrics(directory: Path) -> dict[str, float]:
    """The test metrics of a package; empty when it has none."""
    try:
        document = json.loads((directory / METRICS_FILE).read_bytes())
        return {str(name): float(one["value"]) for name, one in document["metrics"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PackageInvalid(
            f"{METRICS_FILE} cannot be read ({error}).", "Publish the model again."
        ) from error
