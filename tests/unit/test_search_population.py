"""What population based training may change of a fine-tuning."""

from typing import Any

import pytest

from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_trainer.search.finetune_task import CONFIG_FIELDS, finetune_config, finetune_settings
from tunesmith_trainer.search.ledger import Setting
from tunesmith_trainer.search.population import mutable_parameters, mutations
from tunesmith_trainer.search.space import FINE_TUNE_PARAMETERS

RATE = {"name": "learningRate", "searchSpace": {"logUniform": {"min": "1e-5", "max": "5e-5"}}}
DECAY = {"name": "weightDecay", "searchSpace": {"uniform": {"min": "0.0", "max": "0.3"}}}
BATCH = {"name": "batchSize", "searchSpace": {"intUniform": {"min": "8", "max": "24"}}}
EPOCHS = {"name": "epochs", "searchSpace": {"intUniform": {"min": "3", "max": "9"}}}
AUGMENTATION = {"name": "augmentation", "searchSpace": {"categorical": {"choices": ["Flip", "None"]}}}
UNFREEZING = {"name": "unfreezing", "searchSpace": {"categorical": {"choices": ["All", "Gradual"]}}}


def spec_with(*parameters: dict[str, Any]) -> TrainingJobSpec:
    return TrainingJobSpec.model_validate(
        {
            "dataset": {"uri": "file:///photos"},
            "store": {"uri": "file:///store"},
            "search": {"algorithm": {"name": "PBT"}, "parameters": list(parameters)},
        }
    )


def mutable(*parameters: dict[str, Any]) -> list[str]:
    return [one.name for one in mutable_parameters(spec_with(*parameters))]


def test_ranges_are_those_of_the_spec() -> None:
    found = mutations(spec_with(RATE, DECAY, BATCH, AUGMENTATION, UNFREEZING))["finetune"]
    assert found.keys() == {
        "learning_rate",
        "weight_decay",
        "batch_size",
        "augmentation",
        "gradual_unfreezing",
    }
    assert (found["learning_rate"].lower, found["learning_rate"].upper) == (1e-5, 5e-5)
    assert all(1e-5 <= found["learning_rate"].sample() <= 5e-5 for _ in range(100))
    assert {found["batch_size"].sample() for _ in range(1_000)} == set(range(8, 25))
    assert found["augmentation"] == ["Flip", "None"]
    assert found["gradual_unfreezing"] == [False, True]


def test_parameters_that_the_spec_does_not_search_stay_as_they_are() -> None:
    assert mutations(spec_with(AUGMENTATION))["finetune"].keys() == {"augmentation"}
    assert mutable() == ["learningRate", "backboneLearningRateFactor"]


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        pytest.param({"parameter": "strategy", "in": ["FineTune"]}, ["learningRate"], id="always met"),
        pytest.param({"parameter": "strategy", "in": ["LinearProbe"]}, [], id="never met"),
        pytest.param({"parameter": "backbone", "in": ["mobilenet_v2"]}, [], id="met by a backbone"),
    ],
)
def test_parameter_with_a_condition_changes_only_where_every_fine_tuning_meets_it(
    condition: dict[str, Any], names: list[str]
) -> None:
    assert mutable({**RATE, "when": condition}) == names


def test_parameter_that_another_depends_on_stays() -> None:
    assert mutable(AUGMENTATION, {**DECAY, "when": {"parameter": "augmentation", "in": ["Flip"]}}) == []


def test_epochs_stay_because_the_schedule_runs_towards_the_last() -> None:
    assert mutable(EPOCHS, RATE) == ["learningRate"]


def test_settings_read_from_a_configuration_give_the_same_configuration() -> None:
    settings: dict[str, Setting] = {
        "learningRate": 3e-4,
        "batchSize": 8,
        "augmentation": "None",
        "unfreezing": "Gradual",
        "epochs": 5,
    }
    transfer = spec_with().transfer
    config = finetune_config(settings, transfer)
    assert finetune_settings(vars(config), settings.keys()) == settings
    assert finetune_config(finetune_settings(vars(config), FINE_TUNE_PARAMETERS), transfer) == config
    assert CONFIG_FIELDS.keys() == FINE_TUNE_PARAMETERS
