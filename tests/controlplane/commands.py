"""The command line as a process, with the administrator's way into the control plane."""

import os
import subprocess
import sys

from tests.controlplane.cluster import Cluster


def start(cluster: Cluster, *arguments: str) -> subprocess.Popen[str]:
    """Begin a command."""
    return subprocess.Popen(
        [sys.executable, "-m", "tunesmith", *arguments],
        env={**os.environ, "KUBECONFIG": str(cluster.plane.kubeconfig), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def call(cluster: Cluster, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    process = start(cluster, *arguments)
    out, errors = process.communicate(timeout=60)
    return process.returncode, out, errors
