"""What a team does with the platform, and what has to come of it, whatever else happens meanwhile."""

import json
import math
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial

from tests.cluster.load import Load
from tests.cluster.namespaces import Object
from tests.cluster.platform import EXAMPLE, Team, example, photos
from tests.testbed.kube_api import wait_for

from tunesmith import client

NAME = "insects"
CANARY: Object = example()[1]["spec"]["rollout"]
WEIGHTS = tuple(step["weight"] for step in CANARY["steps"])
SECONDS = 240.0
"""For what takes a minute when nothing is in its way."""

AtWeight = Callable[[int], None]


def stable(team: Team) -> str:
    """The revision that serves; empty while there is none."""
    found = team.status("modeldeployment", NAME).get("stable") or {}
    return str(found.get("revision") or "")


def canary(team: Team) -> str:
    """The revision on its way; empty while there is none."""
    found = team.status("modeldeployment", NAME).get("canary") or {}
    return str(found.get("revision") or "")


def weight(team: Team) -> int:
    """Percent of the requests for the canary."""
    canary = team.status("modeldeployment", NAME).get("canary") or {}
    return int(canary.get("weight") or 0)


def first_model(team: Team) -> None:
    """From kubectl apply to right answers with their reasons."""
    where = ("--namespace", team.namespace.name)
    team.namespace.kubectl("apply", "--server-side", f"--filename={EXAMPLE}", *where)
    model = team.trained(NAME)
    assert model["verified"] is True
    team.wait_for("modeldeployment", NAME, "Ready", SECONDS, status="True")
    asked = photos("val")[:20]
    answers = [team.ask(NAME, photo) for photo in asked]
    assert {answer.status_code for answer in answers} == {200}
    right = sum(
        answer.json()["predictions"][0]["label"] == photo.label
        for answer, photo in zip(answers, asked, strict=True)
    )
    assert right >= 16
    assert {answer.headers["x-tunesmith-model-digest"] for answer in answers} == {model["digest"]}
    said = team.tunesmith(
        *("predict", f"deployment/{NAME}", str(asked[0].path), "--top=1"),
        *("--gateway", team.platform.gateway.removeprefix("http://")),
    )
    assert answers[0].json()["predictions"][0]["label"] in said
    told = team.tunesmith("status", f"deployment/{NAME}")
    assert stable(team) in told
    print(told)
    explained = team.ask(NAME, asked[0], "explain")
    assert explained.status_code == 200
    assert "explanation" in json.dumps(explained.json())


def better_model(team: Team, at_weight: AtWeight = lambda weight: None) -> None:
    """A second model takes over step by step; the deployment waits for it before it is trained.

    Args:
        team: that has the first model.
        at_weight: done when the canary has got this weight; the share is measured afterwards.
    """
    old = stable(team)
    marks: dict[int, tuple[float, float]] = {}
    with Load(team, NAME) as load:
        team.merge("modeldeployment", NAME, {"spec": {"model": {"trainingJob": "better"}}})
        team.train("better", "insects", transfer={"strategies": ["LinearProbe"], "imageSize": 160})
        team.trained("better")
        verified = time.monotonic()
        for percent in WEIGHTS:
            wait_for(partial(_weighs, team, percent), f"{percent} % for the canary", SECONDS)
            if percent == WEIGHTS[0]:
                started = _start_seconds(team, canary(team))
            at_weight(percent)
            begun = time.monotonic() + 1
            wait_for(partial(_left, team, percent), f"the end of {percent} %", SECONDS)
            marks[percent] = (begun, time.monotonic() - 1)
        wait_for(lambda: stable(team) != old, "promoted", SECONDS)
        new = stable(team)
        wait_for(lambda: team.namespace.find("inferenceservice", old) is None, "the old one is gone", SECONDS)
        promoted = time.monotonic()
        time.sleep(3)
    waited = load.first(new) - verified
    print(f"verified -> first request on the canary: {waited:.1f} s, {waited / started:.1f} times")
    print(f"the {started:.0f} s of its pod from created to ready, which Kubernetes tells in whole seconds")
    assert load.failures == []
    for percent, (begun, ended) in marks.items():
        share, asked = 100 * load.share(new, begun, ended), load.sent(begun, ended)
        print(f"{percent} %: {share:.1f} % of {asked} requests")
        # A gateway draws for each request: four standard deviations of that.
        bound = 400 * math.sqrt(percent / 100 * (1 - percent / 100) / asked)
        assert abs(share - percent) < bound, load.served
    assert load.share(new, promoted, time.monotonic()) == 1.0


def taken_back(team: Team) -> None:
    """A revision on its way is given up by hand, and then the one that serves is."""
    serving = stable(team)
    steps = [{"weight": 50, "holdSeconds": 600}]
    with Load(team, NAME) as load:
        changes = {"rollout": {**CANARY, "steps": steps}, "compute": {"cpu": "190m"}}
        team.merge("modeldeployment", NAME, {"spec": changes})
        wait_for(partial(_weighs, team, 50), "50 % for the canary", SECONDS)
        given_up = canary(team)
        time.sleep(5)
        said: list[float] = []
        with team.client():
            client.rollback(
                NAME,
                wait=True,
                namespace=team.namespace.name,
                say=lambda line: said.append(time.monotonic()),
            )
        time.sleep(5)
        print(f"given up -> last request on the canary: {load.last(given_up) - said[0]:.2f} s")
        assert load.share(serving, said[0] + 2, time.monotonic()) == 1.0
        assert stable(team) == serving
        begun = time.monotonic()
        print(team.tunesmith("rollback", f"deployment/{NAME}", "--wait", "--timeout", "180"))
        told = time.monotonic()
        time.sleep(5)
    before = stable(team)
    print(f"turned down -> the one before has all requests: {load.last(serving) - begun:.1f} s")
    assert before not in (serving, given_up)
    assert load.share(before, told, time.monotonic()) == 1.0
    assert load.failures == []


def worse_model(team: Team) -> None:
    """A model that learned wrong labels is rejected by what people say was true."""
    loose = {
        "gates": [{"metric": "accuracy", "minimum": 0.1}],
        "corruptions": {"severities": [3], "maxImages": 30},
    }
    team.train("worse", "muddled", verification=loose)
    assert team.trained("worse")["verified"] is True
    before = stable(team)
    replaced = {"strategy": "Replace", "steps": None, "analysis": None}
    changes = {"rollout": replaced, "monitoring": {"feedback": {"enabled": True}}}
    team.merge("modeldeployment", NAME, {"spec": changes})
    wait_for(lambda: stable(team) != before, "one that takes feedback", SECONDS)
    limits = [{"metric": "feedbackAccuracy", "minimum": 0.9}]
    rollout = {**CANARY, "steps": [{"weight": 50, "holdSeconds": 600}], "analysis": limits}
    team.merge("modeldeployment", NAME, {"spec": {"rollout": rollout}})
    good = stable(team)
    with Load(team, NAME, tell=True) as load:
        team.merge("modeldeployment", NAME, {"spec": {"model": {"trainingJob": "worse"}}})
        said = team.wait_for("modeldeployment", NAME, "Progressing", SECONDS, reason="CanaryRejected")
        rejected = time.monotonic()
        time.sleep(5)
    (bad,) = set(load.served) - {good}
    print(f"rejected -> last request on the canary: {load.last(bad) - rejected:.2f} s")
    assert "feedbackAccuracy is 0." in said["message"]
    assert load.failures == []
    assert load.share(good, rejected + 2, time.monotonic()) == 1.0
    assert stable(team) == good


def _weighs(team: Team, percent: int) -> bool:
    return weight(team) == percent


def _left(team: Team, percent: int) -> bool:
    return weight(team) != percent


def _start_seconds(team: Team, revision: str) -> float:
    """From when a revision's first pod was created until it was ready."""
    where = ("--namespace", team.namespace.name, f"--selector=tunesmith.dev/revision={revision}")
    pods = team.namespace.kubectl.json("get", "pods", *where)["items"]
    return min(
        (_time(one["lastTransitionTime"]) - _time(pod["metadata"]["creationTimestamp"])).total_seconds()
        for pod in pods
        for one in pod["status"]["conditions"]
        if one["type"] == "Ready"
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
