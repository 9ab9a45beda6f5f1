"""What is in the way of an object of ours: another of its name, one that still leaves, a refusal."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith_operator.kinds import Object


@dataclass(frozen=True)
class Refusal:
    """The API server will not do what we ask of it.

    Attributes:
        kind: of the object.
        status: HTTP's code.
        reason: metav1.Status's.
        message: as the server wrote it.
        deed: what should be done with the object: ``created``, ``changed`` or ``deleted``.
    """

    kind: str
    status: int
    reason: str
    message: str
    deed: str = "created"


@dataclass(frozen=True)
class Conflict:
    """An object of the name we need is somebody else's."""

    kind: str
    name: str
    owner: str


def owner_of(obj: Object) -> Mapping[str, Any]:
    """The controlling owner reference; empty when there is none."""
    owners: list[Mapping[str, Any]] = obj["metadata"].get("ownerReferences") or []
    return next((one for one in owners if one.get("controller")), {})


def belongs_to(obj: Object, uid: str) -> bool:
    """Whether the object is owned by the resource of this uid."""
    return owner_of(obj).get("uid") == uid


def is_leaving(obj: Object, kind: str, name: str) -> bool:
    """Whether the object is going, or was left by an earlier resource of this kind and name and will go."""
    owner = owner_of(obj)
    predecessor = owner.get("kind") == kind and owner.get("name") == name
    return predecessor or bool(obj["metadata"].get("deletionTimestamp"))


def conflict_with(obj: Object, kind: str) -> Conflict:
    """Says whose object is in the way."""
    owner = owner_of(obj)
    whose = f"the {owner['kind']} {owner['name']}" if owner else ""
    return Conflict(kind, obj["metadata"]["name"], whose)
