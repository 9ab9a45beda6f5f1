"""Helm's charts, rendered: what they would install, to be applied by kubectl."""

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.testbed import tools

Object = dict[str, Any]


class ChartFailed(Exception):
    """What helm complained about."""


@dataclass(frozen=True)
class Chart:
    """A chart's folder, and files of values beside what its own `values.yaml` says."""

    folder: Path
    value_files: tuple[Path, ...] = ()

    def render(self, release: str, namespace: str, values: Mapping[str, Any]) -> str:
        """A stream of YAML documents, the objects of its hooks included."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as own:
            yaml.safe_dump(dict(values), own)
            own.flush()
            files = [f"--values={path}" for path in (*self.value_files, own.name)]
            command = [str(tools.helm()), "template", release, str(self.folder), f"--namespace={namespace}"]
            done = subprocess.run([*command, *files], capture_output=True, text=True)
        if done.returncode:
            raise ChartFailed(f"{' '.join(command)}:\n{done.stderr.strip()}")
        return done.stdout


def documents(stream: str) -> list[Object]:
    """The objects in a stream of YAML documents."""
    return [one for one in yaml.load_all(stream, Loader=yaml.CSafeLoader) if one]


def namespace(name: str, **labels: str) -> Object:
    """A namespace as an object to apply."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
