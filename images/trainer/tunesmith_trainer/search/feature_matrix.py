"""Features on disk, read a few rows at a time.

A file of its own, so that the processes that train heads need not import what computes the features.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FeatureMatrix:
    """Embeddings of ``count`` images as float16 ``[count, dim]`` in a file without a header.

    Rows are read with positioned reads instead of a memory map: pages of a map count as the process's memory,
    which would then grow with the dataset.
    """

    path: Path
    count: int
    dim: int

    def read(self, rows: IntArray) -> FloatArray:
        """Read rows as float32 ``[len(rows), dim]``, in the order asked for."""
        out = np.empty((len(rows), self.dim), np.float16)
        width = 2 * self.dim
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            for start, stop in _runs(rows):
                view = out[start:stop].data.cast("B")
                if os.preadv(descriptor, [view], int(rows[start]) * width) != len(view):
                    raise OSError(f"{self.path} ends before row {int(rows[stop - 1])}")
        finally:
            os.close(descriptor)
        return out.astype(np.float32)

    def chunks(self, rows: IntArray, size: int = 1024) -> Iterator[tuple[slice, FloatArray]]:
        """Read rows in bounded pieces: pairs of (where in ``rows``, features)."""
        for start in range(0, len(rows), size):
            part = slice(start, min(start + size, len(rows)))
            yield part, self.read(rows[part])


def _runs(rows: IntArray) -> Iterator[tuple[int, int]]:
    """Split rows into stretches of consecutive numbers, each one read."""
    if len(rows) == 0:
        return
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    edges = [0, *breaks.tolist(), len(rows)]
    yield from itertools.pairwise(edges)
