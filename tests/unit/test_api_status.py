"""What is written into the status: conditions, moments, bounds."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError
from tests.api_refusals import DIGEST

from tunesmith_api.reasons import ModelDeploymentCondition, Reason, TrainingJobCondition
from tunesmith_api.schema import structural_schema
from tunesmith_api.status import (
    Condition,
    DatasetStatus,
    ModelStatus,
    SearchStatus,
    TrainingJobStatus,
    TrialStatus,
    with_condition,
)
from tunesmith_api.training_job import TrainingJob

NOON = datetime(2026, 10, 1, 12, 0, 0, tzinfo=UTC)


def condition(type_: str, status: str, moment: datetime, reason: str = "Running") -> Condition:
    return Condition.model_validate(
        {"type": type_, "status": status, "reason": reason, "lastTransitionTime": moment}
    )


def test_with_condition_new_type_is_added_at_the_end() -> None:
    first, second = condition("DataReady", "True", NOON), condition("Verified", "Unknown", NOON)
    assert with_condition((first,), second) == (first, second)


def test_with_condition_same_status_keeps_its_transition_time() -> None:
    later = NOON + timedelta(hours=1)
    (after,) = with_condition(
        (condition("Verified", "False", NOON),), condition("Verified", "False", later, "GateFailed")
    )
    assert (after.last_transition_time, after.reason) == (NOON, "GateFailed")


def test_with_condition_other_status_takes_the_new_time_and_keeps_the_place() -> None:
    later = NOON + timedelta(hours=1)
    old = (condition("Verified", "False", NOON), condition("Failed", "False", NOON))
    after = with_condition(old, condition("Verified", "True", later))
    assert [one.type for one in after] == ["Verified", "Failed"]
    assert after[0].last_transition_time == later


def test_time_any_zone_and_fraction_is_written_in_utc_to_the_second() -> None:
    moment = datetime(2026, 10, 1, 14, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert TrainingJobStatus(start_time=moment).to_dict()["startTime"] == "2026-10-01T12:00:00Z"


def test_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        TrainingJobStatus.model_validate({"startTime": "2026-10-01T12:00:00"})


def test_model_status_revision_is_the_beginning_of_the_digest() -> None:
    model = ModelStatus(uri="s3://m", digest=DIGEST, verified=True)
    assert model.revision == "0123456789ab"
    assert ModelStatus.model_validate(model.to_dict()) == model


def test_search_status_more_than_ten_top_trials_are_refused() -> None:
    trial = TrialStatus(id="t0001", strategy="LinearProbe", backbone="resnet50")
    assert len(SearchStatus(top=(trial,) * 10).top) == 10
    with pytest.raises(ValidationError, match="at most 10"):
        SearchStatus(top=(trial,) * 11)


@pytest.mark.parametrize("digest", ["", "sha256:abc", DIGEST.upper(), DIGEST + "\n"], ids=repr)
def test_dataset_status_what_is_no_digest_is_refused(digest: str) -> None:
    with pytest.raises(ValidationError):
        DatasetStatus(digest=digest, images=1, classes=1)


def test_metrics_not_a_number_is_refused_because_json_has_none() -> None:
    with pytest.raises(ValidationError):
        TrialStatus(id="t", strategy="FineTune", backbone="b", metrics={"accuracy": float("nan")})


def test_status_round_trip_leaves_nothing_out() -> None:
    status = TrainingJobStatus(
        observed_generation=2,
        conditions=(condition("Succeeded", "True", NOON, "Completed"),),
        phase="Succeeded",
        start_time=NOON,
        dataset=DatasetStatus(digest=DIGEST, images=960, classes=12),
        model=ModelStatus(uri="s3://m", digest=DIGEST, verified=True),
        gpu_seconds=1.5,
    )
    assert TrainingJobStatus.model_validate(status.to_dict()) == status


def test_status_schema_has_no_defaults_because_unknown_must_stay_unsaid() -> None:
    assert "default:" not in str(structural_schema(TrainingJob)["properties"]["status"]).replace("'", "")


def test_reasons_and_condition_types_fit_the_condition() -> None:
    for word in (*Reason, *TrainingJobCondition, *ModelDeploymentCondition):
        assert condition(word, "True", NOON, reason=word).reason == word
