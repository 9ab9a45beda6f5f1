"""GPU seconds: added up over processes, kept now and then, never the run's trouble."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.testbed.photo_sets import PhotoSet
from tests.testbed.tiny_job import tiny_job

from tunesmith_api.reasons import RunInProgress, StoreUnreachable
from tunesmith_api.training_job import TrainingJob
from tunesmith_package.file_store import FileStore
from tunesmith_trainer.cluster import own_part
from tunesmith_trainer.events import Events
from tunesmith_trainer.gpu_time import GpuTime
from tunesmith_trainer.run import JobRun
from tunesmith_trainer.status import StatusBoard
from tunesmith_trainer.workspace import Workspace


class Clock:
    """Seconds that go on when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_sum_is_seconds_times_gpus_on_top_of_what_earlier_processes_used() -> None:
    kept: list[float] = []
    clock = Clock()
    with GpuTime(4, 1_000.0, kept.append, clock=clock) as time:
        clock.now += 25
        assert time.seconds == 1_100.0
        clock.now += 25
    assert kept == [1_200.0]


def test_sum_is_kept_now_and_then_so_that_a_killed_process_loses_little() -> None:
    kept: list[float] = []
    several = threading.Event()

    def keep(seconds: float) -> None:
        kept.append(seconds)
        if len(kept) == 3:
            several.set()

    with GpuTime(1, 0.0, keep, period=0.01):
        assert several.wait(10)
    assert kept == sorted(kept)


def test_sum_is_kept_when_the_block_fails() -> None:
    kept: list[float] = []
    clock = Clock()

    def fail() -> None:
        with GpuTime(2, 0.0, kept.append, clock=clock):
            clock.now += 3
            raise ValueError("the search failed")

    with pytest.raises(ValueError, match="the search failed"):
        fail()
    assert kept == [6.0]


def test_store_that_is_away_is_not_waited_for_again() -> None:
    kept: list[float] = []

    def fail() -> None:
        with GpuTime(2, 0.0, kept.append):
            raise StoreUnreachable("The store is away.")

    with pytest.raises(StoreUnreachable):
        fail()
    assert not kept


def test_process_without_gpus_keeps_nothing_and_leaves_what_was_used() -> None:
    kept: list[float] = []
    with GpuTime(0, 7.0, kept.append) as time:
        assert time.seconds == 7.0
    assert not kept


def test_store_that_will_not_have_the_sum_is_left_to_the_run() -> None:
    def refuse(seconds: float) -> None:
        raise RunInProgress("Taken over.")

    with GpuTime(1, 0.0, refuse):
        pass


def on_gpus(tmp_path: Path, gpus: int) -> JobRun:
    """A run of one job that believes to have GPUs."""
    photos = PhotoSet(tmp_path / "photos").photos("ants", 2)
    job = TrainingJob.model_validate(tiny_job(photos.root, f"file://{tmp_path}/store"))
    run = JobRun(job, tmp_path / "cache", "cpu", Events(io.StringIO()))
    run.device = replace(run.device, gpus=gpus)
    run.workspace = Workspace(FileStore(tmp_path / "store"), "jobs/flowers/abc/", tmp_path / "cache")
    return run


def test_run_reports_gpu_seconds_of_all_its_processes_also_where_the_last_has_no_gpu(tmp_path: Path) -> None:
    first = on_gpus(tmp_path, 1_000_000)
    with first._counting():
        pass
    used = first.board.status.gpu_seconds
    assert used is not None
    assert own_part(first.board.status)["gpuSeconds"] == used
    second = on_gpus(tmp_path, 1_000_000)
    with second._counting():
        pass
    both = second.board.status.gpu_seconds
    assert both is not None
    assert both > used > 0
    third = on_gpus(tmp_path, 0)
    with third._counting():
        pass
    assert (third.board.status.gpu_seconds, third.board.status.restarts) == (both, 2)


def test_run_without_gpus_says_nothing_of_them(tmp_path: Path) -> None:
    run = on_gpus(tmp_path, 0)
    with run._counting():
        pass
    assert "gpuSeconds" not in own_part(run.board.status)


def test_status_that_two_threads_change_loses_nothing() -> None:
    board = StatusBoard(Events(io.StringIO()), lambda: datetime.now(UTC))

    def count(field: str) -> None:
        for number in range(300):
            board.update(**{field: number})

    fields = ("restarts", "gpu_seconds", "observed_generation")
    threads = [threading.Thread(target=count, args=(field,)) for field in fields]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    status = board.status
    assert (status.restarts, status.gpu_seconds, status.observed_generation) == (299, 299, 299)
