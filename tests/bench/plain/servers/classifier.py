"""The network that all of these servers hold, and how they prepare images for it: torchvision's ways."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2

CLASSES = 12


class Classifier:
    """A network with random weights, in torch or, from the predictor's own file, in ONNX Runtime."""

    def __init__(self, given: argparse.Namespace) -> None:
        """Load it, as the options of `read` say."""
        # Processes that share the machine have their share of its processors each.
        threads = max(1, len(os.sched_getaffinity(0)) // given.workers)
        torch.set_num_threads(threads)
        self._session = None
        if given.onnx:
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = threads
            self._session = onnxruntime.InferenceSession(given.onnx, settings)
        else:
            self._model = torchvision.models.get_model(given.backbone, num_classes=CLASSES).eval()
        self._prepare = v2.Compose(
            [
                v2.ToImage(),
                v2.Resize(256, antialias=True),
                v2.CenterCrop(224),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def prepare(self, encoded: bytes) -> torch.Tensor:
        """One encoded image to float32 [3, 224, 224]."""
        return self.prepare_image(Image.open(io.BytesIO(encoded)))

    def prepare_image(self, image: Image.Image) -> torch.Tensor:
        """One image to float32 [3, 224, 224]."""
        tensor: torch.Tensor = self._prepare(image.convert("RGB"))
        return tensor

    def of(self, images: torch.Tensor | Sequence[torch.Tensor]) -> list[list[float]]:
        """The probabilities of each class for each of the prepared images."""
        batch = images if isinstance(images, torch.Tensor) else torch.stack(list(images))
        if self._session is not None:
            (found,) = self._session.run(["logits"], {"image": batch.numpy()})
            logits = torch.from_numpy(found)
        else:
            with torch.inference_mode():
                logits = self._model(batch)
        rows: list[list[float]] = logits.softmax(dim=1).tolist()
        return rows


def read(description: str | None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What each of these servers is told."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--backbone", required=True, help="of torchvision")
    parser.add_argument("--onnx", type=Path, help="run this file in ONNX Runtime instead of torch")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch", type=int, default=1, help="images in a batch at most")
    parser.add_argument("--workers", type=int, default=1, help="processes that compute")
    return parser.parse_args(sys.argv[1:] if arguments is None else arguments)
