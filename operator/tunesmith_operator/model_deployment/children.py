"""The objects that a ModelDeployment owns, each made by one pure function as a plain dict.

A revision is an InferenceService that never changes, except in the number of its pods: its name holds a hash
of all else. So when it is ready, that very model is, and an earlier one stays as it was.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_api.revisions import PREDICTOR_PORT, REVISION_HEADER, predictor_name
from tunesmith_operator.kinds import (
    DEPLOYMENT_LABEL,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    MODEL_DEPLOYMENT,
    SERVICE,
    Kind,
    Object,
)
from tunesmith_operator.model_deployment.observed import Package
from tunesmith_operator.model_deployment.pods import FETCH
from tunesmith_operator.parts import (
    PVC_ROOT,
    RESTRICTED,
    credentials,
    head,
    in_pod,
    placement,
    restricted_pod,
)
from tunesmith_operator.settings import Settings

MODEL_FOLDER = "/mnt/models"
RUNTIME = "tunesmith"
"""The ServingRuntime, and the format of models that it is for; of a namespace, or of the cluster."""
REVISION_LABEL = "tunesmith.dev/revision"
DIGEST_ANNOTATION, URI_ANNOTATION = "tunesmith.dev/digest", "tunesmith.dev/uri"
MARK_ANNOTATION = "tunesmith.dev/content"
"""Stands for what we wrote into an object."""
_SLEEP_SECONDS = 5
_GRACE_SECONDS = 40
"""Above the sleep and what a predictor takes to finish what it was sent."""


def revision_name(deployment: ModelDeployment, package: Package, settings: Settings) -> str:
    """The revision for a package and everything of the spec that its pods depend on."""
    content = [package.uri, package.digest, package.secret, _serving(deployment), settings.predictor_image]
    text = json.dumps(content, sort_keys=True)
    return f"{deployment.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _serving(deployment: ModelDeployment) -> Object:
    """What of the spec is part of a revision."""
    spec = deployment.spec
    return {
        "compute": spec.compute.to_dict(),
        "drift": spec.monitoring.drift.window_requests if spec.monitoring.drift.enabled else 0,
        "feedback": spec.monitoring.feedback.enabled,
        "explanations": spec.explanations.enabled,
    }


def host_name(deployment: ModelDeployment, settings: Settings) -> str:
    """Where predictions are asked for at the gateway."""
    return f"{deployment.name}.{deployment.metadata.namespace}.{settings.gateway_domain}"


def inference_service(
    deployment: ModelDeployment, revision: str, package: Package, settings: Settings
) -> Object:
    """A revision."""
    replicas = deployment.spec.replicas
    by_load = replicas.scale_metric in ("cpu", "memory")
    most = max(replicas.minimum, replicas.maximum or replicas.minimum) if by_load else replicas.minimum
    annotations = {
        "serving.kserve.io/deploymentMode": "Standard",
        "serving.kserve.io/autoscalerClass": "hpa" if by_load else "none",
        DIGEST_ANNOTATION: package.digest,
        URI_ANNOTATION: package.uri,
    }
    annotations |= {"prometheus.io/scrape": "true", "prometheus.io/port": str(PREDICTOR_PORT)}
    labels = {REVISION_LABEL: revision, "networking.kserve.io/visibility": "cluster-local"}
    predictor: dict[str, Any] = {
        "minReplicas": replicas.minimum,
        "maxReplicas": most,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "securityContext": restricted_pod(),
        "initContainers": [_fetch(package, settings)],
        "model": _serve(deployment, revision, package, settings),
        "volumes": [
            {"name": "model", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            *_claim_volumes(package),
        ],
        **placement(deployment.spec.compute, {REVISION_LABEL: revision}),
    }
    if by_load:
        predictor |= {"scaleMetric": replicas.scale_metric, "scaleTarget": replicas.target or 80}
    if settings.image_pull_secrets:
        predictor["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    head = _head(INFERENCE_SERVICE, deployment, revision, labels, annotations)
    return marked({**head, "spec": {"predictor": predictor}})


def _fetch(package: Package, settings: Settings) -> Object:
    """Brings the package and checks it; the container that serves then needs no credentials.

    It has the name of KServe's own, which KServe then leaves out.
    """
    mounts: list[Object] = [
        {"name": "model", "mountPath": MODEL_FOLDER},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if claim := _claim(package):
        mounts.append({"name": "claim", "mountPath": f"{PVC_ROOT}/{claim}", "readOnly": True})
    return {
        "name": FETCH,
        "image": settings.predictor_image,
        "command": ["python", "-m", "tunesmith_predictor", "fetch"],
        "args": [f"--uri={in_pod(package.uri)}", f"--digest={package.digest}", f"--to={MODEL_FOLDER}"],
        "env": list(credentials(package.secret)) if package.secret else [],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": dict(RESTRICTED),
        "volumeMounts": mounts,
        **_pull_policy(settings),
    }


def _serve(deployment: ModelDeployment, revision: str, package: Package, settings: Settings) -> Object:
    """The model, with what its container has beyond the ServingRuntime, or instead.

    KServe makes Deployments anew when a runtime changes. Revisions never should: so whatever decides about a
    prediction or about a pod's start and end is written here and counts before the runtime's, which adds the
    port for gRPC, annotations, and what its administrators gave it.
    """
    serving = _serving(deployment)
    arguments = [
        f"--model-dir={MODEL_FOLDER}",
        f"--model-name={deployment.name}",
        f"--digest={package.digest}",
        f"--revision={revision}",
        f"--drift-window={serving['drift']}",
        # The sleep before SIGTERM is the time in which the cluster learns to send requests elsewhere.
        "--drain-seconds=0",
    ]
    arguments += ["--feedback"] if serving["feedback"] else []
    arguments += [] if serving["explanations"] else ["--no-explanations"]
    compute = deployment.spec.compute
    memory, gpus = compute.memory or "1Gi", {}
    if compute.gpus:
        gpus = {"nvidia.com/gpu": str(compute.gpus)}
    ready = {"httpGet": {"path": "/v2/health/ready", "port": PREDICTOR_PORT}}
    live = {"httpGet": {"path": "/v2/health/live", "port": PREDICTOR_PORT}}
    return {
        "modelFormat": {"name": RUNTIME},
        "runtime": RUNTIME,
        # KServe leaves the fetching to us, but takes a model without an address for several models.
        "storageUri": package.uri,
        "image": settings.predictor_image,
        "command": ["python", "-m", "tunesmith_predictor"],
        "args": arguments,  # they come after the runtime's, and the last one counts
        "ports": [{"name": "http", "containerPort": PREDICTOR_PORT, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": compute.cpu or "250m", "memory": memory, **gpus},
            "limits": {"memory": memory, **gpus},
        },
        # Nothing listens before the package is checked and its golden predictions are computed again.
        "startupProbe": {**ready, "periodSeconds": 1, "failureThreshold": 600},
        "readinessProbe": {**ready, "periodSeconds": 2, "timeoutSeconds": 2},
        "livenessProbe": {**live, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "lifecycle": {"preStop": {"sleep": {"seconds": _SLEEP_SECONDS}}},
        "securityContext": dict(RESTRICTED),
        "volumeMounts": [
            {"name": "model", "mountPath": MODEL_FOLDER, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
        **_pull_policy(settings),
    }


def _pull_policy(settings: Settings) -> Object:
    return {"imagePullPolicy": settings.image_pull_policy} if settings.image_pull_policy else {}


def _claim(package: Package) -> str:
    return package.uri.removeprefix("pvc://").partition("/")[0] if package.uri.startswith("pvc://") else ""


def _claim_volumes(package: Package) -> list[Object]:
    claim = _claim(package)
    if not claim:
        return []
    return [{"name": "claim", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}]


def probe_name(revision: str) -> str:
    """The route on which it is tried whether this gateway copies requests to a revision."""
    return f"{revision}-probe"


def probe_host(deployment: ModelDeployment, settings: Settings) -> str:
    """Its host name: no request of people ever goes there."""
    return f"probe.{host_name(deployment, settings)}"


def probe_route(deployment: ModelDeployment, stable: str, revision: str, settings: Settings) -> Object:
    """A route of its own host name that copies everything: some gateways accept that and then answer 500."""
    route = http_route(deployment, {stable: 100}, {revision: 100}, frozenset(), settings)
    spec = {**route["spec"], "hostnames": [probe_host(deployment, settings)]}
    return marked({**_head(HTTP_ROUTE, deployment, probe_name(revision)), "spec": spec})


def http_route(
    deployment: ModelDeployment,
    weights: Mapping[str, int],
    mirrors: Mapping[str, int],
    reachable: frozenset[str],
    settings: Settings,
) -> Object:
    """Which share of the requests goes to which revision.

    The rule for people's requests is the first, whatever others come and go: gateways name what they make of
    a rule by its place, and a rule that moves can for a moment send requests where another's should go.

    Args:
        deployment: whose requests.
        weights: percent by revision.
        mirrors: percent of the requests that are copied, by revision.
        reachable: revisions that a request can name in a header.
        settings: of the gateway.
    """
    namespace, _, gateway = settings.gateway.partition("/")
    backends = [_backend(revision) | {"weight": weight} for revision, weight in sorted(weights.items())]
    rule: dict[str, Any] = {"backendRefs": backends}
    filters = []
    for revision, percent in sorted(mirrors.items()):
        mirror = {"backendRef": _backend(revision)} | ({"percent": percent} if percent < 100 else {})
        filters.append({"type": "RequestMirror", "requestMirror": mirror})
    if filters:
        rule["filters"] = filters
    named = [
        {
            "matches": [{"headers": [{"name": REVISION_HEADER, "value": revision}]}],
            "backendRefs": [_backend(revision)],
        }
        for revision in sorted(reachable)
    ]
    spec = {
        "parentRefs": [{"name": gateway, "namespace": namespace}],
        "hostnames": [host_name(deployment, settings)],
        "rules": [rule, *named],
    }
    return marked({**_head(HTTP_ROUTE, deployment, deployment.name), "spec": spec})


def _backend(revision: str) -> dict[str, Any]:
    return {"name": predictor_name(revision), "port": 80}


def stable_service(deployment: ModelDeployment, revision: str) -> Object:
    """Where the stable revision answers inside a cluster without a gateway."""
    spec = {
        "selector": {REVISION_LABEL: revision, "component": "predictor"},
        "ports": [{"name": "http", "port": 80, "targetPort": PREDICTOR_PORT}],
    }
    return marked({**_head(SERVICE, deployment, deployment.name), "spec": spec})


def marked(body: Object) -> Object:
    """The same with an annotation that stands for its content."""
    text = json.dumps(body, sort_keys=True)
    mark = hashlib.sha256(text.encode()).hexdigest()[:16]
    annotations = {**body["metadata"].get("annotations", {}), MARK_ANNOTATION: mark}
    return {**body, "metadata": {**body["metadata"], "annotations": annotations}}


def mark_of(obj: Object) -> str:
    """What stands for the content that we gave an object."""
    return str((obj["metadata"].get("annotations") or {}).get(MARK_ANNOTATION, ""))


def _head(
    kind: Kind,
    deployment: ModelDeployment,
    name: str,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Object:
    own = {DEPLOYMENT_LABEL: deployment.name, **(labels or {})}
    body = head(kind, name, MODEL_DEPLOYMENT, deployment.metadata, "predictor", own)
    return {**body, "metadata": {**body["metadata"], "annotations": dict(annotations or {})}}
