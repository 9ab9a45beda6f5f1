"""A model package that is small, real and understood: it tells red, green and blue pictures apart.

Its feature map holds how strong each colour is in each block of 8 x 8 pixels, its embedding is the mean of
that, and its head takes each colour for one class.
"""

import io
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image
from safetensors.numpy import save_file

from tunesmith_package.inference import Predictor, softmax
from tunesmith_package.manifest import PackageHeader
from tunesmith_package.preprocess import Preprocess, decode
from tunesmith_package.properties import input_properties
from tunesmith_trainer.publish.reference import write_reference

LABELS = ("red", "green", "blue")
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
PREPROCESS = Preprocess(32, "CenterCrop", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
HEADER = PackageHeader(
    verified=True,
    created_by="tunesmith test",
    dataset_digest=f"sha256:{'0' * 64}",
    run_key="run",
    backbone="tiny",
    strategy="LinearProbe",
)
HEAD_WEIGHT = np.array([[4, -2, -2, 0], [-2, 4, -2, 0], [-2, -2, 4, 0]], dtype=np.float32)
HEAD_BIAS = np.array([0.1, 0.0, -0.1], dtype=np.float32)


def write_tiny_package(directory: Path, *, feature_map: bool = True, classes: int = 3) -> Path:
    """Write the files of a package (without a manifest) into a new folder; return it."""
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(tiny_model(feature_map=feature_map))
    save_file({"head.weight": HEAD_WEIGHT, "head.bias": HEAD_BIAS}, directory / "weights.safetensors")
    (directory / "preprocess.json").write_text(PREPROCESS.to_json())
    (directory / "labels.json").write_text(json.dumps([*LABELS, "grey", "black"][:classes]))
    (directory / "MODEL_CARD.md").write_text("# A tiny model\n")
    return directory


def write_golden(directory: Path, *, shift: float = 0.0) -> None:
    """Write the golden predictions of a package's own model, or ones that are off by ``shift``."""
    images = [picture(colour) for colour in LABELS]
    np.savez(
        directory / "golden.npz",
        images=np.frombuffer(b"".join(images), np.uint8),
        offsets=np.cumsum([0, *map(len, images)], dtype=np.int64),
        probabilities=Predictor(directory, threads=1).probabilities(images) + np.float32(shift),
        labels=np.arange(len(images), dtype=np.int32),
        tolerance=np.float32(1e-3),
    )


def write_tiny_reference(directory: Path, images: int = 200) -> None:
    """Write a reference of pictures of the three classes, each a little different."""
    predictor = Predictor(directory, threads=1)
    pictures = [decode(one, PREPROCESS) for one in shades(images, seed=0)]
    outputs = predictor.run(PREPROCESS.normalise(np.stack([one.pixels for one in pictures])))
    properties = np.stack([input_properties(one.pixels, one.width * one.height) for one in pictures])
    write_reference(directory, softmax(outputs.logits), outputs.embedding, properties)


def shades(count: int, *, seed: int, mean: float = 150.0) -> list[bytes]:
    """Pictures of red, green and blue of changing brightness, with some noise."""
    generator = np.random.default_rng(seed)
    pictures = []
    for number in range(count):
        pixels = generator.normal(20, 5, (32, 32, 3))
        pixels[..., number % 3] += generator.normal(mean, 25)
        pictures.append(encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8))))
    return pictures


def tiny_model(*, feature_map: bool = True) -> bytes:
    """An ONNX model [n, 3, 32, 32] -> logits [n, 3], embedding [n, 4], feature_map [n, 4, 4, 4]."""
    kernel = np.zeros((4, 3, 8, 8), dtype=np.float32)
    for channel in range(3):
        kernel[channel, channel] = 1 / 64
    kernel[3] = 1 / 192
    outputs: dict[str, list[str | int]] = {
        "logits": ["n", 3],
        "embedding": ["n", 4],
        "feature_map": ["n", 4, 4, 4],
    }
    if not feature_map:
        del outputs["feature_map"]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "kernel"], ["feature_map"], strides=[8, 8]),
            helper.make_node("ReduceMean", ["feature_map", "axes"], ["embedding"], keepdims=0),
            helper.make_node("Gemm", ["embedding", "weight", "bias"], ["logits"], transB=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [
            onnx.numpy_helper.from_array(kernel, "kernel"),
            onnx.numpy_helper.from_array(np.array([2, 3], dtype=np.int64), "axes"),
            onnx.numpy_helper.from_array(HEAD_WEIGHT, "weight"),
            onnx.numpy_helper.from_array(HEAD_BIAS, "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def picture(
    colour: str | tuple[int, int, int], size: tuple[int, int] = (48, 40), format: str = "PNG"
) -> bytes:
    """An encoded picture of one colour."""
    return encoded(Image.new("RGB", size, COLOURS[colour] if isinstance(colour, str) else colour), format)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    """An image's encoding."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()
