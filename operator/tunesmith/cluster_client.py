"""The verbs for what is in a cluster, as functions: see `tunesmith.client`, which hands them on.

Every function takes the cluster that kubectl would use, and ``namespace`` for another than the context's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tunesmith import cluster_deployments, cluster_jobs
from tunesmith.cluster import Cluster
from tunesmith.cluster_names import deployment_name, job_name, reference
from tunesmith.deployment_endpoint import open_deployment
from tunesmith.endpoint import Endpoint
from tunesmith.following import DAY, Say, silent
from tunesmith.job_file import read_text
from tunesmith.prediction import Prediction
from tunesmith.rollout_ends import End
from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_api.training_job import TrainingJob
from tunesmith_api.validation import load_documents

Resource = TrainingJob | ModelDeployment


def submit(file: str | Path, *, namespace: str | None = None) -> list[Resource]:
    """Create the TrainingJobs and ModelDeployments of a YAML file, or change what may change of them.

    Raises:
        SpecInvalid: something in the file breaks a rule; nothing is submitted then.
    """
    text = read_text(Path(file))
    load_documents(text, str(file))
    return cluster_jobs.submit_documents(Cluster(namespace), text, silent)


def status(name: str, *, namespace: str | None = None) -> Resource:
    """A TrainingJob by its name, or a ModelDeployment by ``deployment/NAME``, as it stands.

    Raises:
        ResourceMissing: there is none of this name.
    """
    cluster, named = Cluster(namespace), reference(name)
    return (cluster.deployments if named.is_deployment else cluster.jobs).get(named.name)


def wait(
    name: str,
    *,
    revision: str | None = None,
    promoted: bool = False,
    timeout: float = DAY,
    say: Say | None = None,
    namespace: str | None = None,
) -> int:
    """Wait until a TrainingJob is over, or a ModelDeployment answers requests.

    Args:
        name: of a job, or ``deployment/NAME``.
        revision: of a deployment: until this one has all the requests.
        promoted: of a deployment: until no revision is on its way any more.
        timeout: in seconds.
        say: takes a sentence at each change of what is the case.
        namespace: of the cluster.

    Returns:
        0, or the exit code of the reason: of the job's end, or 32 for a revision that was rejected.

    Raises:
        DeadlineExceeded: it took longer than ``timeout``.
    """
    cluster, named = Cluster(namespace), reference(name)
    if named.is_deployment:
        end = cluster_deployments.end_of(revision=revision, promoted=promoted)
        return cluster_deployments.wait_for(cluster, named.name, end, say or silent, timeout=timeout)
    return cluster_jobs.wait_for(cluster, named.name, say or silent, timeout=timeout)


def cancel(name: str, *, delete: bool = False, namespace: str | None = None) -> None:
    """Suspend a TrainingJob, or delete it; what lies in the store stays.

    Raises:
        SpecInvalid: it is a ModelDeployment.
    """
    name = job_name(name, "cancel", "Use pause or rollback.")
    cluster_jobs.cancel(Cluster(namespace), name, silent, delete=delete)


def promote(
    name: str,
    revision: str | None = None,
    *,
    wait: bool = False,
    timeout: float = DAY,
    say: Say | None = None,
    namespace: str | None = None,
) -> int:
    """Have a ModelDeployment's new revision take over, or one tried again that was rejected.

    Args:
        name: of the ModelDeployment.
        revision: which; the one on its way unless given.
        wait: until it has all the requests or is rejected.
        timeout: of the waiting, in seconds.
        say: takes what comes of it and what happens, in sentences.
        namespace: of the cluster.

    Returns:
        0, or 32 when it was waited for and rejected.

    Raises:
        NothingToDo: there is none that could take over.
        DeadlineExceeded: it took longer than ``timeout``.
    """

    def change(cluster: Cluster, name: str, say: Say) -> End:
        return cluster_deployments.promote(cluster, name, revision, say)

    return _changed(change, name, namespace, say, wait, timeout)


def rollback(
    name: str,
    *,
    wait: bool = False,
    timeout: float = DAY,
    say: Say | None = None,
    namespace: str | None = None,
) -> int:
    """Give up a ModelDeployment's new revision, or go back to the one before; arguments as for `promote`.

    Raises:
        NothingToDo: there is none to go back to.
    """
    return _changed(cluster_deployments.rollback, name, namespace, say, wait, timeout)


def pause(name: str, *, say: Say | None = None, namespace: str | None = None) -> None:
    """Have a ModelDeployment's rollout stand where it is."""
    _changed(cluster_deployments.pause, name, namespace, say)


def resume(
    name: str,
    *,
    wait: bool = False,
    timeout: float = DAY,
    say: Say | None = None,
    namespace: str | None = None,
) -> int:
    """Have a ModelDeployment's rollout go on; arguments as for `promote`."""
    return _changed(cluster_deployments.resume, name, namespace, say, wait, timeout)


def predict(
    name: str,
    images: Sequence[str | Path | bytes],
    *,
    gateway: str = "",
    revision: str | None = None,
    wait_seconds: float = 0.0,
    namespace: str | None = None,
) -> list[Prediction]:
    """Ask a ModelDeployment what is in images.

    Args:
        name: of the ModelDeployment.
        images: paths or encoded bytes.
        gateway: ``HOST[:PORT]`` of the gateway, where the deployment's host name is not known here.
        revision: ask this one only.
        wait_seconds: how long it may take until it is ready.
        namespace: of the cluster.

    Raises:
        ImageInvalid: an image cannot be used.
        TunesmithError: it cannot be reached from here, or does not answer.
    """
    endpoint = _endpoint(name, gateway, revision, wait_seconds, namespace)
    answers = [endpoint.answer(_encoded(image), top=None, explain=False).classes for image in images]
    return [Prediction(*classes[0], dict(classes)) for classes in answers]


def explain(
    name: str,
    image: str | Path | bytes,
    *,
    gateway: str = "",
    revision: str | None = None,
    wait_seconds: float = 0.0,
    namespace: str | None = None,
) -> bytes:
    """Have a ModelDeployment draw what spoke for the first class, as a PNG; arguments as for `predict`."""
    endpoint = _endpoint(name, gateway, revision, wait_seconds, namespace)
    overlay = endpoint.answer(_encoded(image), top=1, explain=True).overlay
    assert overlay is not None
    return overlay


def _endpoint(
    name: str, gateway: str, revision: str | None, wait_seconds: float, namespace: str | None
) -> Endpoint:
    deployment = Cluster(namespace).deployments.get(deployment_name(name))
    return open_deployment(deployment, gateway=gateway, revision=revision, wait_seconds=wait_seconds)


def _encoded(image: str | Path | bytes) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def _changed(
    verb: Callable[[Cluster, str, Say], End],
    name: str,
    namespace: str | None,
    say: Say | None,
    wait: bool = False,
    timeout: float = DAY,
) -> int:
    name, cluster, say = deployment_name(name), Cluster(namespace), say or silent
    end = verb(cluster, name, say)
    return cluster_deployments.wait_for(cluster, name, end, say, timeout=timeout) if wait else 0
