"""Operators as processes, as a pod would run them: with the account and the role of manifests/rbac."""

import os
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGTERM, Signals

REPOSITORY = Path(__file__).parents[2]
NAMESPACE = "tunesmith-system"
ACCOUNT = "tunesmith-operator"
TRAINER_IMAGE = "tunesmith/trainer:test"


@dataclass
class Operator:
    """One process and its log."""

    kubeconfig: Path
    log_path: Path
    flags: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> "Operator":
        command = [sys.executable, "-m", "tunesmith_operator", "--trainer-image", TRAINER_IMAGE]
        command += ["--own-namespace", NAMESPACE, "--host", "127.0.0.1", "--port", "0", *self.flags]
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig), **self.environment}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, cwd=REPOSITORY, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        return self

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: Signals = SIGTERM, seconds: float = 30) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def kill(self) -> None:
        if self.process is not None and self.runs:
            self.process.send_signal(SIGCONT)
            self.process.kill()
            self.process.wait()

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def port(self, seconds: float = 30) -> int:
        """Where metrics and probes are."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(r"metrics and probes are at port (\d+)", self.log)):
            assert self.process is not None
            assert self.process.poll() is None, f"the operator ended:\n{self.log[-3_000:]}"
            assert time.monotonic() < deadline, f"the operator did not start:\n{self.log[-3_000:]}"
            time.sleep(0.05)
        return int(found.group(1))

    def read(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port()}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text
