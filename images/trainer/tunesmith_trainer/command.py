"""``python -m tunesmith_trainer --spec job.json``: one TrainingJob, told as JSON lines on standard output."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import NoReturn, TextIO

from tunesmith_api.reasons import (
    DiskFull,
    Interrupted,
    Reason,
    TrainingJobCondition,
    TunesmithError,
    exit_code,
)
from tunesmith_api.training_job import TrainingJob
from tunesmith_trainer.cluster import (
    LAST_SECONDS,
    TERMINATION_LOG,
    StatusReporter,
    cluster_writer,
    last_words,
)
from tunesmith_trainer.events import Both, Events
from tunesmith_trainer.interruption import Stopped, end_descendants, stop_on_signals
from tunesmith_trainer.search.local_ray import remove_own_folders, start_early, stop_early, trial_slots
from tunesmith_trainer.status import StatusBoard

INTERRUPTED_SECONDS = 5.0
"""How long the last status may take when the process has been asked to stop."""


def main(arguments: list[str] | None = None) -> int:
    """Run the trainer and return its exit code; see ``tunesmith_api.reasons.EXIT_CODES``."""
    options = _parse(arguments)
    stream = _claim_stdout()
    events = Events(Both(stream, options.copy_events) if options.copy_events else stream)
    stop_on_signals(lambda: _give_up(events))
    board: StatusBoard | None = None
    reporter: StatusReporter | None = None
    error: TunesmithError | None = None
    try:
        job = TrainingJob.model_validate(json.loads(options.spec.read_text(encoding="utf-8")))
        if options.training_job_uid:
            write = cluster_writer(job.metadata.namespace, job.name, options.training_job_uid)
            reporter = StatusReporter(write)
        if not job.spec.compute.workers:
            start_early(trial_slots(job.spec), 0 if options.device == "cpu" else None)
        # Imported after the streams are settled, and while Ray starts: torch takes seconds and may print.
        from tunesmith_trainer.run import JobRun

        tell = reporter.tell if reporter else lambda status: None
        run = JobRun(job, options.cache_dir.absolute(), options.device, events, options.store_patience, tell)
        board = run.board
        run.run()
    except TunesmithError as caught:
        error = caught
    except Stopped:
        error = _interrupted()
    except OSError as caught:
        error = _disk_full(caught) if caught.errno in (errno.ENOSPC, errno.EDQUOT) else _internal(caught)
    except Exception as caught:
        error = _internal(caught)
    if not isinstance(error, Interrupted):
        stop_early()
    code = _finish(events, board, error)
    if options.training_job_uid:
        if reporter is not None:
            reporter.finish(INTERRUPTED_SECONDS if isinstance(error, Interrupted) else LAST_SECONDS)
        _leave_last_words(options.termination_message, board, error)
    return code


def _finish(events: Events, board: StatusBoard | None, error: TunesmithError | None) -> int:
    """Tell the result, always the last line."""
    if board is not None and error is not None and error.reason is not Reason.INTERRUPTED:
        board.condition(TrainingJobCondition.FAILED, "True", error.reason, str(error))
        board.finish("Failed")
    code = 0 if error is None else exit_code(error)
    events.emit(
        "result",
        exitCode=code,
        reason=Reason.COMPLETED.value if error is None else error.reason.value,
        message="The model is verified." if error is None else error.message,
        nextStep="" if error is None else error.next_step,
        status=None if board is None else board.as_json(),
    )
    return code


def _leave_last_words(path: Path, board: StatusBoard | None, error: TunesmithError | None) -> None:
    reason = Reason.COMPLETED if error is None else error.reason
    message, next_step = ("The model is verified.", "") if error is None else (error.message, error.next_step)
    status = None if board is None else board.as_json()
    try:
        path.write_text(last_words(reason.value, message, next_step, status), encoding="ascii")
    except OSError as problem:
        print(f"The termination message was not written: {problem}", file=sys.stderr)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tunesmith_trainer", description=__doc__)
    parser.add_argument("--spec", type=Path, required=True, help="the TrainingJob as JSON")
    parser.add_argument("--cache-dir", type=Path, required=True, help="for what can be made again")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--store-patience", type=float, default=300, metavar="SECONDS", help="how long a store may stay away"
    )
    parser.add_argument(
        "--training-job-uid",
        default="",
        metavar="UID",
        help="in a cluster: report to the TrainingJob of this uid, and leave a termination message",
    )
    parser.add_argument(
        "--copy-events",
        type=Path,
        metavar="FILE",
        help="write the events there too: in a RayJob, to the log of the head's container",
    )
    parser.add_argument("--termination-message", type=Path, default=TERMINATION_LOG, metavar="FILE")
    return parser.parse_args(arguments)


def _claim_stdout() -> TextIO:
    """Keep standard output for events alone: what libraries print goes to standard error from here on."""
    sys.stdout.flush()
    own = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return own


def _give_up(events: Events) -> NoReturn:
    """End a process that was asked to stop and is busy with something that cannot be interrupted."""
    # Told in a thread, because the stream may be what blocks.
    last = threading.Thread(target=_finish, args=(events, None, _interrupted()), daemon=True)
    last.start()
    last.join(timeout=1.0)
    end(exit_code(_interrupted()))


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


def end(code: int) -> NoReturn:
    """End this process now, and all that it has started.

    Everything is told and stored. Threads that still decode or search, and the destructors of half a dozen
    C++ libraries, would only put the end off, or hang.
    """
    end_descendants(remove_own_folders)
    os._exit(code)
