"""What a predictor compares itself and its inputs with: golden predictions and the reference for drift.

Both are plain numpy archives of numeric arrays; they are read with ``allow_pickle=False``.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tunesmith_package.inference import Predictor
from tunesmith_package.preprocess import Preprocess, decode
from tunesmith_package.properties import PROPERTIES, input_properties
from tunesmith_package.reference import REFERENCE_FILE
from tunesmith_trainer.prepare.dataset import Dataset
from tunesmith_trainer.verify.predictions import EMBEDDING_ROWS, even_rows
from tunesmith_trainer.verify.verification import TestPredictions

GOLDEN_FILE = "golden.npz"
GOLDEN_IMAGES = 8
GOLDEN_TOLERANCE = 1e-3
"""How far another machine's probabilities may be off: other processors sum floats in another order."""
_GOLDEN_BYTES = 1_000_000 // GOLDEN_IMAGES

REFERENCE_ROWS = 2_000
_REFERENCE_VALUES = 2_000_000  # probabilities kept at most: 4 MB in float16
DIMENSIONS = 32
"""Directions that embeddings are projected on."""
_PROJECTION_SEED = 0

Float32Array = npt.NDArray[np.float32]


def write_golden(directory: Path, predictor: Predictor, dataset: Dataset, tested: TestPredictions) -> None:
    """Write ``golden.npz``: a few test images as encoded bytes with the probabilities the package must give.

    Arrays: ``images`` uint8 (all images one after the other), ``offsets`` int64 [m + 1], ``probabilities``
    float32 [m, K], ``labels`` int32 [m], ``tolerance`` float32 (the largest difference that is no fault).
    The images are from as many classes as there are, the original bytes where they are small.
    """
    rows = spread_over_classes(tested.rows, tested.labels, GOLDEN_IMAGES)
    images = [small_enough(dataset.source_bytes(int(row)), predictor.preprocess) for row in rows]
    offsets = np.cumsum([0, *(len(image) for image in images)], dtype=np.int64)
    np.savez(
        directory / GOLDEN_FILE,
        images=np.frombuffer(b"".join(images), dtype=np.uint8),
        offsets=offsets,
        probabilities=predictor.probabilities(images).astype(np.float32),
        labels=np.asarray([dataset.labels[row] for row in rows], dtype=np.int32),
        tolerance=np.float32(GOLDEN_TOLERANCE),
    )


def spread_over_classes(
    rows: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int64]:
    """Take ``count`` rows, the first of each class, then the second of each, and so on."""
    by_class = np.argsort(labels, kind="stable")
    sorted_labels = labels[by_class]
    rank = np.arange(len(labels)) - np.searchsorted(sorted_labels, sorted_labels)
    return rows[by_class[np.argsort(rank, kind="stable")][:count]]


def small_enough(data: bytes, preprocess: Preprocess, limit: int = _GOLDEN_BYTES) -> bytes:
    """The bytes themselves up to ``limit``, else the image at the model's size as a JPEG below it."""
    if len(data) <= limit:
        return data
    image = Image.fromarray(decode(data, preprocess).pixels)
    buffer = io.BytesIO()
    for quality in (95, 85, 70, 50, 30, 10):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= limit:
            break
    return buffer.getvalue()


def properties_of(dataset: Dataset, rows: npt.NDArray[np.int64]) -> Float32Array:
    """The properties of at most `REFERENCE_ROWS` of these images, float32 [q, P]."""
    kept = rows[even_rows(len(rows), REFERENCE_ROWS)]
    measured = [
        input_properties(dataset.pixels.read(np.array([row]))[0], int(dataset.areas[row])) for row in kept
    ]
    return np.stack(measured) if measured else np.zeros((0, len(PROPERTIES)), np.float32)


def write_reference(
    directory: Path,
    probabilities: Float32Array,
    embeddings: npt.NDArray[np.floating],
    properties: Float32Array,
) -> None:
    """Write ``reference.npz``: what predictions and embeddings look like on images like the training ones.

    The images should be ones that the model did not learn from: on those it did, it is more certain than it
    will ever be in service, and every window of requests would look like drift.

    Arrays, of at most `REFERENCE_ROWS` (probabilities) and `EMBEDDING_ROWS` images, evenly taken:

    - ``probabilities`` float16 [m, K]: round a window to float16 as well before comparing distributions;
    - ``class_fraction`` float32 [K]: how often each class is predicted over all images;
    - ``embedding_mean`` and ``embedding_std`` float32 [D];
    - ``embedding_projection`` float32 [D, d]: orthonormal columns in random directions;
    - ``embedding_scores`` float16 [r, d]: the projection of the standardised embeddings;
    - ``properties`` float32 [q, P]: what `tunesmith_package.properties` measures.

    Univariate tests on the softmax detect shift best (Rabanser et al. 2019). The directions for the
    embeddings are random because principal components fit the images they come from better than any others,
    which looks like drift where there are fewer images than dimensions.

    Args:
        directory: where to write.
        probabilities: float32 [n, K].
        embeddings: [r, D] of r of these images.
        properties: float32 [q, P] of q of these images.
    """
    n, k = probabilities.shape
    kept = even_rows(n, min(REFERENCE_ROWS, max(1, _REFERENCE_VALUES // k)))
    fraction = np.bincount(probabilities.argmax(axis=1), minlength=k) / n
    sketch = embedding_sketch(embeddings[even_rows(len(embeddings), EMBEDDING_ROWS)].astype(np.float64))
    np.savez_compressed(
        directory / REFERENCE_FILE,
        allow_pickle=False,
        probabilities=probabilities[kept].astype(np.float16),
        class_fraction=fraction.astype(np.float32),
        properties=properties,
        **sketch,
    )


def embedding_sketch(embeddings: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.floating]]:
    """The ``embedding_`` arrays of `write_reference` for embeddings [r, D]."""
    width = embeddings.shape[1]
    mean, std = embeddings.mean(axis=0), embeddings.std(axis=0)
    # A dimension that is silent here must not turn the first image that stirs it into an alarm.
    std = np.maximum(std, 0.1 * np.sqrt((std**2).mean()) + 1e-6)
    gaussian = np.random.default_rng(_PROJECTION_SEED).standard_normal((width, min(DIMENSIONS, width)))
    projection = np.linalg.qr(gaussian).Q
    scores = ((embeddings - mean) / std) @ projection
    return {
        "embedding_mean": mean.astype(np.float32),
        "embedding_std": std.astype(np.float32),
        "embedding_projection": projection.astype(np.float32),
        "embedding_scores": scores.astype(np.float16),
    }
