"""Which image formats are read, recognised by their first bytes and bounded before any pixel exists.

Everything here works on the encoded bytes alone. Pillow's own format detection is left out on purpose:
it would open formats nobody asked for and keeps its pixel limit in a global variable.
"""

import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

# A progressive JPEG of a few kilobytes can ask for a pass over all coefficients thousands of times; real
# encoders write about ten. libjpeg-turbo's own `-maxscans` exists for the same reason.
MAX_JPEG_SCANS = 256

# "BM" alone also begins plain text.
_BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
# "P6" alone also begins plain text: kind, width, height and the largest value, with comments between them.
_PPM_HEADER = re.compile(rb"P([56])" + rb"(?:\s|#[^\r\n]*[\r\n])+(\d{1,9})" * 3 + rb"\s")
_PPM_HEADER_BYTES = 4_096
_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH, _TIFF_BITS = 322, 323, 258
_TIFF_DATA_TAGS = ((273, 279), (324, 325))  # (offsets, byte counts) of strips and of tiles


class _PortablePixmap(PpmImagePlugin.PpmImageFile):
    """Binary grey (P5) and RGB (P6) pictures of 8 or 16 bits a sample."""

    def _open(self) -> None:
        super()._open()
        tile = self.tile[0]
        if tile.codec_name == "raw" or not isinstance(tile.args, tuple):
            return
        # What is left Pillow would scale sample by sample in Python: minutes for a large picture.
        if tile.args != ("RGB", 65535):
            raise ValueError(f"samples up to {tile.args[-1]} are neither of 8 nor of 16 bits")
        self.tile = [tile._replace(codec_name="raw", args=("RGB;16B", 0, 1))]


@dataclass(frozen=True)
class ImageFormat:
    """One readable format.

    Attributes:
        name: Pillow's name of the format, for example ``"JPEG"``.
        reader: Pillow's class that reads it.
        extensions: file name extensions that announce it, lower case, with the dot.
    """

    name: str
    reader: type[ImageFile]
    extensions: tuple[str, ...]


JPEG = ImageFormat("JPEG", JpegImagePlugin.JpegImageFile, (".jpg", ".jpeg", ".jpe", ".jfif"))
PNG = ImageFormat("PNG", PngImagePlugin.PngImageFile, (".png", ".apng"))
GIF = ImageFormat("GIF", GifImagePlugin.GifImageFile, (".gif",))
BMP = ImageFormat("BMP", BmpImagePlugin.BmpImageFile, (".bmp", ".dib"))
WEBP = ImageFormat("WEBP", WebPImagePlugin.WebPImageFile, (".webp",))
TIFF = ImageFormat("TIFF", TiffImagePlugin.TiffImageFile, (".tif", ".tiff"))
PPM = ImageFormat("PPM", _PortablePixmap, (".ppm", ".pgm", ".pnm"))

FORMATS: tuple[ImageFormat, ...] = (JPEG, PNG, GIF, BMP, WEBP, TIFF, PPM)
SERVING_FORMATS: tuple[ImageFormat, ...] = (JPEG, PNG)
"""What a prediction service accepts: the two formats that clients send, and no larger attack surface."""

_BY_EXTENSION = {extension: each for each in FORMATS for extension in each.extensions}
IMAGE_EXTENSIONS: frozenset[str] = frozenset(_BY_EXTENSION)


def sniff(data: bytes) -> ImageFormat | None:
    """Return the format that the first bytes announce, or None when they announce none that is read."""
    if data.startswith(b"\xff\xd8\xff"):
        return JPEG
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if data.startswith((b"GIF87a", b"GIF89a")):
        return GIF
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WEBP
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return TIFF
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return BMP
    if _ppm_header(data) is not None:
        return PPM
    return None


def _ppm_header(data: bytes) -> re.Match[bytes] | None:
    return _PPM_HEADER.match(data[:_PPM_HEADER_BYTES]) if data.startswith((b"P5", b"P6")) else None


def denies(name: str, found: ImageFormat) -> bool:
    """Say whether a file name's extension announces another format than the one found in its bytes.

    Unknown and missing extensions announce nothing and therefore deny nothing.
    """
    announced = _BY_EXTENSION.get(PurePosixPath(name).suffix.lower())
    return announced is not None and announced is not found


def open_lazily(data: bytes, found: ImageFormat) -> ImageFile:
    """Read the header of an image with Pillow; no pixel is decoded yet.

    Raises:
        Exception: whatever Pillow raises for bytes that it cannot read; callers translate it.
    """
    return found.reader(BytesIO(data))


def early_pixels(data: bytes, found: ImageFormat) -> int:
    """Return how many pixels the header promises, for the one format whose opening allocates them.

    Pillow creates WebP's decoder, canvas included, when it opens the file, so its size has to be read
    before. Every other format returns 0 here and is judged by the opened image's size.
    """
    if found is not WEBP:
        return 0
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        return (int.from_bytes(data[24:27], "little") + 1) * (int.from_bytes(data[27:30], "little") + 1)
    if chunk == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    if chunk == b"VP8 " and len(data) >= 30:
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
        return width * height
    return 0


def work_pixels(image: ImageFile, data: bytes, found: ImageFormat) -> int:
    """Return the largest number of pixels that decoding would hold at once: the image, or one TIFF tile.

    A JPEG with an absurd number of scans counts as unbounded work.
    """
    pixels = image.width * image.height
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        across, down = image.tag_v2.get(_TIFF_TILE_WIDTH), image.tag_v2.get(_TIFF_TILE_LENGTH)
        if isinstance(across, int) and isinstance(down, int):
            pixels = max(pixels, across * down)
    if found is JPEG and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        pixels = max(pixels, 1 << 62)
    return pixels


def has_16_bits(image: ImageFile, data: bytes) -> bool:
    """Say whether the encoded samples have 16 bits (Pillow hides it: it reads 16 bit RGB as 8 bit RGB)."""
    if isinstance(image, PngImagePlugin.PngImageFile):
        return data[24:25] == b"\x10"
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(_TIFF_BITS, ())
        return 16 in (bits if isinstance(bits, tuple) else (bits,))
    if isinstance(image, _PortablePixmap):
        header = _ppm_header(data)
        return header is not None and int(header[4]) > 255
    return False


def is_animated(image: ImageFile) -> bool:
    """Say whether more than one frame or page is there; a broken second frame counts as none."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # Pillow raises many types on damaged frames, and only the first one is wanted
        return False


def looks_truncated(data: bytes, found: ImageFormat) -> bool:
    """Say whether the end of the file is missing, judged by each format's own end mark or length.

    Only asked after decoding has failed, to name the cause: the answer never refuses an image by itself.
    """
    if found is JPEG:
        return b"\xff\xd9" not in data[-4096:]
    if found is PNG:
        return b"IEND" not in data[-64:]
    if found is GIF:
        return not data.rstrip(b"\0").endswith(b";")
    if found is WEBP:
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if found is BMP:
        return int.from_bytes(data[2:6], "little") > len(data)
    return found is TIFF and _tiff_ends_early(data)  # of a PPM Pillow's own error says it


def _tiff_ends_early(data: bytes) -> bool:
    try:
        tags = TiffImagePlugin.TiffImageFile(BytesIO(data)).tag_v2
        ends = [
            offset + count
            for offsets, counts in _TIFF_DATA_TAGS
            for offset, count in zip(_as_tuple(tags.get(offsets)), _as_tuple(tags.get(counts)), strict=False)
        ]
    except Exception:  # an unreadable directory usually lies behind the place where the file was cut
        directory = int.from_bytes(data[4:8], "little" if data.startswith(b"II") else "big")
        return directory + 2 > len(data)
    return any(end > len(data) for end in ends)


def _as_tuple(value: object) -> tuple[int, ...]:
    values = value if isinstance(value, tuple) else (value,)
    return tuple(each for each in values if isinstance(each, int))
