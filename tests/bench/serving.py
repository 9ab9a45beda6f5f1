"""The predictor under load, beside other servers, beside the kernel's own speed, and what it costs.

MobileNetV2 and ResNet-50 with random weights and twelve classes, JPEG bodies of flowers12, sent by oha, a
process of its own. Latency figures are open loop: a request counts from when it was due.

* single: the median latency of one request at a time, the lowest of five.
* saturated: answers a second with 32 connections that always have a request on its way.
* within: the highest rate whose 99th percentile is within twice the server's own single latency.
* others: the same three of LitServe, BentoML and a custom model of KServe, each as its documentation shows it
  with torch, and with ONNX Runtime and the predictor's own file in place of torch. The predictor is measured
  before and after them, and the mean counts.
* kernel: images a second that ONNX Runtime reaches on ready tensors with the same threads, in the best of its
  batch sizes and of two ways, one inference on all of them or one on each; before and after, averaged.
* health: 99th percentile of the health endpoint while the server is saturated.
* start: seconds until ready, above those of importing kserve alone, the two in turns.
* memory: resident memory after 10,000 and 20,000 requests.
* monitoring: saturated throughput with and without monitoring, in turns.
* explanation: saturated throughput of ``:predict`` over that of ``:explain`` with the same bodies, in turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from tests.bench.harness import data, load, servers
from tests.bench.harness.report import REPOSITORY, Report, Target, parser
from tests.testbed.predictors import NAME as MODEL
from tests.testbed.predictors import Server, running_predictor
from tests.testbed.tiny_package import HEADER, write_golden

from tunesmith_package.inference import Predictor, softmax
from tunesmith_package.package import publish_package
from tunesmith_package.preprocess import Preprocess, decode
from tunesmith_package.processors import allowed_processors
from tunesmith_package.properties import input_properties
from tunesmith_package.store import open_store
from tunesmith_trainer.publish.export import export_classifier
from tunesmith_trainer.publish.reference import write_reference
from tunesmith_trainer.search.backbones import ImageClassifier, build_backbone

NAME = "serving"
MODELS = ("mobilenet_v2", "resnet50")
SIDE = 224
KERNEL_BATCHES = (1, 2, 4, 8, 16)
REFERENCE_IMAGES = 60
QUIET = ("--grpc-port", "0")


def package(name: str, photos: Sequence[Path], folder: Path) -> Path:
    """A package of a network with random weights; its folder."""
    directory = folder / "built"
    directory.mkdir(parents=True)
    preprocess = Preprocess(SIDE, "CenterCrop", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    labels = tuple(f"class {number}" for number in range(12))
    model = ImageClassifier(build_backbone(name, SIDE, seed=0), len(labels))
    model.head.weight.data.normal_(0, 0.01)
    images = [decode(path.read_bytes(), preprocess) for path in photos[:REFERENCE_IMAGES]]
    pixels = np.stack([one.pixels for one in images])
    export_classifier(model, preprocess, labels, pixels[:4], directory)
    predictor = Predictor(directory)
    outputs = [predictor.run(preprocess.normalise(one[np.newaxis]), feature_map=False) for one in pixels]
    probabilities = softmax(np.concatenate([one.logits for one in outputs]))
    embeddings = np.concatenate([one.embedding for one in outputs])
    properties = np.stack([input_properties(one.pixels, one.width * one.height) for one in images])
    write_reference(directory, probabilities, embeddings, properties)
    write_golden(directory)
    published = publish_package(directory, open_store((folder / "store").as_uri()), MODEL, HEADER)
    return Path(published.uri.removeprefix("file://"))


KERNEL = """
import json, sys, threading, time
import numpy as np
from pathlib import Path
from tunesmith_package.inference import Predictor

directory, seconds, processors = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
rates = {}
for threads in {1, processors}:
    predictor = Predictor(directory, threads)
    for batch in map(int, sys.argv[4:]):
        tensor = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), dtype=np.float32)
        predictor.run(tensor, feature_map=False)
        counts, end = [], time.perf_counter() + seconds
        def work():
            while time.perf_counter() < end:
                predictor.run(tensor, feature_map=False)
                counts.append(batch)
        workers = [threading.Thread(target=work) for _ in range(processors // threads)]
        started = time.perf_counter()
        for one in workers: one.start()
        for one in workers: one.join()
        rates[f"{threads} threads, {batch} images"] = sum(counts) / (time.perf_counter() - started)
print(json.dumps(rates))
"""


def kernel_rate(directory: Path, seconds: float) -> float:
    """Images a second of ONNX Runtime alone, in the best of its ways to use all processors."""
    command = [sys.executable, "-c", KERNEL, str(directory), str(seconds), str(allowed_processors())]
    command += map(str, KERNEL_BATCHES)
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return float(max(json.loads(done.stdout).values()))


def seconds_of(command: Sequence[str]) -> float:
    """Seconds that a command takes."""
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True, cwd=REPOSITORY)
    return time.perf_counter() - started


class Bench:
    """One model's measurements."""

    def __init__(
        self, name: str, options: argparse.Namespace, directory: Path, body: Path, work: Path
    ) -> None:
        """Keep what all of them need."""
        self.name, self.options, self.directory, self.body, self.work = name, options, directory, body, work
        self.program: Path = options.program

    @contextmanager
    def server(self, *more: str) -> Iterator[tuple[Server, load.Target]]:
        """A predictor that is warm, and where to ask it."""
        with running_predictor(self.directory, self.work / "log", *QUIET, *more) as server:
            url = f"http://127.0.0.1:{server.http_port}/v1/models/{MODEL}:predict"
            target = load.Target(url, self.body)
            load.run(self.program, target, "-n", 100, "-c", 4)
            yield server, target

    def own_speed(self) -> load.Speed:
        """How fast the predictor is."""
        with self.server() as (_, target):
            return load.speed(self.program, target, self.options.seconds)

    def speed(self, report: Report) -> dict[str, Any]:
        """How fast the predictor is, beside the others and beside the kernel."""
        before = kernel_rate(self.directory, self.options.seconds / 4)
        seen = [self.own_speed()]
        others = self.others(report) if self.options.others else {}
        seen.append(self.own_speed())
        kernel = mean((before, kernel_rate(self.directory, self.options.seconds / 4)))
        for number, one in enumerate(seen):
            report.facts[f"{self.name}, rates tried, {number}"] = one.tried
        row = {what: mean(getattr(one, what) for one in seen) for what in ("single", "saturated", "within")}
        report.add(model=self.name, who="Tunesmith", **row, kernel=kernel, share=row["saturated"] / kernel)
        return {**report.rows[-1], "others": others}

    def others(self, report: Report) -> dict[str, float]:
        """What the best of the other servers reach within their bound, by what computes in them."""
        best: dict[str, float] = {}
        for engine, onnx in (("torch", None), ("ONNX Runtime", self.directory / "model.onnx")):
            for other in servers.OTHERS:
                with servers.running(
                    other, self.options.python, self.body, self.work, self.name, onnx
                ) as target:
                    load.run(self.program, target, "-n", 100, "-c", 4)
                    seen = load.speed(self.program, target, self.options.seconds)
                what = asdict(seen)
                report.facts[f"{self.name}, {other.name}, {engine}, rates tried"] = what.pop("tried")
                report.add(model=self.name, who=f"{other.name}, {engine}", **what)
                best[engine] = max(best.get(engine, 0), seen.within)
        return best

    def health(self) -> float:
        """The 99th percentile of the health endpoint while all connections are busy."""
        with self.server() as (server, target):
            busy = [*load.command(self.program, target, "-z", f"{self.options.seconds + 4:g}s")]
            with subprocess.Popen([*busy, "-c", str(load.CONNECTIONS)], stdout=subprocess.DEVNULL) as loading:
                time.sleep(2)
                ready = load.Target(f"http://127.0.0.1:{server.http_port}/v2/health/ready")
                # As the kubelet asks: on a connection of its own each time.
                paced = ("-q", 50, "--latency-correction", "--disable-keepalive", "-c", 4)
                met = load.run(self.program, ready, "-z", f"{self.options.seconds:g}s", *paced)
                loading.wait()
        if not met.all_answered:
            raise RuntimeError(f"the health endpoint did not always answer: {met}")
        return met.percentiles["p99"]

    def start(self) -> float:
        """Seconds until ready, above those of importing kserve alone."""
        more = []
        for _ in range(self.options.repeats):
            alone = seconds_of([sys.executable, "-c", "import kserve"])
            started = time.perf_counter()
            with running_predictor(self.directory, self.work / "log", *QUIET):
                more.append(time.perf_counter() - started - alone)
        return median(more)

    def memory(self) -> tuple[float, float]:
        """Resident MiB after half of the requests and after all."""
        half = self.options.requests // 2
        with self.server() as (server, target):
            seen = []
            for _ in range(2):
                load.run(self.program, target, "-n", half, "-c", load.CONNECTIONS)
                status = Path(f"/proc/{server.process.pid}/status").read_text()
                seen.append(int(status.partition("VmRSS:")[2].split()[0]) / 1_024)
        return seen[0], seen[1]

    def monitoring(self) -> float:
        """The share of throughput that monitoring costs, from pairs in turns."""
        costs = []
        for _ in range(self.options.repeats):
            rates = []
            for window in ("1000", "0"):
                with self.server("--drift-window", window) as (_, target):
                    rates.append(load.saturate(self.program, target, self.options.seconds))
            costs.append(1 - rates[0] / rates[1])
        return median(costs)

    def explanation(self) -> float:
        """How many predictions an explanation costs, from pairs in turns."""
        with self.server() as (_, target):
            explain = replace(target, url=target.url.replace(":predict", ":explain"))
            costs = []
            for _ in range(self.options.repeats):
                predictions = load.saturate(self.program, target, self.options.seconds)
                costs.append(predictions / load.saturate(self.program, explain, self.options.seconds))
        return median(costs)


TIMES_FASTER = {"mobilenet_v2": 2.0, "resnet50": 1.7}


def speed_targets(name: str, row: dict[str, Any]) -> list[Target]:
    """What is promised of a model's speed."""
    found = []
    for engine, limit in (("torch", TIMES_FASTER[name]), ("ONNX Runtime", 1.0)):
        if best := row["others"].get(engine):
            what = f"{name}: times the best of the others with {engine}, within the bound of latency"
            found.append(Target(what, row["within"] / best, "at least", limit, "x"))
    if name == "resnet50":
        found.append(Target("resnet50: share of the kernel's speed", row["share"], "at least", 0.85))
    return found


def cost_targets(row: dict[str, Any]) -> list[Target]:
    """What is promised of the predictor's costs."""
    growth = row["memory"] / row["memoryHalf"] - 1
    return [
        Target("health endpoint under full load, p99", 1_000 * row["health"], "at most", 50, " ms"),
        Target("start until ready, above importing kserve", row["start"], "at most", 1.5, " s"),
        Target("resident memory after all requests", row["memory"], "at most", 400, " MiB"),
        Target("growth of it over the last half", 100 * growth, "at most", 2, " %"),
        Target("throughput that monitoring costs", 100 * row["monitoring"], "at most", 5, " %"),
        Target("predictions that an explanation costs", row["explanation"], "at most", 2, ""),
    ]


def main() -> int:
    """Measure and tell."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    options_parser.add_argument("--seconds", type=float, default=6, help="of each load (default: 6)")
    options_parser.add_argument("--requests", type=int, default=20_000, help="for memory (default: 20,000)")
    options_parser.add_argument(
        "--repeats", type=int, default=5, help="of what is done in turns (default: 5)"
    )
    options_parser.add_argument("--no-others", dest="others", action="store_false", help="Tunesmith alone")
    options_parser.add_argument("--no-costs", dest="costs", action="store_false", help="only speed")
    options = options_parser.parse_args()
    photos = sorted(data.photos("flowers12", NAME).glob("test/*/*.jpg"))
    options.program = load.generator(NAME)
    # A photo of middling size: requests of one body are what load generators send.
    body = sorted(photos, key=lambda path: path.stat().st_size)[len(photos) // 2]
    report = Report(NAME, full=options.requests >= 20_000 and options.seconds >= 6)
    report.facts["bodyBytes"] = body.stat().st_size
    if options.others:
        options.python = servers.environment(NAME)
        report.facts["others"] = servers.versions(options.python)
    with data.workplace(options.keep) as work:
        for name in options.models:
            bench = Bench(name, options, package(name, photos, work / name), body, work)
            report.targets += speed_targets(name, bench.speed(report))
            if name == "mobilenet_v2" and options.costs:
                further: dict[str, Callable[[], float]] = {
                    "health": bench.health,
                    "start": bench.start,
                    "monitoring": bench.monitoring,
                    "explanation": bench.explanation,
                }
                costs = {what: measure() for what, measure in further.items()}
                costs["memoryHalf"], costs["memory"] = bench.memory()
                report.add(model=name, who="Tunesmith, costs", **costs)
                report.targets += cost_targets(costs)
    columns = ("model", "who", "single", "saturated", "within", "kernel", "share")
    return report.finish(columns, output=options.output, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
