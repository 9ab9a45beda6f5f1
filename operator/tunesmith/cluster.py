"""A cluster, as kubectl would reach it: its TrainingJobs, its ModelDeployments, the pods of a job."""

import os
from collections.abc import Iterator
from typing import Any

from tunesmith.cluster_resources import (
    MODEL_DEPLOYMENTS,
    TRAINING_JOBS,
    Resources,
    connection_errors,
    refusal,
)
from tunesmith_api.reasons import TunesmithError

JOB_LABEL = "tunesmith.dev/training-job"


class Cluster:
    """The cluster and namespace that kubectl would use.

    Args:
        namespace: another one than the context's.

    Attributes:
        namespace: the one that is used.
        jobs: its TrainingJobs.
        deployments: its ModelDeployments.
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
            kubernetes.config.load_config(**_config_file())
        except kubernetes.config.ConfigException as error:
            raise TunesmithError(
                f"No cluster is known: {error}.", "Set KUBECONFIG to the file that kubectl uses."
            ) from error
        self.namespace = namespace or _context_namespace(kubernetes)
        self.jobs = Resources(TRAINING_JOBS, self.namespace, kubernetes)
        self.deployments = Resources(MODEL_DEPLOYMENTS, self.namespace, kubernetes)
        self._errors = connection_errors(kubernetes)
        self._core: Any = kubernetes.client.CoreV1Api()

    def pods(self, name: str) -> list[Any]:
        """The pods of a TrainingJob, the newest first."""
        selector = f"{JOB_LABEL}={name},ray.io/node-type!=worker"  # in which no trainer runs
        try:
            found = self._core.list_namespaced_pod(self.namespace, label_selector=selector).items
        except self._errors as error:
            raise refusal(error) from error
        return sorted(found, key=lambda pod: pod.metadata.creation_timestamp, reverse=True)

    def log_lines(self, pod: str, *, follow: bool) -> Iterator[bytes]:
        """The lines of a pod's log, as they come when ``follow``."""
        try:
            answer = self._core.read_namespaced_pod_log(
                pod, self.namespace, follow=follow, _preload_content=False
            )
        except self._errors as error:
            raise refusal(error) from error
        rest = b""
        for piece in answer.stream(2**16):
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole
        if rest:
            yield rest


def _config_file() -> dict[str, str]:
    """The client reads the variable once, when it is imported; here it may change."""
    given = os.environ.get("KUBECONFIG")
    return {"config_file": given} if given else {}


def _context_namespace(kubernetes: Any) -> str:
    try:
        _, context = kubernetes.config.list_kube_config_contexts(**_config_file())
    except kubernetes.config.ConfigException:
        return "default"
    return str(context["context"].get("namespace") or "default")
