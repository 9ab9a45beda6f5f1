"""The search as the TrainingJob's status tells it."""

from typing import Any

from tunesmith_api.status import SearchStatus
from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_trainer.run import search_status
from tunesmith_trainer.search.ledger import Trial

HEADS = (
    Trial("t0001", "LinearProbe", "resnet18", score=0.3, state="Succeeded", metrics={"accuracy": 0.91}),
    Trial("t0002", "LinearProbe", "resnet18", score=0.1, state="Succeeded", metrics={"accuracy": 0.93}),
    Trial("t0003", "LinearProbe", "resnet18", state="Failed"),
)
TUNED = (
    Trial("t0004", "FineTune", "resnet18", score=0.2, state="Succeeded", metrics={"accuracy": 0.97}),
    Trial("t0005", "FineTune", "resnet18", score=0.05, state="Stopped", metrics={"accuracy": 0.9}),
    Trial("refit", "FineTune", "resnet18", state="Running"),
)


def status(
    *trials: Trial, chosen: str = "", metric: str = "accuracy", strategies: tuple[str, ...] = ()
) -> SearchStatus:
    spec: dict[str, Any] = {
        "dataset": {"uri": "file:///photos"},
        "store": {"uri": "file:///store"},
        "objectives": [{"metric": metric}],
        "transfer": {"strategies": strategies or ("LinearProbe", "FineTune")},
    }
    return search_status(trials, TrainingJobSpec.model_validate(spec), chosen)


def best(found: SearchStatus) -> str:
    return "" if found.best is None else found.best.id


def top(found: SearchStatus) -> list[str]:
    return [one.id for one in found.top]


def test_chosen_trial_is_the_best_whatever_the_scores_of_others_are() -> None:
    found = status(*HEADS, *TUNED, chosen="t0004")
    assert best(found) == "t0004"
    assert top(found) == ["t0004", "t0005", "t0002", "t0001"]


def test_before_the_choice_heads_are_not_compared_with_fine_tunings() -> None:
    assert top(status(*HEADS, *TUNED)) == ["t0002", "t0001", "t0005", "t0004"]


def test_head_is_not_the_best_where_the_model_must_be_fine_tuned_and_something_is() -> None:
    assert best(status(*HEADS, *TUNED, strategies=("FineTune",))) == "t0005"
    assert best(status(*HEADS, strategies=("FineTune",))) == "t0002"


def test_last_fine_tuning_is_not_counted_as_a_trial() -> None:
    found = status(*HEADS, *TUNED)
    assert (found.trials, found.running, found.succeeded, found.stopped, found.failed) == (5, 0, 3, 1, 1)


def test_score_is_the_primary_objective_and_unset_where_a_search_cannot_measure_it() -> None:
    trial = Trial("t0001", "LinearProbe", "resnet18", score=0.3, metrics={"accuracy": 0.91, "macroF1": 0.88})
    scores = {
        metric: one.score
        for metric in ("accuracy", "macroF1", "latencyP95Milliseconds")
        if (one := status(trial, metric=metric).best) is not None
    }
    assert scores == {"accuracy": "0.9100", "macroF1": "0.8800", "latencyP95Milliseconds": ""}


def test_search_without_a_result_has_no_best_trial() -> None:
    assert status(HEADS[2]).best is None
