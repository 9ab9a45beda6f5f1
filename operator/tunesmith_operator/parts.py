"""What the objects of both resources are made of: whose they are, Pod Security, placement, credentials."""

from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith_api.fields import API_VERSION, ObjectMeta, Placement
from tunesmith_operator.kinds import FIELD_MANAGER, MANAGED_BY, Kind, Object

USER = 65532
PVC_ROOT = "/mnt/pvc"
"""Where a pod has the PersistentVolumeClaims that addresses name, each under its own name."""
REQUIRED_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
OPTIONAL_KEYS = ("AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL")
KILLED = 137
"""128 + SIGKILL: how the kernel's out-of-memory killer ends a process."""
PULL_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
)
"""What a container waits for whose image cannot be had, in the kubelet's words."""
RESTRICTED: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
"""A container's security context: Pod Security "restricted", and a root that nobody writes to."""


def head(
    kind: Kind,
    name: str,
    owner: Kind,
    metadata: ObjectMeta,
    component: str,
    labels: Mapping[str, str],
) -> Object:
    """What every child begins with: its kind, its name, whose it is.

    Args:
        kind: of the child.
        name: of the child.
        owner: the kind of the resource that owns it.
        metadata: of that resource.
        component: ``trainer`` or ``predictor``.
        labels: further ones.
    """
    reference = {
        "apiVersion": API_VERSION,
        "kind": owner.name,
        "name": metadata.name,
        "uid": metadata.uid,
        "controller": True,
        # True would need a verb on the owner's finalizers (OwnerReferencesPermissionEnforcement).
        "blockOwnerDeletion": False,
    }
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {
            "name": name,
            "namespace": metadata.namespace,
            "labels": labels_of(component, labels),
            "ownerReferences": [reference],
        },
    }


def labels_of(component: str, labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of a child."""
    return {
        "app.kubernetes.io/name": "tunesmith",
        "app.kubernetes.io/component": component,
        MANAGED_BY: FIELD_MANAGER,
        **labels,
    }


def restricted_pod() -> Object:
    """A pod's security context: Pod Security "restricted"."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def placement(asked: Placement, labels: Mapping[str, str]) -> Object:
    """On which nodes a pod may run.

    Args:
        asked: by the spec.
        labels: of the pods that are spread together.
    """
    fields: dict[str, Any] = {}
    if asked.node_selector:
        fields["nodeSelector"] = dict(asked.node_selector)
    if asked.tolerations:
        fields["tolerations"] = [one.to_dict() for one in asked.tolerations]
    if asked.priority_class_name:
        fields["priorityClassName"] = asked.priority_class_name
    if asked.topology_spread:
        selector = {"labelSelector": {"matchLabels": dict(labels)}}
        fields["topologySpreadConstraints"] = [one.to_dict() | selector for one in asked.topology_spread]
    return fields


def credentials(secret: str, prefix: str = "") -> Iterator[Object]:
    """A Secret's keys as variables, one by one; never the whole of it."""
    for key in (*REQUIRED_KEYS, *OPTIONAL_KEYS):
        source: dict[str, Any] = {"name": secret, "key": key}
        if key in OPTIONAL_KEYS:
            source["optional"] = True
        yield {"name": f"{prefix}{key}", "valueFrom": {"secretKeyRef": source}}


def in_pod(uri: str) -> str:
    """An address as a pod has it: pvc://CLAIM/PATH is a folder there."""
    return f"file://{PVC_ROOT}/{uri.removeprefix('pvc://')}" if uri.startswith("pvc://") else uri


def as_written(uri: str) -> str:
    """The address again of which ``in_pod`` made this one."""
    mounted = f"file://{PVC_ROOT}/"
    return f"pvc://{uri.removeprefix(mounted)}" if uri.startswith(mounted) else uri
