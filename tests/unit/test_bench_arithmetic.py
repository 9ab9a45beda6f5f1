"""The benchmarks' own arithmetic: what they conclude must follow from what they measured."""

import email
import multiprocessing
import os
import shutil
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bench import quality, search
from tests.bench.harness import command, servers
from tests.bench.harness.data import (
    choose_flips,
    synthetic_image,
    synthetic_set,
    without_dropped,
    workplace,
)
from tests.bench.harness.extrapolation import fit_line, least_epochs
from tests.bench.harness.load import highest_rate
from tests.bench.harness.memory import Peaks, family, sizes_of
from tests.bench.harness.report import Target
from tests.bench.noise import match

from tunesmith_api.search_spec import SearchSpec
from tunesmith_api.training_job import TrainingJob

MIB = 2**20


@given(
    st.floats(-1e3, 1e3),
    st.floats(-1e3, 1e3),
    st.lists(st.integers(1, 1_000), min_size=2, max_size=6, unique=True),
)
def test_line_through_points_of_a_line_is_that_line(
    intercept: float, slope: float, trials: list[int]
) -> None:
    line = fit_line(trials, [intercept + slope * one for one in trials])
    assert line.at(64) == pytest.approx(intercept + slope * 64, rel=1e-6, abs=1e-3)
    assert line.residuals == pytest.approx([0.0] * len(trials), abs=1e-3)


def test_line_through_a_bend_shows_it_in_its_residuals() -> None:
    line = fit_line([4, 8, 16], [10.0, 30.0, 40.0])
    assert line.r_squared < 0.9
    assert line.residuals[1] > 5
    assert sum(line.residuals) == pytest.approx(0)


@pytest.mark.parametrize("trials", [[8], [8, 8]], ids=["one point", "two points at one place"])
def test_line_through_too_little_is_refused(trials: list[float]) -> None:
    with pytest.raises(ValueError, match="two different"):
        fit_line(trials, [1.0] * len(trials))


@pytest.mark.parametrize(
    ("trials", "longest", "epochs"),
    [
        pytest.param(64, 10, 64 + 32 + 16 * 2 + 8 * 4 + 4 * 2, id="halved after 1, 2, 4 and 8 epochs"),
        pytest.param(64, 1, 64, id="nothing to stop after one epoch"),
        pytest.param(1, 2, 1.5, id="half a trial is left after the first epoch"),
    ],
)
def test_least_epochs_follow_from_halving(trials: int, longest: int, epochs: float) -> None:
    assert least_epochs(trials, max_epochs=longest) == epochs


@given(st.integers(1, 500), st.integers(1, 40))
def test_least_epochs_lie_between_one_and_all_of_each_trial(trials: int, longest: int) -> None:
    assert trials <= least_epochs(trials, max_epochs=longest) <= trials * longest


@given(st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_flips_are_as_many_as_asked_and_all_wrong(fraction: float, seed: int) -> None:
    classes = {"a": [f"{n}.jpg" for n in range(20)], "b": ["x.jpg"], "c": ["x.jpg", "y.jpg"]}
    flips = choose_flips(classes, fraction, seed)
    assert len(flips) == round(23 * fraction)
    assert len({(label, name) for label, name, _ in flips}) == len(flips)
    assert all(name in classes[label] and wrong in classes and wrong != label for label, name, wrong in flips)
    assert flips == choose_flips(classes, fraction, seed)


def test_match_counts_left_out_flips_neither_found_nor_missed() -> None:
    found = match({"m1", "m2", "m3", "gone"}, {"m1", "m2", "m3", "x", "y"}, ["m1", "m2", "x"])
    assert (found.moved, found.left_out) == (3, 1)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(2 / 3)


def test_match_without_suspects_has_found_nothing() -> None:
    assert match({"m1"}, {"m1", "x"}, []).recall == 0.0


@pytest.mark.parametrize(
    ("target", "met"),
    [
        pytest.param(Target("speed", 50.0, "at least", 50.0), True, id="exactly what was promised"),
        pytest.param(Target("speed", 49.9, "at least", 50.0), False, id="a little too slow"),
        pytest.param(Target("memory", 1.2, "at most", 1.1), False, id="too large"),
        pytest.param(Target("memory", 1.0, "at most", 1.1), True, id="small enough"),
        pytest.param(Target("speed", None, "at least", 50.0), False, id="never measured"),
    ],
)
def test_target_is_met_when_kept(target: Target, met: bool) -> None:
    assert target.met is met


def test_synthetic_images_differ_by_seed_and_are_a_few_kilobytes() -> None:
    images = [synthetic_image(3, 10, seed, 224, 224) for seed in range(5)]
    assert len(set(images)) == 5
    assert images[0] == synthetic_image(3, 10, 0, 224, 224)
    assert all(1_000 < len(image) < 20_000 for image in images)


def _hold(size: int, ready: Event, end: Event) -> None:
    held = np.ones(size, np.uint8)
    ready.set()
    end.wait(60)
    assert held[-1] == 1


def test_memory_of_a_process_tree_includes_children() -> None:
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    child = context.Process(target=_hold, args=(200 * MIB, ready, end))
    child.start()
    try:
        assert ready.wait(60)
        assert child.pid is not None
        assert {os.getpid(), child.pid} <= family({os.getpid()})
        size = sizes_of(child.pid)
        assert size is not None
        assert size[0] >= size[1] >= 200 * MIB
    finally:
        end.set()
        child.join()
    assert family({child.pid}) == set()


def test_peaks_are_of_sums_not_sums_of_peaks() -> None:
    peaks = Peaks()
    peaks.take("search", [(10, 5), (20, 15)])
    peaks.take("verify", [(25, 18)])
    assert (peaks.rss, peaks.pss, peaks.processes) == (30, 20, 2)
    assert dict(peaks.pss_by_stage) == {"search": 20, "verify": 18}


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(quality.spec(quality.BOTH, 1, None), id="quality, default spec"),
        pytest.param(quality.spec(quality.PROBE, 2, None), id="quality, linear probe"),
        pytest.param({"verification": command.LEAST_VERIFICATION}, id="least verification"),
    ],
)
def test_jobs_of_the_benchmarks_are_valid(spec: dict[str, Any], tmp_path: Path) -> None:
    document = command.job("job", tmp_path, tmp_path / "w.safetensors", tmp_path / "store", **spec)
    job = TrainingJob.model_validate(document)
    assert job.spec.dataset.uri == tmp_path.as_uri()
    assert job.spec.dataset.split.seed == spec.get("dataset", {}).get("split", {}).get("seed", 0)


def test_probe_job_of_quality_trains_the_heads_of_the_default_one() -> None:
    default = SearchSpec()
    probe = quality.spec(quality.PROBE, 0, None)["search"]["numTrials"]
    assert probe == default.num_trials - default.max_fine_tune_trials


def test_photos_that_the_test_split_repeats_are_taken_out(tmp_path: Path) -> None:
    synthetic_set(tmp_path / "photos" / "train", 24, kinds=2, width=64, height=64)
    synthetic_set(tmp_path / "photos" / "test", 16, kinds=2, width=64, height=64, seed=1)
    repeated = tmp_path / "photos/test/kind-00/000004.jpg"
    shutil.copy(repeated, tmp_path / "photos/train/kind-00/copy.jpg")
    clean = without_dropped(tmp_path / "photos", tmp_path / "clean")
    before, after = (
        {str(one.relative_to(folder)) for one in folder.rglob("*.jpg")}
        for folder in (tmp_path / "photos", clean)
    )
    assert before - after == {"train/kind-00/copy.jpg"}
    assert after < before


def test_epoch_of_a_script_counts_the_processors_of_its_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    outcome = {"trialSeconds": [40.0, 60.0], "epochs": 10}
    assert search.epoch_seconds(outcome, 1) == pytest.approx(2.5)
    assert search.epoch_seconds(outcome, 2) == pytest.approx(5.0)
    assert search.epoch_seconds(outcome, 8) == pytest.approx(10.0)


def test_search_that_was_not_run_whole_is_said_to_take_the_least() -> None:
    points = [{"trials": 4, "seconds": 700.0, "epochs": 35}, {"trials": 8, "seconds": 400.0, "epochs": 25}]
    seconds, how = search.expected_seconds(64, 12, points)
    assert seconds == pytest.approx(16 * least_epochs(64, max_epochs=12))
    assert "at the least" in how
    assert search.expected_seconds(8, 12, points) == (400.0, "as measured")
    assert search.expected_seconds(64, 12, points[1:])[0] == pytest.approx(seconds)


@pytest.mark.parametrize("limit", [3.0, 50.0, 97.0])
def test_the_highest_rate_is_found_although_every_third_load_is_held_up(limit: float) -> None:
    loads = 0

    def p99(rate: float) -> float:
        nonlocal loads
        loads += 1
        return 0.01 if rate <= limit and loads % 3 else 0.5

    found, tried = highest_rate(p99, 0.02, 100.0, steps=7)
    assert limit - 100 / 2**7 <= found <= limit
    assert len(tried) == 7
    assert all(2 <= len(seen) <= 3 for _, seen in tried)


def test_no_rate_is_found_where_none_stays_within_the_bound() -> None:
    found, _ = highest_rate(lambda rate: 1.0, 0.02, 100.0)
    assert found == 0


def test_the_form_of_an_image_holds_it_unchanged() -> None:
    image = bytes(range(256)) * 3
    body, kind = servers.in_a_form(image)
    message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    _, part = message.walk()
    assert part.get_param("name", header="content-disposition") == "images"
    assert part.get_payload(decode=True) == image


def _stay_in_a_workplace(out: Connection) -> None:
    with workplace(None) as folder:
        out.send(folder)
        time.sleep(600)


def test_benchmark_that_is_terminated_leaves_no_folder() -> None:
    receive, send = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_stay_in_a_workplace, args=(send,))
    process.start()
    folder = receive.recv()
    assert folder.is_dir()
    process.terminate()
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    assert not folder.exists()
