"""The scan in columns of numbers, on which the checks and the split work."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
EvidenceRows = tuple[tuple[int, str, str], ...]
"""(row of the scan or -1, path, detail) of some images."""


@dataclass(frozen=True)
class Draft:
    """A finding before its thumbnails are made; fields as in `findings.Finding`.

    Attributes:
        rows: the evidence.
    """

    check: str
    policy: str
    count: int
    sentence: str
    rows: EvidenceRows = ()


@dataclass
class Observed:
    """N images as the source and the scan describe them, and what the checks decide about them.

    Attributes:
        paths: N names.
        label: int64 ``[N]``, positions in ``names``.
        names: labels as they are used.
        given: uint8 ``[N]``, the split that the source says, or `source.NO_SPLIT`.
        weight: float32 ``[N]``.
        slices: string arrays by column.
        sha256: 32 bytes each, uint8 ``[N, 32]``; zeros where the image could not be read.
        same: int64 ``[N]``; images with the same number have the same pixels; -1: none.
        perceptual: uint64 ``[N]``.
        rank: int64 ``[N]``; of near twins the one with the lowest rank is the original: most pixels, then
            most bytes, then the smallest sha256, then the path.
        pixel: int64 ``[N]``, the image of the pixel file, or -1.
        alive: bool ``[N]``; False once a check dropped the image.
        drafts: what was found so far.
        empty: int64, positions in ``names`` of classes that the source names without any image.
    """

    paths: pa.ChunkedArray
    label: IntArray
    names: list[str]
    given: npt.NDArray[np.uint8]
    weight: npt.NDArray[np.float32]
    slices: dict[str, npt.NDArray[np.str_]]
    sha256: npt.NDArray[np.uint8]
    same: IntArray
    perceptual: npt.NDArray[np.uint64]
    rank: IntArray
    pixel: IntArray
    alive: BoolArray
    drafts: list[Draft] = field(default_factory=list)
    empty: IntArray = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        """N."""
        return len(self.label)

    def path(self, row: int | np.integer[Any]) -> str:
        """Name of one image."""
        return str(self.paths[int(row)].as_py())

    def drop(self, rows: IntArray | BoolArray) -> None:
        """Leave images out from here on."""
        self.alive[rows] = False

    def living(self) -> IntArray:
        """Rows that are not dropped."""
        return np.flatnonzero(self.alive)


def observe(table: pa.Table, slice_names: tuple[str, ...]) -> Observed:
    """Turn the table of a scan into columns."""
    labels = table["label"].combine_chunks().dictionary_encode()
    sha256 = _bytes(table["sha256"], 32)
    pixel = table["pixel"].to_numpy().astype(np.int64)
    flat = np.asarray(table["slices"].combine_chunks().flatten().to_pylist(), dtype=np.str_)
    values = flat.reshape(table.num_rows, len(slice_names)) if slice_names else None
    return Observed(
        paths=table["path"],
        label=labels.indices.to_numpy().astype(np.int64),
        names=[str(name) for name in labels.dictionary.to_pylist()],
        given=table["given_split"].to_numpy().astype(np.uint8),
        weight=table["weight"].to_numpy().astype(np.float32),
        slices={} if values is None else {name: values[:, at] for at, name in enumerate(slice_names)},
        sha256=sha256,
        same=_codes(_bytes(table["pixel_hash"], 16), pixel >= 0),
        perceptual=table["perceptual"].to_numpy().astype(np.uint64),
        rank=_ranks(table, sha256),
        pixel=pixel,
        alive=pixel >= 0,
    )


def _bytes(column: pa.ChunkedArray, width: int) -> npt.NDArray[np.uint8]:
    """A column of ``width`` bytes each as uint8 ``[N, width]``; empty values become zeros."""
    out = np.zeros((len(column), width), np.uint8)
    at = 0
    for chunk in column.chunks:
        for start in range(0, len(chunk), 65_536):
            part = [value or bytes(width) for value in chunk.slice(start, 65_536).to_pylist()]
            out[at : at + len(part)] = np.frombuffer(b"".join(part), np.uint8).reshape(-1, width)
            at += len(part)
    return out


def _codes(values: npt.NDArray[np.uint8], valid: BoolArray) -> IntArray:
    out = np.full(len(values), -1, np.int64)
    if valid.any():
        words = np.ascontiguousarray(values[valid]).view(np.dtype((np.void, values.shape[1]))).reshape(-1)
        out[valid] = np.unique(words, return_inverse=True)[1].reshape(-1)
    return out


def _ranks(table: pa.Table, sha256: npt.NDArray[np.uint8]) -> IntArray:
    words = sha256.view(">u8")
    paths = table["path"].combine_chunks().dictionary_encode()
    by_name = np.argsort(np.asarray(paths.dictionary.to_pylist(), dtype=object), kind="stable")
    position = np.empty(len(by_name), np.int64)
    position[by_name] = np.arange(len(by_name))
    keys = (
        position[paths.indices.to_numpy()] if len(by_name) else np.empty(0, np.int64),
        *(words[:, at] for at in (3, 2, 1, 0)),
        -table["size"].to_numpy(),
        -table["area"].to_numpy(),
    )
    rank = np.empty(table.num_rows, np.int64)
    rank[np.lexsort(keys)] = np.arange(table.num_rows)
    return rank


def content_position(sha256: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.float64]:
    """Where each image's content lies in [0, 1): float64 ``[N]``, uniform, another order for each seed."""
    prefix = f"tunesmith split {seed}:".encode()
    first = [hashlib.sha256(prefix + row.tobytes()).digest()[:8] for row in sha256]
    return (np.frombuffer(b"".join(first), ">u8") >> np.uint64(11)).astype(np.float64) / 2.0**53
