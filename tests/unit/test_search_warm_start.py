"""What a search takes from the trials of an earlier job."""

from pathlib import Path
from typing import Any

import pytest

from tunesmith_api.reasons import SpecInvalid
from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_package.store import Store, open_store
from tunesmith_trainer.search.ledger import Ledger, Trial
from tunesmith_trainer.search.warm_start import earlier_trials, learnable

METRICS = {"accuracy": 0.9, "negativeLogLikelihood": 0.3, "macroF1": 0.8}
DONE = Trial("t0001", "LinearProbe", "resnet18", state="Succeeded", score=0.203, metrics=METRICS)
STOPPED = Trial("t0002", "FineTune", "resnet18", state="Stopped", epochs=2, score=0.203, metrics=METRICS)


def spec_with(
    algorithm: str = "TPE", objective: str = "accuracy", job: str | None = "old"
) -> TrainingJobSpec:
    search: dict[str, Any] = {"algorithm": {"name": algorithm}}
    return TrainingJobSpec.model_validate(
        {
            "dataset": {"uri": "file:///photos"},
            "store": {"uri": "file:///store"},
            "objectives": [{"metric": objective}],
            "search": {**search, **({"warmStartFrom": {"name": job}} if job else {})},
        }
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = open_store(f"file://{tmp_path}")
    Ledger(opened, "jobs/old/one/ledger/").record(DONE)
    Ledger(opened, "jobs/old/two/ledger/").record(STOPPED)
    Ledger(opened, "jobs/older/one/ledger/").record(DONE)
    return opened


def test_scores_are_those_of_this_objective() -> None:
    assert [row.score for row in learnable([DONE], "accuracy")] == [0.3]
    assert [row.score for row in learnable([DONE], "macroF1")] == pytest.approx([0.203])


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(Trial("t1", "FineTune", "resnet18", state="Running", metrics=METRICS), id="unfinished"),
        pytest.param(Trial("t1", "FineTune", "resnet18", state="Failed", metrics=METRICS), id="failed"),
        pytest.param(Trial("refit", "FineTune", "resnet18", state="Succeeded"), id="without a result"),
        pytest.param(
            Trial("t1", "FineTune", "resnet18", state="Succeeded", metrics={"negativeLogLikelihood": 0.3}),
            id="without the objective's metric",
        ),
    ],
)
def test_nothing_is_learnt_from_a_trial_that_is(row: Trial) -> None:
    assert learnable([row], "macroF1") == ()


def test_trials_of_all_runs_of_the_job_are_taken_and_of_no_other_job(store: Store) -> None:
    trials, told = earlier_trials(spec_with(), store, "jobs/new/run/")
    assert [row.id for row in trials] == ["t0001", "t0002"]
    assert told == "The search starts from 2 trials of old."


def test_run_that_goes_on_does_not_learn_from_itself(store: Store) -> None:
    trials, _ = earlier_trials(spec_with(), store, "jobs/old/one/")
    assert [row.id for row in trials] == ["t0002"]


@pytest.mark.parametrize("job", ["misspelt", "older"])
def test_job_without_earlier_trials_is_refused(store: Store, job: str) -> None:
    with pytest.raises(SpecInvalid, match=f"{job}, of which file:///store has no earlier trials"):
        earlier_trials(spec_with(job=job), store, "jobs/older/one/")


@pytest.mark.parametrize("algorithm", ["Random", "Grid", "PBT"])
def test_algorithm_that_cannot_learn_says_so(store: Store, algorithm: str) -> None:
    trials, told = earlier_trials(spec_with(algorithm), store, "jobs/new/run/")
    assert trials == ()
    assert told.startswith(f"{algorithm} learns nothing from the trials of old")


def test_job_that_names_no_other_starts_from_nothing(store: Store) -> None:
    assert earlier_trials(spec_with(job=None), store, "jobs/new/run/") == ((), "")
