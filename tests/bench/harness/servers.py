"""Other people's servers of the same networks, each in a process group of its own, from one environment."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.harness import load
from tests.bench.harness.report import REPOSITORY, say, skip
from tests.testbed.s3 import free_ports

from tunesmith.files import default_cache
from tunesmith_package.processors import allowed_processors

REQUIREMENTS = REPOSITORY / "tests" / "bench" / "plain" / "requirements.txt"
MODULES = "tests.bench.plain.servers"
READY_SECONDS = 120.0
BOUNDARY = "next-part-of-the-form"

Body = Callable[[bytes], tuple[bytes, str]]
"""A JPEG's bytes to the body that a server wants, and its content type."""


def environment(benchmark: str) -> Path:
    """The Python of an environment with these servers, made once; ends the benchmark where that fails."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    folder = default_cache() / "bench" / f"servers-{digest}"
    python, made = folder / "bin" / "python", folder / ".made"
    if made.exists():
        return python
    say("installing LitServe, BentoML and KServe, once")
    uv = str(Path(sys.executable).parent / "uv")
    install = [uv, "pip", "install", "--python", str(python), "--require-hashes", "-r", str(REQUIREMENTS)]
    for command in ([uv, "venv", "--clear", "--python", sys.executable, str(folder)], install):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            skip(benchmark, f"the other servers cannot be installed: {done.stderr[-500:]}")
    made.touch()
    return python


def versions(python: Path) -> dict[str, str]:
    """What is compared."""
    names = ("bentoml", "kserve", "litserve", "onnxruntime", "torch")
    script = f"import importlib.metadata as m; print(*map(m.version, {names!r}))"
    done = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=True)
    return dict(zip(names, done.stdout.split(), strict=True))


def in_json(image: bytes) -> tuple[bytes, str]:
    """As LitServe's guide sends images."""
    return json.dumps({"image_data": base64.b64encode(image).decode()}).encode(), "application/json"


def in_instances(image: bytes) -> tuple[bytes, str]:
    """As KServe's documentation sends images."""
    instance = {"image": {"b64": base64.b64encode(image).decode()}}
    return json.dumps({"instances": [instance]}).encode(), "application/json"


def in_a_form(image: bytes) -> tuple[bytes, str]:
    """As BentoML's client sends lists of images."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="1.jpg"\r\n'
    kind, end = "Content-Type: image/jpeg\r\n\r\n", f"\r\n--{BOUNDARY}--\r\n"
    return (head + kind).encode() + image + end.encode(), f"multipart/form-data; boundary={BOUNDARY}"


def alone(image: bytes) -> tuple[bytes, str]:
    """The image as the body."""
    return image, "image/jpeg"


@dataclass(frozen=True)
class Other:
    """One server, in one of the ways that its documentation shows.

    Attributes:
        name: of the framework, and of the way.
        module: in `MODULES`, that serves.
        path: of predictions.
        body: how an image is sent to it.
        options: of the module.
    """

    name: str
    module: str
    path: str
    body: Body
    options: tuple[str, ...] = field(default=())

    def command(self, python: Path, port: int, options: list[str]) -> tuple[list[str], dict[str, str]]:
        """The command, and what it adds to the environment's variables."""
        module = f"{MODULES}.{self.module}"
        given = [*options, *self.options, "--port", str(port)]
        if self.module != "bentoml_server":
            return [str(python), "-m", module, *given], {}
        place = ["--host", "127.0.0.1", "--port", str(port)]
        service = f"{module}:ImageClassifier"
        settings = {"CLASSIFIER": " ".join(given), "BENTOML_DO_NOT_TRACK": "1"}
        return [str(python), "-m", "bentoml", "serve", service, *place], settings


WORKERS = ("--workers", str(allowed_processors()))
"""As LitServe's and BentoML's documentation advise for models that compute on processors."""
OTHERS = (
    Other("LitServe", "litserve_server", "/predict", in_json, WORKERS),
    Other("LitServe, batches", "litserve_server", "/predict", in_json, (*WORKERS, "--batch", "4")),
    Other("BentoML", "bentoml_server", "/one", alone, WORKERS),
    Other("BentoML, batches", "bentoml_server", "/several", in_a_form, (*WORKERS, "--batch", "4")),
    Other("KServe", "kserve_server", "/v1/models/classifier:predict", in_instances),
)
"""With one worker process LitServe and BentoML answered half as many, and stayed within no bound."""


@contextlib.contextmanager
def running(
    other: Other, python: Path, image: Path, folder: Path, backbone: str, onnx: Path | None
) -> Iterator[load.Target]:
    """A server that has answered once; where and what to ask it."""
    (port,) = free_ports(1)
    options = ["--backbone", backbone, *(["--onnx", str(onnx)] if onnx else [])]
    command, settings = other.command(python, port, options)
    content, content_type = other.body(image.read_bytes())
    file, log = folder / "body", folder / "log"
    file.write_bytes(content)
    target = load.Target(f"http://127.0.0.1:{port}{other.path}", file, content_type)
    # Its own variables would lead it into our environment; torch and ONNX Runtime choose their threads.
    variables = {**os.environ, **settings, "PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=variables,
            cwd=REPOSITORY, start_new_session=True,
        )  # fmt: skip
        try:
            _wait(process, target, content, log)
            yield target
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], target: load.Target, content: bytes, log: Path) -> None:
    request = urllib.request.Request(target.url, content, {"content-type": target.content_type})
    deadline = time.monotonic() + READY_SECONDS
    while True:
        last = log.read_text(errors="replace")[-1_500:]
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server does not answer: {last}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                answer.read()
                return
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise RuntimeError(f"the server refuses: {error.code} {error.read()[:500]!r}") from error
        except OSError:
            pass
        time.sleep(0.2)
