"""The verbs that ModelDeployments need: each is used, and without it the operator says which one it lacks."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.controlplane.serving import FLAGS, Serving
from tests.controlplane.stage import stage_of
from tests.controlplane.test_verbs import SERVING, Verb, granted_in_all, verb_of, without
from tests.testbed.kube_api import Object, wait_for

from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_operator.kinds import HTTP_ROUTE, INFERENCE_SERVICE, MODEL_DEPLOYMENT, SERVICE
from tunesmith_operator.model_deployment.children import revision_name
from tunesmith_operator.model_deployment.observed import Package
from tunesmith_operator.settings import Settings

REPLACE = {"strategy": "Replace", "keepWarmSeconds": 0}
SHADOW = {"strategy": "Shadow", "shadow": {"percent": 50, "holdSeconds": 0}, "minimumRequests": 1_000}
WITHOUT_GATEWAY = FLAGS[:2]
AT_THE_START = {
    (resource, verb)
    for resource in ("modeldeployments", "inferenceservices", "httproutes", "deployments", "services")
    for verb in ("list", "watch")
}


def granted() -> set[Verb]:
    return {verb for verb in granted_in_all() if verb[0] in SERVING}


def obstruct(serving: Serving, namespace: str, name: str, letter: str) -> None:
    """Have somebody else's InferenceService where a deployment will want its first revision."""
    body = {
        "apiVersion": MODEL_DEPLOYMENT.api_version,
        "kind": MODEL_DEPLOYMENT.name,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"model": {"trainingJob": "flowers"}},
    }
    settings = Settings(trainer_image="", predictor_image=FLAGS[1])
    package = Package(f"s3://models/{letter}", f"sha256:{letter * 64}", "store")
    revision = revision_name(ModelDeployment.model_validate(body), package, settings)
    foreign = {
        "apiVersion": INFERENCE_SERVICE.api_version,
        "kind": INFERENCE_SERVICE.name,
        "metadata": {"name": revision, "namespace": namespace},
        "spec": {"predictor": {"minReplicas": 1}},
    }
    serving.cluster.api.create(INFERENCE_SERVICE, foreign)


def condition(serving: Serving, namespace: str, name: str) -> Object:
    conditions = serving.status(namespace, name).get("conditions") or ()
    return next((one for one in conditions if one["type"] == "Progressing"), {})


def test_no_verb_is_unused_and_none_is_lacking(serving: Serving, namespace: str, tmp_path: Path) -> None:
    serving.operators[-1].kill()
    serving.cluster.forget_lease()
    stage = stage_of(serving.cluster, tmp_path)
    api = serving.cluster.api
    try:
        stage.start(*FLAGS).port()
        serving.train(namespace, "a")
        obstruct(serving, namespace, "taken", "a")
        serving.deploy(namespace, "taken")
        wait_for(
            lambda: condition(serving, namespace, "taken").get("reason") == "NameConflict",
            "a foreign InferenceService is noticed",
        )
        serving.deploy(namespace, rollout=REPLACE)
        old = serving.stable(namespace, "a")
        api.merge(MODEL_DEPLOYMENT, namespace, "flowers", {"spec": {"replicas": {"minimum": 2}}})
        wait_for(lambda: serving.status(namespace)["replicas"] == 2, "an InferenceService is changed")
        serving.train(namespace, "b")
        serving.stable(namespace, "b")
        wait_for(lambda: old not in serving.revisions(namespace), "an InferenceService is deleted", 40)
        serving.change(namespace, **SHADOW)
        serving.train(namespace, "c")
        wait_for(lambda: _probes(serving, namespace), "a route on which mirroring is tried")
        wait_for(lambda: not _probes(serving, namespace), "it is gone")
        stage.operators[-1].kill()
        stage.free_lease()
        stage.start(*WITHOUT_GATEWAY).port()
        wait_for(lambda: api.get(SERVICE, namespace, "flowers"), "a plain Service")
        api.merge(SERVICE, namespace, "flowers", {"spec": {"selector": {"component": "nobody"}}})
        wait_for(
            lambda: api.get(SERVICE, namespace, "flowers")["spec"]["selector"]["component"] == "predictor",  # type: ignore[index]
            "the Service is put back",
        )
        used = {verb for one in stage.proxy.seen if (verb := verb_of(one)) is not None}
    finally:
        stage.end()
        serving.operator().port()
    assert {verb for verb in used if verb[0] in SERVING} == granted()


def _probes(serving: Serving, namespace: str) -> list[str]:
    names = [one["metadata"]["name"] for one in serving.cluster.api.list(HTTP_ROUTE, namespace)]
    return [name for name in names if name.endswith("-probe")]


# Without a verb

Act = Callable[[Serving, str], None]


def nothing(serving: Serving, namespace: str) -> None:
    """Before the verb is taken away."""


def deploys(serving: Serving, namespace: str) -> None:
    serving.train(namespace, "a")
    serving.deploy(namespace, rollout=REPLACE)


def serves(serving: Serving, namespace: str) -> None:
    deploys(serving, namespace)
    serving.stable(namespace, "a")


def renews(serving: Serving, namespace: str) -> None:
    serving.train(namespace, "b")


def meets_a_stranger(serving: Serving, namespace: str) -> None:
    serving.train(namespace, "a")
    obstruct(serving, namespace, "flowers", "a")
    serving.deploy(namespace, rollout=REPLACE)


def grows(serving: Serving, namespace: str) -> None:
    serving.cluster.api.merge(MODEL_DEPLOYMENT, namespace, "flowers", {"spec": {"replicas": {"minimum": 2}}})


LACKING: dict[Verb, tuple[Act, Act]] = {
    ("modeldeployments", "get"): (nothing, deploys),
    ("modeldeployments/status", "patch"): (nothing, deploys),
    ("inferenceservices", "create"): (nothing, deploys),
    ("inferenceservices", "get"): (nothing, meets_a_stranger),
    ("inferenceservices", "list"): (nothing, deploys),
    ("inferenceservices", "patch"): (serves, grows),
    ("inferenceservices", "delete"): (serves, renews),
    ("httproutes", "get"): (nothing, deploys),
    ("httproutes", "list"): (nothing, deploys),
    ("httproutes", "create"): (nothing, deploys),
    ("httproutes", "patch"): (serves, renews),
    ("gateways", "get"): (nothing, deploys),
    ("deployments", "list"): (nothing, deploys),
    ("services", "list"): (nothing, deploys),
}
"""Per verb: what a deployment does before it is taken away, and what afterwards."""
PLAIN = {("services", "get"), ("services", "create"), ("services", "patch"), ("httproutes", "delete")}
"""Of a cluster without a gateway, and of trials of mirroring; seen to be used above."""


def test_tables_hold_every_verb() -> None:
    assert set(LACKING) | AT_THE_START | PLAIN == granted()


@pytest.mark.parametrize("verb", LACKING, ids=" ".join)
def test_verb_that_is_lacking_is_named(serving: Serving, namespace: str, verb: Verb) -> None:
    before, after = LACKING[verb]
    sentence = f'cannot {verb[1]} resource "{verb[0]}"'

    def said() -> bool:
        conditions = serving.status(namespace).get("conditions") or ()
        if any(sentence in one["message"] for one in conditions):
            return True
        lines = serving.operators[-1].log.splitlines()
        return any(sentence in line and namespace in line for line in lines)

    before(serving, namespace)
    with without(serving.cluster, verb):
        after(serving, namespace)
        if verb == ("inferenceservices", "delete"):
            serving.stable(namespace, "b")
        wait_for(said, f"a word about {verb}", 45)
        serving.cluster.api.delete(MODEL_DEPLOYMENT, namespace, "flowers")
