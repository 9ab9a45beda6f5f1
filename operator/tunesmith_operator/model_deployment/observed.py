"""What is known of a ModelDeployment and everything around it: the input of every decision."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_api.status import ModelDeploymentStatus
from tunesmith_operator.findings import Finding
from tunesmith_operator.model_deployment.analysis import Window
from tunesmith_operator.model_deployment.pods import PredictorPod
from tunesmith_operator.obstacles import Conflict, Refusal


@dataclass(frozen=True)
class Package:
    """A verified model package, and the Secret with which it is read."""

    uri: str
    digest: str
    secret: str = ""


@dataclass(frozen=True)
class Child:
    """An object that is there and ours.

    Attributes:
        uid: its own.
        mark: stands for the content that we gave it.
        untouched: whether its spec is still as it was when we last wrote it; False also when this process
            has not written it yet, so it is written once more (which changes nothing where nothing differs).
    """

    uid: str
    mark: str
    untouched: bool


@dataclass(frozen=True)
class Workload:
    """The Deployment that KServe made of a revision; ``failure`` is why it cannot have its pods."""

    settled: bool
    wanted: int
    available: int
    failure: str = ""


@dataclass(frozen=True)
class Revision:
    """A revision as it is found in the cluster: an InferenceService of ours and what belongs to it.

    Attributes:
        name: of the InferenceService.
        child: its identity.
        package: that it serves.
        created: when.
        workload: None while KServe has made none.
        reachable: whether its predictor's Service is there.
        pods: the oldest first.
        terminating: it is being deleted.
        minimum: of its pods, as its spec says.
        maximum: the same.
        refusal: KServe's own words where it will not make a Deployment of it.
        runtime_found: not where KServe says that there is no ServingRuntime for it.
    """

    name: str
    child: Child
    package: Package
    created: datetime
    workload: Workload | None = None
    reachable: bool = False
    pods: tuple[PredictorPod, ...] = ()
    terminating: bool = False
    minimum: int = 1
    maximum: int = 1
    refusal: str = ""
    runtime_found: bool = True

    @property
    def ready(self) -> bool:
        """Whether requests may be sent to it: a pod answers, and as it never changes all are alike."""
        return self.reachable and self.workload is not None and self.workload.available > 0

    @property
    def complete(self) -> bool:
        """Whether its Deployment has come to rest with all the pods that it should have."""
        work = self.workload
        return self.ready and work is not None and work.settled and work.available >= work.wanted


@dataclass(frozen=True)
class Route:
    """The HTTPRoute.

    Attributes:
        child: its identity.
        weights: percent of the requests by revision, as its spec says.
        mirrors: percent of the requests that are copied, by revision.
        reachable: revisions that a header reaches.
        accepted: the gateway has taken this very generation.
        complaint: the gateway's words where it has not.
    """

    child: Child
    weights: Mapping[str, int]
    mirrors: Mapping[str, int]
    reachable: frozenset[str]
    accepted: bool
    complaint: str = ""


@dataclass(frozen=True)
class Platform:
    """What the cluster has.

    Attributes:
        kserve: InferenceServices are served.
        routes: HTTPRoutes are served.
        gateway: the Gateway of the settings is there and programmed.
        address: where it listens, as HOST:PORT; empty while it says nothing.
        complaint: why the Gateway cannot be used.
    """

    kserve: bool = True
    routes: bool = True
    gateway: bool = True
    address: str = ""
    complaint: str = ""


@dataclass(frozen=True)
class Observed:
    """A ModelDeployment and what surrounds it at one moment.

    Attributes:
        deployment: the resource; its status as the server has it.
        status: the same status as plain JSON.
        resource_version: of the resource as it was seen.
        package: the model that the spec asks for; None when there is none.
        pending: why there is none.
        revisions: InferenceServices of ours, by name.
        route: the HTTPRoute, when it is there and ours.
        probes: routes on which mirroring is tried, by the revision that would get the copies.
        service: the plain Service, when it is there and ours.
        platform: what the cluster has.
        answered: what came of the last prediction through the address: empty when it was answered, a
            complaint when not, None when none was tried.
        proven: whether the gateway reaches the canary by its header; None when that was not tried.
        mirrors: whether the gateway copies requests; None while that is not known.
        window: what the predictors have counted since the step began; None when nobody has looked.
        refusal: what the server said when something was to be written.
        conflict: what is in the way.
        leaving: objects of an earlier resource of this name that are not gone yet.
    """

    deployment: ModelDeployment
    status: Mapping[str, Any]
    resource_version: str
    package: Package | None
    pending: Finding | None
    revisions: Mapping[str, Revision] = field(default_factory=dict)
    route: Route | None = None
    probes: Mapping[str, Route] = field(default_factory=dict)
    service: Child | None = None
    platform: Platform = Platform()
    answered: str | None = None
    proven: bool | None = None
    mirrors: bool | None = None
    window: Window | None = None
    refusal: Refusal | None = None
    conflict: Conflict | None = None
    leaving: tuple[str, ...] = ()

    @property
    def told(self) -> ModelDeploymentStatus:
        """The status as the server has it; empty when there is none."""
        return self.deployment.status or ModelDeploymentStatus()
