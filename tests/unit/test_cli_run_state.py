"""The trainer's events folded into what is known of a run."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.run_state import STAGES, RunState


def after(events: Iterable[tuple[float, Mapping[str, Any]]]) -> RunState:
    state = RunState()
    for now, event in events:
        state = state.after(event, now)
    return state


def stage(name: str, state: str, seconds: float | None = None) -> dict[str, Any]:
    return {"type": "stage", "stage": name, "state": state, "seconds": seconds}


def decoded(done: int, total: int = 100) -> dict[str, Any]:
    return {
        "type": "progress",
        "task": "decode",
        "stage": "prepare",
        "done": done,
        "total": total,
        "unit": "images",
    }


def trial(name: str, state: str = "Succeeded", **metrics: float) -> dict[str, Any]:
    return {"type": "trial", "trial": {"id": name, "state": state, "metrics": metrics}}


@pytest.mark.parametrize(
    ("event", "word", "seconds"),
    [
        pytest.param(stage("search", "started"), "started", None, id="a started stage has no duration yet"),
        pytest.param(stage("search", "finished", 2.5), "finished", 2.5, id="a finished stage has a duration"),
        pytest.param(stage("search", "reused", 0.0), "reused", 0.0, id="a reused stage took no time"),
    ],
)
def test_stage_event_changes_only_its_stage(event: dict[str, Any], word: str, seconds: float | None) -> None:
    state = after([(5.0, event)])
    assert {one.name: one.state for one in state.stages} == dict.fromkeys(STAGES, "waiting") | {
        "search": word
    }
    assert state.stages[1].seconds == seconds


def test_progress_of_steady_work_tells_rate_and_time_left() -> None:
    state = after([(10.0, decoded(0)), (12.0, decoded(50))])
    task = state.current_task("prepare")
    assert task is not None
    assert task.rate == 25.0
    assert task.seconds_left(now=12.0) == 2.0
    assert task.seconds_left(now=13.0) == 1.0


def test_progress_that_begins_in_the_middle_counts_only_what_was_seen() -> None:
    state = after([(10.0, decoded(90)), (11.0, decoded(95))])
    task = state.current_task("prepare")
    assert task is not None
    assert task.rate == 5.0


def test_progress_that_starts_over_forgets_the_old_rate() -> None:
    state = after([(0.0, decoded(0)), (10.0, decoded(100)), (20.0, decoded(0)), (21.0, decoded(50))])
    task = state.current_task("prepare")
    assert task is not None
    assert task.rate == 50.0


def test_progress_that_is_complete_is_no_longer_current() -> None:
    state = after([(0.0, decoded(0)), (1.0, decoded(100))])
    assert state.current_task("prepare") is None


def test_best_trials_ranks_by_direction_and_leaves_out_the_unmeasured() -> None:
    state = after(
        [
            (0.0, trial("t1", accuracy=0.8)),
            (0.0, trial("t2", accuracy=0.9)),
            (0.0, trial("t3", state="Running")),
        ]
    )
    assert [row["id"] for row in state.best_trials("accuracy", maximize=True, limit=5)] == ["t2", "t1"]
    assert [row["id"] for row in state.best_trials("accuracy", maximize=False, limit=1)] == ["t1"]
    assert state.trial_counts() == {"Succeeded": 2, "Running": 1}


def test_best_trials_that_tie_stand_in_the_order_of_the_searchs_score() -> None:
    rows = [trial("t1", accuracy=0.9), trial("t2", accuracy=0.9), trial("t3", accuracy=0.9)]
    rows[0]["trial"]["score"] = 0.3
    rows[1]["trial"]["score"] = 0.2
    state = after((0.0, row) for row in rows)
    assert [row["id"] for row in state.best_trials("accuracy", maximize=True, limit=3)] == ["t2", "t1", "t3"]


def test_trial_told_twice_keeps_its_newest_row() -> None:
    state = after([(0.0, trial("t1", accuracy=0.5)), (1.0, trial("t1", accuracy=0.7))])
    assert len(state.trials) == 1
    assert state.trials["t1"]["metrics"] == {"accuracy": 0.7}


def test_result_without_a_status_keeps_the_last_one() -> None:
    state = after(
        [
            (0.0, {"type": "status", "status": {"phase": "Searching"}}),
            (
                1.0,
                {"type": "result", "exitCode": 75, "reason": "Interrupted", "message": "m", "nextStep": "n"},
            ),
        ]
    )
    assert state.status == {"phase": "Searching"}
    assert state.result is not None


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("stage", "state", "seconds", "task", "done", "total", "unit", "trial", "message", "status")


@given(
    st.sampled_from(["stage", "progress", "trial", "finding", "note", "status", "result", "a later one"]),
    st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES),
)
def test_events_of_any_shape_never_break_the_state(kind: str, fields: dict[str, Any]) -> None:
    state = RunState().after({"type": kind, **fields}, 1.0)
    assert len(state.stages) == len(STAGES)
