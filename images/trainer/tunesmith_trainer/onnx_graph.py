"""Writes a torch module as an ONNX graph."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import nn

OPSET = 17


def export_graph(module: nn.Module, example: torch.Tensor, path: Path, outputs: list[str]) -> None:
    """Trace ``module`` into an ONNX file.

    The tracing exporter is used: it needs half a second for a MobileNetV2 where the graph-capturing one needs
    over ten times that, and none of the torchvision networks branches on its input.

    Args:
        module: in evaluation mode, on the CPU; takes one tensor and returns a tensor or a tuple of them.
        example: float32 ``[n, 3, S, S]``; only the number of images stays free in the graph.
        path: the file to write.
        outputs: names of what the module returns, each with the number of images first.
    """
    names = ["image", *outputs]
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    # Without gradients attention takes a fused path that has no ONNX operator, and the exporter then
    # prints the whole graph to standard output.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            # torch marks this exporter as legacy at every call, and the tracer warns of each shape it fixes.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (example,),
                path,
                input_names=["image"],
                output_names=outputs,
                dynamic_axes={name: {0: "images"} for name in names},
                opset_version=OPSET,
                dynamo=False,
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        exporter_log.setLevel(level)
