"""The operator on a real API server: how soon, how many, how much memory, and nothing when nothing happens.

etcd, kube-apiserver and kube-controller-manager run on this machine (tests/testbed); a node of ours moves
pods. All of them share its processors with the operator, so the figures are of the whole, not of the operator
alone. Times are told by watches that were open before: from the answer to what was sent until the event.

* submit: TrainingJob created until its Job is, one after another, while so many are there.
* many: 1,000 TrainingJobs created as fast as they are taken, until the last has its Job; and the same of
  Kubeflow Trainer's TrainJobs (until the last has its JobSet's Job), on the empty cluster, before our
  operator is started.
* exit: the trainer's container ended until the TrainingJob says so.
* restart: every job loses its Role while the operator is stopped; from its start until all have it again.
* outage: the API server is away for a while; from its return until a job created then has its Job.
* memory: resident, with so many TrainingJobs that have their Job and pod; and its growth over lifecycles,
  after a twentieth of as many to warm up.
* idle: calls that write while nothing happens.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tests.bench.harness import data
from tests.bench.harness.report import Report, Target, parser, say
from tests.controlplane.cluster import Cluster
from tests.controlplane.operator_metrics import writes
from tests.testbed.control_plane import ControlPlane, binaries
from tests.testbed.kube_api import Api, Object, wait_for
from tests.testbed.kubeflow_peer import KubeflowPeer
from tests.testbed.operators import Operator

from tunesmith_operator.kinds import JOB, JOB_LABEL, POD, ROLE, TRAINING_JOB, Kind
from tunesmith_operator.training_job.children import child_name

NAME = "controlplane"
NAMESPACE = "bench"
SENDERS = 8
PATIENCE = 900.0
PLAIN_POD = {"containers": [{"name": "node", "image": "trainer:1", "command": ["python", "-m", "trainer"]}]}


class Sightings:
    """When each object of a kind was first seen in a state, by a watch of its own."""

    def __init__(
        self,
        api: Api,
        kind: Kind,
        state: Callable[[Object], bool] = lambda obj: True,
        name: Callable[[Object], str] = lambda obj: str(obj["metadata"]["name"]),
    ) -> None:
        """Begin to watch, from now on; `name` is what an object is remembered by."""
        self._api, self._kind, self._state, self._name = api, kind, state, name
        self.at: dict[str, float] = {}
        self.first: dict[str, Object] = {}
        self._version = api.read(kind.path(NAMESPACE), limit="1")["metadata"]["resourceVersion"]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.is_set():
            for change, obj in self._api.watch(
                self._kind.path(NAMESPACE), resourceVersion=self._version, timeoutSeconds="5"
            ):
                self._version = obj["metadata"]["resourceVersion"]
                if change in ("ADDED", "MODIFIED") and self._state(obj):
                    self.first.setdefault(self._name(obj), obj)
                    self.at.setdefault(self._name(obj), time.monotonic())

    def wait(self, names: list[str], what: str) -> None:
        """Wait until each name was seen."""
        wait_for(lambda: all(name in self.at for name in names), what, PATIENCE)

    def end(self) -> None:
        """Stop watching."""
        self._over.set()
        self._thread.join(10)
        self._api.close()


class Bench:
    """One control plane with one operator."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        """Install; the operator is not started yet."""
        self.plane, self.folder = plane, folder
        self.cluster = Cluster(plane)
        self.cluster.install()
        self.cluster.create_namespace(NAMESPACE)
        self.number = 0
        self.operator = self.new_operator()

    def new_operator(self) -> Operator:
        """An operator with a log of its own."""
        self.number += 1
        folder = self.folder / f"operator-{self.number}"
        folder.mkdir()
        return self.cluster.operator(folder, "--resync-seconds", "120")

    @contextmanager
    def sightings(self, kind: Kind, *how: Callable[[Object], Any]) -> Iterator[Sightings]:
        """Watch a kind meanwhile: in which state, and by which name."""
        seen = Sightings(Api(self.plane.kubeconfig), kind, *how)
        try:
            yield seen
        finally:
            seen.end()

    def submit(self, names: list[str]) -> dict[str, float]:
        """Create jobs from several threads; when each was taken."""

        def one(name: str) -> tuple[str, float]:
            self.cluster.submit(NAMESPACE, name)
            return name, time.monotonic()

        with ThreadPoolExecutor(SENDERS) as senders:
            return dict(senders.map(one, names))

    def fill(self, prefix: str, count: int) -> list[str]:
        """So many jobs, all running."""
        names = [f"{prefix}-{number}" for number in range(count)]
        with self.sightings(TRAINING_JOB, is_running) as running:
            self.submit(names)
            running.wait(names, f"{count} running jobs")
        return names

    def submit_latencies(self, count: int) -> list[float]:
        """Seconds from a job to its Job, one after another."""
        names = [f"single-{number}" for number in range(count)]
        found = []
        with self.sightings(JOB) as jobs:
            for name in names:
                taken = self.submit([name])[name]
                jobs.wait([child_name(name)], name)
                found.append(max(0.0, jobs.at[child_name(name)] - taken))
        return found

    def many(self, count: int) -> float:
        """Seconds from the first of many jobs to the last Job."""
        names = [f"many-{number}" for number in range(count)]
        with self.sightings(JOB) as jobs:
            begun = time.monotonic()
            self.submit(names)
            jobs.wait([child_name(name) for name in names], f"{count} Jobs")
            return max(jobs.at.values()) - begun

    def many_of_kubeflow_trainer(self, count: int) -> float:
        """The same of Kubeflow Trainer, before our operator is started."""
        peer = KubeflowPeer(self.plane, self.folder / "kubeflow-trainer", self.cluster.api)
        try:
            peer.start(say)
            peer.create_runtime(NAMESPACE, PLAIN_POD)
            names = [f"peer-{number}" for number in range(count)]
            with self.sightings(JOB) as jobs, ThreadPoolExecutor(SENDERS) as senders:
                begun = time.monotonic()
                list(senders.map(lambda name: peer.submit(NAMESPACE, name), names))
                jobs.wait([f"{name}-node-0" for name in names], f"{count} Jobs of TrainJobs")
                return max(jobs.at.values()) - begun
        finally:
            peer.stop()

    def exit_latencies(self, names: list[str]) -> list[float]:
        """Seconds from a trainer's end to the status, one after another."""
        found = []
        with self.sightings(TRAINING_JOB, has_succeeded) as over:
            for name in names:
                pod = self.cluster.wait_for_pod(NAMESPACE, name=name)
                self.cluster.kubelet.end(pod)
                begun = time.monotonic()
                over.wait([name], name)
                found.append(max(0.0, over.at[name] - begun))
        return found

    def restart(self, names: list[str]) -> float:
        """Seconds from the operator's start until each job has its Role again."""
        self.operator.stop()
        with ThreadPoolExecutor(SENDERS) as senders:
            list(senders.map(lambda name: self.cluster.api.delete(ROLE, NAMESPACE, child_name(name)), names))
        with self.sightings(ROLE) as roles:
            begun = time.monotonic()
            self.operator = self.new_operator().start()
            roles.wait([child_name(name) for name in names], "all Roles")
            return max(roles.at.values()) - begun

    def outage(self, seconds: float) -> float:
        """Seconds from the API server's return until a job of then has its Job."""
        self.plane.kill("apiserver")
        time.sleep(seconds)
        self.plane.start_apiserver()
        self.plane.wait_ready()
        with self.sightings(JOB) as jobs:
            begun = time.monotonic()
            self.submit(["after-outage"])
            jobs.wait([child_name("after-outage")], "a Job after the outage")
            return jobs.at[child_name("after-outage")] - begun

    def memory(self) -> float:
        """The operator's resident megabytes."""
        assert self.operator.process is not None
        status = Path(f"/proc/{self.operator.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1_024 / 1e6

    def lifecycles(self, count: int, at_once: int = 250) -> None:
        """So many jobs that are created, run, succeed and are deleted, with nothing left of them."""
        for first in range(0, count, at_once):
            self.number += 1
            names = [f"life-{self.number}-{number}" for number in range(min(at_once, count - first))]
            with (
                self.sightings(POD, lambda pod: pod["status"]["phase"] == "Running", job_of) as pods,
                self.sightings(TRAINING_JOB, has_succeeded) as over,
                ThreadPoolExecutor(SENDERS) as hands,
            ):
                self.submit(names)
                pods.wait(names, "running pods")
                list(hands.map(lambda name: self.cluster.kubelet.end(pods.first[name]), names))
                over.wait(names, "the ends")
                list(hands.map(lambda name: self.cluster.api.delete(TRAINING_JOB, NAMESPACE, name), names))
            self._nothing_left(names[-1])
            say(f"{first + len(names):,} of {count:,} lifecycles, {self.memory():.0f} MB")

    def _nothing_left(self, name: str) -> None:
        wait_for(lambda: not self.cluster.pods(NAMESPACE, name), f"no pod of {name}", PATIENCE)

    def idle_writes(self, seconds: float) -> int:
        """Calls that write while nothing happens."""
        wait_for(lambda: "tunesmith_operator_queue_depth 0.0" in self.operator.read("/metrics"), "rest", 60)
        time.sleep(5)
        before = writes(self.operator.read("/metrics"))
        time.sleep(seconds)
        return writes(self.operator.read("/metrics")) - before


def is_running(job: Object) -> bool:
    return succeeded_condition(job).get("reason") == "Running"


def has_succeeded(job: Object) -> bool:
    return succeeded_condition(job).get("status") == "True"


def job_of(child: Object) -> str:
    return str((child["metadata"].get("labels") or {}).get(JOB_LABEL))


def succeeded_condition(job: Object) -> Object:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == "Succeeded"), {})


def p99(seconds: list[float]) -> float:
    return float(np.percentile(seconds, 99))


def measure(bench: Bench, options: argparse.Namespace, report: Report) -> None:
    """All of it, in turn."""
    theirs = bench.many_of_kubeflow_trainer(options.many) if options.peer else None
    if theirs is not None:
        report.add(what="many of Kubeflow Trainer", jobs=options.many, seconds=theirs)
    say(f"{options.jobs} jobs, running")
    bench.operator.start()
    names = bench.fill("steady", options.jobs)
    submitted = bench.submit_latencies(options.samples)
    report.add(what="submit", median=float(np.median(submitted)), p99=p99(submitted))
    exits = bench.exit_latencies(names[: options.samples])
    report.add(what="exit", median=float(np.median(exits)), p99=p99(exits))
    idle = bench.idle_writes(options.idle_seconds)
    report.add(what="idle", seconds=options.idle_seconds, writes=idle)
    restart = bench.restart(names[options.samples :])
    report.add(what="restart", seconds=restart)
    outage = bench.outage(options.outage_seconds)
    report.add(what="outage", away=options.outage_seconds, seconds=outage)
    many = bench.many(options.many)
    report.add(what="many", jobs=options.many, seconds=many)
    if theirs is not None:
        what = f"{options.many} TrainingJobs to their Jobs, against Kubeflow Trainer's TrainJobs"
        report.targets.append(Target(what, many / theirs, "at most", 1, "x"))
    bench.fill("further", max(0, options.most - options.jobs - options.many - options.samples))
    memory = bench.memory()
    report.add(what="memory", jobs=options.most, resident=memory)
    bench.lifecycles(options.lifecycles // 20)
    before = bench.memory()
    bench.lifecycles(options.lifecycles)
    after = bench.memory()
    growth = 100 * (after / before - 1)
    report.add(what="lifecycles", count=options.lifecycles, before=before, resident=after, growth=growth)
    report.targets += [
        Target(f"created until its Job is, p99 at {options.jobs}", p99(submitted), "at most", 2, " s"),
        Target("the container's end until the status says so, p99", p99(exits), "at most", 2, " s"),
        Target(f"operator's start until all are reconciled, at {options.jobs}", restart, "at most", 30, " s"),
        Target("API server's return until a new job has its Job", outage, "at most", 60, " s"),
        Target(f"resident memory at {options.most} TrainingJobs", memory, "at most", 150, " MB"),
        Target(f"its growth over {options.lifecycles:,} lifecycles", growth, "at most", 5, " %"),
        Target("writes while nothing happens", idle, "at most", 0),
    ]


def main() -> int:
    """Measure and tell."""
    options_parser = parser(__doc__)
    add = options_parser.add_argument
    add("--jobs", type=int, default=500, help="that are there meanwhile (default: 500)")
    add("--samples", type=int, default=100, help="of each latency (default: 100)")
    add("--many", type=int, default=1_000, help="at once (default: 1,000)")
    add("--most", type=int, default=3_000, help="for memory (default: 3,000)")
    add("--lifecycles", type=int, default=10_000, help="default: 10,000")
    add("--idle-seconds", type=float, default=600, help="default: 600")
    add("--outage-seconds", type=float, default=120, help="default: 120")
    add("--no-peer", dest="peer", action="store_false", help="without Kubeflow Trainer")
    options = options_parser.parse_args()
    full = (
        options.peer
        and options.jobs >= 500
        and options.most >= 3_000
        and options.lifecycles >= 10_000
        and options.idle_seconds >= 600
        and options.outage_seconds >= 120
    )
    report = Report(NAME, full=full)
    commands = binaries(say)
    with data.workplace(options.keep) as work:
        plane = ControlPlane(work / "control-plane", commands)
        begun = time.monotonic()
        plane.start()
        started = time.monotonic() - begun
        report.add(what="control plane", seconds=started)
        bench = None
        try:
            bench = Bench(plane, work)
            measure(bench, options, report)
        finally:
            if bench is not None:
                bench.operator.kill()
                bench.cluster.close()
            plane.stop()
    report.targets.append(Target("start of the control plane, commands cached", started, "at most", 10, " s"))
    columns = ("what", "median", "p99", "seconds", "jobs", "before", "resident", "growth", "writes")
    return report.finish(columns, output=options.output, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
