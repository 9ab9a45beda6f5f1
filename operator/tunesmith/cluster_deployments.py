"""``tunesmith promote``, ``rollback``, ``pause``, ``resume``, ``wait``: ModelDeployments, for people."""

from collections.abc import Callable

from tunesmith import gitops, rollout_changes, rollout_ends
from tunesmith.cluster import Cluster
from tunesmith.deployment_view import sentence
from tunesmith.following import DAY, Say, follow
from tunesmith.rollout_changes import Change
from tunesmith.rollout_ends import End
from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_api.reasons import ModelDeploymentCondition


def promote(cluster: Cluster, name: str, revision: str | None, say: Say) -> End:
    """Have a revision take over.

    Args:
        cluster: where.
        name: of the ModelDeployment.
        revision: which; the one on its way unless given.
        say: takes what is to be told.

    Returns:
        What to wait for.

    Raises:
        NothingToDo: there is none that could.
        TunesmithError: the server refuses.
    """
    change = _changed(cluster, name, lambda one: rollout_changes.promotion(one, revision), say)
    return rollout_ends.promoted(change.revision)


def rollback(cluster: Cluster, name: str, say: Say) -> End:
    """Give up the revision on its way, or go back to the one before.

    Raises:
        NothingToDo: there is none to go back to.
        TunesmithError: the server refuses.
    """
    change = _changed(cluster, name, rollout_changes.rollback, say)
    return rollout_ends.rolled_back(change.revision)


def pause(cluster: Cluster, name: str, say: Say) -> End:
    """Have the rollout stand where it is.

    Raises:
        TunesmithError: the server refuses.
    """
    _changed(cluster, name, rollout_changes.pause, say)
    return rollout_ends.observed


def resume(cluster: Cluster, name: str, say: Say) -> End:
    """Have the rollout go on.

    Raises:
        TunesmithError: the server refuses.
    """
    _changed(cluster, name, rollout_changes.resume, say)
    return rollout_ends.settled


def end_of(*, revision: str | None = None, promoted: bool = False) -> End:
    """What to wait for: a revision, whatever is on its way, or only that requests are answered."""
    if revision is not None:
        return rollout_ends.promoted(revision)
    return rollout_ends.settled if promoted else rollout_ends.serving


def wait_for(cluster: Cluster, name: str, end: End, say: Say, *, timeout: float = DAY) -> int:
    """Wait until ``end`` says that it is over; tells each change of what is the case.

    Returns:
        0, or the exit code of CanaryRejected.

    Raises:
        DeadlineExceeded: it is not over within ``timeout`` seconds.
    """
    return follow(cluster.deployments, name, end, sentence, _news, say, timeout=timeout)


def _changed(cluster: Cluster, name: str, decide: Callable[[ModelDeployment], Change], say: Say) -> Change:
    found = cluster.deployments.found(name)
    change = decide(found.resource)
    cluster.deployments.change(name, change.patch)
    say(change.sentence)
    if advice := gitops.advice(found.document, change):
        say(advice)
    return change


def _news(deployment: ModelDeployment) -> object:
    """What has to change to be told: not each request that was counted."""
    status = deployment.status
    kinds = (ModelDeploymentCondition.READY, ModelDeploymentCondition.PROGRESSING)
    found = [rollout_ends.condition(deployment, kind) for kind in kinds]
    canary = status.canary if status else None
    where = (canary.revision, canary.weight, canary.mirrored, canary.step) if canary else ()
    seen = rollout_ends.is_observed(deployment)
    return (seen, where, *((one.status, one.reason) if one is not None else () for one in found))
