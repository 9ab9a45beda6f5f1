"""How a run ended: the TrainingJob as a cluster would show it, and what a person wants to know of it."""

import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith import wording
from tunesmith.run_state import RunState
from tunesmith.trainer_process import log_tail
from tunesmith_api.reasons import EXIT_CODES, Reason, TrainingJobCondition, reason_of_exit_code
from tunesmith_api.status import Condition, TrainingJobStatus, with_condition
from tunesmith_api.training_job import TrainingJob


@dataclass(frozen=True)
class Outcome:
    """The end of a run.

    Attributes:
        job: the TrainingJob with its final status.
        exit_code: what the command ends with: the trainer's own code, or 128 plus the number of the signal
            that ended the trainer, as shells do.
        message: what happened, when it did not go well; empty otherwise.
        next_step: what to do about it; may be empty.
        log: the trainer's log.
    """

    job: TrainingJob
    exit_code: int
    message: str
    next_step: str
    log: Path

    @property
    def succeeded(self) -> bool:
        """Whether a verified model came of it."""
        return self.exit_code == 0


def conclude(
    job: TrainingJob, state: RunState, return_code: int, *, stopped: int, log: Path, now: datetime
) -> Outcome:
    """Draw the conclusion from the last state and the way the trainer's process ended.

    Args:
        job: as it was run, without a status.
        state: after the trainer's last event.
        return_code: the process's exit code; minus a signal's number when a signal ended it.
        stopped: how often we asked it to stop.
        log: the trainer's log.
        now: becomes the completion time where the trainer could not write one.
    """
    status = TrainingJobStatus.model_validate(state.status)
    exit_code = 128 - return_code if return_code < 0 else return_code
    if state.result is not None and return_code == state.result.get("exitCode"):
        message, next_step = str(state.result.get("message") or ""), str(state.result.get("nextStep") or "")
    else:
        reason, message, next_step = _unexplained_end(return_code, stopped, log)
        status = _failed(status, reason, message, now)
    if exit_code == 0:
        message, next_step = "", ""
    return Outcome(job.model_copy(update={"status": status}), exit_code, message, next_step, log)


def _unexplained_end(return_code: int, stopped: int, log: Path) -> tuple[Reason, str, str]:
    """Reason, message and next step for a trainer that ended without its last word."""
    again = (
        "Everything that was finished is in the store: run the same command again and it goes on from there."
    )
    if stopped > 1 and return_code < 0:
        return Reason.INTERRUPTED, "The trainer was killed, as you asked.", again
    if return_code == -signal.SIGKILL:
        message = "The trainer was killed by the system (SIGKILL), most likely because memory ran out."
        return Reason.OUT_OF_MEMORY, message, f"Give it more memory or smaller images. {again}"
    if return_code < 0:
        name = signal.Signals(-return_code).name
        return Reason.INTERRUPTED, f"The trainer was ended by the signal {name}.", again
    if return_code == EXIT_CODES[Reason.INTERRUPTED]:
        return Reason.INTERRUPTED, "The trainer was interrupted.", again
    reason = reason_of_exit_code(return_code) or Reason.INTERNAL_ERROR
    end = "".join(f"\n  {line}" for line in log_tail(log, 5))
    return (
        reason,
        f"The trainer ended with exit code {return_code} and gave no reason.",
        f"Its log, {log}:{end}",
    )


def _failed(status: TrainingJobStatus, reason: Reason, message: str, now: datetime) -> TrainingJobStatus:
    if reason is Reason.INTERRUPTED:
        return status
    condition = Condition(
        type=TrainingJobCondition.FAILED,
        status="True",
        reason=reason,
        message=message,
        last_transition_time=now.astimezone(UTC),
    )
    return status.model_copy(
        update={
            "conditions": with_condition(status.conditions, condition),
            "phase": "Failed",
            "completion_time": condition.last_transition_time,
        }
    )


def print_outcome(console: Console, outcome: Outcome) -> None:
    """Tell a person the verdict, the metrics with their gates, where things lie and how to go on."""
    status = outcome.job.status or TrainingJobStatus()
    console.print()
    if status.verification and status.verification.metrics:
        console.print(metrics_table(status))
        console.print()
    if outcome.succeeded:
        console.print(Text("Verified: the model passed every gate.", style="bold green"))
    else:
        console.print(Text(outcome.message, style="bold red"), soft_wrap=True)
        if outcome.next_step:
            console.print(Text(outcome.next_step), soft_wrap=True)
    for line in places(status):
        console.print(Text(line), soft_wrap=True)


def metrics_table(status: TrainingJobStatus) -> Table:
    """The test metrics, each beside its gate and the gate's answer."""
    verification = status.verification
    assert verification is not None
    table = Table(box=None, pad_edge=False)
    for heading, justify in (("test metric", "left"), ("value", "right"), ("gate", "left"), ("", "left")):
        table.add_column(heading, justify="right" if justify == "right" else "left")
    gates: dict[str, list[Any]] = {}
    for gate in verification.gates:
        gates.setdefault(gate.metric, []).append(gate)
    names = [*verification.metrics, *(name for name in gates if name not in verification.metrics)]
    for name in names:
        value = wording.metric(verification.metrics.get(name))
        for gate in gates.get(name) or [None]:
            if gate is None:
                table.add_row(name, value, "", "")
            else:
                answer = Text("passed", "green") if gate.passed else Text(f"failed: {gate.message}", "red")
                table.add_row(name, value, gate.limit, answer)
    return table


def places(status: TrainingJobStatus) -> list[str]:
    """Where report and model lie, and the commands to go on with."""
    lines = []
    if status.report_uri:
        lines.append(f"Report   {status.report_uri}")
    if status.model:
        lines += [
            f"Model    {status.model.uri}",
            f"Digest   {status.model.digest}",
            "",
            "Go on with",
            f"  tunesmith inspect {status.model.uri}",
            f"  tunesmith verify  {status.model.uri}",
            f"  tunesmith predict {status.model.uri} IMAGE...",
        ]
    return lines
