"""Every verb of the operator's roles: each is used, and without it the operator says which one it lacks.

One operator lives through everything that it has verbs for, behind a proxy that writes down what it asks.
Then verbs are taken away, one or a kind of them at a time, and what the operator says is read: in the status,
or in its log where no status can tell.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.controlplane import several
from tests.controlplane.cluster import Cluster
from tests.controlplane.stage import stage_of
from tests.testbed.faulty_proxy import Request
from tests.testbed.kube_api import Object, wait_for
from tests.testbed.operators import ACCOUNT, NAMESPACE, REPOSITORY, Operator

from tunesmith_operator.kinds import (
    COMPANIONS,
    GATEWAY,
    JOB,
    RAY_JOB,
    RESOURCES,
    ROLE,
    TRAINING_JOB,
    WATCHED,
    Kind,
)
from tunesmith_operator.training_job.children import child_name

Verb = tuple[str, str]
"""A resource (`pods`, `trainingjobs/status`) and what may be done with it."""

CHILD = child_name("flowers")
LEASE_ROLE = f"{ACCOUNT}-lease"
METHODS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
FOREIGN: dict[str, Object] = {
    "RoleBinding": {
        "roleRef": {"apiGroup": ROLE.group, "kind": "ClusterRole", "name": "view"},
        "subjects": [],
    },
    "NetworkPolicy": {"spec": {"podSelector": {}}},
    "Job": {
        "spec": {
            "suspend": True,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}},
        }
    },
}
DAMAGED: dict[str, Object] = {
    "configmaps": {"data": {"spec.json": "{}"}},
    "serviceaccounts": {"automountServiceAccountToken": True},
    "roles": {"rules": []},
    "rolebindings": {"subjects": []},
    "networkpolicies": {"spec": {"podSelector": None}},
}


SERVING = {
    *("modeldeployments", "modeldeployments/status", "inferenceservices", "httproutes", "gateways"),
    *("deployments", "services"),
}
"""Resources that only ModelDeployments need: test_serving_verbs.py."""


@pytest.fixture(scope="module", autouse=True)
def ray_jobs(cluster: Cluster) -> Iterator[None]:
    """RayJobs can be created while this module's tests run."""
    with several.served(cluster):
        yield


def granted() -> set[Verb]:
    """What the manifests allow for TrainingJobs, apart from the lease."""
    return {verb for verb in granted_in_all() if verb[0] not in SERVING}


def granted_in_all() -> set[Verb]:
    """What the manifests allow, apart from the lease."""
    documents = [*yaml.safe_load_all((REPOSITORY / "manifests" / "rbac" / "cluster.yaml").read_text())]
    (role,) = [one for one in documents if one["kind"] == "ClusterRole"]
    return {
        (resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]
    }


def granted_for_the_lease() -> set[Verb]:
    documents = [*yaml.safe_load_all((REPOSITORY / "manifests" / "rbac" / "system.yaml").read_text())]
    (role,) = [one for one in documents if one["kind"] == "Role"]
    return {
        (resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]
    }


def verb_of(request: Request) -> Verb | None:
    """What RBAC calls a request; None for what everybody may ask, like which API groups there are."""
    parts = request.path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        parts = parts[2:]
    if not parts:
        return None
    resource, named = "/".join([parts[0], *parts[2:]]), len(parts) > 1
    if request.method == "GET":
        return resource, "watch" if request.watches else "get" if named else "list"
    return resource, METHODS[request.method]


def obstruct(cluster: Cluster, namespace: str, kind: Kind, name: str = "flowers") -> None:
    """Have somebody else's object where a job will want its own."""
    cluster.api.create(
        kind,
        {
            "apiVersion": kind.api_version,
            "kind": kind.name,
            "metadata": {"name": child_name(name), "namespace": namespace},
            **FOREIGN.get(kind.name, {}),
        },
    )


def damage(cluster: Cluster, namespace: str, kind: Kind) -> Callable[[], bool]:
    """Change a companion; tells whether it is as it was."""
    whole = cluster.api.get(kind, namespace, CHILD)
    assert whole is not None

    def like_before(found: Object | None) -> bool:
        return found is not None and all(
            found.get(field) == whole.get(field) for field in DAMAGED[kind.plural]
        )

    assert not like_before(cluster.api.merge(kind, namespace, CHILD, DAMAGED[kind.plural])), kind
    return lambda: like_before(cluster.api.get(kind, namespace, CHILD))


def no_room(cluster: Cluster, namespace: str) -> None:
    quota = ("create", "quota", "none", "-n", namespace, "--hard=pods=0")
    cluster.plane.kubectl(*quota)
    path = f"/api/v1/namespaces/{namespace}/resourcequotas/none"
    wait_for(lambda: "hard" in cluster.api.read(path).get("status", {}), "the quota is in force")


def test_no_verb_is_unused_and_none_is_lacking(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    stage = stage_of(cluster, tmp_path)
    cluster.forget_lease()
    try:
        operator = stage.start()
        operator.port()
        for kind in (*COMPANIONS, JOB):
            obstruct(cluster, namespace, kind, f"no-{kind.plural}")
            cluster.submit(namespace, f"no-{kind.plural}")
        cluster.submit(namespace)
        cluster.wait_for_pod(namespace)
        for kind in COMPANIONS:
            wait_for(damage(cluster, namespace, kind), f"the {kind.name} as it was")
        cluster.change(namespace, suspend=True)
        wait_for(lambda: not cluster.pods(namespace), "no pod")
        cluster.change(namespace, compute={"cpu": "2"})
        wait_for(lambda: cluster.batch_job(namespace) is None, "the Job is replaced")
        several.becomes_larger_while_suspended(cluster, namespace)
        wait_for(lambda: several.ray_job(cluster, namespace) is None, "the RayJob is replaced")
        no_room(cluster, namespace)
        cluster.submit(namespace, "refused")
        cluster.wait_for_condition(namespace, "Succeeded", name="refused", reason="QuotaExceeded")
        for kind in (*COMPANIONS, JOB):
            cluster.wait_for_condition(
                namespace, "Admitted", name=f"no-{kind.plural}", reason="NameConflict", seconds=40
            )
        used = {verb for one in stage.proxy.seen if (verb := verb_of(one)) is not None}
    finally:
        stage.end()
    assert {verb for verb in used if verb[0] not in SERVING} == granted() | granted_for_the_lease()


# Without a verb


@contextmanager
def without(cluster: Cluster, *verbs: Verb) -> Iterator[None]:
    """Take verbs away from the operator, and give them back."""
    role = Kind(ROLE.api_version, "ClusterRole", "clusterroles")
    whole = cluster.api.get(role, "", ACCOUNT)
    assert whole is not None
    rules = [
        {**rule, "resources": [resource], "verbs": left}
        for rule in whole["rules"]
        for resource in rule["resources"]
        if (left := [verb for verb in rule["verbs"] if (resource, verb) not in verbs])
    ]
    cluster.api.merge(role, "", ACCOUNT, {"rules": rules})
    try:
        wait_for(lambda: not any(may(cluster, *verb) for verb in verbs), "it may not")
        yield
    finally:
        cluster.api.merge(role, "", ACCOUNT, {"rules": whole["rules"]})
        wait_for(lambda: all(may(cluster, *verb) for verb in verbs), "it may again")


def may(cluster: Cluster, resource: str, verb: str, namespace: str = "") -> bool:
    """Whether the API server's authorizer would let the operator."""
    plural, _, subresource = resource.partition("/")
    kinds = {kind.plural: kind for kind in (*RESOURCES, *WATCHED, GATEWAY, RAY_JOB)}
    group = kinds[plural].group if plural in kinds else "coordination.k8s.io" if plural == "leases" else ""
    asked = {"verb": verb, "group": group, "resource": plural, "subresource": subresource}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}",
            "resourceAttributes": asked | ({"namespace": namespace} if namespace else {}),
        },
    }
    answer = cluster.api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def says(cluster: Cluster, namespace: str, operator: Operator, verb: Verb) -> str:
    """Where the operator names the verb that it lacks in this namespace: `status`, `log`, or nowhere."""
    sentence = f'cannot {verb[1]} resource "{verb[0]}"'
    grant = f'Resources:["{verb[0]}"]', f'Verbs:["{verb[1]}"]'  # what it grants to trainers, it must have
    for job in cluster.api.list(TRAINING_JOB, namespace):
        for condition in (job.get("status") or {}).get("conditions") or ():
            said = condition["message"]
            named = sentence in said or all(words in said for words in grant)
            if named and "apply the roles of this version" in said:
                return "status"
    lines = operator.log.splitlines()
    return "log" if any(sentence in line and f'namespace "{namespace}"' in line for line in lines) else ""


def submits(cluster: Cluster, namespace: str) -> None:
    cluster.submit(namespace)


def meets_a_stranger(kind: Kind) -> Callable[[Cluster, str], None]:
    def act(cluster: Cluster, namespace: str) -> None:
        obstruct(cluster, namespace, kind)
        cluster.submit(namespace)

    return act


def is_damaged(kind: Kind) -> Callable[[Cluster, str], None]:
    def act(cluster: Cluster, namespace: str) -> None:
        damage(cluster, namespace, kind)

    return act


def suspends(cluster: Cluster, namespace: str) -> None:
    cluster.change(namespace, suspend=True)


def changes_compute(cluster: Cluster, namespace: str) -> None:
    cluster.change(namespace, compute={"cpu": "2"})


def has_no_room(cluster: Cluster, namespace: str) -> None:
    no_room(cluster, namespace)
    cluster.submit(namespace)


def nothing(cluster: Cluster, namespace: str) -> None:
    """Before the verb is taken away."""


def runs(cluster: Cluster, namespace: str) -> None:
    cluster.submit(namespace)
    cluster.wait_for_condition(namespace, "Succeeded", reason="Running")


def is_suspended(cluster: Cluster, namespace: str) -> None:
    runs(cluster, namespace)
    cluster.change(namespace, suspend=True)
    wait_for(lambda: not cluster.pods(namespace), "no pod")


Act = Callable[[Cluster, str], None]
LACKING: dict[Verb, tuple[Act, Act, str]] = {
    **{(kind.plural, "create"): (nothing, submits, "status") for kind in (*COMPANIONS, JOB)},
    **{(kind.plural, "get"): (nothing, meets_a_stranger(kind), "status") for kind in (*COMPANIONS, JOB)},
    **{(kind.plural, "patch"): (runs, is_damaged(kind), "status") for kind in COMPANIONS},
    (JOB.plural, "patch"): (runs, suspends, "status"),
    (JOB.plural, "delete"): (is_suspended, changes_compute, "status"),
    (RAY_JOB.plural, "create"): (nothing, several.submits_several, "status"),
    (RAY_JOB.plural, "get"): (nothing, several.submits_several, "log"),
    (RAY_JOB.plural, "patch"): (several.has_a_ray_job, several.suspends_several, "status"),
    (RAY_JOB.plural, "delete"): (several.has_a_suspended_ray_job, several.becomes_larger, "status"),
    (TRAINING_JOB.plural, "get"): (nothing, submits, "status"),
    ("trainingjobs/status", "patch"): (nothing, submits, "log"),
    ("events", "create"): (nothing, submits, "log"),
    ("events", "list"): (nothing, has_no_room, "log"),
}
"""Per verb: what a job does before it is taken away, what afterwards, and where the operator says so."""
AT_THE_START = {
    (kind.plural, verb) for kind in (TRAINING_JOB, *COMPANIONS, JOB) for verb in ("list", "watch")
} | {
    ("pods", "list"),
    ("pods", "watch"),
}


def test_tables_below_hold_every_verb() -> None:
    assert set(LACKING) | AT_THE_START == granted()


@pytest.mark.parametrize("what", ["list", "watch"])
def test_operator_that_starts_without_a_verb_for_its_watches_names_each_and_begins_when_it_may(
    cluster: Cluster, namespace: str, tmp_path: Path, what: str
) -> None:
    lacking = [verb for verb in sorted(AT_THE_START) if verb[1] == what and verb[0] != TRAINING_JOB.plural]
    cluster.forget_lease()
    starting = cluster.operator(tmp_path)
    try:
        with without(cluster, *lacking):
            starting.start()
            words = [f'cannot {what} resource "{resource}"' for resource, _ in lacking]
            wait_for(lambda: all(one in starting.log for one in words), f"a word about each of {lacking}", 30)
            cluster.submit(namespace)
        cluster.wait_for_condition(namespace, "Succeeded", reason="Running", seconds=60)
    finally:
        starting.kill()
        cluster.forget_lease()


def test_operator_that_may_not_list_trainingjobs_ends_and_says_what_to_do(
    cluster: Cluster, tmp_path: Path
) -> None:
    starting = cluster.operator(tmp_path)
    with without(cluster, (TRAINING_JOB.plural, "list")):
        starting.start()
        assert starting.process is not None
        assert starting.process.wait(30) != 0
    assert 'cannot list resource "trainingjobs"' in starting.log
    assert "Apply the operator's roles" in starting.log


def test_operator_that_may_not_watch_trainingjobs_says_so_and_begins_when_it_may(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    starting = cluster.operator(tmp_path)
    try:
        with without(cluster, (TRAINING_JOB.plural, "watch")):
            starting.start()
            words = 'cannot watch resource "trainingjobs"'
            wait_for(lambda: words in starting.log, words, 30)
            cluster.submit(namespace)
        cluster.wait_for_condition(namespace, "Succeeded", reason="Running", seconds=60)
    finally:
        starting.kill()
        cluster.forget_lease()


def test_verb_that_is_given_back_lets_the_job_begin(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    cluster.forget_lease()
    starting = cluster.operator(tmp_path).start()
    try:
        with without(cluster, (JOB.plural, "create")):
            cluster.submit(namespace)
            cluster.wait_for_condition(namespace, "Admitted", status="False", reason="PermissionMissing")
        cluster.wait_for_condition(namespace, "Succeeded", reason="Running", seconds=45)
        assert cluster.condition(namespace, "Admitted")["status"] == "True"
    finally:
        starting.kill()
        cluster.forget_lease()


@pytest.mark.parametrize("verb", ["get", "create", "update"])
def test_lease_that_cannot_be_kept_is_named_in_the_log(cluster: Cluster, tmp_path: Path, verb: str) -> None:
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles/{LEASE_ROLE}"
    whole: Any = cluster.api.read(path)
    (rule,) = whole["rules"]
    verbs = [one for one in rule["verbs"] if one != verb]
    cluster.api.merge(ROLE, NAMESPACE, LEASE_ROLE, {"rules": [{**rule, "verbs": verbs}]})
    starting = cluster.operator(tmp_path)
    try:
        wait_for(lambda: not may(cluster, "leases", verb, NAMESPACE), "it may not")
        cluster.forget_lease()
        starting.start()
        words = f'cannot {verb} resource "leases"'
        wait_for(lambda: words in starting.log, words, 30)
        assert "cannot be kept" in starting.log
    finally:
        starting.kill()
        cluster.api.merge(ROLE, NAMESPACE, LEASE_ROLE, {"rules": whole["rules"]})
        wait_for(lambda: may(cluster, "leases", verb, NAMESPACE), "it may again")
        cluster.forget_lease()


# The module's operator lives from here on: before it, tests have one of their own.


@pytest.mark.parametrize("verb", LACKING, ids=" ".join)
def test_verb_that_is_lacking_is_named(
    cluster: Cluster, namespace: str, operator: Operator, verb: Verb
) -> None:
    before, after, where = LACKING[verb]
    before(cluster, namespace)
    with without(cluster, verb):
        after(cluster, namespace)
        assert wait_for(lambda: says(cluster, namespace, operator, verb), f"a word about {verb}") == where
        for name in [job["metadata"]["name"] for job in cluster.api.list(TRAINING_JOB, namespace)]:
            cluster.api.delete(TRAINING_JOB, namespace, name)
