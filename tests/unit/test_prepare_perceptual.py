"""Perceptual hashes, the search for similar ones, and the pixels' last word."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from tests.testbed.photo_sets import encode, picture

from tunesmith_trainer.prepare import perceptual
from tunesmith_trainer.prepare.perceptual import (
    alike,
    confirmed,
    perceptual_hash,
    similar_hashes,
    small_picture,
)
from tunesmith_trainer.prepare.pixels import PixelStore

SIDE = 96
Pixels = npt.NDArray[np.uint8]


def square(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def distance(a: Pixels, b: Pixels) -> int:
    return (perceptual_hash(small_picture(a)) ^ perceptual_hash(small_picture(b))).bit_count()


def are_alike(a: Pixels, b: Pixels) -> bool:
    return bool(alike(*(small_picture(each)[None].astype(np.float32) for each in (a, b)))[0])


def test_hash_is_imagehashs_but_for_a_bit_that_rounding_decides() -> None:
    for seed in range(50):
        small = small_picture(square(encode(picture(seed, SIDE))))
        theirs = int(str(imagehash.phash(Image.fromarray(small))), 16)
        assert (perceptual_hash(small) ^ theirs).bit_count() <= 1


@pytest.mark.parametrize("value", [0, 7, 255])
def test_hash_of_a_flat_picture_is_the_same_everywhere(value: int) -> None:
    # only the constant frequency is above the median, and nothing is left to rounding
    assert perceptual_hash(np.full((32, 32, 3), value, np.uint8)) == (1 << 63 if value else 0)


def cropped(image: Image.Image) -> Image.Image:
    return image.crop((1, 1, image.width - 1, image.height - 1))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: encode(image, quality=40), id="compressed again"),
        pytest.param(lambda image: encode(image, "PNG"), id="another format"),
        pytest.param(lambda image: encode(image.resize((48, 48))), id="half the size"),
        pytest.param(lambda image: encode(ImageEnhance.Brightness(image).enhance(1.1)), id="brighter"),
        pytest.param(lambda image: encode(ImageEnhance.Contrast(image).enhance(0.9)), id="less contrast"),
        pytest.param(lambda image: encode(cropped(image)), id="a pixel cut off on each side"),
    ],
)
def test_twin_of_a_photo_has_a_close_hash_and_is_confirmed(change: Callable[[Image.Image], bytes]) -> None:
    for seed in range(20):
        image = picture(seed, SIDE)
        one, other = square(encode(image, quality=95)), square(change(image))
        assert distance(one, other) <= 4, seed
        assert are_alike(one, other), seed


def test_different_photos_are_neither_close_nor_alike() -> None:
    pictures = [square(encode(picture(seed, SIDE))) for seed in range(30)]
    for at, one in enumerate(pictures):
        for other in pictures[:at]:
            assert distance(one, other) > 8
            assert not are_alike(one, other)


DARK = (90, 90, 90)


def shape(colour: tuple[int, int, int], ground: tuple[int, int, int] = (250, 250, 250)) -> Pixels:
    """A disc on an even ground: what perceptual hashes cannot tell apart."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    inside = (x - 40) ** 2 + (y - 50) ** 2 < 25**2
    return np.where(inside[..., None], colour, ground).astype(np.uint8)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(shape((200, 30, 30)), shape((30, 30, 200)), id="a red and a blue disc"),
        pytest.param(shape(DARK, (200, 60, 60)), shape(DARK, (60, 200, 60)), id="red and green grounds"),
        pytest.param(
            np.full((SIDE, SIDE, 3), 90, np.uint8), np.full((SIDE, SIDE, 3), 200, np.uint8), id="flat"
        ),
    ],
)
def test_flat_pictures_whose_hashes_collide_are_not_alike(one: Pixels, other: Pixels) -> None:
    assert not are_alike(one, other)


def test_noise_on_the_same_flat_ground_is_not_alike() -> None:
    generator = np.random.default_rng(0)
    noisy = [
        np.clip(128 + generator.normal(0, 20, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8) for _ in range(10)
    ]
    assert not any(are_alike(one, other) for at, one in enumerate(noisy) for other in noisy[:at])


hashes = st.lists(st.integers(0, 2**64 - 1), max_size=40)
flips = st.lists(st.tuples(st.integers(0, 39), st.lists(st.integers(0, 63), max_size=6)), max_size=20)


@given(hashes, flips, st.integers(0, 16))
@settings(max_examples=150, deadline=None)
def test_similar_hashes_finds_exactly_the_pairs_that_comparing_all_finds(
    values: list[int], flipped: list[tuple[int, list[int]]], limit: int
) -> None:
    for at, bits in flipped:
        if at < len(values):
            values.append(values[at] ^ sum(1 << bit for bit in set(bits)))
    array = np.asarray(values, np.uint64)
    expected = [
        (one, other)
        for one in range(len(values))
        for other in range(one + 1, len(values))
        if (values[one] ^ values[other]).bit_count() <= limit
    ]
    found = similar_hashes(array, limit)
    assert [tuple(pair) for pair in found.pairs.tolist()] == expected
    assert found.complete


def test_similar_hashes_of_many_equal_ones_stays_bounded_and_says_so() -> None:
    found = similar_hashes(np.full(5_000, 7, np.uint64), 4)
    assert not found.complete
    assert len(found.pairs) <= 5_000 * perceptual.MOST_NEIGHBOURS
    # everybody is still compared with somebody, so that one family results
    assert len(np.unique(found.pairs)) == 5_000


def test_similar_hashes_among_a_hundred_thousand_finds_the_few_that_are_close() -> None:
    # comparing all pairs would be 5,000,000,000 comparisons
    array = np.random.default_rng(0).integers(0, 2**63, 100_000).astype(np.uint64)
    array[50_000:50_100] = array[:100] ^ np.uint64(0b1011 << 30)
    found = similar_hashes(array, 4)
    assert found.complete
    assert found.pairs.tolist() == [[at, 50_000 + at] for at in range(100)]


def test_confirmed_reads_the_small_pictures_of_the_pairs(tmp_path: Path) -> None:
    with PixelStore.create(tmp_path / "small.u8", perceptual.SMALL_SIDE) as store:
        for seed in (1, 2, 1, 3):
            store.append(small_picture(square(encode(picture(seed, SIDE)))))
    small = PixelStore.open(tmp_path / "small.u8", perceptual.SMALL_SIDE)
    pairs = np.asarray([[0, 1], [0, 2], [2, 3], [2, 0]], np.int64)
    assert confirmed(small, pairs).tolist() == [False, True, False, True]
