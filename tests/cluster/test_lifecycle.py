"""A node comes and goes without a trace, also when its start is cut short."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.machine_state import Snapshot, snapshot
from tests.cluster.namespaces import Namespace, pod
from tests.testbed.addons.images import HELLO, archives
from tests.testbed.kube_api import wait_for
from tests.testbed.node import Node, NodeError, commands, image_store, machine, take_down
from tests.testbed.node.addresses import ADDRESS
from tests.testbed.node.containerd import SOCKET
from tests.testbed.node.processes import Processes


@pytest.fixture
def folder(capable: None, tmp_path: Path) -> Iterator[Path]:
    """Of a node that a test brings up, and that is gone after it."""
    if (there := machine.node_folder()) is not None:
        pytest.skip(f"Takes the machine's node down, and {there} is in use: make cluster-down.")
    commands.build()
    yield tmp_path / "node"
    take_down()


def assert_same(before: Snapshot, after: Snapshot) -> None:
    come = {what: after[what] - before[what] for what in before if after[what] - before[what]}
    gone = {what: before[what] - after[what] for what in before if before[what] - after[what]}
    assert (come, gone) == ({}, {})


def test_node_leaves_nothing_behind(folder: Path) -> None:
    before = snapshot(folder)
    node = Node.up(folder)
    running = snapshot(folder)
    unchanged = {what for what, lines in before.items() if running[what] == lines}
    assert unchanged <= {"mounts"}, "the comparison sees what a node does"
    node.down()
    assert_same(before, snapshot(folder))


def test_node_listens_nowhere_but_on_loopback_and_its_bridge(folder: Path) -> None:
    Node.up(folder)
    addresses = {socket.rpartition(":")[0] for socket in snapshot(folder)["sockets"]}
    assert addresses == {"127.0.0.1", ADDRESS}


@pytest.mark.parametrize("name", ["etcd", "containerd", "kubelet"])
def test_start_that_was_killed_in_the_middle_leaves_nothing_after_down(folder: Path, name: str) -> None:
    before = snapshot(folder)
    starter = subprocess.Popen([sys.executable, "-m", "tests.testbed.cluster", "up", f"--folder={folder}"])
    wait_for(lambda: Processes(folder).pid(name), f"{name} runs", 60)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    assert Processes(folder).all()
    assert take_down() == folder
    # A kubectl that the starter had just started finds nobody to speak to any more.
    wait_for(lambda: snapshot(folder)["processes"] == before["processes"], "nothing runs", 30)
    assert_same(before, snapshot(folder))


def test_second_up_finds_the_node_that_runs(folder: Path) -> None:
    first = Node.up(folder)
    pids = {one.pid for one in first.processes.all() if one.leads}
    begun = time.monotonic()
    assert Node.up(folder) == first == Node.find(folder)
    assert time.monotonic() - begun < 5
    assert {one.pid for one in first.processes.all() if one.leads} == pids
    with pytest.raises(NodeError, match=f"a node in {folder}, and can carry one"):
        Node.up(folder.with_name("other"))


def test_up_starts_anew_where_something_ended(folder: Path) -> None:
    node = Node.up(folder)
    node.processes.stop("scheduler")
    assert not node.healthy()
    assert Node.up(folder).healthy()


def test_next_node_has_the_images_of_the_one_before_and_none_of_its_containers(folder: Path) -> None:
    node = Node.up(folder)
    node.images.bring(HELLO.name, archives()[HELLO])
    namespace = Namespace.create(node.kubectl, "earlier")
    namespace.apply(pod("lasting", "rest"))
    namespace.container_state("lasting", "running")
    assert len(containers_of(node, "lasting")) == 2, "its own and its sandbox's"
    node.down()
    with image_store.without_node(node.commands) as images:
        assert images.has(HELLO.name)
    again = Node.up(folder)
    assert again.images.has(HELLO.name)
    wait_for(lambda: not containers_of(again, "lasting"), "the kubelet has thrown them away", 150)


def containers_of(node: Node, name: str) -> list[str]:
    """What the container runtime holds of a pod, running or not."""
    those = f'labels."io.kubernetes.pod.name"=={name}'
    command = [node.commands["ctr"], "--address", str(SOCKET), "--namespace", "k8s.io", "containers", "list"]
    done = subprocess.run([*command, "--quiet", those], check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_folder_with_files_of_somebody_else_is_refused_and_kept(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(NodeError, match="files that no node wrote"):
        Node.up(folder)
    assert take_down() is None
    assert (folder / "thesis.txt").read_text() == "years of work"
