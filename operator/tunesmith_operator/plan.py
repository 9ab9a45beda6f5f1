"""What a decision asks for: actions on children, the status as it should be, when to look again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith_operator.kinds import Kind, Object


@dataclass(frozen=True)
class Ensure:
    """Have an object be there as written.

    Attributes:
        uid: of the present object, which is then changed; empty when it is to be created.
        first_look: look at the server before creating, because doing it once too often would repeat finished
            work.
    """

    kind: Kind
    body: Object
    uid: str = ""
    first_look: bool = False


@dataclass(frozen=True)
class Change:
    """Merge a few fields into an object of ours."""

    kind: Kind
    name: str
    body: Object


@dataclass(frozen=True)
class Remove:
    """Delete an object of ours."""

    kind: Kind
    name: str
    uid: str


Action = Ensure | Change | Remove


@dataclass(frozen=True)
class News:
    """An event for people, as ``kubectl describe`` shows it."""

    warning: bool
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """What to do now.

    Attributes:
        actions: in this order; the first that fails ends it.
        status: our part of the status, written after the actions when it differs from what is there; None
            leaves it alone.
        news: posted once the status is written.
        again_after: seconds after which to look again although nothing may have happened.
    """

    actions: tuple[Action, ...] = ()
    status: Mapping[str, Any] | None = None
    news: tuple[News, ...] = ()
    again_after: float | None = None
