"""Tunesmith from Python: what the command line does, with values instead of tables.

Example:
    outcome = client.run("job.yaml")
    if not outcome.succeeded:
        raise SystemExit(f"{outcome.message} {outcome.next_step}")
    model = client.open_model(outcome.job.status.model.uri, digest=outcome.job.status.model.digest)
    [prediction] = model.predict(["photo.jpg"])
    prediction.label, prediction.probability

What is in a cluster, with the rights that kubectl has:
    client.submit("job.yaml")
    client.wait("flowers") == 0
    client.wait("deployment/flowers") == 0
    [prediction] = client.predict("deployment/flowers", ["photo.jpg"])
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tunesmith.addresses import with_absolute_addresses
from tunesmith.cluster_client import (
    cancel,
    explain,
    pause,
    predict,
    promote,
    resume,
    rollback,
    status,
    submit,
    wait,
)
from tunesmith.files import default_cache
from tunesmith.job_file import read_job_file
from tunesmith.line_views import PlainView
from tunesmith.local_run import run_job
from tunesmith.model_reference import model_reference
from tunesmith.outcome import Outcome
from tunesmith.prediction import Prediction
from tunesmith_api.reasons import SpecInvalid
from tunesmith_api.training_job import TrainingJob
from tunesmith_api.validation import validate_object
from tunesmith_package.inference import Predictor
from tunesmith_package.package import ModelPackage, open_package

__all__ = [
    "Model",
    "Prediction",
    "cancel",
    "explain",
    "open_model",
    "pause",
    "predict",
    "promote",
    "resume",
    "rollback",
    "run",
    "status",
    "submit",
    "wait",
]


def run(
    job: str | Path | Mapping[str, Any] | TrainingJob,
    *,
    name: str | None = None,
    cache_dir: str | Path | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Outcome:
    """Run a TrainingJob on this machine to its end, or go on with one that was interrupted.

    Args:
        job: a YAML file, the resource as a mapping, or a validated one. Relative addresses start in the
            file's folder, or in the working directory.
        name: which TrainingJob of the file; needed when it holds several.
        cache_dir: for what can be made again; ``~/.cache/tunesmith`` unless given.
        device: auto, cpu or cuda.
        quiet: print nothing on standard error meanwhile.

    Returns:
        How it ended; a training that failed is no exception.

    Raises:
        SpecInvalid: the job breaks a rule; the message is the API server's.
        TunesmithError: the trainer is not installed.
    """
    job = _job(job, name)
    with Path(os.devnull).open("w") if quiet else nullcontext(sys.stderr) as stream:
        view = PlainView(stream, job.spec.objectives[0].metric)
        cache = default_cache() if cache_dir is None else Path(cache_dir).absolute()
        return run_job(job, cache_dir=cache, view=view, device=device)


class Model:
    """A model package on this machine, every byte of it checked.

    Attributes:
        package: its folder, manifest and digest.
        labels: the class names.
    """

    def __init__(self, package: ModelPackage) -> None:
        """Load the model; see `open_model`."""
        self.package = package
        self._predictor = Predictor(package.directory)
        self.labels = self._predictor.labels

    def predict(self, images: Sequence[str | Path | bytes]) -> list[Prediction]:
        """Say what is in images, given by their paths or as encoded bytes.

        Raises:
            ImageInvalid: an image cannot be used; none of them is then answered.
        """
        rows = self._predictor.probabilities([_encoded(one) for one in images])
        found = []
        for row in rows:
            best = int(row.argmax())
            named = {label: float(value) for label, value in zip(self.labels, row, strict=True)}
            found.append(Prediction(self.labels[best], float(row[best]), named))
        return found

    def explain(self, image: str | Path | bytes, label: str | None = None) -> bytes:
        """Draw where the evidence for a class lies, over what the model saw; a PNG.

        Args:
            image: a path, or encoded bytes.
            label: the class; the most probable one unless given.

        Raises:
            ImageInvalid: the image cannot be used.
            ValueError: there is no such class.
        """
        index = None if label is None else self.labels.index(label)
        return self._predictor.overlay_png(_encoded(image), index)


def open_model(model: str | Path, *, digest: str | None = None, verified: bool = True) -> Model:
    """Bring a model package onto this machine, check it and load it.

    Args:
        model: a package's address or folder, or a file with a TrainingJob whose status names it.
        digest: ``sha256:...`` that it must have.
        verified: refuse a model that did not pass its gates.

    Raises:
        PackageError: there is no such package, or it is damaged or unverified.
        StoreError: the store cannot be read.
    """
    reference = model_reference(str(model), digest)
    return Model(open_package(reference.uri, digest=reference.digest, require_verified=verified))


def _job(job: str | Path | Mapping[str, Any] | TrainingJob, name: str | None) -> TrainingJob:
    if isinstance(job, str | Path):
        return read_job_file(Path(job), name).job
    if not isinstance(job, TrainingJob):
        resource = validate_object(dict(job))
        if not isinstance(resource, TrainingJob):
            raise SpecInvalid(f"This is a {resource.kind}, and only TrainingJobs run.", "Give a TrainingJob.")
        job = resource
    return with_absolute_addresses(job, Path.cwd())


def _encoded(image: str | Path | bytes) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()
