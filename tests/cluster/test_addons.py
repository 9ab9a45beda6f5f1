"""What Tunesmith builds on, on a real node: KServe serves, gateways share, move and copy, S3 is S3."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError
from tests.cluster.namespaces import Namespace, job
from tests.testbed.addons import envoy_gateway, store, traefik
from tests.testbed.addons.images import HELLO
from tests.testbed.addons.install import GATEWAY_ADDRESS, install
from tests.testbed.kube_api import wait_for
from tests.testbed.node import Node
from tests.testbed.node.addresses import ADDRESS
from tests.testbed.steady_load import SteadyLoad

STABLE, CANARY = "hello-1", "hello-2"
ASKED = {"instances": [[0.1, 0.7, 0.2], [3, 2, 1]]}
PREDICTED = [1, 0]

Object = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """A host name behind a gateway."""

    gateway: str
    address: str
    host: str

    @property
    def url(self) -> str:
        return f"http://{self.address}/v1/models/hello:predict"

    @property
    def headers(self) -> dict[str, str]:
        return {"Host": self.host}

    def ask(self) -> httpx.Response:
        return httpx.post(self.url, json=ASKED, headers=self.headers)

    def served_by(self, requests: int) -> Counter[str]:
        """Who answered so many requests over one connection; each has to be right."""
        counted: Counter[str] = Counter()
        with httpx.Client(headers=self.headers) as client:
            for _ in range(requests):
                answer = client.post(self.url, json=ASKED)
                assert answer.status_code == 200, answer.text
                assert answer.json()["predictions"] == PREDICTED
                counted[answer.json()["served_by"]] += 1
        return counted

    def route(self, weights: Mapping[str, int], mirror: str | None = None) -> Object:
        """From the host name to the models' Services."""
        filters: list[Object] = []
        if mirror:
            backend = {"name": f"{mirror}-predictor", "port": 80}
            filters = [{"type": "RequestMirror", "requestMirror": {"backendRef": backend}}]
        backends = [
            {"name": f"{model}-predictor", "port": 80, "weight": weight} for model, weight in weights.items()
        ]
        return {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": self.host},
            "spec": {
                "parentRefs": [{"name": self.gateway, "namespace": envoy_gateway.NAMESPACE}],
                "hostnames": [self.host],
                "rules": [{"backendRefs": backends, "filters": filters}],
            },
        }


THROUGH_ENVOY = Way(envoy_gateway.GATEWAY, GATEWAY_ADDRESS, "hello.test")
MIRRORED_BY_ENVOY = Way(envoy_gateway.GATEWAY, GATEWAY_ADDRESS, "mirrored.test")
THROUGH_TRAEFIK = Way(traefik.GATEWAY, ADDRESS, "hello-by-traefik.test")
MIRRORED_BY_TRAEFIK = Way(traefik.GATEWAY, ADDRESS, "mirrored-by-traefik.test")


@pytest.fixture(scope="module")
def models(node: Node) -> Iterator[Namespace]:
    """A namespace with two models that are ready, on a node with everything on it."""
    install(node)
    namespace = Namespace.create(node.kubectl, "addons")
    namespace.apply(inference_service(STABLE), inference_service(CANARY))
    for name in (STABLE, CANARY):
        namespace.wait("inferenceservice", name, "Ready", 90)
    yield namespace
    node.kubectl("delete", "namespace", namespace.name, "--timeout=90s")


@pytest.fixture(scope="module", params=["envoy-gateway", "traefik"])
def way(request: pytest.FixtureRequest, node: Node, models: Namespace) -> Way:
    """Through each gateway, all to the stable model."""
    if request.param == "traefik":
        traefik.install(node)
    way = THROUGH_TRAEFIK if request.param == "traefik" else THROUGH_ENVOY
    models.apply(way.route({STABLE: 100}))
    wait_for(lambda: way.ask().status_code == 200, "the route serves")
    return way


def test_an_inference_service_predicts_through_our_own_route(way: Way) -> None:
    answer = way.ask()
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"predictions": PREDICTED, "served_by": STABLE}


def test_kserve_makes_no_route_of_its_own(models: Namespace) -> None:
    found = models.kubectl.json("get", "httproutes,ingresses", "--all-namespaces")["items"]
    ours = {THROUGH_ENVOY.host, MIRRORED_BY_ENVOY.host, THROUGH_TRAEFIK.host, MIRRORED_BY_TRAEFIK.host}
    assert {one["metadata"]["name"] for one in found} <= ours


def test_a_host_name_without_a_route_finds_nothing(way: Way) -> None:
    assert Way(way.gateway, way.address, "nobody.test").ask().status_code == 404


def test_weights_share_the_requests_as_they_say(way: Way, models: Namespace) -> None:
    models.apply(way.route({STABLE: 90, CANARY: 10}))
    wait_for(lambda: CANARY in way.served_by(20), "the canary is asked")
    counted = way.served_by(500)
    assert counted.total() == 500
    assert abs(counted[CANARY] / 500 - 0.10) <= 0.03, counted


def test_weights_move_under_load_without_a_lost_request(way: Way, models: Namespace) -> None:
    models.apply(way.route({STABLE: 100}))
    wait_for(lambda: set(way.served_by(50)) == {STABLE}, "all on the stable one")
    with SteadyLoad(way.url, ASKED, way.headers, per_second=50) as load:
        load.wait_for(50)
        for weight in range(10, 101, 10):
            models.apply(way.route({STABLE: 100 - weight, CANARY: weight}))
            load.wait_for(25)
        load.wait_for(50)
        before = load.answers.served_by[STABLE]
        load.wait_for(50)
    answers = load.answers
    assert answers.failures == []
    assert answers.served_by[CANARY] > 0
    assert answers.served_by[STABLE] == before


def test_one_of_two_proxies_goes_without_a_lost_request(models: Namespace) -> None:
    models.apply(THROUGH_ENVOY.route({STABLE: 100}))
    wait_for(lambda: THROUGH_ENVOY.ask().status_code == 200, "the route serves")
    selector = f"gateway.envoyproxy.io/owning-gateway-name={envoy_gateway.GATEWAY}"
    where = (f"--namespace={envoy_gateway.SYSTEM_NAMESPACE}", f"--selector={selector}")
    proxies = models.kubectl.json("get", "pods", *where)["items"]
    assert len(proxies) == 2
    with SteadyLoad(THROUGH_ENVOY.url, ASKED, THROUGH_ENVOY.headers, per_second=50) as load:
        load.wait_for(50)
        models.kubectl("delete", "pod", proxies[0]["metadata"]["name"], where[0], "--timeout=90s")
        load.wait_for(50)
    assert load.answers.failures == []
    models.kubectl("wait", "pod", *where, "--for=condition=Ready", "--timeout=90s")


def test_envoy_gateway_mirrors_every_request_and_answers_with_none_of_the_copies(models: Namespace) -> None:
    models.apply(MIRRORED_BY_ENVOY.route({STABLE: 100}, mirror=CANARY))
    wait_for(lambda: MIRRORED_BY_ENVOY.ask().status_code == 200, "the mirrored route serves")
    seen = settled_count(models, CANARY)
    assert MIRRORED_BY_ENVOY.served_by(100) == {STABLE: 100}
    wait_for(lambda: answered(models, CANARY) == seen + 100, "100 copies have arrived")


def test_traefik_takes_a_mirror_and_answers_errors(node: Node, models: Namespace) -> None:
    # Why a gateway is tried with a host name of its own before a route that carries traffic gets a mirror.
    traefik.install(node)
    models.apply(MIRRORED_BY_TRAEFIK.route({STABLE: 100}, mirror=CANARY))
    wait_for(lambda: MIRRORED_BY_TRAEFIK.ask().status_code == 500, "the mirrored route answers 500")
    route = models.find("httproute", MIRRORED_BY_TRAEFIK.host)
    assert route is not None
    (parent,) = route["status"]["parents"]
    assert {one["type"]: one["status"] for one in parent["conditions"]}["Accepted"] == "True"


def test_s3_writes_an_object_once_where_it_must_be_absent(node: Node, models: Namespace) -> None:
    server = store.store(node.folder)
    client = server.client()
    assert {one["Name"] for one in client.list_buckets()["Buckets"]} >= set(store.BUCKETS)
    client.put_object(Bucket="models", Key="once", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as refused:
        client.put_object(Bucket="models", Key="once", Body=b"second", IfNoneMatch="*")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert client.get_object(Bucket="models", Key="once")["Body"].read() == b"first"
    client.delete_object(Bucket="models", Key="once")
    client.close()


def test_s3_answers_pods(node: Node, models: Namespace) -> None:
    # Refused for want of a signature: it is S3 that answers, and not nobody.
    models.apply(job("ask-s3", "get", store.store(node.folder).endpoint))
    models.wait("job", "ask-s3", "Failed")
    assert "403" in models.logs("job/ask-s3")


def test_installing_again_changes_nothing(node: Node, models: Namespace) -> None:
    before = generations(models)
    install(node)
    assert generations(models) == before


def generations(models: Namespace) -> dict[str, int]:
    """Of what runs, by name."""
    found = models.kubectl.json("get", "deployments,gateways", "--all-namespaces")["items"]
    return {f"{one['kind']} {one['metadata']['name']}": one["metadata"]["generation"] for one in found}


def answered(models: Namespace, name: str) -> int:
    """How many predictions the one pod of a model has made."""
    where = (f"--namespace={models.name}", f"--selector=app=isvc.{name}-predictor")
    (pod,) = models.kubectl.json("get", "pods", *where)["items"]
    return int(httpx.get(f"http://{pod['status']['podIP']}:8080/answered").json()["predictions"])


def settled_count(models: Namespace, name: str) -> int:
    """The same once no copy is under way any more."""
    counts = [answered(models, name)]

    def look() -> bool:
        time.sleep(0.2)
        counts.append(answered(models, name))
        return counts[-1] == counts[-2]

    wait_for(look, f"{name} is asked no more")
    return counts[-1]


def inference_service(name: str) -> Object:
    """The model server of the test bed, as a pod under Pod Security "restricted"."""
    container = {
        "name": "kserve-container",
        "image": HELLO.name,
        "imagePullPolicy": "Never",
        "env": [{"name": "NAME", "value": name}],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/v1/models/hello", "port": 8080}, "periodSeconds": 1},
        # Time for the proxies to hear that the pod goes.
        "lifecycle": {"preStop": {"sleep": {"seconds": 3}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "annotations": {"serving.kserve.io/autoscalerClass": "none"},
        },
        "spec": {"predictor": {"minReplicas": 1, "containers": [container]}},
    }
