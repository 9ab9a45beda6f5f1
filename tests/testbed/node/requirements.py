"""Whether this machine can carry a node: tried out where that leaves nothing, not guessed from versions."""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.testbed import debian
from tests.testbed.oci_image import ARCHITECTURES

PACKAGES = {
    "ip": "iproute2",
    "nft": "nftables",
    "mount": "mount",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "setsid": "util-linux",
    "unshare": "util-linux",
}
"""Commands, and Debian's packages of them."""
TRIAL_RULES = """
    table ip trial {
      chain after {
        type nat hook postrouting priority srcnat;
        masquerade
      }
      chain before {
        type nat hook prerouting priority dstnat;
        fib daddr type local numgen random mod 1 vmap { 0 : accept }
      }
    }
"""
"""What kube-proxy's rules need of the kernel."""


class CannotRun(Exception):
    """This machine cannot carry a node; says why, and what to do where something can be done."""


def provide(say: Callable[[str], None] = lambda line: None) -> None:
    """Install what is missing on a Debian, saying so, and check the rest."""
    packages = missing_packages()
    if packages and _is_root() and shutil.which("apt-get"):
        say(f"Installing {' '.join(packages)} with apt-get: a node needs {'them' if packages[1:] else 'it'}")
        debian.install(packages)
    check()


def check() -> None:
    """Return where a node can run.

    Raises:
        CannotRun: with the first obstacle.
    """
    if platform.system() != "Linux":
        raise CannotRun(
            f"A node runs on Linux, and this is {platform.system()}: give a cluster by KUBECONFIG."
        )
    if platform.machine() not in ARCHITECTURES:
        raise CannotRun(f"A node runs on {', '.join(ARCHITECTURES)}, and this is {platform.machine()}.")
    if not _is_root():
        raise CannotRun("A node needs root: run it with sudo, or give a cluster by KUBECONFIG.")
    if packages := missing_packages():
        raise CannotRun(f"A node needs commands that are missing here: apt-get install {' '.join(packages)}")
    if not _has_memory_controller():
        raise CannotRun("The kernel has no cgroup controller of memory: boot it with cgroup_enable=memory.")
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "--quiet", "overlay"], capture_output=True, check=False)
    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        raise CannotRun("The kernel has no overlay file system (CONFIG_OVERLAY_FS).")
    for what, command, stdin in (
        ("namespaces", ["true"], None),
        ("bridges", ["ip", "link", "add", "trial", "type", "bridge"], None),
        ("pairs of virtual links", ["ip", "link", "add", "trial", "type", "veth"], None),
        ("nftables with masquerading", ["nft", "--file", "-"], TRIAL_RULES),
    ):
        _try(what, command, stdin)


def missing_packages() -> list[str]:
    """Debian's names of what has to be installed."""
    return sorted({package for command, package in PACKAGES.items() if shutil.which(command) is None})


def _try(what: str, command: list[str], stdin: str | None) -> None:
    """Try something in namespaces that are gone with the command."""
    done = subprocess.run(
        ["unshare", "--mount", "--net", "--", *command],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
    )
    if done.returncode:
        raise CannotRun(f"The kernel refuses {what} here: {done.stderr.strip()}")


def _is_root() -> bool:
    return os.geteuid() == 0


def _has_memory_controller() -> bool:
    unified = Path("/sys/fs/cgroup/cgroup.controllers")
    if unified.exists():
        return "memory" in unified.read_text().split()
    return Path("/sys/fs/cgroup/memory").is_dir()
