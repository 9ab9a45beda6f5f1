"""Jobs of several pods, in a cluster that knows RayJobs and has nobody who sees to them."""

import contextlib
from collections.abc import Iterator

import httpx
import yaml
from tests.controlplane.cluster import Cluster
from tests.testbed.kube_api import Object, wait_for

from tunesmith_operator.kinds import RAY_JOB
from tunesmith_operator.training_job.ray_job import ray_job_name

RAY_JOBS: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "rayjobs.ray.io"},
    "spec": {
        "group": "ray.io",
        "scope": "Namespaced",
        "names": {"kind": "RayJob", "plural": "rayjobs", "singular": "rayjob"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                },
            }
        ],
    },
}


@contextlib.contextmanager
def served(cluster: Cluster) -> Iterator[None]:
    """RayJobs can be created for the duration of the block."""
    cluster.plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(RAY_JOBS))
    wait_for(lambda: _served(cluster), "RayJobs are served")
    yield
    cluster.plane.kubectl("delete", "crd", RAY_JOBS["metadata"]["name"])


def _served(cluster: Cluster) -> bool:
    with contextlib.suppress(httpx.HTTPStatusError):
        cluster.api.read(RAY_JOB.path(""))
        return True
    return False


def ray_job(cluster: Cluster, namespace: str) -> Object | None:
    return cluster.api.get(RAY_JOB, namespace, ray_job_name("several"))


def submits_several(cluster: Cluster, namespace: str) -> None:
    cluster.submit(namespace, "several", compute={"workers": 1})


def has_a_ray_job(cluster: Cluster, namespace: str) -> None:
    submits_several(cluster, namespace)
    wait_for(lambda: ray_job(cluster, namespace), "a RayJob")


def suspends_several(cluster: Cluster, namespace: str) -> None:
    cluster.change(namespace, "several", suspend=True)


def has_a_suspended_ray_job(cluster: Cluster, namespace: str) -> None:
    has_a_ray_job(cluster, namespace)
    suspends_several(cluster, namespace)
    wait_for(lambda: (ray_job(cluster, namespace) or {})["spec"]["suspend"], "a suspended RayJob")


def becomes_larger(cluster: Cluster, namespace: str) -> None:
    cluster.change(namespace, "several", compute={"workers": 2})


def becomes_larger_while_suspended(cluster: Cluster, namespace: str) -> None:
    has_a_suspended_ray_job(cluster, namespace)
    becomes_larger(cluster, namespace)
