"""``reference.npz``: what predictions and inputs look like on images that the model was not trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith_api.reasons import PackageInvalid
from tunesmith_package.arrays import read_arrays
from tunesmith_package.preprocess import Float32Array
from tunesmith_package.properties import PROPERTIES

REFERENCE_FILE = "reference.npz"


@dataclass(frozen=True)
class Reference:
    """What images of service are compared with.

    Attributes:
        probabilities: float16 [m, K]; round others to float16 as well before comparing.
        embedding_mean: float32 [D].
        embedding_std: float32 [D].
        embedding_projection: float32 [D, d], orthonormal columns.
        embedding_scores: float16 [r, d], the projection of the standardised embeddings.
        properties: float32 [q, P], see `tunesmith_package.properties`; None in packages of a version that
            measured none, or others.
    """

    probabilities: npt.NDArray[np.float16]
    embedding_mean: Float32Array
    embedding_std: Float32Array
    embedding_projection: Float32Array
    embedding_scores: npt.NDArray[np.float16]
    properties: Float32Array | None

    def scores(self, embedding: Float32Array) -> npt.NDArray[np.float16]:
        """Project embeddings [..., D] to what `embedding_scores` holds, [..., d]."""
        standardised = (embedding - self.embedding_mean) / self.embedding_std
        return (standardised @ self.embedding_projection).astype(np.float16)


def read_reference(directory: Path, classes: int, dimensions: int) -> Reference:
    """Read a package's reference.

    Args:
        directory: the package's folder, whose files have been checked.
        classes: K.
        dimensions: D.

    Raises:
        PackageInvalid: it is missing, or does not fit the model.
    """
    file = read_arrays(directory / REFERENCE_FILE)
    try:
        found = Reference(
            np.asarray(file["probabilities"], np.float16),
            np.asarray(file["embedding_mean"], np.float32),
            np.asarray(file["embedding_std"], np.float32),
            np.asarray(file["embedding_projection"], np.float32),
            np.asarray(file["embedding_scores"], np.float16),
            _properties(file.get("properties")),
        )
        count = len(found.probabilities), len(found.embedding_scores)
    except (ValueError, KeyError, TypeError) as error:
        raise PackageInvalid(
            f"{REFERENCE_FILE} cannot be read ({error}).", "Publish the model again."
        ) from error
    width = len(PROPERTIES)
    directions = found.embedding_projection.shape[-1] if found.embedding_projection.ndim == 2 else -1
    expected: list[tuple[npt.NDArray[Any] | None, tuple[int, ...]]] = [
        (found.probabilities, (count[0], classes)),
        (found.embedding_mean, (dimensions,)),
        (found.embedding_std, (dimensions,)),
        (found.embedding_projection, (dimensions, directions)),
        (found.embedding_scores, (count[1], directions)),
        (found.properties, (0 if found.properties is None else found.properties.size // width, width)),
    ]
    for array, shape in expected:
        if array is not None and (array.shape != shape or not np.isfinite(array).all()):
            raise PackageInvalid(
                f"{REFERENCE_FILE} does not fit the model, or holds values that are no numbers.",
                "Publish the model again.",
            )
    return found


def _properties(array: npt.NDArray[Any] | None) -> Float32Array | None:
    if array is None or (array.ndim == 2 and array.shape[1] != len(PROPERTIES)):
        return None
    return np.asarray(array, np.float32)
