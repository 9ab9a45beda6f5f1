"""Damage in a JPEG that libjpeg paints over instead of refusing it: what a broken download leaves.

Only the markers are read here, and of the entropy-coded data no more than where it is zero; what that cannot
tell, a second decode at an eighth of the size does, for the few images that look as if they lacked a part.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, JpegImagePlugin

_END = b"\xff\xd9"
_START_OF_SCAN, _END_OF_IMAGE, _HUFFMAN_TABLES = 0xDA, 0xD9, 0xC4
_SEQUENTIAL = (0xC0, 0xC1)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_MARKER = re.compile(rb"\xff[^\xff]")
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# Real files have some dozens, and hostile ones shall not keep a loop of Python busy.
_MOST_SEGMENTS = 4_096

_ZEROS = bytes(512)
"""A sector: less is never lost at once, and no picture encodes so many zeros but in flat areas."""

_MID_GREY = (128, (128, 128, 128))
"""What libjpeg paints where data is missing, as a grey and as a coloured pixel."""
_PROBE = hashlib.shake_128(b"probe").digest(256).replace(b"\xff", b"\0")


@dataclass(frozen=True)
class _Scan:
    """One scan: where its data lies, and whether zeros in it can be a flat area."""

    start: int
    end: int
    zeros_are_flat: bool


def find_damage(data: bytes, image: Image.Image) -> str:
    """Say in a few words what an image that libjpeg did decode lacks; empty: nothing that can be seen.

    Args:
        data: the file.
        image: what was decoded of it, at whatever scale.
    """
    if not data.endswith(_END) and _end_of_image(data) is None:
        if not _ends_within_a_scan(data):
            return "its end mark is missing"
        # Where zeros stand for it, all pixels may be there.
        return "it ends before its last pixels" if _lacks_pixels(data, len(data.rstrip(b"\0"))) else ""
    if _ZEROS in data and _has_zeroed_stretch(data):
        return "a stretch of it is zero"
    if image.mode in ("L", "RGB") and image.getpixel((image.width - 1, image.height - 1)) in _MID_GREY:
        end = _end_of_image(data)
        if end is not None and _lacks_pixels(data, end):
            return "its end mark comes before its last pixels"
    return ""


def _has_zeroed_stretch(data: bytes) -> bool:
    return any(
        not scan.zeros_are_flat and data.find(_ZEROS, scan.start, scan.end) >= 0 for scan in _scans(data)
    )


def _lacks_pixels(data: bytes, end: int) -> bool:
    """Whether what stands before ``end`` is not the whole picture.

    Whatever stands between the last pixel's bits and the end mark is skipped by libjpeg, so a whole picture
    does not change when bits are put there, and one that lacks a part does.
    """
    return _small(data[:end] + _END) != _small(data[:end] + _PROBE + _END)


def _small(data: bytes) -> bytes:
    """The picture at an eighth of its size."""
    image = JpegImagePlugin.JpegImageFile(BytesIO(data))
    image.draft(None, (1, 1))
    return image.tobytes()


def _end_of_image(data: bytes) -> int | None:
    """Where the image's own end mark stands: not that of a thumbnail in its metadata, nor of what follows."""
    return next((at for marker, at, _ in _segments(data) if marker == _END_OF_IMAGE), None)


def _ends_within_a_scan(data: bytes) -> bool:
    return any(scan.end == len(data) for scan in _scans(data))


def _scans(data: bytes) -> Iterator[_Scan]:
    sequential = False
    first_symbols: dict[int, int] = {}
    for marker, start, end in _segments(data):
        if marker in _FRAMES:
            sequential = marker in _SEQUENTIAL
        elif marker == _HUFFMAN_TABLES:
            first_symbols |= _first_symbols(data[start:end])
        elif marker == _START_OF_SCAN:
            count = data[start] if start < end else 0
            tables = data[start + 2 : start + 1 + 2 * count : 2]
            # Zeros are the code of a table's first symbol; 0 is the end of a block, all else is detail.
            flat = all(first_symbols.get(0x10 | table & 0x0F, 0) == 0 for table in tables)
            yield _Scan(end, _after_scan(data, end), flat or not sequential)


def _first_symbols(segment: bytes) -> dict[int, int]:
    """For each Huffman table of a segment the symbol with the shortest code, which is all zeros."""
    found = {}
    at = 0
    while at + 17 < len(segment):
        found[segment[at]] = segment[at + 17]
        at += 17 + sum(segment[at + 1 : at + 17])
    return found


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, begin, end) of each segment's content; of the end mark its own place."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if (found := _MARKER.search(data, at)) is None:
            return
        at = found.start()
        marker = data[at + 1]
        if marker == _END_OF_IMAGE:
            yield marker, at, at
            return
        at += 2
        if marker in _WITHOUT_LENGTH or marker == 0:
            continue
        end = at + max(2, int.from_bytes(data[at : at + 2], "big"))
        yield marker, at + 2, end
        at = _after_scan(data, end) if marker == _START_OF_SCAN else end


def _after_scan(data: bytes, start: int) -> int:
    found = _AFTER_SCAN.search(data, start)
    return len(data) if found is None else found.start()
