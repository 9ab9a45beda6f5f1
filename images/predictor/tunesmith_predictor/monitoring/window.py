"""The last images, as far as monitoring needs them; bounded, and cheap to add to."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunesmith_package.preprocess import Float32Array
from tunesmith_package.properties import PROPERTIES
from tunesmith_package.reference import Reference
from tunesmith_predictor.engine import Answer

MOST_ROWS = 2_000
"""Of longer windows so many images are kept, evenly spaced: more make no test better than chance allows."""

MOST_KEYS = 10_000
"""An image is known again among so many last ones at most."""


class Ring:
    """The last rows of a table of fixed size."""

    def __init__(self, rows: int, columns: int, dtype: npt.DTypeLike) -> None:
        """Hold nothing yet."""
        self._rows = np.zeros((rows, columns), dtype)
        self._added = 0

    def add(self, row: npt.ArrayLike) -> None:
        """Add a row [columns]; the oldest goes where there is no room."""
        self._rows[self._added % len(self._rows)] = row
        self._added += 1

    def __len__(self) -> int:
        """How many rows there are."""
        return min(self._added, len(self._rows))

    def copy(self) -> npt.NDArray[np.floating]:
        """All rows, in no particular order."""
        return self._rows[: len(self)].copy()


@dataclass(frozen=True)
class Sample:
    """A window at one moment.

    Attributes:
        images: how many arrived since the start.
        repeated: how many of them were in the window already, as the very same bytes.
        probabilities: float16 [n, K].
        scores: float16 [n, d], of embeddings.
        properties: float32 [q, P], of the images that came as images.
    """

    images: int
    repeated: int
    probabilities: npt.NDArray[np.floating]
    scores: npt.NDArray[np.floating]
    properties: npt.NDArray[np.floating]


class Window:
    """The last ``images`` different images.

    An image that is sent again counts once: tests take their samples to be independent, and a client that
    retries would be taken for a change of the world.
    """

    def __init__(self, images: int, classes: int, reference: Reference) -> None:
        """Hold nothing yet."""
        self._stride = -(-images // MOST_ROWS)
        rows = images // self._stride
        self._reference = reference
        self._probabilities = Ring(rows, classes, np.float16)
        self._scores = Ring(rows, reference.embedding_scores.shape[1], np.float16)
        self._properties = Ring(rows, len(PROPERTIES), np.float32)
        self._keys: deque[int] = deque(maxlen=min(images, MOST_KEYS))
        self._known: set[int] = set()
        self._images = self._repeated = self._different = 0

    def add(self, answer: Answer) -> None:
        """Add what was said of an image."""
        self._images += 1
        if answer.key is not None and not self._is_new(answer.key):
            self._repeated += 1
            return
        self._different += 1
        if self._different % self._stride:
            return
        self._probabilities.add(answer.probabilities)
        self._scores.add(self._reference.scores(answer.embedding))
        if answer.properties is not None:
            self._properties.add(answer.properties)

    def sample(self) -> Sample:
        """The window now."""
        return Sample(
            self._images,
            self._repeated,
            self._probabilities.copy(),
            self._scores.copy(),
            self._properties.copy(),
        )

    def _is_new(self, key: int) -> bool:
        if key in self._known:
            return False
        if len(self._keys) == self._keys.maxlen:
            self._known.discard(self._keys[0])
        self._keys.append(key)
        self._known.add(key)
        return True


def mean_confidence(probabilities: npt.NDArray[np.floating] | Float32Array) -> float:
    """The mean probability of the most probable class."""
    return float(probabilities.max(axis=1).astype(np.float64).mean())
