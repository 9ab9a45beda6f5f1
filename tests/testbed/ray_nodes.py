"""Two nodes of a Ray cluster on one machine: separate processes, addresses and folders.

Where the system lets us (root, as a rule), the second node has a view of the file system of its own in which
the first one's folder is empty: what its trials read comes from somewhere else.
"""

import contextlib
import ctypes
import functools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.s3 import free_ports
from tests.testbed.trainers import PATIENCE_SECONDS

READY_SECONDS = PATIENCE_SECONDS
START_ATTEMPTS = 3
HEAD, WORKER = "127.0.0.2", "127.0.0.3"
"""Ray takes 127.0.0.1 for a machine's name of itself, and replaces it."""
OBJECT_STORE_BYTES = 80 * 2**20
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000  # of <sched.h> and <sys/mount.h>


@dataclass
class RayNode:
    """One node: `ray start`, in the foreground.

    Attributes:
        folder: Ray's own files, below `ray`, and the trials' cache, below `cache`.
        process: of `ray start`; a session of its own.
    """

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2_000:]

    def kill(self) -> None:
        """End it with all that it has started, as a machine that loses its power."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._sweep()

    def _sweep(self) -> None:
        """Ray's workers have sessions of their own."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if f"{self.folder}/".encode() in (entry / "cmdline").read_bytes() + _environment(entry):
                    os.kill(int(entry.name), signal.SIGKILL)


@dataclass
class RayNodes:
    """A head and a worker.

    Attributes:
        address: of the head's GCS.
        head: the first node.
        worker: the second one.
        environment: what a driver needs to join.
    """

    address: str
    token: str
    head: RayNode
    worker: RayNode

    @property
    def environment(self) -> dict[str, str]:
        return {
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "TUNESMITH_CACHE_DIR": str(self.head.cache),
        }


@contextlib.contextmanager
def two_nodes(environment: Mapping[str, str], cpus: int = 1) -> Iterator[RayNodes]:
    """A cluster of two nodes, ended with the block.

    Args:
        environment: of both, as their pods would have it.
        cpus: processors of each.
    """
    root = Path(tempfile.mkdtemp(prefix="ts-nodes-", dir="/tmp"))
    token = secrets.token_urlsafe(32)
    (port,) = free_ports(1)
    nodes: list[RayNode] = []
    try:
        first = ["--head", f"--node-ip-address={HEAD}", f"--port={port}", "--include-dashboard=false"]
        second = [f"--address={HEAD}:{port}", f"--node-ip-address={WORKER}"]
        variables = {**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        for name, arguments in (("head", first), ("worker", second)):
            hidden = root / "head" if name == "worker" else None
            nodes.append(_started(root / name, arguments, variables, cpus, hidden))
        yield RayNodes(f"{HEAD}:{port}", token, *nodes)
    finally:
        for node in reversed(nodes):
            node.kill()
        shutil.rmtree(root, ignore_errors=True)


def _started(
    folder: Path, arguments: list[str], environment: Mapping[str, str], cpus: int, hidden: Path | None
) -> RayNode:
    """A node that is ready; Ray gives its own server half a minute, however busy the machine is."""
    for _ in range(START_ATTEMPTS):
        node = _start(folder, arguments, environment, cpus, hidden)
        deadline = time.monotonic() + READY_SECONDS
        while node.process.poll() is None:
            if "Ray runtime started" in node.log:
                return node
            assert time.monotonic() < deadline, node.log
            time.sleep(0.05)
        node.kill()
        assert "timed out during startup" in node.log, node.log
    raise AssertionError(node.log)


def _start(
    folder: Path, arguments: list[str], environment: Mapping[str, str], cpus: int, hidden: Path | None
) -> RayNode:
    (folder / "cache").mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
        *(f"--num-cpus={cpus}", "--num-gpus=0", f"--object-store-memory={OBJECT_STORE_BYTES}"),
        f"--temp-dir={folder}/ray",
        *arguments,
    ]
    variables = {
        **os.environ,
        **environment,
        "HOME": str(folder),
        # tunesmith_trainer sets it to 0 where it is imported, as it is in the process of the tests.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        "TUNESMITH_CACHE_DIR": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=variables,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=None if hidden is None else functools.partial(_hide, str(hidden).encode()),
        )
    return RayNode(folder, process)


_libc = ctypes.CDLL(None)


def _hide(folder: bytes) -> None:
    """From here on this process and its children find the folder empty; nothing where that is not allowed."""
    if _libc.unshare(CLONE_NEWNS) == 0 and _libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0:
        _libc.mount(b"none", folder, b"tmpfs", 0, None)


def _environment(entry: Path) -> bytes:
    return (entry / "environ").read_bytes()
