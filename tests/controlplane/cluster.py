"""A control plane with Tunesmith installed, and what tests do with it."""

import contextlib
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
from tests.api_refusals import TRAINING_JOB as SMALLEST_JOB
from tests.testbed.control_plane import ControlPlane
from tests.testbed.kube_api import Api, Object, wait_for
from tests.testbed.kubelet import Kubelet
from tests.testbed.operators import ACCOUNT, NAMESPACE, REPOSITORY, Operator

from tunesmith_operator.kinds import EVENT, JOB, LEASE, POD, TRAINING_JOB, Kind
from tunesmith_operator.training_job.children import child_name

NAMESPACES = Kind("v1", "Namespace", "namespaces")


class Cluster:
    """The administrator's hands, and a node."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.api = Api(plane.kubeconfig)
        self._watching = Api(plane.kubeconfig)
        self.kubelet = Kubelet(self.api, self._watching)

    def install(self) -> None:
        """As a user would: kubectl apply, CRDs and roles."""
        self.plane.kubectl("apply", "--server-side", "-f", str(REPOSITORY / "manifests" / "crds"))
        self.give_roles()
        self.plane.kubectl(
            "wait", "--for=condition=Established", "crd/trainingjobs.tunesmith.dev", "--timeout=30s"
        )
        wait_for(lambda: self._served(), "TrainingJobs are served")
        self.kubelet.start()

    def give_roles(self) -> None:
        """The operator's account and what it may do, as the manifests say."""
        for file in ("system", "cluster"):
            self.plane.kubectl("apply", "-f", str(REPOSITORY / "manifests" / "rbac" / f"{file}.yaml"))

    def _served(self) -> bool:
        with contextlib.suppress(httpx.HTTPStatusError):
            self.api.read(TRAINING_JOB.path(""))
            return True
        return False

    def close(self) -> None:
        self.kubelet.stop()
        self.api.close()
        self._watching.close()

    def operator(self, folder: Path, *flags: str) -> Operator:
        """An operator that is not started yet, with its service account's token and role."""
        token = self.plane.kubectl("create", "token", ACCOUNT, "-n", NAMESPACE, "--duration=8h").strip()
        kubeconfig = self.plane.kubeconfig_of(f"{ACCOUNT}-{folder.name}", token)
        return Operator(kubeconfig, folder / "operator.log", ("--log-format", "text", *flags))

    def forget_lease(self) -> None:
        """Let the next operator lead at once, although the last one was killed."""
        self.api.delete(LEASE, NAMESPACE, "tunesmith-operator")

    def create_namespace(self, name: str) -> None:
        self.api.post("/api/v1/namespaces", {"metadata": {"name": name}})
        path = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        # Its controller may have dozens of namespaces of other tests to take away.
        wait_for(lambda: _there(lambda: self.api.read(path)), f"the default service account of {name}", 60)

    def delete_namespace(self, name: str) -> None:
        self.api.delete(NAMESPACES, "", name)

    def submit(self, namespace: str, name: str = "flowers", **spec: Any) -> Object:
        """Create a TrainingJob; keyword arguments replace parts of its spec."""
        return self.api.create(TRAINING_JOB, self.job_document(namespace, name, **spec))

    def job_document(self, namespace: str, name: str, **spec: Any) -> Object:
        body = deepcopy(SMALLEST_JOB)
        body["metadata"] = {"name": name, "namespace": namespace}
        body["spec"] |= {"dataset": {"uri": "s3://datasets/flowers"}, "store": {"uri": "s3://models"}} | spec
        return body

    def change(self, namespace: str, name: str = "flowers", **spec: Any) -> Object:
        return self.api.merge(TRAINING_JOB, namespace, name, {"spec": spec})

    def job(self, namespace: str, name: str = "flowers") -> Object:
        found = self.api.get(TRAINING_JOB, namespace, name)
        assert found is not None
        return found

    def condition(self, namespace: str, kind: str, name: str = "flowers") -> Object:
        conditions = (self.job(namespace, name).get("status") or {}).get("conditions") or ()
        return next((one for one in conditions if one["type"] == kind), {})

    def batch_job(self, namespace: str, name: str = "flowers") -> Object | None:
        return self.api.get(JOB, namespace, child_name(name))

    def pods(self, namespace: str, name: str = "flowers") -> list[Object]:
        return self.api.list(POD, namespace, labelSelector=f"tunesmith.dev/training-job={name}")

    def wait_for_pod(
        self, namespace: str, phase: str = "Running", name: str = "flowers", seconds: float = 20
    ) -> Object:
        """The newest pod of the job, once it is in a phase."""

        def look() -> Object | None:
            pods = self.pods(namespace, name)
            newest = max(pods, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)
            return newest if newest and newest["status"]["phase"] == phase else None

        return wait_for(look, f"a pod of {name} that is {phase}", seconds)

    def wait_for_condition(
        self, namespace: str, kind: str, *, name: str = "flowers", seconds: float = 20, **fields: str
    ) -> Object:
        """A condition with these fields: `status`, `reason`."""

        def look() -> Object | None:
            found = self.condition(namespace, kind, name)
            return found if found and all(found[key] == value for key, value in fields.items()) else None

        return wait_for(look, f"{kind} of {name} with {fields}", seconds)

    def events(self, namespace: str, name: str = "flowers") -> list[Object]:
        selector = f"involvedObject.kind=TrainingJob,involvedObject.name={name}"
        return self.api.list(EVENT, namespace, fieldSelector=selector)


def _there(look: Callable[[], Object]) -> bool:
    with contextlib.suppress(httpx.HTTPStatusError):
        look()
        return True
    return False
