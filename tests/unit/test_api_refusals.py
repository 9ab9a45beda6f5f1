"""What the API server refuses is refused locally with the same sentences."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.api_refusals import (
    DEPLOYMENT_RULES,
    MODEL_DEPLOYMENT,
    REFUSALS,
    TRAINING_JOB,
    Refusal,
    changed,
)

from tunesmith_api.admission import shown
from tunesmith_api.crd import KINDS
from tunesmith_api.reasons import EXIT_CODES, Reason, SpecInvalid
from tunesmith_api.rules import EXTENSION
from tunesmith_api.schema import structural_schema
from tunesmith_api.validation import load_documents, validate_object
from tunesmith_api.yaml_text import dump


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.about)
def test_validate_object_invalid_object_says_exactly_what_the_server_says(refusal: Refusal) -> None:
    with pytest.raises(SpecInvalid) as caught:
        validate_object(refusal.document, refusal.old)
    assert sorted(caught.value.violations) == sorted(refusal.lines)
    assert caught.value.reason is Reason.SPEC_INVALID
    assert caught.value.reason in EXIT_CODES


@pytest.mark.parametrize(
    "refusal",
    [refusal for refusal in REFUSALS if refusal.before is not None],
    ids=lambda refusal: refusal.about,
)
def test_validate_object_refused_update_is_accepted_as_a_new_object(refusal: Refusal) -> None:
    assert validate_object(refusal.document).metadata.name == "flowers"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({}, {"spec.suspend": True}, id="suspended"),
        pytest.param({}, {"spec.backoffLimit": 9}, id="more retries"),
        pytest.param({}, {"spec.activeDeadlineSeconds": 60}, id="a deadline"),
        pytest.param({}, {"spec.transfer": {"imageSize": 256}}, id="a default written out"),
        pytest.param(
            {"spec.suspend": True},
            {"spec.compute.memory": "32Gi", "spec.suspend": False},
            id="resumed with more",
        ),
    ],
)
def test_validate_object_allowed_update_is_accepted(before: dict[str, Any], after: dict[str, Any]) -> None:
    old = changed(TRAINING_JOB, before)
    assert validate_object(changed(TRAINING_JOB, after), old).metadata.name == "flowers"


def messages(schema: dict[str, Any]) -> Iterator[str]:
    yield from (rule["message"] for rule in schema.get(EXTENSION, ()))
    for child in schema.get("properties", {}).values():
        yield from messages(child)
    for inner in ("items", "additionalProperties"):
        if inner in schema:
            yield from messages(schema[inner])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_refusals_every_rule_of_the_schema_is_in_the_table(kind: Any) -> None:
    said = [line for refusal in REFUSALS for line in refusal.lines]
    unproven = {
        message
        for message in messages(structural_schema(kind.model))
        if not any(line.endswith(message) for line in said)
    }
    assert unproven == set()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_rules_every_sentence_says_what_to_write(kind: Any) -> None:
    for message in messages(structural_schema(kind.model)):
        assert not re.search(r"(?i)\b(invalid|illegal|error)\b", message), message
        assert len(message) >= 25, message


def test_load_documents_several_violations_are_all_listed_at_once() -> None:
    text = dump(
        changed(TRAINING_JOB, {"spec.search.numTrials": 0, "spec.dataset.uri": "ftp://x"}),
        changed(MODEL_DEPLOYMENT, {"spec.model": {}}),
    )
    with pytest.raises(SpecInvalid) as caught:
        load_documents(text)
    assert len(caught.value.violations) == 3
    assert str(caught.value).count("is invalid:") == 2


def test_load_documents_one_violation_stands_on_one_line_as_kubectl_prints_it() -> None:
    refusal = DEPLOYMENT_RULES[0]
    with pytest.raises(SpecInvalid) as caught:
        load_documents(dump(refusal.document))
    assert str(caught.value) == f'The ModelDeployment "flowers" is invalid: {refusal.lines[0]}'


def test_validate_object_status_in_a_file_is_ignored_as_the_server_ignores_it() -> None:
    job = validate_object({**TRAINING_JOB, "status": {"phase": "Nonsense"}})
    assert job.status is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1e-7], "[1e-7]"),
        ([1e-05], "[0.00001]"),
        ({"a": 2.0, "b": [1e21, 1.5e300]}, '{"a":2,"b":[1e+21,1.5e+300]}'),
        ([1e20, -0.5], "[100000000000000000000,-0.5]"),
        (1e-7, "1e-07"),
        ("ä", '"ä"'),
        ([None, True, {}], "[null,true,{}]"),
    ],
)
def test_shown_numbers_are_written_as_the_server_writes_them(value: object, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize("namespace", ["../../elsewhere", "a.b", "Prod", "a" * 64, "a/b"])
def test_validate_object_a_namespace_that_is_no_label_is_refused(namespace: str) -> None:
    with pytest.raises(SpecInvalid, match=r"metadata\.namespace: Invalid value"):
        validate_object(changed(TRAINING_JOB, {"metadata.namespace": namespace}))
