"""Installed as users do, by Helm and by kubectl, into an API server that has nothing of ours yet."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api_refusals import TRAINING_JOB as SMALLEST_JOB
from tests.testbed.control_plane import ControlPlane, binaries
from tests.testbed.go_commands import sources
from tests.testbed.installation import (
    CHART,
    MANIFESTS,
    NAMESPACE,
    RELEASE,
    Key,
    Refused,
    comparable,
    container,
    kustomized,
    rendered,
    run_helm,
    set_values,
)
from tests.testbed.kube_api import Api, Object, wait_for
from tests.testbed.operators import Operator

from tunesmith_operator.kinds import DEPLOYMENT, JOB, POD, TRAINING_JOB, Kind
from tunesmith_operator.training_job.children import child_name

CRD = Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions")
RUNTIME = Kind("serving.kserve.io/v1alpha1", "ClusterServingRuntime", "clusterservingruntimes")
RUNTIME_CRD = "clusterservingruntimes.serving.kserve.io"
RUNTIME_FILE = "serving.kserve.io_clusterservingruntimes.yaml"
CRDS = ("trainingjobs.tunesmith.dev", "modeldeployments.tunesmith.dev")
PATIENCE = 60.0
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@dataclass
class Site:
    """A control plane, and what an administrator does with it."""

    plane: ControlPlane
    api: Api
    home: Path

    def helm(self, *arguments: str) -> str:
        flags = ("--namespace", NAMESPACE)
        return run_helm(*arguments, *flags, home=self.home, kubeconfig=self.plane.kubeconfig)

    def install(self, values: dict[str, Any] | None = None, *flags: str) -> str:
        return self.helm("install", RELEASE, str(CHART), *set_values(values or {}), *flags)

    def namespace(self, name: str) -> None:
        body = {"metadata": {"name": name, "labels": RESTRICTED}}
        self.plane.kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Namespace"} | body)
        )

    def has_kserve(self) -> None:
        """Its kind of runtime; KServe's controller is not needed to store one."""
        folder = sources("kserve", "github.com/kserve/kserve") / "config" / "crd" / "full"
        self.plane.kubectl("apply", "--server-side", "-f", str(folder / RUNTIME_FILE))
        wait_for(
            lambda: "serving.kserve.io/v1alpha1" in self.plane.kubectl("api-versions"),
            "KServe's API is listed",
            PATIENCE,
        )

    def wait_served(self, kind: Kind) -> None:
        def served() -> bool:
            with contextlib.suppress(httpx.HTTPStatusError):
                self.api.read(kind.path(""))
                return True
            return False

        wait_for(served, f"{kind.plural} are served", PATIENCE)

    def stored(self, objects: dict[Key, Object]) -> dict[Key, Object]:
        """These objects as the server has them."""
        asked = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects.values())})
        found = json.loads(self.plane.kubectl("get", "-f", "-", "-o", "json", stdin=asked))["items"]
        return {
            (one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in found
        }

    def submit(self, namespace: str) -> Object:
        """A TrainingJob, once the server knows the kind."""
        body = {**SMALLEST_JOB, "metadata": {"name": "flowers", "namespace": namespace}}
        body["spec"] = body["spec"] | {
            "dataset": {"uri": "s3://datasets/flowers"},
            "store": {"uri": "s3://models"},
        }
        self.wait_served(TRAINING_JOB)
        return self.api.create(TRAINING_JOB, body)

    def clear(self) -> None:
        """Nothing of ours is left."""
        self.helm("uninstall", RELEASE, "--ignore-not-found")
        self.plane.kubectl("delete", "crd", *CRDS, RUNTIME_CRD, "--ignore-not-found")
        wait_for(
            lambda: "serving.kserve.io" not in self.plane.kubectl("api-versions"),
            "KServe's API is no longer listed",
            PATIENCE,
        )


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A control plane without anything of ours."""
    plane = ControlPlane(tmp_path_factory.mktemp("bare"), binaries())
    try:
        plane.start()
        api = Api(plane.kubeconfig)
        yield Site(plane, api, tmp_path_factory.mktemp("helm"))
        api.close()
    finally:
        plane.stop()


@pytest.fixture
def site(bare: Site) -> Iterator[Site]:
    """The same, with the namespace for the operator and nothing in it."""
    bare.namespace(NAMESPACE)
    yield bare
    bare.clear()


@pytest.fixture
def kubectl_site(site: Site) -> Iterator[Site]:
    """The same; what kubectl installs is removed even if Helm has not taken it over."""
    yield site
    site.plane.kubectl("delete", "--ignore-not-found", "-k", str(MANIFESTS / "install" / "training"))


def operator_of(site: Site, deployment: Object, folder: Path) -> Operator:
    """The operator as a pod of this Deployment would run it: its arguments, its account."""
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    token = site.plane.kubectl("create", "token", account, "-n", NAMESPACE).strip()
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    kubeconfig = site.plane.kubeconfig_of(f"{account}-{folder.name}", token)
    return Operator(kubeconfig, folder / "operator.log", tuple(arguments))


@pytest.mark.parametrize(
    "values",
    [{}, {"watchNamespaces": ["watched"]}],
    ids=["for all namespaces", "for a list of namespaces"],
)
def test_release_is_admitted_and_its_operator_takes_a_job_to_its_pod(
    site: Site, values: dict[str, Any], tmp_path: Path
) -> None:
    namespace = "watched" if values else "any"
    site.namespace(namespace)
    notes = site.install(values)
    assert "this cluster has no KServe" in notes
    objects = rendered(values)
    assert site.stored(objects).keys() == objects.keys()
    deployment = site.api.get(DEPLOYMENT, NAMESPACE, "tunesmith-operator")
    assert deployment is not None
    # The namespace enforces Pod Security "restricted": what does not meet it never becomes a pod.
    wait_for(lambda: len(site.api.list(POD, NAMESPACE)) == 2, "two pods of the operator", PATIENCE)
    operator = operator_of(site, deployment, tmp_path).start()
    try:
        site.submit(namespace)
        wait_for(lambda: site.api.list(POD, namespace), "a pod of the trainer", PATIENCE)
        assert operator.stop() == 0  # and gives its lease back
    finally:
        operator.kill()
    job = site.api.get(JOB, namespace, child_name("flowers"))
    assert job is not None
    (trainer,) = job["spec"]["template"]["spec"]["containers"]
    assert (trainer["image"], trainer["imagePullPolicy"]) == ("tunesmith/trainer:0.1.0", "IfNotPresent")
    assert f"--trainer-image={trainer['image']}" in container(objects)["args"]


def test_upgrade_finds_kserve_and_uninstalling_keeps_what_people_made(site: Site) -> None:
    site.namespace("vision")
    site.install()
    job = site.submit("vision")
    site.has_kserve()
    site.helm("upgrade", RELEASE, str(CHART), "--set", "operator.replicas=3")
    runtime = site.api.get(RUNTIME, "", "tunesmith")
    assert runtime is not None
    wanted = rendered({"serving.enabled": True})["ClusterServingRuntime", "", "tunesmith"]
    assert runtime["spec"] == wanted["spec"], "KServe's schema knows every field"
    upgraded = site.api.get(DEPLOYMENT, NAMESPACE, "tunesmith-operator")
    assert upgraded is not None
    assert upgraded["spec"]["replicas"] == 3

    site.helm("uninstall", RELEASE, "--wait")
    assert site.api.get(DEPLOYMENT, NAMESPACE, "tunesmith-operator") is None
    assert site.api.get(RUNTIME, "", "tunesmith") is None
    assert all(site.api.get(CRD, "", name) for name in CRDS)
    kept = site.api.get(TRAINING_JOB, "vision", "flowers")
    assert kept is not None
    assert kept["metadata"]["uid"] == job["metadata"]["uid"]

    site.install()
    again = site.api.get(TRAINING_JOB, "vision", "flowers")
    assert again == kept


def test_kubectl_installs_the_same_as_helm_and_helm_can_take_it_over(kubectl_site: Site) -> None:
    site = kubectl_site
    whole, training = str(MANIFESTS / "install"), kustomized(MANIFESTS / "install" / "training")
    with pytest.raises(AssertionError, match='no matches for kind "ClusterServingRuntime"'):
        site.plane.kubectl("apply", "--server-side", "-k", whole)
    assert site.stored(training).keys() == training.keys()
    site.has_kserve()
    said = site.plane.kubectl("apply", "--server-side", "-k", whole)
    objects = kustomized(MANIFESTS / "install")
    assert len(said.splitlines()) == len(objects)
    wait_for(lambda: len(site.api.list(POD, NAMESPACE)) == 2, "two pods of the operator", PATIENCE)
    by_kubectl = site.stored(objects)
    assert by_kubectl.keys() == objects.keys()
    site.plane.kubectl("apply", "--server-side", "-k", whole)
    assert specs(site.stored(objects)) == specs(by_kubectl)

    with pytest.raises(Refused, match="cannot be imported into the current release"):
        site.install()
    site.install({}, "--take-ownership", "--force-conflicts")
    by_helm = site.stored(objects)
    assert specs(by_helm) == specs(by_kubectl)
    assert by_helm["Deployment", NAMESPACE, "tunesmith-operator"]["metadata"]["labels"]["helm.sh/chart"]


def test_editors_of_a_namespace_may_write_both_resources_and_not_what_is_verified(site: Site) -> None:
    site.namespace("people")
    site.install()
    site.plane.kubectl("create", "rolebinding", "jane", "--clusterrole=edit", "--user=jane", "-n", "people")

    def may(verb: str, resource: str, subresource: str = "") -> bool:
        what = {"group": "tunesmith.dev", "resource": resource, "subresource": subresource}
        asked = {"namespace": "people", "verb": verb, **what}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        review = site.api.post(path, {"spec": {"user": "jane", "resourceAttributes": asked}})
        return bool(review["status"]["allowed"])

    for resource in ("trainingjobs", "modeldeployments"):
        wait_for(partial(may, "create", resource), f"an editor may create {resource}", PATIENCE)
        assert may("get", resource)
        assert not may("patch", resource, "status")


def specs(objects: dict[Key, Object]) -> dict[Key, Object]:
    return {key: comparable(one) for key, one in objects.items()}
