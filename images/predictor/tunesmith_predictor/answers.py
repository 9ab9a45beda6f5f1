"""What is said of the images of one request, before a protocol puts it into its own form."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith_package.activation import ActivationMap, overlay_png
from tunesmith_package.preprocess import Float32Array, Preprocess, Uint8Array
from tunesmith_predictor.engine import Answer
from tunesmith_predictor.questions import Options


@dataclass(frozen=True)
class Explanation:
    """Where the evidence for a class lies in one image.

    Attributes:
        label: the class.
        method: ``cam`` or ``occlusion``; see `tunesmith_package.activation`.
        values: float32 [h, w], rows from the top; the higher, the more evidence.
        png: what the model saw with the map over it.
    """

    label: str
    method: str
    values: Float32Array
    png: bytes


@dataclass(frozen=True)
class Answers:
    """Everything that one request gets.

    Attributes:
        request_id: to give feedback on it later.
        each: one answer for each image.
        explanations: one for each image, or none at all.
        options: what was asked.
    """

    request_id: str
    each: Sequence[Answer]
    explanations: Sequence[Explanation]
    options: Options


def v1_document(answers: Answers, labels: Sequence[str]) -> dict[str, Any]:
    """The answer of the V1 protocol: a prediction for each instance, the most probable class first."""
    predictions = []
    for index, one in enumerate(answers.each):
        order = np.argsort(-one.probabilities, kind="stable")[: answers.options.top]
        classes = [{"label": labels[int(k)], "probability": float(one.probabilities[k])} for k in order]
        prediction: dict[str, object] = {**classes[0], "classes": classes}
        if answers.explanations:
            explanation = answers.explanations[index]
            prediction["explanation"] = {
                "label": explanation.label,
                "method": explanation.method,
                "map": explanation.values.tolist(),
                "png": base64.b64encode(explanation.png).decode(),
            }
        predictions.append(prediction)
    return {"predictions": predictions, "requestId": answers.request_id}


def explanation(activation: ActivationMap, label: str, answer: Answer, preprocess: Preprocess) -> Explanation:
    """Draw an activation map over what the model saw."""
    pixels = answer.decoded.pixels if answer.decoded is not None else _pixels(answer.tensor, preprocess)
    return Explanation(label, activation.method, activation.values, overlay_png(pixels, activation))


def _pixels(tensor: Float32Array, preprocess: Preprocess) -> Uint8Array:
    """The picture that a normalised tensor [3, S, S] was made from, uint8 [S, S, 3]."""
    mean = np.asarray(preprocess.mean, np.float32).reshape(3, 1, 1)
    std = np.asarray(preprocess.std, np.float32).reshape(3, 1, 1)
    pixels = np.clip((tensor * std + mean) * 255, 0, 255).round()
    return np.ascontiguousarray(pixels.transpose(1, 2, 0), np.uint8)
