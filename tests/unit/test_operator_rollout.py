"""The rollout: a pure state machine, played step by step."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tunesmith_api.model_deployment import Rollout
from tunesmith_api.reasons import Reason
from tunesmith_api.status import HISTORY_LENGTH
from tunesmith_operator.findings import Finding
from tunesmith_operator.model_deployment.analysis import Judgement
from tunesmith_operator.model_deployment.rollout import (
    Facts,
    Move,
    State,
    Target,
    advance,
    predecessor,
    warm,
    weights,
)

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
CANARY = {
    "strategy": "Canary",
    "steps": [{"weight": 10, "holdSeconds": 60}, {"weight": 50, "holdSeconds": 60}],
    "progressDeadlineSeconds": 300,
    "minimumRequests": 10,
}
PASSED, WAITING = Judgement("Passed", "All is well."), Judgement("Waiting", "3 of 10 requests.")
BROKEN = Judgement("Broken", "errorRate is 0.5, and must be at most 0.01.")


def target(letter: str) -> Target:
    return Target(f"flowers-{letter * 8}", f"s3://models/{letter}", f"sha256:{letter * 64}")


@dataclass
class Play:
    """A rollout whose world a test moves."""

    spec: dict[str, Any] = field(default_factory=lambda: dict(CANARY))
    state: State = field(default_factory=State)
    now: datetime = NOON
    ready: set[str] = field(default_factory=set)
    incomplete: set[str] = field(default_factory=set)
    trouble: dict[str, Finding] = field(default_factory=dict)
    judgement: Judgement = PASSED
    mirrors: bool | None = True
    reached: bool = True
    obstacle: Finding | None = None
    told: list[str] = field(default_factory=list)

    def look(self, wanted: Target | None) -> Move:
        """One look."""
        facts = Facts(
            ready=frozenset(self.ready),
            complete=frozenset(self.ready - self.incomplete),
            trouble=self.trouble,
            judgement=self.judgement,
            reached=self.reached,
            mirrors=self.mirrors,
            obstacle=self.obstacle,
        )
        move = advance(self.state, wanted, facts, Rollout.model_validate(self.spec), self.now)
        self.state = move.state
        self.told += [news.reason for news in move.news]
        return move

    def settle(self, wanted: Target | None) -> Move:
        """Look until nothing changes."""
        for _ in range(20):
            before = self.state
            move = self.look(wanted)
            if move.state == before:
                return move
        raise AssertionError("it does not come to rest")

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def serves(self, letter: str) -> "Play":
        """With a stable revision."""
        self.ready.add(target(letter).revision)
        spec, self.spec = self.spec, {"strategy": "Replace"}
        self.settle(target(letter))
        self.spec = spec
        self.told.clear()
        return self

    @property
    def shares(self) -> dict[str, int]:
        return {name[-1]: share for name, share in weights(self.state, frozenset(self.ready)).items()}

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(entry.revision[-1], entry.outcome) for entry in self.state.history]


def test_the_first_revision_takes_over_when_it_is_ready_and_nothing_answers_before() -> None:
    play = Play()
    move = play.settle(target("a"))
    assert move.progressing
    assert play.shares == {}
    play.ready.add(target("a").revision)
    play.settle(target("a"))
    assert play.shares == {"a": 100}
    assert play.outcomes == [("a", "Promoted")]


def test_a_canary_goes_step_by_step_and_each_step_lasts_its_time() -> None:
    play = Play().serves("a")
    play.settle(target("b"))
    assert play.shares == {"a": 100}, "not before it is ready"
    play.ready.add(target("b").revision)
    play.settle(target("b"))
    assert play.shares == {"a": 90, "b": 10}
    play.later(59)
    play.settle(target("b"))
    assert play.shares == {"a": 90, "b": 10}
    play.later(1)
    play.settle(target("b"))
    assert play.shares == {"a": 50, "b": 50}
    play.later(60)
    play.settle(target("b"))
    assert play.shares == {"b": 100}
    assert play.outcomes == [("b", "Promoted"), ("a", "Promoted")]
    assert play.told == ["RollingOut", "RollingOut", "RollingOut", "Promoted"]


def test_a_canary_that_breaks_a_limit_loses_its_requests_at_once_and_is_not_tried_again() -> None:
    play = Play().serves("a")
    play.ready.add(target("b").revision)
    play.settle(target("b"))
    play.judgement = BROKEN
    move = play.look(target("b"))
    assert play.shares == {"a": 100}
    assert move.finding.reason is Reason.CANARY_REJECTED
    assert "errorRate is 0.5" in move.finding.message
    play.judgement = PASSED
    play.later(10_000)
    again = play.settle(target("b"))
    assert play.shares == {"a": 100}
    assert again.finding.reason is Reason.CANARY_REJECTED
    assert play.outcomes[0] == ("b", "Rejected")


def test_a_rejected_revision_is_tried_again_when_a_person_vouches_for_it() -> None:
    play = Play().serves("a")
    play.ready.add(target("b").revision)
    play.settle(target("b"))
    play.judgement = BROKEN
    play.settle(target("b"))
    play.spec["approvedRevision"] = target("b").revision
    play.settle(target("b"))
    assert play.shares == {"b": 100}, "approved means: without steps"


def test_a_better_model_follows_a_rejected_one() -> None:
    play = Play().serves("a")
    play.ready |= {target("b").revision, target("c").revision}
    play.settle(target("b"))
    play.judgement = BROKEN
    play.settle(target("b"))
    play.judgement = PASSED
    play.settle(target("c"))
    assert play.shares == {"a": 90, "c": 10}


def test_a_canary_without_enough_requests_waits_and_is_given_up_in_the_end() -> None:
    play = Play().serves("a")
    play.ready.add(target("b").revision)
    play.judgement = WAITING
    play.settle(target("b"))
    play.later(359)
    move = play.settle(target("b"))
    assert (move.finding.reason, play.shares) == (Reason.AWAITING_REQUESTS, {"a": 90, "b": 10})
    play.later(1)
    move = play.look(target("b"))
    assert move.finding.reason is Reason.CANARY_REJECTED
    assert "minimumRequests" in move.finding.message
    assert play.shares == {"a": 100}


def test_a_canary_whose_pods_go_gets_nothing_until_they_are_back_and_begins_its_step_again() -> None:
    play = Play().serves("a")
    play.ready.add(target("b").revision)
    play.settle(target("b"))
    play.later(50)
    play.ready.discard(target("b").revision)
    assert play.shares == {"a": 100}, "also before anybody has decided"
    move = play.settle(target("b"))
    assert move.progressing
    play.ready.add(target("b").revision)
    play.later(50)
    play.settle(target("b"))
    assert play.shares == {"a": 90, "b": 10}
    play.later(59)
    play.settle(target("b"))
    assert play.shares == {"a": 90, "b": 10}


def test_a_revision_that_is_not_ready_in_time_is_rejected_with_what_kept_it() -> None:
    play = Play().serves("a")
    play.trouble[target("b").revision] = Finding(Reason.IMAGE_PULL_FAILED, "The image cannot be pulled.")
    move = play.settle(target("b"))
    assert (move.progressing, move.finding.reason) == (True, Reason.IMAGE_PULL_FAILED)
    play.later(300)
    move = play.look(target("b"))
    assert "was not ready within 300 s. The image cannot be pulled." in move.finding.message
    assert play.state.history[0].reason == "ImagePullFailed"


def test_an_altered_package_is_rejected_without_patience() -> None:
    play = Play()
    play.trouble[target("a").revision] = Finding(Reason.DIGEST_MISMATCH, "model.onnx is another.")
    play.settle(target("a"))
    assert play.outcomes == [("a", "Rejected")]
    assert play.state.history[0].reason == "DigestMismatch"
    assert play.state.stable is None


def test_manual_approval_waits_after_the_last_step() -> None:
    play = Play().serves("a")
    play.spec["approval"] = "Manual"
    play.ready.add(target("b").revision)
    for _ in range(3):
        play.settle(target("b"))
        play.later(60)
    move = play.settle(target("b"))
    assert move.finding.reason is Reason.AWAITING_APPROVAL
    assert play.shares == {"a": 50, "b": 50}
    play.judgement = BROKEN
    assert play.look(target("b")).finding.reason is Reason.CANARY_REJECTED, "it is still watched"


def test_approval_promotes() -> None:
    play = Play().serves("a")
    play.spec["approval"] = "Manual"
    play.ready.add(target("b").revision)
    play.settle(target("b"))
    play.spec["approvedRevision"] = target("b").revision
    play.settle(target("b"))
    assert play.shares == {"b": 100}


def test_a_person_rejects_a_canary() -> None:
    play = Play().serves("a")
    play.ready.add(target("b").revision)
    play.settle(target("b"))
    play.spec["rejectedRevision"] = target("b").revision
    play.settle(target("b"))
    assert play.shares == {"a": 100}
    assert play.outcomes[0] == ("b", "Rejected")


def test_a_rollback_brings_the_revision_before_back_without_steps() -> None:
    play = Play().serves("a").serves("b")
    play.spec["rejectedRevision"] = target("b").revision
    play.settle(target("b"))
    assert play.shares == {"a": 100}
    assert play.outcomes[:2] == [("a", "Promoted"), ("b", "RolledBack")]
    play.spec.pop("rejectedRevision")
    play.settle(target("b"))
    assert play.shares == {"a": 100}, "what was sent away stays away"


def test_a_rollback_goes_back_once_more() -> None:
    play = Play().serves("a").serves("b").serves("c")
    play.spec["rejectedRevision"] = target("c").revision
    play.settle(target("c"))
    assert play.shares == {"b": 100}
    play.spec["rejectedRevision"] = target("b").revision
    play.settle(target("c"))
    assert play.shares == {"a": 100}


def test_without_a_revision_to_go_back_to_the_stable_one_stays() -> None:
    play = Play().serves("a")
    play.spec["rejectedRevision"] = target("a").revision
    play.settle(target("a"))
    assert play.shares == {"a": 100}


def test_paused_nothing_moves_but_a_dead_canary_gets_nothing() -> None:
    play = Play().serves("a")
    play.spec["paused"] = True
    move = play.settle(target("b"))
    assert move.finding.reason is Reason.PAUSED
    assert play.state.canary is None
    play.spec["paused"] = False
    play.ready.add(target("b").revision)
    play.settle(target("b"))
    play.spec["paused"] = True
    play.later(1_000)
    play.settle(target("b"))
    assert play.shares == {"a": 90, "b": 10}
    play.ready.discard(target("b").revision)
    play.settle(target("b"))
    assert play.state.canary is not None
    assert play.state.canary.weight == 0


def test_a_newer_model_takes_the_place_of_one_on_its_way() -> None:
    play = Play().serves("a")
    play.ready |= {target("b").revision, target("c").revision}
    play.settle(target("b"))
    play.settle(target("c"))
    assert play.shares == {"a": 90, "c": 10}
    assert play.outcomes[0] == ("b", "Superseded")
    play.settle(target("b"))
    assert play.shares == {"a": 90, "b": 10}, "it was not rejected"


def test_a_spec_that_wants_the_stable_revision_again_ends_the_canary() -> None:
    play = Play().serves("a")
    play.ready.add(target("b").revision)
    play.settle(target("b"))
    play.settle(target("a"))
    assert play.shares == {"a": 100}
    assert play.state.canary is None


def test_without_a_model_what_is_on_its_way_goes_on() -> None:
    play = Play().serves("a")
    play.ready.add(target("b").revision)
    play.settle(target("b"))
    play.later(60)
    play.settle(None)
    assert play.shares == {"a": 50, "b": 50}


def test_replace_waits_for_all_pods() -> None:
    play = Play(spec={"strategy": "Replace"}).serves("a")
    play.spec = {"strategy": "Replace"}
    play.ready.add(target("b").revision)
    play.incomplete.add(target("b").revision)
    play.settle(target("b"))
    assert play.shares == {"a": 100}
    play.incomplete.clear()
    play.settle(target("b"))
    assert play.shares == {"b": 100}


@pytest.mark.parametrize("spec", [CANARY, {"strategy": "Replace"}])
def test_what_the_gateway_does_not_reach_yet_gets_no_request(spec: dict[str, Any]) -> None:
    play = Play().serves("a")
    play.spec = dict(spec)
    play.ready.add(target("b").revision)
    play.reached = False
    move = play.settle(target("b"))
    assert play.shares == {"a": 100}
    assert move.progressing
    assert "does not reach it yet" in move.finding.message
    play.reached = True
    play.settle(target("b"))
    assert play.shares.get("b", 0) > 0
    play.reached = False  # It is not asked any more once it has requests.
    for _ in range(3):
        play.later(60)
        play.settle(target("b"))
    assert play.shares == {"b": 100}


def test_without_a_gateway_a_canary_is_not_begun_but_the_first_revision_is() -> None:
    play = Play(obstacle=Finding(Reason.GATEWAY_MISSING, "There is no Gateway."))
    play.ready |= {target("a").revision, target("b").revision}
    play.settle(target("a"))
    assert play.shares == {"a": 100}
    move = play.settle(target("b"))
    assert move.finding.reason is Reason.GATEWAY_MISSING
    assert play.shares == {"a": 100}


SHADOW = {"strategy": "Shadow", "shadow": {"percent": 50, "holdSeconds": 60}, "minimumRequests": 10}


def test_a_shadow_gets_copies_and_then_takes_over() -> None:
    play = Play(spec=dict(SHADOW)).serves("a")
    play.ready.add(target("b").revision)
    play.settle(target("b"))
    assert play.shares == {"a": 100}
    assert play.state.canary is not None
    assert play.state.canary.mirrored == 50
    play.later(60)
    play.settle(target("b"))
    assert play.shares == {"b": 100}


def test_a_gateway_that_does_not_mirror_is_not_asked_to() -> None:
    play = Play(spec=dict(SHADOW), mirrors=False).serves("a")
    play.ready.add(target("b").revision)
    move = play.settle(target("b"))
    assert move.finding.reason is Reason.MIRROR_UNSUPPORTED
    assert play.state.canary is not None
    assert play.state.canary.mirrored == 0


def test_the_revision_before_is_kept_warm_for_its_time() -> None:
    play = Play().serves("a").serves("b")
    rollout = Rollout.model_validate({"keepWarmSeconds": 100})
    kept = warm(play.state, rollout, NOON + timedelta(seconds=99))
    assert kept is not None
    assert kept.revision == target("a").revision
    assert warm(play.state, rollout, NOON + timedelta(seconds=100)) is None


def test_the_history_is_bounded_and_never_forgets_whom_to_go_back_to() -> None:
    play = Play().serves("a").serves("b")
    play.trouble = {
        target(letter).revision: Finding(Reason.DIGEST_MISMATCH, "It is another.")
        for letter in "cdef0123456789"
    }
    for letter in "cdef0123456789":
        play.settle(target(letter))
    assert len(play.state.history) == HISTORY_LENGTH
    before = predecessor(play.state)
    assert before is not None
    assert before.revision == target("a").revision


@pytest.mark.parametrize("seconds", [0, 30, 59, 60, 61, 119, 125, 400])
def test_an_operator_that_takes_over_at_any_moment_comes_to_the_same_end(seconds: int) -> None:
    """Its state is the status alone: looking twice at a moment changes no more than looking once."""
    play = Play().serves("a")
    play.ready.add(target("b").revision)
    play.settle(target("b"))
    play.later(seconds)
    twin = replace(play, told=[])
    twin.look(target("b"))
    twin.settle(target("b"))
    play.settle(target("b"))
    assert twin.state == play.state
    for _ in range(3):
        play.later(60)
        play.settle(target("b"))
    assert play.shares == {"b": 100}
