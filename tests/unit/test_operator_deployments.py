"""What is decided about a ModelDeployment: which objects there should be, and what the status says."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_api.reasons import Reason
from tunesmith_operator.findings import Finding
from tunesmith_operator.kinds import HTTP_ROUTE, SERVICE
from tunesmith_operator.model_deployment.children import (
    RUNTIME,
    http_route,
    inference_service,
    mark_of,
    revision_name,
    stable_service,
)
from tunesmith_operator.model_deployment.decide import DRAIN_SECONDS, decide
from tunesmith_operator.model_deployment.observe import (
    package_of,
    parse_gateway,
    parse_revision,
    parse_route,
)
from tunesmith_operator.model_deployment.observed import (
    Child,
    Observed,
    Package,
    Platform,
    Revision,
    Route,
    Workload,
)
from tunesmith_operator.model_deployment.pods import FETCH, parse_pod, trouble
from tunesmith_operator.model_deployment.verdict import trouble_of
from tunesmith_operator.obstacles import Conflict
from tunesmith_operator.plan import Change, Ensure, Plan, Remove
from tunesmith_operator.settings import Settings

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
SETTINGS = Settings(
    trainer_image="trainer:1",
    predictor_image="predictor:1",
    gateway="gateways/public",
    gateway_domain="models.test",
)
A, B = (Package(f"s3://models/{letter}", f"sha256:{letter * 64}", "store") for letter in "ab")


def deployment(**spec: Any) -> ModelDeployment:
    return ModelDeployment.model_validate(
        {
            "apiVersion": "tunesmith.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "flowers", "namespace": "team", "uid": "u-1", "generation": 3},
            "spec": {"model": {"trainingJob": "flowers"}, **spec},
        }
    )


def name_of(package: Package, one: ModelDeployment) -> str:
    return revision_name(one, package, SETTINGS)


def revision(package: Package, one: ModelDeployment, *, available: int = 1) -> Revision:
    name = name_of(package, one)
    body = inference_service(one, name, package, SETTINGS)
    return Revision(
        name,
        Child(f"uid-{name}", mark_of(body), True),
        package,
        NOON,
        Workload(True, 1, available),
        reachable=True,
    )


def said_of(package: Package, one: ModelDeployment, **more: Any) -> dict[str, Any]:
    return {"revision": name_of(package, one), "uri": package.uri, "digest": package.digest, **more}


def serving(one: ModelDeployment, **changes: Any) -> Observed:
    """A deployment at rest with A."""
    name = name_of(A, one)
    history = [{**said_of(A, one), "outcome": "Promoted", "when": "2026-11-30T10:00:00Z"}]
    status = {"stable": said_of(A, one), "history": history}
    route = http_route(one, {name: 100}, {}, frozenset({name}), SETTINGS)
    observed = Observed(
        deployment=one.model_copy(update={"status": None}),
        status=status,
        resource_version="7",
        package=A,
        pending=None,
        revisions={name: revision(A, one)},
        route=Route(Child("uid-route", mark_of(route), True), {name: 100}, {}, frozenset({name}), True),
        platform=Platform(address="10.0.0.1:80"),
        answered="",
    )
    return settled(replace(observed, **changes))


def settled(observed: Observed) -> Observed:
    """With the status parsed into the resource, as the server has both."""
    document = observed.deployment.to_dict() | {"status": dict(observed.status)}
    document["metadata"] = observed.deployment.metadata.model_dump(by_alias=True)
    return replace(observed, deployment=ModelDeployment.model_validate(document))


def at_rest(observed: Observed) -> Observed:
    """As it is once what was decided has been told."""
    plan = decide(observed, SETTINGS, NOON)
    return settled(replace(observed, status=plan.status)) if plan.status else observed


def kinds(plan: Plan) -> list[str]:
    return [type(one).__name__ + " " + one.kind.name for one in plan.actions]


def condition(plan: Plan, kind: str) -> Any:
    assert plan.status is not None
    return next(one for one in plan.status["conditions"] if one["type"] == kind)


def test_at_rest_nothing_is_done_and_nothing_is_said() -> None:
    plan = decide(at_rest(serving(deployment())), SETTINGS, NOON)
    assert plan == Plan()


def test_a_new_model_is_first_written_down_then_made() -> None:
    observed = at_rest(serving(deployment(), package=B))
    plan = decide(observed, SETTINGS, NOON)
    assert kinds(plan) == ["Ensure InferenceService"]
    assert observed.told.canary is not None
    assert observed.told.canary.revision == name_of(B, deployment())


@pytest.mark.parametrize(
    ("spec", "same"),
    [
        ({}, True),
        ({"replicas": {"minimum": 3}}, True),
        ({"rollout": {"keepWarmSeconds": 1}}, True),
        ({"compute": {"memory": "3Gi"}}, False),
        ({"explanations": {"enabled": False}}, False),
        ({"monitoring": {"feedback": {"enabled": True}}}, False),
    ],
)
def test_a_revision_is_the_model_and_all_that_its_pods_depend_on(spec: dict[str, Any], same: bool) -> None:
    assert (name_of(A, deployment(**spec)) == name_of(A, deployment())) is same


def test_a_revision_is_of_its_package_and_its_image() -> None:
    other = replace(SETTINGS, predictor_image="predictor:2")
    names = {
        name_of(A, deployment()),
        name_of(B, deployment()),
        revision_name(deployment(), A, other),
    }
    assert len(names) == 3
    assert all(len(name) <= 63 - len("-predictor") for name in names)


def test_of_an_earlier_revision_only_the_number_of_pods_follows_the_spec() -> None:
    before = deployment()
    now = deployment(compute={"memory": "3Gi"}, replicas={"minimum": 2})
    observed = serving(before, package=A)
    observed = settled(replace(observed, deployment=now))
    changes = [one for one in decide(observed, SETTINGS, NOON).actions if isinstance(one, Change)]
    (change,) = changes
    assert change.name == name_of(A, before)
    assert change.body["spec"] == {"predictor": {"minReplicas": 2, "maxReplicas": 2}}


def test_what_somebody_changed_is_written_again() -> None:
    observed = at_rest(serving(deployment()))
    assert observed.route is not None
    route = replace(observed.route, child=replace(observed.route.child, untouched=False))
    plan = decide(replace(observed, route=route), SETTINGS, NOON)
    (action,) = plan.actions
    assert isinstance(action, Ensure)
    assert (action.kind, action.uid) == (HTTP_ROUTE, "uid-route")


def test_a_revision_goes_once_it_is_out_of_the_route_and_has_drained() -> None:
    one = deployment()
    observed = at_rest(serving(one))
    gone = revision(B, one)
    history = [{**said_of(B, one), "outcome": "Rejected", "when": "2026-11-30T12:00:00Z"}]
    status = {**observed.status, "history": [*history, *observed.status["history"]]}
    observed = settled(replace(observed, status=status, revisions={**observed.revisions, gone.name: gone}))
    soon, later = NOON + timedelta(seconds=1), NOON + timedelta(seconds=DRAIN_SECONDS)
    assert not [a for a in decide(observed, SETTINGS, soon).actions if isinstance(a, Remove)]
    assert decide(observed, SETTINGS, soon).again_after is not None
    (action,) = [a for a in decide(observed, SETTINGS, later).actions if isinstance(a, Remove)]
    assert action.name == gone.name
    assert observed.route is not None
    routed = replace(observed.route, weights={**observed.route.weights, gone.name: 1})
    late = decide(replace(observed, route=routed), SETTINGS, later)
    assert not [a for a in late.actions if isinstance(a, Remove)]


def test_a_revision_that_is_kept_warm_is_thought_of_when_its_time_is_over() -> None:
    one = deployment(rollout={"keepWarmSeconds": 100})
    observed = serving(one)
    before = revision(B, one)
    earlier = {**said_of(B, one), "outcome": "Promoted", "when": "2026-11-30T09:00:00Z"}
    (latest,) = observed.status["history"]
    status = {**observed.status, "history": [{**latest, "when": "2026-11-30T12:00:00Z"}, earlier]}
    observed = settled(
        replace(observed, status=status, revisions={**observed.revisions, before.name: before})
    )
    plan = decide(observed, SETTINGS, NOON + timedelta(seconds=40))
    assert plan.again_after == 60
    assert not [a for a in plan.actions if isinstance(a, Remove)]
    late = decide(observed, SETTINGS, NOON + timedelta(seconds=100))
    assert [a.name for a in late.actions if isinstance(a, Remove)] == [before.name]


def test_without_a_gateway_a_plain_service_leads_to_the_stable_revision() -> None:
    settings = replace(SETTINGS, gateway="")
    one = deployment()
    observed = serving(one, route=None, platform=Platform(gateway=False))
    plan = decide(observed, settings, NOON)
    (action,) = plan.actions
    assert isinstance(action, Ensure)
    assert action.kind is SERVICE
    assert action.body["spec"] == stable_service(one, name_of(A, one))["spec"]
    assert plan.status is not None
    assert plan.status["url"] == "http://flowers.team.svc"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"platform": Platform(kserve=False)}, Reason.RUNTIME_MISSING),
        ({"conflict": Conflict("HTTPRoute", "flowers", "")}, Reason.NAME_CONFLICT),
        ({"leaving": ("the HTTPRoute flowers",)}, Reason.QUEUED),
    ],
)
def test_what_is_in_the_way_of_everything_is_said_and_nothing_is_done(
    changes: dict[str, Any], reason: Reason
) -> None:
    plan = decide(serving(deployment(), **changes), SETTINGS, NOON)
    assert plan.actions == ()
    assert condition(plan, "Progressing")["reason"] == reason.value


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answered": "flowers answered 503: nothing more"}, Reason.PREDICTOR_UNAVAILABLE),
        ({"answered": None}, Reason.ROLLING_OUT),
        ({"platform": Platform(gateway=False, complaint="no proxy.")}, Reason.GATEWAY_MISSING),
    ],
)
def test_ready_means_that_a_prediction_was_answered_through_the_gateway(
    changes: dict[str, Any], reason: Reason
) -> None:
    said = condition(decide(serving(deployment(), **changes), SETTINGS, NOON), "Ready")
    assert (said["status"], said["reason"]) == ("False", reason.value)


def test_a_stable_revision_without_pods_is_not_ready_and_stays_in_the_route() -> None:
    one = deployment()
    observed = serving(one, revisions={name_of(A, one): revision(A, one, available=0)})
    plan = decide(observed, SETTINGS, NOON)
    assert condition(plan, "Ready")["reason"] == Reason.PREDICTOR_UNAVAILABLE.value
    for action in plan.actions:
        assert isinstance(action, Ensure)
        assert action.body["spec"]["rules"][-1]["backendRefs"][0]["weight"] == 100


def test_a_revision_that_gets_more_pods_stays_in_the_route() -> None:
    one = deployment()
    growing = replace(revision(A, one), workload=Workload(settled=False, wanted=3, available=1))
    assert growing.ready
    assert not growing.complete
    observed = at_rest(serving(one))
    plan = decide(replace(observed, revisions={growing.name: growing}), SETTINGS, NOON)
    assert plan.actions == ()
    assert plan.status is None


def test_a_missing_model_does_not_touch_what_is_served() -> None:
    pending = Finding(Reason.TRAINING_JOB_MISSING, "There is no TrainingJob flowers here.")
    observed = at_rest(serving(deployment()))
    plan = decide(replace(observed, package=None, pending=pending), SETTINGS, NOON)
    assert condition(plan, "Ready")["status"] == "True"
    assert condition(plan, "Progressing")["reason"] == Reason.TRAINING_JOB_MISSING.value
    assert not [one for one in plan.actions if isinstance(one, Remove)]


# Children


def test_an_inference_service_holds_no_secret_where_it_serves_and_is_restricted() -> None:
    body = inference_service(deployment(), "flowers-1", A, SETTINGS)
    predictor = body["spec"]["predictor"]
    (fetch,) = predictor["initContainers"]
    assert {one["valueFrom"]["secretKeyRef"]["name"] for one in fetch["env"]} == {"store"}
    serve = predictor["model"]
    assert "containers" not in predictor
    assert serve["runtime"] == RUNTIME
    assert serve["storageUri"] == A.uri
    assert "env" not in serve
    assert serve["securityContext"] == fetch["securityContext"]
    assert fetch["securityContext"]["readOnlyRootFilesystem"] is True
    assert predictor["securityContext"]["runAsNonRoot"] is True
    assert predictor["automountServiceAccountToken"] is False
    assert not any(word in str(fetch["command"]) for word in ("sh", "bash"))


def test_a_model_in_a_claim_is_mounted_for_the_container_that_fetches() -> None:
    package = Package("pvc://models/jobs/a", A.digest)
    predictor = inference_service(deployment(), "flowers-1", package, SETTINGS)["spec"]["predictor"]
    (fetch,) = predictor["initContainers"]
    assert "--uri=file:///mnt/pvc/models/jobs/a" in fetch["args"]
    assert {"name": "claim", "mountPath": "/mnt/pvc/models", "readOnly": True} in fetch["volumeMounts"]
    assert predictor["volumes"][2]["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
    assert fetch["env"] == []


def test_a_route_leads_by_weight_and_by_header() -> None:
    body = http_route(deployment(), {"f-1": 90, "f-2": 10}, {}, frozenset({"f-2"}), SETTINGS)
    rest, named = body["spec"]["rules"]
    assert named["matches"][0]["headers"] == [{"name": "x-tunesmith-revision", "value": "f-2"}]
    assert [(one["name"], one["weight"]) for one in rest["backendRefs"]] == [
        ("f-1-predictor", 90),
        ("f-2-predictor", 10),
    ]
    assert body["spec"]["hostnames"] == ["flowers.team.models.test"]


# Reading


def test_a_route_counts_as_taken_at_its_own_generation_only() -> None:
    def route(generation: int, resolved: str = "True") -> Route:
        conditions = [
            {"type": kind, "status": status, "observedGeneration": generation, "message": "no such Service"}
            for kind, status in (("Accepted", "True"), ("ResolvedRefs", resolved))
        ]
        raw = {
            "metadata": {"generation": 2},
            "spec": {"rules": [{"backendRefs": [{"name": "f-1-predictor", "weight": 100}]}]},
            "status": {"parents": [{"conditions": conditions}]},
        }
        return parse_route(raw, Child("u", "m", True))

    assert route(2).accepted
    assert not route(1).accepted
    assert route(1).complaint == ""
    assert route(2, "False").complaint == "no such Service"
    assert route(2).weights == {"f-1": 100}


def test_a_gateway_works_when_it_is_programmed() -> None:
    listeners = [{"protocol": "HTTPS", "port": 443}, {"protocol": "HTTP", "port": 8000}]
    raw: dict[str, Any] = {
        "spec": {"listeners": listeners},
        "status": {"addresses": [{"value": "10.0.0.9"}], "conditions": []},
    }
    assert not parse_gateway(raw, True).gateway
    raw["status"]["conditions"] = [{"type": "Programmed", "status": "True"}]
    assert parse_gateway(raw, True).address == "10.0.0.9:8000"


def job(**status: Any) -> dict[str, Any]:
    spec = {"store": {"uri": "s3://models", "secretRef": {"name": "store"}}}
    return {"spec": spec, "status": status}


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, Reason.TRAINING_JOB_MISSING),
        (job(), Reason.MODEL_PENDING),
        (job(phase="Failed"), Reason.MODEL_PENDING),
        (job(model={"uri": "s3://m/a", "digest": A.digest, "verified": False}), Reason.MODEL_UNVERIFIED),
        (job(model="nonsense"), Reason.MODEL_PENDING),
        (job(model={"uri": "oci://m/a", "digest": A.digest, "verified": True}), Reason.PACKAGE_INVALID),
        (job(model={"uri": "file:///etc", "digest": A.digest, "verified": True}), Reason.PACKAGE_INVALID),
    ],
)
def test_only_a_verified_model_is_served(found: dict[str, Any] | None, reason: Reason) -> None:
    package, pending = package_of("flowers", found)
    assert package is None
    assert pending is not None
    assert pending.reason is reason


def test_a_verified_model_comes_with_the_secret_of_its_store() -> None:
    found = job(model={"uri": "file:///mnt/pvc/models/a", "digest": A.digest, "verified": True})
    package, _ = package_of("flowers", found)
    assert package == Package("pvc://models/a", A.digest, "store")


def pod(**status: Any) -> dict[str, Any]:
    metadata = {"name": "p-1", "uid": "u", "creationTimestamp": "2026-11-30T12:00:00Z"}
    return {"metadata": metadata, "status": status}


def ended(name: str, code: int, said: str, reason: str = "Error") -> dict[str, Any]:
    last = {"terminated": {"exitCode": code, "reason": reason, "message": said}}
    return {"name": name, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": last}


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (
            {"initContainerStatuses": [ended(FETCH, 27, "DigestMismatch: It is another. Publish it.")]},
            Reason.DIGEST_MISMATCH,
            "It is another. Publish it.",
        ),
        (
            {"initContainerStatuses": [ended(FETCH, 14, "StoreUnreachable: No answer.")]},
            Reason.STORE_UNREACHABLE,
            "No answer.",
        ),
        (
            {"containerStatuses": [ended("kserve-container", 29, "SelfTestFailed: They differ.")]},
            Reason.SELF_TEST_FAILED,
            "They differ.",
        ),
        (
            {"containerStatuses": [ended("kserve-container", 137, "", "OOMKilled")]},
            Reason.OUT_OF_MEMORY,
            "compute.memory",
        ),
        (
            {"containerStatuses": [ended("kserve-container", 1, "")]},
            Reason.INTERNAL_ERROR,
            "kubectl logs p-1 -c kserve-container",
        ),
        (
            {
                "containerStatuses": [
                    {
                        "name": "kserve-container",
                        "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}},
                    }
                ]
            },
            Reason.IMAGE_PULL_FAILED,
            "--predictor-image",
        ),
        (
            {
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/1 nodes are available.",
                    }
                ]
            },
            Reason.UNSCHEDULABLE,
            "0/1 nodes are available",
        ),
    ],
)
def test_what_keeps_a_predictor_is_told(status: dict[str, Any], reason: Reason, words: str) -> None:
    found = trouble((parse_pod(pod(**status)),))
    assert found is not None
    assert found.reason is reason
    assert words in found.message


def test_a_ready_pod_has_no_trouble() -> None:
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    assert trouble((parse_pod(pod(**ready, containerStatuses=[ended("kserve-container", 1, "")])),)) is None


@pytest.mark.parametrize(
    ("because", "advice"),
    [("RuntimeNotRecognized", "kubectl apply -k manifests/serving"), ("InvalidPredictorSpec", "controller")],
)
def test_what_keeps_kserve_from_running_a_revision_is_told(because: str, advice: str) -> None:
    body = inference_service(deployment(), "flowers-1", A, SETTINGS)
    body["metadata"]["creationTimestamp"] = "2026-11-30T12:00:00Z"
    failure = {"reason": because, "message": "Waiting for runtime to become available"}
    body["status"] = {"modelStatus": {"lastFailureInfo": failure}}
    found = trouble_of(parse_revision(body, Child("u", "", True), None, False, ()))
    assert found is not None
    assert found.reason is Reason.RUNTIME_MISSING
    assert failure["message"] in found.message
    assert advice in found.message
