"""Watches what becomes of TrainingJobs and their pods, and writes down what must never be."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable

from tests.controlplane.cluster import Cluster
from tests.testbed.kube_api import Api, Object

from tunesmith_operator.kinds import JOB_LABEL, POD, TRAINING_JOB, Kind


class Witness:
    """Watches all pods and TrainingJobs, knows them as they are, and writes down what must never be."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.wrong: defaultdict[str, list[str]] = defaultdict(list)
        """By namespace."""
        self.wiped: set[str] = set()
        self._known: dict[Kind, dict[str, Object]] = {POD: {}, TRAINING_JOB: {}}
        self._final: dict[str, str] = {}
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        for kind, see in ((POD, self._see_pod), (TRAINING_JOB, self._see_job)):
            thread = threading.Thread(target=self._watch, args=(kind, see), daemon=True)
            thread.start()
            self._threads.append(thread)

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(10)

    def known(self, kind: Kind, namespace: str) -> list[Object]:
        """The pods or TrainingJobs of a namespace, as the watch has told of them."""
        everything = list(self._known[kind].values())
        return [one for one in everything if one["metadata"]["namespace"] == namespace]

    def _see_pod(self, pod: Object) -> None:
        namespace = pod["metadata"]["namespace"]
        job = job_of(pod)
        running = [
            one["metadata"]["name"]
            for one in self.known(POD, namespace)
            if job_of(one) == job and one["status"].get("phase") == "Running"
        ]
        if len(running) > 1:
            self.wrong[namespace].append(f"{job} has {len(running)} trainers at once: {sorted(running)}")

    def _see_job(self, job: Object) -> None:
        uid, name = job["metadata"]["uid"], job["metadata"]["name"]
        conditions = {one["type"]: one for one in (job.get("status") or {}).get("conditions") or ()}
        now = conditions.get("Succeeded", {}).get("status", "")
        before = self._final.get(uid, "")
        if before and now != before and (now or uid not in self.wiped):
            said = f"{name} was over ({before}) and is not any more ({now})"
            self.wrong[job["metadata"]["namespace"]].append(said)
        if now in ("True", "False"):
            self._final[uid] = now

    def _watch(self, kind: Kind, see: Callable[[Object], None]) -> None:
        api, path, known = Api(self.cluster.plane.kubeconfig), kind.path(""), self._known[kind]
        version = ""
        while not self._over.is_set():
            if not version:
                listed = api.read(path)
                version = listed["metadata"]["resourceVersion"]
                known.clear()
                for obj in listed["items"]:
                    known[obj["metadata"]["uid"]] = obj
                    see(obj)
            for change, obj in api.watch(path, resourceVersion=version, timeoutSeconds="5"):
                if change == "ERROR":  # the version is too old by now
                    version = ""
                    break
                version = obj["metadata"]["resourceVersion"]
                if change == "DELETED":
                    known.pop(obj["metadata"]["uid"], None)
                else:
                    known[obj["metadata"]["uid"]] = obj
                    see(obj)
        api.close()


def job_of(pod: Object) -> str:
    """The TrainingJob whose pod this is."""
    return str((pod["metadata"].get("labels") or {}).get(JOB_LABEL, ""))
