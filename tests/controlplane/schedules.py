"""Random lives of TrainingJobs under random faults, from a seed; and what must hold in all of them.

A schedule is a list of steps drawn from a seed, so a failing one can be run again and shortened. Users,
kubelet and network do to a few jobs whatever the steps say; then everything is mended, the trainers end well,
and the oracles are asked. Many schedules can be played at once, each in a namespace of its own; what happens
to everybody (operators and network) is then what the first of them says.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from signal import SIGCONT, SIGSTOP
from typing import Any

import httpx
from tests.controlplane.cluster import NAMESPACES, Cluster
from tests.controlplane.stage import Stage
from tests.controlplane.witness import Witness, job_of
from tests.testbed.faulty_proxy import Fault
from tests.testbed.kube_api import Object, wait_for

from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_operator.kinds import (
    COMPANIONS,
    CONFIG_MAP,
    JOB,
    JOB_LABEL,
    POD,
    ROLE,
    SERVICE_ACCOUNT,
    TRAINING_JOB,
    WATCHED,
    Kind,
)
from tunesmith_operator.training_job.children import child_name

RETRIED = (EXIT_CODES[Reason.STORE_UNREACHABLE], EXIT_CODES[Reason.INTERRUPTED], 137, 1)
JOBS = ("daisy", "rose", "tulip")
MOST_PAUSE = 0.6
TAKEN = (CONFIG_MAP, SERVICE_ACCOUNT)
"""Kinds of children of which somebody else may make one that needs no content."""
_LISTS = "|".join(kind.plural for kind in (TRAINING_JOB, *WATCHED))


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
SLOW_OF_JOBS = {
    "create one that goes soon": 1,
    "take a child's name": 1,
    "give the names back": 1,
    "allow no more Jobs": 1,
    "forbid Jobs by a policy": 1,
    "allow Jobs again": 2,
}
SLOW_OF_ALL = {
    "start one of another version": 1,
    "have no operator for a moment": 1,
    "take a verb away": 1,
    "give the verbs back": 1,
    "lose the node for a moment": 1,
    "be away": 1,
    "say that others wrote before": 1,
    "ask for patience": 1,
    "lose requests": 1,
    "answer too late": 1,
    "answer with old lists": 1,
    "close watches": 1,
    "say nothing to watches": 1,
    "tell watches late": 1,
    "tell watches in another order and twice": 1,
}
"""After these an operator waits before it looks again, up to a minute."""
NETWORK: dict[str, Fault] = {
    "be away": Fault(lose="request"),
    "refuse writes": Fault("POST|PATCH|DELETE", status=500, watch=False, times=10),
    "say that others wrote before": Fault("POST|PATCH", "(?<!leases)$", status=409, times=10),
    "ask for patience": Fault("POST|PATCH|GET", status=429, watch=False, times=10),
    "lose requests": Fault("POST|PATCH|DELETE", lose="request", times=6),
    "lose answers": Fault("POST|PATCH|DELETE", lose="answer", times=6),
    "answer late": Fault("GET|POST|PATCH", watch=False, delay=0.3, times=20),
    "answer too late": Fault("POST|PATCH", delay=12.0, times=1),
    "answer with old lists": Fault("GET", f"/({_LISTS})$", watch=False, stale=True, times=6),
    "close watches": Fault("GET", watch=True, lose="request", times=6),
    "end watches": Fault("GET", watch=True, status=410, times=6),
    "say nothing to watches": Fault("GET", watch=True, silence=True, times=2),
    "tell watches late": Fault("GET", watch=True, late=0.4),
    "tell watches in another order and twice": Fault("GET", watch=True, reorder=True),
}
"""What the API server, or what is before it, begins to do; until the next of these, or until it is mended."""
NO_JOBS = "tunesmith.dev/test-forbids-jobs"
"""A namespace with this label may have no more Jobs: a policy of the cluster's administrators says so."""
QUOTA = Kind("v1", "ResourceQuota", "resourcequotas")
CLUSTER_ROLE = Kind("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles")
OPERATOR_ROLE = "tunesmith-operator"


def schedule(seed: int, length: int, *, slow: bool) -> list[Step]:
    """The steps of a seed; those after which somebody waits for long only where they are wanted."""
    rng = random.Random(seed)
    of_jobs = {**OF_JOBS, **SLOW_OF_JOBS} if slow else OF_JOBS
    of_all = {**OF_ALL, **SLOW_OF_ALL} if slow else OF_ALL
    steps = [Step("create", job) for job in JOBS]
    while len(steps) < length:
        pause = rng.uniform(0, MOST_PAUSE)
        if rng.random() < 0.7:
            (what,) = rng.choices(list(of_jobs), list(of_jobs.values()))
            steps.append(Step(what, rng.choice(JOBS), pause))
        else:
            (what,) = rng.choices(list(of_all), list(of_all.values()))
            steps.append(Step(what, "", pause))
    return steps


def play_all(stage: Stage, plays: Sequence[Play]) -> dict[int, list[str]]:
    """Play schedules at once, and ask the oracles; what was wrong, by seed, nothing where all was well."""
    with contextlib.ExitStack() as stack:
        witness = Witness(stage.cluster)
        witness.start()
        stack.callback(witness.end)
        hands = stack.enter_context(ThreadPoolExecutor(len(plays)))
        stack.callback(stage.cluster.give_roles)
        stack.enter_context(policy(stage.cluster))
        stage.start()
        list(hands.map(lambda play: play.act(witness), plays))
        stage.proxy.faults = []
        stage.cluster.give_roles()
        if not any(one.runs for one in stage.operators):
            stage.free_lease()
            stage.start()
        patience = 90.0 + 4.0 * len(plays)
        not_over = list(hands.map(lambda play: play.converge(witness, patience), plays))
        left = nothing_left(stage.cluster, [play.namespace for play in plays], patience)
        return {
            play.seed: [*first, *witness.wrong[play.namespace], *left[play.namespace]]
            for play, first in zip(plays, not_over, strict=True)
        }


@contextlib.contextmanager
def policy(cluster: Cluster) -> Iterator[None]:
    """The policy that forbids Jobs in some namespaces."""
    rules = [{"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}]
    head = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": "no-jobs"}}
    constraints = {"namespaceSelector": {"matchLabels": {NO_JOBS: "true"}}, "resourceRules": rules}
    validations = [{"expression": "false", "message": "no Jobs today"}]
    items = [
        {
            **head,
            "kind": "ValidatingAdmissionPolicy",
            "spec": {"matchConstraints": constraints, "validations": validations},
        },
        {
            **head,
            "kind": "ValidatingAdmissionPolicyBinding",
            "spec": {"policyName": "no-jobs", "validationActions": ["Deny"]},
        },
    ]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    cluster.plane.kubectl("apply", "-f", "-", stdin=text)
    try:
        yield
    finally:
        cluster.plane.kubectl("delete", "-f", "-", stdin=text)


def nothing_left(cluster: Cluster, namespaces: Sequence[str], seconds: float) -> dict[str, list[str]]:
    """O6: after deletion nothing is left; what is, by namespace."""
    for job in cluster.api.list(TRAINING_JOB, ""):
        if job["metadata"]["namespace"] in namespaces:
            cluster.api.delete(TRAINING_JOB, job["metadata"]["namespace"], job["metadata"]["name"])

    def left() -> list[tuple[str, str]]:
        return [
            (one["metadata"]["namespace"], f"O6: left after deletion: {kind.name} {one['metadata']['name']}")
            for kind in (*COMPANIONS, JOB, POD)
            for one in cluster.api.list(kind, "", labelSelector=JOB_LABEL)
            if one["metadata"]["namespace"] in namespaces
        ]

    with contextlib.suppress(AssertionError):
        wait_for(lambda: not left(), "nothing left", seconds, 0.5)
    found: dict[str, list[str]] = {namespace: [] for namespace in namespaces}
    for namespace, what in left():
        found[namespace].append(what)
    return found


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

    @property
    def cluster(self) -> Cluster:
        return self.stage.cluster

    def act(self, witness: Witness) -> None:
        """Do the steps; in the end no job is suspended, and nothing of this namespace is in the way."""
        rng = random.Random(self.seed)
        for step in self.steps:
            with contextlib.suppress(httpx.HTTPStatusError):  # the object is gone, or over
                self._do(step, rng, witness)
            time.sleep(step.pause)
        self._give_names_back()
        self._allow_jobs()
        for job in self.cluster.api.list(TRAINING_JOB, self.namespace):
            self.cluster.change(self.namespace, job["metadata"]["name"], suspend=False)

    def _do(self, step: Step, rng: random.Random, witness: Witness) -> None:
        api, namespace, job = self.cluster.api, self.namespace, step.job
        child = child_name(job) if job else ""
        of_pods = "pod" in step.what
        pods = [one for one in self.cluster.pods(namespace, job) if _live(one)] if of_pods else []
        match step.what:
            case "create":
                self.cluster.submit(namespace, job, backoffLimit=50)
            case "create one that goes soon":
                self.cluster.submit(namespace, job, backoffLimit=50, ttlSecondsAfterFinished=1)
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
                    witness.wiped.add(current["metadata"]["uid"])
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
            case "take a child's name":
                kind = rng.choice(TAKEN)
                head = {"apiVersion": kind.api_version, "kind": kind.name}
                api.create(kind, {**head, "metadata": {"name": child, "namespace": namespace}})
            case "give the names back":
                self._give_names_back()
            case "allow no more Jobs":
                head = {"apiVersion": QUOTA.api_version, "kind": QUOTA.name}
                none = {"hard": {"count/jobs.batch": "0"}}
                api.create(
                    QUOTA, {**head, "metadata": {"name": "none", "namespace": namespace}, "spec": none}
                )
            case "forbid Jobs by a policy":
                api.merge(NAMESPACES, "", namespace, {"metadata": {"labels": {NO_JOBS: "true"}}})
            case "allow Jobs again":
                self._allow_jobs()
            case _ if self.conducts:
                self._do_to_all(step.what, rng)

    def _give_names_back(self) -> None:
        """Objects of others under our children's names go."""
        for kind in TAKEN:
            for one in self.cluster.api.list(kind, self.namespace):
                name = one["metadata"]["name"]
                if name in map(child_name, JOBS) and not one["metadata"].get("ownerReferences"):
                    self.cluster.api.delete(kind, self.namespace, name)

    def _allow_jobs(self) -> None:
        self.cluster.api.merge(NAMESPACES, "", self.namespace, {"metadata": {"labels": {NO_JOBS: None}}})
        self.cluster.api.delete(QUOTA, self.namespace, "none")

    def _do_to_all(self, what: str, rng: random.Random) -> None:
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
            case "start one of another version":
                for one in running:
                    one.stop()
                self.stage.start("--trainer-image", f"tunesmith/trainer:{rng.randrange(100)}")
            case "have no operator for a moment":
                for one in running:
                    one.kill()
                time.sleep(2)
                self.stage.free_lease()
                self.stage.start()
            case "take a verb away":
                role = self.cluster.api.get(CLUSTER_ROLE, "", OPERATOR_ROLE)
                assert role is not None
                verbs = rng.choice([one["verbs"] for one in role["rules"] if len(one["verbs"]) > 1])
                verbs.remove(rng.choice(verbs))
                self.cluster.api.merge(CLUSTER_ROLE, "", OPERATOR_ROLE, {"rules": role["rules"]})
            case "give the verbs back":
                self.cluster.give_roles()
            case "lose the node for a moment":
                self.cluster.kubelet.deaf = True
                time.sleep(2)
                self.cluster.kubelet.hear_again()
            case "cut all connections":
                self.stage.proxy.cut_all()
            case "mend the network":
                self.stage.proxy.faults = []
            case _:
                fault = Fault(**{**NETWORK[what].__dict__, "met": 0})
                fault.times *= 1 if fault.watch else self.crowd
                self.stage.proxy.faults = [fault]
                if fault.watch or fault.stale:
                    self.stage.proxy.cut_all()  # so that there are new watches and lists, which meet it

    def converge(self, witness: Witness, seconds: float) -> list[str]:
        """O3: every job comes to its end, and then nothing is written any more."""

        def not_over() -> list[Object]:
            return [job for job in self.cluster.api.list(TRAINING_JOB, self.namespace) if not is_over(job)]

        def all_over() -> bool:
            waiting = [
                job["metadata"]["name"]
                for job in witness.known(TRAINING_JOB, self.namespace)
                if not is_over(job)
            ]
            for pod in witness.known(POD, self.namespace):
                if job_of(pod) in waiting and _live(pod) and pod["status"]["phase"] == "Running":
                    with contextlib.suppress(httpx.HTTPStatusError):
                        self.cluster.kubelet.end(pod, 0)
            return not waiting and not not_over()

        try:
            wait_for(all_over, "every job is over", seconds, 0.2)
        except AssertionError as error:
            states = [
                f"{job['metadata']['name']}: {(job.get('status') or {}).get('conditions')}"
                for job in not_over()
            ]
            return [f"O3: {error}", *states]
        time.sleep(1)
        before = len(self._own_writes())
        time.sleep(3)
        after = self._own_writes()[before:]
        return [f"O3: written although all is over: {[str(one) for one in after]}"] if after else []

    def _own_writes(self) -> list[Any]:
        return [one for one in self.stage.proxy.writes if f"/{self.namespace}/" in one.path]


def _live(pod: Object) -> bool:
    return pod["status"].get("phase") in ("Pending", "Running") and not pod["metadata"].get(
        "deletionTimestamp"
    )


def is_over(job: Object) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Succeeded" and one["status"] in ("True", "False") for one in conditions)
