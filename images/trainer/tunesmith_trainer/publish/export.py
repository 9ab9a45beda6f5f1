"""Turns the chosen model into the files that serve it: ONNX graph, weights, preprocessing and labels."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from safetensors.torch import save_file
from torch import nn

from tunesmith_api.reasons import PackageError
from tunesmith_package.inference import softmax
from tunesmith_package.preprocess import Preprocess
from tunesmith_trainer.onnx_graph import OPSET, export_graph
from tunesmith_trainer.prepare.dataset import TRAIN, VALIDATION, Dataset
from tunesmith_trainer.search.candidate import Candidate

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "weights.safetensors"
PREPROCESS_FILE = "preprocess.json"
LABELS_FILE = "labels.json"

TOLERANCE = 1e-4
"""The largest difference of a probability between ONNX Runtime and torch."""
_SAMPLES = 4
_CAPTURED_OPSET = 18
_PROTOBUF_BYTES = 2**31 - 2**24  # a graph in one file ends at 2 GiB; the nodes need some of it

Uint8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]


class ExportFailed(PackageError):
    """The model cannot be written as an ONNX graph that predicts the same."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        outputs: names of the graph's outputs, with or without ``feature_map``.
        opset: version of the ONNX operators.
        difference: the largest difference of a probability between ONNX Runtime and torch.
        seconds: the export alone, without the comparison.
    """

    outputs: tuple[str, ...]
    opset: int
    difference: float
    seconds: float


class _Served(nn.Module):
    """The model without the output it does not have: a graph has no None."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap ``model``."""
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits, embedding and, where there is one, the feature map."""
        return tuple(output for output in self.model(image) if output is not None)


def export_model(candidate: Candidate, dataset: Dataset, directory: Path) -> Exported:
    """Write the candidate's ``model.onnx``, ``weights.safetensors``, ``preprocess.json`` and ``labels.json``.

    The graph and torch are compared on a few images of the train and validation splits; the test split stays
    untouched.

    Raises:
        ExportFailed: no exporter produces a graph that predicts the same within 1e-4.
    """
    rows = dataset.rows(TRAIN, VALIDATION)
    chosen = rows[np.linspace(0, len(rows) - 1, num=min(_SAMPLES, len(rows)), dtype=np.int64)]
    samples = dataset.pixels.read(chosen)
    # The pixels are the dataset's; how they are normalised is the backbone's.
    preprocess = replace(dataset.preprocess, mean=candidate.facts.mean, std=candidate.facts.std)
    return export_classifier(candidate.model, preprocess, dataset.classes, samples, directory)


def export_classifier(
    model: nn.Module, preprocess: Preprocess, labels: Sequence[str], samples: Uint8Array, directory: Path
) -> Exported:
    """Write a classifier's files and prove that the graph predicts what the module does.

    Args:
        model: maps images float32 [n, 3, S, S] to (logits [n, K], embedding [n, D], feature map or None),
            with its linear head as ``head``. It is left on the CPU, in float32 and evaluation mode.
        preprocess: how its input is made.
        labels: K class names in the order of the logits.
        samples: uint8 [m, S, S, 3], at least one image to compare on.
        directory: exists; files of the same names are replaced.

    Raises:
        ExportFailed: the model is too large for one ONNX file, or no exporter's graph agrees with torch.
    """
    served = _Served(model.to(device="cpu", dtype=torch.float32)).eval()
    _check_size(served)
    inputs = _batches(preprocess.normalise(samples))
    exported = _write_graph(served, inputs, directory / MODEL_FILE)
    _write_weights(served.model, directory / WEIGHTS_FILE)
    (directory / PREPROCESS_FILE).write_text(preprocess.to_json(), encoding="utf-8")
    text = json.dumps(list(labels), ensure_ascii=False, separators=(",", ":"))
    (directory / LABELS_FILE).write_text(text, encoding="utf-8")
    return exported


def _check_size(served: nn.Module) -> None:
    size = sum(tensor.numel() * tensor.element_size() for tensor in served.state_dict().values())
    if size > _PROTOBUF_BYTES:
        raise ExportFailed(
            f"The model has {size / 1e9:.1f} GB of weights, and an ONNX file holds 2 GB.",
            "Choose a smaller backbone.",
        )


def _batches(images: Float32Array) -> tuple[torch.Tensor, torch.Tensor]:
    """One image and three: what depends on the number of images shows between the two."""
    three = images[np.arange(1, 4) % len(images)]
    return torch.from_numpy(images[:1].copy()), torch.from_numpy(three.copy())


def _write_graph(served: nn.Module, inputs: tuple[torch.Tensor, torch.Tensor], path: Path) -> Exported:
    """Let the exporters try in turn until the graph of one predicts what torch does."""
    with torch.inference_mode():
        outputs = ["logits", "embedding", "feature_map"][: len(served(inputs[0]))]
    exporters = ((OPSET, export_graph), (_CAPTURED_OPSET, _write_captured_graph))
    failure = ExportFailed("")
    for opset, write in exporters:
        started = time.monotonic()
        try:
            # Both print what they do, and standard output belongs to the events.
            with contextlib.redirect_stdout(sys.stderr):
                write(served, inputs[-1], path, outputs)
            seconds = time.monotonic() - started
            return Exported(tuple(outputs), opset, _checked_difference(served, inputs, path), seconds)
        except ExportFailed as error:
            failure = error
        except (RuntimeError, TypeError, ValueError) as error:
            failure = _disagreement(f"cannot be written ({str(error).partition(chr(10))[0][:200]})")
            failure.__cause__ = error
    raise failure


def _write_captured_graph(served: nn.Module, example: torch.Tensor, path: Path, outputs: list[str]) -> None:
    """Export by capturing the graph: ten times slower than tracing, but it notices where a model branches."""
    program = torch.onnx.export(
        served,
        (example,),
        dynamo=True,
        input_names=["image"],
        output_names=outputs,
        dynamic_shapes={"image": {0: torch.export.Dim("images")}},
        opset_version=_CAPTURED_OPSET,
        verbose=False,
    )
    if program is None:
        raise _disagreement("was not made by torch's exporter")
    program.save(path, external_data=False)


def _checked_difference(served: nn.Module, inputs: tuple[torch.Tensor, torch.Tensor], path: Path) -> float:
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in inputs:
        with torch.inference_mode():
            expected = [output.numpy() for output in served(batch)]
        actual = session.run(None, {"image": batch.numpy()})
        if [one.shape for one in actual] != [one.shape for one in expected]:
            raise _disagreement(f"gives other shapes for {len(batch)} images")
        worst = max(worst, float(np.abs(softmax(actual[0]) - softmax(expected[0])).max()))
    # A NaN compares as False, so the condition is what must hold.
    if not worst <= TOLERANCE:
        raise _disagreement(f"differs from torch by up to {worst:.2g} in a probability (limit {TOLERANCE:g})")
    return worst


def _disagreement(what: str) -> ExportFailed:
    return ExportFailed(f"The model's ONNX graph {what}.", "Choose another backbone, or report it.")


def _write_weights(model: nn.Module, path: Path) -> None:
    state = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    missing = {"head.weight", "head.bias"} - set(state)
    if missing:
        raise ExportFailed(f"The model has no {' and no '.join(sorted(missing))}.", "Give it a linear head.")
    save_file(state, path)
