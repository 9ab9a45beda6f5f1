"""KubeRay's own controller, as a process beside a control plane, with the CRDs that its module brings.

What is played here is the one thing that needs real pods: Ray's job server on the head. The controller's
requests to it go through a proxy (`HTTP_PROXY`), which answers as Ray's job server would, to whoever has the
cluster's token.
"""

import base64
import contextlib
import functools
import json
import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from tests.testbed.control_plane import ControlPlane
from tests.testbed.go_commands import build, sources
from tests.testbed.kube_api import Api, Object, wait_for

from tunesmith_operator.kinds import Kind

MODULE = "kuberay"
SOURCE = "github.com/ray-project/kuberay/ray-operator"
SECRET = Kind("v1", "Secret", "secrets")


PLURALS = ("rayjobs", "rayclusters", "rayservices", "raycronjobs")


def install_crds(plane: ControlPlane, api: Api) -> None:
    """As a user would: kubectl apply."""
    crds = sources(MODULE, SOURCE) / "config" / "crd" / "bases"
    plane.kubectl("apply", "--server-side", "-f", str(crds))
    for plural in PLURALS:
        wait_for(functools.partial(_served, api, plural), f"{plural} are served")


def remove_ray_jobs(plane: ControlPlane) -> None:
    """As if KubeRay had never been there, for those who want a RayJob."""
    plane.kubectl("delete", "crd", "rayjobs.ray.io", "--ignore-not-found", "--timeout=30s")


def _served(api: Api, plural: str) -> bool:
    with contextlib.suppress(httpx.HTTPStatusError):
        api.read(f"/apis/ray.io/v1/{plural}")
        return True
    return False


@dataclass
class JobServer:
    """Ray's job server of every cluster: by cluster, what was submitted and how it goes.

    Attributes:
        submitted: cluster and entrypoint of each submission, in order.
    """

    api: Api
    submitted: list[tuple[str, str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    _jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    _server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        jobs = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer("GET")

            def do_POST(self) -> None:
                self.answer("POST")

            def answer(self, method: str) -> None:
                address = urlsplit(self.path)
                sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                token = self.headers.get("x-ray-authorization") or ""
                code, body = jobs.answer(method, address.netloc, address.path, token, sent)
                data = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def address(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, method: str, host: str, path: str, token: str, sent: bytes) -> tuple[int, Any]:
        """What Ray's job server says."""
        service, namespace = host.split(".")[:2]
        cluster = service.removesuffix("-head-svc")
        if token != f"Bearer {self._token(namespace, cluster)}":
            self.refused.append(path)
            return 401, {"error": "Unauthorized"}
        _, _, name, *verb = [*path.strip("/").split("/"), ""]
        if method == "POST" and not name:
            request = json.loads(sent)
            self.submitted.append((cluster, request["entrypoint"]))
            self._jobs[cluster] = {"submission_id": request["submission_id"], "status": "RUNNING"}
            return 200, {"job_id": request["submission_id"], "submission_id": request["submission_id"]}
        job = self._jobs.get(cluster)
        if job is None or job["submission_id"] != name:
            return 404, {"error": "no such job"}
        return 200, {"stopped": True} if verb[:1] == ["stop"] else job

    def end(self, cluster: str, status: str, message: str) -> None:
        """Have what was submitted end."""
        self._jobs[cluster] |= {"status": status, "message": message, "end_time": 1}

    def forget(self, cluster: str) -> None:
        """A head that was replaced knows of nothing."""
        self._jobs.pop(cluster, None)

    def _token(self, namespace: str, cluster: str) -> str:
        secret = self.api.get(SECRET, namespace, cluster)
        return "" if secret is None else base64.b64decode(secret["data"]["auth_token"]).decode()


@dataclass
class KubeRay:
    """The controller on a control plane, from `start` to `stop`."""

    plane: ControlPlane
    folder: Path
    jobs: JobServer
    process: subprocess.Popen[bytes] | None = None

    def start(self, say: Callable[[str], None] = lambda line: None) -> None:
        """Build it unless an earlier run did, install its CRDs, start it.

        Raises:
            RuntimeError: it cannot be built.
        """
        command = build(MODULE, say=say) / "ray-operator"
        install_crds(self.plane, self.jobs.api)
        self.jobs.start()
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.plane.kubeconfig),
            "HTTP_PROXY": self.jobs.address,
            "NO_PROXY": "127.0.0.1,localhost",
        }
        arguments = [
            *("--metrics-addr", "0", "--health-probe-bind-address", "0", "--log-stdout-encoder", "console"),
            "--enable-leader-election=false",
        ]
        with (self.folder / "kuberay.log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(command), *arguments],
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.jobs.stop()

    @property
    def log(self) -> str:
        return (self.folder / "kuberay.log").read_text(errors="replace")[-3_000:]


def owned_by(obj: Object, kind: str) -> str:
    """The name of the owner of a kind; empty when there is none."""
    owners = obj["metadata"].get("ownerReferences") or ()
    return next((str(one["name"]) for one in owners if one["kind"] == kind), "")
