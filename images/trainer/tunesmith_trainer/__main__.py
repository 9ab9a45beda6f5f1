"""``python -m tunesmith_trainer --spec job.json``: one TrainingJob, told as JSON lines on standard output."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import TextIO

from tunesmith_api.reasons import (
    DiskFull,
    Interrupted,
    Reason,
    TrainingJobCondition,
    TunesmithError,
    exit_code,
)
from tunesmith_api.training_job import TrainingJob
from tunesmith_trainer.events import Events


def main(arguments: list[str] | None = None) -> int:
    """Run the trainer and return its exit code; see ``tunesmith_api.reasons.EXIT_CODES``."""
    options = _parse(arguments)
    stream = _claim_stdout()
    events = Events(stream)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    # Imported after the streams are settled: torch and ray take seconds and may print.
    from tunesmith_trainer.run import JobRun

    run: JobRun | None = None
    error: TunesmithError | None = None
    try:
        job = TrainingJob.model_validate(json.loads(options.spec.read_text(encoding="utf-8")))
        run = JobRun(job, options.cache_dir, options.device, events, options.store_patience)
        run.run()
    except TunesmithError as caught:
        error = caught
    except KeyboardInterrupt:
        error = _interrupted()
    except OSError as caught:
        error = _disk_full(caught) if caught.errno in (errno.ENOSPC, errno.EDQUOT) else _internal(caught)
    except Exception as caught:
        error = _internal(caught)
    return _finish(events, run, error)


def _finish(events: Events, run: object, error: TunesmithError | None) -> int:
    """Tell the result, always the last line."""
    from tunesmith_trainer.run import JobRun

    status = None
    if isinstance(run, JobRun):
        if error is not None and error.reason is not Reason.INTERRUPTED:
            run.board.condition(TrainingJobCondition.FAILED, "True", error.reason, str(error))
            run.board.finish("Failed")
        status = run.board.as_json()
    code = 0 if error is None else exit_code(error)
    events.emit(
        "result",
        exitCode=code,
        reason=Reason.COMPLETED.value if error is None else error.reason.value,
        message="The model is verified." if error is None else error.message,
        nextStep="" if error is None else error.next_step,
        status=status,
    )
    return code


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tunesmith_trainer", description=__doc__)
    parser.add_argument("--spec", type=Path, required=True, help="the TrainingJob as JSON")
    parser.add_argument("--cache-dir", type=Path, required=True, help="for what can be made again")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--store-patience", type=float, default=300, metavar="SECONDS", help="how long a store may stay away"
    )
    return parser.parse_args(arguments)


def _claim_stdout() -> TextIO:
    """Keep standard output for events alone: what libraries print goes to standard error from here on."""
    sys.stdout.flush()
    own = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return own


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise _interrupted()


def _interrupted() -> Interrupted:
    return Interrupted(
        "The run was asked to stop; everything finished is kept.", "Run the same command again to go on."
    )


def _disk_full(error: OSError) -> DiskFull:
    where = f" ({error.filename})" if error.filename else ""
    return DiskFull(
        f"A disk of this machine is full{where}; everything finished is kept.",
        "Free some space, or choose another --cache-dir, and run the same command again.",
    )


def _internal(error: Exception) -> TunesmithError:
    traceback.print_exception(error, file=sys.stderr)
    return TunesmithError(
        f"Tunesmith itself failed: {type(error).__name__}: {error}.",
        "Please report it with the log; everything finished is kept and the same command goes on.",
    )


if __name__ == "__main__":
    sys.exit(main())
