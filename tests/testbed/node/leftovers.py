"""Takes away everything of a node, in whatever state it is: running, half started, killed in the middle."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.testbed.node import machine, mounts, network
from tests.testbed.node.processes import Processes
from tests.testbed.node.tools import output

CGROUPS = Path("/sys/fs/cgroup")
PODS = "kubepods"
SECONDS = 30.0


class LeftBehind(Exception):
    """Something of a node cannot be removed."""


def remove(folder: Path) -> None:
    """Take a node away; its data are thrown away, so nothing is asked to end by itself.

    The kubelet and the container runtime go first, so that they start nothing any more; then what runs in
    pods, by its cgroups; then what they left on the machine. With its last process the node's mount namespace
    ends, and with it every mount and network namespace that was made in it.
    """
    Processes(folder).kill_all()
    kill_pods()
    network.down()
    _until(_remove_cgroups, "The cgroups of pods cannot be removed")
    remove_folder(folder)
    machine.remove_created_folders()
    machine.release()


def pod_cgroups() -> list[Path]:
    """The folders of the pods' cgroups: one in version 2, one for each controller in version 1."""
    return [path for path in (CGROUPS / PODS, *CGROUPS.glob(f"*/{PODS}")) if path.is_dir()]


def kill_pods() -> None:
    """Kill what runs in pods; returns when nothing of it is left."""
    _until(_kill_some, "Processes of pods do not end")


def _kill_some() -> bool:
    pids = {pid for top in pod_cgroups() for file in top.rglob("cgroup.procs") for pid in _numbers(file)}
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return not pids


def _numbers(file: Path) -> Iterator[int]:
    try:
        yield from map(int, file.read_text().split())
    except OSError:  # its cgroup has gone meanwhile
        return


def _remove_cgroups() -> bool:
    for top in pod_cgroups():
        for folder in sorted((one for one in top.rglob("*") if one.is_dir()), reverse=True):
            _remove_cgroup(folder)
        _remove_cgroup(top)
    return not pod_cgroups()


def _remove_cgroup(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # the kernel may need a moment after its last process
        return


def remove_folder(folder: Path) -> None:
    for point in mounts.below(folder):
        output("umount", "--lazy", point)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)


def _until(look: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not look():
        if time.monotonic() > deadline:
            raise LeftBehind(f"{complaint} (tried for {SECONDS:.0f} s)")
        time.sleep(0.05)
