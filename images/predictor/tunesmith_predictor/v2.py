"""The Open Inference Protocol (V2), by REST and by gRPC; pure.

KServe's own classes carry the tensors. Its REST handler is not used, because it validates every number of a
tensor on the event loop (100 ms for one image of 224 pixels) and answers 500 to most of what is malformed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import RequestedOutput, to_http_parameters

from tunesmith_package.preprocess import Float32Array, Preprocess
from tunesmith_predictor.answers import Answers
from tunesmith_predictor.questions import Request, few, options, tensors
from tunesmith_predictor.refusals import BadRequest
from tunesmith_predictor.v1 import decode_base64, parse_json

_INPUTS = {"image": {"BYTES"}, "tensor": {"FP32", "FP64", "FP16"}, "pixels": {"UINT8"}}
"""A request has one of them."""
_DATATYPES = sorted(set().union(*_INPUTS.values()))
_MALFORMED = (InvalidInput, KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)
"""What numpy and KServe's classes raise for tensors that are not what they say."""


def input_types(preprocess: Preprocess) -> list[dict[str, Any]]:
    """What the model takes, one of these in a request; -1 is any number."""
    side = preprocess.image_size
    return [
        {"name": "image", "datatype": "BYTES", "shape": [-1]},
        {"name": "tensor", "datatype": "FP32", "shape": [-1, 3, side, side]},
        {"name": "pixels", "datatype": "UINT8", "shape": [-1, side, side, 3]},
    ]


def output_types(classes: int, dimensions: int) -> list[dict[str, Any]]:
    """What the model answers; all but the first two come when they are asked for."""
    return [
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]},
        {"name": "top_labels", "datatype": "BYTES", "shape": [-1, -1]},
        {"name": "top_probabilities", "datatype": "FP32", "shape": [-1, -1]},
        {"name": "embedding", "datatype": "FP32", "shape": [-1, dimensions]},
        {"name": "explanation", "datatype": "FP32", "shape": [-1, -1, -1]},
        {"name": "explanation_png", "datatype": "BYTES", "shape": [-1]},
    ]


def read_rest(body: bytes, json_length: str | None, model_name: str) -> InferRequest:
    """Read a REST body: JSON, or JSON of a stated length with raw tensors behind it.

    Args:
        body: as it came.
        json_length: the header ``Inference-Header-Content-Length``; None for JSON alone.
        model_name: of the address.

    Raises:
        BadRequest: it cannot be read.
    """
    length = len(body) if json_length is None else _length(json_length, len(body))
    document = parse_json(body[:length])
    inputs = document.get("inputs")
    if not isinstance(inputs, list):
        raise BadRequest("The body has no list inputs; see the model's metadata for what it takes.")
    found, at = [], length
    for index, one in enumerate(inputs):
        tensor, at = _input(one, index, body, at)
        found.append(tensor)
    if at != len(body):
        raise BadRequest(f"{len(body) - at} bytes of the body belong to no input.")
    parameters, wanted = document.get("parameters", {}), document.get("outputs")
    if not isinstance(parameters, dict):
        raise BadRequest('parameters must be an object, for example {"top": 3}.')
    request_id = document.get("id")
    return InferRequest(
        model_name,
        found,
        request_id=None if request_id is None else str(request_id)[:256],
        parameters=parameters,
        request_outputs=None if wanted is None else _outputs(wanted),
    )


def understand(
    request: InferRequest, query: Mapping[str, str], labels: Sequence[str], preprocess: Preprocess
) -> Request:
    """What a request asks.

    Raises:
        Refused: tensors that are not what they say, or that the model does not take.
    """
    if len(request.inputs) != 1 or request.inputs[0].name not in _INPUTS:
        names = ", ".join(str(one.name)[:60] for one in request.inputs[:5]) or "none"
        raise BadRequest(f"The model takes one input, image, pixels or tensor, and not {names}.")
    given = request.inputs[0]
    if given.datatype not in _INPUTS[given.name]:
        wanted_types = " or ".join(sorted(_INPUTS[given.name]))
        raise BadRequest(f"The input {given.name} is {wanted_types}, not {given.datatype[:20]}.")
    own = {**query, **_parameters(request.parameters)}
    own.pop("binary_data_output", None)
    wanted = {one.name for one in request.request_outputs or ()}
    chosen = options(own, labels, explain=bool(wanted & {"explanation", "explanation_png"}))
    return Request(_images(given, preprocess), chosen)


def respond(request: InferRequest, answers: Answers, labels: Sequence[str]) -> InferResponse:
    """The answers as tensors: those that were asked for, else what the options call for.

    Raises:
        BadRequest: an output was asked for that there is not.
    """
    found = _tensors(answers, labels)
    names = [one.name for one in request.request_outputs or ()] or [
        one for one in found if one != "embedding"
    ]
    unknown = [name for name in names if name not in found]
    if unknown:
        raise BadRequest(
            f"There is no output {str(unknown[0])[:60]!r} for this request; there are {', '.join(found)}."
        )
    outputs = [
        InferOutput(
            name, list(found[name].shape), "BYTES" if found[name].dtype == object else "FP32", found[name]
        )
        for name in names
    ]
    return InferResponse(
        request.id or answers.request_id,
        request.model_name,
        outputs,
        use_binary_outputs=bool(request.use_binary_outputs),
        requested_outputs=None if request.from_grpc else request.request_outputs,
    )


def _tensors(answers: Answers, labels: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    probabilities = np.stack([one.probabilities for one in answers.each])
    order = np.argsort(-probabilities, axis=1, kind="stable")
    found = {
        "label": _texts([labels[int(row[0])] for row in order]),
        "probabilities": probabilities,
        "embedding": np.stack([one.embedding for one in answers.each]),
    }
    if answers.options.top is not None:
        best = order[:, : answers.options.top]
        found["top_labels"] = _texts([labels[int(one)] for one in best.ravel()]).reshape(best.shape)
        found["top_probabilities"] = np.take_along_axis(probabilities, best, axis=1)
    if answers.explanations:
        found["explanation"] = np.stack([one.values for one in answers.explanations])
        found["explanation_png"] = _texts([one.png for one in answers.explanations])
    return found


def _texts(values: Sequence[str | bytes]) -> npt.NDArray[Any]:
    made = np.empty(len(values), object)
    made[:] = [one if isinstance(one, bytes) else one.encode() for one in values]
    return made


def _length(text: str, size: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > size:
        raise BadRequest(
            f"Inference-Header-Content-Length is {text[:20]!r}; it must be the length of the JSON part."
        )
    return int(text)


def _input(one: object, index: int, body: bytes, at: int) -> tuple[InferInput, int]:
    where = f"inputs[{index}]"
    if not isinstance(one, dict):
        raise BadRequest(f"{where} is no object.")
    name, shape, datatype = one.get("name"), one.get("shape"), one.get("datatype")
    parameters = one.get("parameters") or {}
    if not isinstance(name, str) or datatype not in _DATATYPES or not isinstance(parameters, dict):
        raise BadRequest(f"{where} needs a name and a datatype of {', '.join(_DATATYPES)}.")
    if not isinstance(shape, list) or not all(type(side) is int and 0 <= side < 2**31 for side in shape):
        raise BadRequest(f"{where} needs a shape, a list of whole numbers.")
    size = parameters.get("binary_data_size")
    tensor = InferInput(name, shape, str(datatype))
    if size is None:
        if not isinstance(one.get("data"), list):
            raise BadRequest(f"{where} needs data, a list, or binary_data_size in its parameters.")
        tensor.data = one["data"]
        return tensor, at
    if type(size) is not int or size < 0 or at + size > len(body):
        raise BadRequest(
            f"{where}: binary_data_size is {str(size)[:20]}, and {len(body) - at} bytes are left."
        )
    tensor._raw_data = body[at : at + size]  # KServe's classes have no other door for it
    return tensor, at + size


def _outputs(wanted: object) -> list[RequestedOutput] | None:
    if not isinstance(wanted, list) or not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in wanted
    ):
        raise BadRequest("outputs must be a list of objects with a name.")
    if not all(isinstance(one.get("parameters", {}), dict) for one in wanted):
        raise BadRequest("The parameters of an output must be an object.")
    return [RequestedOutput(one["name"], one.get("parameters")) for one in wanted] or None


def _parameters(raw: Any) -> dict[str, object]:
    if not raw:
        return {}
    return dict(raw) if isinstance(raw, dict) else dict(to_http_parameters(raw))


def _images(tensor: InferInput, preprocess: Preprocess) -> list[bytes | Float32Array]:
    shape = [int(side) for side in tensor.shape]
    if tensor.datatype == "BYTES":
        # Counted before anything is made of it: the shape is only a claim.
        few(math.prod(shape) if shape else 0)
    try:
        values = tensor.as_numpy()
    except _MALFORMED as error:
        raise BadRequest(
            f"The data of {tensor.name} is not {tensor.datatype} {shape}: {str(error)[:200]}."
        ) from error
    if tensor.datatype != "BYTES":
        return [*tensors(values, preprocess)]
    return [_bytes(one, index) for index, one in enumerate(values.ravel())]


def _bytes(one: object, index: int) -> bytes:
    if isinstance(one, bytes):
        return one
    if isinstance(one, str):  # JSON has no bytes, so there they are base64
        return decode_base64(one, f"image[{index}]")
    raise BadRequest(f"image[{index}] is neither bytes nor base64.")
