"""How people name a resource of a cluster: ``flowers`` or ``deployment/flowers``."""

from dataclasses import dataclass

from tunesmith_api.reasons import SpecInvalid

_SUFFIX = ".tunesmith.dev"
_JOB = frozenset({"job", "trainingjob", "trainingjobs", "tj"})
_DEPLOYMENT = frozenset({"deployment", "modeldeployment", "modeldeployments", "mdep"})


@dataclass(frozen=True)
class Reference:
    """A resource as it is named: ``flowers`` is a TrainingJob, ``deployment/flowers`` a ModelDeployment."""

    is_deployment: bool
    name: str


def reference(text: str) -> Reference:
    """Read a name as it was typed.

    Raises:
        SpecInvalid: there is no such kind.
    """
    kind, slash, name = text.partition("/")
    if not slash:
        return Reference(False, text)
    kind = kind.lower().removesuffix(_SUFFIX)
    if kind not in _JOB | _DEPLOYMENT or not name or "/" in name:
        raise SpecInvalid(
            f"{text!r} names no resource.",
            "Write NAME for a TrainingJob, or deployment/NAME for a ModelDeployment.",
        )
    return Reference(kind in _DEPLOYMENT, name)


def deployment_name(text: str) -> str:
    """The name of a ModelDeployment, with its kind or without.

    Raises:
        SpecInvalid: it is a TrainingJob.
    """
    if "/" not in text:
        return text
    named = reference(text)
    if not named.is_deployment:
        raise SpecInvalid(f"{text} is a TrainingJob.", f"Write deployment/{named.name}.")
    return named.name


def job_name(text: str, verb: str, instead: str) -> str:
    """The name of a TrainingJob, for a verb that is for those only.

    Raises:
        SpecInvalid: it is a ModelDeployment; ``instead`` says what to do.
    """
    named = reference(text)
    if named.is_deployment:
        raise SpecInvalid(f"tunesmith {verb} is for TrainingJobs only.", instead)
    return named.name


def is_deployment(text: str) -> bool:
    """Whether a text names a ModelDeployment by its kind, and no folder or address."""
    kind, _, name = text.partition("/")
    return kind.lower().removesuffix(_SUFFIX) in _DEPLOYMENT and bool(name) and "/" not in name
