"""kubectl as an administrator of a cluster."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class KubectlFailed(Exception):
    """What kubectl complained about."""


@dataclass(frozen=True)
class Kubectl:
    """One command and one cluster."""

    command: str
    kubeconfig: Path

    def __call__(self, *arguments: str, stdin: str | None = None, seconds: float = 120) -> str:
        """What it prints.

        Raises:
            KubectlFailed: where it ends with an error.
        """
        done = subprocess.run(
            [self.command, *arguments],
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        if done.returncode:
            raise KubectlFailed(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """What it prints with `-o json`."""
        return json.loads(self(*arguments, "--output=json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        """Server-side, as the administrator."""
        self("apply", "--server-side", "--filename=-", stdin=yaml.safe_dump_all(objects))
