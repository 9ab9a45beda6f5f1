"""What requests are understood as, in both protocols, and what is refused with a sentence."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kserve import InferInput, InferRequest
from tests.testbed.tiny_package import LABELS, PREPROCESS, picture

from tunesmith_predictor import v1, v2
from tunesmith_predictor.answers import Answers, Explanation, v1_document
from tunesmith_predictor.engine import Answer
from tunesmith_predictor.questions import MOST_IMAGES, Options, Request
from tunesmith_predictor.refusals import Refused

SIDE = PREPROCESS.image_size
IMAGE = {"b64": ""}
TENSOR = np.linspace(-1, 1, 3 * SIDE * SIDE, dtype=np.float32).reshape(1, 3, SIDE, SIDE)
PIXELS = np.arange(SIDE * SIDE * 3, dtype=np.uint32).reshape(1, SIDE, SIDE, 3).astype(np.uint8)


def ask_v1(
    body: bytes | Any, content_type: str = "application/json", query: dict[str, str] | None = None
) -> Request:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return v1.read_request(data, content_type, query or {}, LABELS, PREPROCESS, explain=False)


def ask_v2(body: bytes | Any, json_length: str | None = None, query: dict[str, str] | None = None) -> Request:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return v2.understand(v2.read_rest(data, json_length, "flowers"), query or {}, LABELS, PREPROCESS)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def v2_body(**changes: Any) -> dict[str, Any]:
    one = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64(picture("red"))]}
    return {"inputs": [{**one, **changes}]}


@pytest.mark.parametrize("content_type", ["image/jpeg", "image/png", "IMAGE/JPEG; q=1"])
def test_v1_an_image_as_the_body_is_one_image(content_type: str) -> None:
    assert ask_v1(b"bytes", content_type) == Request([b"bytes"], Options())


def test_v1_instances_may_be_base64_in_two_spellings_or_tensors() -> None:
    asked = ask_v1(
        {
            "instances": [
                {"b64": b64(b"one")},
                {"image_bytes": {"b64": b64(b"two")}},
                TENSOR[0].tolist(),
            ],
            "parameters": {"top": 2, "explain": True, "class": "green"},
        }
    )
    assert list(asked.images[:2]) == [b"one", b"two"]
    assert np.array_equal(np.asarray(asked.images[2]), TENSOR[0])
    assert asked.options == Options(2, True, "green")


def test_v1_options_may_stand_in_the_address_and_top_is_never_more_than_there_are() -> None:
    asked = ask_v1(b"x", "image/png", {"top": "99", "explain": "true"})
    assert asked.options == Options(len(LABELS), True, None)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "words"),
    [
        (b"x", "text/plain", 415, "text/plain"),
        (b"{", "application/json", 400, "not JSON"),
        (b"", "", 400, "not JSON"),
        (b"[1]", "application/json", 400, "no object"),
        ({}, "application/json", 400, "no list instances"),
        ({"instances": {}}, "application/json", 400, "no list instances"),
        ({"instances": []}, "application/json", 400, "holds no image"),
        ({"instances": [{"b64": ""}] * (MOST_IMAGES + 1)}, "application/json", 413, "at most 64"),
        ({"instances": [{"b64": "***"}]}, "application/json", 400, "not base64"),
        ({"instances": [{"b64": 5}]}, "application/json", 400, "neither an image nor a tensor"),
        ({"instances": ["x"]}, "application/json", 400, "neither an image nor a tensor"),
        ({"instances": [[[1], [2, 3]]]}, "application/json", 400, "no tensor of numbers"),
        ({"instances": [[1, 2]]}, "application/json", 400, f"must be [n, 3, {SIDE}, {SIDE}]"),
        ({"instances": [IMAGE], "parameters": 5}, "application/json", 400, "must be an object"),
        (
            {"instances": [IMAGE], "parameters": {"topk": 5}},
            "application/json",
            400,
            "no option 'topk'",
        ),
        ({"instances": [IMAGE], "parameters": {"top": 0}}, "application/json", 400, "whole number"),
        ({"instances": [IMAGE], "parameters": {"top": True}}, "application/json", 400, "whole number"),
        (
            {"instances": [IMAGE], "parameters": {"explain": "?"}},
            "application/json",
            400,
            "true or false",
        ),
        (
            {"instances": [IMAGE], "parameters": {"class": "pink"}},
            "application/json",
            400,
            "red, green",
        ),
        (b"[" * 100_000, "application/json", 400, "not JSON"),
    ],
)
def test_v1_what_makes_no_sense_is_refused(body: Any, content_type: str, status: int, words: str) -> None:
    with pytest.raises(Refused) as caught:
        ask_v1(body, content_type)
    assert caught.value.status == status
    assert words in caught.value.message


def test_tensors_that_are_not_finite_are_refused() -> None:
    broken = TENSOR.copy()
    broken[0, 0, 0, 0] = np.nan
    body = broken.tobytes()
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "tensor",
                    "datatype": "FP32",
                    "shape": list(broken.shape),
                    "parameters": {"binary_data_size": len(body)},
                }
            ]
        }
    ).encode()
    with pytest.raises(Refused, match="not finite"):
        ask_v2(head + body, str(len(head)))


def test_v2_json_images_are_base64_and_tensors_are_lists() -> None:
    assert list(ask_v2(v2_body(data=[b64(b"one")])).images) == [b"one"]
    flat = TENSOR.ravel().tolist()
    asked = ask_v2(v2_body(name="tensor", datatype="FP32", shape=list(TENSOR.shape), data=flat))
    assert np.array_equal(np.asarray(asked.images[0]), TENSOR[0])


def test_v2_pixels_become_the_tensor_that_training_made_of_them() -> None:
    asked = ask_v2(
        v2_body(name="pixels", datatype="UINT8", shape=list(PIXELS.shape), data=PIXELS.ravel().tolist())
    )
    assert np.array_equal(np.asarray(asked.images[0]), PREPROCESS.normalise(PIXELS)[0])


def test_v2_binary_bodies_hold_tensors_and_images_behind_the_json() -> None:
    first = b"an image"
    raw = struct.pack("<I", len(first)) + first
    head = json.dumps(
        {
            "id": "7",
            "inputs": [
                {
                    "name": "image",
                    "datatype": "BYTES",
                    "shape": [1],
                    "parameters": {"binary_data_size": len(raw)},
                }
            ],
            "parameters": {"top": 1, "binary_data_output": True},
        }
    ).encode()
    asked = ask_v2(head + raw, str(len(head)))
    assert asked == Request([first], Options(top=1))


def test_v2_a_request_by_grpc_is_understood_by_the_same_rules() -> None:
    given_input = InferInput("tensor", list(TENSOR.shape), "FP32")
    given_input._raw_data = TENSOR.tobytes()
    request = InferRequest("flowers", [given_input], from_grpc=True, parameters={"top": 2})
    asked = v2.understand(request, {}, LABELS, PREPROCESS)
    assert np.array_equal(np.asarray(asked.images[0]), TENSOR[0])
    assert asked.options.top == 2


def test_v2_asking_for_an_explanation_among_the_outputs_explains() -> None:
    asked = ask_v2({**v2_body(), "outputs": [{"name": "explanation_png"}]})
    assert asked.options.explain


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "no list inputs"),
        ({"inputs": []}, "one input"),
        ({"inputs": [5]}, "no object"),
        ({"inputs": v2_body()["inputs"] * 2}, "one input"),
        (v2_body(name="photo"), "one input"),
        (v2_body(name="tensor"), "FP16 or FP32 or FP64"),
        (v2_body(datatype="INT7"), "needs a name and a datatype"),
        (v2_body(shape="x"), "needs a shape"),
        (v2_body(shape=[-1]), "needs a shape"),
        (v2_body(shape=[True]), "needs a shape"),
        (v2_body(shape=[2]), "is not BYTES [2]"),
        (v2_body(shape=[2**31 - 1, 2**31 - 1]), "at most 64"),
        (v2_body(shape=[]), "no image"),
        (v2_body(data=None), "needs data"),
        (v2_body(data=[5]), "neither bytes nor base64"),
        (v2_body(data=["***"]), "not base64"),
        (v2_body(name="tensor", datatype="FP32", shape=[1, 3, 2, 2], data=[0] * 12), "must be [n, 3"),
        (v2_body(name="tensor", datatype="FP32", shape=[1], data=["x"]), "is not FP32"),
        (v2_body(name="pixels", datatype="UINT8", shape=[3], data=[1, 2, 300]), "is not UINT8"),
        (v2_body(data=None, parameters={"binary_data_size": 5}), "binary_data_size"),
        (v2_body(parameters={"binary_data_size": "x"}), "binary_data_size"),
        ({**v2_body(), "parameters": []}, "must be an object"),
        ({**v2_body(), "outputs": [{}]}, "outputs must be"),
        ({**v2_body(), "outputs": [{"name": "x", "parameters": 5}]}, "must be an object"),
    ],
)
def test_v2_what_makes_no_sense_is_refused(body: Any, words: str) -> None:
    with pytest.raises(Refused) as caught:
        ask_v2(body)
    assert caught.value.status in (400, 413)
    assert words in caught.value.message


@pytest.mark.parametrize("length", ["-1", "x", "99999", "²"])
def test_v2_a_json_length_that_is_none_is_refused(length: str) -> None:
    with pytest.raises(Refused, match="Content-Length"):
        ask_v2(v2_body(), length)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "shape", "datatype", "data", "parameters", "b64", "binary_data_size"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["inputs", "instances", "parameters", "outputs", "id"]), JSON_VALUES),
    st.binary(max_size=20),
    st.none() | st.integers(0, 200).map(str),
)
def test_any_body_is_understood_or_refused_and_nothing_else(
    document: dict[str, Any], behind: bytes, length: str | None
) -> None:
    body = json.dumps(document).encode() + behind
    asks: tuple[Callable[[], Request], ...] = (lambda: ask_v1(body), lambda: ask_v2(body, length))
    for ask in asks:
        refused: Refused | None = None
        try:
            assert ask().images
        except Refused as error:
            refused = error
        assert refused is None or 400 <= refused.status < 500
        assert refused is None or len(refused.message) < 1_000


def answers(options: Options, *, explained: bool = False) -> Answers:
    rows = np.array([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]], np.float32)
    each = [Answer(row, np.zeros(4, np.float32), TENSOR[0], None) for row in rows]
    why = [Explanation("green", "cam", np.zeros((2, 2), np.float32), b"\x89PNG")] * 2 if explained else []
    return Answers("id-1", each, why, options)


def test_v1_answers_name_the_best_class_first_and_equal_ones_in_the_order_of_the_labels() -> None:
    document = v1_document(answers(Options(top=2)), LABELS)
    first, second = document["predictions"]
    assert first["label"] == "green"
    assert first["probability"] == pytest.approx(0.7)
    assert [one["label"] for one in second["classes"]] == ["red", "green"]
    assert document["requestId"] == "id-1"


def test_v1_answers_carry_explanations_as_numbers_and_as_a_picture() -> None:
    [first, _] = v1_document(answers(Options(explain=True), explained=True), LABELS)["predictions"]
    assert first["explanation"]["map"] == [[0.0, 0.0], [0.0, 0.0]]
    assert base64.b64decode(first["explanation"]["png"]) == b"\x89PNG"


def test_v2_answers_are_tensors_in_the_order_of_the_labels() -> None:
    request = v2.read_rest(json.dumps({**v2_body(), "id": "7"}).encode(), None, "flowers")
    document, length = v2.respond(request, answers(Options(top=1)), LABELS).to_rest()
    assert length is None
    assert document["id"] == "7"
    outputs = {one["name"]: one for one in document["outputs"]}
    assert outputs["label"]["data"] == ["green", "red"]
    assert outputs["probabilities"]["shape"] == [2, 3]
    assert outputs["probabilities"]["data"] == pytest.approx([0.1, 0.7, 0.2, 0.5, 0.25, 0.25])
    assert outputs["top_labels"]["shape"] == [2, 1]
    assert "embedding" not in outputs


def test_v2_only_the_outputs_asked_for_are_sent_as_bytes_where_that_is_asked() -> None:
    wanted = [
        {"name": "probabilities", "parameters": {"binary_data": True}},
        {"name": "label"},
    ]
    request = v2.read_rest(json.dumps({**v2_body(), "outputs": wanted}).encode(), None, "flowers")
    body, length = v2.respond(request, answers(Options()), LABELS).to_rest()
    assert isinstance(body, bytes)
    head = json.loads(body[:length])
    assert [one["name"] for one in head["outputs"]] == ["probabilities", "label"]
    assert np.frombuffer(body[length:], np.float32).reshape(2, 3)[0, 1] == pytest.approx(0.7)


def test_v2_an_output_that_there_is_not_is_refused() -> None:
    body = json.dumps({**v2_body(), "outputs": [{"name": "logits"}]}).encode()
    request = v2.read_rest(body, None, "flowers")
    with pytest.raises(Refused, match="no output 'logits'") as caught:
        v2.respond(request, answers(Options()), LABELS)
    assert caught.value.status is HTTPStatus.BAD_REQUEST
