"""The trainer's event lines and progress bars."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tunesmith_trainer.events import Both, Events


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_emit_any_event_writes_one_json_line() -> None:
    stream = io.StringIO()
    Events(stream).emit("note", message="två\nlines")
    assert lines(stream) == [{"type": "note", "message": "två\nlines"}]


def test_emit_not_finite_numbers_become_null() -> None:
    stream = io.StringIO()
    Events(stream).emit("trial", trial={"loss": float("nan"), "curve": [float("inf"), 1.5]})
    assert lines(stream) == [{"type": "trial", "trial": {"loss": None, "curve": [None, 1.5]}}]


def test_emit_from_many_threads_never_mixes_lines() -> None:
    stream = io.StringIO()
    events = Events(stream)

    def talk() -> None:
        for _ in range(50):
            events.note("x" * 500)

    threads = [threading.Thread(target=talk) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(stream)) == 400


def test_stage_finished_reports_its_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    with Events(stream, clock=clock).stage("prepare"):
        clock.now += 2.5
    assert [(line["state"], line.get("seconds")) for line in lines(stream)] == [
        ("started", None),
        ("finished", 2.5),
    ]


def test_stage_that_raises_is_not_finished() -> None:
    stream = io.StringIO()
    with pytest.raises(RuntimeError), Events(stream).stage("prepare"):
        raise RuntimeError
    assert [line["state"] for line in lines(stream)] == ["started"]


def test_progress_many_advances_is_throttled_but_first_and_last_are_kept() -> None:
    stream, clock = io.StringIO(), Clock()
    events = Events(stream, clock=clock)
    with events.stage("prepare"), events.progress("decode", 1000, "images") as bar:
        for _ in range(1000):
            clock.now += 0.01
            bar.advance()
        clock.now += 0.001
    bars = [line for line in lines(stream) if line["type"] == "progress"]
    assert bars[0] == {
        "type": "progress",
        "done": 0,
        "task": "decode",
        "total": 1000,
        "unit": "images",
        "stage": "prepare",
    }
    assert bars[-1]["done"] == 1000
    assert 40 <= len(bars) <= 53


def test_progress_work_that_fails_reports_where_it_stopped() -> None:
    stream, clock = io.StringIO(), Clock()

    def work() -> None:
        with Events(stream, clock=clock).progress("decode", 10, "images") as bar:
            bar.advance(4)
            bar.advance(1)
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        work()
    assert [line["done"] for line in lines(stream)] == [0, 5]


def test_progress_that_goes_on_begins_where_the_other_process_stopped() -> None:
    stream = io.StringIO()
    with Events(stream).progress("decode", 10, "images", done=7) as bar:
        bar.advance(3)
    assert [line["done"] for line in lines(stream)] == [7, 10]


def test_a_reused_stage_is_told_once_at_its_end() -> None:
    stream = io.StringIO()
    with Events(stream).stage("prepare", reused=True):
        assert stream.getvalue() == ""
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["state"] == "reused"


def test_nothing_is_told_after_the_result() -> None:
    stream = io.StringIO()
    events = Events(stream)
    events.emit("result", exitCode=75)
    events.note("A thread that was late.")
    events.emit("result", exitCode=0)
    assert [json.loads(line)["exitCode"] for line in stream.getvalue().splitlines()] == [75]


def test_events_are_copied_to_a_file_too(tmp_path: Path) -> None:
    stream, copy = io.StringIO(), tmp_path / "log"
    Events(Both(stream, copy)).note("half way")
    assert stream.getvalue() == copy.read_text() == '{"type":"note","message":"half way"}\n'


@pytest.mark.parametrize("name", ["missing/log", "/dev/full"])
def test_copy_that_cannot_be_written_is_told_once_and_loses_no_event(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    stream = io.StringIO()
    events = Events(Both(stream, tmp_path / name))
    events.note("one")
    events.note("two")
    assert len(stream.getvalue().splitlines()) == 2
    assert capsys.readouterr().err.count("Events are not copied") == 1
