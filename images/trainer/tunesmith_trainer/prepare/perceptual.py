"""Perceptual hashes, and which pairs of images they and the pixels call nearly the same."""

from __future__ import annotations

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

Uint8Array = npt.NDArray[np.uint8]


def perceptual_hash(pixels: Uint8Array) -> int:
    """The 64 bit pHash of decoded pixels, uint8 ``[S, S, 3]``.

    imagehash's DCT hash: the signs of the 8 x 8 lowest frequencies against their median (Zauner 2010,
    "Implementation and Benchmarking of Perceptual Image Hash Functions").
    """
    bits = imagehash.phash(Image.fromarray(pixels)).hash
    return int.from_bytes(np.packbits(bits.reshape(-1)).tobytes(), "big")
