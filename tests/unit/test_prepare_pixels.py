"""The file of decoded images."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tunesmith_api.reasons import DatasetInvalid, DiskFull
from tunesmith_trainer.prepare.pixels import PixelStore

SIDE = 8


def images(count: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def written(path: Path, pictures: npt.NDArray[np.uint8]) -> PixelStore:
    with PixelStore.create(path, SIDE) as store:
        for each in pictures:
            store.append(each)
    return PixelStore.open(path, SIDE)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([3, 1, 2], id="any order"),
        pytest.param([4, 4, 4], id="the same row again"),
        pytest.param([5, 6, 7, 0, 1, 9], id="runs"),
        pytest.param([], id="none"),
    ],
)
def test_read_returns_the_rows_asked_for(tmp_path: Path, rows: list[int]) -> None:
    pictures = images(10)
    store = written(tmp_path / "pixels.u8", pictures)
    assert len(store) == 10
    assert np.array_equal(store.read(np.asarray(rows, np.int64)), pictures[rows])


@pytest.mark.parametrize("row", [-1, 10])
def test_read_of_a_row_that_is_not_there_fails(tmp_path: Path, row: int) -> None:
    with pytest.raises(IndexError):
        written(tmp_path / "pixels.u8", images(10)).read(np.asarray([row]))


def test_view_shows_the_images_in_its_own_order(tmp_path: Path) -> None:
    pictures = images(5)
    written(tmp_path / "scan" / "pixels.u8", pictures)
    PixelStore.view(tmp_path / "set" / "pixels.u8", tmp_path / "scan" / "pixels.u8", np.asarray([4, 0, 2]))
    view = PixelStore.open(tmp_path / "set" / "pixels.u8", SIDE)
    assert len(view) == 3
    assert np.array_equal(view.read(np.arange(3)), pictures[[4, 0, 2]])


def test_store_sent_to_another_process_opens_the_file_for_itself(tmp_path: Path) -> None:
    pictures = images(3)
    store = written(tmp_path / "pixels.u8", pictures)
    store.read(np.asarray([0]))
    again = pickle.loads(pickle.dumps(store))
    assert np.array_equal(again.read(np.asarray([2])), pictures[[2]])


def test_resume_cuts_off_what_lies_behind_and_goes_on(tmp_path: Path) -> None:
    pictures = images(6)
    path = tmp_path / "pixels.u8"
    written(path, pictures[:4])
    path.write_bytes(path.read_bytes() + b"half an image")
    with PixelStore.resume(path, SIDE, 3) as store:
        store.append(pictures[5])
    assert np.array_equal(PixelStore.open(path, SIDE).read(np.arange(4)), pictures[[0, 1, 2, 5]])


def test_resume_behind_the_end_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "pixels.u8", images(2))
    with pytest.raises(ValueError, match="fewer than 3 images"):
        PixelStore.resume(tmp_path / "pixels.u8", SIDE, 3)


def test_open_of_a_file_that_is_cut_off_or_gone_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cut.u8").write_bytes(bytes(SIDE * SIDE * 3 + 5))
    with pytest.raises(DatasetInvalid, match="cut off"):
        PixelStore.open(tmp_path / "cut.u8", SIDE)
    with pytest.raises(DatasetInvalid, match="decodes them anew"):
        PixelStore.open(tmp_path / "gone.u8", SIDE)


@pytest.mark.parametrize("wrong", [np.zeros((SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE, 3), np.float32)])
def test_append_of_another_shape_or_type_is_refused(tmp_path: Path, wrong: npt.NDArray[np.uint8]) -> None:
    with PixelStore.create(tmp_path / "pixels.u8", SIDE) as store, pytest.raises(ValueError, match="uint8"):
        store.append(wrong)


def test_append_on_a_full_disk_says_that_it_is_full(tmp_path: Path) -> None:
    # /dev/full answers every write with "no space left on device"
    path = tmp_path / "pixels.u8"
    path.symlink_to("/dev/full")
    with os.fdopen(os.open(path, os.O_RDWR), "r+b", buffering=0) as file:
        store = PixelStore(path, SIDE, None, file)
        with pytest.raises(DiskFull, match=r"no room for .*pixels\.u8"):
            store.append(images(1)[0])
