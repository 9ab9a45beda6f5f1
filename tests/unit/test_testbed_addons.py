import base64
import itertools
import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from tests.testbed.addons.charts import documents
from tests.testbed.addons.images import shared_libraries
from tests.testbed.addons.kserve import CERTIFICATE_SECRET, certificate, mended
from tests.testbed.steady_load import SteadyLoad

RENDERED = """
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: serving-cert}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: hooks, annotations: {cert-manager.io/inject-ca-from: kserve/serving-cert}}
webhooks:
- {name: one, clientConfig: {service: {name: webhooks}}}
- {name: two, clientConfig: {service: {name: webhooks}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: controller}
spec:
  template:
    spec:
      containers:
      - {name: manager, readinessProbe: {httpGet: {path: /readyz}, initialDelaySeconds: 30, periodSeconds: 5}}
      - {name: kube-rbac-proxy}
"""


def test_a_rendered_chart_is_mended_to_do_without_cert_manager(tmp_path: Path) -> None:
    pair = certificate(tmp_path)
    secret, hooks, controller = mended(documents(RENDERED), pair)
    assert secret["metadata"]["name"] == CERTIFICATE_SECRET
    assert base64.b64decode(secret["data"]["tls.crt"]) == pair.certificate.read_bytes()
    authority = (tmp_path / "ca.crt").read_bytes()
    assert [base64.b64decode(one["clientConfig"]["caBundle"]) for one in hooks["webhooks"]] == [authority] * 2
    assert "annotations" not in hooks["metadata"]
    (manager,) = controller["spec"]["template"]["spec"]["containers"]
    assert manager["readinessProbe"] == {
        "httpGet": {"path": "/readyz"},
        "initialDelaySeconds": 0,
        "periodSeconds": 1,
    }


def test_the_webhooks_certificate_stays_the_same_for_a_node(tmp_path: Path) -> None:
    first = certificate(tmp_path).certificate.read_bytes()
    assert certificate(tmp_path).certificate.read_bytes() == first


def test_the_libraries_of_a_command_are_files_by_absolute_places() -> None:
    found = shared_libraries(Path(sys.executable).resolve())
    assert any("libc.so" in place for place in found)
    assert all(Path(place).is_absolute() and path.is_file() for place, path in found.items())


class _EveryThirdFails(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    numbers = itertools.count(1)

    def do_POST(self) -> None:
        number = next(self.numbers)
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"served_by": "a"}).encode()
        self.send_response(503 if number % 3 == 0 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def failing_server() -> Iterator[str]:
    _EveryThirdFails.numbers = itertools.count(1)
    with ThreadingHTTPServer(("127.0.0.1", 0), _EveryThirdFails) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_steady_load_counts_what_failed(failing_server: str) -> None:
    with SteadyLoad(failing_server, {}, {}, per_second=200) as load:
        load.wait_for(60)
    answers = load.answers
    assert answers.total == next(_EveryThirdFails.numbers) - 1
    assert len(answers.failures) == answers.total // 3
    assert answers.failures[0].startswith("503")


def test_a_steady_load_counts_a_server_that_is_not_there() -> None:
    with SteadyLoad("http://127.0.0.1:9", {}, {}, per_second=200) as load:
        load.wait_for(4)
    assert not load.answers.served_by
    assert "ConnectError" in load.answers.failures[0]
