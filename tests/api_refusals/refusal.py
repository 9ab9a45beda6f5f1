"""How a refusal is written down: what differs from the smallest valid object, and what is said about it."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

TRAINING_JOB: dict[str, Any] = {
    "apiVersion": "tunesmith.dev/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "flowers", "namespace": "default"},
    "spec": {"dataset": {"uri": "s3://datasets/flowers"}, "store": {"uri": "s3://models"}},
}
MODEL_DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "tunesmith.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "flowers", "namespace": "default"},
    "spec": {"model": {"trainingJob": "flowers"}},
}
DIGEST = "sha256:" + "0123456789abcdef" * 4
REMOVED = object()
"""Stands for a field that is taken away."""


def changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the object with the values at the dotted paths put in their places."""
    result: dict[str, Any] = deepcopy(dict(base))
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is REMOVED:
            del place[last]
        else:
            place[last] = deepcopy(value)
    return result


@dataclass(frozen=True)
class Refusal:
    """An object that breaks something.

    Attributes:
        about: the sentence that names the case.
        changes: what differs from the smallest valid object, by dotted path.
        lines: everything that is said about it, each as ``field: message``, in any order.
        before: for updates, what the object before differed in from the smallest valid one.
    """

    about: str
    changes: Mapping[str, Any]
    lines: tuple[str, ...]
    base: Mapping[str, Any] = field(default_factory=lambda: TRAINING_JOB)
    before: Mapping[str, Any] | None = None

    @property
    def document(self) -> dict[str, Any]:
        """The object that is refused."""
        return changed(self.base, self.changes)

    @property
    def old(self) -> dict[str, Any] | None:
        """The object before an update."""
        return None if self.before is None else changed(self.base, self.before)


def deployment(about: str, changes: Mapping[str, Any], *lines: str) -> Refusal:
    """A ModelDeployment that is refused."""
    return Refusal(about, changes, lines, MODEL_DEPLOYMENT)


def job(about: str, changes: Mapping[str, Any], *lines: str) -> Refusal:
    """A TrainingJob that is refused."""
    return Refusal(about, changes, lines)


def update(about: str, before: Mapping[str, Any], changes: Mapping[str, Any], *lines: str) -> Refusal:
    """A change of a TrainingJob that is refused."""
    return Refusal(about, changes, lines, before=before)
