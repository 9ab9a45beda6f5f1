"""From the spec's search space to the settings of one trial."""

from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_trainer.search.space import (
    DEFAULT_PARAMETERS,
    Grid,
    as_setting,
    backbone_choices,
    parameters_of,
    sample,
    strategies_of,
)

RATE = {"name": "learningRate", "searchSpace": {"logUniform": {"min": "1e-4", "max": "1e-1"}}}
DECAY = {"name": "weightDecay", "searchSpace": {"uniform": {"min": "0.0", "max": "0.3"}}}
EPOCHS = {"name": "epochs", "searchSpace": {"intUniform": {"min": "3", "max": "9"}}}
SMOOTHING = {"name": "labelSmoothing", "searchSpace": {"categorical": {"choices": ["0.0", "0.10"]}}}
AUGMENTATION = {"name": "augmentation", "searchSpace": {"categorical": {"choices": ["Flip", "None"]}}}


def spec_with(*parameters: dict[str, Any], **search: Any) -> TrainingJobSpec:
    return TrainingJobSpec.model_validate(
        {
            "dataset": {"uri": "file:///photos"},
            "backbones": [{"name": "resnet18"}, {"name": "mobilenet_v2"}],
            "store": {"uri": "file:///store"},
            "search": {"parameters": list(parameters), **search},
        }
    )


def only_when(parameter: dict[str, Any], other: str, *values: str) -> dict[str, Any]:
    return {**parameter, "when": {"parameter": other, "in": list(values)}}


def draw(spec: TrainingJobSpec, strategy: str, seed: int, backbones: list[str]) -> dict[str, Any]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return dict(sample(spec, strategy, backbones, study.ask()))


@given(
    seed=st.integers(0, 10_000),
    bounds=st.tuples(st.floats(1e-6, 1.0), st.floats(1.5, 90.0)),
    epochs=st.tuples(st.integers(1, 50), st.integers(51, 4096)),
)
@settings(max_examples=50)
def test_sample_of_any_seed_lies_in_the_space(
    seed: int, bounds: tuple[float, float], epochs: tuple[int, int]
) -> None:
    spec = spec_with(
        {**RATE, "searchSpace": {"logUniform": {"min": str(bounds[0]), "max": str(bounds[1])}}},
        {**EPOCHS, "searchSpace": {"intUniform": {"min": str(epochs[0]), "max": str(epochs[1])}}},
        DECAY,
        SMOOTHING,
    )
    chosen = draw(spec, "LinearProbe", seed, ["resnet18", "mobilenet_v2"])
    assert set(chosen) == {"backbone", "learningRate", "epochs", "weightDecay", "labelSmoothing"}
    assert bounds[0] <= chosen["learningRate"] <= bounds[1]
    assert epochs[0] <= chosen["epochs"] <= epochs[1]
    assert 0 <= chosen["weightDecay"] <= 0.3
    assert chosen["labelSmoothing"] in (0.0, 0.1)
    assert chosen["backbone"] in ("resnet18", "mobilenet_v2")


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30)
def test_condition_on_a_choice_holds_exactly_where_the_parameter_is_used(seed: int) -> None:
    spec = spec_with(SMOOTHING, only_when(RATE, "labelSmoothing", "0.10"))
    chosen = draw(spec, "LinearProbe", seed, ["resnet18"])
    assert ("learningRate" in chosen) == (chosen["labelSmoothing"] == 0.1)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30)
def test_condition_on_the_backbone_holds_exactly_where_the_parameter_is_used(seed: int) -> None:
    spec = spec_with(only_when(RATE, "backbone", "resnet18"))
    chosen = draw(spec, "LinearProbe", seed, ["resnet18", "mobilenet_v2"])
    assert ("learningRate" in chosen) == (chosen["backbone"] == "resnet18")


@pytest.mark.parametrize(
    ("parameter", "strategy", "used"),
    [
        pytest.param(
            only_when(RATE, "strategy", "FineTune"), "FineTune", True, id="the strategy it asks for"
        ),
        pytest.param(only_when(RATE, "strategy", "FineTune"), "LinearProbe", False, id="the other strategy"),
        pytest.param(AUGMENTATION, "LinearProbe", False, id="heads have no augmentation"),
        pytest.param(AUGMENTATION, "FineTune", True, id="fine-tunings have one"),
    ],
)
def test_parameter_is_used_only_by(parameter: dict[str, Any], strategy: str, used: bool) -> None:
    assert (parameter["name"] in draw(spec_with(parameter), strategy, 0, ["resnet18"])) is used


def test_condition_on_a_parameter_that_heads_lack_never_holds_for_them() -> None:
    spec = spec_with(AUGMENTATION, only_when(RATE, "augmentation", "Flip", "None"))
    assert "learningRate" not in draw(spec, "LinearProbe", 0, ["resnet18"])
    assert "learningRate" in draw(spec, "FineTune", 0, ["resnet18"])


@pytest.mark.parametrize(
    ("word", "setting"),
    [("12", 12), ("0.10", 0.1), ("1e-3", 0.001), ("None", "None"), ("TrivialAugment", "TrivialAugment")],
)
def test_choice_is_read_as_the_number_it_spells(word: str, setting: object) -> None:
    read = as_setting(word)
    assert read == setting
    assert type(read) is type(setting)


def test_spec_without_parameters_searches_the_defaults() -> None:
    assert parameters_of(spec_with(), "FineTune") == DEFAULT_PARAMETERS["FineTune"]


def test_parameters_named_backbone_and_strategy_narrow_what_is_tried() -> None:
    spec = spec_with(
        {"name": "backbone", "searchSpace": {"categorical": {"choices": ["mobilenet_v2"]}}},
        {"name": "strategy", "searchSpace": {"categorical": {"choices": ["LinearProbe"]}}},
    )
    assert backbone_choices(spec) == ["mobilenet_v2"]
    assert strategies_of(spec) == ("LinearProbe",)
    assert strategies_of(spec_with()) == ("LinearProbe", "FineTune")


def test_grid_has_each_combination_once_and_both_ends_of_ranges() -> None:
    spec = spec_with(RATE, SMOOTHING, EPOCHS, numTrials=1000)
    points = Grid(spec, "LinearProbe", ["resnet18", "mobilenet_v2"]).draw(1000)
    assert len(points) == len({repr(point) for point in points}) == 2 * 5 * 2 * 5
    assert {point["epochs"] for point in points} == {3, 4, 6, 8, 9}
    rates = sorted({float(str(point["learningRate"])) for point in points})
    assert rates == pytest.approx([1e-4, 10**-3.25, 10**-2.5, 10**-1.75, 1e-1])
    assert rates[0] == 1e-4


def test_grid_with_a_condition_does_not_repeat_what_it_leaves_out() -> None:
    spec = spec_with(SMOOTHING, only_when(RATE, "labelSmoothing", "0.10"), numTrials=1000)
    grid = Grid(spec, "LinearProbe", ["resnet18"])
    points = grid.draw(1000)
    assert {"labelSmoothing": "0.0"} in points
    assert len(points) == grid.size == 1 + 5
    assert [point["labelSmoothing"] for point in points].count("0.10") == 5


def test_grid_of_more_combinations_than_memory_holds_ends_at_the_number_of_trials() -> None:
    names = ("learningRate", "weightDecay", "layerDecay", "mixup", "warmupFraction", "labelSmoothing")
    extra = ("backboneLearningRateFactor",)
    wide = [
        {"name": name, "searchSpace": {"uniform": {"min": "0.1", "max": "0.3"}}} for name in (*names, *extra)
    ]
    grid = Grid(spec_with(*wide, EPOCHS, AUGMENTATION), "FineTune", ["resnet18"])
    assert grid.size == 5**8 * 2
    assert len({repr(point) for point in grid.draw(40)}) == 40


@pytest.mark.parametrize("count", [4, 6, 40])
def test_search_that_is_shorter_than_its_grid_sees_all_backbones_and_more_than_a_corner(count: int) -> None:
    backbones = ["mobilenet_v2", "resnet18"]
    spec = spec_with(RATE, DECAY, SMOOTHING)
    points = Grid(spec, "LinearProbe", backbones).draw(count)
    assert [point["backbone"] for point in points] == backbones * (count // 2)
    assert len({point["learningRate"] for point in points}) > 1
    assert len({point["weightDecay"] for point in points}) > 1
    assert points == Grid(spec, "LinearProbe", backbones).draw(count), "the seed decides"


def test_backbone_with_fewer_combinations_leaves_its_turns_to_the_others() -> None:
    spec = spec_with(only_when(RATE, "backbone", "resnet18"))
    points = Grid(spec, "LinearProbe", ["resnet18", "mobilenet_v2"]).draw(100)
    assert [point["backbone"] for point in points] == ["resnet18", "mobilenet_v2", *["resnet18"] * 4]
