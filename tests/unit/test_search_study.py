"""What the search tries next and what it stops: both follow from the ledger's rows alone."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_trainer.search.ledger import CurvePoint, Setting, State, Trial, trial_id
from tunesmith_trainer.search.study import EarlyStopper, Proposer

BACKBONES = ("resnet18", "mobilenet_v2")
PARAMETERS = [
    {"name": "learningRate", "searchSpace": {"logUniform": {"min": "1e-4", "max": "1e-1"}}},
    {"name": "labelSmoothing", "searchSpace": {"categorical": {"choices": ["0.0", "0.10"]}}},
    {
        "name": "weightDecay",
        "searchSpace": {"uniform": {"min": "0.0", "max": "2.0"}},
        "when": {"parameter": "labelSmoothing", "in": ["0.10"]},
    },
    {"name": "epochs", "searchSpace": {"intUniform": {"min": "3", "max": "9"}}},
]


def spec_with(algorithm: str = "TPE", **search: Any) -> TrainingJobSpec:
    return TrainingJobSpec.model_validate(
        {
            "dataset": {"uri": "file:///photos"},
            "backbones": [{"name": name} for name in BACKBONES],
            "store": {"uri": "file:///store"},
            "search": {"parameters": PARAMETERS, "algorithm": {"name": algorithm}, "seed": 3, **search},
        }
    )


def finished(number: int, proposed: dict[str, Setting], **changes: Any) -> Trial:
    """A trial whose score has its best at a learning rate of 0.01 on the second backbone."""
    values = dict(proposed)
    backbone = str(values.pop("backbone"))
    distance = abs(math.log10(float(values["learningRate"])) + 2) + (backbone == BACKBONES[0])
    row = Trial(trial_id(number + 1), "LinearProbe", backbone, values, state="Succeeded", score=distance)
    return replace(row, **changes)


def search(spec: TrainingJobSpec, count: int, history: list[Trial], batch: int = 1) -> list[Trial]:
    """Go on from a history to ``count`` trials, as the search does."""
    rows = list(history)
    while len(rows) < count:
        proposer = Proposer(spec, "LinearProbe", BACKBONES)
        proposed = proposer.propose(rows, len(rows), min(batch, count - len(rows)))
        rows += [finished(len(rows) + offset, one) for offset, one in enumerate(proposed)]
    return rows


@pytest.mark.parametrize("algorithm", ["Random", "Grid", "TPE", "BOHB"])
def test_continued_search_proposes_what_the_undisturbed_one_does_wherever_it_is_cut(algorithm: str) -> None:
    spec = spec_with(algorithm)
    undisturbed = search(spec, 14, [])
    assert len({repr(row.parameters) + row.backbone for row in undisturbed}) == 14
    for cut in range(14):
        assert search(spec, cut + 1, undisturbed[:cut])[cut] == undisturbed[cut]
    assert search(spec, 14, undisturbed[:5]) == undisturbed


@pytest.mark.parametrize("algorithm", ["Random", "Grid", "TPE", "BOHB"])
def test_continued_batches_propose_what_undisturbed_ones_do(algorithm: str) -> None:
    spec = spec_with(algorithm)
    undisturbed = search(spec, 20, [], batch=5)
    for cut in (5, 10, 15):
        assert search(spec, 20, undisturbed[:cut], batch=5) == undisturbed


@given(seed=st.integers(0, 2**31 - 1), algorithm=st.sampled_from(["Random", "TPE", "BOHB", "Grid"]))
@settings(max_examples=15)
def test_proposals_lie_in_the_space_and_keep_its_condition(seed: int, algorithm: str) -> None:
    proposer = Proposer(spec_with(algorithm, seed=seed), "LinearProbe", BACKBONES)
    for one in proposer.propose([], 0, 6):
        assert one["backbone"] in BACKBONES
        assert 1e-4 <= float(one["learningRate"]) <= 1e-1
        assert one["epochs"] in range(3, 10)
        assert ("weightDecay" in one) == (one["labelSmoothing"] == 0.1)
        assert 0 <= float(one.get("weightDecay", 0)) <= 2


def test_tpe_learns_where_the_good_trials_are_and_random_does_not() -> None:
    def late(algorithm: str) -> float:
        rows = search(spec_with(algorithm), 40, [])[20:]
        return sum(row.score or 0.0 for row in rows) / len(rows)

    assert late("TPE") < 0.6 * late("Random")


@pytest.mark.parametrize("algorithm", ["Random", "TPE", "BOHB", "PBT"])
@given(seed=st.integers(0, 1_000))
@settings(max_examples=10)
def test_first_heads_go_round_the_backbones(algorithm: str, seed: int) -> None:
    spec = spec_with(algorithm, seed=seed, maxFineTuneTrials=1)
    first = Proposer(spec, "LinearProbe", BACKBONES).propose([], 0, 2)
    assert [one["backbone"] for one in first] == list(BACKBONES)


def test_grid_search_ends_after_each_combination_was_tried_once() -> None:
    proposer = Proposer(spec_with("Grid", numTrials=1000), "LinearProbe", BACKBONES)
    assert proposer.limit == 2 * 5 * 5 * (1 + 5)
    proposed = proposer.propose([], 0, 1000)
    assert len({repr(one) for one in proposed}) == len(proposed) == proposer.limit
    assert proposer.propose([], proposer.limit, 4) == []


def test_grid_says_how_many_combinations_a_search_leaves_out() -> None:
    grid = Proposer(spec_with("Grid", numTrials=20), "LinearProbe", BACKBONES)
    assert "300 combinations, of which 20 are tried" in grid.left_out(20)
    assert grid.left_out(300) == ""
    assert Proposer(spec_with("TPE"), "LinearProbe", BACKBONES).left_out(1) == ""


def test_only_a_grid_has_an_end() -> None:
    assert Proposer(spec_with("TPE"), "LinearProbe", BACKBONES).limit is None


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"strategy": "FineTune"}, id="another strategy"),
        pytest.param({"backbone": "vit_b_16"}, id="a backbone that is not searched"),
        pytest.param({"score": None, "state": "Failed"}, id="failed"),
        pytest.param({"score": math.inf}, id="an infinite score"),
        pytest.param({"score": math.nan}, id="no number as score"),
        pytest.param({"parameters": {"learningRate": 5.0}}, id="outside of the range"),
        pytest.param({"parameters": {"labelSmoothing": 0.3}}, id="not among the choices"),
    ],
)
@pytest.mark.parametrize("backbones", [BACKBONES, BACKBONES[:1]], ids=["two backbones", "one backbone"])
def test_trials_of_an_earlier_job_that_do_not_fit_change_nothing(
    changes: dict[str, Any], backbones: tuple[str, ...]
) -> None:
    spec = spec_with("TPE")
    misfit = [replace(row, **changes) for row in search(spec, 12, [])]
    cold = Proposer(spec, "LinearProbe", backbones).propose([], 0, 4)
    assert Proposer(spec, "LinearProbe", backbones, misfit).propose([], 0, 4) == cold


def test_warm_start_goes_on_where_the_earlier_job_was_good() -> None:
    spec = spec_with("TPE")
    earlier = search(spec, 40, [])
    warm = Proposer(spec, "LinearProbe", BACKBONES, earlier).propose([], 0, 16)
    cold = Proposer(spec, "LinearProbe", BACKBONES).propose([], 0, 16)

    def mean(proposed: list[dict[str, Setting]]) -> float:
        return sum(finished(0, one).score or 0.0 for one in proposed) / len(proposed)

    assert mean(warm) < 0.6 * mean(cold)


def test_trial_of_an_earlier_job_that_was_stopped_counts_behind_those_that_had_all_epochs() -> None:
    spec = spec_with("TPE")
    earlier = search(spec, 40, [])
    worst = sorted(earlier, key=lambda row: -(row.score or 0))[:20]
    stopped = [replace(row, state="Stopped", epochs=1, score=0.0) for row in worst]
    whole = [row for row in earlier if row not in worst]
    good = Proposer(spec, "LinearProbe", BACKBONES, [*whole, *stopped]).propose([], 0, 16)
    fooled = Proposer(
        spec, "LinearProbe", BACKBONES, [*whole, *(replace(row, state="Succeeded") for row in stopped)]
    ).propose([], 0, 16)

    def mean(proposed: list[dict[str, Setting]]) -> float:
        return sum(finished(0, one).score or 0.0 for one in proposed) / len(proposed)

    assert mean(good) < 0.6 * mean(fooled)


def curves(losses: list[list[float]]) -> list[Trial]:
    return [
        Trial(
            trial_id(number + 1),
            "FineTune",
            "resnet18",
            curve=tuple(CurvePoint(epoch + 1, 1.0, loss, 0.5, 1e-3) for epoch, loss in enumerate(column)),
        )
        for number, column in enumerate(losses)
    ]


def live(stopper: EarlyStopper, trials: list[Trial]) -> list[Trial]:
    """Run the trials one after another; each as far as the stopper lets it."""
    rows = []
    for trial in trials:
        for number, point in enumerate(trial.curve):
            stop = stopper.stop_after(trial.id, point.epoch, point.validation_loss or 0.0)
            if stop or number + 1 == len(trial.curve):
                cut_short = stop and number + 1 < len(trial.curve)
                curve = trial.curve[: number + 1]
                state: State = "Stopped" if cut_short else "Succeeded"
                rows.append(replace(trial, curve=curve, state=state, score=curve[-1].validation_loss))
                stopper.close(trial.id, rows[-1].score)
                break
    return rows


RULES = [
    pytest.param({"earlyStopping": {"name": "None"}}, id="never"),
    pytest.param({"earlyStopping": {"name": "Median"}}, id="the median rule"),
    pytest.param({"earlyStopping": {"name": "ASHA", "graceEpochs": 1, "reductionFactor": 2}}, id="ASHA"),
    pytest.param({"algorithm": "BOHB", "earlyStopping": {"name": "ASHA"}}, id="Hyperband"),
]


@pytest.mark.parametrize("rule", RULES)
@given(losses=st.lists(st.lists(st.floats(0, 5), min_size=8, max_size=8), min_size=2, max_size=7))
@settings(max_examples=15)
def test_continued_early_stopping_decides_as_the_undisturbed_one_wherever_it_is_cut(
    rule: dict[str, Any], losses: list[list[float]]
) -> None:
    spec, trials = spec_with(**rule), curves(losses)
    undisturbed = live(EarlyStopper(spec, 8), trials)
    for cut in range(len(trials)):
        continued = live(EarlyStopper(spec, 8, undisturbed[:cut]), trials[cut:])
        assert continued == undisturbed[cut:]


@pytest.mark.parametrize("rule", RULES)
@given(losses=st.lists(st.lists(st.floats(0, 5), min_size=8, max_size=8), min_size=3, max_size=5))
@settings(max_examples=10)
def test_early_stopping_continued_within_a_trial_decides_as_the_undisturbed_one(
    rule: dict[str, Any], losses: list[list[float]]
) -> None:
    spec, trials = spec_with(**rule), curves(losses)
    undisturbed = live(EarlyStopper(spec, 8), trials)
    last = undisturbed[-1]
    for epochs in range(len(last.curve)):
        begun = replace(last, state="Running", curve=last.curve[:epochs])
        stopper = EarlyStopper(spec, 8, [*undisturbed[:-1], begun])
        answers = [
            stopper.stop_after(last.id, point.epoch, point.validation_loss or 0.0)
            for point in last.curve[epochs:]
        ]
        assert answers[:-1] == [False] * (len(answers) - 1)
        assert answers[-1] or last.state == "Succeeded"


def test_asha_stops_the_worse_of_two_at_a_rung_and_nobody_before_grace() -> None:
    spec = spec_with(earlyStopping={"name": "ASHA", "graceEpochs": 2, "reductionFactor": 2})
    good, bad = live(EarlyStopper(spec, 8), curves([[1.0] * 8, [2.0] * 8]))
    assert (good.state, len(good.curve)) == ("Succeeded", 8)
    assert (bad.state, len(bad.curve)) == ("Stopped", 2)


def test_median_stops_a_trial_below_the_median_of_two_others() -> None:
    spec = spec_with(earlyStopping={"name": "Median", "graceEpochs": 3})
    rows = live(EarlyStopper(spec, 8), curves([[1.0] * 8, [1.2] * 8, [3.0] * 8]))
    assert [len(row.curve) for row in rows] == [8, 8, 3]


def test_no_early_stopping_stops_nobody() -> None:
    rows = live(
        EarlyStopper(spec_with(earlyStopping={"name": "None"}), 8), curves([[1.0] * 8, [9.0] * 8, [99.0] * 8])
    )
    assert [row.state for row in rows] == ["Succeeded"] * 3


@pytest.mark.parametrize("max_epochs", [1, 2, 3])
def test_hyperband_of_fewer_epochs_than_its_grace_stops_nobody(max_epochs: int) -> None:
    spec = spec_with("BOHB", earlyStopping={"name": "ASHA", "graceEpochs": 3})
    rows = live(EarlyStopper(spec, max_epochs), curves([[1.0] * max_epochs, [2.0] * max_epochs]))
    assert [row.state for row in rows] == ["Succeeded", "Succeeded"]


def test_same_epoch_told_twice_is_decided_once() -> None:
    spec = spec_with(earlyStopping={"name": "ASHA", "graceEpochs": 1, "reductionFactor": 2})
    stopper = EarlyStopper(spec, 8)
    stopper.stop_after("t0001", 1, 1.0)
    assert stopper.stop_after("t0002", 1, 2.0)
    assert not stopper.stop_after("t0002", 1, 2.0)
