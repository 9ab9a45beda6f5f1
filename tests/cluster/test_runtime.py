"""Our ServingRuntime under the real KServe: revisions need it and outlast its changes; others use it too."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from tests.cluster.namespaces import Object
from tests.cluster.platform import Team, photos
from tests.testbed.addons import tunesmith
from tests.testbed.kube_api import wait_for
from tests.testbed.kubectl import Kubectl

KIND, RUNTIME, OWN = "clusterservingruntime", "tunesmith", "by-hand"


@pytest.fixture(scope="module")
def model(team: Team) -> Object:
    """A verified model, which is served as `insects`."""
    team.train("insects", "insects")
    found = team.trained("insects")
    team.deploy("insects", "insects")
    team.wait_for("modeldeployment", "insects", "Ready", 120, status="True")
    return found


@pytest.fixture(scope="module")
def claim(team: Team, model: Object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A claim with the model's package in its folder `package`."""
    folder = tmp_path_factory.mktemp("claim")
    uri = urlsplit(model["uri"])
    client = team.platform.s3()
    (folder / "package").mkdir()
    for one in client.list_objects_v2(Bucket=uri.netloc, Prefix=uri.path.strip("/") + "/")["Contents"]:
        target = folder / "package" / Path(one["Key"]).name
        client.download_file(uri.netloc, one["Key"], str(target))
        target.chmod(0o644)
    client.close()
    for one in (folder, folder / "package"):
        one.chmod(0o755)
    name = f"{team.namespace.name}-package"
    bound = {"storageClassName": "", "accessModes": ["ReadOnlyMany"]}
    size = {"storage": "1Gi"}
    volume = {"hostPath": {"path": str(folder), "type": "Directory"}, "capacity": size, **bound}
    head = {"apiVersion": "v1", "metadata": {"name": name}}
    team.namespace.kubectl.apply({**head, "kind": "PersistentVolume", "spec": volume})
    wanted = {**bound, "resources": {"requests": size}, "volumeName": name}
    team.namespace.apply(
        {**head, "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": wanted}
    )
    yield name
    where = ("--namespace", team.namespace.name)
    team.namespace.kubectl("delete", "isvc", OWN, "--ignore-not-found", *where)
    team.namespace.kubectl("delete", "pvc", name, "--wait=false", *where)
    team.namespace.kubectl("delete", "pv", name, "--wait=false")


def pods(team: Team, service: str) -> dict[str, Object]:
    """The pods of an InferenceService, by unique name."""
    selector = f"--selector=serving.kserve.io/inferenceservice={service}"
    where = ("--namespace", team.namespace.name)
    found = team.namespace.kubectl.json("get", "pods", *where, selector)["items"]
    return {one["metadata"]["uid"]: one for one in found}


def ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def revision(team: Team, name: str) -> str:
    """The InferenceService that serves."""
    found: str = team.status("modeldeployment", name)["stable"]["revision"]
    return found


def give(kubectl: Kubectl, server: Object) -> None:
    """Another container for the runtime."""
    change = json.dumps({"spec": {"containers": [server]}})
    kubectl("patch", KIND, RUNTIME, "--type=merge", f"--patch={change}")


@pytest.fixture(scope="module")
def own(team: Team, claim: str) -> Object:
    """A ready pod of an InferenceService that a person wrote for the runtime."""
    body = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": OWN,
            "annotations": {
                "serving.kserve.io/deploymentMode": "Standard",
                "serving.kserve.io/autoscalerClass": "none",
            },
        },
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "model": {
                    "modelFormat": {"name": RUNTIME},
                    "runtime": RUNTIME,
                    "storageUri": f"pvc://{claim}/package",
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "512Mi"},
                        "limits": {"memory": "1Gi"},
                    },
                },
            }
        },
    }
    team.namespace.apply(body)
    try:
        found = wait_for(
            lambda: next(filter(ready, pods(team, OWN).values()), None), "a pod of it is ready", 120
        )
    except AssertionError as error:
        raise AssertionError(f"{error}\n{team.namespace.find('isvc', OWN)}\n{team.pods()}") from error
    return found


def test_an_inference_service_of_ones_own_is_served_by_it(team: Team, own: Object) -> None:
    photo = photos("val")[0]
    answer = httpx.post(
        f"http://{own['status']['podIP']}:8080/v1/models/{OWN}:predict",
        content=photo.path.read_bytes(),
        headers={"Content-Type": "image/jpeg"},
        timeout=10,
    )
    assert answer.status_code == 200, answer.text
    assert (
        answer.json()["predictions"][0]["label"]
        == team.ask("insects", photo).json()["predictions"][0]["label"]
    )


def test_a_revision_stays_as_it_was_when_the_runtime_changes(team: Team, own: Object) -> None:
    name = revision(team, "insects")
    before, others = pods(team, name), pods(team, OWN)
    kubectl = team.namespace.kubectl
    (server,) = kubectl.json("get", KIND, RUNTIME)["spec"]["containers"]
    other = {
        **server,
        "image": "nowhere.invalid/predictor:2",
        "readinessProbe": {**server["readinessProbe"], "periodSeconds": 3},
        "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
    }
    try:
        give(kubectl, other)
        changed = "KServe makes other pods for those that change"
        wait_for(lambda: pods(team, OWN).keys() - others.keys(), changed, 60)
        assert pods(team, name).keys() == before.keys()
        where = ("--namespace", team.namespace.name)
        deployment = kubectl.json("get", "deployment", f"{name}-predictor", *where)
        (serve,) = deployment["spec"]["template"]["spec"]["containers"]
        assert serve["image"] != other["image"]
        assert serve["lifecycle"]["preStop"]["sleep"]["seconds"] == 5
    finally:
        give(kubectl, server)


def test_a_missing_runtime_is_told_and_takes_nothing_from_what_is_served(team: Team, model: Object) -> None:
    name = revision(team, "insects")
    before = pods(team, name)
    team.namespace.kubectl("delete", KIND, RUNTIME)
    try:
        team.deploy("late", "insects")
        told = team.wait_for("modeldeployment", "late", "Ready", 60, reason="RuntimeMissing")
        assert "kubectl apply -k manifests/serving" in told["message"]
        assert team.ask("insects", photos("val")[0]).status_code == 200
        assert team.condition("modeldeployment", "insects", "Ready")["status"] == "True"
    finally:
        tunesmith.release(team.platform.node, tunesmith.values())
    team.wait_for("modeldeployment", "late", "Ready", 180, status="True")
    assert pods(team, name).keys() == before.keys()
