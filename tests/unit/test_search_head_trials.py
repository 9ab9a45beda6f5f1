"""Heads as trials: what is proposed, what is recorded, and how a killed run goes on."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.test_search_heads import make_task
from tests.unit.trial_bench import BACKBONES, Bench, outcome, recipe, run_heads, spec_with

from tunesmith_api.reasons import DiskFull
from tunesmith_trainer.search.head_trials import (
    HeadBatchTrainable,
    batch_size,
    load_task,
    save_task,
)
from tunesmith_trainer.search.judgement import held_out_metrics, score_of


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_heads_come_in_batches_and_each_is_a_trial(bench: Bench) -> None:
    ran = run_heads(bench.heads(40))
    assert [len(batch) for batch in ran] == [16, 16, 8]
    rows = bench.ledger.trials
    assert [row.id for row in rows] == [one for batch in ran for one in batch]
    assert {row.state for row in rows} == {"Succeeded"}
    assert all(row.duration_seconds == 0.25 and row.metrics["accuracy"] == 0.5 for row in rows)
    assert bench.told == list(rows)


@pytest.mark.parametrize(("total", "size"), [(1, 16), (64, 16), (256, 16), (1_000, 63), (10_000, 625)])
def test_batch_size_leaves_at_most_sixteen_rounds(total: int, size: int) -> None:
    assert batch_size(total) == size


def test_one_head_is_a_batch_of_one(bench: Bench) -> None:
    assert run_heads(bench.heads(1)) == [["t0001"]]


def test_killed_run_trains_the_batches_that_are_left_and_ends_as_the_undisturbed_one(
    bench: Bench, tmp_path: Path
) -> None:
    other = Bench(tmp_path / "other")
    run_heads(other.heads(40))
    run_heads(bench.heads(40), batches=1)
    again = run_heads(bench.heads(40))
    assert [len(batch) for batch in again] == [16, 8]
    assert recipe(bench.ledger) == recipe(other.ledger)
    assert run_heads(bench.heads(40)) == []


def test_killed_between_the_records_of_a_batch_trains_only_those_that_are_missing(
    bench: Bench, tmp_path: Path
) -> None:
    other = Bench(tmp_path / "other")
    run_heads(other.heads(40))
    run_heads(bench.heads(40), batches=2)
    for name in ("t0020", "t0031"):
        bench.store.delete(f"run/ledger/{name}.json")
    assert run_heads(bench.heads(40))[0] == ["t0020", "t0031"]
    assert recipe(bench.ledger) == recipe(other.ledger)


def test_head_whose_likelihood_is_no_number_fails_with_a_reason_and_the_others_do_not(bench: Bench) -> None:
    source = bench.heads(2)
    batch = source.next()
    assert batch is not None
    news = outcome(batch)
    news["outcomes"]["t0001"]["negativeLogLikelihood"] = math.nan
    source.result(batch["id"], news)
    first, second = bench.ledger.trials
    assert (first.state, first.reason, first.score) == ("Failed", "Diverged", None)
    assert second.state == "Succeeded"


def test_batch_whose_process_died_is_trained_once_more(bench: Bench) -> None:
    source = bench.heads(2)
    batch = source.next()
    assert batch is not None
    source.ended(batch["id"], failed=True)
    assert not bench.ledger.trials
    assert source.next() == batch
    source.result(batch["id"], outcome(batch))
    assert source.next() is None
    assert [row.state for row in bench.ledger.trials] == ["Succeeded", "Succeeded"]


def test_batch_whose_process_died_twice_has_failed(bench: Bench) -> None:
    source = bench.heads(2)
    for _ in range(2):
        batch = source.next()
        assert batch is not None
        source.ended(batch["id"], failed=True)
    assert source.next() is None
    assert {(row.state, row.reason) for row in bench.ledger.trials} == {("Failed", "OutOfMemory")}


def test_run_that_goes_on_without_a_single_head_tries_the_failed_ones_once_more(bench: Bench) -> None:
    source = bench.heads(2)
    batch = source.next()
    assert batch is not None
    source.result(batch["id"], {"done": True, "failed": "OutOfMemory", "message": "no memory"})
    assert source.next() is None
    assert run_heads(bench.heads(2)) == [["t0001", "t0002"]]
    assert [row.state for row in bench.ledger.trials] == ["Succeeded", "Succeeded"]


def test_full_disk_ends_the_search_and_leaves_the_heads_to_the_next_run(bench: Bench) -> None:
    source = bench.heads(2)
    batch = source.next()
    assert batch is not None
    with pytest.raises(DiskFull, match="same command"):
        source.result(batch["id"], {"done": True, "failed": "DiskFull", "message": "No space left on device"})
    assert not bench.ledger.trials


def test_search_that_is_over_at_once_still_trains_the_first_batch(bench: Bench) -> None:
    bench.over = lambda: True
    assert [len(batch) for batch in run_heads(bench.heads(40))] == [16]


def test_grid_of_heads_ends_with_its_combinations(bench: Bench) -> None:
    rate = {"name": "learningRate", "searchSpace": {"categorical": {"choices": ["0.01", "0.02", "0.04"]}}}
    bench.spec = spec_with(algorithm={"name": "Grid"}, parameters=[rate])
    assert [len(batch) for batch in run_heads(bench.heads(40))] == [6]
    tried = {(row.backbone, row.parameters["learningRate"]) for row in bench.ledger.trials}
    assert tried == {(name, rate) for name in BACKBONES for rate in (0.01, 0.02, 0.04)}


def proposal(name: str, **head: float) -> dict[str, Any]:
    values = {"learning_rate": 3e-3, "weight_decay": 0.1, "epochs": 8, "label_smoothing": 0.0, **head}
    return {"id": name, "backbone": "resnet18", "head": values}


def step(folder: Path, *proposals: dict[str, Any]) -> dict[str, Any]:
    save_task(make_task(folder), folder / "task.npz")
    config = {
        "id": "batch",
        "tasks": {"resnet18": str(folder / "task.npz")},
        "proposals": list(proposals),
        "device": "cpu",
        "threads": 1,
    }
    trainable = HeadBatchTrainable(config)
    return {**trainable.step(), "again": trainable.reset_config(config)}


def news_of(result: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(result["news"]))


def test_batch_is_trained_in_one_step_and_a_diverging_head_does_not_spoil_the_other(tmp_path: Path) -> None:
    result = step(tmp_path, proposal("t0001"), proposal("t0002", learning_rate=1e38, weight_decay=100.0))
    outcomes = news_of(result)["outcomes"]
    assert outcomes["t0001"]["accuracy"] > 0.8
    assert result["score"] == outcomes["t0001"]["negativeLogLikelihood"]
    assert math.isnan(outcomes["t0002"]["negativeLogLikelihood"])


def test_features_that_are_gone_fail_the_batch_with_a_reason(tmp_path: Path) -> None:
    save_task(make_task(tmp_path), tmp_path / "task.npz")
    (tmp_path / "features-0.f16").unlink()
    config = {
        "id": "batch",
        "tasks": {"resnet18": str(tmp_path / "task.npz")},
        "proposals": [proposal("t0001")],
        "device": "cpu",
        "threads": 1,
    }
    result = HeadBatchTrainable(config).step()
    assert result["done"]
    assert news_of(result)["failed"] == "InternalError"
    assert "FileNotFoundError" in news_of(result)["message"]


def test_task_read_again_is_the_one_saved(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    save_task(task, tmp_path / "task.npz")
    again = load_task(tmp_path / "task.npz")
    assert again.features == task.features
    assert (again.num_classes, again.seed) == (task.num_classes, task.seed)
    for name in ("rows", "labels", "weights", "folds"):
        np.testing.assert_array_equal(getattr(again, name), getattr(task, name))


def test_held_out_metrics_of_a_table_worked_out_by_hand() -> None:
    logits = np.log(np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]], np.float32))
    metrics = held_out_metrics(logits, np.array([0, 0, 0, 1]))
    assert metrics["accuracy"] == 0.75
    assert metrics["negativeLogLikelihood"] == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.7]).mean(), rel=1e-5)
    assert metrics["macroF1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert metrics["worstClassRecall"] == pytest.approx(2 / 3)
    # Bins of a fifteenth: 0.9 and 0.8 and 0.7 are right in bins of their own, 0.6 is wrong in its own.
    assert metrics["calibrationError"] == pytest.approx((0.1 + 0.2 + 0.6 + 0.3) / 4, abs=1e-6)


@pytest.mark.parametrize(
    ("objective", "score"),
    [
        ("accuracy", 0.4),
        ("negativeLogLikelihood", 0.4),
        ("latencyP95Milliseconds", 0.4),
        ("macroF1", 0.304),
        ("worstClassRecall", 0.504),
        ("calibrationError", 0.054),
    ],
)
def test_score_is_the_likelihood_unless_the_objective_is_about_something_else(
    objective: str, score: float
) -> None:
    metrics = {
        "negativeLogLikelihood": 0.4,
        "macroF1": 0.7,
        "worstClassRecall": 0.5,
        "calibrationError": 0.05,
        "accuracy": 0.9,
    }
    assert score_of(metrics, objective) == pytest.approx(score)


# Fine-tunings
