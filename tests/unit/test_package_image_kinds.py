"""Pictures of every kind are shown as a person would see them, and what was converted is said."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageChops
from tests.testbed.pictures import (
    EXACT,
    at,
    palette_with_transparency,
    photo,
    png16,
    ppm16,
    quadrants,
    ramp16,
)
from tests.testbed.tiny_package import encoded

from tunesmith_package.preprocess import ImageInvalid, decode

TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a camera must have stored an upright picture to mark it with each orientation."""


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_decode_turns_an_image_upright_as_exif_says(format: str, orientation: int) -> None:
    upright = quadrants(64).resize((96, 64))
    turn = TURNS[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation

    found = decode(encoded(stored, format, exif=exif), EXACT)

    assert (found.width, found.height) == (96, 64)
    assert ("exif-orientation" in found.observations) == (orientation != 1)
    for y, x, colour in [(4, 4, "FF0000"), (4, 27, "00FF00"), (27, 4, "0000FF"), (27, 27, "FFFF00")]:
        assert at(found, y, x) == pytest.approx(tuple(bytes.fromhex(colour)), abs=12)


@pytest.mark.parametrize(
    "exif",
    [
        pytest.param(b"Exif\0\0", id="nothing"),
        pytest.param(b"Exif\0\0II*\0\xff\xff\xff\xff", id="a directory beyond the end"),
        pytest.param(b"Exif\0\0garbage garbage", id="garbage"),
        pytest.param(b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0", id="99"),
        pytest.param(b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0ab\0\0\0\0\0\0", id="a text"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_decode_with_damaged_metadata_keeps_the_image(exif: bytes) -> None:
    found = decode(encoded(quadrants(), "JPEG", exif=exif), EXACT)

    assert "exif-orientation" not in found.observations
    assert at(found, 2, 2) == pytest.approx((255, 0, 0), abs=12)


def with_alpha(mode: str) -> Image.Image:
    """A red (or dark) picture whose left half is transparent."""
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 255))
    image.paste((0, 0, 255, 0), (0, 0, 16, 32))
    return image.convert(mode)


def keyed(mode: str, back: object, front: object, key: object) -> bytes:
    image = Image.new(mode, (32, 32), front)  # type: ignore[arg-type]
    image.paste(back, (0, 0, 16, 32))  # type: ignore[arg-type]
    return encoded(image, "PNG", transparency=key)


def keyed16(back: int, front: int, *, key: int) -> bytes:
    samples = np.full((32, 32), front, dtype=np.uint16)
    samples[:, :16] = back
    return encoded(Image.fromarray(samples), "PNG", transparency=key)


WHITE, RED = (255, 255, 255), (255, 0, 0)


@pytest.mark.parametrize(
    ("data", "right", "observations"),
    [
        pytest.param(encoded(with_alpha("RGBA")), RED, ("alpha",), id="RGBA"),
        pytest.param(encoded(with_alpha("RGBA"), "WEBP", lossless=True), RED, ("alpha",), id="WebP"),
        pytest.param(encoded(with_alpha("RGBA"), "TIFF"), RED, ("alpha",), id="TIFF"),
        pytest.param(encoded(with_alpha("LA")), (76,) * 3, ("alpha", "grey"), id="grey with alpha"),
        pytest.param(palette_with_transparency("PNG"), RED, ("alpha", "palette"), id="palette"),
        pytest.param(palette_with_transparency("GIF"), RED, ("alpha", "palette"), id="GIF"),
        pytest.param(keyed("RGB", (0, 0, 255), RED, (0, 0, 255)), RED, ("alpha",), id="colour key"),
        pytest.param(keyed("L", 10, 90, 10), (90,) * 3, ("alpha", "grey"), id="grey key"),
        pytest.param(
            keyed16(300, 0x5A00, key=300), (90,) * 3, ("16-bit", "alpha", "grey"), id="16 bit grey key"
        ),
    ],
)
def test_decode_lays_transparency_on_white(
    data: bytes, right: tuple[int, ...], observations: tuple[str, ...]
) -> None:
    found = decode(data, EXACT)

    assert at(found, 16, 4) == WHITE
    assert at(found, 16, 24) == right
    assert found.observations == observations


def test_decode_of_half_transparent_pixels_is_half_white() -> None:
    found = decode(encoded(Image.new("RGBA", (64, 64), (200, 0, 0, 128))), EXACT)

    assert at(found, 16, 16) == pytest.approx((227, 127, 127), abs=1)


@pytest.mark.parametrize(
    ("image", "observations"),
    [
        pytest.param(photo(32, 32).convert("L"), ("grey",), id="grey"),
        pytest.param(photo(32, 32).convert("1"), ("grey",), id="black and white"),
        pytest.param(photo(32, 32).quantize(256), ("palette",), id="palette"),
    ],
)
def test_decode_of_fewer_colours_shows_what_pillow_shows(
    image: Image.Image, observations: tuple[str, ...]
) -> None:
    found = decode(encoded(image), EXACT)

    assert np.array_equal(found.pixels, np.asarray(image.convert("RGB")))
    assert found.observations == observations


@pytest.mark.parametrize(
    ("data", "observations"),
    [
        pytest.param(encoded(Image.fromarray(ramp16())), ("16-bit", "grey"), id="grey PNG"),
        pytest.param(encoded(Image.fromarray(ramp16()), "TIFF"), ("16-bit", "grey"), id="grey TIFF"),
        pytest.param(png16(np.repeat(ramp16()[..., np.newaxis], 3, axis=2)), ("16-bit",), id="RGB PNG"),
        pytest.param(encoded(Image.fromarray(ramp16()), "PPM"), ("16-bit", "grey"), id="grey PPM"),
        pytest.param(ppm16(np.repeat(ramp16()[..., np.newaxis], 3, axis=2)), ("16-bit",), id="RGB PPM"),
    ],
)
def test_decode_of_16_bits_scales_the_whole_range(data: bytes, observations: tuple[str, ...]) -> None:
    found = decode(data, EXACT)

    expected = np.repeat((ramp16() >> 8).astype(np.uint8)[..., np.newaxis], 3, axis=2)
    assert np.array_equal(found.pixels, expected)
    assert found.observations == observations


@pytest.mark.parametrize(("mode", "observations"), [("RGB", ()), ("L", ("grey",))])
def test_decode_of_a_portable_pixmap_shows_its_pixels(mode: str, observations: tuple[str, ...]) -> None:
    image = photo(32, 32).convert(mode)

    found = decode(encoded(image, "PPM"), EXACT, name="x.pgm")

    assert np.array_equal(found.pixels, np.asarray(image.convert("RGB")))
    assert (found.format, found.observations) == ("PPM", observations)


def test_decode_of_32_bit_samples_is_refused_for_they_have_no_white() -> None:
    image = Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32))

    with pytest.raises(ImageInvalid, match="no defined colour") as caught:
        decode(encoded(image, "TIFF"), EXACT)
    assert caught.value.kind == "unreadable"


CMYK = {
    (0, 255, 255, 0): (255, 0, 0),
    (255, 0, 0, 0): (0, 255, 255),
    (0, 0, 0, 255): (0, 0, 0),
    (0, 0, 0, 0): (255,) * 3,
}


def without_adobe_marker(jpeg: bytes) -> bytes:
    start = jpeg.index(b"\xff\xee\x00\x0eAdobe")
    return jpeg[:start] + jpeg[start + 16 :]


@pytest.mark.parametrize(("ink", "colour"), CMYK.items())
@pytest.mark.parametrize(
    "encode",
    [
        pytest.param(lambda image: encoded(image, "JPEG", quality=100), id="Adobe's inverted JPEG"),
        pytest.param(
            lambda image: without_adobe_marker(encoded(ImageChops.invert(image), "JPEG", quality=100)),
            id="plain JPEG",
        ),
        pytest.param(lambda image: encoded(image, "TIFF"), id="TIFF"),
    ],
)
def test_decode_of_cmyk_shows_the_ink_as_its_colour(
    encode: Callable[[Image.Image], bytes], ink: tuple[int, int, int, int], colour: tuple[int, int, int]
) -> None:
    found = decode(encode(Image.new("CMYK", (40, 40), ink)), EXACT)

    assert at(found, 16, 16) == pytest.approx(colour, abs=3)
    assert found.observations == ("cmyk",)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_decode_of_an_animation_takes_the_first_frame_and_says_so(format: str) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]

    found = decode(encoded(frames[0], format, save_all=True, append_images=frames[1:]), EXACT)

    assert "animated" in found.observations
    assert at(found, 16, 16) == pytest.approx((255, 0, 0), abs=3)


@pytest.mark.parametrize(
    ("name", "denied"),
    [
        ("photo.png", False),
        ("photo.PNG", False),
        ("a.b/photo.jpg", True),
        ("photo.Jpeg", True),
        ("photo.gif", True),
        ("photo", False),
        ("photo.dat", False),
        ("", False),
    ],
)
def test_decode_compares_the_name_with_the_format(name: str, denied: bool) -> None:
    found = decode(encoded(quadrants()), EXACT, name=name)

    assert ("format-mismatch" in found.observations) == denied
