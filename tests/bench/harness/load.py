"""oha, a load generator in a process of its own: built once from crates.io, asked for JSON."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.harness.report import say, skip

from tunesmith.files import default_cache

VERSION = "1.14.0"
LEAST_REQUESTS = 200
"""Of which a 99th percentile is taken, where they come within three times the seconds of a load."""
CONNECTIONS = 32
"""That keep a server busy."""


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
    def answered_rate(self) -> float:
        """Answers a second that are no refusals."""
        return self.rate * self.codes.get("200", 0) / max(1, sum(self.codes.values()))

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


@dataclass(frozen=True)
class Speed:
    """How fast a server is.

    Attributes:
        single: median seconds of one request at a time, the lowest of five.
        saturated: answers a second with all connections busy.
        within: the highest rate whose 99th percentile is within twice ``single``.
        tried: each rate that was tried for it, with the 99th percentiles it had.
    """

    single: float
    saturated: float
    within: float
    tried: Sequence[tuple[float, Sequence[float]]]


def saturate(program: Path, target: Target, seconds: float) -> float:
    """Answers a second with all connections busy; a refusal is none."""
    return run(program, target, "-z", f"{seconds:g}s", "-c", CONNECTIONS).answered_rate


def speed(program: Path, target: Target, seconds: float) -> Speed:
    """Measure a server that is warm, with loads of so many seconds."""
    # What else the machine does only ever adds to a latency, so the lowest of several medians counts.
    single = min(run(program, target, "-n", 50, "-c", 1).percentiles["p50"] for _ in range(5))
    saturated = saturate(program, target, seconds)

    def p99(rate: float) -> float:
        met = open_loop(program, target, rate, min(3 * seconds, max(seconds, LEAST_REQUESTS / rate)))
        return met.percentiles["p99"] if met.all_answered else math.inf

    within, tried = highest_rate(p99, 2 * single, saturated)
    return Speed(single, saturated, within, tried)


def highest_rate(
    p99: Callable[[float], float], most_seconds: float, upper: float, *, steps: int = 5, tries: int = 3
) -> tuple[float, Sequence[tuple[float, Sequence[float]]]]:
    """The highest rate whose 99th percentile stays within ``most_seconds``, by bisection.

    A machine that others share holds a server up now and then. So a rate counts when most of its loads stay
    within the bound, and loads are sent until most of them agree.

    Args:
        p99: sends a load of a rate and returns its 99th percentile.
        most_seconds: that it may have.
        upper: a rate that is too high, as saturation shows.
        steps: of the bisection.
        tries: loads of a rate at most, an odd number.

    Returns:
        The rate, and each rate tried with its 99th percentiles.
    """
    low, high = 0.0, upper
    tried: list[tuple[float, Sequence[float]]] = []
    for _ in range(steps):
        rate, seen = (low + high) / 2, list[float]()
        while True:
            seen.append(p99(rate))
            good = sum(one <= most_seconds for one in seen)
            if max(good, len(seen) - good) > tries // 2:
                break
        tried.append((rate, seen))
        low, high = (rate, high) if good > tries // 2 else (low, rate)
    return low, tried
