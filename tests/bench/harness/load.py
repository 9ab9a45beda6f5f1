"""oha, a load generator in a process of its own: built once from crates.io, asked for JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.harness.report import say, skip

from tunesmith.files import default_cache

VERSION = "1.14.0"


@dataclass(frozen=True)
class Load:
    """What a load met.

    Attributes:
        rate: answers a second.
        codes: answers by HTTP status.
        failed: requests without an answer.
        percentiles: seconds by name, ``p50`` to ``p99.9``.
    """

    rate: float
    codes: Mapping[str, int]
    failed: int
    percentiles: Mapping[str, float]

    @property
    def all_answered(self) -> bool:
        """Whether every request got its answer."""
        return not self.failed and set(self.codes) == {"200"}


def generator(benchmark: str) -> Path:
    """The program; ends the benchmark where it cannot be built."""
    root = default_cache() / "bench" / f"oha-{VERSION}"
    program = root / "bin" / "oha"
    if program.is_file():
        return program
    cargo = shutil.which("cargo") or str(Path.home() / ".cargo" / "bin" / "cargo")
    if not Path(cargo).is_file():
        skip(benchmark, "the load generator oha is built with cargo, which is not installed.")
    say(f"building oha {VERSION}, once")
    command = [cargo, "install", "oha", "--version", VERSION, "--locked", "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        skip(benchmark, f"oha cannot be built: {done.stderr[-500:]}")
    return program


@dataclass(frozen=True)
class Target:
    """Where requests go and what they hold."""

    url: str
    body: Path | None = None
    content_type: str = "image/jpeg"


def command(program: Path, target: Target, *options: object) -> list[str]:
    """The command of a load; ``options`` are oha's own."""
    fixed = [str(program), "--no-tui", "--output-format", "json", *map(str, options)]
    body = [] if target.body is None else ["-m", "POST", "-D", str(target.body), "-T", target.content_type]
    return [*fixed, *body, target.url]


def run(program: Path, target: Target, *options: object) -> Load:
    """Send a load and wait for its end.

    Raises:
        RuntimeError: the generator failed.
    """
    done = subprocess.run(command(program, target, *options), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"oha failed: {done.stderr[-1_000:]}")
    return read(done.stdout)


def read(text: str) -> Load:
    """Understand oha's JSON."""
    document = json.loads(text)
    errors: Mapping[str, int] = document.get("errorDistribution") or {}
    # Those under way at the end of the time are cut off, which is no fault of the server.
    failed = sum(count for reason, count in errors.items() if "deadline" not in reason)
    percentiles = {name: value for name, value in document["latencyPercentiles"].items() if value is not None}
    codes = {str(code): int(count) for code, count in document["statusCodeDistribution"].items()}
    return Load(float(document["summary"]["requestsPerSec"]), codes, failed, percentiles)


def open_loop(program: Path, target: Target, rate: float, seconds: float) -> Load:
    """A load of so many requests a second, whether or not they are answered in time.

    Latencies count from when a request was due (Tene's correction for coordinated omission). There are as
    many connections as half a second of requests needs; each is new once, which few requests would show.
    """
    paced = ("-q", f"{rate:g}", "--latency-correction", "-c", max(4, round(rate / 2)))
    return run(program, target, "-z", f"{seconds:g}s", *paced)


def highest_rate(
    program: Path, target: Target, most_seconds: float, upper: float, *, seconds: float, steps: int
) -> tuple[float, Sequence[tuple[float, float]]]:
    """The highest rate whose 99th percentile stays within ``most_seconds``, by bisection.

    Args:
        program: the generator.
        target: of the requests.
        most_seconds: that the 99th percentile may have.
        upper: a rate that is too high, as saturation shows.
        seconds: of each load.
        steps: of the bisection.

    Returns:
        The rate, and each rate tried with its 99th percentile.
    """
    low, high, tried = 0.0, upper, []
    for _ in range(steps):
        rate = (low + high) / 2
        met = open_loop(program, target, rate, seconds)
        p99 = met.percentiles["p99"]
        tried.append((rate, p99))
        if met.all_answered and p99 <= most_seconds:
            low = rate
        else:
            high = rate
    return low, tried
