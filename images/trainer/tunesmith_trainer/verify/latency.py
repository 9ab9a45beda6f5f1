"""How long one image takes, from its encoded bytes to its probabilities, on this machine."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from pydantic.dataclasses import dataclass

from tunesmith_trainer.verify.records import CAMEL

Predict = Callable[[bytes], object]
"""Answers one encoded image."""

WARM_UP = 10
"""Requests before the clock counts: the first ones allocate memory and fill caches."""
LEAST_REQUESTS = 30
"""Enough for a 95th percentile to be more than the slowest request."""
MOST_REQUESTS = 300


@dataclass(frozen=True, config=CAMEL)
class Latency:
    """Milliseconds per request of one image, one request at a time, preprocessing included.

    Attributes:
        p50_milliseconds: the median.
        p95_milliseconds: the 95th percentile.
        requests: how many were timed.
        threads: of the model within one request.
        single_thread_p50_milliseconds: the median with one thread; None where that is the only way here.
        single_thread_p95_milliseconds: likewise.
        machine: what it ran on, in words.
    """

    p50_milliseconds: float
    p95_milliseconds: float
    requests: int
    threads: int
    single_thread_p50_milliseconds: float | None
    single_thread_p95_milliseconds: float | None
    machine: str

    @property
    def note(self) -> str:
        """How and where it was measured, a sentence."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"Measured over {self.requests} single-image requests, decoding included, with {threads} on "
            f"{self.machine}."
        )


def time_requests(
    predict: Predict,
    images: Sequence[bytes],
    *,
    seconds: float,
    least: int = LEAST_REQUESTS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Time requests one after the other, in milliseconds, cycling through the images.

    After `WARM_UP` requests it goes on for ``seconds``, but for ``least`` requests at least and
    `MOST_REQUESTS` at most.

    Raises:
        ValueError: there are no images.
    """
    if not images:
        raise ValueError("there are no images to time")
    for i in range(WARM_UP):
        predict(images[i % len(images)])
    times: list[float] = []
    end = clock() + seconds
    while len(times) < least or (len(times) < MOST_REQUESTS and clock() < end):
        image = images[len(times) % len(images)]
        start = clock()
        predict(image)
        times.append((clock() - start) * 1000)
    return times


def percentiles(times: Sequence[float]) -> tuple[float, float]:
    """Median and 95th percentile."""
    p50, p95 = np.percentile(times, (50, 95))
    return float(p50), float(p95)


def describe_machine(processors: int) -> str:
    """The machine in words: processor, how many of them this process may use, memory, system, runtime."""
    memory = _first_number(Path("/proc/meminfo"), "MemTotal")
    model = _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine()
    size = f", {memory / 2**20:.0f} GiB memory" if memory else ""
    return (
        f"{model}, {processors} of its processors{size}, {platform.system()} {platform.machine()}, "
        f"ONNX Runtime {onnxruntime.__version__} on the CPU"
    )


def _field(path: Path, name: str) -> str | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def _first_number(path: Path, name: str) -> int | None:
    text = (_field(path, name) or "").split()
    return int(text[0]) if text and text[0].isdigit() else None
