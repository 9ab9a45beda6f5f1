"""Those parts of the node of the tests that need neither root nor a kernel's help."""

import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.testbed.control_plane import SERVICE_ADDRESSES, VERSION
from tests.testbed.go_commands import HERE
from tests.testbed.kube_api import wait_for
from tests.testbed.node import addresses, images, node
from tests.testbed.node import processes as processes_module
from tests.testbed.node.network import guards
from tests.testbed.node.processes import Processes, Running

REST = "import time; print('up', flush=True); time.sleep(600)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {REST!r}])"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {REST}"


def replacements(module: str) -> set[str]:
    return set(re.findall(r"^\t(k8s\.io/.* => .*)$", (HERE / module / "go.mod").read_text(), re.MULTILINE))


@pytest.mark.parametrize("module", ["kubernetes", "kubernetes_node"])
def test_control_plane_and_node_are_of_one_version(module: str) -> None:
    versions = re.findall(
        r"^\tk8s\.io/kubernetes (\S+)|^require k8s\.io/kubernetes (\S+)",
        (HERE / module / "go.mod").read_text(),
        re.MULTILINE,
    )
    assert ["".join(one) for one in versions] == [VERSION]
    assert replacements(module) == replacements("kubernetes") != set()


def test_manifest_of_dns_names_what_the_node_has() -> None:
    documents = list(yaml.safe_load_all(node.MANIFEST.read_text()))
    found = {(one["kind"], one["metadata"]["name"]): one for one in documents}
    assert found["Service", "kube-dns"]["spec"]["clusterIP"] == addresses.DNS_SERVICE
    (container,) = found["Deployment", "coredns"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == images.COREDNS
    assert f"kubernetes {addresses.DOMAIN} " in found["ConfigMap", "coredns"]["data"]["Corefile"]
    assert addresses.SERVICES == SERVICE_ADDRESSES


def test_machine_that_forwarded_nothing_forwards_for_the_bridge_alone() -> None:
    assert "priority filter - 10; policy drop;" in guards(forwards=False)
    assert "policy drop" not in guards(forwards=True)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    if sys.platform != "linux":
        pytest.skip("A node runs on Linux.")
    started = Processes(tmp_path)
    yield started
    started.kill_all()


def start(processes: Processes, name: str, code: str) -> int:
    processes.start(name, [sys.executable, "-c", code])
    wait_for(lambda: "up" in processes.log(name), f"{name} is up")
    pid = processes.pid(name)
    assert pid is not None
    return pid


def test_process_is_found_by_anybody_until_it_is_stopped(processes: Processes) -> None:
    pid = start(processes, "first", REST)
    other = start(processes, "second", REST)
    assert pid != other
    assert Processes(processes.folder).pid("first") == pid
    assert Processes(processes.folder / "other").all() == []
    processes.stop("first")
    assert processes.pid("first") is None
    assert processes.pid("second") == other


def test_process_that_does_not_listen_is_killed(processes: Processes) -> None:
    start(processes, "deaf", DEAF)
    processes.stop("deaf", signal.SIGTERM, seconds=0.2)
    assert processes.all() == []


def test_what_a_process_has_started_ends_with_all(processes: Processes) -> None:
    start(processes, "parent", PARENT)
    assert [one.leads for one in sorted(processes.all(), key=lambda one: not one.leads)] == [True, False]
    processes.stop("parent", signal.SIGKILL)
    assert [one.leads for one in processes.all()] == [False], "its child is an orphan"
    processes.kill_all()
    assert processes.all() == []


def stat_line(pid: int, virtual_size: int, environment_end: int) -> str:
    """As in proc_pid_stat(5); the name is one that ends like the line's own fields."""
    fields = ["0"] * 52
    fields[0], fields[1], fields[2], fields[5] = str(pid), "(odd) R 1)", "R", str(pid)
    fields[22], fields[50] = str(virtual_size), str(environment_end)
    return " ".join(fields) + "\n"


def test_process_is_found_though_it_becomes_another_program_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes_module, "PROC", tmp_path)
    becoming, kernel, ended = (tmp_path / number for number in ("41", "42", "43"))
    for folder, size in ((becoming, 4_096), (kernel, 0), (ended, 0)):
        folder.mkdir()
        (folder / "environ").touch()
        (folder / "stat").write_text(stat_line(int(folder.name), size, 0))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            marks = f"TUNESMITH_TESTBED_NODE={tmp_path}\0TUNESMITH_TESTBED_PROCESS=controllers\0"
            (becoming / "environ").write_text(f"PATH=/\0{marks}")

    monkeypatch.setattr("time.sleep", sleep)
    assert Processes(tmp_path).all() == [Running(41, "controllers", leads=True)]
    assert len(slept) == 3
