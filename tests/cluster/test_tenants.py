"""What a tenant may not do, is refused; and every pod of ours runs under Pod Security "restricted"."""

import json

import pytest
from tests.cluster.namespaces import RESTRICTED, Object
from tests.cluster.platform import Team, training_job
from tests.testbed.installation import NAMESPACE
from tests.testbed.kube_api import wait_for
from tests.testbed.kubectl import KubectlFailed

TENANT = "tenant"


@pytest.fixture(scope="module")
def tenant(team: Team) -> str:
    """Somebody who may have TrainingJobs and ModelDeployments in the team's namespace, and nothing else."""
    rules = [
        {"apiGroups": ["tunesmith.dev"], "resources": ["trainingjobs", "modeldeployments"], "verbs": ["*"]}
    ]
    kinds = ("Role", "RoleBinding")
    role, binding = (
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": TENANT}}
        for kind in kinds
    )
    who = {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": TENANT}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": TENANT}
    team.namespace.apply({**role, "rules": rules}, {**binding, "roleRef": reference, "subjects": [who]})
    return TENANT


def apply_as(team: Team, who: str, body: Object, namespace: str = "") -> str:
    body["metadata"]["namespace"] = namespace or team.namespace.name
    kubectl = team.namespace.kubectl
    return kubectl("apply", "--server-side", f"--as={who}", "--filename=-", stdin=json.dumps(body))


def test_tenant_who_may_not_read_a_secret_may_not_name_it(team: Team, tenant: str) -> None:
    with pytest.raises(KubectlFailed, match="store") as refused:
        apply_as(team, tenant, training_job("curious", "insects"))
    assert "that its author may read" in str(refused.value)
    assert team.namespace.find("trainingjob", "curious") is None
    allowed = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["store"], "verbs": ["get"]}
    rights = json.dumps([{"op": "add", "path": "/rules/-", "value": allowed}])
    target = ("--namespace", team.namespace.name, "role", TENANT)
    team.namespace.kubectl("patch", *target, "--type=json", f"--patch={rights}")

    def accepted() -> bool:
        try:
            return bool(apply_as(team, tenant, training_job("curious", "insects")))
        except KubectlFailed:  # an authorizer learns of a right a moment later
            return False

    wait_for(accepted, "who may read it may name it", 20)


def test_tenant_may_not_use_another_namespace(team: Team, tenant: str) -> None:
    with pytest.raises(KubectlFailed, match="forbidden"):
        apply_as(team, tenant, training_job("elsewhere", "insects"), "default")
    foreign = training_job("foreign", "insects")
    foreign["spec"]["dataset"]["secretRef"] = {"name": "store", "namespace": "kube-system"}
    with pytest.raises(KubectlFailed, match="namespace"):
        apply_as(team, tenant, foreign)


def test_tenant_may_not_take_the_trainers_network_policy_away(team: Team, tenant: str) -> None:
    name = "curious-trainer"
    found = wait_for(lambda: team.namespace.find("networkpolicy", name), "its NetworkPolicy", 30)
    assert found["spec"]["policyTypes"] == ["Ingress"]
    assert not found["spec"].get("ingress"), "nobody may connect to a trainer"
    where = ("--namespace", team.namespace.name)
    with pytest.raises(KubectlFailed, match="forbidden"):
        team.namespace.kubectl("delete", "networkpolicy", name, f"--as={tenant}", *where)
    team.namespace.kubectl("delete", "networkpolicy", name, *where)
    wait_for(lambda: team.namespace.find("networkpolicy", name), "it is put back", 30)


def test_pods_of_ours_run_where_restricted_is_enforced(team: Team) -> None:
    team.trained("curious")
    team.deploy("curious", "curious")
    team.wait_for("modeldeployment", "curious", "Ready", 120, status="True")
    for name in (NAMESPACE, team.namespace.name):
        labels = team.namespace.kubectl.json("get", "namespace", name)["metadata"]["labels"]
        assert RESTRICTED.items() <= labels.items()
        pods = team.namespace.kubectl.json("get", "pods", "-n", name)["items"]
        assert pods
        assert {pod["status"]["phase"] for pod in pods} <= {"Running", "Succeeded"}
