"""The two resources as Python objects: defaults, names, round trips, properties."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from pydantic import ValidationError
from tests.api_mutations import mutated_documents
from tests.api_refusals import MODEL_DEPLOYMENT, TRAINING_JOB

from tunesmith_api import reasons
from tunesmith_api.model_deployment import ModelDeployment, Rollout
from tunesmith_api.reasons import (
    EXIT_CODES,
    RETRYABLE,
    DatasetError,
    DatasetMissing,
    Interrupted,
    Reason,
    SpecInvalid,
    StoreUnreachable,
    TunesmithError,
    exit_code,
    reason_of_exit_code,
)
from tunesmith_api.schema import structural_schema
from tunesmith_api.search_spec import Categorical, IntUniform, LogUniform, Parameter, SearchSpace, Uniform
from tunesmith_api.training_job import Backbone, TrainingJob, TransferSpec
from tunesmith_api.validation import load_documents, to_yaml, validate_object
from tunesmith_api.verification_spec import Gate, Objective

EXAMPLES = sorted((Path(__file__).parents[2] / "manifests" / "examples").glob("*.yaml"))


def test_training_job_smallest_spec_has_the_documented_defaults() -> None:
    spec = TrainingJob.model_validate(TRAINING_JOB).spec
    assert [backbone.name for backbone in spec.backbones] == ["mobilenet_v2"]
    assert spec.transfer.strategies == ("LinearProbe", "FineTune")
    assert (spec.transfer.image_size, spec.transfer.max_epochs) == (256, 12)
    assert [objective.metric for objective in spec.objectives] == ["accuracy"]
    assert (spec.search.algorithm.name, spec.search.early_stopping.name) == ("TPE", "ASHA")
    assert list(spec.search.by_name()) == []
    assert (spec.search.num_trials, spec.search.parallel_trials, spec.search.max_fine_tune_trials) == (
        32,
        1,
        3,
    )
    assert (spec.dataset.split.validation, spec.dataset.split.test) == (0.15, 0.15)
    assert spec.dataset.checks.max_pixels == 50_000_000
    assert spec.verification.corruptions.severities == (1, 3, 5)
    assert (spec.compute.gpus, spec.compute.workers, spec.backoff_limit) == (0, 0, 3)


@pytest.mark.parametrize("document", [TRAINING_JOB, MODEL_DEPLOYMENT], ids=lambda document: document["kind"])
def test_validate_object_schema_defaults_equal_the_models_own(document: dict[str, Any]) -> None:
    model = {"TrainingJob": TrainingJob, "ModelDeployment": ModelDeployment}[document["kind"]]
    assert validate_object(document) == model.model_validate(document)


@given(document=mutated_documents())
def test_validate_object_any_valid_object_survives_yaml_and_json(document: dict[str, Any]) -> None:
    try:
        resource = validate_object(document)
    except SpecInvalid:
        return
    assert load_documents(to_yaml(resource)) == [resource]
    assert type(resource).model_validate_json(resource.model_dump_json(by_alias=True)) == resource
    assert validate_object(resource.to_dict()) == resource


@settings(max_examples=50)
@given(document=mutated_documents())
def test_validate_object_unchanged_object_is_always_an_allowed_update(document: dict[str, Any]) -> None:
    try:
        resource = validate_object(document)
    except SpecInvalid:
        return
    assert validate_object(document, document) == resource


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid(path: Path) -> None:
    assert load_documents(path.read_text(encoding="utf-8"), path.name)


def test_examples_full_ones_say_every_field_of_the_spec() -> None:
    written = [one for path in EXAMPLES for one in load_documents(path.read_text(encoding="utf-8"))]
    for model in (TrainingJob, ModelDeployment):
        fields = set(structural_schema(model)["properties"]["spec"]["properties"])
        said = {name for one in written if isinstance(one, model) for name in one.to_dict()["spec"]}
        assert said == fields


def test_models_are_frozen_and_refuse_unknown_fields() -> None:
    transfer = TransferSpec()
    with pytest.raises(ValidationError, match="frozen"):
        transfer.image_size = 64  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        TransferSpec.model_validate({"imagesize": 64})


@pytest.mark.parametrize(
    ("space", "kind"),
    [
        (SearchSpace(uniform=Uniform(min="0", max="1")), Uniform),
        (SearchSpace(log_uniform=LogUniform(min="1e-5", max="1")), LogUniform),
        (SearchSpace(int_uniform=IntUniform(min="1", max="9")), IntUniform),
        (SearchSpace(categorical=Categorical(choices=("a", "b"))), Categorical),
    ],
    ids=["uniform", "logUniform", "intUniform", "categorical"],
)
def test_search_space_kind_is_the_one_that_is_given(space: SearchSpace, kind: type) -> None:
    assert type(space.kind) is kind


def test_ranges_bounds_are_numbers() -> None:
    assert LogUniform(min="1e-5", max="0.1").bounds == (1e-5, 0.1)
    assert IntUniform(min="1", max="9").bounds == (1, 9)


def test_when_is_written_in_and_read_values() -> None:
    parameter = Parameter.model_validate(
        {
            "name": "epochs",
            "searchSpace": {"intUniform": {"min": "1", "max": "9"}},
            "when": {"parameter": "strategy", "in": ["FineTune"]},
        }
    )
    assert parameter.when is not None
    assert parameter.when.values == ("FineTune",)
    assert parameter.to_dict()["when"] == {"parameter": "strategy", "in": ["FineTune"]}


@pytest.mark.parametrize(
    ("backbone", "weights"),
    [
        (Backbone(name="resnet50"), "DEFAULT"),
        (Backbone(name="resnet50", weights="IMAGENET1K_V2"), "IMAGENET1K_V2"),
        (Backbone(name="resnet50", weights_uri="s3://w/r.safetensors"), None),
    ],
    ids=["nothing said", "by name", "from a file"],
)
def test_backbone_weights_name_follows_from_what_is_said(backbone: Backbone, weights: str | None) -> None:
    assert backbone.weights_name == weights


def test_objective_direction_follows_from_the_metric() -> None:
    assert Objective(metric="accuracy").maximize
    assert not Objective(metric="calibrationError").maximize


def test_gate_margin_and_shadow_have_defaults_where_nothing_is_said() -> None:
    assert Gate(metric="accuracy", relative_to="Champion").delta == 0.0
    assert Rollout(strategy="Shadow").shadow_or_default.percent == 100


def test_exit_codes_are_unique_and_in_their_range() -> None:
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
    assert EXIT_CODES[Reason.INTERRUPTED] == 75
    others = [code for reason, code in EXIT_CODES.items() if reason is not Reason.INTERRUPTED]
    assert all(10 <= code <= 63 for code in others)
    assert all(reason_of_exit_code(code) is reason for reason, code in EXIT_CODES.items())
    assert reason_of_exit_code(0) is None


def test_every_error_class_has_a_reason_with_an_exit_code() -> None:
    classes = [
        value
        for value in vars(reasons).values()
        if isinstance(value, type) and issubclass(value, TunesmithError)
    ]
    assert len(classes) > 20
    for error in classes:
        assert error.reason in EXIT_CODES, error


def test_errors_say_what_is_wrong_and_what_to_do() -> None:
    error = DatasetMissing("There is nothing at file:///x.", "Check dataset.uri.")
    assert str(error) == "There is nothing at file:///x. Check dataset.uri."
    assert isinstance(error, DatasetError)
    assert exit_code(error) == EXIT_CODES[Reason.DATASET_MISSING]
    assert str(Interrupted("Stopped.")) == "Stopped."


def test_exit_code_unforeseen_error_is_internal() -> None:
    assert exit_code(ZeroDivisionError()) == EXIT_CODES[Reason.INTERNAL_ERROR]


def test_retryable_reasons_are_those_that_pass_by_themselves() -> None:
    assert StoreUnreachable.reason in RETRYABLE
    assert Interrupted.reason in RETRYABLE
    assert not {Reason.SPEC_INVALID, Reason.GATE_FAILED, Reason.STORE_DENIED} & RETRYABLE
