"""Pictures with known pixels, in every encoding that is read."""

import struct
import zlib
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image
from tests.testbed.tiny_package import encoded

from tunesmith_package.preprocess import Decoded, Preprocess, decode

Pixels = npt.NDArray[np.uint8]

EXACT = Preprocess(32, "Squash", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CROP = replace(EXACT, resize="CenterCrop")
FORMATS = ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"]


def quadrants(size: int = 32) -> Image.Image:
    """Red, green, blue and yellow: no turn or mirror image of it equals it."""
    image = Image.new("RGB", (size, size), (255, 255, 0))
    half = size // 2
    image.paste((255, 0, 0), (0, 0, half, half))
    image.paste((0, 255, 0), (half, 0, size, half))
    image.paste((0, 0, 255), (0, half, half, size))
    return image


def photo(width: int, height: int) -> Image.Image:
    """Smooth colours with detail in them, as photos have."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(x / 9 + y / 31), np.cos(x / 23 - y / 17), np.sin((x + y) / 41)]
    return Image.fromarray((np.stack(waves, axis=-1) * 100 + 128).astype(np.uint8))


def png16(samples: npt.NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bit RGB, which Pillow cannot write."""
    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    body = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def ppm16(samples: npt.NDArray[np.uint16]) -> bytes:
    """A PPM of 16 bit RGB, which Pillow cannot write either."""
    height, width, _ = samples.shape
    return f"P6\n# made by hand\n{width} {height}\n65535\n".encode() + samples.astype(">u2").tobytes()


def at(found: Decoded, y: int, x: int) -> tuple[int, ...]:
    return tuple(int(value) for value in found.pixels[y, x])


def pixels(data: bytes, preprocess: Preprocess = EXACT) -> Pixels:
    return decode(data, preprocess).pixels


def ramp16() -> npt.NDArray[np.uint16]:
    return np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)


def palette_with_transparency(format: str = "PNG") -> bytes:
    """A red picture whose left half is transparent, with two colours."""
    image = Image.new("P", (32, 32), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.paste(0, (0, 0, 16, 32))
    return encoded(image, format, transparency=0)
