"""Gateway API by Traefik, the light alternative: one process beside the node.

It serves a gateway of its own at the bridge's address, next to Envoy Gateway's. It takes a RequestMirror and
then answers 500 to everything, and a restart refuses requests for some seconds.
"""

from tests.testbed import tools
from tests.testbed.addons.charts import Object, namespace
from tests.testbed.addons.envoy_gateway import NAMESPACE
from tests.testbed.node import Node
from tests.testbed.node.addresses import ADDRESS

PROCESS = "traefik"
CLASS, GATEWAY = "traefik", "traefik"
CONTROLLER = "traefik.io/gateway-controller"
PORT = 80
"""The entry point's has to be the listener's."""


def install(node: Node) -> None:
    """Start it unless it runs, with its class and gateway; returns when the gateway is programmed."""
    if node.processes.pid(PROCESS) is None:
        node.processes.start(PROCESS, command(), environment={"KUBECONFIG": str(node.kubeconfig)})
    node.kubectl.apply(namespace(NAMESPACE), *gateway())
    where = (f"--namespace={NAMESPACE}", "--timeout=60s")
    node.kubectl("wait", f"gateway/{GATEWAY}", "--for=condition=Programmed", *where)


def command() -> list[str]:
    return [
        str(tools.traefik()),
        f"--entrypoints.web.address={ADDRESS}:{PORT}",
        "--providers.kubernetesgateway=true",
        f"--providers.kubernetesgateway.statusaddress.ip={ADDRESS}",
        # By default a change is live 2 s after its status says so.
        "--providers.providersthrottleduration=50ms",
        *("--global.checknewversion=false", "--global.sendanonymoususage=false"),
        *("--log.level=INFO", "--log.nocolor=true"),
    ]


def gateway() -> list[Object]:
    group = "gateway.networking.k8s.io/v1"
    listener = {
        "name": "http",
        "port": PORT,
        "protocol": "HTTP",
        "allowedRoutes": {"namespaces": {"from": "All"}},
    }
    return [
        {
            "apiVersion": group,
            "kind": "GatewayClass",
            "metadata": {"name": CLASS},
            "spec": {"controllerName": CONTROLLER},
        },
        {
            "apiVersion": group,
            "kind": "Gateway",
            "metadata": {"name": GATEWAY, "namespace": NAMESPACE},
            "spec": {"gatewayClassName": CLASS, "listeners": [listener]},
        },
    ]
