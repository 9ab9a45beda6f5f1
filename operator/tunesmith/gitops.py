"""Whether somebody keeps a resource as a file has it, and would undo a change made by hand; pure."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith.cluster_resources import FIELD_MANAGER
from tunesmith.rollout_changes import Change
from tunesmith_api.yaml_text import dump

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_MARKS = {
    "argocd.argoproj.io/": "Argo CD",
    "kustomize.toolkit.fluxcd.io/": "Flux",
    "helm.toolkit.fluxcd.io/": "Flux",
}
_MANAGERS = {
    "argocd-controller": "Argo CD",
    "argocd-application-controller": "Argo CD",
    "kustomize-controller": "Flux",
    "helm-controller": "Flux",
}


def advice(document: Mapping[str, Any], change: Change) -> str:
    """What to write into git, or into a file, so that a change stays; empty where nobody would undo it.

    Args:
        document: the resource before the change, as the server had it.
        change: of it.
    """
    metadata = document["metadata"]
    keeper = _keeper(metadata)
    if keeper:
        said = f"{keeper} keeps it as git has it, and may undo this. Write into git:"
    elif source := next(_sources(metadata, change), ""):
        said = f"This comes from a file too ({source}), and would be undone when that is applied again."
        said += " Write into the file:"
    else:
        return ""
    wanted = {key: value for key, value in change.rollout.items() if value is not None}
    removed = [f"and take rollout.{key} away" for key, value in change.rollout.items() if value is None]
    lines = dump({"spec": {"rollout": wanted}}).rstrip().splitlines()
    return "\n".join([said, *(f"  {line}" for line in lines), *removed])


def _keeper(metadata: Mapping[str, Any]) -> str:
    marks = [*(metadata.get("annotations") or {}), *(metadata.get("labels") or {})]
    for start, keeper in _MARKS.items():
        if any(mark.startswith(start) for mark in marks):
            return keeper
    managers = [one.get("manager", "") for one in metadata.get("managedFields") or ()]
    return next((_MANAGERS[one] for one in managers if one in _MANAGERS), "")


def _sources(metadata: Mapping[str, Any], change: Change) -> Iterator[str]:
    """Who applied one of the fields from a file."""
    try:
        applied = json.loads((metadata.get("annotations") or {})[LAST_APPLIED])
        if set(applied["spec"]["rollout"]) & set(change.rollout):
            yield "kubectl apply"
    except (KeyError, TypeError, ValueError):
        pass
    for entry in metadata.get("managedFields") or ():
        manager = str(entry.get("manager", ""))
        by_hand = entry.get("operation") != "Apply"
        if by_hand and (manager == FIELD_MANAGER or manager.startswith("kubectl-")):
            continue
        fields = (entry.get("fieldsV1") or {}).get("f:spec", {}).get("f:rollout", {})
        if any(f"f:{name}" in fields for name in change.rollout):
            yield "tunesmith submit" if manager == FIELD_MANAGER else manager
