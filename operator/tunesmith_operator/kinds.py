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
MODEL_DEPLOYMENT = Kind(API_VERSION, "ModelDeployment", "modeldeployments")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts")
ROLE = Kind("rbac.authorization.k8s.io/v1", "Role", "roles")
ROLE_BINDING = Kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
JOB = Kind("batch/v1", "Job", "jobs")
RAY_JOB = Kind("ray.io/v1", "RayJob", "rayjobs")
RAY_CLUSTER = Kind("ray.io/v1", "RayCluster", "rayclusters")
POD = Kind("v1", "Pod", "pods")
EVENT = Kind("v1", "Event", "events")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
SERVICE = Kind("v1", "Service", "services")
INFERENCE_SERVICE = Kind("serving.kserve.io/v1beta1", "InferenceService", "inferenceservices")
HTTP_ROUTE = Kind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes")
GATEWAY = Kind("gateway.networking.k8s.io/v1", "Gateway", "gateways")

COMPANIONS = (CONFIG_MAP, SERVICE_ACCOUNT, ROLE, ROLE_BINDING, NETWORK_POLICY)
"""What a trainer's pod needs around it, in the order in which it is created."""
RESOURCES = (TRAINING_JOB, MODEL_DEPLOYMENT)
"""The two of our own."""
OPTIONAL = (INFERENCE_SERVICE, HTTP_ROUTE)
"""Kinds that a cluster may lack: those of KServe and of the Gateway API."""
WATCHED = (*COMPANIONS, JOB, POD, DEPLOYMENT, SERVICE, *OPTIONAL)
"""Everything around the two that we are told of; all of it carries the label ``OURS``. RayJobs are read."""

BY_NAME = {kind.name: kind for kind in (*RESOURCES, *WATCHED, RAY_JOB, EVENT, LEASE)}

FIELD_MANAGER = "tunesmith-operator"
JOB_LABEL = "tunesmith.dev/training-job"
"""Says of a child whose it is: the TrainingJob's name."""
DEPLOYMENT_LABEL = "tunesmith.dev/model-deployment"
"""The same for a ModelDeployment; KServe hands it on to Deployments, Services and pods."""
MANAGED_BY = "app.kubernetes.io/managed-by"
OURS = f"{MANAGED_BY}={FIELD_MANAGER}"
"""The label selector of all children; a watch takes one, and no "or" between two labels."""


@dataclass(frozen=True, order=True)
class Key:
    """Names a TrainingJob or a ModelDeployment."""

    namespace: str
    name: str
    kind: str = TRAINING_JOB.name

    def __str__(self) -> str:
        """For people: the namespace and name, with the kind where it is not a TrainingJob."""
        kind = "" if self.kind == TRAINING_JOB.name else f"{self.kind} "
        return f"{kind}{self.namespace}/{self.name}"


def key_of(kind: Kind, obj: Object) -> Key | None:
    """The resource that an object is, or whose child it is by its label; None for anything else."""
    metadata = obj["metadata"]
    if kind in RESOURCES:
        return Key(metadata["namespace"], metadata["name"], kind.name)
    labels = metadata.get("labels") or {}
    for label, owner in ((JOB_LABEL, TRAINING_JOB), (DEPLOYMENT_LABEL, MODEL_DEPLOYMENT)):
        if name := labels.get(label):
            return Key(metadata["namespace"], name, owner.name)
    return None
