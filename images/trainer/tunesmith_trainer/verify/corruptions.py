"""Accuracy under common corruptions: noise, blur, JPEG, brightness and contrast, at five severities.

The corruptions and their strengths are those of Hendrycks and Dietterich (2019), "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations". They act on the uint8 pixels that the model would see, so
strengths that depend on the image size are interpolated between the three sizes the authors give numbers for:
32 (CIFAR-10-C), 64 (Tiny ImageNet-C) and 224 pixels (ImageNet-C).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import dataclasses as pydantic_dataclasses
from scipy.ndimage import gaussian_filter

from tunesmith_package.intervals import wilson_interval
from tunesmith_trainer.verify.bootstrap import FloatArray, Interval, percentile_interval, resample_counts
from tunesmith_trainer.verify.records import CAMEL

Uint8Array = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]

_SIZES = (32, 64, 224)
_STRENGTHS: dict[str, tuple[tuple[float, ...], ...]] = {
    # standard deviation of the noise, of pixels scaled to 0..1
    "GaussianNoise": (
        (0.04, 0.06, 0.08, 0.09, 0.10),
        (0.04, 0.08, 0.12, 0.15, 0.18),
        (0.08, 0.12, 0.18, 0.26, 0.38),
    ),
    # standard deviation of the Gaussian kernel in pixels
    "Blur": ((0.4, 0.6, 0.7, 0.8, 1.0), (0.5, 0.75, 1.0, 1.25, 1.5), (1.0, 2.0, 3.0, 4.0, 6.0)),
    # quality
    "JPEG": ((80, 65, 58, 50, 40), (65, 58, 50, 40, 25), (25, 18, 15, 10, 7)),
    # added to the value (the V of HSV), 0..1
    "Brightness": ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5), (0.1, 0.2, 0.3, 0.4, 0.5)),
    # what remains of each pixel's distance to its channel's mean
    "Contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05), (0.4, 0.3, 0.2, 0.1, 0.05)),
}
KINDS = tuple(_STRENGTHS)
"""The corruptions, by the names the spec uses."""
SEVERITIES = (1, 2, 3, 4, 5)


def strength(kind: str, severity: int, image_size: int) -> float:
    """The parameter of a corruption; its unit is said at the table above.

    Linear between the published sizes. Outside them the nearest one counts, except that the width of the blur
    goes on growing in proportion to the image.

    Raises:
        ValueError: the kind or severity does not exist.
    """
    if kind not in _STRENGTHS or severity not in SEVERITIES:
        raise ValueError(f"there is no corruption {kind} of severity {severity}")
    published = [row[severity - 1] for row in _STRENGTHS[kind]]
    value = float(np.interp(image_size, _SIZES, published))
    if kind == "Blur":
        value *= max(1.0, image_size / _SIZES[-1])
    return value


def corrupt(pixels: Uint8Array, kind: str, severity: int, seeds: Sequence[int]) -> Uint8Array:
    """Corrupt images; an image's result depends on its own seed only, not on the batch around it.

    Args:
        pixels: uint8 [n, S, S, 3], RGB.
        kind: one of `KINDS`.
        severity: 1 (mild) to 5.
        seeds: one non-negative integer per image; only the noise uses it.

    Returns:
        uint8 [n, S, S, 3].
    """
    amount = strength(kind, severity, pixels.shape[1])
    if kind == "GaussianNoise":
        return np.stack(
            [
                _noise(image, amount, np.random.default_rng([seed, severity]))
                for image, seed in zip(pixels, seeds, strict=True)
            ]
        )
    return np.stack([_DETERMINISTIC[kind](image, amount) for image in pixels])


def _noise(image: Uint8Array, amount: float, generator: np.random.Generator) -> Uint8Array:
    noise = generator.standard_normal(image.shape, dtype=np.float32)
    return _to_uint8(image + noise * np.float32(255 * amount))


def _blur(image: Uint8Array, amount: float) -> Uint8Array:
    # A separable filter: torchvision's two-dimensional kernel takes 3 to 12 times as long at these widths.
    return _to_uint8(gaussian_filter(image.astype(np.float32), sigma=(amount, amount, 0), mode="nearest"))


def _jpeg(image: Uint8Array, amount: float) -> Uint8Array:
    # Pillow: torchvision's own JPEG functions are deprecated since 0.29.
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=round(amount))
    return np.asarray(Image.open(buffer))


def _brighten(image: Uint8Array, amount: float) -> Uint8Array:
    # Raising V at the same hue and saturation scales the three channels alike; black becomes grey.
    value = image.max(axis=2, keepdims=True).astype(np.float32)
    raised = np.minimum(value + np.float32(255 * amount), 255)
    scaled = image * (raised / np.maximum(value, 1))
    return _to_uint8(np.where(value == 0, raised, scaled))


def _flatten_contrast(image: Uint8Array, amount: float) -> Uint8Array:
    mean = image.mean(axis=(0, 1), keepdims=True, dtype=np.float32)
    return _to_uint8((image - mean) * np.float32(amount) + mean)


_DETERMINISTIC: dict[str, Callable[[Uint8Array, float], Uint8Array]] = {
    "Blur": _blur,
    "JPEG": _jpeg,
    "Brightness": _brighten,
    "Contrast": _flatten_contrast,
}


def _to_uint8(values: npt.NDArray[np.float32]) -> Uint8Array:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class CorruptionPlan:
    """Which image is corrupted how, sorted by kind and severity.

    Attributes:
        position: int64 [m], index into the test images.
        cell: int64 [m], index into cells.
        cells: the pairs of kind and severity.
    """

    position: IntArray
    cell: IntArray
    cells: tuple[tuple[str, int], ...]

    @property
    def images(self) -> int:
        """How many different images are used."""
        return len(np.unique(self.position))


def plan_corruptions(
    labels: IntArray, kinds: Sequence[str], severities: Sequence[int], max_images: int, seed: int
) -> CorruptionPlan:
    """Choose at most ``max_images`` corrupted images of each kind, balanced over severities and classes.

    A test split of n images has n * len(severities) corrupted images of a kind. Where that is more than
    ``max_images``, the severities take turns: first every image at one severity, the next one at the next, so
    that as many different images as possible are seen. Different images tell more than one image many times:
    they decide how precise the mean is. Classes are represented as in the test split.

    Args:
        labels: int64 [n], of the test images.
        kinds: names of `KINDS`.
        severities: of 1 to 5.
        max_images: corrupted images per kind.
        seed: of the choice of images.
    """
    order = stratified_order(labels, seed)
    n, levels = len(labels), len(severities)
    turns = np.arange(min(max_images, n * levels))
    chosen = order[turns % n]
    positions, cells = [], []
    for index in range(len(kinds)):
        level = (turns % n + turns // n + index) % levels
        by_level = np.argsort(level, kind="stable")
        positions.append(chosen[by_level])
        cells.append(index * levels + level[by_level])
    pairs = tuple((kind, int(severity)) for kind in kinds for severity in severities)
    return CorruptionPlan(np.concatenate(positions), np.concatenate(cells), pairs)


def stratified_order(labels: IntArray, seed: int) -> IntArray:
    """An order int64 [n] of the images of which every beginning has the classes in proportion."""
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    sorted_labels = labels[by_class]
    rank = np.arange(len(labels)) - starts[sorted_labels]
    # The random part keeps what is dealt out in turns along this order (severities) independent of the class.
    return by_class[np.argsort((rank + generator.random(len(labels))) / counts[sorted_labels])]


@pydantic_dataclasses.dataclass(frozen=True, config=CAMEL)
class CorruptionResult:
    """Accuracy under one kind at one severity, with its Wilson interval; strength as in `strength`."""

    kind: str
    severity: int
    strength: float
    images: int
    accuracy: float
    low: float
    high: float


def per_corruption(
    plan: CorruptionPlan, correct: npt.NDArray[np.bool_], image_size: int
) -> tuple[CorruptionResult, ...]:
    """Accuracy of each kind and severity that has images, from correct [m]."""
    images = np.bincount(plan.cell, minlength=len(plan.cells))
    hits = np.bincount(plan.cell, weights=correct, minlength=len(plan.cells)).astype(np.int64)
    low, high = wilson_interval(hits, images)
    return tuple(
        CorruptionResult(
            kind=kind,
            severity=severity,
            strength=strength(kind, severity, image_size),
            images=int(images[i]),
            accuracy=float(hits[i] / images[i]),
            low=float(low[i]),
            high=float(high[i]),
        )
        for i, (kind, severity) in enumerate(plan.cells)
        if images[i]
    )


def corruption_accuracy(plan: CorruptionPlan, correct: npt.NDArray[np.bool_]) -> float:
    """The mean over kinds and severities of the accuracy, from correct [m]."""
    images = np.bincount(plan.cell, minlength=len(plan.cells))
    hits = np.bincount(plan.cell, weights=correct, minlength=len(plan.cells))
    return float((hits[images > 0] / images[images > 0]).mean())


def resample_corruption_accuracy(
    plan: CorruptionPlan, correct: npt.NDArray[np.bool_], samples: int, seed: int
) -> FloatArray:
    """`corruption_accuracy` on bootstrap resamples [samples] of images, each with all its corruptions."""
    images, index = np.unique(plan.position, return_inverse=True)
    shape = (len(images), len(plan.cells))
    present, hits = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    np.add.at(present, (index, plan.cell), 1)
    np.add.at(hits, (index, plan.cell), correct)
    values = []
    for counts in resample_counts(len(images), samples, seed):
        drawn = (counts @ present).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            accuracy = (counts @ hits) / drawn
        values.append(np.nanmean(np.where(drawn > 0, accuracy, np.nan), axis=1))
    return np.concatenate(values) if values else np.empty(0)


def corruption_interval(
    plan: CorruptionPlan, correct: npt.NDArray[np.bool_], samples: int, seed: int
) -> Interval:
    """`corruption_accuracy` with its percentile interval."""
    resampled = resample_corruption_accuracy(plan, correct, samples, seed)
    return percentile_interval(corruption_accuracy(plan, correct), resampled)
