"""Fine-tunings as trials: what is proposed, what is recorded, and how a killed run goes on."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.trial_bench import START_HEAD, Bench, checkpoint, content, spec_with

from tunesmith_api.reasons import DiskFull, Reason, StoreFull
from tunesmith_trainer.search.failures import reason_of
from tunesmith_trainer.search.finetune_task import finetune_config
from tunesmith_trainer.search.finetune_trials import FineTuneSource
from tunesmith_trainer.search.ledger import REFIT, CurvePoint, Setting, Trial
from tunesmith_trainer.search.study import EarlyStopper


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


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
