"""KServe's V1 protocol: a JSON object with ``instances``, or one image as the body; pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from http import HTTPStatus

import numpy as np
import orjson

from tunesmith_package.preprocess import Float32Array, Preprocess
from tunesmith_predictor.questions import Request, few, options, tensors
from tunesmith_predictor.refusals import BadRequest, Refused

IMAGE_TYPES = ("image/jpeg", "image/png", "application/octet-stream")
_HOW = 'Send {"instances": [{"b64": "..."}]}, or the image itself as image/jpeg or image/png.'


def read_request(
    body: bytes,
    content_type: str,
    query: Mapping[str, str],
    labels: Sequence[str],
    preprocess: Preprocess,
    *,
    explain: bool,
) -> Request:
    """Understand a body.

    Args:
        body: as it came.
        content_type: its media type; ``application/json`` where it is empty.
        query: the options in the address.
        labels: the model's classes.
        preprocess: of the model.
        explain: whether the address asks for an explanation.

    Raises:
        Refused: it cannot be understood.
    """
    kind = content_type.partition(";")[0].strip().lower() or "application/json"
    if kind in IMAGE_TYPES:
        return Request([body], options(dict(query), labels, explain=explain))
    if kind != "application/json":
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"The content type {kind[:60]!r} is not taken here. {_HOW}"
        )
    document = parse_json(body)
    instances = document.get("instances")
    if not isinstance(instances, list):
        raise BadRequest(f"The body has no list instances. {_HOW}")
    few(len(instances))
    extra = document.get("parameters", {})
    if not isinstance(extra, dict):
        raise BadRequest('parameters must be an object, for example {"top": 3}.')
    chosen = options({**query, **extra}, labels, explain=explain)
    return Request([_image(one, index, preprocess) for index, one in enumerate(instances)], chosen)


def parse_json(body: bytes) -> dict[str, object]:
    """Parse a body that must be a JSON object.

    Raises:
        BadRequest: it is none.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise BadRequest(f"The body is JSON, but no object. {_HOW}")
    return document


def _image(instance: object, index: int, preprocess: Preprocess) -> bytes | Float32Array:
    inner = instance
    if isinstance(inner, dict) and isinstance(inner.get("image_bytes"), dict):
        inner = inner["image_bytes"]  # as TensorFlow Serving has it
    if isinstance(inner, dict) and isinstance(inner.get("b64"), str):
        return decode_base64(inner["b64"], f"instances[{index}]")
    if isinstance(instance, list):
        try:
            values = np.asarray(instance, np.float32)
        except (ValueError, TypeError) as error:
            raise BadRequest(f"instances[{index}] is no tensor of numbers.") from error
        return tensors(values[np.newaxis], preprocess)[0]
    raise BadRequest(f"instances[{index}] is neither an image nor a tensor. {_HOW}")


def decode_base64(text: str, where: str) -> bytes:
    """Decode base64 strictly.

    Raises:
        BadRequest: it is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"{where} is not base64: {error}.") from error
