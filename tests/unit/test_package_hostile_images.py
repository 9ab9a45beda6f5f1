"""Bytes that are no image, or too much of one, are refused with a sentence, and nothing else happens."""

import contextlib
import io
import pickle
import resource
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.testbed.pictures import (
    EXACT,
    FORMATS,
    palette_with_transparency,
    photo,
    pixels,
    png16,
    quadrants,
    ramp16,
)
from tests.testbed.tiny_package import encoded

from tunesmith_package.image_formats import SERVING_FORMATS
from tunesmith_package.jpeg_damage import find_damage
from tunesmith_package.preprocess import Decoded, ImageInvalid, decode


def gigantic(format: str) -> bytes:
    """An encoding whose header promises 20,000 x 20,000 pixels."""
    data, side = bytearray(encoded(quadrants(), format)), 20_000
    if format == "PNG":
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif format == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", side, side)
    elif format == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
    elif format == "BMP":
        data[18:26] = struct.pack("<ii", side, side)
    elif format == "PPM":
        data = bytearray(b"P6 %d %d 255\n" % (side, side))
    elif format == "WEBP":
        canvas = (16_000 - 1).to_bytes(3, "little")
        data = bytearray(
            b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas * 2
        )
    else:
        for tag in (256, 257):  # width and height, written as 16 or as 32 bit numbers
            at = max(data.find(struct.pack("<HH", tag, kind)) for kind in (3, 4))
            data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, side)
    return bytes(data)


@pytest.mark.parametrize("format", FORMATS)
def test_decode_of_a_pixel_bomb_is_refused_before_it_takes_memory(format: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(ImageInvalid, match="the limit is 50,000,000") as caught:
        decode(gigantic(format), EXACT)

    assert caught.value.kind == "pixel-bomb"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_decode_of_a_gif_frame_larger_than_its_screen_is_a_bomb() -> None:
    data = bytearray(encoded(quadrants(), "GIF"))
    at = data.index(b"\x2c\0\0\0\0\x20\0\x20\0")
    data[at + 5 : at + 9] = struct.pack("<HH", 65535, 65535)

    with pytest.raises(ImageInvalid) as caught:
        decode(bytes(data), EXACT)
    assert caught.value.kind == "pixel-bomb"


def test_decode_of_a_jpeg_with_thousands_of_scans_is_a_bomb() -> None:
    data = encoded(photo(64, 64), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    data = data[:last] + data[last:-2] * 1000 + data[-2:]

    with pytest.raises(ImageInvalid, match="more work than its size") as caught:
        decode(data, EXACT)
    assert caught.value.kind == "pixel-bomb"


def test_decode_of_a_progressive_photo_is_no_bomb() -> None:
    assert pixels(encoded(photo(300, 300), "JPEG", progressive=True)).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        pytest.param(b"", "zero-byte", id="nothing"),
        pytest.param(b"\0" * 1000, "not-an-image", id="zeros"),
        pytest.param(b"<html></html>", "not-an-image", id="a web page"),
        pytest.param(b"BMW is a company", "not-an-image", id="a text that begins like a bitmap"),
        pytest.param(b"P6 is a format", "not-an-image", id="a text that begins like a pixmap"),
        pytest.param(b"P3 1 1 255 1 2 3", "not-an-image", id="a pixmap in plain text"),
        pytest.param(b"P5 2 2 1023\n" + bytes(8), "unreadable", id="samples of 10 bits"),
        pytest.param(b"P6 0 9 255\n", "unreadable", id="a pixmap without a pixel"),
        pytest.param(b"%PDF-1.4", "not-an-image", id="a PDF"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not-an-image", id="an SVG"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0", "not-an-image", id="PostScript, which Pillow would run"),
        pytest.param(b"\xff\xd8\xff", "truncated", id="the first bytes of a JPEG"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + b"x" * 99 + b"IEND", "unreadable", id="a PNG of garbage"),
    ],
)  # fmt: skip
def test_decode_of_what_is_no_image_says_what_it_is(data: bytes, kind: str) -> None:
    with pytest.raises(ImageInvalid) as caught:
        decode(data, EXACT, name="cats/1.jpg")

    assert caught.value.kind == kind
    assert caught.value.message.startswith("cats/1.jpg ")
    assert caught.value.next_step


@pytest.mark.parametrize("format", FORMATS)
def test_decode_of_half_an_image_says_that_it_is_truncated(format: str) -> None:
    data = encoded(photo(64, 64), format)

    with pytest.raises(ImageInvalid, match="is incomplete") as caught:
        decode(data[: len(data) // 2], EXACT)
    assert caught.value.kind == "truncated"


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def noise(side: int = 300, **options: Any) -> bytes:
    """A JPEG of about 100 kB, with detail everywhere as in a photo of grass."""
    generator = np.random.default_rng(0)
    return encoded(Image.fromarray(generator.integers(0, 256, (side, side, 3), np.uint8)), "JPEG", **options)


PADDED = bytes(60_000)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(
            lambda data: data[: len(data) // 2] + PADDED, "ends before its last pixels", id="zeros at the end"
        ),
        pytest.param(lambda data: data[:-2], "is incomplete", id="no end mark"),
        pytest.param(
            lambda data: data[: len(data) // 2] + PADDED + b"\xff\xd9", "is zero", id="zeros and an end mark"
        ),
        pytest.param(lambda data: patched(data, len(data) // 2, bytes(2000)), "is zero", id="a hole"),
        pytest.param(
            lambda data: data[: len(data) // 2] + b"\xff\xd9",
            "before its last pixels",
            id="an early end mark",
        ),
    ],
)
@pytest.mark.parametrize("grey", [False, True])
def test_decode_of_a_jpeg_that_lacks_a_part_says_that_it_is_truncated(
    damage: Callable[[bytes], bytes], words: str, grey: bool
) -> None:
    data = noise()
    if grey:
        data = encoded(Image.open(io.BytesIO(data)).convert("L"), "JPEG")

    with pytest.raises(ImageInvalid, match=words) as caught:
        decode(damage(data), EXACT)
    assert caught.value.kind == "truncated"


def test_decode_of_half_a_progressive_jpeg_with_zeros_behind_it_says_that_it_is_truncated() -> None:
    data = noise(progressive=True)

    with pytest.raises(ImageInvalid, match="is incomplete") as caught:
        decode(data[: len(data) // 2] + PADDED, EXACT)
    assert caught.value.kind == "truncated"


def with_thumbnail(data: bytes, tail: bytes = b"") -> bytes:
    """The JPEG with another one, end mark and zeros included, in a segment of its own."""
    inner = encoded(photo(32, 32), "JPEG") + bytes(2000)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(inner) + 2) + inner + data[2:] + tail


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(with_thumbnail(noise()), id="a thumbnail and zeros in the metadata"),
        pytest.param(with_thumbnail(noise(), bytes(3000)), id="zeros behind the end mark"),
        pytest.param(noise()[:-2] + bytes(64), id="zeros for an end mark, and every pixel"),
        pytest.param(noise() + b"\xff\xd8\xff\xda film " * 99, id="a film behind the end mark"),
        pytest.param(noise(restart_marker_rows=1), id="restart marks"),
        pytest.param(
            encoded(Image.new("RGB", (2400, 1600), "white"), "JPEG", optimize=True), id="flat, which is zeros"
        ),
        pytest.param(
            encoded(Image.new("RGB", (2400, 1600), "grey"), "JPEG", optimize=True), id="mid-grey and zeros"
        ),
        pytest.param(encoded(Image.new("RGB", (640, 480), "grey"), "JPEG"), id="mid-grey"),
        pytest.param(encoded(Image.new("L", (640, 480), 128), "JPEG"), id="mid-grey without colour"),
        pytest.param(
            encoded(Image.new("RGB", (640, 480), "grey"), "JPEG", progressive=True), id="mid-grey in scans"
        ),
    ],
)
def test_decode_of_a_whole_jpeg_that_looks_like_a_broken_one_keeps_it(data: bytes) -> None:
    assert decode(data, EXACT).format == "JPEG"


def test_decode_of_a_photo_with_a_grey_border_keeps_it() -> None:
    image = Image.new("RGB", (320, 320), (128, 128, 128))
    image.paste(photo(200, 200), (10, 10))
    for options in ({}, {"optimize": True}, {"progressive": True}, {"subsampling": 0}):
        assert decode(encoded(image, "JPEG", **options), EXACT).format == "JPEG"


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\0", b"\xff\xe0\0\2", b"\xff\xd0"])
def test_looking_for_damage_among_megabytes_of_marks_takes_no_time(filling: bytes) -> None:
    data, image = encoded(photo(64, 64), "JPEG"), photo(64, 64)
    marks = filling * (5_000_000 // len(filling))
    start = time.monotonic()

    find_damage(data[:2] + marks + data[2:] + b"x", image)
    with contextlib.suppress(OSError):  # libjpeg's own refusal, which decode turns into one of ours
        find_damage(data[:-2] + marks + bytes(1000), image)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("header", [b"P5 2000 2000 65535\n", b"P6 2000 2000 65535\n"])
def test_decode_of_half_a_deep_pixmap_says_that_it_is_truncated(header: bytes) -> None:
    with pytest.raises(ImageInvalid) as caught:
        decode(header + bytes(4_000_000), EXACT)
    assert caught.value.kind == "truncated"


def test_looking_for_the_header_of_a_pixmap_in_a_long_comment_takes_no_time() -> None:
    start = time.monotonic()

    assert decoded_or_refused(b"P6" + b"#\n " * 1_000_000) == "not-an-image"
    assert decoded_or_refused(b"P6" + b" " * 3_000_000) == "not-an-image"
    assert time.monotonic() - start < 1


def test_decode_with_fewer_formats_refuses_the_others() -> None:
    assert decode(encoded(quadrants(), "JPEG"), EXACT, formats=SERVING_FORMATS).format == "JPEG"
    with pytest.raises(ImageInvalid, match="a GIF image, which is not accepted") as caught:
        decode(encoded(quadrants(), "GIF"), EXACT, formats=SERVING_FORMATS)
    assert caught.value.kind == "not-an-image"


def test_image_invalid_crosses_process_borders_whole() -> None:
    error = ImageInvalid("truncated", "It ends.", "Copy it.")

    copy = pickle.loads(pickle.dumps(error))

    assert (copy.kind, copy.message, copy.next_step, str(copy)) == (
        "truncated",
        "It ends.",
        "Copy it.",
        "It ends. Copy it.",
    )


ANIMATED = ("GIF", "PNG", "WEBP", "TIFF")
COMPRESSIONS = ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")


def samples() -> list[bytes]:
    """Small real encodings of every kind that is read."""
    image, grey = photo(40, 30), photo(40, 30).convert("L")
    frames = [Image.new("RGB", (20, 20), (value, 0, 0)) for value in (0, 100, 200)]
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        *(encoded(image, format) for format in FORMATS),
        encoded(image, "JPEG", progressive=True, exif=exif),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(grey, "JPEG"),
        encoded(grey.convert("LA")),
        encoded(Image.fromarray(ramp16())),
        palette_with_transparency(),
        png16(np.repeat(ramp16()[..., np.newaxis], 3, axis=2)),
        encoded(image, "WEBP", lossless=True, exif=exif),
        *(encoded(frames[0], format, save_all=True, append_images=frames[1:]) for format in ANIMATED),
        *(encoded(image, "TIFF", compression=kind) for kind in COMPRESSIONS),
        encoded(grey.convert("1"), "TIFF", compression="group4"),
        encoded(image.quantize(16), "BMP"),
    ]  # fmt: skip


SAMPLES = samples()


KINDS = ("zero-byte", "not-an-image", "truncated", "unreadable", "pixel-bomb")


def decoded_or_refused(data: bytes) -> Decoded | str:
    """What `decode` makes of the bytes: an image in the right shape, or the kind of its refusal."""
    try:
        found = decode(data, replace(EXACT, image_size=16, max_pixels=300_000), name="x.png")
    except ImageInvalid as error:
        return error.kind
    return found


def is_image_or_kind(outcome: Decoded | str) -> bool:
    if isinstance(outcome, str):
        return outcome in KINDS
    return outcome.pixels.shape == (16, 16, 3) and outcome.pixels.dtype == np.uint8


edits = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=8)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=400)
@given(st.sampled_from(SAMPLES), edits, st.booleans())
def test_decode_of_bytes_changed_at_random_returns_an_image_or_says_that_it_is_none(
    data: bytes, changes: list[tuple[int, int]], near_the_start: bool
) -> None:
    changed = bytearray(data)
    for position, value in changes:
        changed[position % (min(len(changed), 120) if near_the_start else len(changed))] = value

    assert is_image_or_kind(decoded_or_refused(bytes(changed)))


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=200)
@given(st.sampled_from(SAMPLES), st.floats(0, 1), st.binary(max_size=20))
def test_decode_of_bytes_cut_anywhere_returns_the_image_or_says_that_it_is_none(
    data: bytes, share: float, tail: bytes
) -> None:
    assert is_image_or_kind(decoded_or_refused(data[: int(len(data) * share)] + tail))


@given(
    st.binary(max_size=60),
    st.sampled_from([b"", b"\xff\xd8\xff", b"GIF89a", b"II*\0", b"BM", b"RIFF0000WEBP"]),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_decode_of_any_bytes_says_that_they_are_no_image(data: bytes, start: bytes) -> None:
    assert decoded_or_refused(start + data) in KINDS
