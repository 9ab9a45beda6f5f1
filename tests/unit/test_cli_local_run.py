"""A TrainingJob run in a process of its own: what is shown, and every way it can end.

The trainer here is a real process that speaks the trainer's protocol from a script.
"""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.unit.emitting_trainer import Steps, result, trainer_command

from tunesmith.line_views import JsonView, PlainView, View
from tunesmith.local_run import run_job
from tunesmith.outcome import Outcome
from tunesmith.run_state import RunState
from tunesmith_api.training_job import TrainingJob

DIGEST = "sha256:" + "3f" * 32
SUCCESS = {
    "phase": "Succeeded",
    "verification": {
        "metrics": {"accuracy": 0.96},
        "gates": [{"metric": "accuracy", "limit": ">= 0.9", "value": 0.96, "passed": True}],
    },
    "model": {"uri": "file:///store/models/flowers/3f", "digest": DIGEST, "verified": True},
    "reportUri": "file:///store/models/flowers/3f/report.html",
}


def job() -> TrainingJob:
    return TrainingJob.model_validate(
        {
            "metadata": {"name": "flowers"},
            "spec": {"dataset": {"uri": "file:///photos"}, "store": {"uri": "file:///store"}},
        }
    )


def run(folder: Path, steps: Steps, view: View | None = None) -> Outcome:
    return run_job(
        job(),
        cache_dir=folder / "cache",
        view=view or JsonView(io.StringIO()),
        trainer=trainer_command(folder, steps),
    )


class StopAtNotes(JsonView):
    """Sends this process the signals, one at each note."""

    def __init__(self, signals: Sequence[int]) -> None:
        super().__init__(io.StringIO())
        self.signals = list(signals)

    def show(self, event: Mapping[str, Any], state: RunState) -> None:
        if event["type"] == "note" and self.signals:
            os.kill(os.getpid(), self.signals.pop(0))


def gone(pid: int, *, within: float = 10.0) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        threading.Event().wait(0.02)
    return False


def test_run_that_succeeds_carries_the_trainers_status(tmp_path: Path) -> None:
    outcome = run(tmp_path, [result(0, "Completed", status=SUCCESS), {"do": "exit", "code": 0}])
    document = outcome.job.to_dict()
    assert outcome.exit_code == 0
    assert document["apiVersion"] == "tunesmith.dev/v1alpha1"
    assert document["kind"] == "TrainingJob"
    assert document["metadata"]["name"] == "flowers"
    assert document["spec"]["dataset"]["uri"] == "file:///photos"
    assert document["status"]["verification"]["metrics"] == {"accuracy": 0.96}
    assert document["status"]["model"]["digest"] == DIGEST


def test_run_gives_the_trainer_its_frozen_spec(tmp_path: Path) -> None:
    run(tmp_path, [result(0, "Completed"), {"do": "exit", "code": 0}])
    arguments = json.loads((tmp_path / "script.arguments").read_text())
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert options["--cache-dir"] == str(tmp_path / "cache")
    assert options["--device"] == "auto"
    assert TrainingJob.model_validate_json(Path(options["--spec"]).read_text()) == job()


def test_run_twice_with_the_same_spec_uses_the_same_file(tmp_path: Path) -> None:
    for _ in range(2):
        run(tmp_path, [result(0, "Completed"), {"do": "exit", "code": 0}])
    assert len(list((tmp_path / "cache").rglob("spec-*.json"))) == 1


def test_run_whose_gate_failed_ends_with_the_trainers_code_and_sentence(tmp_path: Path) -> None:
    sentence = "accuracy is 0.81, below its minimum of 0.90."
    outcome = run(tmp_path, [result(25, "GateFailed", sentence), {"do": "exit", "code": 25}])
    assert (outcome.exit_code, outcome.message) == (25, sentence)


@pytest.mark.parametrize(
    ("number", "code", "words", "reason"),
    [
        pytest.param(signal.SIGKILL, 137, "memory ran out", "OutOfMemory", id="SIGKILL is memory"),
        pytest.param(signal.SIGABRT, 134, "SIGABRT", None, id="another signal is named"),
    ],
)
def test_trainer_ended_by_a_signal_is_told_in_a_sentence(
    tmp_path: Path, number: int, code: int, words: str, reason: str | None
) -> None:
    steps: Steps = [
        {"type": "status", "status": {"phase": "Searching"}},
        {"do": "die", "signal": int(number)},
    ]
    outcome = run(tmp_path, steps)
    assert outcome.exit_code == code
    assert words in outcome.message
    assert "run the same command again" in outcome.next_step
    conditions = outcome.job.to_dict()["status"].get("conditions", [])
    assert [one["reason"] for one in conditions if one["type"] == "Failed"] == ([reason] if reason else [])


def test_trainer_that_ends_without_a_result_shows_the_end_of_its_log(tmp_path: Path) -> None:
    outcome = run(tmp_path, [{"do": "say", "text": "no such thing"}, {"do": "exit", "code": 1}])
    assert outcome.exit_code == 1
    assert str(outcome.log) in outcome.next_step
    assert outcome.next_step.endswith("\n  no such thing")
    assert outcome.job.to_dict()["status"]["phase"] == "Failed"


def test_trainer_that_breaks_after_its_result_is_not_taken_for_a_success(tmp_path: Path) -> None:
    outcome = run(tmp_path, [result(0, "Completed", status=SUCCESS), {"do": "die", "signal": signal.SIGSEGV}])
    assert outcome.exit_code == 128 + signal.SIGSEGV
    assert "SIGSEGV" in outcome.message


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, id="SIGTERM"),
        pytest.param(signal.SIGHUP, id="closed terminal"),
    ],
)
def test_stop_signal_lets_the_trainer_save_and_end(tmp_path: Path, number: int) -> None:
    steps: Steps = [
        {"type": "note", "message": "working"},
        {"do": "sleep until SIGTERM"},
        result(75, "Interrupted", "Stopped."),
        {"do": "exit", "code": 75},
    ]
    before = signal.getsignal(number)
    outcome = run(tmp_path, steps, StopAtNotes([number]))
    assert (outcome.exit_code, outcome.message) == (75, "Stopped.")
    assert signal.getsignal(number) is before


def test_second_stop_signal_kills_a_trainer_that_does_not_listen(tmp_path: Path) -> None:
    steps: Steps = [
        {"type": "note", "message": "working"},
        {"type": "note", "message": "still working"},
        {"do": "ignore SIGTERM"},
    ]
    outcome = run(tmp_path, steps, StopAtNotes([signal.SIGINT, signal.SIGINT]))
    assert outcome.exit_code == 137
    assert outcome.message == "The trainer was killed, as you asked."


def test_workers_that_outlive_the_trainer_are_ended_with_it(tmp_path: Path) -> None:
    worker = tmp_path / "worker"
    run(tmp_path, [{"do": "spawn", "file": str(worker)}, result(0, "Completed"), {"do": "exit", "code": 0}])
    assert gone(int(worker.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_command_line_killed_takes_the_trainer_with_it(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tunesmith.trainer_process import TrainerProcess\n"
        "with TrainerProcess(sys.argv[2:], Path(sys.argv[1])) as trainer:\n"
        "    for event in trainer.events(): print(trainer.pid, flush=True)\n"
    )
    steps: Steps = [{"type": "note", "message": "up"}, {"do": "ignore SIGTERM"}]
    command = [sys.executable, "-c", program, str(tmp_path / "log"), *trainer_command(tmp_path, steps)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        trainer = int(parent.stdout.readline())
        assert not gone(trainer, within=0.1)
        parent.kill()
    assert gone(trainer)


def test_json_view_hands_events_on_unchanged_and_in_order(tmp_path: Path) -> None:
    stream = io.StringIO()
    events: Steps = [
        {"type": "stage", "stage": "prepare", "state": "started"},
        {"type": "a later version's event", "über": [1, None]},
        result(0, "Completed"),
    ]
    run(tmp_path, [*events, {"do": "exit", "code": 0}], JsonView(stream))
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == events


def test_plain_view_tells_a_run_in_sentences(tmp_path: Path) -> None:
    stream = io.StringIO()
    row = {
        "id": "t0001",
        "state": "Succeeded",
        "strategy": "LinearProbe",
        "backbone": "mobilenet_v2",
        "metrics": {"accuracy": 0.9},
    }
    events: Steps = [
        {"type": "stage", "stage": "prepare", "state": "reused", "seconds": 0.0},
        {"type": "stage", "stage": "search", "state": "started"},
        {"type": "trial", "trial": {**row, "state": "Running"}},
        {"type": "trial", "trial": row},
        {"type": "finding", "check": "duplicate", "count": 2, "policy": "Drop", "sentence": "2 duplicates."},
        {"type": "stage", "stage": "search", "state": "finished", "seconds": 65.2},
    ]
    run(
        tmp_path,
        [*events, result(0, "Completed"), {"do": "exit", "code": 0}],
        PlainView(stream, "accuracy"),
    )
    assert stream.getvalue().splitlines() == [
        "prepare: kept from an earlier run",
        "search: started",
        "trial t0001: LinearProbe on mobilenet_v2 succeeded, accuracy 0.9000",
        "2 duplicates.",
        "search: finished in 1:05",
    ]


def test_trainers_stray_output_goes_to_the_log_and_not_to_the_events(tmp_path: Path) -> None:
    stream = io.StringIO()
    trainer = [sys.executable, "-c", "print('a library was here'); print('[1]')"]
    outcome = run_job(job(), cache_dir=tmp_path / "cache", view=JsonView(stream), trainer=trainer)
    assert stream.getvalue() == ""
    assert "a library was here" in outcome.log.read_text()
