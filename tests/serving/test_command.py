"""``tunesmith serve``, ``run`` with a ModelDeployment, and ``predict`` from what they serve."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tests.testbed.predictors import Server
from tests.testbed.s3 import free_ports
from tests.testbed.tiny_package import picture
from tests.unit.emitting_trainer import result, trainer_command

from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_package.package import PublishedPackage

TUNESMITH = (sys.executable, "-m", "tunesmith")


@contextmanager
def served(command: Sequence[str], port: int, log: Path) -> Iterator[Server]:
    """What a command serves, once it is ready."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield Server(process, port, 0, log)
    finally:
        process.kill()
        process.wait()


def tunesmith(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TUNESMITH, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = []
    for colour in ("blue", "red"):
        paths.append(tmp_path / f"{colour}.png")
        paths[-1].write_bytes(picture(colour))
    return paths


def test_serve_says_how_to_ask_and_predict_asks_it_until_ctrl_c(
    package: PublishedPackage, photos: list[Path], tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with served([*TUNESMITH, "serve", package.uri, "--port", str(port)], port, tmp_path / "log") as server:
        asked = ("predict", url, *photos, "--explain", tmp_path / "why", "-o", "json", "--wait", 60)
        done = tunesmith(*asked, "--digest", package.digest)
        assert done.returncode == 0, done.stderr
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert [one["predictions"][0]["label"] for one in answers] == ["blue", "red"]
        assert all(Path(one["explanation"]).read_bytes().startswith(b"\x89PNG") for one in answers)
        local = tunesmith("predict", package.uri, *photos, "-o", "json")
        for here, there in zip(local.stdout.splitlines(), answers, strict=True):
            expected = [one["probability"] for one in json.loads(here)["predictions"]]
            assert [one["probability"] for one in there["predictions"]] == pytest.approx(expected, abs=1e-5)
        words = photos[0].with_name("words.png")
        words.write_text("no image")
        refused = tunesmith("predict", url, words, photos[1])
        assert refused.returncode == EXIT_CODES[Reason.IMAGE_INVALID]
        assert "red" in refused.stdout
        assert "words.png" in refused.stderr
        other = tunesmith("predict", url, photos[0], "--digest", "sha256:" + "0" * 64)
        assert other.returncode == EXIT_CODES[Reason.DIGEST_MISMATCH]
        assert f"tunesmith predict {url}" in server.log.read_text()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 0


def test_serve_another_digest_is_refused(package: PublishedPackage) -> None:
    done = tunesmith("serve", package.uri, "--digest", "sha256:" + "0" * 64)
    assert done.returncode == EXIT_CODES[Reason.DIGEST_MISMATCH]


def test_predict_says_that_nothing_answers_and_how_to_change_that(photos: list[Path]) -> None:
    (port,) = free_ports(1)
    done = tunesmith("predict", f"http://127.0.0.1:{port}", photos[0])
    assert done.returncode != 0
    assert "Nothing answers" in done.stderr
    assert "tunesmith serve" in done.stderr


class Stranger(BaseHTTPRequestHandler):
    """A server that is no predictor."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def test_predict_says_that_something_else_answers(photos: list[Path]) -> None:
    with HTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        done = tunesmith("predict", f"http://127.0.0.1:{stranger.server_port}", photos[0], "--wait", 5)
        stranger.shutdown()
    assert done.returncode != 0
    assert "no predictor" in done.stderr


class Empty(Stranger):
    """A server that speaks like a predictor and knows no class."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"models": ["x"], "parameters": {}}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"predictions": [{"classes": []}]}')


def test_predict_refuses_an_answer_without_classes(photos: list[Path]) -> None:
    with HTTPServer(("127.0.0.1", 0), Empty) as empty:
        threading.Thread(target=empty.serve_forever, daemon=True).start()
        done = tunesmith("predict", f"http://127.0.0.1:{empty.server_port}", photos[0])
        empty.shutdown()
    assert done.returncode != 0
    assert "no predictor" in done.stderr


RESOURCES = """
apiVersion: tunesmith.dev/v1alpha1
kind: TrainingJob
metadata: {name: colours}
spec:
  dataset: {uri: "file://./photos"}
  store: {uri: "file://./models"}
---
apiVersion: tunesmith.dev/v1alpha1
kind: ModelDeployment
metadata: {name: garden}
spec:
  model: {trainingJob: colours}
  monitoring: {drift: {windowRequests: 70}, feedback: {enabled: true}}
  explanations: {enabled: false}
"""
RUN = """
import sys
from pathlib import Path
from rich.console import Console
from tunesmith.run import run_file

file, cache, port, *trainer = sys.argv[1:]
sys.exit(run_file(Path(file), Console(), name=None, as_json=False, device="cpu", cache_dir=Path(cache),
                  trainer=trainer, port=int(port)))
"""


def test_run_serves_the_model_as_its_deployment_in_the_same_file_says(
    package: PublishedPackage, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    file = tmp_path / "resources.yaml"
    file.write_text(RESOURCES)
    model = {"uri": package.uri, "digest": package.digest, "verified": True}
    status = {"phase": "Succeeded", "model": model}
    steps = [result(0, "Completed", status=status), {"do": "exit", "code": 0}]
    run = [sys.executable, "-c", RUN, str(file), str(tmp_path / "cache"), str(port)]
    with served([*run, *trainer_command(tmp_path, steps)], port, tmp_path / "log") as server:
        server.wait_until_ready("garden")
        reply = server.predict(picture("red"), model="garden")
        assert reply.json["predictions"][0]["label"] == "red"
        assert reply.headers["x-tunesmith-model-digest"] == package.digest
        told = server.request("GET", "/monitoring").json
        assert told["window"]["images"] == 70
        assert told["feedback"]["samples"] == 0
        explained = server.predict(picture("red"), model="garden", verb="explain")
        assert explained.status == 400
        assert "off" in explained.json["error"]


def test_run_that_fails_serves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "resources.yaml"
    file.write_text(RESOURCES)
    steps = [result(12, "DatasetInvalid", "No images."), {"do": "exit", "code": 12}]
    run = [sys.executable, "-c", RUN, str(file), str(tmp_path / "cache"), "1"]
    done = subprocess.run(
        [*run, *trainer_command(tmp_path, steps)], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 12
