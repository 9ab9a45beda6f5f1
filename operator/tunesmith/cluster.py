"""TrainingJobs in a cluster: what the verbs submit, status, logs, wait and cancel ask of its API server."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith_api.fields import GROUP, VERSION
from tunesmith_api.reasons import Reason, SpecInvalid, TunesmithError
from tunesmith_api.training_job import TrainingJob
from tunesmith_api.validation import validate_object

PLURAL = "trainingjobs"
FIELD_MANAGER = "tunesmith"
JOB_LABEL = "tunesmith.dev/training-job"
WATCH_SECONDS = 50


class ClusterRefused(TunesmithError):
    """The API server will not, or cannot be reached."""

    reason = Reason.ADMISSION_REFUSED


class JobMissing(TunesmithError):
    """There is no TrainingJob of this name."""

    reason = Reason.TRAINING_JOB_MISSING


class Cluster:
    """The cluster and namespace that kubectl would use.

    Args:
        namespace: another one than the context's.
    """

    def __init__(self, namespace: str | None = None) -> None:
        """Read KUBECONFIG; nothing is asked yet.

        Raises:
            TunesmithError: the client is not installed, or there is no cluster.
        """
        try:
            import kubernetes
        except ImportError as error:
            raise TunesmithError(
                "Talking to a cluster needs the package kubernetes, which is not installed here.",
                "Install it with pip install 'tunesmith[cluster]'.",
            ) from error
        try:
            kubernetes.config.load_config()
        except kubernetes.config.ConfigException as error:
            raise TunesmithError(
                f"No cluster is known: {error}.", "Set KUBECONFIG to the file that kubectl uses."
            ) from error
        self.namespace = namespace or _context_namespace(kubernetes)
        self._errors: Any = kubernetes.client.ApiException
        self._kubernetes: Any = kubernetes
        self._objects: Any = kubernetes.client.CustomObjectsApi()
        self._core: Any = kubernetes.client.CoreV1Api()

    def submit(self, document: Mapping[str, Any]) -> TrainingJob:
        """Create a TrainingJob, or change what may change of one that is there.

        Raises:
            SpecInvalid: the server refuses it, with its own sentences.
        """
        body = {**document, "metadata": {**document["metadata"], "namespace": self.namespace}}
        address = (GROUP, VERSION, self.namespace, PLURAL, body["metadata"]["name"])
        try:
            self._objects.patch_namespaced_custom_object(
                *address,
                body,
                field_manager=FIELD_MANAGER,
                field_validation="Strict",
                _content_type="application/apply-patch+yaml",
            )
        except self._errors as error:
            raise self._refusal(error) from error
        # The client gives what was changed, but nothing for what was created (its table knows 200, not 201).
        return self.get(str(body["metadata"]["name"]))

    def get(self, name: str) -> TrainingJob:
        """A TrainingJob as it stands.

        Raises:
            JobMissing: there is none of this name.
        """
        try:
            found = self._objects.get_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, name)
        except self._errors as error:
            raise self._refusal(error, name) from error
        return _parsed(found)

    def all(self) -> list[TrainingJob]:
        """All TrainingJobs of the namespace, by name."""
        try:
            found = self._objects.list_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL)
        except self._errors as error:
            raise self._refusal(error) from error
        return [_parsed(one) for one in found["items"]]

    def watch(self, name: str) -> Iterator[TrainingJob]:
        """A TrainingJob as it is now and after each change, until nothing has happened for long.

        Raises:
            JobMissing: there is none of this name.
        """
        yield self.get(name)
        stream = self._kubernetes.watch.Watch()
        try:
            for event in stream.stream(
                self._objects.list_namespaced_custom_object,
                GROUP,
                VERSION,
                self.namespace,
                PLURAL,
                field_selector=f"metadata.name={name}",
                timeout_seconds=WATCH_SECONDS,
            ):
                if event["type"] == "DELETED":
                    raise JobMissing(f"The TrainingJob {name} was deleted.")
                yield _parsed(event["object"])
        except self._errors as error:
            raise self._refusal(error, name) from error

    def suspend(self, name: str) -> None:
        """Stop a job's pod and keep everything."""
        self._change(name, {"spec": {"suspend": True}})

    def delete(self, name: str) -> None:
        """Delete a job with all its objects; what lies in the store stays."""
        try:
            self._objects.delete_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, name)
        except self._errors as error:
            raise self._refusal(error, name) from error

    def pods(self, name: str) -> list[Any]:
        """The job's pods, the newest first."""
        selector = f"{JOB_LABEL}={name}"
        try:
            found = self._core.list_namespaced_pod(self.namespace, label_selector=selector).items
        except self._errors as error:
            raise self._refusal(error) from error
        return sorted(found, key=lambda pod: pod.metadata.creation_timestamp, reverse=True)

    def log_lines(self, pod: str, *, follow: bool) -> Iterator[bytes]:
        """The lines of a pod's log, as they come when ``follow``."""
        try:
            answer = self._core.read_namespaced_pod_log(
                pod, self.namespace, follow=follow, _preload_content=False
            )
        except self._errors as error:
            raise self._refusal(error, pod) from error
        rest = b""
        for piece in answer.stream(2**16):
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def _change(self, name: str, body: Mapping[str, Any]) -> None:
        try:
            self._objects.patch_namespaced_custom_object(
                GROUP,
                VERSION,
                self.namespace,
                PLURAL,
                name,
                body,
                field_manager=FIELD_MANAGER,
                _content_type="application/merge-patch+json",
            )
        except self._errors as error:
            raise self._refusal(error, name) from error

    def _refusal(self, error: Any, name: str = "") -> TunesmithError:
        try:
            message = str(json.loads(error.body)["message"])
        except (TypeError, ValueError, KeyError):
            message = f"{error.status} {error.reason}"
        if error.status == 404 and name:
            return JobMissing(
                f"There is no TrainingJob {name} in the namespace {self.namespace}.",
                "`tunesmith status` lists those that are there; -n names another namespace.",
            )
        if error.status == 404:
            return ClusterRefused(
                "The cluster does not know TrainingJobs.",
                "Install Tunesmith there: kubectl apply --server-side -f manifests/crds.",
            )
        if error.status == 422:
            return SpecInvalid(message)
        return ClusterRefused(f"The cluster refuses: {message}.")


def _context_namespace(kubernetes: Any) -> str:
    try:
        _, context = kubernetes.config.list_kube_config_contexts()
    except kubernetes.config.ConfigException:
        return "default"
    return str(context["context"].get("namespace") or "default")


def _parsed(document: Mapping[str, Any]) -> TrainingJob:
    resource = validate_object({key: value for key, value in document.items() if key != "status"})
    assert isinstance(resource, TrainingJob)
    return TrainingJob.model_validate(
        {**resource.to_dict(), "metadata": document["metadata"], "status": document.get("status") or {}}
    )
