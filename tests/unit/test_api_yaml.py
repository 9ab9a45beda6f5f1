"""YAML read and written as kubectl does, and nothing that can do harm."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.api_refusals import TRAINING_JOB

from tunesmith_api.reasons import SpecInvalid
from tunesmith_api.validation import load_documents
from tunesmith_api.yaml_text import MAX_BYTES, dump, parse

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(-1e20, 1e20, allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85\ufeff")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abyn01.~-e"), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("0.1", 0.1),
        ("2.0", 2),
        ("0x10", 16),
        ("y", True),
        ("Off", False),
        ("None", "None"),
        ("null", None),
        ("12:30:00", "12:30:00"),
        ("2026-10-01", "2026-10-01"),
        ('"1e-5"', "1e-5"),
    ],
)
def test_parse_plain_word_means_what_it_means_to_kubectl(text: str, value: object) -> None:
    (document,) = parse(f"value: {text}")
    assert document == {"value": value}
    assert type(document["value"]) is type(value)


@given(JSON)
def test_dump_any_value_is_read_back_the_same(value: Any) -> None:
    document = {"value": value}
    assert parse(dump(document)) == [document]


@given(st.text("0123456789eE+-.:_xyonfNOYtrue~<=", max_size=8))
def test_dump_text_that_looks_like_something_else_stays_a_text_for_every_reader(text: str) -> None:
    written = dump({"value": text})
    assert parse(written) == [{"value": text}]
    assert yaml.safe_load(written) == {"value": text}


def test_load_documents_json_is_read_too() -> None:
    assert load_documents(json.dumps(TRAINING_JOB))[0].name == "flowers"


def test_load_documents_several_documents_keep_their_order() -> None:
    other = {**TRAINING_JOB, "metadata": {"name": "other"}}
    text = "---\n# nothing\n---\n" + dump(other, TRAINING_JOB)
    assert [resource.name for resource in load_documents(text)] == ["other", "flowers"]


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + level)}: &{chr(98 + level)} [{','.join([f'*{chr(97 + level)}'] * 10)}]\n"
    for level in range(8)
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("a: 1\na: 2", 'line 2: key "a" already set in map', id="a key twice"),
        pytest.param("a: [", "not YAML: line 1", id="not YAML"),
        pytest.param("a: \x00", "not YAML", id="a control character"),
        pytest.param(
            "a: !!python/object/apply:os.system [ls]", "could not determine a constructor", id="code"
        ),
        pytest.param("a: !!binary aGk=", "cannot be stored", id="bytes"),
        pytest.param("a: .inf", "must be finite", id="infinity"),
        pytest.param("[a]: b", "plain word", id="a list as a key"),
        pytest.param("a: &a [*a]", "refers to itself", id="a circle"),
        pytest.param(BOMB, "more than 100,000 values", id="a bomb of aliases"),
        pytest.param("[" * 5_000, "nested too deeply", id="deep nesting"),
        pytest.param("#" * (MAX_BYTES + 1), "more than 1,048,576 bytes", id="too large"),
    ],
)
def test_parse_harmful_text_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(SpecInvalid, match=sentence):
        parse(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("", "There is no resource in job.yaml", id="nothing"),
        pytest.param("- a", "must be a mapping", id="a list"),
        pytest.param("kind: TrainingJob", "apiVersion not set", id="no version"),
        pytest.param(
            "{apiVersion: v1, kind: Secret}",
            'no matches for kind "Secret" in version "v1"',
            id="another kind",
        ),
        pytest.param(
            "{apiVersion: tunesmith.dev/v2, kind: TrainingJob}",
            "reads TrainingJob and ModelDeployment of apiVersion tunesmith.dev/v1alpha1",
            id="another version",
        ),
        pytest.param(dump(TRAINING_JOB, TRAINING_JOB), "stands in the text twice", id="the same twice"),
    ],
)
def test_load_documents_what_is_not_ours_is_named(text: str, sentence: str) -> None:
    with pytest.raises(SpecInvalid, match=sentence):
        load_documents(text, "job.yaml")
