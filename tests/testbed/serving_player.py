"""Plays KServe and a gateway before a real API server, as tests direct: their objects, not their traffic.

Of an InferenceService for our runtime comes a Deployment and a Service, as KServe 0.20 makes them in Standard
mode; the real controllers make pods of the Deployment. HTTPRoutes are accepted, and predictions through the
gateway's address are answered as the route says. The real ones are in tests/cluster.
"""

import contextlib
import random
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from tests.testbed.go_commands import sources
from tests.testbed.kube_api import Api, Object, wait_for

from tunesmith_operator.kinds import DEPLOYMENT, GATEWAY, HTTP_ROUTE, INFERENCE_SERVICE, SERVICE, Kind
from tunesmith_operator.model_deployment.children import RUNTIME
from tunesmith_operator.model_deployment.pods import SERVE

GATEWAY_NAMESPACE, GATEWAY_NAME, DOMAIN = "gateways", "public", "models.test"
LOOK_SECONDS = 0.1
_ADDRESS = "127.78.0.1"
_OF_THE_MODEL = {"modelFormat", "protocolVersion", "runtime", "runtimeVersion", "storage", "storageUri"}
"""What a model has besides what any container has."""
_NOW = "2026-01-01T00:00:00Z"


def kserve_crds() -> list[str]:
    """The files of KServe's and the Gateway API's kinds that Tunesmith uses."""
    kserve = sources("kserve", "github.com/kserve/kserve") / "config" / "crd" / "full"
    return [str(kserve / "serving.kserve.io_inferenceservices.yaml")]


def gateway_crds() -> list[str]:
    """The same of the Gateway API."""
    gateway = sources("kserve", "sigs.k8s.io/gateway-api") / "config" / "crd" / "standard"
    return [str(gateway / f"gateway.networking.k8s.io_{kind}.yaml") for kind in ("gateways", "httproutes")]


class ServingPlayer:
    """KServe's and the gateway's hands; `start` and `stop` it."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.hold: Callable[[Object], bool] = lambda service: False
        """InferenceServices of which this is true are left alone."""
        self.refuse: Callable[[Object], str] = lambda route: ""
        """A complaint about a route, which is then not accepted."""
        self.copy: Callable[[str, str], None] | None = None
        """Given namespace and revision of each copy of a request; a gateway without it answers 500."""
        self.weights: dict[str, list[dict[str, int]]] = {}
        """What each route has said, by host name, in order."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="serving-player", daemon=True)
        self._server = ThreadingHTTPServer((_ADDRESS, 0), self._handler())
        self._server.daemon_threads = True
        self._chance = random.Random(7)
        self._routes: dict[str, Object] = {}

    def start(self) -> None:
        """Begin, with a Gateway that works."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        with contextlib.suppress(httpx.HTTPStatusError):
            self._api.post("/api/v1/namespaces", {"metadata": {"name": GATEWAY_NAMESPACE}})
        listener = {"name": "http", "port": self._server.server_address[1], "protocol": "HTTP"}
        self._api.create(
            GATEWAY,
            {
                "apiVersion": GATEWAY.api_version,
                "kind": GATEWAY.name,
                "metadata": {"name": GATEWAY_NAME, "namespace": GATEWAY_NAMESPACE},
                "spec": {
                    "gatewayClassName": "played",
                    "listeners": [{**listener, "allowedRoutes": {"namespaces": {"from": "All"}}}],
                },
            },
        )
        self.program(True)
        self._thread.start()

    def program(self, works: bool) -> None:
        """Have the Gateway work, or not."""
        condition = {
            "type": "Programmed",
            "status": str(works),
            "reason": "Programmed" if works else "NoResources",
            "message": "" if works else "no proxy is running",
            "lastTransitionTime": _NOW,
        }
        status = {"addresses": [{"type": "IPAddress", "value": _ADDRESS}], "conditions": [condition]}
        self._api.merge(GATEWAY, GATEWAY_NAMESPACE, GATEWAY_NAME, {"status": status}, "status")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)
        with contextlib.suppress(httpx.HTTPError):
            self._api.delete(GATEWAY, GATEWAY_NAMESPACE, GATEWAY_NAME)
        self._server.shutdown()
        self._server.server_close()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            with contextlib.suppress(httpx.HTTPError, OSError):
                for service in self._api.list(INFERENCE_SERVICE, ""):
                    going = service["metadata"].get("deletionTimestamp")
                    ours = service["spec"]["predictor"].get("model", {}).get("runtime") == RUNTIME
                    if ours and not going and not self.hold(service):
                        self._serve(service)
            with contextlib.suppress(httpx.HTTPError, OSError):
                routes = self._api.list(HTTP_ROUTE, "")
                self._routes = {host: one for one in routes for host in one["spec"].get("hostnames", ())}
                for route in routes:
                    self._take(route)

    # KServe

    def _serve(self, service: Object) -> None:
        metadata, predictor = service["metadata"], service["spec"]["predictor"]
        name, namespace = f"{metadata['name']}-predictor", metadata["namespace"]
        app = {"app": f"isvc.{name}"}
        labels = {
            **metadata.get("labels", {}),
            **app,
            "component": "predictor",
            "serving.kserve.io/inferenceservice": metadata["name"],
        }
        replicas = predictor["minReplicas"]
        present = self._api.get(DEPLOYMENT, namespace, name)
        if present is not None:
            if present["spec"]["replicas"] != replicas:
                self._api.merge(DEPLOYMENT, namespace, name, {"spec": {"replicas": replicas}})
            return
        container = {key: value for key, value in predictor["model"].items() if key not in _OF_THE_MODEL}
        pod = {
            "metadata": {"labels": labels},
            "spec": {
                "initContainers": predictor["initContainers"],
                "containers": [{"name": SERVE, **container}],
                "volumes": predictor["volumes"],
                "terminationGracePeriodSeconds": predictor["terminationGracePeriodSeconds"],
            },
        }
        spec = {"replicas": replicas, "selector": {"matchLabels": app}, "template": pod}
        self._make(DEPLOYMENT, service, name, labels, spec)
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        self._make(SERVICE, service, name, labels, {"selector": app, "ports": ports})

    def _make(self, kind: Kind, service: Object, name: str, labels: dict[str, str], spec: Object) -> None:
        metadata = service["metadata"]
        owner = {
            "apiVersion": INFERENCE_SERVICE.api_version,
            "kind": INFERENCE_SERVICE.name,
            "name": metadata["name"],
            "uid": metadata["uid"],
            "controller": True,
        }
        self._api.create(
            kind,
            {
                "apiVersion": kind.api_version,
                "kind": kind.name,
                "metadata": {
                    "name": name,
                    "namespace": metadata["namespace"],
                    "labels": labels,
                    "ownerReferences": [owner],
                },
                "spec": spec,
            },
        )

    # The gateway

    def _take(self, route: Object) -> None:
        metadata = route["metadata"]
        generation = metadata["generation"]
        said = (route.get("status") or {}).get("parents") or []
        if said and said[0]["conditions"][0]["observedGeneration"] == generation:
            return
        complaint = self.refuse(route)
        conditions = [
            {
                "type": kind,
                "status": "False" if complaint and kind == "ResolvedRefs" else "True",
                "reason": "Played",
                "message": complaint,
                "observedGeneration": generation,
                "lastTransitionTime": _NOW,
            }
            for kind in ("Accepted", "ResolvedRefs")
        ]
        parent = {
            "parentRef": route["spec"]["parentRefs"][0],
            "controllerName": "tunesmith.dev/played",
            "conditions": conditions,
        }
        self._api.merge(
            HTTP_ROUTE, metadata["namespace"], metadata["name"], {"status": {"parents": [parent]}}, "status"
        )
        if metadata["name"].endswith("-probe"):
            return
        self.weights.setdefault(route["spec"]["hostnames"][0], []).append(weights_of(route))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        player = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                route = player._routes.get(self.headers["Host"].partition(":")[0])
                body, code = (b'{"predictions": []}', 200) if route else (b"no such host", 404)
                for service in mirrors_of(route) if route else ():
                    if player.copy is None:
                        body, code = b"", 500
                    elif route:
                        player.copy(route["metadata"]["namespace"], service.removesuffix("-predictor"))
                self.send_response(code)
                if route and (named := self.headers.get("x-tunesmith-revision")) in named_by(route):
                    self.send_header("x-tunesmith-revision", named)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                """Say nothing."""

        return Handler


def weights_of(route: Object) -> dict[str, int]:
    """The weights of the rule that takes requests without a header, by Service."""
    rule = next(
        one for one in route["spec"]["rules"] if not any(m.get("headers") for m in one.get("matches", ()))
    )
    return {one["name"]: one.get("weight", 1) for one in rule["backendRefs"]}


def named_by(route: Object) -> set[str]:
    """The revisions that a header leads to."""
    matches = [one for rule in route["spec"]["rules"] for one in rule.get("matches", ())]
    return {header["value"] for one in matches for header in one.get("headers", ())}


def mirrors_of(route: Object) -> list[str]:
    """The Services that get copies of the requests without a header."""
    rules = [
        one for one in route["spec"]["rules"] if not any(m.get("headers") for m in one.get("matches", ()))
    ]
    filters = [one for rule in rules for one in rule.get("filters", ())]
    return [one["requestMirror"]["backendRef"]["name"] for one in filters if one["type"] == "RequestMirror"]


def wait_for_kinds(api: Api) -> None:
    """Until the API server serves KServe's and the gateway's kinds."""

    def served() -> bool:
        with contextlib.suppress(httpx.HTTPStatusError):
            for kind in (INFERENCE_SERVICE, HTTP_ROUTE, GATEWAY):
                api.read(kind.path(""))
            return True
        return False

    wait_for(served, "KServe's and the gateway's kinds are served", 60)
