"""From kubectl apply to predictions, on a real node with real photos, weights, S3, KServe and gateway."""

import itertools
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import httpx
import pytest
from tests.cluster.namespaces import Namespace
from tests.cluster.platform import (
    PHOTOS,
    REVISION,
    SECRET,
    WEIGHTS,
    Photo,
    Platform,
    Team,
    mobilenet_weights,
    photos,
)
from tests.testbed import cluster as testbed_cluster
from tests.testbed.kube_api import wait_for
from tests.testbed.node import Node

PER_SECOND = 20.0
CANARY = {
    "strategy": "Canary",
    "steps": [{"weight": 10, "holdSeconds": 20}, {"weight": 50, "holdSeconds": 20}],
    "analysis": [{"metric": "errorRate", "maximum": 0.01}],
    "minimumRequests": 20,
    "keepWarmSeconds": 5,
}


@pytest.fixture(scope="module")
def platform(node: Node, say: Callable[[str], None]) -> Platform:
    """The node with everything on it, and photos and weights in S3."""
    if not PHOTOS.is_dir():
        pytest.skip(
            f"There are no photos in {PHOTOS}; TUNESMITH_PHOTOS names the folder above another place."
        )
    for step in testbed_cluster.STEPS:
        step.up(node, say)
    found = Platform(node)
    found.s3().put_object(Bucket="datasets", Key=WEIGHTS, Body=mobilenet_weights().read_bytes())
    every = [*photos("train"), *photos("val")]
    found.upload("insects", ((f"{one.label}/{one.path.name}", one.path) for one in every[:240]))
    labels = sorted({one.label for one in every})

    def muddled(number: int, photo: Photo) -> str:
        """Two of five photos of each class lie in the wrong folder."""
        wrong = number // 2 % 5 < 2
        return next(label for label in labels if (label != photo.label) == wrong)

    files = ((f"{muddled(number, one)}/{one.path.name}", one.path) for number, one in enumerate(every[:240]))
    found.upload("muddled", files)
    return found


@pytest.fixture(scope="module")
def team(platform: Platform) -> Iterator[Team]:
    """A team with a namespace under Pod Security "restricted"."""
    namespace = Namespace.create(platform.node.kubectl, f"insects-{int(time.time()) % 100_000}")
    namespace.apply(platform.secret())
    yield Team(platform, namespace)
    namespace.delete()


@dataclass
class Load:
    """Photos at a steady rate through the gateway, with true labels afterwards; counts who answered."""

    team: Team
    name: str
    tell: bool = False
    served: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    times: list[tuple[float, str]] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._over = threading.Event()
        self._turns = itertools.cycle(photos("val"))
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(4)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, number: int) -> None:
        due = time.monotonic() + number / PER_SECOND
        host = self.team.host(self.name)
        with httpx.Client(base_url=self.team.platform.gateway, headers={"Host": host}, timeout=10) as client:
            while not self._over.wait(max(0.0, due - time.monotonic())):
                due += 4 / PER_SECOND
                with self._lock:
                    photo = next(self._turns)
                self._ask(client, photo)

    def _ask(self, client: httpx.Client, photo: Photo) -> None:
        content, kind = photo.path.read_bytes(), {"Content-Type": "image/jpeg"}
        begun = time.monotonic()
        try:
            answer = client.post(f"/v1/models/{self.name}:predict", content=content, headers=kind)
            failure = "" if answer.status_code == 200 else f"{answer.status_code} {answer.text[:200]}"
        except httpx.HTTPError as error:
            failure = repr(error)
        with self._lock:
            if failure:
                self.failures.append(failure)
                return
            revision = answer.headers[REVISION]
            self.served[revision] += 1
            self.times.append((begun, revision))
        if self.tell:
            said = {"requestId": answer.headers["x-request-id"], "label": photo.label}
            client.post("/feedback", json=said, headers={REVISION: revision})

    def share(self, revision: str, begun: float, ended: float) -> float:
        """Of the requests sent in this time."""
        within = [one for when, one in self.times if begun <= when < ended]
        return within.count(revision) / len(within)


def test_from_kubectl_apply_to_a_right_answer_with_its_reasons(team: Team) -> None:
    team.train("insects", "insects")
    team.deploy("insects", "insects", rollout=CANARY)
    model = team.trained("insects")
    assert model["verified"] is True
    team.wait_for("modeldeployment", "insects", "Ready", 120, status="True")
    asked = photos("val")[:20]
    answers = [team.ask("insects", photo) for photo in asked]
    assert {answer.status_code for answer in answers} == {200}
    right = sum(
        answer.json()["predictions"][0]["label"] == photo.label
        for answer, photo in zip(answers, asked, strict=True)
    )
    assert right >= 16
    assert {answer.headers["x-tunesmith-model-digest"] for answer in answers} == {model["digest"]}
    explained = team.ask("insects", asked[0], "explain")
    assert explained.status_code == 200
    assert "explanation" in json.dumps(explained.json())


def weighs(team: Team) -> int:
    """Percent of the requests for the canary."""
    canary = team.status("modeldeployment", "insects").get("canary") or {}
    return int(canary.get("weight") or 0)


def _wait_for_weight(team: Team, weight: int) -> None:
    wait_for(lambda: weighs(team) == weight, f"{weight} % for the canary", 120)


def _left(team: Team, weight: int) -> bool:
    return weighs(team) != weight


def test_a_second_model_takes_over_step_by_step_and_no_request_is_lost(team: Team) -> None:
    team.train("better", "insects", transfer={"strategies": ["LinearProbe"], "imageSize": 160})
    team.trained("better")
    old = team.status("modeldeployment", "insects")["stable"]["revision"]
    marks: dict[int, tuple[float, float]] = {}
    with Load(team, "insects") as load:
        team.patch("modeldeployment", "insects", '{"spec": {"model": {"trainingJob": "better"}}}')
        for weight in (10, 50):
            _wait_for_weight(team, weight)
            begun = time.monotonic() + 1
            wait_for(partial(_left, team, weight), f"the end of {weight} %", 120)
            marks[weight] = (begun, time.monotonic() - 1)
        wait_for(
            lambda: team.status("modeldeployment", "insects")["stable"]["revision"] != old, "promoted", 60
        )
        new = team.status("modeldeployment", "insects")["stable"]["revision"]
        wait_for(lambda: team.namespace.find("inferenceservice", old) is None, "the old one is gone", 120)
        promoted = time.monotonic()
        time.sleep(3)
    assert load.failures == []
    for weight, (begun, ended) in marks.items():
        share = 100 * load.share(new, begun, ended)
        asked = sum(begun <= when < ended for when, _ in load.times)
        print(f"{weight} %: {share:.1f} % of {asked} requests")
        # A gateway draws for each request: four standard deviations of that.
        assert abs(share - weight) < 400 * math.sqrt(weight / 100 * (1 - weight / 100) / asked), load.served
    assert load.share(new, promoted, time.monotonic()) == 1.0


def test_a_worse_model_is_rejected_by_what_people_say_was_true(team: Team) -> None:
    loose = {
        "gates": [{"metric": "accuracy", "minimum": 0.1}],
        "corruptions": {"severities": [3], "maxImages": 30},
    }
    team.train("worse", "muddled", verification=loose)
    assert team.trained("worse")["verified"] is True
    before = team.status("modeldeployment", "insects")["stable"]["revision"]
    replaced = {"strategy": "Replace", "steps": None, "analysis": None}
    changes = {"rollout": replaced, "monitoring": {"feedback": {"enabled": True}}}
    team.patch("modeldeployment", "insects", json.dumps({"spec": changes}))
    stable = partial(team.status, "modeldeployment", "insects")
    wait_for(lambda: stable()["stable"]["revision"] != before, "one that takes feedback", 120)
    limits = [{"metric": "feedbackAccuracy", "minimum": 0.9}]
    rollout = {**CANARY, "steps": [{"weight": 50, "holdSeconds": 600}], "analysis": limits}
    team.patch("modeldeployment", "insects", json.dumps({"spec": {"rollout": rollout}}))
    good = team.status("modeldeployment", "insects")["stable"]["revision"]
    with Load(team, "insects", tell=True) as load:
        team.patch("modeldeployment", "insects", '{"spec": {"model": {"trainingJob": "worse"}}}')
        said = team.wait_for("modeldeployment", "insects", "Progressing", 180, reason="CanaryRejected")
        rejected = time.monotonic()
        time.sleep(5)
    assert "feedbackAccuracy is 0." in said["message"]
    assert load.failures == []
    assert load.share(good, rejected + 2, time.monotonic()) == 1.0
    assert team.status("modeldeployment", "insects")["stable"]["revision"] == good


def test_a_shadow_gets_copies_of_requests_and_answers_none_before_it_takes_over(team: Team) -> None:
    good = team.status("modeldeployment", "insects")["stable"]["revision"]
    shadow = {"percent": 100, "holdSeconds": 15}
    limits = [{"metric": "errorRate", "maximum": 0.01}]
    rollout = {**CANARY, "strategy": "Shadow", "steps": None, "shadow": shadow, "analysis": limits}
    with Load(team, "insects") as load:
        changes = {"model": {"trainingJob": "insects"}, "rollout": rollout}
        team.patch("modeldeployment", "insects", json.dumps({"spec": changes}))

        def copied() -> str:
            canary = team.status("modeldeployment", "insects").get("canary") or {}
            return str(canary["revision"]) if canary.get("mirrored") == 100 else ""

        new = wait_for(copied, "a shadow that gets copies", 120)
        assert set(load.served) == {good}
        team.wait_for("modeldeployment", "insects", "Progressing", 60, reason="RollingOut")
        said = team.condition("modeldeployment", "insects", "Progressing")["message"]
        stable = partial(team.status, "modeldeployment", "insects")
        wait_for(lambda: stable()["stable"]["revision"] == new, "it takes over", 120)
        time.sleep(3)
    print(said)
    assert load.failures == []
    assert set(load.served) == {good, new}


def test_a_model_whose_file_was_altered_never_gets_a_request(team: Team) -> None:
    model = team.status("trainingjob", "insects")["model"]
    bucket, _, prefix = model["uri"].removeprefix("s3://").partition("/")
    client = team.platform.s3()
    files = client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    for one in files:
        content = client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read()
        if one["Key"].endswith("model.onnx"):
            content = content[:-1] + bytes([content[-1] ^ 1])
        client.put_object(
            Bucket=bucket, Key=f"altered/{one['Key'].removeprefix(prefix).lstrip('/')}", Body=content
        )
    package = {"uri": f"s3://{bucket}/altered", "digest": model["digest"], "secretRef": {"name": SECRET}}
    before = team.status("modeldeployment", "insects")["stable"]["revision"]
    with Load(team, "insects") as load:
        body = {"spec": {"model": {"trainingJob": None, **package}, "rollout": {"shadow": None, **CANARY}}}
        team.patch("modeldeployment", "insects", json.dumps(body))

        def refused() -> bool:
            history = team.status("modeldeployment", "insects").get("history") or [{}]
            return bool(history[0].get("reason") == "DigestMismatch")

        wait_for(refused, "DigestMismatch", 120)
        time.sleep(2)
    assert set(load.served) == {before}
    assert load.failures == []
