"""The kinds of objects that the operator reads and writes, and where the API server keeps them."""

from dataclasses import dataclass
from typing import Any

from tunesmith_api.fields import API_VERSION

Object = dict[str, Any]
"""A Kubernetes object as JSON has it."""


@dataclass(frozen=True)
class Kind:
    """A kind by its API version and its name in addresses."""

    api_version: str
    name: str
    plural: str

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """The address of one object, of its subresource or, without a name, of all in the namespace.

        Without a namespace it is that of a cluster-wide object, or of the objects of all namespaces.
        """
        root = "api" if "/" not in self.api_version else "apis"
        scope = ("namespaces", namespace) if namespace else ()
        parts = (root, self.api_version, *scope, self.plural, name, subresource)
        return "/" + "/".join(part for part in parts if part)

    @property
    def group(self) -> str:
        """The API group; empty for the core."""
        return self.api_version.rpartition("/")[0]


TRAINING_JOB = Kind(API_VERSION, "TrainingJob", "trainingjobs")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts")
ROLE = Kind("rbac.authorization.k8s.io/v1", "Role", "roles")
ROLE_BINDING = Kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
JOB = Kind("batch/v1", "Job", "jobs")
POD = Kind("v1", "Pod", "pods")
EVENT = Kind("v1", "Event", "events")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")

COMPANIONS = (CONFIG_MAP, SERVICE_ACCOUNT, ROLE, ROLE_BINDING, NETWORK_POLICY)
"""What a trainer's pod needs around it, in the order in which it is created."""
WATCHED = (*COMPANIONS, JOB, POD)
"""Everything of a TrainingJob that we are told of; all of it carries the label ``JOB_LABEL``."""

BY_NAME = {kind.name: kind for kind in (TRAINING_JOB, *WATCHED, EVENT, LEASE)}

JOB_LABEL = "tunesmith.dev/training-job"
"""Says of a child whose it is: the TrainingJob's name."""
FIELD_MANAGER = "tunesmith-operator"


@dataclass(frozen=True, order=True)
class Key:
    """Names a TrainingJob."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """As kubectl users write it."""
        return f"{self.namespace}/{self.name}"
