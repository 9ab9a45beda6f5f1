"""Images of every kind become the same upright RGB square, and nothing but an image does."""

import io
import threading
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.testbed.pictures import CROP, EXACT, Pixels, photo, pixels
from tests.testbed.tiny_package import encoded

from tunesmith_package.preprocess import Preprocess, decode

LOSSLESS: dict[str, dict[str, object]] = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}
# Changes when Pillow or our decoding changes a pixel: then models trained before see other pictures.
GOLDEN = 1294633278


@pytest.mark.parametrize("format", LOSSLESS)
def test_decode_of_a_lossless_image_of_the_right_size_changes_no_pixel(format: str) -> None:
    image = photo(32, 32)

    found = decode(encoded(image, format, **LOSSLESS[format]), EXACT)

    assert np.array_equal(found.pixels, np.asarray(image))
    assert found.pixels.dtype == np.uint8
    assert found.pixels.flags.writeable
    assert (found.width, found.height, found.format, found.observations) == (32, 32, format, ())


@pytest.mark.parametrize(
    ("size", "scaled", "corner"), [((128, 64), (64, 32), (16, 0)), ((64, 192), (32, 96), (0, 32))]
)
def test_decode_center_crop_equals_scaling_the_short_side_and_cutting_the_middle(
    size: tuple[int, int], scaled: tuple[int, int], corner: tuple[int, int]
) -> None:
    image = photo(*size)

    reference = image.resize(scaled, Image.Resampling.BILINEAR).crop(
        (*corner, corner[0] + 32, corner[1] + 32)
    )
    assert np.array_equal(pixels(encoded(image), CROP), np.asarray(reference))


def test_decode_squash_scales_both_sides() -> None:
    image = photo(120, 50)

    assert np.array_equal(
        pixels(encoded(image)), np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    )


def test_decode_bicubic_uses_the_other_filter() -> None:
    image = photo(120, 120)
    bicubic = replace(EXACT, interpolation="bicubic")

    reference = image.resize((32, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(pixels(encoded(image), bicubic), np.asarray(reference))


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
@pytest.mark.parametrize("preprocess", [EXACT, CROP], ids=["Squash", "CenterCrop"])
def test_decode_of_a_tiny_or_very_narrow_image_fills_the_square(
    size: tuple[int, int], preprocess: Preprocess
) -> None:
    found = decode(encoded(Image.new("RGB", size, (10, 200, 30))), preprocess)

    assert np.array_equal(found.pixels, np.full((32, 32, 3), (10, 200, 30), dtype=np.uint8))
    assert (found.width, found.height) == size


@pytest.mark.parametrize("preprocess", [EXACT, CROP], ids=["Squash", "CenterCrop"])
@pytest.mark.parametrize("size", [(1600, 1200), (1201, 1803)])
def test_decode_of_a_large_jpeg_differs_from_full_decoding_by_less_than_one_sees(
    size: tuple[int, int], preprocess: Preprocess
) -> None:
    jpeg = encoded(photo(*size), "JPEG", quality=92)
    full = encoded(Image.open(io.BytesIO(jpeg)), "PNG")

    usual = replace(preprocess, image_size=256)
    difference = np.abs(pixels(jpeg, usual).astype(int) - pixels(full, usual))

    assert difference.mean() < 0.5
    assert difference.max() <= 4


def test_decode_gives_the_pixels_that_it_gave_when_this_test_was_written() -> None:
    y, x = np.mgrid[0:150, 0:200]
    picture = np.stack([x * y >> 4, x + 2 * y, x ^ y], axis=-1).astype(np.uint8)

    assert zlib.crc32(pixels(encoded(Image.fromarray(picture)), CROP).tobytes()) == GOLDEN


def test_decode_in_many_threads_gives_the_same_pixels() -> None:
    data = encoded(photo(900, 700), "JPEG")
    expected, found = pixels(data, CROP), list[Pixels]()

    threads = [threading.Thread(target=lambda: found.append(pixels(data, CROP))) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert len(found) == 8
    assert all(np.array_equal(each, expected) for each in found)


floats = st.floats(-10, 10)
preprocesses = st.builds(
    Preprocess,
    image_size=st.integers(1, 1024),
    resize=st.sampled_from(["CenterCrop", "Squash"]),
    mean=st.tuples(floats, floats, floats),
    std=st.tuples(*[st.floats(0.001, 10)] * 3),
    max_pixels=st.integers(1, 1 << 40),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)


@given(preprocesses)
def test_preprocess_written_and_read_is_the_same(preprocess: Preprocess) -> None:
    assert Preprocess.from_json(preprocess.to_json()) == preprocess
    assert Preprocess.from_json(preprocess.to_json().encode()) == preprocess


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 0},
        {"image_size": 10_000},
        {"resize": "Stretch"},
        {"interpolation": "nearest"},
        {"max_pixels": 0},
        {"std": (0.5, 0.0, 0.5)},
        {"std": (0.5, 0.5)},
        {"mean": (float("nan"), 0.0, 0.0)},
    ],
    ids=str,
)
def test_preprocess_out_of_bounds_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"is|must"):
        replace(EXACT, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("[]", id="a list"),
        pytest.param("{}", id="no fields"),
        pytest.param(EXACT.to_json().replace("Squash", "x"), id="an unknown resize"),
        pytest.param(EXACT.to_json().replace("32", "null"), id="no size"),
        pytest.param(EXACT.to_json()[:-1] + ',"x":1}', id="an unknown field"),
    ],
)
def test_preprocess_from_a_text_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Preprocess.from_json(text)


def test_normalise_equals_its_formula_and_has_the_models_layout() -> None:
    imagenet = replace(EXACT, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    batch = np.arange(2 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 32, 32, 3)

    found = imagenet.normalise(batch)

    expected = (batch.astype(np.float64) / 255 - imagenet.mean) / imagenet.std
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found == pytest.approx(expected.transpose(0, 3, 1, 2), abs=1e-5)
