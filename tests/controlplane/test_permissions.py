"""What the operator and the authors of jobs may do: the least that works (see also `test_verbs.py`)."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.api_refusals import MODEL_DEPLOYMENT as SMALLEST_DEPLOYMENT
from tests.controlplane.cluster import Cluster
from tests.testbed.kube_api import Api, Object, wait_for
from tests.testbed.operators import REPOSITORY

from tunesmith_operator.kinds import MODEL_DEPLOYMENT, TRAINING_JOB, Kind

RBAC = REPOSITORY / "manifests" / "rbac"
BINDINGS = Kind("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings")


def rules_of(file: str, kind: str) -> list[Object]:
    documents = yaml.safe_load_all((RBAC / file).read_text())
    (role,) = [one for one in documents if one["kind"] == kind]
    rules: list[Object] = role["rules"]
    return rules


def test_both_role_files_grant_the_same() -> None:
    assert rules_of("cluster.yaml", "ClusterRole") == rules_of("namespace.yaml", "Role")


def test_no_rule_names_secrets_or_everything() -> None:
    for rule in rules_of("cluster.yaml", "ClusterRole"):
        assert "secrets" not in rule["resources"]
        assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]


def test_operator_with_roles_in_one_namespace_sees_to_it_and_to_no_other(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    binding = cluster.api.get(BINDINGS, "", "tunesmith-operator")
    assert binding is not None
    other = f"{namespace}-other"
    cluster.create_namespace(other)
    cluster.plane.kubectl("apply", "-n", namespace, "-f", str(RBAC / "namespace.yaml"))
    cluster.api.delete(BINDINGS, "", "tunesmith-operator")
    operator = cluster.operator(tmp_path, "--namespace", namespace).start()
    try:
        cluster.submit(other)
        cluster.submit(namespace)
        assert cluster.wait_for_pod(namespace)
        assert cluster.batch_job(other) is None
    finally:
        operator.kill()
        cluster.forget_lease()
        cluster.plane.kubectl("apply", "-f", str(RBAC / "cluster.yaml"))
        cluster.delete_namespace(other)


OWN = ("own", *(f"own-{number}" for number in range(1, 10)))
"""Secrets that an author may read."""


@pytest.fixture
def author(cluster: Cluster, namespace: str) -> Iterator[Api]:
    """Somebody who may create TrainingJobs and read Secrets of their own, but not `others`."""
    cluster.plane.kubectl("apply", "-f", str(REPOSITORY / "manifests" / "admission"))
    cluster.plane.kubectl("create", "serviceaccount", "author", "-n", namespace)
    make = ("create", "role", "author", "-n", namespace)
    resources = ("--resource=trainingjobs.tunesmith.dev", "--resource=modeldeployments.tunesmith.dev")
    cluster.plane.kubectl(*make, "--verb=create,patch,get", *resources)
    read = ("create", "role", "reader", "-n", namespace, "--verb=get", "--resource=secrets")
    cluster.plane.kubectl(*read, *(f"--resource-name={name}" for name in OWN))
    for role in ("author", "reader"):
        cluster.plane.kubectl(
            *("create", "rolebinding", role, "-n", namespace, f"--role={role}"),
            f"--serviceaccount={namespace}:author",
        )
    token = cluster.plane.kubectl("create", "token", "author", "-n", namespace).strip()
    api = Api(cluster.plane.kubeconfig_of(f"author-{namespace}", token))
    yield api
    api.close()
    cluster.plane.kubectl("delete", "-f", str(REPOSITORY / "manifests" / "admission"))


def naming(cluster: Cluster, namespace: str, secret: str, where: str) -> Object:
    """A job whose spec names a Secret somewhere."""
    specs: dict[str, dict[str, Any]] = {
        "store": {"store": {"uri": "s3://models", "secretRef": {"name": secret}}},
        "dataset": {"dataset": {"uri": "s3://datasets/flowers", "secretRef": {"name": secret}}},
        "backbones": {
            "backbones": [
                {
                    "name": "resnet50",
                    "weightsUri": "s3://weights/resnet50.safetensors",
                    "weightsSecretRef": {"name": secret},
                }
            ]
        },
    }
    return cluster.job_document(namespace, f"{where}-{secret}", **specs[where])


@pytest.mark.parametrize("where", ["store", "dataset", "backbones"])
def test_secret_that_the_author_may_not_read_may_not_be_named(
    cluster: Cluster, namespace: str, author: Api, where: str
) -> None:
    def refused() -> str:
        try:
            author.create(TRAINING_JOB, naming(cluster, namespace, "others", where))
        except httpx.HTTPStatusError as error:
            return error.response.json()["message"]  # type: ignore[no-any-return]
        author_made = f"{where}-others"
        cluster.api.delete(TRAINING_JOB, namespace, author_made)
        return ""  # the policy takes a moment to be in force

    message = wait_for(refused, "a refusal")
    assert "a spec may only name Secrets that its author may read, and this one names others" in message
    author.create(TRAINING_JOB, naming(cluster, namespace, "own", where))


def test_refusal_names_each_secret_once(cluster: Cluster, namespace: str, author: Api) -> None:
    body = naming(cluster, namespace, "others", "store")
    body["spec"]["dataset"] = {"uri": "s3://datasets/flowers", "secretRef": {"name": "others"}}

    def refused() -> str:
        try:
            author.create(TRAINING_JOB, body)
        except httpx.HTTPStatusError as error:
            return error.response.text
        cluster.api.delete(TRAINING_JOB, namespace, body["metadata"]["name"])
        return ""

    assert "this one names others: have" in wait_for(refused, "a refusal")


def test_author_who_may_read_them_all_may_name_as_many_secrets_as_a_spec_holds(
    cluster: Cluster, namespace: str, author: Api
) -> None:
    backbone = {"weightsUri": "s3://w/r.safetensors"}
    names = ("resnet18", "resnet34", "resnet50", "resnet101", "vgg11", "vgg13", "vgg16", "mobilenet_v2")
    body = cluster.job_document(
        namespace,
        "many",
        dataset={"uri": "s3://datasets/flowers", "secretRef": {"name": OWN[0]}},
        store={"uri": "s3://models", "secretRef": {"name": OWN[1]}},
        backbones=[
            {**backbone, "name": name, "weightsSecretRef": {"name": secret}}
            for name, secret in zip(names, OWN[2:], strict=True)
        ],
    )
    author.create(TRAINING_JOB, body)
    body = deepcopy(body)
    body["metadata"]["name"] = "one-too-many"
    body["spec"]["backbones"][7]["weightsSecretRef"] = {"name": "others"}

    def refused() -> str:
        try:
            author.create(TRAINING_JOB, body)
        except httpx.HTTPStatusError as error:
            return error.response.text
        cluster.api.delete(TRAINING_JOB, namespace, "one-too-many")
        return ""

    listed = ", ".join((*OWN[:9], "others"))
    assert f"this one names {listed}: have" in wait_for(refused, "the last of ten is asked for too")


def test_deployment_may_only_name_a_secret_that_its_author_may_read(
    cluster: Cluster, namespace: str, author: Api
) -> None:
    body = deepcopy(SMALLEST_DEPLOYMENT)
    body["metadata"] = {"name": "flowers", "namespace": namespace}
    digest = f"sha256:{'0' * 64}"
    body["spec"] = {"model": {"uri": "s3://models/a", "digest": digest, "secretRef": {"name": "others"}}}

    def refused() -> bool:
        try:
            author.create(MODEL_DEPLOYMENT, body)
        except httpx.HTTPStatusError as error:
            return "this one names others" in error.response.text
        cluster.api.delete(MODEL_DEPLOYMENT, namespace, "flowers")
        return False

    wait_for(refused, "a refusal")
    body["spec"]["model"]["secretRef"]["name"] = "own"
    author.create(MODEL_DEPLOYMENT, body)


def test_change_that_names_no_new_secret_is_not_asked_about(
    cluster: Cluster, namespace: str, author: Api
) -> None:
    document = naming(cluster, namespace, "others", "store")
    cluster.api.create(TRAINING_JOB, document)
    name = document["metadata"]["name"]
    changed = author.merge(TRAINING_JOB, namespace, name, {"metadata": {"labels": {"team": "vision"}}})
    assert changed["metadata"]["labels"] == {"team": "vision"}
