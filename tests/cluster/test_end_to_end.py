"""From kubectl apply to predictions, on a real node with real photos, weights, S3, KServe and gateway."""

import time
from functools import partial

from tests.cluster import scenarios
from tests.cluster.load import Load
from tests.cluster.platform import SECRET, Team
from tests.cluster.scenarios import CANARY
from tests.testbed.kube_api import wait_for


def test_from_kubectl_apply_to_a_right_answer_with_its_reasons(team: Team) -> None:
    scenarios.first_model(team)


def test_a_second_model_takes_over_step_by_step_and_no_request_is_lost(team: Team) -> None:
    scenarios.better_model(team)


def test_a_revision_is_given_up_by_hand_and_then_the_one_before_serves_again(team: Team) -> None:
    scenarios.taken_back(team)


def test_a_worse_model_is_rejected_by_what_people_say_was_true(team: Team) -> None:
    scenarios.worse_model(team)


def test_a_shadow_gets_copies_of_requests_and_answers_none_before_it_takes_over(team: Team) -> None:
    good = team.status("modeldeployment", "insects")["stable"]["revision"]
    shadow = {"percent": 100, "holdSeconds": 15}
    limits = [{"metric": "errorRate", "maximum": 0.01}]
    rollout = {**CANARY, "strategy": "Shadow", "steps": None, "shadow": shadow, "analysis": limits}
    with Load(team, "insects") as load:
        changes = {"model": {"trainingJob": "insects"}, "rollout": rollout}
        team.merge("modeldeployment", "insects", {"spec": changes})

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
        team.merge("modeldeployment", "insects", body)

        def refused() -> bool:
            history = team.status("modeldeployment", "insects").get("history") or [{}]
            return bool(history[0].get("reason") == "DigestMismatch")

        wait_for(refused, "DigestMismatch", 120)
        time.sleep(2)
    assert set(load.served) == {before}
    assert load.failures == []
