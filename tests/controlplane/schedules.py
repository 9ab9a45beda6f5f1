"""Random lives of TrainingJobs under random faults, from a seed; and what must hold in all of them.

A schedule is a list of steps drawn from a seed, so a failing one can be run again and shortened. Users,
kubelet and network do to a few jobs whatever the steps say; then everything is mended, the trainers end well,
and the oracles are asked. Many schedules can be played at once, each in a namespace of its own; what happens
to everybody (operators and network) is then what the first of them says.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from signal import SIGCONT, SIGSTOP
from typing import Any

import httpx
from tests.controlplane.cluster import Cluster
from tests.controlplane.stage import Stage
from tests.testbed.faulty_proxy import Fault
from tests.testbed.kube_api import Api, Object, wait_for

from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_operator.kinds import COMPANIONS, JOB, POD, ROLE, TRAINING_JOB, WATCHED
from tunesmith_operator.training_job.children import child_name

RETRIED = (EXIT_CODES[Reason.STORE_UNREACHABLE], EXIT_CODES[Reason.INTERRUPTED], 137, 1)
JOBS = ("daisy", "rose", "tulip")
MOST_PAUSE = 0.6


@dataclass(frozen=True)
class Step:
    """Something that happens: to one job, or (without one) to everybody."""

    what: str
    job: str = ""
    pause: float = 0.0

    def __str__(self) -> str:
        return f"{self.what} {self.job}".strip()


OF_JOBS = {
    "create": 3,
    "suspend": 2,
    "resume": 2,
    "raise its memory": 1,
    "raise its backoffLimit": 1,
    "delete": 1,
    "delete its Job": 1,
    "delete its pod": 1,
    "delete a companion": 1,
    "widen its Role": 1,
    "wipe its status": 1,
    "evict its pod": 1,
    "fail its pod": 2,
    "end its pod well": 2,
}
OF_ALL = {
    "kill the operator": 2,
    "stop the operator": 1,
    "hold the operator for a moment": 1,
    "start another operator": 1,
    "cut all connections": 2,
    "refuse writes": 1,
    "lose answers": 1,
    "answer late": 1,
    "end watches": 1,
    "mend the network": 2,
}


def schedule(seed: int, length: int) -> list[Step]:
    """The steps of a seed."""
    rng = random.Random(seed)
    steps = [Step("create", job) for job in JOBS]
    while len(steps) < length:
        pause = rng.uniform(0, MOST_PAUSE)
        if rng.random() < 0.7:
            (what,) = rng.choices(list(OF_JOBS), list(OF_JOBS.values()))
            steps.append(Step(what, rng.choice(JOBS), pause))
        else:
            (what,) = rng.choices(list(OF_ALL), list(OF_ALL.values()))
            steps.append(Step(what, "", pause))
    return steps


NETWORK: dict[str, Fault] = {
    "refuse writes": Fault("POST|PATCH|DELETE", status=500, watch=False, times=10),
    "lose answers": Fault("POST|PATCH|DELETE", lose="answer", times=6),
    "answer late": Fault("GET|POST|PATCH", watch=False, delay=0.3, times=20),
    "end watches": Fault("GET", watch=True, status=410, times=6),
}


@dataclass
class Witness:
    """Watches pods and jobs all the time and writes down what must never be."""

    cluster: Cluster
    namespace: str
    wrong: list[str] = field(default_factory=list)
    wiped: set[str] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        for watch in (self._watch_pods, self._watch_jobs):
            thread = threading.Thread(target=watch, daemon=True)
            thread.start()
            self._threads.append(thread)

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(10)

    def _watch_pods(self) -> None:
        running: defaultdict[str, set[str]] = defaultdict(set)

        def see(change: str, pod: Object) -> None:
            job = pod["metadata"]["labels"].get("tunesmith.dev/training-job", "")
            if change != "DELETED" and pod["status"].get("phase") == "Running":
                running[job].add(pod["metadata"]["name"])
            else:
                running[job].discard(pod["metadata"]["name"])
            if len(running[job]) > 1:
                self.wrong.append(f"{job} has {len(running[job])} trainers at once: {sorted(running[job])}")

        self._watch(POD.path(self.namespace), see)

    def _watch_jobs(self) -> None:
        final: dict[str, str] = {}

        def see(change: str, job: Object) -> None:
            uid, name = job["metadata"]["uid"], job["metadata"]["name"]
            conditions = {one["type"]: one for one in (job.get("status") or {}).get("conditions") or ()}
            now = conditions.get("Succeeded", {}).get("status", "")
            if final.get(uid) in ("True", "False") and now != final[uid] and (now or uid not in self.wiped):
                self.wrong.append(f"{name} was over ({final[uid]}) and is not any more ({now})")
            if now in ("True", "False"):
                final[uid] = now

        self._watch(TRAINING_JOB.path(self.namespace), see)

    def _watch(self, path: str, see: Callable[[str, Object], None]) -> None:
        api = Api(self.cluster.plane.kubeconfig)
        version = ""
        while not self._over.is_set():
            version = version or api.read(path, limit="1")["metadata"]["resourceVersion"]
            for change, obj in api.watch(path, resourceVersion=version, timeoutSeconds="2"):
                if change == "ERROR":  # the version is too old by now
                    version = ""
                    break
                version = obj["metadata"]["resourceVersion"]
                see(change, obj)
        api.close()


def play_all(stage: Stage, plays: Sequence[Play]) -> dict[int, list[str]]:
    """Play schedules at once, and ask the oracles; what was wrong, by seed, nothing where all was well."""
    with contextlib.ExitStack() as stack:
        for play in plays:
            play.witness.start()
            stack.callback(play.witness.end)
        hands = stack.enter_context(ThreadPoolExecutor(len(plays)))
        stage.start()
        list(hands.map(Play.act, plays))
        stage.proxy.faults = []
        if not any(one.runs for one in stage.operators):
            stage.free_lease()
            stage.start()
        patience = 90.0 + 4.0 * len(plays)
        not_over = list(hands.map(lambda play: play.converge(patience), plays))
        left = list(hands.map(lambda play: play.nothing_left(patience), plays))
        return {
            play.seed: [*first, *play.witness.wrong, *last]
            for play, first, last in zip(plays, not_over, left, strict=True)
        }


@dataclass
class Play:
    """Plays a schedule in a namespace and asks the oracles.

    Attributes:
        stage: shared with the other plays.
        namespace: of its own.
        seed: of the schedule.
        steps: of the schedule.
        crowd: how many play at once; so many times as many requests meet a fault.
        conducts: whether what its schedule says of operators and network is done.
    """

    stage: Stage
    namespace: str
    seed: int
    steps: Sequence[Step]
    crowd: int = 1
    conducts: bool = True
    memory: int = 1

    def __post_init__(self) -> None:
        self.witness = Witness(self.cluster, self.namespace)

    @property
    def cluster(self) -> Cluster:
        return self.stage.cluster

    def act(self) -> None:
        """Do the steps; in the end no job is suspended."""
        rng = random.Random(self.seed)
        for step in self.steps:
            with contextlib.suppress(httpx.HTTPStatusError):  # the object is gone, or over
                self._do(step, rng)
            time.sleep(step.pause)
        for job in self.cluster.api.list(TRAINING_JOB, self.namespace):
            self.cluster.change(self.namespace, job["metadata"]["name"], suspend=False)

    def _do(self, step: Step, rng: random.Random) -> None:
        api, namespace, job = self.cluster.api, self.namespace, step.job
        child = child_name(job) if job else ""
        pods = [one for one in self.cluster.pods(namespace, job) if _live(one)] if job else []
        match step.what:
            case "create":
                self.cluster.submit(namespace, job, backoffLimit=50)
            case "suspend" | "resume":
                self.cluster.change(namespace, job, suspend=step.what == "suspend")
            case "raise its memory":
                self.memory += 1
                self.cluster.change(namespace, job, compute={"memory": f"{self.memory}Gi"})
            case "raise its backoffLimit":
                self.cluster.change(namespace, job, backoffLimit=rng.randrange(50, 99))
            case "delete":
                api.delete(TRAINING_JOB, namespace, job)
            case "delete its Job":
                api.delete(JOB, namespace, child, propagationPolicy="Background")
            case "delete a companion":
                api.delete(rng.choice(COMPANIONS), namespace, child)
            case "widen its Role":
                wide = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]
                api.merge(ROLE, namespace, child, {"rules": wide})
            case "wipe its status":
                if current := api.get(TRAINING_JOB, namespace, job):
                    self.witness.wiped.add(current["metadata"]["uid"])
                    api.put(TRAINING_JOB.path(namespace, job, "status"), {**current, "status": {}})
            case "delete its pod":
                for pod in pods:
                    api.delete(POD, namespace, pod["metadata"]["name"])
            case "evict its pod":
                for pod in pods:
                    self.cluster.kubelet.evict(pod, "The node was low on resource: memory.")
            case "fail its pod":
                for pod in pods:
                    self.cluster.kubelet.end(pod, rng.choice(RETRIED))
            case "end its pod well":
                for pod in pods:
                    self.cluster.kubelet.end(pod, 0)
            case _ if self.conducts:
                self._do_to_all(step.what)

    def _do_to_all(self, what: str) -> None:
        running = [one for one in self.stage.operators if one.runs]
        match what:
            case "kill the operator":
                for one in running:
                    one.kill()
                self.stage.free_lease()
                self.stage.start()
            case "stop the operator":
                for one in running:
                    one.stop()
                self.stage.start()
            case "hold the operator for a moment":
                for one in running:
                    one.signal(SIGSTOP)
                time.sleep(1)
                for one in running:
                    one.signal(SIGCONT)
            case "start another operator":
                if len(running) < 2:
                    self.stage.start()
            case "cut all connections":
                self.stage.proxy.cut_all()
            case "mend the network":
                self.stage.proxy.faults = []
            case _:
                fault = Fault(**{**NETWORK[what].__dict__, "met": 0})
                fault.times *= self.crowd
                self.stage.proxy.faults = [fault]

    def converge(self, seconds: float) -> list[str]:
        """O3: every job comes to its end, and then nothing is written any more."""

        def all_over() -> bool:
            jobs = self.cluster.api.list(TRAINING_JOB, self.namespace)
            waiting = [job["metadata"]["name"] for job in jobs if not _over(job)]
            for name in waiting:
                for pod in self.cluster.pods(self.namespace, name):
                    if pod["status"]["phase"] == "Running" and not pod["metadata"].get("deletionTimestamp"):
                        with contextlib.suppress(httpx.HTTPStatusError):
                            self.cluster.kubelet.end(pod, 0)
            return not waiting

        try:
            wait_for(all_over, "every job is over", seconds)
        except AssertionError as error:
            states = [
                f"{job['metadata']['name']}: {(job.get('status') or {}).get('conditions')}"
                for job in self.cluster.api.list(TRAINING_JOB, self.namespace)
                if not _over(job)
            ]
            return [f"O3: {error}", *states]
        time.sleep(1)
        before = len(self._own_writes())
        time.sleep(3)
        after = self._own_writes()[before:]
        return [f"O3: written although all is over: {[str(one) for one in after]}"] if after else []

    def _own_writes(self) -> list[Any]:
        return [one for one in self.stage.proxy.writes if f"/{self.namespace}/" in one.path]

    def nothing_left(self, seconds: float) -> list[str]:
        """O6: after deletion nothing is left."""
        for job in self.cluster.api.list(TRAINING_JOB, self.namespace):
            self.cluster.api.delete(TRAINING_JOB, self.namespace, job["metadata"]["name"])

        def left() -> list[str]:
            return [
                f"{kind.name} {one['metadata']['name']}"
                for kind in WATCHED
                for one in self.cluster.api.list(
                    kind, self.namespace, labelSelector="tunesmith.dev/training-job"
                )
            ]

        try:
            wait_for(lambda: not left(), "nothing left", seconds)
        except AssertionError:
            return [f"O6: left after deletion: {left()}"]
        return []


def _live(pod: Object) -> bool:
    return pod["status"].get("phase") in ("Pending", "Running") and not pod["metadata"].get(
        "deletionTimestamp"
    )


def _over(job: Object) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Succeeded" and one["status"] in ("True", "False") for one in conditions)
