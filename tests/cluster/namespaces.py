"""A namespace, and what tests put into it."""

import contextlib
from dataclasses import dataclass
from typing import Any

from tests.testbed.kube_api import wait_for
from tests.testbed.kubectl import Kubectl, KubectlFailed
from tests.testbed.node.images import ERRAND

Object = dict[str, Any]
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@dataclass(frozen=True)
class Namespace:
    """One namespace of a cluster."""

    kubectl: Kubectl
    name: str

    @classmethod
    def create(cls, kubectl: Kubectl, name: str) -> "Namespace":
        kubectl.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}
        )
        namespace = cls(kubectl, name)
        wait_for(lambda: namespace.find("serviceaccount", "default"), f"{name} has its service account")
        return namespace

    def delete(self) -> None:
        self.kubectl("delete", "namespace", self.name, "--wait=false")

    def apply(self, *objects: Object) -> None:
        for one in objects:
            one["metadata"]["namespace"] = self.name
        self.kubectl.apply(*objects)

    def find(self, kind: str, name: str) -> Object | None:
        with contextlib.suppress(KubectlFailed):
            found: Object = self.kubectl.json("get", kind, name, "--namespace", self.name)
            return found
        return None

    def wait(self, kind: str, name: str, condition: str, seconds: int = 60) -> None:
        target = ("--namespace", self.name, f"--for=condition={condition}", f"{kind}/{name}")
        self.kubectl("wait", f"--timeout={seconds}s", *target)

    def logs(self, target: str) -> str:
        return self.kubectl("logs", "--namespace", self.name, target)

    def run_job(self, name: str, *arguments: str) -> str:
        """What a Job's pod prints that runs an errand to its end."""
        self.apply(job(name, *arguments))
        self.wait("job", name, "Complete")
        return self.logs(f"job/{name}")

    def container_state(self, pod: str, kind: str, seconds: float = 60) -> Object:
        """The state of a pod's container once it is `waiting` with a reason, `running` or `terminated`."""

        def look() -> Object | None:
            statuses = (self.find("pod", pod) or {}).get("status", {}).get("containerStatuses", [])
            state: Object | None = statuses[0]["state"].get(kind) if statuses else None
            return None if state and state.get("reason") == "ContainerCreating" else state

        return wait_for(look, f"the container of {pod} is {kind}", seconds)


def pod(name: str, *arguments: str, image: str = ERRAND, resources: Object | None = None) -> Object:
    """A pod that Pod Security "restricted" lets in."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": _pod_spec(arguments, image, resources or {}),
    }


def job(name: str, *arguments: str) -> Object:
    """A Job of one pod that is not tried again."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"spec": _pod_spec(arguments, ERRAND, {})}},
    }


def service(name: str, port: int) -> Object:
    """A Service on port 80 for the pods with the label `app: NAME`."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": port}]},
    }


def _pod_spec(arguments: tuple[str, ...], image: str, resources: Object) -> Object:
    confined = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    container = {
        "name": "errand",
        "image": image,
        "args": list(arguments),
        "resources": resources,
        "securityContext": confined,
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
