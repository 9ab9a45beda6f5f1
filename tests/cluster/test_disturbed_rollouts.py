"""The same rollouts while operators, KServe and the gateway are killed: the same end, no request lost.

The tests run in order: each begins with what the one before has deployed.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.cluster import scenarios
from tests.cluster.load import Load
from tests.cluster.namespaces import Object
from tests.cluster.platform import Team, photos
from tests.testbed.addons import envoy_gateway, kserve, store
from tests.testbed.installation import NAMESPACE
from tests.testbed.kube_api import wait_for
from tests.testbed.kubectl import Kubectl, KubectlFailed

_POLL_SECONDS = 0.1
Step = tuple[str, ...]


@dataclass
class Killer:
    """Kills the operator that leads whenever a job or the deployment gets to a new step.

    Attributes:
        steps: at which it killed one.
    """

    team: Team
    steps: list[Step] = field(default_factory=list)

    def step(self) -> Step:
        """Where everything is."""
        jobs = self.team.namespace.kubectl.json("get", "trainingjobs", "-n", self.team.namespace.name)
        phases = [f"{one['metadata']['name']} {one.get('status', {}).get('phase')}" for one in jobs["items"]]
        status = self.team.status("modeldeployment", scenarios.NAME)
        canary = status.get("canary") or {}
        progress: Object = next(
            (one for one in status.get("conditions", ()) if one["type"] == "Progressing"), {}
        )
        rollout = (
            f"stable {(status.get('stable') or {}).get('revision')}",
            f"canary {canary.get('revision')} {canary.get('weight')}",
            str(progress.get("reason")),
        )
        return (*sorted(phases), *rollout)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        over = threading.Event()

        def work() -> None:
            while not over.wait(_POLL_SECONDS):
                with contextlib.suppress(KubectlFailed):
                    step = self.step()
                    if step not in self.steps and kill_leader(self.team.namespace.kubectl):
                        self.steps.append(step)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(60)


def kill_leader(kubectl: Kubectl) -> str:
    """Kill the operator that holds the lease, without a word; empty where that one is gone already."""
    lease = kubectl.json("get", "lease", "tunesmith-operator", "-n", NAMESPACE)
    holder = str(lease["spec"].get("holderIdentity") or "")
    pods = kubectl.json("get", "pods", "-n", NAMESPACE)["items"]
    named = [one["metadata"]["name"] for one in pods if holder.startswith(one["metadata"]["name"])]
    if not named:
        return ""
    kubectl("delete", "pod", named[0], "-n", NAMESPACE, "--grace-period=0", "--force", "--wait=false")
    return str(named[0])


def restart(kubectl: Kubectl, namespace: str, selector: str = "") -> None:
    """Restart Deployments and wait until all of the new pods are ready."""
    which = [f"--selector={selector}"] if selector else []
    kubectl("rollout", "restart", "deployment", *which, "-n", namespace)
    kubectl("rollout", "status", "deployment", *which, "-n", namespace, "--timeout=120s")


def test_operators_that_are_killed_at_each_step_lose_nothing(team: Team) -> None:
    killer = Killer(team)
    with killer.at_work():
        scenarios.first_model(team)
        scenarios.better_model(team)
        scenarios.worse_model(team)
    print(f"killed at {len(killer.steps)} steps:", *killer.steps, sep="\n  ")
    assert len(killer.steps) >= 12
    jobs = team.namespace.kubectl.json("get", "trainingjobs", "-n", team.namespace.name)["items"]
    assert {one["status"].get("restarts", 0) for one in jobs} == {0}, "one trainer for each"
    restart(team.namespace.kubectl, NAMESPACE)


def test_kserve_and_the_gateway_may_be_restarted_in_the_middle_of_a_rollout(team: Team) -> None:
    kubectl = team.namespace.kubectl
    namespaces = {10: kserve.NAMESPACE, 50: envoy_gateway.SYSTEM_NAMESPACE}
    team.namespace.kubectl("delete", "trainingjob", "better", "-n", team.namespace.name)
    back_to_first(team)
    scenarios.better_model(team, lambda percent: restart(kubectl, namespaces[percent]))


def back_to_first(team: Team) -> None:
    """The first model serves."""
    first = str(team.status("trainingjob", scenarios.NAME)["model"]["digest"])
    rollout = {"strategy": "Replace", "steps": None, "analysis": None}
    spec: Object = {"model": {"trainingJob": scenarios.NAME}, "rollout": rollout}
    team.merge("modeldeployment", scenarios.NAME, {"spec": spec})

    def served() -> bool:
        found = team.status("modeldeployment", scenarios.NAME)
        return bool(found["stable"]["digest"] == first and not found.get("canary"))

    wait_for(served, "the first model serves again", 120)
    team.merge("modeldeployment", scenarios.NAME, {"spec": {"rollout": scenarios.CANARY}})


def test_store_may_be_away_while_a_predictor_starts(team: Team) -> None:
    processes, folder = team.platform.node.processes, team.platform.node.folder
    old = scenarios.stable(team)
    replace = {"rollout": {"strategy": "Replace", "steps": None, "analysis": None}}
    team.merge("modeldeployment", scenarios.NAME, {"spec": replace})
    with Load(team, scenarios.NAME) as load:
        processes.stop(store.PROCESS)
        try:
            team.merge("modeldeployment", scenarios.NAME, {"spec": {"compute": {"cpu": "210m"}}})
            time.sleep(60)
        finally:
            store.start(folder)
        wait_for(lambda: scenarios.stable(team) != old, "the new revision serves", 240)
    assert load.failures == []
    assert team.ask(scenarios.NAME, photos("val")[0]).status_code == 200
