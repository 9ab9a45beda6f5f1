"""How a predictor starts, or does not, and how it ends without losing a request."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
from PIL import Image
from tests.testbed.predictors import NAME, Reply, command, running_predictor
from tests.testbed.tiny_package import (
    HEADER,
    encoded,
    picture,
    write_golden,
    write_tiny_package,
    write_tiny_reference,
)

from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_package.package import PublishedPackage, publish_package
from tunesmith_package.store import open_store
from tunesmith_predictor.engine import STEP_BACK

OTHER = "sha256:" + "0" * 64


def publish(folder: Path, *, shift: float = 0.0, verified: bool = True, golden: bool = True) -> Path:
    directory = write_tiny_package(folder / "built")
    if golden:
        write_golden(directory, shift=shift)
        write_tiny_reference(directory)
    store = open_store((folder / "store").as_uri())
    package = publish_package(directory, store, "colours", replace(HEADER, verified=verified))
    return Path(package.uri.removeprefix("file://"))


def refusal(directory: Path, folder: Path, *options: str) -> tuple[int, str, str]:
    """Exit code, last line and termination message of a predictor that does not start."""
    message = folder / "termination-log"
    message.touch()
    done = subprocess.run(
        command(directory, "--termination-log", str(message), *options),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stderr.strip().splitlines()[-1], message.read_text()


def test_a_package_of_another_digest_is_not_served(package_directory: Path, tmp_path: Path) -> None:
    code, line, message = refusal(package_directory, tmp_path, "--digest", OTHER)
    assert code == EXIT_CODES[Reason.DIGEST_MISMATCH]
    assert line.startswith("DigestMismatch: ")
    assert message == line


def test_a_damaged_file_is_found_before_the_first_request(package_directory: Path, tmp_path: Path) -> None:
    damaged = tmp_path / package_directory.name
    shutil.copytree(package_directory, damaged)
    model = damaged / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    code, line, _ = refusal(damaged, tmp_path)
    assert code == EXIT_CODES[Reason.DIGEST_MISMATCH]
    assert "model.onnx" in line


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"shift": 0.002}, Reason.SELF_TEST_FAILED),
        ({"shift": float("nan")}, Reason.SELF_TEST_FAILED),
        ({"golden": False}, Reason.PACKAGE_INVALID),
        ({"verified": False}, Reason.MODEL_UNVERIFIED),
    ],
    ids=["golden predictions that differ", "golden predictions that are no numbers", "none", "unverified"],
)
def test_a_model_that_does_not_prove_itself_is_not_served(
    tmp_path: Path, how: dict[str, float], reason: Reason
) -> None:
    code, line, message = refusal(publish(tmp_path, **how), tmp_path)  # type: ignore[arg-type]
    assert code == EXIT_CODES[reason]
    assert line.startswith(f"{reason.value}: ")
    assert message == line


def test_a_difference_within_the_packages_tolerance_is_no_fault(tmp_path: Path) -> None:
    with running_predictor(publish(tmp_path, shift=0.0005), tmp_path / "log") as server:
        assert server.predict(picture("red")).json["predictions"][0]["label"] == "red"
        assert "3 golden predictions differ by 5.0e-04" in server.tail()


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this runtime knows GPUs"
)
def test_a_gpu_that_the_runtime_does_not_know_is_said_and_auto_does_without(
    package_directory: Path, tmp_path: Path
) -> None:
    code, line, _ = refusal(package_directory, tmp_path, "--device", "cuda")
    assert code == EXIT_CODES[Reason.DEVICE_MISSING]
    assert "onnxruntime-gpu" in line
    with running_predictor(package_directory, tmp_path / "log", "--device", "auto") as server:
        assert server.predict(picture("red")).status == 200
        assert "CPUExecutionProvider" in server.log.read_text()


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(
    package_directory: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line, message = refusal(package_directory, tmp_path, "--http-port", str(port))
    assert code == EXIT_CODES[Reason.INTERNAL_ERROR]
    assert f"Port {port} of 127.0.0.1 cannot be listened on" in line
    assert message == line


def test_a_package_folder_that_is_not_there_is_said_in_a_line(tmp_path: Path) -> None:
    code, line, _ = refusal(tmp_path / "nothing", tmp_path, "--http-port", "0", "--grpc-port", "0")
    assert code == EXIT_CODES[Reason.PACKAGE_INVALID]
    assert "manifest.json" in line


def test_fetch_brings_a_package_that_is_then_served(package: PublishedPackage, tmp_path: Path) -> None:
    target = tmp_path / "models"
    fetch = [*command(target)[:3], "fetch", "--uri", package.uri, "--digest", package.digest]
    done = subprocess.run([*fetch, "--to", str(target)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with running_predictor(target, tmp_path / "log", "--digest", package.digest) as server:
        assert server.predict(picture("green")).status == 200


def test_sigterm_first_says_not_ready_then_answers_what_it_took_and_ends_well(
    package_directory: Path, tmp_path: Path
) -> None:
    photo = encoded(Image.effect_noise((2_000, 2_000), 80).convert("RGB"), "JPEG", quality=90)
    with running_predictor(package_directory, tmp_path / "log", "--drain-seconds", "2") as server:
        replies: list[Reply] = []
        askers = [
            threading.Thread(target=lambda: replies.append(server.predict(photo, kind="image/jpeg")))
            for _ in range(20)
        ]
        for asker in askers:
            asker.start()
        server.terminate()
        deadline = time.monotonic() + 10
        while server.request("GET", f"/v2/models/{NAME}/ready").status == 200:
            assert time.monotonic() < deadline
        assert server.request("GET", "/v2/health/ready").status == 503
        assert server.predict(picture("red")).status == 200, "the cluster may still send requests"
        for asker in askers:
            asker.join()
        assert [reply.status for reply in replies] == [200] * 20
        assert server.process.wait(30) == 0


def test_a_second_signal_ends_it_at_once(package_directory: Path, tmp_path: Path) -> None:
    with running_predictor(package_directory, tmp_path / "log", "--drain-seconds", "60") as server:
        server.terminate()
        time.sleep(0.5)
        server.terminate()
        assert server.process.wait(15) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_threads_that_compute_let_the_event_loop_go_first(package_directory: Path, tmp_path: Path) -> None:
    with running_predictor(package_directory, tmp_path / "log", "--threads", "2") as server:
        assert server.predict(picture("red")).status == 200
        tasks = Path(f"/proc/{server.process.pid}/task")
        nice = [int(one.read_text().rpartition(")")[2].split()[16]) for one in tasks.glob("*/stat")]
        own = int((tasks / str(server.process.pid) / "stat").read_text().rpartition(")")[2].split()[16])
    assert own == os.getpriority(os.PRIO_PROCESS, 0)
    assert nice.count(min(19, own + STEP_BACK)) >= 3, "two that run the model, a decoder"


@pytest.mark.parametrize(("options", "logged"), [((), False), (("--access-log",), True)])
def test_requests_are_lines_in_the_log_only_when_asked_for(
    package_directory: Path, tmp_path: Path, options: tuple[str, ...], logged: bool
) -> None:
    with running_predictor(package_directory, tmp_path / "log", *options) as server:
        assert server.predict(picture("red")).status == 200
        server.terminate()
        server.process.wait(30)
    assert ("predict HTTP/1.1" in (tmp_path / "log").read_text()) == logged
