"""Predictors for tests without containers: one address of the loopback network for each pod.

Each serves `/metrics` as tunesmith_predictor does, with figures that a test sets, and answers predictions.
"""

import threading
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.testbed.kube_api import Object

PORT = 8080
_BOUNDS = (0.01, 0.05, 0.1, 0.5, 1.0)


class Figures:
    """What the pods of a revision have counted, together; shared among threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.codes: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.feedback = (0, 0.0)
        self.asked = 0

    def answer(self, requests: int, code: str = "200", label: str = "rose", seconds: float = 0.02) -> None:
        """Count requests as answered."""
        with self._lock:
            self.codes[code] += requests
            if code == "200":
                self.labels[label] += requests
                self.seconds += [seconds] * requests

    def text(self) -> str:
        """In Prometheus' exposition format."""
        with self._lock:
            lines = ["# TYPE tunesmith_requests_total counter"]
            lines += [
                _sample("requests_total", {"verb": "predict", "code": c}, n) for c, n in self.codes.items()
            ]
            lines += ["# TYPE tunesmith_predicted_total counter"]
            lines += [_sample("predicted_total", {"label": c}, n) for c, n in self.labels.items()]
            lines += ["# TYPE tunesmith_request_seconds histogram"]
            for bound in (*_BOUNDS, float("inf")):
                below = sum(one <= bound for one in self.seconds)
                le = "+Inf" if bound == float("inf") else str(bound)
                lines.append(_sample("request_seconds_bucket", {"verb": "predict", "le": le}, below))
            lines += ["# TYPE tunesmith_feedback_total counter"]
            lines += [_sample("feedback_total", {"outcome": "taken"}, self.feedback[0])]
            lines += ["# TYPE tunesmith_feedback_accuracy gauge"]
            lines += [_sample("feedback_accuracy", {}, self.feedback[1])]
        return "\n".join(lines) + "\n"


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    said = ",".join(f'{key}="{one}"' for key, one in {"model": "flowers", **labels}.items())
    return f"tunesmith_{name}{{{said}}} {float(value)}"


class PredictorFarm:
    """Starts a predictor for each pod that asks for an address."""

    def __init__(self) -> None:
        self._servers: dict[str, ThreadingHTTPServer] = {}
        self._addresses: dict[str, str] = {}
        self._figures: dict[tuple[str, str], Figures] = {}
        self._lock = threading.Lock()

    def address(self, pod: Object) -> str:
        """The address of a pod; one is started at first. Pods that do not predict have none."""
        metadata = pod["metadata"]
        revision = (metadata.get("labels") or {}).get("tunesmith.dev/revision")
        if not revision:
            return ""
        with self._lock:
            uid = metadata["uid"]
            if uid not in self._addresses:
                number = len(self._addresses) + 1
                address = f"127.77.{number // 250}.{number % 250 + 1}"
                figures = self._figures.setdefault((metadata["namespace"], revision), Figures())
                server = ThreadingHTTPServer((address, PORT), _handler(figures))
                server.daemon_threads = True
                threading.Thread(target=server.serve_forever, daemon=True).start()
                self._servers[uid], self._addresses[uid] = server, address
            return self._addresses[uid]

    def of(self, namespace: str, revision: str) -> Figures:
        """The figures of a revision's pods; with one pod, its own."""
        with self._lock:
            return self._figures.setdefault((namespace, revision), Figures())

    def stop(self) -> None:
        for server in self._servers.values():
            server.shutdown()
            server.server_close()


def _handler(figures: Figures) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(200 if self.path == "/metrics" else 404, figures.text().encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            figures.asked += 1
            self._say(200, b'{"predictions": [{"label": "rose"}]}')

        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    return Handler
