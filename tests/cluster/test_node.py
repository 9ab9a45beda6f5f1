"""What a node is expected to do, done by real pods."""

import http.server
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest
from tests.cluster.namespaces import RESTRICTED, Namespace, pod, service
from tests.testbed.control_plane import VERSION
from tests.testbed.kube_api import wait_for
from tests.testbed.kubectl import Kubectl, KubectlFailed
from tests.testbed.node import Node
from tests.testbed.node.addresses import DNS_SERVICE
from tests.testbed.node.images import ERRAND

GREETING = "it is me"


@pytest.fixture
def web(node: Node, namespace: Namespace) -> Namespace:
    """A namespace where a pod answers behind the Service `web`, and kube-proxy has heard of it."""
    namespace.apply(pod("web", "serve", ":8080", GREETING), service("web", 8080))
    namespace.wait("pod", "web", "Ready")
    wait_for(lambda: asked_from_here(namespace), "the Service has a way to its pod")
    return namespace


def asked_from_here(namespace: Namespace) -> str:
    """What the Service `web` answers to this machine; nothing while it refuses, having no pod."""
    found = namespace.find("service", "web")
    assert found is not None
    try:
        return httpx.get(f"http://{found['spec']['clusterIP']}/", timeout=10).text
    except httpx.ConnectError:
        return ""


def test_node_runs_the_version_that_the_control_plane_has(node: Node) -> None:
    (found,) = node.kubectl.json("get", "nodes")["items"]
    assert found["status"]["nodeInfo"]["kubeletVersion"] == VERSION
    assert node.kubectl.json("version")["serverVersion"]["gitVersion"] == VERSION


def test_job_of_an_imported_image_completes(node: Node, namespace: Namespace) -> None:
    assert node.images.has(ERRAND)
    namespace.run_job("errand", "exit", "0")


def test_exit_code_of_a_failed_container_is_told(node: Node, namespace: Namespace) -> None:
    namespace.apply(pod("failing", "exit", "42"))
    assert namespace.container_state("failing", "terminated")["exitCode"] == 42


def test_pod_resolves_a_service_and_reaches_it_by_its_name(web: Namespace) -> None:
    found = web.find("service", "web")
    assert found is not None
    assert web.run_job("resolve", "resolve", "web").split() == [found["spec"]["clusterIP"]]
    assert web.run_job("get", "get", f"http://web.{web.name}.svc.cluster.local/") == GREETING


def test_service_is_reached_from_this_machine(web: Namespace) -> None:
    assert asked_from_here(web) == GREETING


def test_pod_reaches_itself_through_its_service(node: Node, web: Namespace) -> None:
    # The bridge has to send a packet back where it came from.
    command = ("exec", "--namespace", web.name, "web", "--", "/errand", "get")
    assert node.kubectl(*command, f"http://web.{web.name}.svc.cluster.local/") == GREETING


def test_names_outside_the_cluster_do_not_exist(node: Node, namespace: Namespace) -> None:
    namespace.apply(pod("asking", "resolve", "example.org"))
    assert namespace.container_state("asking", "terminated")["exitCode"] == 1
    assert DNS_SERVICE in namespace.logs("asking")
    assert "no such host" in namespace.logs("asking")


@pytest.fixture
def outer_server() -> Iterator[str]:
    """A server at an address of this machine that is not the node's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("This machine has no address but its loopback.")
        address = probe.getsockname()[0]
    server = http.server.ThreadingHTTPServer((address, 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{address}:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_pod_reaches_no_other_address_of_this_machine(
    node: Node, namespace: Namespace, outer_server: str
) -> None:
    assert httpx.get(outer_server, timeout=10).status_code == 501  # there is somebody
    namespace.apply(pod("curious", "get", outer_server))
    assert namespace.container_state("curious", "terminated")["exitCode"] == 1
    assert "Client.Timeout exceeded" in namespace.logs("curious")


def test_container_over_its_memory_is_killed_and_says_so(node: Node, namespace: Namespace) -> None:
    namespace.apply(pod("eager", "eat", "256", resources={"limits": {"memory": "64Mi"}}))
    ended = namespace.container_state("eager", "terminated")
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_absent_image_is_an_error_at_once(node: Node, namespace: Namespace) -> None:
    namespace.apply(pod("absent", "rest", image="tunesmith.test/absent:1"))
    waiting = namespace.container_state("absent", "waiting", seconds=20)
    assert waiting["reason"] in ("ErrImagePull", "ImagePullBackOff")
    assert "tunesmith.test/absent:1" in waiting["message"]


def test_pod_that_wants_a_gpu_is_scheduled_while_there_are_some(node: Node, namespace: Namespace) -> None:
    namespace.apply(
        pod("modest", "exit", "0", resources={"limits": {"nvidia.com/gpu": 1}}),
        pod("greedy", "exit", "0", resources={"limits": {"nvidia.com/gpu": 99}}),
    )
    assert namespace.container_state("modest", "terminated")["exitCode"] == 0

    def refused() -> str:
        conditions = (namespace.find("pod", "greedy") or {}).get("status", {}).get("conditions", [])
        return next((one["message"] for one in conditions if one.get("reason") == "Unschedulable"), "")

    assert "Insufficient nvidia.com/gpu" in wait_for(refused, "greedy is not scheduled")


def test_confinement_is_real(node: Node, namespace: Namespace) -> None:
    said = namespace.run_job("confined", "confinement")
    assert dict(line.split(":\t", 1) for line in said.splitlines()) == {
        "Uid": "65532\t65532\t65532\t65532",
        "CapEff": "0000000000000000",
        "NoNewPrivs": "1",
        "Seccomp": "2",  # a filter: the runtime's default
    }


def test_pod_that_asks_for_more_than_restricted_is_refused(kubectl: Kubectl, namespace: Namespace) -> None:
    body = pod("rooted", "rest")
    body["spec"]["securityContext"] = {"runAsUser": 0}
    with pytest.raises(KubectlFailed, match='violates PodSecurity "restricted') as refused:
        namespace.apply(body)
    assert "runAsNonRoot" in str(refused.value)
    labels = kubectl.json("get", "namespace", namespace.name)["metadata"]["labels"]
    assert RESTRICTED.items() <= labels.items()


def test_pods_outlive_the_kubelet_and_the_container_runtime(web: Namespace, node: Node) -> None:
    before = web.container_state("web", "running")["startedAt"]
    for name in ("kubelet", "containerd"):
        node.processes.stop(name)
        assert node.processes.pid(name) is None
    node.start("containerd")
    node.start("kubelet")
    wait_for(node.healthy, "the node is ready again", 60)
    web.run_job("after", "get", "http://web/")
    assert web.container_state("web", "running")["startedAt"] == before
