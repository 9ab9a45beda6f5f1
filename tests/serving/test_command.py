"""``tunesmith serve``: the predictor on a laptop."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.testbed.predictors import Server
from tests.testbed.s3 import free_ports
from tests.testbed.tiny_package import picture

from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_package.package import PublishedPackage


def test_serve_says_how_to_ask_and_answers_until_ctrl_c(package: PublishedPackage, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tunesmith", "serve", package.uri, "--port", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = Server(process, port, 0, tmp_path / "log")
    try:
        server.wait_until_ready()
        assert server.predict(picture("blue")).json["predictions"][0]["label"] == "blue"
        assert f"http://127.0.0.1:{port}/v1/models/colours:predict" in (tmp_path / "log").read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_serve_another_digest_is_refused(package: PublishedPackage) -> None:
    command = [sys.executable, "-m", "tunesmith", "serve", package.uri, "--digest", "sha256:" + "0" * 64]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_CODES[Reason.DIGEST_MISMATCH]
