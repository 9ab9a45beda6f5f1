"""Heads and fine-tunings as trials: what is proposed, what is recorded, and how a killed run goes on."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save
from tests.unit.test_search_heads import make_task

from tunesmith_api.reasons import DiskFull, Reason, StoreFull
from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_package.preprocess import Preprocess
from tunesmith_package.store import Store, open_store
from tunesmith_trainer.search.backbones import IMAGENET_MEAN, IMAGENET_STD
from tunesmith_trainer.search.failures import reason_of
from tunesmith_trainer.search.finetune_task import FineTuneTask, finetune_config
from tunesmith_trainer.search.finetune_trials import FineTuneSource, finetune_ids
from tunesmith_trainer.search.head_trials import (
    HeadBatchTrainable,
    HeadSource,
    batch_size,
    load_task,
    save_task,
)
from tunesmith_trainer.search.judgement import held_out_metrics, score_of
from tunesmith_trainer.search.ledger import REFIT, CurvePoint, Ledger, Setting, Trial
from tunesmith_trainer.search.study import EarlyStopper, Proposer

START_HEAD = {"learningRate": 1e-3, "weightDecay": 1.0, "epochs": 10, "labelSmoothing": 0.1}
BACKBONES = ("resnet18", "mobilenet_v2")
ASHA = {"name": "ASHA", "graceEpochs": 1, "reductionFactor": 2}


def spec_with(**search: Any) -> TrainingJobSpec:
    return TrainingJobSpec.model_validate(
        {
            "dataset": {"uri": "file:///photos"},
            "backbones": [{"name": name} for name in BACKBONES],
            "transfer": {"maxEpochs": 4},
            "store": {"uri": "file:///store"},
            "search": {"earlyStopping": ASHA, **search},
        }
    )


def checkpoint(name: str, epoch: int) -> bytes:
    """A checkpoint that says whose it is."""
    return save({"epoch": np.array([epoch])}, {"of": name})


def content(config: Mapping[str, Any]) -> tuple[str, int]:
    """Whose checkpoint a trial starts from, and after how many epochs it was written."""
    with safe_open(config["checkpoint"], framework="numpy") as file:
        return file.metadata()["of"], int(file.get_tensor("epoch")[0])


@dataclass
class Bench:
    """A store, and sources of either kind on its ledger, as a run that goes on makes them anew."""

    folder: Path
    spec: TrainingJobSpec = field(default_factory=spec_with)
    over: Callable[[], bool] = lambda: False
    told: list[Trial] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return open_store(f"file://{self.folder / 'store'}")

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store, "run/ledger")

    def heads(self, total: int = 40) -> HeadSource:
        return HeadSource(
            Proposer(self.spec, "LinearProbe", BACKBONES),
            self.ledger,
            {name: self.folder / f"{name}.npz" for name in BACKBONES},
            total,
            "accuracy",
            self.over,
            self.told.append,
            "cpu",
            1,
        )

    def fine_tunings(self, count: int = 4, **changes: Any) -> FineTuneSource:
        ids = finetune_ids(8, count)
        ledger = self.ledger
        tasks = {
            name: FineTuneTask(
                name,
                2,
                Preprocess(32, "CenterCrop", IMAGENET_MEAN, IMAGENET_STD),
                self.folder / "probe.safetensors",
                self.folder / "images.npz",
                self.folder / "pixels.u8",
                False,
            )
            for name in BACKBONES
        }
        known = [row for one in ids if (row := ledger.get(one)) is not None]
        source = FineTuneSource(
            Proposer(self.spec, "FineTune", BACKBONES),
            EarlyStopper(self.spec, 4, known),
            ledger,
            self.store,
            "run/checkpoints/",
            tasks,
            START_HEAD,
            "resnet18",
            ids,
            self.spec.transfer,
            ({"learningRate": 0.001},),
            self.over,
            self.told.append,
            self.folder,
            "cpu",
            1,
            0,
        )
        return replace(source, **changes)

    def epoch(self, name: str, epoch: int, loss: float | None, *, done: bool = False) -> dict[str, Any]:
        """News of an epoch, with a checkpoint file whose content says which it is."""
        path = self.folder / f"{name}-{epoch:04d}.safetensors"
        path.write_bytes(checkpoint(name, epoch))
        point = {
            "epoch": epoch,
            "train_loss": 0.5,
            "validation_loss": loss,
            "validation_accuracy": None if loss is None else 0.75,
            "learning_rate": 1e-3,
        }
        return {"point": point, "checkpoint": str(path), "seconds": 2.0, "done": done}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def outcome(batch: Mapping[str, Any], **changes: float) -> dict[str, Any]:
    """What training a batch would say; the likelihood follows from the learning rate."""
    names = ("accuracy", "macroF1", "worstClassRecall", "calibrationError")
    return {
        "done": True,
        "outcomes": {
            one["id"]: {
                **dict.fromkeys(names, 0.5),
                "negativeLogLikelihood": abs(math.log10(one["head"]["learning_rate"]) + 2),
                "seconds": 0.25,
                **changes,
            }
            for one in batch["proposals"]
        },
    }


def run_heads(source: HeadSource, batches: int = 100) -> list[list[str]]:
    """Run so many batches to their end; the ids of each."""
    ran = []
    for _ in range(batches):
        batch = source.next()
        if batch is None:
            break
        ran.append([one["id"] for one in batch["proposals"]])
        source.result(batch["id"], outcome(batch))
        source.ended(batch["id"], failed=False)
    return ran


def recipe(ledger: Ledger) -> list[tuple[str, str, Mapping[str, Setting], float | None]]:
    return [(row.id, row.backbone, row.parameters, row.score) for row in ledger.trials]


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


def test_first_fine_tuning_is_the_prescribed_one_and_says_which_head_it_starts_from(bench: Bench) -> None:
    config = bench.fine_tunings().next()
    assert config is not None
    assert config["id"] == "t0009"
    assert config["finetune"]["learning_rate"] == 0.001
    assert config["checkpoint"] == ""
    (row,) = bench.ledger.trials
    assert (row.state, row.parent, row.backbone, row.max_epochs) == ("Running", "", "resnet18", 4)
    assert row.start_head == START_HEAD


def test_epochs_are_recorded_and_the_last_checkpoint_alone_is_kept(bench: Bench) -> None:
    source = bench.fine_tunings(1)
    source.next()
    assert source.result("t0009", bench.epoch("t0009", 1, 0.9))
    assert source.result("t0009", bench.epoch("t0009", 2, 0.8))
    assert not source.result("t0009", bench.epoch("t0009", 3, 0.7, done=True))
    source.ended("t0009", failed=False)
    assert source.next() is None
    (row,) = bench.ledger.trials
    assert (row.state, row.score, row.epochs, row.duration_seconds) == ("Succeeded", 0.7, 3, 6.0)
    assert [point.validation_loss for point in row.curve] == [0.9, 0.8, 0.7]
    assert row.metrics == {"accuracy": 0.75, "negativeLogLikelihood": 0.7}
    assert [info.key for info in bench.store.list("run/checkpoints/")] == [row.checkpoint]
    assert bench.store.get(row.checkpoint) == checkpoint("t0009", 3)


def test_fine_tuning_has_the_metrics_and_the_score_of_the_objective(bench: Bench) -> None:
    source = bench.fine_tunings(1, objective="macroF1")
    assert (config := source.next()) is not None
    assert config["objective"] == "macroF1"
    news = bench.epoch("t0009", 1, 0.7, done=True)
    measured = {"accuracy": 0.7501, "negativeLogLikelihood": 0.7001, "macroF1": 0.6, "worstClassRecall": 0.5}
    source.result("t0009", {**news, "point": {**news["point"], "score": 0.407}, "metrics": measured})
    (row,) = bench.ledger.trials
    assert row.score == row.curve[-1].compared == 0.407
    assert row.metrics == {**measured, "accuracy": 0.75, "negativeLogLikelihood": 0.7}


def test_early_stopping_compares_what_the_objective_says(bench: Bench) -> None:
    source = bench.fine_tunings(objective="macroF1")
    for name, loss, score in (("t0009", 3.0, 0.1), ("t0010", 0.1, 0.9)):
        source.next()
        for epoch in (1, 2, 3, 4):
            news = bench.epoch(name, epoch, loss, done=epoch == 4)
            if not source.result(name, {**news, "point": {**news["point"], "score": score}}):
                break
    row = bench.ledger.get("t0010")
    assert row is not None
    assert row.state == "Stopped"
    assert "macro F1" in row.message
    # The next run replays the same.
    assert EarlyStopper(bench.spec, 4, bench.ledger.trials).stop_after("t0011", 1, 0.9)


def test_killed_fine_tuning_goes_on_from_the_checkpoint_that_its_row_names(bench: Bench) -> None:
    source = bench.fine_tunings()
    source.next()
    source.result("t0009", bench.epoch("t0009", 1, 0.9))
    # Killed after the next checkpoint was stored and before it was recorded.
    bench.store.put("run/checkpoints/t0009-0002.safetensors", checkpoint("t0009", 2))
    config = bench.fine_tunings().next()
    assert config is not None
    assert config["id"] == "t0009"
    assert content(config) == ("t0009", 1)
    assert [info.key for info in bench.store.list("run/checkpoints/")] == [
        "run/checkpoints/t0009-0001.safetensors"
    ]


@pytest.mark.parametrize("damage", [pytest.param(None, id="gone"), pytest.param(b"half", id="cut off")])
def test_fine_tuning_whose_checkpoint_cannot_be_used_begins_anew_and_says_why(
    bench: Bench, damage: bytes | None
) -> None:
    source = bench.fine_tunings()
    source.next()
    source.result("t0009", bench.epoch("t0009", 1, 0.9))
    key = "run/checkpoints/t0009-0001.safetensors"
    bench.store.delete(key) if damage is None else bench.store.put(key, damage)
    source = bench.fine_tunings()
    config = source.next()
    assert config is not None
    assert (config["id"], config["checkpoint"]) == ("t0009", "")
    row = bench.ledger.get("t0009")
    assert row is not None
    assert (row.epochs, row.curve, row.checkpoint) == (0, (), "")
    assert "began anew" in row.message
    assert source.result("t0009", bench.epoch("t0009", 1, 0.8))
    row = bench.ledger.get("t0009")
    assert row is not None
    assert [point.validation_loss for point in row.curve] == [0.8]


def fine_tune(source: FineTuneSource, bench: Bench, steps: int = 1_000) -> None:
    """Run trials one after another for so many epochs; losses follow from the parameters and the epoch."""
    while steps > 0 and (config := source.next()) is not None:
        start = content(config)[1] if config["checkpoint"] else 0
        rates = config["finetune"]["learning_rate"], config["finetune"]["backbone_learning_rate_factor"]
        for epoch in range(start + 1, config["finetune"]["epochs"] + 1):
            loss = sum(abs(math.log10(rate) + 2) for rate in rates) / epoch
            steps -= 1
            done = epoch == config["finetune"]["epochs"]
            if not source.result(config["id"], bench.epoch(config["id"], epoch, loss, done=done)):
                source.ended(config["id"], failed=False)
                break
            if steps == 0:
                return


@pytest.mark.parametrize(("algorithm", "every"), [("TPE", 1), ("BOHB", 4)])
def test_fine_tunings_cut_after_any_epoch_end_as_undisturbed_ones(
    tmp_path: Path, algorithm: str, every: int
) -> None:
    def ended(cuts: list[int], name: str) -> list[Trial]:
        bench = Bench(tmp_path / name, spec_with(algorithm={"name": algorithm}))
        bench.folder.mkdir()
        for steps in cuts:
            fine_tune(bench.fine_tunings(5), bench, steps)
        fine_tune(bench.fine_tunings(5), bench)
        return [replace(row, start_time="") for row in bench.ledger.trials]

    undisturbed = ended([], "undisturbed")
    assert len(undisturbed) == 5
    assert "Stopped" in {row.state for row in undisturbed} or algorithm == "BOHB"
    total = sum(row.epochs for row in undisturbed)
    for cut in range(1, total, every):
        assert ended([cut], f"cut-{cut}") == undisturbed
    assert ended([2, 2, 2, 2], "often") == undisturbed


def test_early_stopping_ends_the_worse_trial_with_a_reason(bench: Bench) -> None:
    source = bench.fine_tunings()
    source.next()
    for epoch in range(1, 5):
        source.result("t0009", bench.epoch("t0009", epoch, 0.1, done=epoch == 4))
    source.next()
    assert not source.result("t0010", bench.epoch("t0010", 1, 3.0))
    row = bench.ledger.get("t0010")
    assert row is not None
    assert (row.state, row.reason) == ("Stopped", Reason.EARLY_STOPPED)


def test_failed_epoch_fails_the_trial_with_its_reason_and_the_next_one_comes(bench: Bench) -> None:
    source = bench.fine_tunings()
    source.next()
    source.result("t0009", bench.epoch("t0009", 1, 0.9))
    news = {"failed": "Diverged", "message": "The loss is nan.", "done": True}
    assert not source.result("t0009", news)
    row = bench.ledger.get("t0009")
    assert row is not None
    assert (row.state, row.reason, row.message, row.epochs) == ("Failed", "Diverged", "The loss is nan.", 1)
    assert (config := source.next()) is not None
    assert config["id"] == "t0010"


def test_full_disk_ends_the_fine_tuning_for_now_only(bench: Bench) -> None:
    source = bench.fine_tunings()
    source.next()
    with pytest.raises(DiskFull):
        source.result("t0009", {"failed": "DiskFull", "message": "No space left", "done": True})
    assert (config := bench.fine_tunings().next()) is not None
    assert config["id"] == "t0009"


def test_process_that_died_goes_on_from_its_checkpoint_and_the_second_death_is_the_last(bench: Bench) -> None:
    source = bench.fine_tunings()
    source.next()
    source.result("t0009", bench.epoch("t0009", 1, 0.9))
    source.ended("t0009", failed=True)
    assert source.waiting
    config = source.next()
    assert config is not None
    assert not source.waiting
    assert (config["id"], content(config)) == ("t0009", ("t0009", 1))
    source.ended("t0009", failed=True)
    row = bench.ledger.get("t0009")
    assert row is not None
    assert (row.state, row.reason) == ("Failed", Reason.OUT_OF_MEMORY)
    assert (config := source.next()) is not None
    assert config["id"] == "t0010"


def test_news_after_the_end_of_a_trial_are_not_recorded(bench: Bench) -> None:
    source = bench.fine_tunings()
    source.next()
    source.result("t0009", bench.epoch("t0009", 1, 0.9, done=True))
    before = bench.ledger.get("t0009")
    assert not source.result("t0009", bench.epoch("t0009", 2, 0.1))
    assert bench.ledger.get("t0009") == before


def test_search_that_is_over_starts_nothing_and_closes_what_an_earlier_run_left(bench: Bench) -> None:
    source = bench.fine_tunings()
    source.next()
    source.result("t0009", bench.epoch("t0009", 1, 0.9))
    bench.over = lambda: True
    assert bench.fine_tunings().next() is None
    (row,) = bench.ledger.trials
    assert (row.state, row.reason, row.epochs) == ("Stopped", Reason.BUDGET_SPENT, 1)


def test_refit_has_no_score_that_it_could_be_compared_by(bench: Bench) -> None:
    source = bench.fine_tunings(proposer=None, stopper=None, ids=(REFIT,))
    assert source.next() is not None
    source.result(REFIT, bench.epoch(REFIT, 1, None, done=True))
    (row,) = bench.ledger.trials
    assert (row.id, row.state, row.score, row.metrics) == (REFIT, "Succeeded", None, {})
    assert row.curve == (CurvePoint(1, 0.5, None, None, 1e-3),)


def test_store_that_is_full_leaves_the_trial_unfinished(bench: Bench) -> None:
    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(bench.store, name)

        def put(self, key: str, data: bytes | Path) -> None:
            raise StoreFull("The store is full.", "Free some space.")

    source = bench.fine_tunings()
    source.next()
    source.store = Full()
    with pytest.raises(StoreFull):
        source.result("t0009", bench.epoch("t0009", 1, 0.9))
    assert (config := bench.fine_tunings().next()) is not None
    assert (config["id"], config["checkpoint"]) == ("t0009", "")


def test_population_change_is_recorded_with_its_donor(bench: Bench) -> None:
    source = bench.fine_tunings()
    source.next(), source.next()
    donor = bench.ledger.get("t0010")
    assert donor is not None
    # What the donor has and the trial had not is as much a part of the recipe as the rates.
    recipe: dict[str, Setting] = {"augmentation": "Flip", "batchSize": 8, "learningRate": 0.002}
    source.ledger.record(replace(donor, parameters=recipe))
    finetune = asdict(finetune_config({**recipe, "learningRate": 0.0016}, bench.spec.transfer))
    source.changed("t0009", {"finetune": finetune, "task": {"backbone": "mobilenet_v2"}}, "t0010")
    row = bench.ledger.get("t0009")
    assert row is not None
    assert row.backbone == "mobilenet_v2"
    assert row.parameters == {**recipe, "learningRate": 0.0016}
    assert finetune_config(row.parameters, bench.spec.transfer) == finetune_config(
        {**recipe, "learningRate": 0.0016}, bench.spec.transfer
    )
    assert "t0010" in row.message
    assert row.parent == "t0010"


def test_population_change_of_a_trial_that_has_ended_is_not_recorded(bench: Bench) -> None:
    source = bench.fine_tunings()
    source.next(), source.next()
    source.result("t0009", bench.epoch("t0009", 1, 0.9, done=True))
    before = bench.ledger.get("t0009")
    source.changed("t0009", {"finetune": {}, "task": {"backbone": "mobilenet_v2"}}, "t0010")
    assert bench.ledger.get("t0009") == before


def test_trials_of_a_population_that_the_search_leaves_are_closed_with_the_reason(bench: Bench) -> None:
    source = bench.fine_tunings(spent=lambda alive: alive[1:])
    source.next(), source.next()
    assert source.ending(["t0009", "t0010"]) == ["t0010"]
    states = {row.id: (row.state, row.reason) for row in bench.ledger.trials}
    assert states == {"t0009": ("Running", ""), "t0010": ("Stopped", Reason.BUDGET_SPENT)}


def test_parameters_override_the_spec_but_epochs_never_exceed_it() -> None:
    transfer = spec_with().transfer
    assert finetune_config({}, transfer).epochs == 4
    assert finetune_config({"epochs": 2}, transfer).epochs == 2
    assert finetune_config({"epochs": 50}, transfer).epochs == 4
    chosen = finetune_config({"augmentation": "None", "batchSize": 8, "unfreezing": "Gradual"}, transfer)
    assert (chosen.augmentation, chosen.batch_size, chosen.gradual_unfreezing) == ("None", 8, True)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(MemoryError(), Reason.OUT_OF_MEMORY, id="Python has no memory"),
        pytest.param(
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            Reason.OUT_OF_MEMORY,
            id="torch has no memory",
        ),
        pytest.param(OSError(28, "No space left on device"), Reason.DISK_FULL, id="a full disk"),
        pytest.param(
            RuntimeError("I/O error: No space left on device (os error 28)"),
            Reason.DISK_FULL,
            id="a full disk under safetensors",
        ),
        pytest.param(FileNotFoundError(2, "gone"), Reason.INTERNAL_ERROR, id="a file that is gone"),
        pytest.param(StoreFull("full", "free some"), Reason.STORE_FULL, id="an error of ours"),
    ],
)
def test_error_has_the_reason(error: Exception, reason: Reason) -> None:
    assert reason_of(error) is reason
