"""Gathers what is known of a ModelDeployment, all of it read from the server itself.

There are few of them and they decide about people's requests: a watch says when to look, never what is so.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_api.reasons import Reason
from tunesmith_api.revisions import predictor_name
from tunesmith_api.status import TrainingJobStatus
from tunesmith_operator.findings import Finding
from tunesmith_operator.kinds import (
    DEPLOYMENT,
    DEPLOYMENT_LABEL,
    GATEWAY,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    MODEL_DEPLOYMENT,
    POD,
    SERVICE,
    TRAINING_JOB,
    Key,
    Kind,
    Object,
)
from tunesmith_operator.kube import Kube, Refused
from tunesmith_operator.model_deployment.children import (
    DIGEST_ANNOTATION,
    REVISION_LABEL,
    URI_ANNOTATION,
    mark_of,
)
from tunesmith_operator.model_deployment.observed import (
    Child,
    Observed,
    Package,
    Platform,
    Revision,
    Route,
    Workload,
)
from tunesmith_operator.model_deployment.pods import PredictorPod, parse_pod
from tunesmith_operator.model_deployment.written import Written
from tunesmith_operator.obstacles import Conflict, belongs_to, conflict_with, is_leaving
from tunesmith_operator.parts import as_written
from tunesmith_operator.settings import Settings

_NO_RUNTIME = ("RuntimeNotRecognized", "NoSupportingRuntime", "RuntimeDisabled", "RuntimeUnhealthy")
"""KServe's reasons: it was not found, is none for our format, or was turned off."""

_STORES = ("s3://", "pvc://")
"""Where a trainer may say that its model lies: KServe is told, and would run the image of an ``oci://``."""


class Unreadable(Exception):
    """The resource in the cluster is not what this version's schema allows."""


class Observer:
    """Looks at ModelDeployments.

    Args:
        kube: to read with.
        settings: the installation's.
        serves: whether the server has a kind.
        written: what this process wrote.
    """

    def __init__(
        self, kube: Kube, settings: Settings, serves: Callable[[Kind], bool], written: Written
    ) -> None:
        """Nothing is read yet."""
        self._kube, self._settings, self._serves, self._written = kube, settings, serves, written

    async def observe(self, key: Key) -> Observed | None:
        """Everything that is known of a ModelDeployment, or None when there is none.

        Raises:
            Unreadable: the stored resource does not fit the schema.
            ApiError: a read failed.
        """
        raw = await self._kube.get(MODEL_DEPLOYMENT, key.namespace, key.name)
        if raw is None:
            return None
        deployment = _parse(raw)
        package, pending = await self._package(deployment)
        platform = await self._platform()
        uid = deployment.metadata.uid or ""
        conflict: Conflict | None = None
        leaving: list[str] = []
        by_service = not self._settings.gateway or not platform.routes
        kind = SERVICE if by_service else HTTP_ROUTE
        front = await self._kube.get(kind, key.namespace, key.name)
        if front is not None and not belongs_to(front, uid):
            if is_leaving(front, MODEL_DEPLOYMENT.name, key.name):
                leaving.append(f"the {kind.name} {key.name}")
            else:
                conflict = conflict_with(front, kind.name)
            front = None
        service, route = (front, None) if by_service else (None, front)
        revisions = await self._revisions(deployment) if platform.kserve else {}
        return Observed(
            deployment=deployment,
            status=raw.get("status") or {},
            resource_version=raw["metadata"]["resourceVersion"],
            package=package,
            pending=pending,
            revisions=revisions,
            route=None if route is None else parse_route(route, self._child(HTTP_ROUTE, route)),
            probes={} if by_service else await self._probes(deployment),
            service=None if service is None else self._child(SERVICE, service),
            platform=platform,
            conflict=conflict,
            leaving=tuple(leaving),
        )

    async def _package(self, deployment: ModelDeployment) -> tuple[Package | None, Finding | None]:
        source = deployment.spec.model
        if source.uri and source.digest:
            secret = source.secret_ref.name if source.secret_ref else ""
            return Package(source.uri, source.digest, secret), None
        name = source.training_job or ""
        job = await self._kube.get(TRAINING_JOB, deployment.metadata.namespace, name)
        return package_of(name, job)

    async def _platform(self) -> Platform:
        kserve, routes = self._serves(INFERENCE_SERVICE), self._serves(HTTP_ROUTE)
        if not self._settings.gateway or not routes:
            return Platform(kserve, routes, gateway=False)
        namespace, _, name = self._settings.gateway.partition("/")
        try:
            found = await self._kube.get(GATEWAY, namespace, name)
        except Refused as error:
            return Platform(kserve, routes, False, complaint=f"{error.message}.")
        if found is None:
            return Platform(kserve, routes, False, complaint="there is none of this name. Create it.")
        return parse_gateway(found, kserve)

    async def _revisions(self, deployment: ModelDeployment) -> dict[str, Revision]:
        namespace = deployment.metadata.namespace
        selector = f"{DEPLOYMENT_LABEL}={deployment.name}"
        found = await self._kube.list(INFERENCE_SERVICE, namespace, label_selector=selector)
        ours = [one for one in found if belongs_to(one, deployment.metadata.uid or "")]
        if not ours:
            return {}
        workloads, services, pods = [
            await self._kube.list(kind, namespace, label_selector=selector)
            for kind in (DEPLOYMENT, SERVICE, POD)
        ]
        by_name = {one["metadata"]["name"]: one for one in workloads}
        there = {one["metadata"]["name"] for one in services}
        revisions = {}
        for one in ours:
            name = one["metadata"]["name"]
            own = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(REVISION_LABEL) == name]
            revisions[name] = parse_revision(
                one,
                self._child(INFERENCE_SERVICE, one),
                by_name.get(predictor_name(name)),
                predictor_name(name) in there,
                tuple(sorted(map(parse_pod, own), key=lambda pod: (pod.created, pod.name))),
            )
        return revisions

    async def _probes(self, deployment: ModelDeployment) -> dict[str, Route]:
        selector = f"{DEPLOYMENT_LABEL}={deployment.name}"
        found = await self._kube.list(HTTP_ROUTE, deployment.metadata.namespace, label_selector=selector)
        return {
            one["metadata"]["name"].removesuffix("-probe"): parse_route(one, self._child(HTTP_ROUTE, one))
            for one in found
            if one["metadata"]["name"].endswith("-probe")
            and belongs_to(one, deployment.metadata.uid or "")
            and not one["metadata"].get("deletionTimestamp")
        }

    def _child(self, kind: Kind, obj: Object) -> Child:
        return Child(obj["metadata"]["uid"], mark_of(obj), self._written.untouched(kind, obj))


def _parse(raw: Object) -> ModelDeployment:
    try:
        return ModelDeployment.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise Unreadable(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def package_of(name: str, job: Object | None) -> tuple[Package | None, Finding | None]:
    """The verified model of a TrainingJob, or why there is none."""
    if job is None:
        message = (
            f"There is no TrainingJob {name} here. Create it, or name another in spec.model.trainingJob."
        )
        return None, Finding(Reason.TRAINING_JOB_MISSING, message)
    try:
        status = TrainingJobStatus.model_validate(job.get("status") or {})
    except ValidationError:
        message = f"The status of the TrainingJob {name} is not what it should be. Create the job again."
        return None, Finding(Reason.MODEL_PENDING, message)
    if status.model is None:
        message = f"The TrainingJob {name} has no verified model yet; it is {status.phase or 'new'}."
        if status.phase == "Failed":
            message = (
                f"The TrainingJob {name} failed, so there is no model. kubectl describe tj {name} says why."
            )
        return None, Finding(Reason.MODEL_PENDING, message)
    if not status.model.verified:
        message = (
            f"The model of the TrainingJob {name} did not pass its gates, so it is not served. "
            f"kubectl describe tj {name} says which."
        )
        return None, Finding(Reason.MODEL_UNVERIFIED, message)
    reference = ((job.get("spec") or {}).get("store") or {}).get("secretRef") or {}
    uri = as_written(status.model.uri)
    if not uri.startswith(_STORES):
        message = f"The TrainingJob {name} says that its model lies at {uri[:100]}, which is no store."
        return None, Finding(Reason.PACKAGE_INVALID, f"{message} Create the job again.")
    return Package(uri, status.model.digest, str(reference.get("name", ""))), None


def parse_revision(
    raw: Object, child: Child, workload: Object | None, reachable: bool, pods: tuple[PredictorPod, ...]
) -> Revision:
    """Read an InferenceService and what belongs to it."""
    metadata, status = raw["metadata"], raw.get("status") or {}
    annotations = metadata.get("annotations") or {}
    predictor = (raw.get("spec") or {}).get("predictor") or {}
    failure = (status.get("modelStatus") or {}).get("lastFailureInfo") or {}
    return Revision(
        name=metadata["name"],
        child=child,
        package=Package(annotations.get(URI_ANNOTATION, ""), annotations.get(DIGEST_ANNOTATION, "")),
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        workload=None if workload is None else parse_workload(workload),
        reachable=reachable,
        pods=pods,
        terminating=bool(metadata.get("deletionTimestamp")),
        minimum=int(predictor.get("minReplicas") or 1),
        maximum=int(predictor.get("maxReplicas") or 1),
        refusal=str(failure.get("message") or "") if workload is None else "",
        runtime_found=failure.get("reason") not in _NO_RUNTIME,
    )


def parse_workload(raw: Object) -> Workload:
    """Read a Deployment."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    wanted = int(spec.get("replicas", 1))
    settled = int(status.get("observedGeneration") or 0) >= int(metadata.get("generation") or 0)
    updated = int(status.get("updatedReplicas") or 0) >= wanted
    failures = [
        str(one.get("message") or one.get("reason") or "")
        for one in status.get("conditions") or ()
        if one["type"] == "ReplicaFailure" and one["status"] == "True"
    ]
    available = int(status.get("availableReplicas") or 0)
    return Workload(settled and updated, wanted, available, failures[0] if failures else "")


def parse_gateway(raw: Object, kserve: bool) -> Platform:
    """Read a Gateway: whether it works, and where it listens."""
    status, spec = raw.get("status") or {}, raw.get("spec") or {}
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    programmed = conditions.get("Programmed") or {}
    addresses = [one["value"] for one in status.get("addresses") or () if one.get("value")]
    ports = [one["port"] for one in spec.get("listeners") or () if one.get("protocol") == "HTTP"]
    if programmed.get("status") != "True":
        said = str(programmed.get("message") or "its controller has not said anything").rstrip(".")
        return Platform(kserve, True, False, complaint=f"{said}. Look at its controller.")
    address = f"{addresses[0]}:{ports[0]}" if addresses and ports else ""
    return Platform(kserve, True, True, address)


def parse_route(raw: Object, child: Child) -> Route:
    """Read the HTTPRoute."""
    rules: list[Object] = (raw.get("spec") or {}).get("rules") or []
    weights: dict[str, int] = {}
    mirrors: dict[str, int] = {}
    reachable: set[str] = set()
    for rule in rules:
        backends = {_revision(one): int(one.get("weight", 1)) for one in rule.get("backendRefs") or ()}
        if any(match.get("headers") for match in rule.get("matches") or ()):
            reachable |= backends.keys()
            continue
        weights |= backends
        for one in rule.get("filters") or ():
            mirror: dict[str, Any] = one.get("requestMirror") or {}
            if mirror:
                mirrors[_revision(mirror["backendRef"])] = int(mirror.get("percent", 100))
    accepted, complaint = _taken(raw)
    return Route(child, weights, mirrors, frozenset(reachable), accepted, complaint)


def _revision(backend: Object) -> str:
    return str(backend["name"]).removesuffix("-predictor")


def _taken(raw: Object) -> tuple[bool, str]:
    """Whether the gateway has taken this generation, and its complaint where it has not."""
    generation = raw["metadata"].get("generation")
    taken = set()
    for parent in (raw.get("status") or {}).get("parents") or ():
        for one in parent.get("conditions") or ():
            if one.get("observedGeneration") != generation:
                continue
            if one["status"] == "True":
                taken.add(one["type"])
            elif one["type"] in ("Accepted", "ResolvedRefs"):
                return False, str(one.get("message") or one.get("reason") or "it does not say why")
    return {"Accepted", "ResolvedRefs"} <= taken, ""
