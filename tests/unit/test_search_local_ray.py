"""Ray on one machine: what it starts, what it leaves out and what it leaves behind."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import ray

from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_trainer.search import local_ray as module
from tunesmith_trainer.search.local_ray import PREFIX, local_ray, remove_leftovers, start_early, stop_early

LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
LISTENING = "0A"
LONGER_THAN_RAY_LETS_A_WORKER_IDLE = 4.0
"""Seconds: two for the worker's start, one of idleness, and the time between two looks at it."""


def descendants(process: int) -> set[int]:
    """Ids of everything that a process has started, and that these have."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {process}


def commands(processes: set[int]) -> str:
    return "\n".join(
        Path(f"/proc/{one}/cmdline").read_text().replace("\0", " ")
        for one in processes
        if Path(f"/proc/{one}").exists()
    )


def addresses(processes: set[int]) -> set[str]:
    """Addresses, as the kernel writes them, on which processes listen for TCP."""
    sockets = {
        link.readlink().name.removeprefix("socket:[").removesuffix("]")
        for one in processes
        for link in Path(f"/proc/{one}/fd").glob("*")
        if link.is_symlink() and link.readlink().name.startswith("socket:")
    }
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return {one[1].split(":")[0] for one in lines if one[3] == LISTENING and one[9] in sockets}


@pytest.fixture(scope="module")
def started() -> dict[str, object]:
    """What is there while Ray, started early, runs, and what is there after it."""
    own = signal.getsignal(signal.SIGTERM)
    before = descendants(ray_process())
    start_early(1, 0, ["colorsys"])
    early = module._early
    assert early is not None
    with local_ray(1, 0):
        time.sleep(LONGER_THAN_RAY_LETS_A_WORKER_IDLE)
        ahead = descendants(ray_process()) - before
        worker = ray.get(ray.remote(_process).remote())
        preloaded = ray.remote(_loaded).remote("colorsys")
        mine = descendants(ray_process()) - before
        facts: dict[str, object] = {
            "preloaded": ray.get(preloaded),
            "ahead": worker in ahead,
            "commands": commands(mine),
            "addresses": addresses(mine),
            "groups": {os.getpgid(one) for one in mine},
            "handler": signal.getsignal(signal.SIGTERM) is own,
            "slots": ray.cluster_resources()["CPU"],  # type: ignore[no-untyped-call]
            "early": early,
            "folder": early._folder,
        }
    facts["left"] = descendants(ray_process()) - before
    return facts


def ray_process() -> int:
    return int(Path("/proc/self").readlink().name)


def _process() -> int:
    return os.getpid()


def _loaded(name: str) -> bool:
    return name in sys.modules


@pytest.mark.parametrize("part", ["dashboard/dashboard.py", "monitor.py", "log_monitor.py"])
def test_ray_runs_without_what_one_machine_does_not_need(started: dict[str, object], part: str) -> None:
    assert "raylet" in str(started["commands"])
    assert part not in str(started["commands"])


def test_ray_listens_on_the_loopback_interface_alone(started: dict[str, object]) -> None:
    found = started["addresses"]
    assert isinstance(found, set)
    assert found
    assert found <= LOOPBACK


def test_ray_has_the_slots_asked_for_and_workers_with_their_imports(started: dict[str, object]) -> None:
    assert started["slots"] == 1
    assert started["preloaded"]


def test_worker_that_was_started_ahead_waits_for_the_first_trial(started: dict[str, object]) -> None:
    assert started["ahead"]


def test_ray_leaves_the_handler_of_sigterm_alone(started: dict[str, object]) -> None:
    assert started["handler"]


def test_every_process_of_ray_ends_with_the_trainers_group(started: dict[str, object]) -> None:
    assert started["groups"] == {os.getpgid(0)}


def test_ray_leaves_neither_processes_nor_files(started: dict[str, object]) -> None:
    assert started["left"] == set()
    assert not Path(str(started["folder"])).exists()
    assert not ray.is_initialized()


# Ray itself forgets the server that it had started by then; Linux ends it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_error_of_the_start_comes_out_and_leaves_nothing() -> None:
    with pytest.raises(ValueError, match="nonnegative"), local_ray(-1, 0):
        pytest.fail("Ray cannot have started")
    assert not ray.is_initialized()
    gc.collect()


def test_early_start_that_nobody_uses_can_be_ended() -> None:
    stop_early()
    start_early(1, 0)
    stop_early()
    assert not ray.is_initialized()


def test_leftovers_of_dead_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f"{PREFIX}{dead.pid}-a", f"{PREFIX}{ray_process()}-b", f"{PREFIX}somebody", "other"]
    for name in names:
        (tmp_path / name / "logs").mkdir(parents=True)
    remove_leftovers(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(names[1:])


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        pytest.param("/tmp", "/tmp", id="short enough for sockets"),
        pytest.param("/tmp/" + "long" * 20, "/tmp", id="too long for sockets"),
    ],
)
def test_temporary_folder_leaves_room_for_sockets(
    folder: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", folder)
    assert str(module._temporary_folder()) == expected


@pytest.mark.parametrize(
    ("wanted", "processors", "slots"),
    [
        pytest.param(64, 2, 2, id="no more than processors"),
        pytest.param(64, 48, 40, id="no more than fine-tunings"),
        pytest.param(3, 8, 3, id="what the spec says"),
    ],
)
def test_slots_fit_the_machine(
    wanted: int, processors: int, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "allowed_processors", lambda: processors)
    spec = TrainingJobSpec.model_validate(
        {
            "dataset": {"uri": "file:///photos"},
            "store": {"uri": "file:///store"},
            "search": {"parallelTrials": wanted, "maxFineTuneTrials": 40, "numTrials": 100},
        }
    )
    assert module.trial_slots(spec) == slots
