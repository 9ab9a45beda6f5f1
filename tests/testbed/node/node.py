"""One node: the whole of Kubernetes on this machine, from `up` to `down`."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.control_plane import ADMIN
from tests.testbed.kubectl import Kubectl
from tests.testbed.node import commands as node_commands
from tests.testbed.node import (
    control_plane,
    kubelet,
    leftovers,
    machine,
    mounts,
    network,
    requirements,
)
from tests.testbed.node import images as node_images
from tests.testbed.node.addresses import ADDRESS, BRIDGE, NODE
from tests.testbed.node.commands import Commands
from tests.testbed.node.containerd import Containerd
from tests.testbed.node.control_plane import kubeconfig_of
from tests.testbed.node.image_store import ImageStore
from tests.testbed.node.processes import Processes

Say = Callable[[str], None]
MANIFEST = Path(__file__).with_name("coredns.yaml")
MARK = ".tunesmith-node"
GPUS = 2
"""That the node claims to have, so that pods that want one are scheduled; there is none."""
READY_SECONDS = 120.0
PROCESSES = (
    *("etcd", "apiserver", "controllers", "scheduler"),
    *(mounts.NAME, "containerd", "kubelet", "proxy"),
)


class NodeError(Exception):
    """A node cannot be started; says why and what to do."""


@dataclass(frozen=True)
class Node:
    """A node that runs, by its folder.

    Attributes:
        folder: of all that it keeps.
        commands: that it is made of.
    """

    folder: Path
    commands: Commands

    @classmethod
    def up(cls, folder: Path, say: Say = lambda line: None) -> "Node":
        """A node that is ready: the one that runs in this folder, or a new one.

        Raises:
            CannotRun: where this machine cannot carry one.
            NodeError: where another one runs, or it does not come up; then nothing is left of it.
        """
        requirements.check()
        folder = folder.absolute()
        node = cls(folder, node_commands.build(say))
        with machine.lock():
            there = machine.node_folder()
            if there is not None and there != folder:
                raise NodeError(f"This machine has a node in {there}, and can carry one: make cluster-down")
            if there == folder and node.healthy():
                return node
            if there is not None:
                say("An earlier start was not finished, or something ended: starting anew")
                leftovers.remove(folder)
            node._start(say)
        return node

    @classmethod
    def find(cls, folder: Path | None = None) -> "Node | None":
        """The node that was started on this machine, in this folder where one is given."""
        there = machine.node_folder()
        if there is None or (folder is not None and there != folder.absolute()):
            return None
        return cls(there, node_commands.build())

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return kubeconfig_of(self.folder, ADMIN)

    @property
    def address(self) -> str:
        """This machine's, where pods reach it."""
        return ADDRESS

    @property
    def kubectl(self) -> Kubectl:
        return Kubectl(self.commands["kubectl"], self.kubeconfig)

    @property
    def processes(self) -> Processes:
        """Its processes, by their names; others may be added, and end with the node."""
        return Processes(self.folder)

    @property
    def containerd(self) -> Containerd:
        return Containerd(self.folder, self.commands)

    @property
    def images(self) -> ImageStore:
        """The images that pods can be started from."""
        return self.containerd.images

    def healthy(self) -> bool:
        """Whether everything runs and the node is ready."""
        names = {one.name for one in self.processes.all() if one.leads}
        return names.issuperset(PROCESSES) and self._ready()

    def down(self) -> None:
        """Take it away, with all that it changed on this machine."""
        take_down(self.folder)

    def start(self, name: str) -> None:
        """Start a process of the node that was stopped, with the flags that it had."""
        self._run(name, self._command_lines()[name])
        if name == "containerd":  # a kubelet that does not find it ends
            self._wait("the container runtime answers", self.images.answers, name)

    def restart(self) -> None:
        """As a machine that loses its power and comes back; returns when the node is ready again.

        Nothing of Kubernetes and of the pods outlives it; what was written does, and so do S3 and others that
        were put beside the node.
        """
        restarted = [name for name in PROCESSES if name != mounts.NAME]
        self.processes.kill_all(restarted)
        leftovers.kill_pods()
        lines = self._command_lines()
        for name in ("etcd", "apiserver", "containerd"):
            self._run(name, lines[name])
        self._wait("the API server is ready", self._api_ready, "etcd", "apiserver")
        self._wait("the container runtime answers", self.images.answers, "containerd")
        before = self._heartbeat()
        for name in ("controllers", "scheduler", "kubelet", "proxy"):
            self._run(name, lines[name])
        self._wait("the kubelet is back", lambda: self._heartbeat() != before, *PROCESSES)
        self._wait("the node is ready", self._ready, *PROCESSES)
        self._claim_gpus()

    def _start(self, say: Say) -> None:
        _refuse_foreign(self.folder)
        machine.claim(self.folder)
        try:
            self._boot(say)
        except BaseException:
            leftovers.remove(self.folder)
            raise

    def _boot(self, say: Say) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MARK).touch()
        control_plane.write_identities(self.folder)
        self.containerd.configure()
        kubelet.configure(self.folder, kubeconfig_of(self.folder, control_plane.PROXY))
        network.up()
        mounts.hold(self.processes)
        lines = self._command_lines()
        for name in ("etcd", "apiserver", "containerd"):
            self._run(name, lines[name])
        archives = node_images.write_all(self.commands, self.folder / "images")
        self._wait("the container runtime answers", self.images.answers, "containerd")
        for archive in archives:
            self.images.bring_anew(archive)
        self._wait("the API server is ready", self._api_ready, "etcd", "apiserver")
        say("API server ready")
        for name in ("controllers", "scheduler", "kubelet", "proxy"):
            self._run(name, lines[name])
        self.kubectl("apply", "--server-side", "--filename", str(MANIFEST))
        self._wait("the node is ready", self._ready, *PROCESSES)
        self._claim_gpus()
        say("Node ready")
        self._wait("names are resolved", self._dns_ready, *PROCESSES)
        say("DNS ready")

    def _command_lines(self) -> dict[str, list[str]]:
        plane = control_plane.command_lines(self.folder, self.commands)
        own = kubeconfig_of(self.folder, control_plane.KUBELET)
        return {
            "etcd": plane.etcd,
            "apiserver": plane.apiserver,
            "controllers": plane.controllers,
            "scheduler": plane.scheduler,
            "containerd": self.containerd.command,
            "kubelet": kubelet.kubelet_command(self.folder, self.commands, own),
            "proxy": kubelet.proxy_command(self.folder, self.commands),
        }

    def _run(self, name: str, command: list[str]) -> None:
        mounted = name in ("containerd", "kubelet")
        self.processes.start(
            name,
            command,
            beside=self.processes.pid(mounts.NAME) if mounted else None,
            environment=self.containerd.environment if name == "containerd" else None,
        )

    def _wait(self, what: str, look: Callable[[], bool], *needed: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not look():
            names = {one.name for one in self.processes.all() if one.leads}
            for name in needed:
                if name not in names:
                    raise NodeError(f"{name} ended before {what}:\n{self.processes.log(name)}")
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {name}\n{self.processes.log(name, 1_000)}" for name in needed)
                raise NodeError(f"Not within {READY_SECONDS:.0f} s: {what}.\n{logs}")
            time.sleep(0.1)

    def _api_ready(self) -> bool:
        return control_plane.answer(self.folder, "/readyz") == b"ok"

    def _ready(self) -> bool:
        return self._condition(f"/api/v1/nodes/{NODE}", "Ready")

    def _heartbeat(self) -> str:
        """When the kubelet last renewed its lease."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NODE}"
        found = json.loads(control_plane.answer(self.folder, path) or "{}")
        return str(found.get("spec", {}).get("renewTime"))

    def _dns_ready(self) -> bool:
        return self._condition("/apis/apps/v1/namespaces/kube-system/deployments/coredns", "Available")

    def _condition(self, path: str, kind: str) -> bool:
        found = json.loads(control_plane.answer(self.folder, path) or "{}")
        conditions = found.get("status", {}).get("conditions", [])
        return any(one["type"] == kind and one["status"] == "True" for one in conditions)

    def _claim_gpus(self) -> None:
        patch = f'{{"status": {{"capacity": {{"nvidia.com/gpu": "{GPUS}"}}}}}}'
        self.kubectl("patch", "node", NODE, "--subresource=status", "--type=merge", f"--patch={patch}")


def take_down(folder: Path | None = None) -> Path | None:
    """Take away the node that this machine has, in whatever state it is.

    Args:
        folder: of the node that is meant, where it may be another one.

    Returns:
        The folder that it had; None where there was no node.
    """
    with machine.lock():
        there = machine.node_folder()
        if there is None:
            return None
        if folder is not None and there != folder.absolute():
            raise NodeError(f"The node of this machine is in {there}, not in {folder}.")
        leftovers.remove(there)
        return there


def _refuse_foreign(folder: Path) -> None:
    """Raise where something is in the way that is not ours to remove."""
    if folder.exists():
        if any(folder.iterdir()) and not (folder / MARK).exists():
            raise NodeError(f"{folder} has files that no node wrote: name an empty folder.")
        leftovers.remove_folder(folder)  # of a node that ended with the machine
    if leftovers.pod_cgroups():
        raise NodeError(
            "Another kubelet has pods on this machine (cgroup kubepods): a node would meddle with them."
        )
    if network.exists():
        raise NodeError(f"This machine has a link {BRIDGE} already that no node made: remove it.")
    if taken := network.tables().intersection(network.PROXY_TABLES):
        raise NodeError(f"Another kube-proxy has rules on this machine: {sorted(taken)}")
