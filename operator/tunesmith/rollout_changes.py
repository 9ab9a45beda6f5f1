"""What promote, rollback, pause and resume change of a ModelDeployment, or why they do not; pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_api.reasons import SpecInvalid
from tunesmith_api.revisions import predecessor
from tunesmith_api.status import CanaryStatus, ModelDeploymentStatus


@dataclass(frozen=True)
class Change:
    """A change of spec.rollout.

    Attributes:
        rollout: a merge patch of spec.rollout; None takes a field away.
        sentence: what comes of it.
        revision: which one it is about; empty when it is about all.
    """

    rollout: Mapping[str, str | bool | None]
    sentence: str
    revision: str = ""

    @property
    def patch(self) -> dict[str, object]:
        """A merge patch of the resource."""
        return {"spec": {"rollout": dict(self.rollout)}}


class NothingToDo(SpecInvalid):
    """The ModelDeployment has no revision that this could be done to."""


def promotion(deployment: ModelDeployment, revision: str | None = None) -> Change:
    """Have the revision on its way take over, or one tried again that was turned down.

    Args:
        deployment: as it stands.
        revision: which one; the one on its way unless given.

    Raises:
        NothingToDo: there is none, or it cannot take over.
    """
    status, rollout = _status(deployment), deployment.spec.rollout
    canary = status.canary.revision if status.canary else None
    name = revision or canary
    if name is None:
        raise NothingToDo(
            f"{_of(deployment)} has no revision on its way that could be promoted.", _again(deployment)
        )
    if name != canary:
        _refuse_what_cannot_be_tried_again(deployment, name)
        sentence = f"{name} is approved: it is tried again, as long as spec.model asks for it."
    else:
        sentence = f"{name} is approved: it takes over as soon as it is ready."
    change: dict[str, str | bool | None] = {"approvedRevision": name}
    if rollout.rejected_revision == name:
        change["rejectedRevision"] = None
    return Change(change, sentence + _while_paused(deployment), name)


def rollback(deployment: ModelDeployment) -> Change:
    """Give up the revision on its way, or else go back to the one before the stable one.

    Raises:
        NothingToDo: there is no revision to go back to.
    """
    status, rollout = _status(deployment), deployment.spec.rollout
    stable, canary = status.stable, status.canary
    if stable is None:
        raise NothingToDo(
            f"{_of(deployment)} has no revision to go back to: none has answered yet.",
            f"See what is the case with tunesmith status {_of(deployment)}.",
        )
    if canary is not None and stable.revision == rollout.rejected_revision:
        raise NothingToDo(
            f"{_of(deployment)} is on its way back from {stable.revision} to {canary.revision} already.",
            f"Follow it with tunesmith wait {_of(deployment)} --promoted.",
        )
    paused = ""
    if canary is not None:
        name = canary.revision
        sentence = f"{name} is given up: {stable.revision} has all the requests again."
    else:
        name = stable.revision
        before = predecessor(status.history, name)
        if before is None:
            raise NothingToDo(
                f"{_of(deployment)} has no revision to go back to: none before {name} was good to the end.",
                "Name another model in spec.model.",
            )
        sentence = f"{name} is turned down: {before.revision} takes over as soon as it is ready."
        paused = _while_paused(deployment)
    change: dict[str, str | bool | None] = {"rejectedRevision": name}
    if rollout.approved_revision == name:
        change["approvedRevision"] = None
    return Change(change, sentence + paused, name)


def pause(deployment: ModelDeployment) -> Change:
    """Have the rollout stand where it is."""
    canary = _status(deployment).canary
    where = f"{canary.revision} keeps {share(canary)}" if canary else "no revision starts"
    return Change({"paused": True}, f"{_of(deployment)} is paused: {where} until it is resumed.")


def resume(deployment: ModelDeployment) -> Change:
    """Have the rollout go on."""
    sentence = f"{_of(deployment)} goes on."
    if not deployment.spec.rollout.paused:
        sentence = f"{_of(deployment)} was not paused."
    return Change({"paused": False}, sentence)


def share(canary: CanaryStatus) -> str:
    """What a revision on its way gets."""
    if canary.mirrored:
        return f"copies of {canary.mirrored} % of the requests"
    return f"{canary.weight} % of the requests"


def _status(deployment: ModelDeployment) -> ModelDeploymentStatus:
    return deployment.status or ModelDeploymentStatus()


def _of(deployment: ModelDeployment) -> str:
    return f"deployment/{deployment.name}"


def _again(deployment: ModelDeployment) -> str:
    last = next(iter(_status(deployment).history), None)
    if last is not None and last.outcome == "Rejected":
        return (
            f"{last.revision} was rejected; to have it tried again: "
            f"tunesmith promote {_of(deployment)} {last.revision}"
        )
    return f"See what is the case with tunesmith status {_of(deployment)}."


def _refuse_what_cannot_be_tried_again(deployment: ModelDeployment, name: str) -> None:
    status = _status(deployment)
    if status.stable is not None and status.stable.revision == name:
        if deployment.spec.rollout.rejected_revision == name:
            return
        raise NothingToDo(
            f"{name} is the stable revision of {_of(deployment)} already.",
            f"See what is the case with tunesmith status {_of(deployment)}.",
        )
    last = next((entry for entry in status.history if entry.revision == name), None)
    if last is None:
        known = dict.fromkeys(one.revision for one in (status.canary, *status.history) if one is not None)
        raise NothingToDo(
            f"{_of(deployment)} knows no revision {name}.",
            f"It knows {', '.join(known)}." if known else "It has none yet.",
        )
    if last.outcome not in ("Rejected", "RolledBack"):
        raise NothingToDo(
            f"{name} is not on its way: the spec of {_of(deployment)} asks for another model.",
            "tunesmith rollback goes back by one; for any other, name its model in spec.model.",
        )


def _while_paused(deployment: ModelDeployment) -> str:
    if not deployment.spec.rollout.paused:
        return ""
    return f" It is paused, so first: tunesmith resume {_of(deployment)}"
