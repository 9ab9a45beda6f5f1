"""Predicting with a model package on ONNX Runtime, without torch."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from safetensors import SafetensorError, safe_open

from tunesmith_api.reasons import PackageInvalid
from tunesmith_package.activation import ActivationMap, class_activation, occlusion, overlay_png
from tunesmith_package.preprocess import Float32Array, Preprocess, decode
from tunesmith_package.processors import allowed_processors

_MOST_THREADS = 8
_DECODE_BATCH = 32  # bounds memory however many images are asked for
_REBUILD = "Export the model again."
_ERRORS_ONLY = 3  # ONNX Runtime's severity for its own log


@dataclass(frozen=True)
class Outputs:
    """What the model says about n images.

    Attributes:
        logits: float32 [n, K], divided by the temperature, so that their softmax is calibrated.
        embedding: float32 [n, D].
        feature_map: float32 [n, D, h, w], or None when the backbone has none.
    """

    logits: Float32Array
    embedding: Float32Array
    feature_map: Float32Array | None


class Predictor:
    """A package's model, ready to predict. Safe to use from many threads.

    Attributes:
        labels: the K class names, in the order of the model's outputs.
        preprocess: how images become its input.
        providers: ONNX Runtime's execution providers in use.
        dimensions: D, the width of the embedding.
    """

    def __init__(
        self,
        directory: Path,
        threads: int | None = None,
        *,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        """Load a package whose files have been checked (`open_package`).

        Args:
            directory: the package's folder.
            threads: most threads for one inference; by default the processors this process may use, at
                most 8.
            providers: ONNX Runtime's execution providers, the preferred one first.

        Raises:
            PackageInvalid: a file cannot be read, or the files do not fit each other.
        """
        self._directory = directory
        self.labels = read_labels(directory)
        self.preprocess = read_preprocess(directory)
        self._session = _open_session(directory / "model.onnx", threads or default_threads(), providers)
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        self._outputs, self.dimensions = _checked_outputs(self._session, len(self.labels))

    @property
    def has_feature_map(self) -> bool:
        """Whether class activation maps come from one inference instead of many."""
        return "feature_map" in self._outputs

    def run(self, tensor: Float32Array, *, feature_map: bool = True) -> Outputs:
        """Run the model on normalised images, float32 [n, 3, S, S], all in one batch.

        Args:
            tensor: the images.
            feature_map: False leaves the feature map out, which saves its copy.
        """
        wanted = self._outputs if feature_map else self._outputs[:2]
        logits, embedding, *rest = self._session.run(wanted, {"image": tensor})
        return Outputs(logits, embedding, rest[0] if rest else None)

    def probabilities(self, images: Sequence[bytes]) -> Float32Array:
        """Return the calibrated probabilities of encoded images, float32 [n, K]; each row sums to 1.

        Raises:
            ImageInvalid: an image cannot be used; none of them is then answered.
        """
        rows = [softmax(self.logits(batch)) for batch in self._batches(images)]
        return np.concatenate(rows) if rows else np.zeros((0, len(self.labels)), dtype=np.float32)

    def logits(self, tensor: Float32Array) -> Float32Array:
        """Run the model for its logits alone, float32 [n, 3, S, S] -> [n, K]."""
        (logits,) = self._session.run(["logits"], {"image": tensor})
        result: Float32Array = logits
        return result

    def activation_map(self, image: bytes, class_index: int | None = None) -> ActivationMap:
        """Say where in an image the evidence for a class lies.

        Args:
            image: the encoded image.
            class_index: the class; by default the most probable one.

        Raises:
            ImageInvalid: the image cannot be used.
            IndexError: no such class.
        """
        return self.activation_map_of(self._tensor([image]), class_index)

    def activation_map_of(self, tensor: Float32Array, class_index: int | None = None) -> ActivationMap:
        """Do the same for one normalised image, float32 [1, 3, S, S]."""
        outputs = self.run(tensor)
        chosen = int(outputs.logits[0].argmax()) if class_index is None else class_index
        feature_map = None if outputs.feature_map is None else outputs.feature_map[0]
        return self.explain(tensor, feature_map, chosen)

    def explain(
        self, tensor: Float32Array, feature_map: Float32Array | None, class_index: int
    ) -> ActivationMap:
        """Say where the evidence for a class lies in an image that the model has seen already.

        Args:
            tensor: the image, float32 [1, 3, S, S].
            feature_map: the model's, float32 [D, h, w]; without one, parts of the image are hidden in turn.
            class_index: the class.

        Raises:
            IndexError: no such class.
        """
        if not 0 <= class_index < len(self.labels):
            raise IndexError(f"class {class_index} is not within 0 to {len(self.labels) - 1}")
        if feature_map is None:
            return occlusion(tensor, class_index, self.logits)
        return class_activation(feature_map, self._head_weight, class_index)

    def overlay_png(self, image: bytes, class_index: int | None = None) -> bytes:
        """Return a PNG [S, S] of what the model saw with the activation map of a class over it."""
        decoded = decode(image, self.preprocess)
        tensor = self.preprocess.normalise(decoded.pixels[np.newaxis])
        return overlay_png(decoded.pixels, self.activation_map_of(tensor, class_index))

    @cached_property
    def _head_weight(self) -> Float32Array:
        weight = read_tensor(self._directory / "weights.safetensors", "head.weight")
        if weight.ndim != 2 or weight.shape[0] != len(self.labels):
            raise PackageInvalid(
                f"head.weight has the shape {weight.shape} for {len(self.labels)} classes.", _REBUILD
            )
        return weight

    def _tensor(self, images: Sequence[bytes]) -> Float32Array:
        pixels = np.stack([decode(image, self.preprocess).pixels for image in images])
        return self.preprocess.normalise(pixels)

    def _batches(self, images: Sequence[bytes]) -> Iterator[Float32Array]:
        for start in range(0, len(images), _DECODE_BATCH):
            yield self._tensor(images[start : start + _DECODE_BATCH])


def softmax(logits: Float32Array) -> Float32Array:
    """Return the softmax over the last axis, computed in float64 and returned in float32."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: Float32Array = (exponentials / exponentials.sum(axis=-1, keepdims=True)).astype(np.float32)
    return probabilities


def default_threads() -> int:
    """Return the number of processors this process may use, at most 8."""
    return min(allowed_processors(), _MOST_THREADS)


def read_labels(directory: Path) -> tuple[str, ...]:
    """Read a package's class names.

    Raises:
        PackageInvalid: not a list of different, non-empty texts.
    """
    try:
        labels = json.loads((directory / "labels.json").read_bytes())
    except (OSError, ValueError) as error:
        raise PackageInvalid(f"labels.json cannot be read ({error}).", _REBUILD) from error
    if (
        not isinstance(labels, list)
        or not labels
        or not all(isinstance(label, str) and label for label in labels)
        or len(set(labels)) != len(labels)
    ):
        raise PackageInvalid("labels.json is not a list of different names.", _REBUILD)
    return tuple(labels)


def read_preprocess(directory: Path) -> Preprocess:
    """Read how a package's images are prepared.

    Raises:
        PackageInvalid: missing or wrong.
    """
    try:
        return Preprocess.from_json((directory / "preprocess.json").read_bytes())
    except (OSError, ValueError) as error:
        raise PackageInvalid(f"preprocess.json cannot be read ({error}).", _REBUILD) from error


def read_tensor(path: Path, name: str) -> Float32Array:
    """Read one float32 tensor of a safetensors file, without the others.

    Raises:
        PackageInvalid: the file or the tensor is missing, damaged or not float32.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            tensor = np.asarray(file.get_tensor(name))
    except (OSError, SafetensorError) as error:
        raise PackageInvalid(f"{path.name} has no readable {name} ({error}).", _REBUILD) from error
    if tensor.dtype != np.float32:
        raise PackageInvalid(f"{name} in {path.name} is {tensor.dtype}, not float32.", _REBUILD)
    return tensor


def _open_session(path: Path, threads: int, providers: Sequence[str]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, threads)
    options.inter_op_num_threads = 1
    # Threads that spin while they wait for work take the processors from decoding and from neighbours.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # ONNX Runtime raises a type of its own for each status and a few of Python's
        detail = str(error).partition("\n")[0][:300]
        raise PackageInvalid(f"model.onnx cannot be loaded ({detail}).", _REBUILD) from error


def _checked_outputs(session: Any, classes: int) -> tuple[list[str], int]:
    """Return the outputs to ask for and D, after checking that the model has the interface of a package."""
    inputs = {each.name: each for each in session.get_inputs()}
    outputs = {each.name: each for each in session.get_outputs()}
    if set(inputs) != {"image"} or inputs["image"].type != "tensor(float)" or len(inputs["image"].shape) != 4:
        raise PackageInvalid("model.onnx does not take one float tensor image [n, 3, S, S].", _REBUILD)
    if not {"logits", "embedding"} <= set(outputs):
        raise PackageInvalid("model.onnx lacks the output logits or embedding.", _REBUILD)
    width = outputs["logits"].shape[-1]
    if isinstance(width, int) and width != classes:
        raise PackageInvalid(f"model.onnx has {width} outputs for {classes} labels.", _REBUILD)
    dimensions = outputs["embedding"].shape[-1]
    if not isinstance(dimensions, int):
        raise PackageInvalid("model.onnx does not say how wide its embedding is.", _REBUILD)
    return ["logits", "embedding", *(["feature_map"] if "feature_map" in outputs else [])], dimensions
