"""What a RayJob's status says: how far it is, and how its trainer ended.

KubeRay keeps the message of Ray's job server, which holds the exit code of what was submitted and the last
lines that it wrote; the trainer's very last line is its result.
"""

import json
import re

from tunesmith_api.reasons import Reason
from tunesmith_operator.findings import Finding
from tunesmith_operator.kinds import RAY_JOB, Object
from tunesmith_operator.training_job.children import COMPUTE_ANNOTATION, FINAL_CODES, INTERRUPTED_CODE
from tunesmith_operator.training_job.observed import Observed, Run
from tunesmith_operator.training_job.pods import Exit, Pod, blocker, moment
from tunesmith_operator.training_job.verdict import Verdict

_EXIT_CODE = re.compile(r"failed with exit code (-?\d+)")
_RESULT = '{"type":"result"'
OVER = ("Complete", "Failed", "ValidationFailed")
STOPPED = "Stopped"


def parse_ray_job(raw: Object) -> Run:
    """Read a RayJob."""
    metadata, spec, status = raw["metadata"], raw["spec"], raw.get("status") or {}
    stage, result = str(status.get("jobDeploymentStatus") or ""), str(status.get("jobStatus") or "")
    outcome = None
    if stage in OVER:
        outcome = "Complete" if stage == "Complete" and result == "SUCCEEDED" else "Failed"
    return Run(
        kind=RAY_JOB,
        name=metadata["name"],
        uid=metadata["uid"],
        suspended=bool(spec.get("suspend")),
        terminating=bool(metadata.get("deletionTimestamp")),
        compute_mark=(metadata.get("annotations") or {}).get(COMPUTE_ANNOTATION, ""),
        backoff_limit=spec.get("backoffLimit"),
        active_deadline_seconds=spec.get("activeDeadlineSeconds"),
        ttl_seconds=spec.get("ttlSecondsAfterFinished"),
        failed=int(status.get("failed") or 0),
        created=moment(metadata["creationTimestamp"]),
        started=moment(status["startTime"]) if status.get("startTime") else None,
        ended=moment(status["endTime"]) if status.get("endTime") and outcome else None,
        outcome=outcome,  # type: ignore[arg-type]
        outcome_reason=STOPPED if result == "STOPPED" else str(status.get("reason") or ""),
        outcome_message=str(status.get("message") or ""),
        end=trainer_end(raw),
        trains=stage == "Running" and result == "RUNNING",
        cluster=str(status.get("rayClusterName") or ""),
    )


def trainer_end(raw: Object) -> Pod | None:
    """How the trainer ended, told as the end of a pod; None when it did not, or KubeRay cannot say."""
    status = raw.get("status") or {}
    said = str(status.get("message") or "")
    found = _EXIT_CODE.search(said) if status.get("jobStatus") == "FAILED" else None
    if found is None:
        return None
    code = int(found.group(1))
    at = status.get("endTime") or (status.get("rayJobInfo") or {}).get("endTime")
    ended = Exit(
        code=code if code >= 0 else 128 - code,  # Python tells a signal as a negative number
        reason="Error",
        said=_last_result(said),
        at=moment(at) if at else None,
    )
    created = moment(raw["metadata"]["creationTimestamp"])
    head = str(status.get("rayClusterName") or raw["metadata"]["name"])
    return Pod(name=head, uid="", phase="Failed", created=created, ended=ended)


def _last_result(said: str) -> str:
    for line in reversed(said.splitlines()):
        if line.startswith(_RESULT):
            try:
                json.loads(line)
            except ValueError:
                return ""
            return line
    return ""


def progress(observed: Observed, run: Run) -> Verdict | None:
    """How a RayJob does whose trainer does not run; None when it runs, or nothing is known of its pods."""
    live = observed.live_pods
    for pod in live:
        if obstacle := blocker(pod):
            return Verdict("Pending", obstacle)
    if not live and observed.refusal is not None:
        return None
    running = [pod for pod in live if pod.phase == "Running" and not pod.terminating]
    if run.trains and any(pod.role == "head" for pod in running):
        return None
    wanted = observed.job.spec.compute.workers + 1
    message = f"KubeRay starts the pods ({len(running)} of {wanted} run), then the trainer."
    return Verdict("Pending", Finding(Reason.QUEUED, message))


def worth_a_retry(run: Run) -> bool:
    """Whether another trainer may fare better."""
    if run.end is None or run.end.ended is None:
        return run.outcome_reason not in (STOPPED, "DeadlineExceeded", "ValidationFailed")
    return run.end.ended.code not in FINAL_CODES


def failures(observed: Observed, run: Run) -> tuple[str, ...]:
    """The uids of the RayJobs that have failed, with this one; a trainer that was asked to stop has not."""
    stopped = run.end is not None and run.end.ended is not None and run.end.ended.code == INTERRUPTED_CODE
    return observed.failures if stopped or run.uid in observed.failures else (*observed.failures, run.uid)


def failure(run: Run) -> Finding:
    """Why a RayJob failed whose trainer left no exit code."""
    said = run.outcome_message.strip().rstrip(".") or run.outcome_reason
    if run.outcome_reason == STOPPED:
        said = "somebody stopped the trainer through Ray's job server"
    return Finding(
        Reason.INTERNAL_ERROR,
        f"The RayJob {run.name} failed: {said}. See kubectl describe rayjob {run.name}.",
    )
