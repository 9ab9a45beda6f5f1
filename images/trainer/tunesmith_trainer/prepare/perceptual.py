"""Perceptual hashes, and which pairs of images they and the pixels call nearly the same."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image

from tunesmith_trainer.prepare.pixels import PixelStore

Uint8Array = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]
HashArray = npt.NDArray[np.uint64]

SMALL_SIDE = 32
"""Side of the small pictures on which candidates are confirmed."""

MOST_NEIGHBOURS = 64
"""How many images of one bucket each image is compared with."""
MOST_CANDIDATES = 1_000_000
"""How many pairs are looked at in all."""

_CHUNK_PAIRS = 1_024

# Pillow's weights of red, green and blue, times 65,536.
_LUMA = np.array([19_595, 38_470, 7_471], np.int64)
_COSINES = np.rint(
    (1 << 16) * np.cos(np.pi * (2 * np.arange(SMALL_SIDE) + 1) * np.arange(8)[:, None] / (2 * SMALL_SIDE))
).astype(np.int64)


def small_picture(pixels: Uint8Array) -> Uint8Array:
    """Decoded pixels, uint8 ``[S, S, 3]``, averaged down to uint8 ``[32, 32, 3]``."""
    side = (SMALL_SIDE, SMALL_SIDE)
    small = Image.fromarray(pixels).resize(side, Image.Resampling.BOX, reducing_gap=1.0)
    return np.asarray(small, dtype=np.uint8)


def perceptual_hash(small: Uint8Array) -> int:
    """The 64 bit pHash of a small picture, uint8 ``[32, 32, 3]``.

    The signs of the 8 x 8 lowest frequencies of its grey values against their median (Zauner 2010,
    "Implementation and Benchmarking of Perceptual Image Hash Functions"), in whole numbers: in floating
    point the bits of flat pictures would differ between machines. Else it is imagehash's ``phash``, which
    takes eight times as long and loads SciPy.
    """
    grey = (small.reshape(-1, 3).astype(np.int64) @ _LUMA + 0x8000 >> 16).reshape(SMALL_SIDE, SMALL_SIDE)
    frequencies = (_COSINES @ grey @ _COSINES.T).reshape(-1)
    ordered = np.sort(frequencies)
    bits = 2 * frequencies > ordered[31] + ordered[32]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@dataclass(frozen=True)
class Candidates:
    """Pairs of hashes that differ in few bits.

    Attributes:
        pairs: int64 ``[k, 2]``, the smaller index first, sorted, each pair once.
        complete: False when so many hashes are alike that not all pairs were looked at.
    """

    pairs: IntArray
    complete: bool


def similar_hashes(hashes: HashArray, distance: int) -> Candidates:
    """Find the pairs of 64 bit hashes that differ in at most ``distance`` bits.

    Hashes cut into ``distance + 2`` bands that differ in at most ``distance`` bits agree in two bands at
    least (the pigeonhole principle), so only hashes with two equal bands are compared: with ``distance`` 4
    fifteen sorted lists with keys of 21 bits, instead of all pairs. In buckets with more than
    `MOST_NEIGHBOURS` members each is compared with that many of those most like it, so the work grows as
    n log n whatever the images are.

    Args:
        hashes: uint64 ``[n]``.
        distance: 0 to 16 bits.
    """
    count = len(hashes)
    found: list[IntArray] = []
    total, complete = 0, True
    for mask in _masks(distance):
        keys = hashes & mask
        order = np.lexsort((hashes, keys))
        sorted_hashes, sorted_keys = hashes[order], keys[order]
        for step in range(1, min(MOST_NEIGHBOURS, count - 1) + 1):
            together = sorted_keys[step:] == sorted_keys[:-step]
            if not together.any():
                break
            near = np.bitwise_count(sorted_hashes[step:] ^ sorted_hashes[:-step]) <= distance
            hits = np.flatnonzero(together & near)
            left, right = order[hits], order[hits + step]
            found.append(np.minimum(left, right) * count + np.maximum(left, right))
            total += len(hits)
            complete &= step < MOST_NEIGHBOURS
            if total > MOST_CANDIDATES:
                found, complete = [np.unique(np.concatenate(found))], False
                total = len(found[0])
                if total > MOST_CANDIDATES:
                    return Candidates(_unpacked(found, count), False)
    return Candidates(_unpacked(found, count), complete)


def _masks(distance: int) -> list[np.uint64]:
    """The bits of each pair of bands."""
    bands = distance + 2
    edges = [round(64 * index / bands) for index in range(bands + 1)]
    masks = [((1 << stop) - 1) ^ ((1 << start) - 1) for start, stop in pairwise(edges)]
    return [np.uint64(one | other) for one, other in combinations(masks, 2)]


def _unpacked(found: list[IntArray], count: int) -> IntArray:
    if not found:
        return np.empty((0, 2), np.int64)
    packed = np.unique(np.concatenate(found))
    return np.stack([packed // count, packed % count], axis=1).astype(np.int64)


def confirmed(small: PixelStore, pairs: IntArray) -> npt.NDArray[np.bool_]:
    """Say which pairs of small pictures show nearly the same.

    Perceptual hashes of flat pictures collide, so a candidate must also agree in its pixels, see `alike`.

    Args:
        small: pictures uint8 ``[32, 32, 3]``.
        pairs: int64 ``[k, 2]``, rows of ``small``.
    """
    out = np.zeros(len(pairs), np.bool_)
    for start in range(0, len(pairs), _CHUNK_PAIRS):
        part = pairs[start : start + _CHUNK_PAIRS]
        rows, places = np.unique(part, return_inverse=True)
        pictures = small.read(rows).astype(np.float32)
        places = places.reshape(part.shape)
        out[start : start + len(part)] = alike(pictures[places[:, 0]], pictures[places[:, 1]])
    return out


# Chosen on re-encoded, scaled, slightly cropped and brightened photos against pairs of different photos;
# the README has the measurements.
_LEAST_CORRELATION = 0.97
_LEAST_DETAIL_CORRELATION = 0.85
_MOST_COLOUR_DIFFERENCE = 12.0
_MOST_TINT_DIFFERENCE = 20.0


def alike(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Say which of n pairs of small pictures, float32 ``[n, 32, 32, 3]``, show nearly the same.

    Four things must hold: grey values correlate, fine details (what a blur of 3 x 3 takes away) correlate,
    colours differ little after brightness and contrast are made equal, and so do the pictures' tints (their
    mean colours less their mean brightness).
    """
    a, b = _standardised(one), _standardised(other)
    grey_a, grey_b = a.mean(axis=3), b.mean(axis=3)
    colour = np.abs(a - b).mean(axis=(1, 2, 3)) * _contrast(one, other)
    return np.asarray(
        (_correlation(grey_a, grey_b) >= _LEAST_CORRELATION)
        & (_correlation(_detail(grey_a), _detail(grey_b)) >= _LEAST_DETAIL_CORRELATION)
        & (colour <= _MOST_COLOUR_DIFFERENCE)
        & (np.abs(_tint(one) - _tint(other)).max(axis=1) <= _MOST_TINT_DIFFERENCE)
    )


def _standardised(pictures: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    centred = pictures - pictures.mean(axis=(1, 2), keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=(1, 2, 3), keepdims=True))
    return np.asarray(centred / np.maximum(spread, 1.0), np.float32)


def _tint(pictures: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    mean = pictures.mean(axis=(1, 2))
    return np.asarray(mean - mean.mean(axis=1, keepdims=True), np.float32)


def _contrast(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(np.maximum(one.std(axis=(1, 2, 3)), other.std(axis=(1, 2, 3))), np.float32)


def _correlation(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    a = a - a.mean(axis=(1, 2), keepdims=True)
    b = b - b.mean(axis=(1, 2), keepdims=True)
    product = (a * b).sum(axis=(1, 2))
    scale = np.sqrt((a**2).sum(axis=(1, 2)) * (b**2).sum(axis=(1, 2)))
    return np.asarray(product / np.maximum(scale, 1e-6), np.float32)


def _detail(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    blurred = sum(grey[:, y : y + SMALL_SIDE - 2, x : x + SMALL_SIDE - 2] for y in range(3) for x in range(3))
    return np.asarray(grey[:, 1:-1, 1:-1] - blurred / 9, np.float32)
