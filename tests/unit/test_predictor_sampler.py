"""The sample of images for labelling: uniform, bounded, and never in a request's way."""

from __future__ import annotations

import functools
import os
import random
import stat
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.testbed.tiny_package import picture

from tunesmith_predictor.monitoring.sampler import (
    LABELLED,
    QUEUE,
    UNLABELLED,
    SampleLimits,
    Sampler,
    class_folder,
)

ALL = SampleLimits(rate=1.0, images=10_000, bytes=10**9)
PNG, JPEG = picture("red"), picture("red", format="JPEG")


def files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def offer(sampler: Sampler, count: int, image: bytes = PNG, label: str = "red", start: int = 0) -> None:
    """Offer images one by one, each when the one before is dealt with."""
    for number in range(start, start + count):
        sampler.offer(f"r{number}", 0, image, label)
        settle(sampler)


def _wait(event: threading.Event) -> None:
    event.wait(20)


def settle(sampler: Sampler) -> None:
    done = threading.Event()
    sampler._work.put(done.set)
    assert done.wait(20)


def test_images_lie_under_the_class_that_the_model_said_for_their_owner_alone(tmp_path: Path) -> None:
    sampler = Sampler(tmp_path, ALL)
    sampler.offer("of a client", 0, PNG, "red")
    sampler.offer("of a client", 1, JPEG, "blue")
    sampler.close()
    found = files(tmp_path)
    assert [(one.parts[:2], one.suffix) for one in found] == [
        ((UNLABELLED, "blue"), ".jpg"),
        ((UNLABELLED, "red"), ".png"),
    ]
    assert (tmp_path / found[1]).read_bytes() == PNG
    assert stat.S_IMODE((tmp_path / found[1]).stat().st_mode) == 0o600
    assert "client" not in found[1].stem, "a name that a client chose is no file name"


def test_feedback_moves_an_image_to_its_true_class_and_again(tmp_path: Path) -> None:
    sampler = Sampler(tmp_path, ALL)
    sampler.offer("a", 0, PNG, "red")
    sampler.label("a", 0, "green")
    sampler.label("nobody", 0, "green")
    settle(sampler)
    assert [one.parts[:2] for one in files(tmp_path)] == [(LABELLED, "green")]
    sampler.label("a", 0, "blue")
    sampler.close()
    assert [one.parts[:2] for one in files(tmp_path)] == [(LABELLED, "blue")]


def test_the_sample_is_uniform_over_all_that_came(tmp_path: Path) -> None:
    halves: Counter[str] = Counter()
    for seed in range(30):
        folder = tmp_path / str(seed)
        sampler = Sampler(folder, SampleLimits(1.0, 10, 10**9), chance=random.Random(seed))
        offer(sampler, 50, label="early")
        offer(sampler, 50, label="late", start=50)
        sampler.close()
        found = files(folder)
        assert len(found) == 10
        halves.update(one.parts[1] for one in found)
    assert halves["early"] == pytest.approx(150, abs=45)  # 5 standard deviations of a fair draw


def test_bytes_are_bounded_and_images_with_a_label_stay_longest(tmp_path: Path) -> None:
    sampler = Sampler(tmp_path, SampleLimits(1.0, 10_000, 5 * len(PNG)))
    offer(sampler, 2)
    sampler.label("r0", 0, "red")
    offer(sampler, 40, start=2)
    sampler.close()
    found = files(tmp_path)
    assert len(found) == 5
    assert sum(one.parts[0] == LABELLED for one in found) == 1
    assert sum((tmp_path / one).stat().st_size for one in found) <= 5 * len(PNG)


def test_images_with_a_label_never_make_room(tmp_path: Path) -> None:
    sampler = Sampler(tmp_path, SampleLimits(1.0, 3, 10**9))
    for number in range(3):
        offer(sampler, 1, start=number)
        sampler.label(f"r{number}", 0, "blue")
    offer(sampler, 40, start=3)
    sampler.close()
    assert [one.parts[0] for one in files(tmp_path)] == [LABELLED] * 3


def test_a_disk_that_hangs_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith_predictor.monitoring.sampler.CLOSE_SECONDS", 0.1)
    sampler = Sampler(tmp_path, ALL)
    hangs = threading.Event()
    sampler._work.put(functools.partial(_wait, hangs))
    for number in range(QUEUE + 5):
        sampler.offer(f"r{number}", 0, PNG, "red")
    started = time.monotonic()
    sampler.close()
    assert time.monotonic() - started < 10
    hangs.set()


def test_an_image_larger_than_all_that_may_be_kept_is_not(tmp_path: Path) -> None:
    sampler = Sampler(tmp_path, SampleLimits(1.0, 10, len(PNG) - 1))
    offer(sampler, 3)
    sampler.close()
    assert files(tmp_path) == []


def test_images_without_a_label_go_when_they_are_old(tmp_path: Path) -> None:
    sampler = Sampler(tmp_path, ALL)
    offer(sampler, 3)
    sampler.label("r0", 0, "red")
    sampler.close()
    for one in files(tmp_path):
        os.utime(tmp_path / one, (0, 0))
    again = Sampler(tmp_path, ALL)
    offer(again, 1, label="new")
    again.close()
    assert sorted(one.parts[:2] for one in files(tmp_path)) == [(LABELLED, "red"), (UNLABELLED, "new")]


def test_what_lies_in_the_folder_already_counts(tmp_path: Path) -> None:
    limits = SampleLimits(1.0, 6, 10**9)
    for seed in range(3):
        sampler = Sampler(tmp_path, limits, chance=random.Random(seed))
        offer(sampler, 5)
        sampler.close()
    assert len(files(tmp_path)) == 6


def test_a_share_of_the_images_is_considered(tmp_path: Path) -> None:
    sampler = Sampler(tmp_path, SampleLimits(0.2, 10_000, 10**9), chance=random.Random(0))
    offer(sampler, 200)
    sampler.close()
    assert len(files(tmp_path)) == pytest.approx(40, abs=25)


def test_a_disk_that_hangs_holds_nobody_up_and_what_finds_no_room_is_counted(tmp_path: Path) -> None:
    sampler = Sampler(tmp_path, ALL)
    hangs, held = threading.Event(), threading.Event()

    def hang() -> None:
        held.set()
        hangs.wait(20)

    sampler._work.put(hang)
    assert held.wait(20)
    for number in range(QUEUE + 5):
        sampler.offer(f"r{number}", 0, PNG, "red")
    assert sampler.let_go == 5
    hangs.set()
    sampler.close()
    assert len(files(tmp_path)) == QUEUE


def test_a_folder_that_cannot_be_written_costs_the_image_and_nothing_else(tmp_path: Path) -> None:
    sampler = Sampler(tmp_path, ALL)
    (tmp_path / UNLABELLED / "red").write_text("a file in the way")
    offer(sampler, 1)
    offer(sampler, 1, label="blue")
    sampler.close()
    assert (sampler.kept, sampler.let_go) == (1, 1)


@pytest.mark.parametrize("label", ["../../etc", "/etc", "a/b", "a\\b", "..", ".", "", "x" * 300, "\0"])
def test_a_class_never_names_a_folder_elsewhere(label: str, tmp_path: Path) -> None:
    name = class_folder(label)
    assert label == "" or name
    assert "/" not in name
    assert name not in (".", "..")
    assert len(name) <= 255
    assert (tmp_path / "in" / name).resolve().is_relative_to(tmp_path / "in")


@pytest.mark.parametrize("label", ["daisy", "Gänseblümchen", "two words", "v1.2"])
def test_a_usual_class_keeps_its_name(label: str) -> None:
    assert class_folder(label) == label
