"""A ModelDeployment on one screen; pure but for the clock, which is given."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from tunesmith import wording
from tunesmith.rollout_changes import share
from tunesmith.rollout_ends import condition, is_observed, is_ready
from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_api.reasons import ModelDeploymentCondition, Reason
from tunesmith_api.status import CanaryStatus, HistoryEntry, ModelDeploymentStatus, RevisionStatus

NO_OPERATOR = "Waiting for the operator. If this stays, see if it runs: kubectl -n tunesmith-system get pods."
BAR_CELLS = 20
OUTCOMES = {"Promoted": "green", "RolledBack": "yellow", "Rejected": "red", "Superseded": "dim"}
_SIGNS = {"True": ("✓", "green"), "False": ("✗", "red")}
_DIGEST_LETTERS = len("sha256:") + 12


def sentence(deployment: ModelDeployment) -> str:
    """What is the case, in the operator's words."""
    ready = condition(deployment, ModelDeploymentCondition.READY)
    progressing = condition(deployment, ModelDeploymentCondition.PROGRESSING)
    if ready is None or not is_observed(deployment):
        return NO_OPERATOR
    if ready.status == "True" and progressing is not None and progressing.reason != Reason.COMPLETED.value:
        return progressing.message
    return ready.message


def state(deployment: ModelDeployment) -> tuple[str, str]:
    """In a word, and its colour."""
    progressing = condition(deployment, ModelDeploymentCondition.PROGRESSING)
    if condition(deployment, ModelDeploymentCondition.READY) is None:
        return "New", "cyan"
    if not is_ready(deployment):
        return "NotReady", "red"
    if deployment.spec.rollout.paused:
        return "Paused", "yellow"
    if progressing is not None and progressing.status == "True":
        return "Progressing", "cyan"
    return "Ready", "green"


def details(deployment: ModelDeployment, now: datetime) -> Iterator[Any]:
    """Everything that is known of it, what to do next included."""
    status = deployment.status or ModelDeploymentStatus()
    yield Text.assemble((f"deployment/{deployment.name}", "bold"), "  ", state(deployment))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for kind in ModelDeploymentCondition:
        found = condition(deployment, kind)
        if found is not None:
            sign, style = _SIGNS.get(found.status, ("·", "dim"))
            if kind is ModelDeploymentCondition.PROGRESSING:
                sign, style = ("▸", "cyan") if found.status == "True" else ("·", "dim")
            grid.add_row(kind.value, Text.assemble((sign, style), f" {found.reason}: {found.message}"))
    if not is_observed(deployment):
        grid.add_row("", Text(NO_OPERATOR, "yellow"))
    grid.add_row("Address", Text(status.url or "none yet"))
    if status.stable is not None:
        pods = f"{status.replicas} {'pod' if status.replicas == 1 else 'pods'}"
        grid.add_row("Stable", Text(f"{_revision(status.stable)}, {pods}"))
    if status.canary is not None:
        grid.add_row("Canary", Text(_revision(status.canary)))
        grid.add_row("", _share(status.canary))
        grid.add_row("", Text(step(deployment, status.canary, now)))
    yield grid
    if status.history:
        yield Text()
        yield _history(status.history, now)
    yield Text()
    yield Text.assemble(("Next  ", "bold"), next_step(deployment))


def step(deployment: ModelDeployment, canary: CanaryStatus, now: datetime) -> str:
    """Which step of the rollout this is, how long it has lasted and how long it lasts."""
    rollout = deployment.spec.rollout
    lasted = wording.duration(max(0.0, (now - canary.since).total_seconds())) if canary.since else "0 s"
    if not canary.weight and not canary.mirrored:
        most = wording.duration(rollout.progress_deadline_seconds)
        return f"no requests yet, for {lasted} of at most {most}"
    if rollout.strategy == "Shadow":
        return f"shadow, for {lasted} of {wording.duration(rollout.shadow_or_default.hold_seconds)}"
    steps = rollout.steps or ()
    if canary.step >= len(steps):
        return f"for {lasted}"
    hold = wording.duration(steps[canary.step].hold_seconds)
    return f"step {canary.step + 1} of {len(steps)}, for {lasted} of at least {hold}"


def next_step(deployment: ModelDeployment) -> str:
    """The command that the reader probably wants."""
    status = deployment.status or ModelDeploymentStatus()
    name, space = f"deployment/{deployment.name}", f" -n {deployment.metadata.namespace}"
    progressing = condition(deployment, ModelDeploymentCondition.PROGRESSING)
    reason = progressing.reason if progressing is not None else ""
    canary = status.canary
    if progressing is None or not is_observed(deployment):
        return f"tunesmith wait {name}{space}"
    if deployment.spec.rollout.paused:
        return f"tunesmith resume {name}{space}"
    if canary is not None and reason == Reason.AWAITING_APPROVAL.value:
        look = f"tunesmith predict {name} PHOTO --revision {canary.revision}{space}"
        return f"{look}, then tunesmith promote {name}{space}, or tunesmith rollback {name}{space}"
    if canary is not None:
        return f"tunesmith wait {name} --promoted{space}, or end it by tunesmith rollback {name}{space}"
    job = deployment.spec.model.training_job
    if status.stable is None and job is not None:
        return f"tunesmith status {job}{space}"
    if not is_ready(deployment):
        return f"tunesmith wait {name}{space}"
    if reason == Reason.CANARY_REJECTED.value and status.history:
        revision = status.history[0].revision
        return f"train a better model, or have it tried again by tunesmith promote {name} {revision}{space}"
    return f"tunesmith predict {name} PHOTO{space}"


def overview(deployments: list[ModelDeployment], now: datetime) -> Table:
    """A line for each."""
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "state", "stable", "canary", "address", "age", "what is the case"):
        table.add_column(heading, no_wrap=heading in ("name", "stable", "canary"))
    for one in deployments:
        status = one.status or ModelDeploymentStatus()
        canary = status.canary
        table.add_row(
            f"deployment/{one.name}",
            Text(*state(one)),
            status.stable.revision if status.stable else "",
            f"{canary.revision} {canary.mirrored or canary.weight} %" if canary else "",
            status.url or "",
            _age(one.metadata.creation_timestamp, now),
            Text(sentence(one), no_wrap=True, overflow="ellipsis"),
        )
    return table


def _revision(one: RevisionStatus) -> str:
    return f"{one.revision}, {one.digest[:_DIGEST_LETTERS]}"


def _share(canary: CanaryStatus) -> Text:
    cells = round((canary.mirrored or canary.weight) * BAR_CELLS / 100)
    return Text.assemble(("█" * cells, "cyan"), ("░" * (BAR_CELLS - cells), "dim"), f" {share(canary)}")


def _history(entries: tuple[HistoryEntry, ...], now: datetime) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("history", "outcome", "reason", "when", ""):
        table.add_column(heading)
    for entry in entries:
        table.add_row(
            entry.revision,
            Text(entry.outcome, OUTCOMES.get(entry.outcome, "")),
            entry.reason,
            f"{wording.duration(max(0.0, (now - entry.when).total_seconds()))} ago",
            Text(entry.message, "dim", overflow="fold"),
        )
    return table


def _age(created: str | None, now: datetime) -> str:
    if created is None:
        return ""
    return wording.duration((now - datetime.fromisoformat(created)).total_seconds())
