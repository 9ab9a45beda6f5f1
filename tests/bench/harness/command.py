"""The command ``tunesmith run`` as a user gives it: a process, its seconds, its events, its last line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from tests.bench.harness.report import REPOSITORY, say

Document = dict[str, Any]


def job(name: str, dataset: Path, weights: Path, store: Path, /, **spec: Document) -> Document:
    """A TrainingJob over a folder with MobileNetV2; all else is the default spec, unless given.

    Args:
        name: of the job.
        dataset: folder of images.
        weights: safetensors file.
        store: folder for everything the job makes.
        spec: further parts of the spec; ``dataset`` adds to the address.
    """
    own = dict(spec)
    return {
        "apiVersion": "tunesmith.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {
            "dataset": {"uri": dataset.absolute().as_uri(), **own.pop("dataset", {})},
            "backbones": [{"name": "mobilenet_v2", "weightsUri": weights.absolute().as_uri()}],
            **own,
            "store": {"uri": store.absolute().as_uri()},
        },
    }


LEAST_VERIFICATION: Document = {
    "corruptions": {"kinds": ["Brightness"], "severities": [1], "maxImages": 1},
    "bootstrapSamples": 0,
}
"""The least of verification that a spec may ask for, for comparisons with scripts that verify nothing."""


@dataclass(frozen=True)
class Run:
    """A finished ``tunesmith run``.

    Attributes:
        seconds: wall-clock time of the whole command.
        exit_code: 0 for a verified model.
        status: of the TrainingJob.
        stages: seconds of each stage.
        trials: the last state of each trial, by id.
        store: folder of the store.
    """

    seconds: float
    exit_code: int
    status: Document
    stages: Mapping[str, float]
    trials: Mapping[str, Document]
    store: Path

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics on the test images."""
        return dict(self.status["verification"]["metrics"])

    @property
    def package(self) -> Path:
        """Folder of the model package."""
        return Path(url2pathname(urlparse(self.status["model"]["uri"]).path))

    def package_file(self, name: str) -> Document:
        """A JSON file of the package."""
        return dict(json.loads((self.package / name).read_bytes()))


@dataclass
class _Events:
    """What the lines of ``-o json`` add up to."""

    job: Document = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    trials: dict[str, Document] = field(default_factory=dict)
    stage: str = "start"

    def take(self, line: str) -> None:
        event = json.loads(line)
        if event.get("kind") == "TrainingJob":
            self.job = event
        elif event.get("type") == "trial":
            self.trials[event["trial"]["id"]] = event["trial"]
        elif event.get("type") == "stage" and event["state"] == "started":
            self.stage = event["stage"]
        elif event.get("type") == "stage":
            self.stages[event["stage"]] = event["seconds"]


Watch = Callable[[int, Callable[[], str]], None]
"""Called once with the process id and a function that names the stage going on."""


def run(document: Document, folder: Path, cache: Path, *, watch: Watch | None = None) -> Run:
    """Run a TrainingJob as a user would.

    Args:
        document: the job.
        folder: for its YAML file and the command's standard error.
        cache: the cache folder; an empty one is a cold start.
        watch: is told of the process as it starts.

    Raises:
        RuntimeError: it ended without a model; the message has the reason.
    """
    name = document["metadata"]["name"]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    # As JSON, which is YAML too: "1e-1" without quotes is text to one YAML parser and a number to another.
    path.write_text(json.dumps(document, indent=2))
    command = [sys.executable, "-m", "tunesmith", "run", "-f", str(path), "-o", "json"]
    command += ["--cache-dir", str(cache)]
    say(f"tunesmith run -f {path.name}")
    events = _Events()
    started = time.perf_counter()
    with (
        (folder / f"{name}.log").open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=REPOSITORY) as process,
    ):
        if watch is not None:
            watch(process.pid, lambda: events.stage)
        assert process.stdout is not None
        for line in process.stdout:
            events.take(line)
    seconds = time.perf_counter() - started
    status = events.job.get("status") or {}
    if "model" not in status:
        raise RuntimeError(f"tunesmith run ended with {process.returncode}: {_why(status, log.name)}")
    store = Path(url2pathname(urlparse(document["spec"]["store"]["uri"]).path))
    return Run(seconds, process.returncode, status, events.stages, events.trials, store)


def _why(status: Document, log: str) -> str:
    failed = [one["message"] for one in status.get("conditions", ()) if one["type"] == "Failed"]
    return failed[0] if failed else Path(log).read_text(errors="replace")[-2_000:] or f"see {log}"
