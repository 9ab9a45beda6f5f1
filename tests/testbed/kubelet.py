"""A node for tests without a kubelet: it binds pods to itself and moves them through phases.

A pod starts as soon as it is there and runs until the test ends it. A test can hold pods back (`hold`) and
say itself what becomes of them: waiting for an image, out of memory, evicted, unschedulable. A pod that is
to be deleted ends with the trainer's code for "interrupted" and goes, as a real one would. What a container
writes to its log (`say`) is served to the API server, as `kubectl logs` needs it.
"""

import contextlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
from tests.testbed.kube_api import Api, Object
from tests.testbed.pod_logs import PodLogs

from tunesmith_operator.kinds import LEASE, POD, Kind

NODE = "testbed"
NODE_KIND = Kind("v1", "Node", "nodes")
INTERRUPTED = 75
HEARTBEAT_SECONDS = 10.0
WATCH_SECONDS = 5
"""After so long a watch begins anew from where it was; `stop` waits for its end."""


class Kubelet:
    """One node; `start` and `stop` it. All methods may be called from any thread."""

    def __init__(self, api: Api, watcher: Api) -> None:
        self._api, self._watcher = api, watcher
        self.hold: Callable[[Object], bool] = lambda pod: False
        """Pods of which this is true are bound to no node and left to the test."""
        self.address: Callable[[Object], str] = lambda pod: ""
        """The address that a pod gets when it runs; none when empty."""
        self.deaf = False
        """A node that is lost: pods that are to be deleted stay, and nobody hears of it."""
        self._logs = PodLogs()
        self._port = 0
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def join(self) -> None:
        """Say that the node is there."""
        with contextlib.suppress(httpx.HTTPStatusError):
            self._api.post("/api/v1/nodes", {"metadata": {"name": NODE}})
        self._beat()

    def hear_again(self) -> None:
        """End being deaf, and see to what happened meanwhile."""
        self.deaf = False
        self._list()

    def start(self) -> None:
        self._port = self._logs.start()
        self.join()
        for run in (self._watch, self._heartbeats):
            thread = threading.Thread(target=run, name=f"kubelet-{run.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WATCH_SECONDS + 5)
        self._logs.stop()

    def say(self, pod: Object, line: str) -> None:
        """Have the trainer's container write a line to its log."""
        self._logs.say(_place(pod), line)

    def run(self, pod: Object) -> None:
        """Have a pod run."""
        namespace, name = _place(pod)
        if not pod["spec"].get("nodeName"):
            self._api.post(
                f"{POD.path(namespace, name)}/binding",
                {"metadata": {"name": name}, "target": {"kind": "Node", "name": NODE}},
            )
        where = {"podIP": address, "podIPs": [{"ip": address}]} if (address := self.address(pod)) else {}
        self._status(pod, "Running", {"running": {"startedAt": _now()}}, startTime=_now(), **where)

    def end(self, pod: Object, code: int = 0, message: str = "", reason: str = "") -> None:
        """Have the trainer's container end with an exit code and its last words."""
        ended = {
            "exitCode": code,
            "reason": reason or ("Completed" if code == 0 else "Error"),
            "message": message,
            "startedAt": _now(),
            "finishedAt": _now(),
        }
        self._logs.end(_place(pod))
        self._status(pod, "Failed" if code else "Succeeded", {"terminated": ended})

    def wait_in(self, pod: Object, reason: str, message: str) -> None:
        """Have the container wait, as for an image or a Secret."""
        self._status(pod, "Pending", {"waiting": {"reason": reason, "message": message}}, startTime=_now())

    def fail_before(self, pod: Object, code: int, message: str) -> None:
        """Have the first init container end with an exit code and its last words, and wait to begin again."""
        ended = {"exitCode": code, "reason": "Error", "message": message, "finishedAt": _now()}
        container = pod["spec"]["initContainers"][0]
        status = {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": False,
            "restartCount": 1,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
            "lastState": {"terminated": ended},
        }
        changes = {"phase": "Pending", "initContainerStatuses": [status]}
        self._api.merge(POD, *_place(pod), {"status": changes}, "status")

    def unschedulable(self, pod: Object, message: str) -> None:
        """Say of a pod what the scheduler says when no node takes it."""
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": _now(),
        }
        self._api.merge(POD, *_place(pod), {"status": {"conditions": [condition]}}, "status")

    def evict(self, pod: Object, message: str) -> None:
        """Have the node push the pod out."""
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "TerminationByKubelet",
            "message": message,
            "lastTransitionTime": _now(),
        }
        self._api.merge(
            POD,
            *_place(pod),
            {
                "status": {
                    "phase": "Failed",
                    "reason": "Evicted",
                    "message": message,
                    "conditions": [condition],
                }
            },
            "status",
        )

    def _status(self, pod: Object, phase: str, state: Object, **fields: Any) -> None:
        container = pod["spec"]["containers"][0]
        status = {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": phase == "Running",
            "restartCount": 0,
            "state": state,
        }
        ready = {"type": "Ready", "status": str(phase == "Running"), "lastTransitionTime": _now()}
        body = {"phase": phase, "containerStatuses": [status], "conditions": [ready], **fields}
        self._api.merge(POD, *_place(pod), {"status": body}, "status")

    def _watch(self) -> None:
        version = ""
        while not self._stop.is_set():
            try:
                version = self._watch_from(version or self._list())
            except (httpx.HTTPError, OSError):
                version = ""
                self._stop.wait(0.2)

    def _list(self) -> str:
        listed = self._watcher.read(POD.path(""))
        for pod in listed["items"]:
            self._see(pod)
        return str(listed["metadata"]["resourceVersion"])

    def _watch_from(self, version: str) -> str:
        """See to what happens for some seconds; returns the last version, or nothing when it is too old."""
        events = self._watcher.watch(POD.path(""), resourceVersion=version, timeoutSeconds=str(WATCH_SECONDS))
        for change, pod in events:
            if change == "ERROR":
                return ""
            version = pod["metadata"]["resourceVersion"]
            if change != "DELETED":
                self._see(pod)
        return version

    def _see(self, pod: Object) -> None:
        """Do with a pod what a node would; a change that came too late is not ours to make."""
        try:
            if pod["metadata"].get("deletionTimestamp"):
                if not self.deaf:
                    self._take_away(pod)
            elif not pod["spec"].get("nodeName") and not self.hold(pod):
                self.run(pod)
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in (404, 409, 422):
                raise

    def _take_away(self, pod: Object) -> None:
        if (pod.get("status") or {}).get("phase") == "Running":
            self.end(pod, INTERRUPTED)
        self._api.delete(POD, *_place(pod), gracePeriodSeconds=0)

    def _heartbeats(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            if self.deaf:
                continue
            with contextlib.suppress(httpx.HTTPError, OSError):
                self._beat()

    def _beat(self) -> None:
        """Keep the node ready: its condition once, its lease again and again."""
        condition = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": _now()}
        status = {
            "conditions": [condition],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._port}},
        }
        self._api.merge(NODE_KIND, "", NODE, {"status": status}, "status")
        metadata = {"name": NODE, "namespace": "kube-node-lease"}
        lease = {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.name,
            "metadata": metadata,
            "spec": {
                "holderIdentity": NODE,
                "leaseDurationSeconds": 40,
                "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            },
        }
        with contextlib.suppress(httpx.HTTPStatusError):  # The namespace is made a moment after the start.
            self._api.apply(LEASE, lease, "kubelet", force=True)


def _place(pod: Object) -> tuple[str, str]:
    return pod["metadata"]["namespace"], pod["metadata"]["name"]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
