"""A view of the file system of the node's own, in which it mounts what it likes.

Container runtime and kubelet mount dozens of file systems and write to fixed places below /run and /var. They
run in a mount namespace where those places are folders of the node: nothing of it is seen on the machine, and
all of it is gone when the last process in the namespace is.
"""

import time
from pathlib import Path

from tests.testbed.node import machine
from tests.testbed.node.processes import Processes
from tests.testbed.node.tools import output

NAME = "mounts"
FIXED_PLACES = (
    "/run/containerd",
    "/run/netns",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
)
SECONDS = 10.0


def hold(processes: Processes) -> int:
    """Start a process that keeps the namespace, with the fixed places in it; returns its process id."""
    machine.create_folders([Path(place) for place in FIXED_PLACES])
    processes.start(NAME, ["unshare", "--mount", "--propagation", "slave", "sleep", "infinity"])
    holder = _asleep(processes)
    for place in FIXED_PLACES:
        own = inside(processes.folder, place)
        own.mkdir(parents=True, exist_ok=True)
        output("nsenter", f"--mount=/proc/{holder}/ns/mnt", "mount", "--bind", str(own), place)
    return holder


def inside(folder: Path, place: str) -> Path:
    """The folder that the node sees at a place."""
    return folder / "places" / place.strip("/").replace("/", "-")


def below(folder: Path) -> list[str]:
    """What is mounted below a folder in this process's view, the innermost first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    return sorted((point for point in points if Path(point).is_relative_to(folder)), key=len, reverse=True)


def _asleep(processes: Processes) -> int:
    """The holder's id, once it has its namespace: until then it is not `sleep` yet."""
    deadline = time.monotonic() + SECONDS
    while True:
        pid = processes.pid(NAME)
        if pid is not None and Path(f"/proc/{pid}/comm").read_text().strip() == "sleep":
            return pid
        if time.monotonic() > deadline:
            raise TimeoutError(f"unshare gave no mount namespace: {processes.log(NAME)}")
        time.sleep(0.01)
