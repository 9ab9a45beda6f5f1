"""The verbs of ModelDeployments, as commands, with a real API server and an operator."""

import json
from typing import Any

from tests.controlplane.commands import call, start
from tests.controlplane.serving import Serving
from tests.testbed.kube_api import wait_for

from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_operator.kinds import MODEL_DEPLOYMENT

MANUAL = {
    "strategy": "Canary",
    "steps": [{"weight": 10, "holdSeconds": 0}],
    "approval": "Manual",
    "minimumRequests": 0,
}
NAME = "deployment/flowers"


def canary_on_its_way(serving: Serving, namespace: str, **rollout: Any) -> tuple[str, str]:
    """The stable revision and one that waits for a person."""
    serving.train(namespace, "a")
    serving.deploy(namespace, rollout={**MANUAL, **rollout})
    old = serving.stable(namespace, "a", 60)
    serving.train(namespace, "b")
    new = serving.canary(namespace, 10)
    serving.wait_for(namespace, "Progressing", reason="AwaitingApproval")
    return old, new


def rollout_of(serving: Serving, namespace: str) -> dict[str, Any]:
    found = serving.cluster.api.get(MODEL_DEPLOYMENT, namespace, "flowers")
    assert found is not None
    rollout: dict[str, Any] = found["spec"]["rollout"]
    return rollout


def test_promoted_it_takes_over_and_rolled_back_the_one_before_does(serving: Serving, namespace: str) -> None:
    old, new = canary_on_its_way(serving, namespace)
    cluster, options = serving.cluster, ("-n", namespace, "--wait", "--timeout", "60")
    code, out, _ = call(cluster, "status", NAME, "-n", namespace)
    assert code == 0
    assert f"tunesmith promote {NAME} -n {namespace}" in out
    assert "10 % of the requests" in out
    code, out, errors = call(cluster, "promote", NAME, *options)
    assert (code, errors) == (0, "")
    assert out.splitlines()[-1] == f"{new} answers."
    assert (serving.status(namespace).get("stable") or {})["revision"] == new
    code, out, errors = call(cluster, "rollback", NAME, *options)
    assert (code, errors) == (0, "")
    assert (serving.status(namespace).get("stable") or {})["revision"] == old
    rollout = rollout_of(serving, namespace)
    assert rollout["rejectedRevision"] == new
    assert "approvedRevision" not in rollout
    code, _, errors = call(cluster, "rollback", NAME, *options)
    assert code == EXIT_CODES[Reason.SPEC_INVALID]
    assert "no revision to go back to" in errors
    code, out, errors = call(cluster, "promote", NAME, new, *options)
    assert (code, errors) == (0, "")
    assert (serving.status(namespace).get("stable") or {})["revision"] == new


def test_given_up_canary_ends_a_wait_for_it_with_its_own_code(serving: Serving, namespace: str) -> None:
    old, new = canary_on_its_way(serving, namespace)
    cluster = serving.cluster
    waiting = start(cluster, "wait", NAME, "--revision", new, "-n", namespace, "--timeout", "60")
    code, out, errors = call(cluster, "rollback", NAME, "-n", namespace, "--wait", "--timeout", "60")
    assert (code, errors) == (0, "")
    assert f"{new} is given up: {old} has all the requests again." in out
    waiting.communicate(timeout=60)
    assert waiting.returncode == EXIT_CODES[Reason.CANARY_REJECTED]


def test_paused_it_stands_still_until_it_is_resumed(serving: Serving, namespace: str) -> None:
    _, new = canary_on_its_way(serving, namespace)
    cluster = serving.cluster
    code, out, _ = call(cluster, "pause", NAME, "-n", namespace, "--wait", "--timeout", "60")
    assert code == 0
    assert f"{new} keeps 10 % of the requests" in out
    serving.wait_for(namespace, "Progressing", reason="Paused")
    code, out, _ = call(cluster, "promote", NAME, "-n", namespace)
    assert f"tunesmith resume {NAME}" in out
    assert serving.canary(namespace, 10) == new
    code, out, errors = call(cluster, "resume", NAME, "-n", namespace, "--wait", "--timeout", "60")
    assert (code, errors) == (0, "")
    assert serving.stable(namespace, "b") == new


def test_a_change_of_what_a_file_said_names_the_lines_for_it(serving: Serving, namespace: str) -> None:
    _, new = canary_on_its_way(serving, namespace, rejectedRevision="flowers-00000000")
    manager = ("--field-manager", "helm", "--server-side", "--force-conflicts", "-f", "-")
    rollout = rollout_of(serving, namespace)
    text = {
        "apiVersion": "tunesmith.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "flowers", "namespace": namespace},
        "spec": {"model": {"trainingJob": "flowers"}, "rollout": rollout},
    }
    serving.cluster.plane.kubectl("apply", *manager, stdin=json.dumps(text))
    _, out, _ = call(serving.cluster, "rollback", NAME, "-n", namespace)
    assert "(helm)" in out
    assert f"  spec:\n    rollout:\n      rejectedRevision: {new}\n" in out
    wait_for(lambda: not serving.status(namespace).get("canary"), "it is given up")
