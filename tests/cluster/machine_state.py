"""What a machine looks like from where a node could leave something behind."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.testbed.node import leftovers, machine, mounts
from tests.testbed.node.processes import Processes

COMMANDS = ("containerd", "coredns", "errand", "kube-proxy", "kube-scheduler", "kubelet", "pause", "runc")
"""That nothing but a node runs."""
CHANGE_BY_THEMSELVES = re.compile(
    r"fs/(dentry-state|file-nr|inode-nr|inode-state|aio-nr|quota/.*|inotify/.*count)"
    r"|kernel/(ns_last_pid|random/.*|pty/nr|perf_event_max_sample_rate)"
    r"|net/netfilter/nf_conntrack_count|net/ipv4/.*/flush|net/ipv6/.*/flush|vm/drop_caches"
)
Snapshot = dict[str, set[str]]


def snapshot(folder: Path) -> Snapshot:
    """Sets of lines, by what they are about."""
    rules = _output("nft", "--stateless", "list", "ruleset")
    places = (folder, machine.RUN, *map(Path, mounts.FIXED_PLACES))
    return {
        "processes": set(_processes(folder)),
        "links": {one["ifname"] for one in json.loads(_output("ip", "-json", "link", "show"))},
        "addresses": set(_output("ip", "-oneline", "address", "show").splitlines()),
        "routes": set(_output("ip", "route", "show", "table", "all").splitlines()),
        "nft rules": set(rules.splitlines()),
        "mounts": {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()},
        "sysctls": set(_sysctls()),
        "cgroups": {str(path) for path in leftovers.CGROUPS.glob("*/*") if path.is_dir()},
        "files": {str(path) for path in places if path.exists()},
        "sockets": set(_listening(folder)),
    }


def _processes(folder: Path) -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "comm").read_text().strip()
            marked = str(folder).encode() in (entry / "environ").read_bytes()
            in_pod = leftovers.PODS in (entry / "cgroup").read_text()
        except OSError:
            continue
        if marked or in_pod or command.startswith(COMMANDS):
            yield f"{entry.name} {command}"


def _sysctls() -> Iterator[str]:
    top = Path("/proc/sys")
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if name != "binfmt_misc"]  # looking there may mount something
        for path in (Path(folder, file) for file in files):
            name = str(path.relative_to(top))
            if CHANGE_BY_THEMSELVES.fullmatch(name):
                continue
            try:
                yield f"{name} = {path.read_text().strip()}"
            except (OSError, UnicodeDecodeError):
                continue


def _listening(folder: Path) -> Iterator[str]:
    """The addresses at which a node's processes listen."""
    pids = {str(one.pid) for one in Processes(folder).all()}
    for protocol in ("--tcp", "--udp"):
        lines = _output("ss", "--listening", protocol, "--numeric", "--no-header", "--processes").splitlines()
        for line in lines:
            if pids.intersection(re.findall(r"pid=(\d+)", line)):
                yield line.split()[3]


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
