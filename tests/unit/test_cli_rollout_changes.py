"""Promote, rollback, pause, resume: what they change of a ModelDeployment, and when they refuse."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tunesmith import gitops, rollout_ends
from tunesmith.deployment_view import next_step, step
from tunesmith.rollout_changes import Change, NothingToDo, pause, promotion, resume, rollback
from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_api.yaml_text import parse

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
A, B, C = ("flowers-" + letter * 8 for letter in "abc")


def revision(name: str) -> dict[str, Any]:
    return {"revision": name, "uri": f"s3://models/{name}", "digest": f"sha256:{name[-1] * 64}"}


def entry(name: str, outcome: str, reason: str = "Promoted") -> dict[str, Any]:
    return {**revision(name), "outcome": outcome, "reason": reason, "message": "", "when": NOW.isoformat()}


def deployment(
    stable: str = "",
    canary: str = "",
    history: tuple[dict[str, Any], ...] = (),
    rollout: dict[str, Any] | None = None,
    *,
    ready: bool = True,
    progressing: str = "",
    generation: tuple[int, int] = (3, 3),
) -> ModelDeployment:
    """As the server would have it; ``generation`` is the spec's and the one that the status is about."""
    reason = progressing or ("RollingOut" if canary else "Completed")
    moment = NOW.isoformat()
    conditions = [
        {
            "type": "Ready",
            "status": str(ready),
            "reason": "Serving" if ready else "PredictorUnavailable",
            "message": "It answers." if ready else "It does not answer.",
            "lastTransitionTime": moment,
        },
        {
            "type": "Progressing",
            "status": str(bool(canary)),
            "reason": reason,
            "message": f"{reason} is the case.",
            "lastTransitionTime": moment,
        },
    ]
    status: dict[str, Any] = {
        "conditions": conditions,
        "history": list(history),
        "observedGeneration": generation[1],
    }
    if stable:
        status |= {"stable": revision(stable), "url": "http://flowers.vision.example"}
    if canary:
        status["canary"] = {**revision(canary), "weight": 10, "step": 0, "since": moment}
    steps = [{"weight": 10, "holdSeconds": 120}, {"weight": 50, "holdSeconds": 60}]
    return ModelDeployment.model_validate(
        {
            "metadata": {"name": "flowers", "namespace": "vision", "generation": generation[0]},
            "spec": {
                "model": {"trainingJob": "flowers"},
                "rollout": {"strategy": "Canary", "steps": steps, **(rollout or {})},
            },
            "status": status,
        }
    )


PROMOTED_A = entry(A, "Promoted")
REJECTED_B = entry(B, "Rejected", "LimitExceeded")


@pytest.mark.parametrize(
    ("given", "named", "rollout"),
    [
        pytest.param(deployment(A, B), None, {"approvedRevision": B}, id="the canary"),
        pytest.param(deployment(A, B), B, {"approvedRevision": B}, id="the canary, named"),
        pytest.param(
            deployment(A, "", (REJECTED_B, PROMOTED_A), {"rejectedRevision": B}),
            B,
            {"approvedRevision": B, "rejectedRevision": None},
            id="one that was rejected, by name",
        ),
        pytest.param(
            deployment(A, B, (), {"rejectedRevision": C}),
            None,
            {"approvedRevision": B},
            id="another's rejection stays",
        ),
        pytest.param(
            deployment(A, "", (PROMOTED_A,), {"rejectedRevision": A}),
            A,
            {"approvedRevision": A, "rejectedRevision": None},
            id="a stable one that was rejected and has nothing to go back to",
        ),
    ],
)
def test_promotion_approves(given: ModelDeployment, named: str | None, rollout: dict[str, Any]) -> None:
    change = promotion(given, named)
    assert dict(change.rollout) == rollout
    assert change.patch == {"spec": {"rollout": rollout}}
    assert change.revision in change.sentence


@pytest.mark.parametrize(
    ("given", "named", "words"),
    [
        pytest.param(deployment(A, "", (PROMOTED_A,)), None, "no revision on its way", id="nothing new"),
        pytest.param(
            deployment(A, "", (REJECTED_B, PROMOTED_A)),
            None,
            f"tunesmith promote deployment/flowers {B}",
            id="a rejected one has to be named",
        ),
        pytest.param(deployment(A, "", (PROMOTED_A,)), A, "stable revision", id="the stable one"),
        pytest.param(deployment(A, B), C, f"knows no revision {C}. It knows {B}", id="an unknown one"),
        pytest.param(
            deployment(B, "", (entry(B, "Promoted"), PROMOTED_A)),
            A,
            "asks for another model",
            id="one that was replaced",
        ),
    ],
)
def test_promotion_refuses_what_there_is_nothing_to(
    given: ModelDeployment, named: str | None, words: str
) -> None:
    with pytest.raises(NothingToDo) as refusal:
        promotion(given, named)
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("given", "rollout", "words"),
    [
        pytest.param(
            deployment(A, B, (PROMOTED_A,), {"approvedRevision": B}),
            {"rejectedRevision": B, "approvedRevision": None},
            f"{A} has all the requests again",
            id="a canary is given up, its approval too",
        ),
        pytest.param(
            deployment(B, "", (entry(B, "Promoted"), PROMOTED_A)),
            {"rejectedRevision": B},
            f"{A} takes over",
            id="the one before takes over",
        ),
        pytest.param(
            deployment(
                C, "", (entry(C, "Promoted"), entry(B, "RolledBack"), entry(B, "Promoted"), PROMOTED_A)
            ),
            {"rejectedRevision": C},
            f"{A} takes over",
            id="not one that was sent away",
        ),
    ],
)
def test_rollback_rejects(given: ModelDeployment, rollout: dict[str, Any], words: str) -> None:
    change = rollback(given)
    assert dict(change.rollout) == rollout
    assert words in change.sentence


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param(deployment(), "none has answered yet", id="before the first"),
        pytest.param(deployment("", A), "none has answered yet", id="the first on its way"),
        pytest.param(deployment(A, "", (PROMOTED_A,)), "none before", id="only one so far"),
        pytest.param(
            deployment(A, "", (PROMOTED_A, entry(B, "RolledBack"), entry(B, "Promoted"), PROMOTED_A)),
            "none before",
            id="after a rollback",
        ),
        pytest.param(
            deployment(B, A, (entry(B, "Promoted"), PROMOTED_A), {"rejectedRevision": B}),
            f"on its way back from {B} to {A}",
            id="twice",
        ),
    ],
)
def test_rollback_refuses_where_there_is_nothing_to_go_back_to(given: ModelDeployment, words: str) -> None:
    with pytest.raises(NothingToDo, match=words):
        rollback(given)


def test_pause_and_resume_set_the_switch_and_say_what_it_means() -> None:
    assert dict(pause(deployment(A, B)).rollout) == {"paused": True}
    assert f"{B} keeps 10 % of the requests" in pause(deployment(A, B)).sentence
    assert "no revision starts" in pause(deployment(A)).sentence
    assert dict(resume(deployment(A, B)).rollout) == {"paused": False}
    assert "was not paused" in resume(deployment(A, B)).sentence
    paused = deployment(A, B, (), {"paused": True})
    assert "goes on" in resume(paused).sentence
    assert "tunesmith resume" in promotion(paused).sentence


# Who would undo it


def document(**metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "flowers", **metadata}}


CHANGE = Change({"approvedRevision": B, "rejectedRevision": None}, "", B)
OWNED: dict[str, Any] = {"f:spec": {"f:rollout": {"f:approvedRevision": {}}}}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (document(), ""),
        (document(annotations={"argocd.argoproj.io/tracking-id": "x"}), "Argo CD keeps it"),
        (
            document(managedFields=[{"manager": "argocd-controller", "operation": "Apply"}]),
            "Argo CD keeps it",
        ),
        (document(labels={"kustomize.toolkit.fluxcd.io/name": "x"}), "Flux keeps it"),
        (document(managedFields=[{"manager": "helm", "operation": "Update", "fieldsV1": OWNED}]), "(helm)"),
        (document(managedFields=[{"manager": "tunesmith", "operation": "Update", "fieldsV1": OWNED}]), ""),
        (document(managedFields=[{"manager": "kubectl-edit", "operation": "Update", "fieldsV1": OWNED}]), ""),
        (
            document(managedFields=[{"manager": "tunesmith", "operation": "Apply", "fieldsV1": OWNED}]),
            "(tunesmith submit)",
        ),
        (
            document(annotations={gitops.LAST_APPLIED: '{"spec":{"rollout":{"rejectedRevision":"x"}}}'}),
            "(kubectl apply)",
        ),
        (document(annotations={gitops.LAST_APPLIED: '{"spec":{"rollout":{"strategy":"Canary"}}}'}), ""),
        (document(annotations={gitops.LAST_APPLIED: '{"spec":{}}'}), ""),
    ],
)
def test_whoever_keeps_it_as_a_file_has_it_is_named_with_the_lines_to_write(
    given: dict[str, Any], words: str
) -> None:
    advice = gitops.advice(given, CHANGE)
    assert words in advice
    assert bool(words) == bool(advice)
    if advice:
        lines = [line[2:] for line in advice.splitlines() if line.startswith("  ")]
        assert parse("\n".join(lines)) == [{"spec": {"rollout": {"approvedRevision": B}}}]
        assert "take rollout.rejectedRevision away" in advice


# When it is over

BEHIND = (3, 2)


@pytest.mark.parametrize(
    ("end", "given", "code"),
    [
        (rollout_ends.serving, deployment(A), 0),
        (rollout_ends.serving, deployment(A, ready=False), None),
        (rollout_ends.serving, deployment(A, generation=BEHIND), None),
        (rollout_ends.settled, deployment(A, B), None),
        (rollout_ends.settled, deployment(B), 0),
        (rollout_ends.settled, deployment(A, progressing="CanaryRejected"), 32),
        (rollout_ends.settled, deployment(A, progressing="ModelPending"), None),
        (rollout_ends.promoted(B), deployment(A, B, (REJECTED_B,)), None),
        (rollout_ends.promoted(B), deployment(B), 0),
        (rollout_ends.promoted(B), deployment(B, ready=False), None),
        (rollout_ends.promoted(B), deployment(A, "", (REJECTED_B, PROMOTED_A)), 32),
        (rollout_ends.promoted(B), deployment(A, "", (entry(B, "Superseded"),)), 32),
        (rollout_ends.promoted(B), deployment(A, "", (REJECTED_B,), progressing="Paused"), None),
        (rollout_ends.promoted(B), deployment(A, "", (REJECTED_B,), generation=BEHIND), None),
        (rollout_ends.promoted(B), deployment(A), None),
        (rollout_ends.rolled_back(B), deployment(B, A), None),
        (rollout_ends.rolled_back(B), deployment(A, B), None),
        (rollout_ends.rolled_back(B), deployment(A), 0),
        (rollout_ends.rolled_back(B), deployment(A, ready=False), None),
        (rollout_ends.rolled_back(B), deployment(B, progressing="CanaryRejected"), 32),
        (rollout_ends.observed, deployment(A), 0),
        (rollout_ends.observed, deployment(A, generation=BEHIND), None),
    ],
)
def test_end_of_a_wait(end: rollout_ends.End, given: ModelDeployment, code: int | None) -> None:
    assert end(given) == code


# What is shown


def test_step_says_how_long_it_has_lasted_and_lasts() -> None:
    given = deployment(A, B)
    assert given.status is not None
    canary = given.status.canary
    assert canary is not None
    later = NOW + timedelta(seconds=42)
    assert step(given, canary, later) == "step 1 of 2, for 42 s of at least 2:00"
    waiting = canary.model_copy(update={"weight": 0})
    assert step(given, waiting, later) == "no requests yet, for 42 s of at most 10:00"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (deployment(A), "tunesmith predict deployment/flowers PHOTO -n vision"),
        (deployment(A, B), "tunesmith wait deployment/flowers --promoted"),
        (
            deployment(A, B, progressing="AwaitingApproval"),
            f"PHOTO --revision {B} -n vision, then tunesmith promote",
        ),
        (deployment(A, B, (), {"paused": True}), "tunesmith resume deployment/flowers"),
        (
            deployment(A, "", (REJECTED_B,), progressing="CanaryRejected"),
            f"tunesmith promote deployment/flowers {B}",
        ),
        (deployment(ready=False), "tunesmith status flowers"),
        (deployment(A, ready=False), "tunesmith wait deployment/flowers"),
        (deployment(A, generation=BEHIND), "tunesmith wait deployment/flowers"),
    ],
)
def test_next_step_is_the_command_that_helps(given: ModelDeployment, words: str) -> None:
    assert words in next_step(given)
