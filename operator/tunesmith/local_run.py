"""A TrainingJob on this machine: the trainer in a process of its own, shown while it runs."""

import hashlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tunesmith.files import place
from tunesmith.line_views import View
from tunesmith.outcome import Outcome, conclude
from tunesmith.run_state import RunState
from tunesmith.trainer_process import TrainerProcess, stopping_on_signals
from tunesmith_api.reasons import TunesmithError
from tunesmith_api.training_job import TrainingJob

LOG_BYTES = 10_000_000


def run_job(
    job: TrainingJob,
    *,
    cache_dir: Path,
    view: View,
    device: str = "auto",
    trainer: Sequence[str] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Run a TrainingJob to its end, or go on with one that was interrupted.

    Args:
        job: a validated TrainingJob whose addresses are absolute.
        cache_dir: where decoded images, features and this run's spec and log are kept.
        view: shows what happens.
        device: auto, cpu or cuda.
        trainer: the command that starts a trainer; this Python's tunesmith_trainer unless given.
        clock: seconds that only grow.

    Returns:
        The outcome, good or bad; a failed training is not an exception.

    Raises:
        TunesmithError: the trainer is not installed.
    """
    folder = cache_dir / "runs" / job.metadata.namespace / job.name
    command = [*(trainer or _installed_trainer()), "--spec", str(write_spec(job, folder))]
    command += ["--cache-dir", str(cache_dir), "--device", device]
    log = folder / "trainer.log"
    if log.is_file() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    state = RunState()
    with (
        view,
        TrainerProcess(command, log) as process,
        stopping_on_signals(process, lambda count: view.say(_on_stop(count))),
    ):
        try:
            for event in process.events():
                state = state.after(event, clock())
                view.show(event, state)
        except BrokenPipeError:
            # Whoever read our output has gone, as `| head` does: nobody waits for the rest.
            process.stop()
        return_code = process.wait()
    return conclude(job, state, return_code, stopped=process.stop_requests, log=log, now=datetime.now(UTC))


def write_spec(job: TrainingJob, folder: Path) -> Path:
    """Freeze the job as JSON in ``folder``, named by its content: two runs never share a changing file."""
    content = json.dumps(job.to_dict(), indent=2, ensure_ascii=False).encode()
    path = folder / f"spec-{hashlib.sha256(content).hexdigest()[:16]}.json"
    place(path, lambda temporary: temporary.write_bytes(content))
    return path


def _installed_trainer() -> list[str]:
    if importlib.util.find_spec("tunesmith_trainer") is None or importlib.util.find_spec("torch") is None:
        raise TunesmithError(
            "Training needs torch and Ray, which are not installed here.",
            "Install them with pip install 'tunesmith[trainer]'.",
        )
    return [sys.executable, "-m", "tunesmith_trainer"]


def _on_stop(count: int) -> str:
    if count > 1:
        return "Killing the trainer."
    return "Stopping: the trainer saves what it has. Press Ctrl-C once more to kill it."
