"""TrainingJobs and ModelDeployments in a cluster: what the API server is asked of them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tunesmith_api.fields import GROUP, VERSION
from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_api.reasons import Reason, SpecInvalid, TunesmithError
from tunesmith_api.training_job import TrainingJob
from tunesmith_api.validation import validate_object

FIELD_MANAGER = "tunesmith"
WATCH_SECONDS = 50
R = TypeVar("R", TrainingJob, ModelDeployment)


class ClusterRefused(TunesmithError):
    """The API server will not, or cannot be reached."""

    reason = Reason.ADMISSION_REFUSED


class ResourceMissing(ClusterRefused):
    """There is no resource of this name."""


class JobMissing(ResourceMissing):
    """There is no TrainingJob of this name."""

    reason = Reason.TRAINING_JOB_MISSING


@dataclass(frozen=True)
class Found(Generic[R]):
    """A resource, and the object as the server has it: with what only the server knows."""

    resource: R
    document: Mapping[str, Any]


@dataclass(frozen=True)
class ResourceKind(Generic[R]):
    """One of the two kinds.

    Attributes:
        model: its class.
        plural: its name in addresses.
        missing: the error when there is none of a name.
    """

    model: type[R]
    plural: str
    missing: type[ResourceMissing]

    @property
    def word(self) -> str:
        """The kind's name."""
        return self.model.KIND


TRAINING_JOBS = ResourceKind(TrainingJob, "trainingjobs", JobMissing)
MODEL_DEPLOYMENTS = ResourceKind(ModelDeployment, "modeldeployments", ResourceMissing)


class Resources(Generic[R]):
    """The resources of one kind in a namespace."""

    def __init__(self, kind: ResourceKind[R], namespace: str, kubernetes: Any) -> None:
        """Ask nothing yet.

        Args:
            kind: of which kind.
            namespace: where.
            kubernetes: the client's package, configured.
        """
        self._kind: ResourceKind[R] = kind
        self._namespace, self._kubernetes = namespace, kubernetes
        self._address = (GROUP, VERSION, namespace, kind.plural)
        self._objects: Any = kubernetes.client.CustomObjectsApi()
        self._errors = connection_errors(kubernetes)

    def called(self, name: str) -> str:
        """A resource as the command line names it."""
        return name if self._kind is TRAINING_JOBS else f"deployment/{name}"

    def submit(self, document: Mapping[str, Any]) -> R:
        """Create a resource, or change what may change of one that is there.

        Raises:
            SpecInvalid: the server refuses it, with its own sentences.
        """
        name = str(document["metadata"]["name"])
        body = {**document, "metadata": {**document["metadata"], "namespace": self._namespace}}
        try:
            self._objects.patch_namespaced_custom_object(
                *self._address,
                name,
                body,
                field_manager=FIELD_MANAGER,
                field_validation="Strict",
                _content_type="application/apply-patch+yaml",
            )
        except self._errors as error:
            raise self._refusal(error) from error
        # The client gives what was changed, but nothing for what was created (its table knows 200, not 201).
        return self.get(name)

    def get(self, name: str) -> R:
        """A resource as it stands.

        Raises:
            ResourceMissing: there is none of this name.
        """
        return self.found(name).resource

    def found(self, name: str) -> Found[R]:
        """A resource as it stands, with the whole object.

        Raises:
            ResourceMissing: there is none of this name.
        """
        try:
            found = self._objects.get_namespaced_custom_object(*self._address, name)
        except self._errors as error:
            raise self._refusal(error, name) from error
        return Found(self._parsed(found), found)

    def all(self) -> list[R]:
        """All of the namespace, by name."""
        try:
            found = self._objects.list_namespaced_custom_object(*self._address)
        except self._errors as error:
            raise self._refusal(error) from error
        return [self._parsed(one) for one in found["items"]]

    def watch(self, name: str, seconds: float = WATCH_SECONDS) -> Iterator[R]:
        """A resource as it is now and after each change, until ``seconds`` have passed.

        Raises:
            ResourceMissing: there is none of this name.
        """
        yield self.get(name)
        stream = self._kubernetes.watch.Watch()
        try:
            for event in stream.stream(
                self._objects.list_namespaced_custom_object,
                *self._address,
                field_selector=f"metadata.name={name}",
                timeout_seconds=max(1, min(WATCH_SECONDS, round(seconds))),
            ):
                if event["type"] == "DELETED":
                    raise self._kind.missing(f"The {self._kind.word} {name} was deleted.")
                yield self._parsed(event["object"])
        except self._errors as error:
            raise self._refusal(error, name) from error

    def change(self, name: str, body: Mapping[str, Any]) -> R:
        """Merge something into a resource.

        Raises:
            SpecInvalid: the server refuses it, with its own sentences.
            ResourceMissing: there is none of this name.
        """
        try:
            changed = self._objects.patch_namespaced_custom_object(
                *self._address,
                name,
                body,
                field_manager=FIELD_MANAGER,
                field_validation="Strict",
                _content_type="application/merge-patch+json",
            )
        except self._errors as error:
            raise self._refusal(error, name) from error
        return self._parsed(changed)

    def delete(self, name: str) -> None:
        """Delete a resource with all its objects; what lies in the store stays."""
        try:
            self._objects.delete_namespaced_custom_object(*self._address, name)
        except self._errors as error:
            raise self._refusal(error, name) from error

    def _parsed(self, document: Mapping[str, Any]) -> R:
        resource = validate_object({key: value for key, value in document.items() if key != "status"})
        return self._kind.model.model_validate(
            {**resource.to_dict(), "metadata": document["metadata"], "status": document.get("status") or {}}
        )

    def _refusal(self, error: Any, name: str = "") -> TunesmithError:
        status = getattr(error, "status", None)
        if status == 404 and name:
            return self._kind.missing(
                f"There is no {self._kind.word} {name} in the namespace {self._namespace}.",
                "`tunesmith status` lists those that are there; -n names another namespace.",
            )
        if status == 404:
            return ClusterRefused(
                f"The cluster does not know {self._kind.word}s.",
                "Install Tunesmith there: kubectl apply --server-side -f manifests/crds.",
            )
        return refusal(error)


def connection_errors(kubernetes: Any) -> tuple[type[Exception], ...]:
    """What the client raises when the server refuses or cannot be reached."""
    import urllib3

    return (kubernetes.client.ApiException, urllib3.exceptions.HTTPError)


def refusal(error: Any) -> TunesmithError:
    """An error of the client as one of ours."""
    status = getattr(error, "status", None)
    if status is None:
        return ClusterRefused(
            f"The cluster cannot be reached: {getattr(error, 'reason', None) or error}.",
            "Check the address in KUBECONFIG, with kubectl version.",
        )
    try:
        message = str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        message = f"{status} {error.reason}"
    return SpecInvalid(message) if status == 422 else ClusterRefused(f"The cluster refuses: {message}.")
