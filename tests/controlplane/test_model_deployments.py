"""ModelDeployments on a real API server: revisions, rollouts, and what goes wrong around them.

KServe, the gateway and the predictors are played (tests/testbed/serving_player.py): what they do with what
we write is seen in tests/cluster.
"""

import itertools
import time

import httpx
import pytest
from tests.controlplane.serving import Serving
from tests.testbed.kube_api import wait_for
from tests.testbed.serving_player import (
    DOMAIN,
    GATEWAY_NAME,
    GATEWAY_NAMESPACE,
    mirrors_of,
)

from tunesmith_operator.kinds import (
    DEPLOYMENT,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    MODEL_DEPLOYMENT,
    POD,
    TRAINING_JOB,
)

CANARY = {
    "strategy": "Canary",
    "steps": [{"weight": 10, "holdSeconds": 0}, {"weight": 50, "holdSeconds": 0}],
    "analysis": [{"metric": "errorRate", "maximum": 0.01}],
    "minimumRequests": 50,
    "keepWarmSeconds": 2,
}


def test_the_first_model_is_served_when_kserve_is_there_which_comes_later(
    serving: Serving, namespace: str
) -> None:
    serving.train(namespace, "a")
    serving.deploy(namespace, rollout=CANARY)
    revision = serving.stable(namespace, "a", 60)
    assert serving.route(namespace) == {f"{revision}-predictor": 100}
    status = serving.status(namespace)
    assert status["url"] == f"http://flowers.{namespace}.{DOMAIN}"
    assert status["replicas"] == 1
    assert [entry["outcome"] for entry in status["history"]] == ["Promoted"]
    reasons = [event["reason"] for event in serving.events(namespace)]
    assert {"RollingOut", "Promoted", "Serving"} <= set(reasons)


def test_a_revision_is_fetched_with_credentials_that_the_server_does_not_see(
    serving: Serving, namespace: str
) -> None:
    serving.train(namespace, "a")
    serving.deploy(namespace)
    revision = serving.stable(namespace, "a")
    service = serving.cluster.api.get(INFERENCE_SERVICE, namespace, revision)
    assert service is not None
    predictor = service["spec"]["predictor"]
    (fetch,) = predictor["initContainers"]
    keys = {one["name"]: one["valueFrom"]["secretKeyRef"]["name"] for one in fetch["env"]}
    assert keys["AWS_SECRET_ACCESS_KEY"] == "store"
    serve = predictor["model"]
    assert "env" not in serve
    assert f"--digest=sha256:{'a' * 64}" in fetch["args"]
    assert f"--digest=sha256:{'a' * 64}" in serve["args"]
    assert predictor["automountServiceAccountToken"] is False


def test_a_better_model_goes_its_steps_and_the_old_revision_goes(serving: Serving, namespace: str) -> None:
    serving.train(namespace, "a")
    serving.deploy(namespace, rollout=CANARY)
    old = serving.stable(namespace, "a")
    serving.train(namespace, "b")
    new = serving.canary(namespace, 10)
    both = {f"{old}-predictor": 90, f"{new}-predictor": 10}
    wait_for(lambda: serving.route(namespace) == both, "its share of the requests")
    for weight in (10, 50):
        assert serving.canary(namespace, weight) == new
        serving.wait_for(namespace, "Progressing", reason="AwaitingRequests")
        serving.figures(namespace, new).answer(60)
    assert serving.stable(namespace, "b") == new
    wait_for(lambda: serving.revisions(namespace) == [new], "the old revision is gone", 40)
    assert [one for one, _ in itertools.groupby(serving.weights(namespace))] == [
        {f"{old}-predictor": 100},
        {f"{old}-predictor": 90, f"{new}-predictor": 10},
        {f"{old}-predictor": 50, f"{new}-predictor": 50},
        {f"{new}-predictor": 100},
    ]


def test_a_canary_that_fails_requests_is_rejected_with_numbers(serving: Serving, namespace: str) -> None:
    serving.train(namespace, "a")
    serving.deploy(namespace, rollout=CANARY)
    old = serving.stable(namespace, "a")
    serving.train(namespace, "b")
    new = serving.canary(namespace, 10)
    serving.wait_for(namespace, "Progressing", reason="AwaitingRequests")
    serving.figures(namespace, new).answer(40)
    serving.figures(namespace, new).answer(20, "500")
    said = serving.wait_for(namespace, "Progressing", reason="CanaryRejected")
    assert "errorRate is 0.3333, and must be at most 0.01 (after 60 requests)" in said["message"]
    wait_for(lambda: serving.route(namespace) == {f"{old}-predictor": 100}, "all requests are back")
    wait_for(lambda: serving.revisions(namespace) == [old], "the rejected revision is gone", 40)
    assert serving.condition(namespace, "Ready")["status"] == "True"
    (event,) = [one for one in serving.events(namespace) if one["reason"] == "CanaryRejected"]
    assert event["type"] == "Warning"


def test_other_predictions_than_the_stable_ones_reject_a_canary(serving: Serving, namespace: str) -> None:
    serving.train(namespace, "a")
    serving.deploy(
        namespace,
        rollout={**CANARY, "analysis": [{"metric": "predictionShift", "maximum": 0.2}]},
    )
    old = serving.stable(namespace, "a")
    serving.train(namespace, "b")
    new = serving.canary(namespace, 10)
    serving.wait_for(namespace, "Progressing", reason="AwaitingRequests")
    serving.figures(namespace, old).answer(200, label="rose")
    serving.figures(namespace, new).answer(100, label="tulip")
    said = serving.wait_for(namespace, "Progressing", reason="CanaryRejected")
    assert "predictionShift is " in said["message"]


def test_an_altered_model_is_never_ready_and_never_in_the_route(serving: Serving, namespace: str) -> None:
    serving.train(namespace, "a")
    serving.deploy(namespace, rollout=CANARY)
    old = serving.stable(namespace, "a")
    serving.cluster.kubelet.hold = lambda pod: pod["metadata"]["namespace"] == namespace
    try:
        serving.train(namespace, "b")
        new = wait_for(lambda: (serving.status(namespace).get("canary") or {}).get("revision"), "a canary")
        (pod,) = wait_for(lambda: serving.pods(namespace, new), "its pod")
        serving.cluster.kubelet.fail_before(
            pod, 27, "DigestMismatch: model.onnx is another. Publish it again."
        )
        said = serving.wait_for(namespace, "Progressing", reason="CanaryRejected")
    finally:
        serving.cluster.kubelet.hold = lambda pod: False
    assert "model.onnx is another" in said["message"]
    assert serving.status(namespace)["history"][0]["reason"] == "DigestMismatch"
    assert all(f"{new}-predictor" not in one for one in serving.weights(namespace))
    assert serving.route(namespace) == {f"{old}-predictor": 100}


def test_a_model_that_is_not_there_or_not_verified_is_waited_for(serving: Serving, namespace: str) -> None:
    serving.deploy(namespace)
    serving.wait_for(namespace, "Ready", status="False", reason="TrainingJobMissing")
    serving.cluster.submit(namespace, suspend=True)
    serving.wait_for(namespace, "Ready", reason="ModelPending")
    serving.train(namespace, "a", verified=False)
    serving.wait_for(namespace, "Ready", reason="ModelUnverified")
    assert serving.revisions(namespace) == []
    serving.train(namespace, "a")
    serving.stable(namespace, "a")
    serving.cluster.api.delete(TRAINING_JOB, namespace, "flowers")
    serving.wait_for(namespace, "Progressing", reason="TrainingJobMissing")
    assert serving.condition(namespace, "Ready")["status"] == "True"


def test_a_person_rolls_back_and_the_revision_before_answers(serving: Serving, namespace: str) -> None:
    serving.train(namespace, "a")
    serving.deploy(namespace, rollout={"strategy": "Replace"})
    old = serving.stable(namespace, "a")
    serving.train(namespace, "b")
    new = serving.stable(namespace, "b")
    serving.change(namespace, rejectedRevision=new)
    assert serving.stable(namespace, "a") == old
    wait_for(lambda: serving.route(namespace) == {f"{old}-predictor": 100}, "all requests are back")
    outcomes = [(entry["revision"], entry["outcome"]) for entry in serving.status(namespace)["history"]]
    assert outcomes[:2] == [(old, "Promoted"), (new, "RolledBack")]


def test_what_others_change_or_delete_is_put_back(serving: Serving, namespace: str) -> None:
    serving.train(namespace, "a")
    serving.deploy(namespace)
    revision = serving.stable(namespace, "a")
    api = serving.cluster.api
    route = api.get(HTTP_ROUTE, namespace, "flowers")
    assert route is not None
    route["spec"]["rules"] = [{"backendRefs": [{"name": "elsewhere", "port": 80}]}]
    api.put(HTTP_ROUTE.path(namespace, "flowers"), route)
    wait_for(lambda: serving.route(namespace) == {f"{revision}-predictor": 100}, "the route is put back")
    api.delete(HTTP_ROUTE, namespace, "flowers")
    wait_for(lambda: serving.route(namespace) == {f"{revision}-predictor": 100}, "the route is there again")
    changed = api.get(INFERENCE_SERVICE, namespace, revision)
    assert changed is not None
    changed["spec"]["predictor"]["model"]["image"] = "somebody/else:1"
    api.put(INFERENCE_SERVICE.path(namespace, revision), changed)

    def put_back() -> bool:
        found = api.get(INFERENCE_SERVICE, namespace, revision) or {}
        model = found.get("spec", {}).get("predictor", {}).get("model", {})
        return bool(model.get("image") == "tunesmith/predictor:test")

    wait_for(put_back, "the InferenceService is put back")
    uid = (api.get(INFERENCE_SERVICE, namespace, revision) or {})["metadata"]["uid"]
    api.delete(INFERENCE_SERVICE, namespace, revision)

    def again() -> bool:
        found = api.get(INFERENCE_SERVICE, namespace, revision)
        return found is not None and found["metadata"]["uid"] != uid

    wait_for(again, "the InferenceService is there again", 60)


def test_a_foreign_object_of_our_name_is_left_alone(serving: Serving, namespace: str) -> None:
    foreign = {
        "apiVersion": HTTP_ROUTE.api_version,
        "kind": HTTP_ROUTE.name,
        "metadata": {"name": "flowers", "namespace": namespace},
        "spec": {"hostnames": ["theirs.test"], "rules": [{"backendRefs": [{"name": "theirs", "port": 80}]}]},
    }
    foreign["spec"]["parentRefs"] = [{"name": GATEWAY_NAME, "namespace": GATEWAY_NAMESPACE}]  # type: ignore[index]
    serving.cluster.api.create(HTTP_ROUTE, foreign)
    serving.train(namespace, "a")
    serving.deploy(namespace)
    serving.wait_for(namespace, "Ready", reason="NameConflict")
    assert serving.route(namespace) == {"theirs": 1}


def test_replicas_follow_the_spec_without_a_new_revision(serving: Serving, namespace: str) -> None:
    serving.train(namespace, "a")
    serving.deploy(namespace)
    revision = serving.stable(namespace, "a")
    serving.cluster.api.merge(MODEL_DEPLOYMENT, namespace, "flowers", {"spec": {"replicas": {"minimum": 2}}})
    wait_for(lambda: serving.status(namespace).get("replicas") == 2, "two pods answer")
    assert serving.revisions(namespace) == [revision]


def test_deleting_it_leaves_nothing_but_the_models(serving: Serving, namespace: str) -> None:
    serving.train(namespace, "a")
    serving.deploy(namespace)
    serving.stable(namespace, "a")
    serving.cluster.api.delete(MODEL_DEPLOYMENT, namespace, "flowers")

    def left() -> list[str]:
        kinds = (INFERENCE_SERVICE, HTTP_ROUTE, DEPLOYMENT, POD)
        found = itertools.chain.from_iterable(serving.cluster.api.list(kind, namespace) for kind in kinds)
        return [one["metadata"]["name"] for one in found]

    wait_for(lambda: not left(), "nothing is left", 60)
    assert serving.cluster.api.get(TRAINING_JOB, namespace, "flowers") is not None


def test_at_rest_nothing_is_written(serving: Serving, namespace: str) -> None:
    serving.train(namespace, "a")
    serving.deploy(namespace)
    serving.stable(namespace, "a")

    def versions() -> list[str]:
        api = serving.cluster.api
        found = [api.get(MODEL_DEPLOYMENT, namespace, "flowers"), api.get(HTTP_ROUTE, namespace, "flowers")]
        found += api.list(INFERENCE_SERVICE, namespace)
        return [one["metadata"]["resourceVersion"] for one in found if one is not None]

    time.sleep(2)
    before = versions()
    time.sleep(5)
    assert versions() == before


@pytest.mark.parametrize("moment", ["starting", "10", "50"])
def test_an_operator_killed_in_a_rollout_is_followed_by_one_that_goes_on(
    serving: Serving, namespace: str, moment: str
) -> None:
    serving.train(namespace, "a")
    serving.deploy(namespace, rollout=CANARY)
    old = serving.stable(namespace, "a")
    held = moment == "starting"
    serving.cluster.kubelet.hold = lambda pod: held and pod["metadata"]["namespace"] == namespace
    serving.train(namespace, "b")
    new = wait_for(lambda: (serving.status(namespace).get("canary") or {}).get("revision"), "a canary")
    if moment == "50":
        serving.canary(namespace, 10)
        serving.wait_for(namespace, "Progressing", reason="AwaitingRequests")
        serving.figures(namespace, new).answer(60)
    if not held:
        serving.canary(namespace, int(moment))
    serving.operators[-1].kill()
    serving.cluster.forget_lease()
    held = False
    if moment == "starting":
        for pod in serving.pods(namespace, new):
            serving.cluster.kubelet.run(pod)
    serving.operator().port()

    def answered() -> bool:
        status = serving.status(namespace)
        if (status.get("stable") or {}).get("revision") == new:
            return True
        serving.figures(namespace, new).answer(5)
        return False

    wait_for(answered, f"{new} is stable; {serving.status(namespace)}", 60)
    wait_for(lambda: serving.route(namespace) == {f"{new}-predictor": 100}, "it has all requests")
    seen = serving.weights(namespace)
    shares = [one.get(f"{new}-predictor", 0) for one in seen]
    assert shares == sorted(shares), f"never back: {seen}"
    assert seen[0] == {f"{old}-predictor": 100}


SHADOW = {"strategy": "Shadow", "shadow": {"percent": 50, "holdSeconds": 0}, "minimumRequests": 50}


def test_a_gateway_that_does_not_copy_requests_is_found_out_where_nobody_asks(
    serving: Serving, namespace: str
) -> None:
    serving.train(namespace, "a")
    serving.deploy(namespace, rollout=SHADOW)
    old = serving.stable(namespace, "a")
    serving.train(namespace, "b")
    serving.wait_for(namespace, "Progressing", reason="MirrorUnsupported")
    assert serving.condition(namespace, "Ready")["status"] == "True"
    assert all(one == {f"{old}-predictor": 100} for one in serving.weights(namespace))
    wait_for(lambda: len(serving.cluster.api.list(HTTP_ROUTE, namespace)) == 1, "the trial route is gone")


def test_a_shadow_gets_copies_then_takes_over(serving: Serving, namespace: str) -> None:
    serving.player.copy = lambda where, revision: serving.figures(where, revision).answer(1)
    serving.restart()  # What was found out about the gateway is remembered for a while.
    serving.train(namespace, "a")
    serving.deploy(namespace, rollout=SHADOW)
    old = serving.stable(namespace, "a")
    serving.train(namespace, "b")

    def copied() -> str | None:
        canary = serving.status(namespace).get("canary") or {}
        return canary["revision"] if canary.get("mirrored") == 50 else None

    def copied_to() -> list[str]:
        return mirrors_of(serving.cluster.api.get(HTTP_ROUTE, namespace, "flowers") or {})

    new = wait_for(copied, f"a shadow; {serving.status(namespace)}", 40)
    serving.wait_for(namespace, "Progressing", reason="AwaitingRequests")
    assert copied_to() == [f"{new}-predictor"]
    assert serving.route(namespace) == {f"{old}-predictor": 100}
    serving.figures(namespace, new).answer(60)
    assert serving.stable(namespace, "b") == new
    wait_for(lambda: not copied_to(), "no more copies")
    serving.player.copy = None


def test_a_gateway_that_refuses_is_told(serving: Serving, namespace: str) -> None:
    host = f"flowers.{namespace}.{DOMAIN}"
    serving.player.refuse = lambda route: "no such backend" if host in route["spec"]["hostnames"] else ""
    serving.train(namespace, "a")
    serving.deploy(namespace)
    said = serving.wait_for(namespace, "Ready", status="False", reason="GatewayMissing")
    assert "no such backend" in said["message"]
    serving.player.refuse = lambda route: ""


def test_the_scale_of_a_deployment_is_what_kubectl_scale_sets(serving: Serving, namespace: str) -> None:
    serving.train(namespace, "a")
    serving.deploy(namespace)
    revision = serving.stable(namespace, "a")
    serving.cluster.plane.kubectl("scale", "mdep/flowers", "--replicas=2", "-n", namespace)
    wait_for(lambda: len(serving.pods(namespace, revision)) == 2, "two pods")
    with pytest.raises(httpx.HTTPStatusError):
        serving.cluster.api.merge(
            MODEL_DEPLOYMENT, namespace, "flowers", {"spec": {"replicas": {"minimum": 0}}}
        )
