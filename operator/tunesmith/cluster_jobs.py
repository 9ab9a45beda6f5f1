"""``tunesmith submit``, ``status``, ``logs``, ``wait``, ``cancel``: what is in a cluster, for people."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith import wording
from tunesmith.cluster import Cluster
from tunesmith.cluster_names import reference
from tunesmith.deployment_view import NO_OPERATOR, details, overview
from tunesmith.following import DAY, Say, follow
from tunesmith.job_file import read_text
from tunesmith.line_views import JsonView, PlainView, View, compact
from tunesmith.live_view import LiveView
from tunesmith.outcome import metrics_table, places
from tunesmith.run_state import RunState
from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_api.reasons import EXIT_CODES, Reason, SpecInvalid, reason_named
from tunesmith_api.status import Condition, TrainingJobStatus
from tunesmith_api.training_job import TrainingJob
from tunesmith_api.validation import load_documents
from tunesmith_api.yaml_text import parse

POD_SECONDS = 1.0
STYLES = {"Succeeded": "green", "Failed": "red", "Suspended": "yellow"}


def submit(cluster: Cluster, path: Path, console: Console, *, follow: bool) -> int:
    """Create the resources of a file, and follow the only TrainingJob to its end when asked to.

    Returns:
        0, or the exit code of the job that was followed.

    Raises:
        SpecInvalid: something in the file breaks a rule; nothing is submitted then.
    """
    text = read_text(path)
    resources = load_documents(text, str(path))
    jobs = [one.name for one in resources if isinstance(one, TrainingJob)]
    if follow and len(jobs) != 1:
        held = "several TrainingJobs" if jobs else "no TrainingJob"
        raise SpecInvalid(f"{path} holds {held}.", "Leave --follow out, or submit one job at a time.")
    submit_documents(cluster, text, lambda said: console.print(said, soft_wrap=True))
    if follow:
        return follow_job(cluster, jobs[0], console, as_json=False)
    deployments = [f"deployment/{one.name}" for one in resources if not isinstance(one, TrainingJob)]
    commands = [*(f"logs -f {name}" for name in jobs[:1]), *(f"wait {name}" for name in deployments[:1])]
    for command in commands:
        console.print(f"Follow it with: tunesmith {command} -n {cluster.namespace}", soft_wrap=True)
    return 0


def submit_documents(cluster: Cluster, text: str, say: Say) -> list[TrainingJob | ModelDeployment]:
    """Create the resources of a text that was checked, in its order.

    As it was written: what is left out stays with the server, and a later kubectl apply sees no difference.
    """
    submitted: list[TrainingJob | ModelDeployment] = []
    for document in parse(text):
        is_job = document["kind"] == TrainingJob.KIND
        kind = cluster.jobs if is_job else cluster.deployments
        submitted.append(kind.submit(document))
        name = submitted[-1].name if is_job else f"deployment/{submitted[-1].name}"
        say(f"Submitted {name} to the namespace {cluster.namespace}.")
    return submitted


def show_status(cluster: Cluster, name: str | None, console: Console, *, as_json: bool) -> None:
    """One resource in full, or a line for each."""
    now = datetime.now(UTC)
    named = reference(name) if name else None
    jobs: list[TrainingJob] = []
    deployments: list[ModelDeployment] = []
    if named is None:
        jobs, deployments = cluster.jobs.all(), cluster.deployments.all()
    elif named.is_deployment:
        deployments = [cluster.deployments.get(named.name)]
    else:
        jobs = [cluster.jobs.get(named.name)]
    if as_json:
        for one in (*jobs, *deployments):
            print(compact(one.to_dict()), flush=True)
    elif named is not None:
        shown = details(deployments[0], now) if named.is_deployment else _details(jobs[0])
        for part in shown:
            console.print(part, soft_wrap=isinstance(part, Text))
    elif jobs or deployments:
        tables = [
            *([_overview(jobs)] if jobs else []),
            *([overview(deployments, now)] if deployments else []),
        ]
        for index, table in enumerate(tables):
            console.print(*([""] if index else []), table, sep="\n")
    else:
        console.print(
            f"There are no TrainingJobs and no ModelDeployments in the namespace {cluster.namespace}."
        )


def follow_job(cluster: Cluster, name: str, console: Console, *, as_json: bool, follow: bool = True) -> int:
    """Show a job's training as `tunesmith run` would: the trainer's events, from its pods' logs.

    Args:
        cluster: where it runs.
        name: of the job.
        console: standard output.
        as_json: hand the events on, one a line.
        follow: stay until the job is over, through pods that are replaced.

    Returns:
        0 for a verified model or one that goes on; else the exit code of the reason.
    """
    job = cluster.jobs.get(name)
    state = RunState()
    with _view(job, console, as_json=as_json) as view:
        seen: set[str] = set()
        while True:
            pod = next((one for one in cluster.pods(name) if one.metadata.name not in seen), None)
            if pod is not None and pod.status.phase != "Pending":
                seen.add(pod.metadata.name)
                for event in _events(cluster.log_lines(pod.metadata.name, follow=follow)):
                    state = state.after(event, time.monotonic())
                    view.show(event, state)
            job = cluster.jobs.get(name)
            if not follow or _ended(job):
                break
            view.say(_sentence(job))
            time.sleep(POD_SECONDS)
    if not as_json:
        console.print(*_details(job), sep="\n")
    return exit_code_of(job)


def wait_for(cluster: Cluster, name: str, say: Say, *, timeout: float = DAY) -> int:
    """Wait until a job is over; tells each change of what is the case.

    Returns:
        0 for a verified model, else the exit code of the reason.

    Raises:
        DeadlineExceeded: it is not over within ``timeout`` seconds.
    """

    def end(job: TrainingJob) -> int | None:
        return exit_code_of(job) if _ended(job) else None

    return follow(cluster.jobs, name, end, _sentence, _sentence, say, timeout=timeout)


def cancel(cluster: Cluster, name: str, say: Say, *, delete: bool) -> None:
    """Suspend a job, or delete it; what lies in the store stays in either case."""
    job = cluster.jobs.get(name)
    if delete:
        cluster.jobs.delete(name)
        say(f"Deleted {name}; finished stages and models stay in {job.spec.store.uri}.")
    elif _ended(job):
        say(f"{name} is over already: {_sentence(job)}")
    else:
        cluster.jobs.change(name, {"spec": {"suspend": True}})
        patch = '{"spec":{"suspend":false}}'
        again = f"kubectl patch tj {name} -n {cluster.namespace} --type merge -p '{patch}'"
        say(f"Suspended {name}; everything finished is kept. To go on:\n  {again}")


def exit_code_of(job: TrainingJob) -> int:
    """What a command that followed a job ends with: as `tunesmith run` would."""
    failed = _condition(job, "Failed")
    if failed is None or failed.status != "True":
        return 0
    known = reason_named(failed.reason) or Reason.INTERNAL_ERROR
    return EXIT_CODES.get(known, EXIT_CODES[Reason.INTERNAL_ERROR])


def _ended(job: TrainingJob) -> bool:
    return any(
        (one := _condition(job, kind)) is not None and one.status == "True"
        for kind in ("Succeeded", "Failed")
    )


def _condition(job: TrainingJob, kind: str) -> Condition | None:
    conditions = job.status.conditions if job.status else ()
    return next((one for one in conditions if one.type == kind), None)


def _sentence(job: TrainingJob) -> str:
    """What is the case with a job, in the operator's words."""
    condition = _condition(job, "Succeeded")
    if condition is None:
        return NO_OPERATOR
    return condition.message


def _view(job: TrainingJob, console: Console, *, as_json: bool) -> View:
    primary = job.spec.objectives[0]
    if as_json:
        return JsonView(sys.stdout)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(console, job.name, primary.metric, maximize=primary.maximize)
    return PlainView(sys.stdout, primary.metric)


def _events(lines: Iterator[bytes]) -> Iterator[Mapping[str, Any]]:
    """The trainer's events; a pod's log also holds what went to standard error."""
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "type" in event:
            yield event
            if event["type"] == "result":
                return  # A RayJob's pod may stay.


def _overview(jobs: list[TrainingJob]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "state", "trials", "best", "model", "age", "what is the case"):
        table.add_column(heading)
    for job in jobs:
        status = job.status or TrainingJobStatus()
        search = status.search
        table.add_row(
            job.name,
            Text(status.phase or "New", STYLES.get(status.phase or "", "")),
            str(search.trials) if search else "",
            search.best.score if search and search.best else "",
            status.model.revision if status.model else "",
            _age(job),
            Text(_sentence(job), no_wrap=True, overflow="ellipsis"),
        )
    return table


def _details(job: TrainingJob) -> Iterator[Any]:
    status = job.status or TrainingJobStatus()
    yield Text.assemble(
        (job.name, "bold"), "  ", (status.phase or "New", STYLES.get(status.phase or "", "cyan"))
    )
    yield Text(_sentence(job))
    for condition in status.conditions:
        sign = {"True": "✓", "False": "✗"}.get(condition.status, "·")
        yield Text(f"  {sign} {condition.type}: {condition.reason}", "dim")
    if status.verification and status.verification.metrics:
        yield metrics_table(status)
    if status.gpu_seconds:
        yield Text(f"GPU time: {wording.duration(status.gpu_seconds)}, over all pods.")
    yield from map(Text, places(status))


def _age(job: TrainingJob) -> str:
    created = job.metadata.creation_timestamp
    if created is None:
        return ""
    return wording.duration((datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds())
