"""Training that is disturbed goes on where it was: no finished trial again, the reason told, one model."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from tests.cluster.namespaces import Object
from tests.cluster.platform import Team
from tests.testbed.addons import store
from tests.testbed.kube_api import wait_for

SLOW: Object = {
    "transfer": {"strategies": ["FineTune"], "imageSize": 96, "maxEpochs": 3, "batchSize": 16},
    "search": {
        "numTrials": 5,
        "maxFineTuneTrials": 5,
        "parallelTrials": 1,
        "algorithm": {"name": "Random"},
        "earlyStopping": {"name": "None"},
    },
    "verification": {
        "gates": [{"metric": "accuracy", "minimum": 0.5}],
        "corruptions": {"severities": [3], "maxImages": 10},
    },
    "compute": {"cpu": "1", "memory": "6Gi"},
}
"""Five fine-tunings of some ten seconds each."""
TRIALS = 5
SECONDS = 400.0


def ledger(team: Team, name: str) -> dict[str, Object]:
    """What the store knows of a job's trials."""
    client = team.platform.s3()
    listed = client.list_objects_v2(Bucket="models", Prefix=f"jobs/{name}/").get("Contents", [])
    keys = [one["Key"] for one in listed if "/ledger/" in one["Key"]]
    rows = [json.loads(client.get_object(Bucket="models", Key=key)["Body"].read()) for key in keys]
    client.close()
    return {row["id"]: row for row in rows}


def finished(team: Team, name: str) -> dict[str, Object]:
    return {id: row for id, row in ledger(team, name).items() if row["state"] == "Succeeded"}


def pods(team: Team, name: str) -> list[Object]:
    selector = f"--selector=tunesmith.dev/training-job={name}"
    found = team.namespace.kubectl.json("get", "pods", selector, "--namespace", team.namespace.name)
    items: list[Object] = found["items"]
    return items


def running(team: Team, name: str) -> list[Object]:
    return [pod for pod in pods(team, name) if pod["status"]["phase"] == "Running"]


def told(team: Team, name: str) -> list[tuple[str, str]]:
    """The reasons and sentences of a job's events, in order."""
    selector = f"--field-selector=involvedObject.kind=TrainingJob,involvedObject.name={name}"
    found = team.namespace.kubectl.json("get", "events", selector, "--namespace", team.namespace.name)
    events = sorted(found["items"], key=lambda one: one.get("eventTime") or one.get("firstTimestamp") or "")
    return [(one["reason"], one["message"]) for one in events]


@contextlib.contextmanager
def searching(team: Team, name: str) -> Iterator[None]:
    """A slow job in the middle of its search; then no finished trial may be run again, and a model comes."""
    team.train(name, "insects", **SLOW)
    try:
        wait_for(lambda: len(finished(team, name)) >= 2, f"two trials of {name}", SECONDS, 0.5)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{team.status('trainingjob', name)}\n{team.pods()}") from error
    before = finished(team, name)
    yield
    model = team.trained(name, SECONDS)
    after = ledger(team, name)
    assert {id: after[id] for id in before} == before, "a finished trial ran again"
    assert sum(id.startswith("t") for id in after) == TRIALS
    assert model["verified"] is True
    reasons = [f"{reason}: {sentence}" for reason, sentence in told(team, name)]
    print(name, f"restarts {team.status('trainingjob', name).get('restarts')}", *reasons, sep="\n  ")


def replaced(team: Team, name: str, before: str) -> bool:
    return any(pod["metadata"]["name"] != before for pod in running(team, name))


def delete_pod(team: Team, pod: str) -> None:
    team.namespace.kubectl("delete", "pod", pod, "--namespace", team.namespace.name, "--wait=false")


def evict_pod(team: Team, pod: str) -> None:
    """As `kubectl drain` does."""
    where = f"/api/v1/namespaces/{team.namespace.name}/pods/{pod}/eviction"
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    team.namespace.kubectl("create", "--raw", where, "--filename=-", stdin=json.dumps(body))


@pytest.mark.parametrize(
    ("disturb", "reason"), [(delete_pod, "Interrupted"), (evict_pod, "Evicted")], ids=["deleted", "evicted"]
)
def test_trainer_whose_pod_goes_is_started_again(
    team: Team, disturb: Callable[[Team, str], None], reason: str
) -> None:
    name = disturb.__name__.replace("_", "-")
    with searching(team, name):
        (pod,) = [one["metadata"]["name"] for one in running(team, name)]
        disturb(team, pod)
        wait_for(partial(replaced, team, name, pod), "another pod runs", 120)
    assert reason in [one for one, _ in told(team, name)]
    assert team.status("trainingjob", name)["restarts"] == 1


def test_trainer_that_needs_more_memory_says_so_and_goes_on_with_more(team: Team) -> None:
    name = "hungry"
    team.train(name, "insects", **{**SLOW, "compute": {"cpu": "1", "memory": "500Mi"}})

    def killed() -> str:
        sentences = [sentence for reason, sentence in told(team, name) if reason == "OutOfMemory"]
        return sentences[0] if sentences else ""

    try:
        said = wait_for(killed, "OutOfMemory", 180, 0.5)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{team.status('trainingjob', name)}\n{team.pods()}") from error
    assert "raise spec.compute.memory" in said
    # As the sentence says.
    team.merge("trainingjob", name, {"spec": {"suspend": True}})
    team.wait_for("trainingjob", name, "Suspended", 60, status="True")
    team.merge("trainingjob", name, {"spec": {"compute": {"memory": "6Gi"}}})
    team.merge("trainingjob", name, {"spec": {"suspend": False}})
    assert team.trained(name, SECONDS)["verified"] is True


def test_suspended_job_holds_nothing_and_goes_on_when_resumed(team: Team) -> None:
    name = "paused"
    with searching(team, name):
        team.merge("trainingjob", name, {"spec": {"suspend": True}})
        team.wait_for("trainingjob", name, "Suspended", 60, status="True")
        wait_for(lambda: not running(team, name), "its pod is gone", 60)
        team.merge("trainingjob", name, {"spec": {"suspend": False}})


def test_store_may_be_away_for_a_minute_while_trials_run(team: Team) -> None:
    with searching(team, "patient"):
        _store_away(team, 60)


def test_store_may_be_away_for_a_minute_while_the_model_is_published(team: Team) -> None:
    name = "publishing"
    team.train(name, "insects")
    team.wait_for("trainingjob", name, "SearchComplete", SECONDS, status="True")
    _store_away(team, 60)
    assert team.trained(name)["verified"] is True


def test_job_that_is_deleted_in_the_middle_leaves_nothing(team: Team) -> None:
    name = "unwanted"
    team.train(name, "insects", **SLOW)
    wait_for(lambda: running(team, name), "it runs", 120)
    team.namespace.kubectl("delete", "trainingjob", name, "--namespace", team.namespace.name)

    def left() -> list[str]:
        kinds = "jobs,pods,configmaps,serviceaccounts,roles,rolebindings,networkpolicies"
        selector = f"--selector=tunesmith.dev/training-job={name}"
        listed = team.namespace.kubectl(
            "get", kinds, selector, "--namespace", team.namespace.name, "--output=name"
        )
        return listed.split()

    wait_for(lambda: not left(), f"nothing is left of it: {left()}", 90)


def test_finished_job_lets_its_pod_go_and_keeps_its_word(team: Team) -> None:
    name = "brief"
    team.train(name, "insects", ttlSecondsAfterFinished=3)
    model = team.trained(name)
    wait_for(lambda: not pods(team, name), "its pod is gone", 60)
    assert team.namespace.find("job", f"{name}-trainer") is None
    time.sleep(3)
    assert team.status("trainingjob", name)["model"] == model
    assert not pods(team, name), "it does not begin again"


def test_node_that_is_restarted_trains_on(team: Team) -> None:
    name = "rebooted"
    with searching(team, name):
        team.platform.node.restart()
    assert "Interrupted" in [one for one, _ in told(team, name)]
    assert team.status("trainingjob", name)["restarts"] == 1


def _store_away(team: Team, seconds: float) -> None:
    folder, processes = team.platform.node.folder, team.platform.node.processes
    processes.stop(store.PROCESS)
    try:
        time.sleep(seconds)
    finally:
        store.start(folder)
