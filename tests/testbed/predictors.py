"""Predictors as processes that tests talk to, stop and kill."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.testbed.s3 import free_ports

NAME = "colours"
READY_SECONDS = 60.0


@dataclass(frozen=True)
class Reply:
    """An answer to a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass
class Server:
    """One predictor.

    Attributes:
        process: it.
        http_port: where it listens.
        grpc_port: where it listens for gRPC.
        log: what it wrote.
    """

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    log: Path

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = 30,
    ) -> Reply:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=seconds)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def predict(
        self,
        image: bytes,
        *,
        query: str = "",
        kind: str = "image/png",
        verb: str = "predict",
        model: str = NAME,
    ) -> Reply:
        """Send one image to the V1 path."""
        return self.request("POST", f"/v1/models/{model}:{verb}{query}", image, {"content-type": kind})

    def wait_until_ready(self, model: str = NAME) -> None:
        """Wait until its model is ready."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            assert self.process.poll() is None, self.tail()
            assert time.monotonic() < deadline, self.tail()
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.request("GET", f"/v2/models/{model}/ready", seconds=2).status == 200:
                    return
            time.sleep(0.05)

    def terminate(self) -> None:
        """Ask it to stop."""
        self.process.send_signal(signal.SIGTERM)

    def tail(self) -> str:
        """The last it wrote."""
        return self.log.read_text(errors="replace")[-3_000:]


def command(directory: Path, *options: str) -> list[str]:
    """The command that serves a package."""
    fixed = ["--model-dir", str(directory), "--model-name", NAME, "--host", "127.0.0.1"]
    return [sys.executable, "-m", "tunesmith_predictor", *fixed, *options]


@contextlib.contextmanager
def running_predictor(directory: Path, log: Path, *options: str) -> Iterator[Server]:
    """A predictor that is ready; killed at the end if it still runs."""
    http_port, grpc_port = free_ports(2)
    ports = ("--http-port", str(http_port), "--grpc-port", str(grpc_port))
    with log.open("ab") as file:
        process = subprocess.Popen(
            command(directory, *ports, *options),
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    server = Server(process, http_port, grpc_port, log)
    try:
        server.wait_until_ready()
        yield server
    finally:
        process.kill()
        process.wait()
