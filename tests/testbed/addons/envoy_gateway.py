"""Gateway API by Envoy Gateway, from its Go module with its own charts, and the gateway that Tunesmith uses.

Two proxies, so that one of them can go without a request lost, at an address that the machine itself reaches.
"""

from functools import cache
from pathlib import Path

from tests.testbed.addons.charts import Chart, Object, documents, namespace
from tests.testbed.addons.images import ENVOY, ENVOY_GATEWAY
from tests.testbed.go_commands import sources
from tests.testbed.kubectl import Kubectl

SYSTEM_NAMESPACE = "envoy-gateway-system"
CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller"
CLASS = "envoy-gateway"
NAMESPACE, GATEWAY = "tunesmith-gateway", "tunesmith"

_QUICK = {
    "startupProbe": {"periodSeconds": 1, "failureThreshold": 120},
    "readinessProbe": {"periodSeconds": 1},
}
"""By default a proxy is looked at every 10 s, and is that much later Programmed."""

VALUES: Object = {
    "global": {
        "images": {
            "envoyGateway": {"image": ENVOY_GATEWAY.name, "pullPolicy": "Never"},
            "envoyProxy": {"image": ENVOY.name, "pullPolicy": "Never"},
        }
    },
    "crds": {"enabled": False},
    "topologyInjector": {"enabled": False},
    "deployment": {
        "envoyGateway": {
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8081}, "periodSeconds": 1},
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1024Mi"}},
        }
    },
    "config": {
        "envoyGateway": {
            "gateway": {"controllerName": CONTROLLER},
            "provider": {
                "type": "Kubernetes",
                "kubernetes": {"shutdownManager": {"image": ENVOY_GATEWAY.name}},
            },
        }
    },
}


@cache
def _charts() -> Path:
    return sources("envoy_gateway", "github.com/envoyproxy/gateway") / "charts"


def crds() -> str:
    """Gateway API's standard channel and Envoy Gateway's own."""
    values = {
        "crds": {
            "gatewayAPI": {"enabled": True, "channel": "standard"},
            "envoyGateway": {"enabled": True},
        }
    }
    return Chart(_charts() / "gateway-crds-helm").render("gateway-crds", SYSTEM_NAMESPACE, values)


def install(kubectl: Kubectl, address: str, proxies: int = 2) -> None:
    """Apply all but the CRDs, which have to be there; returns when the gateway is programmed.

    Args:
        kubectl: of the cluster.
        address: of the gateway's Service, out of the cluster's range for Services.
        proxies: how many.
    """
    folder = _charts() / "gateway-helm"
    # The module has the chart before its release: two placeholders, which VALUES overrides.
    chart = Chart(folder, (folder / "values.tmpl.yaml",))
    controller = documents(chart.render("eg", SYSTEM_NAMESPACE, VALUES))
    namespaces = (namespace(SYSTEM_NAMESPACE), namespace(NAMESPACE))
    kubectl.apply(*namespaces, *controller, *gateway(address, proxies))
    where = (f"--namespace={NAMESPACE}", "--timeout=110s")
    kubectl("wait", f"gateway/{GATEWAY}", "--for=condition=Programmed", *where)


def gateway(address: str, proxies: int) -> list[Object]:
    """The gateway with its class and how its proxies are run."""
    group = "gateway.networking.k8s.io"
    own = {"name": GATEWAY, "namespace": NAMESPACE}
    listener = {
        "name": "http",
        "port": 80,
        "protocol": "HTTP",
        "allowedRoutes": {"namespaces": {"from": "All"}},
    }
    parameters = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": GATEWAY}
    return [
        {
            "apiVersion": f"{group}/v1",
            "kind": "GatewayClass",
            "metadata": {"name": CLASS},
            "spec": {"controllerName": CONTROLLER},
        },
        {
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "EnvoyProxy",
            "metadata": own,
            "spec": {"provider": {"type": "Kubernetes", "kubernetes": _proxies(address, proxies)}},
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "Gateway",
            "metadata": own,
            "spec": {
                "gatewayClassName": CLASS,
                "infrastructure": {"parametersRef": parameters},
                "listeners": [listener],
            },
        },
    ]


def _proxies(address: str, count: int) -> Object:
    containers = [{"name": name, **_QUICK} for name in ("envoy", "shutdown-manager")]
    return {
        "envoyDeployment": {
            "replicas": count,
            "patch": {
                "type": "StrategicMerge",
                "value": {"spec": {"template": {"spec": {"containers": containers}}}},
            },
            "container": {
                "image": ENVOY.name,
                "resources": {
                    "requests": {"cpu": "20m", "memory": "64Mi"},
                    "limits": {"cpu": "1", "memory": "256Mi"},
                },
            },
        },
        # Without a load balancer in the cluster, its Service's address is the gateway's.
        "envoyService": {
            "type": "ClusterIP",
            "patch": {"type": "StrategicMerge", "value": {"spec": {"clusterIP": address}}},
        },
    }
