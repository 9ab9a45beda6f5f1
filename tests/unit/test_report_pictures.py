"""Pictures in the report: small, without metadata, and within the page's budget."""

from __future__ import annotations

import base64
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.drawn_photos import activation, photo
from tests.report_samples import failed_run, good_run

from tunesmith_trainer.publish.report import pictures


def opened(data: bytes | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("data", [photo(1, 1, 320), activation(1, 1, 320)], ids=["JPEG", "PNG"])
def test_shrink_a_large_picture_gives_a_jpeg_of_the_size_asked_for(data: bytes) -> None:
    shrunk = opened(pictures.shrink(data, 144))
    assert (shrunk.format, shrunk.size) == ("JPEG", (144, 144))


def test_shrink_a_small_picture_does_not_enlarge_it() -> None:
    assert opened(pictures.shrink(photo(1, 1, 60), 144)).size == (60, 60)


def test_shrink_a_photo_that_says_where_it_was_taken_drops_the_place() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 29.0)  # GPS latitude
    exif[0x010E] = "secret place"
    taken = io.BytesIO()
    opened(photo(1, 1)).save(taken, "JPEG", exif=exif)
    assert b"secret place" in taken.getvalue()
    shrunk = pictures.shrink(taken.getvalue(), 208)
    assert shrunk is not None
    assert b"secret place" not in shrunk
    assert not opened(shrunk).getexif()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<script>alert(1)</script>", id="markup"),
        pytest.param(b"\xff\xd8\xff\xe0broken", id="the beginning of a JPEG"),
        pytest.param(photo(1, 1)[:900], id="a truncated JPEG"),
        pytest.param(b"GIF89a" + bytes(40), id="another format"),
    ],
)
def test_shrink_what_is_no_picture_gives_none(data: bytes) -> None:
    assert pictures.shrink(data, 96) is None


def test_shrink_a_pixel_bomb_gives_none_without_decoding_it() -> None:
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    assert pictures.shrink(bomb.getvalue(), 96) is None


@given(st.integers(0, 60_000))
def test_embed_never_spends_more_than_the_budget_and_takes_the_first_first(budget: int) -> None:
    wanted = [pictures.Wanted(("mistake", index), photo(index, 1, 120), 120) for index in range(6)]
    embedded = pictures.embed(wanted, budget)
    assert sum(map(len, embedded.values())) <= budget
    assert list(embedded) == [each.key for each in wanted[: len(embedded)]]


def test_embed_an_unreadable_picture_leaves_out_only_that() -> None:
    wanted = [pictures.Wanted(("mistake", 0), b"no", 96), pictures.Wanted(("mistake", 1), photo(1, 1), 96)]
    embedded = pictures.embed(wanted, 100_000)
    assert list(embedded) == [("mistake", 1)]
    header, _, body = embedded["mistake", 1].partition(",")
    assert header == "data:image/jpeg;base64"
    assert opened(base64.b64decode(body)).size == (96, 96)


def test_wanted_pictures_begin_with_the_mistakes_and_end_with_the_evidence() -> None:
    kinds = [wanted.key[0] for wanted in pictures.wanted_pictures(good_run())]
    assert list(dict.fromkeys(kinds)) == ["mistake", "activation", "suspect", "sample", "evidence"]


def test_wanted_pictures_of_a_run_with_few_are_just_those() -> None:
    assert [wanted.key for wanted in pictures.wanted_pictures(failed_run())] == [
        ("mistake", 0),
        ("activation", 0),
    ]
