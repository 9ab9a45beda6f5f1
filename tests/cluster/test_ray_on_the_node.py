"""`compute.workers: 1`: the same TrainingJob as a RayJob, by KubeRay's controller, in two pods."""

import json
from collections.abc import Callable, Iterator

import pytest
from tests.cluster.namespaces import Object
from tests.cluster.platform import Platform, Team
from tests.testbed.addons import kuberay
from tests.testbed.kube_api import wait_for


@pytest.fixture(scope="module")
def ray(platform: Platform, say: Callable[[str], None]) -> Iterator[None]:
    """KubeRay, as long as these tests run."""
    kuberay.install(platform.node, say)
    yield
    kuberay.remove(platform.node)


def test_job_of_two_pods_comes_to_the_same_verified_model(ray: None, team: Team) -> None:
    team.train("alone", "insects")
    alone = team.trained("alone")
    compute = {"cpu": "400m", "memory": "4Gi", "workers": 1}
    team.train("several", "insects", compute=compute)

    def roles() -> bool:
        where = ("--namespace", team.namespace.name, "--selector=tunesmith.dev/training-job=several")
        pods = team.namespace.kubectl.json("get", "pods", *where)["items"]
        run = [pod for pod in pods if pod["status"]["phase"] == "Running"]
        return {pod["metadata"]["labels"]["ray.io/node-type"] for pod in run} == {"head", "worker"}

    wait_for(roles, f"a head and a worker run\n{team.pods()}", 240)
    several = team.trained("several", 600)
    assert several["verified"] is True
    one, other = contents(team, alone), contents(team, several)
    for name in ("model.onnx", "weights.safetensors", "golden.npz", "reference.npz", "preprocess.json"):
        assert one[name] == other[name], name  # the others hold the job's name, times and latencies
    wait_for(lambda: not _pods(team), "its pods are gone", 90)


def contents(team: Team, model: Object) -> dict[str, Object]:
    """What a package's manifest says of its files: size and sha256."""
    bucket, _, prefix = str(model["uri"]).removeprefix("s3://").partition("/")
    client = team.platform.s3()
    manifest = client.get_object(Bucket=bucket, Key=f"{prefix.rstrip('/')}/manifest.json")["Body"].read()
    client.close()
    files: dict[str, Object] = json.loads(manifest)["files"]
    return files


def _pods(team: Team) -> list[str]:
    where = ("--namespace", team.namespace.name, "--selector=tunesmith.dev/training-job=several")
    return team.namespace.kubectl("get", "pods", *where, "--output=name").split()
