"""How a new revision takes over: a state machine without I/O, whose state is the resource's own status.

Killed at any moment, an operator goes on from what the status says. A step's clock is ``canary.since``;
weights of the route follow from the state, never the other way round.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from tunesmith_api import revisions
from tunesmith_api.model_deployment import Rollout
from tunesmith_api.reasons import Reason
from tunesmith_api.status import (
    HISTORY_LENGTH,
    CanaryStatus,
    HistoryEntry,
    ModelDeploymentStatus,
    RevisionStatus,
)
from tunesmith_operator.findings import Finding
from tunesmith_operator.model_deployment.analysis import Judgement
from tunesmith_operator.model_deployment.pods import FINAL
from tunesmith_operator.plan import News

REACH_SECONDS = 0.3
LOOK_SECONDS = 2.0
"""How often the predictors are asked while a revision is tried out."""
_LONGEST = 1_000
Outcome = Literal["Promoted", "RolledBack", "Rejected", "Superseded"]
_NAMED = Finding(Reason.ROLLED_BACK, "spec.rollout.rejectedRevision names it.")


@dataclass(frozen=True)
class Target:
    """The revision that the spec asks for."""

    revision: str
    uri: str
    digest: str


@dataclass(frozen=True)
class State:
    """Who answers, who is tried out, and what became of earlier ones (the newest first)."""

    stable: RevisionStatus | None = None
    canary: CanaryStatus | None = None
    history: tuple[HistoryEntry, ...] = ()

    @classmethod
    def of(cls, status: ModelDeploymentStatus) -> "State":
        """As a status has it."""
        return cls(status.stable, status.canary, status.history)


@dataclass(frozen=True)
class Facts:
    """What the cluster says of the revisions.

    Attributes:
        ready: may be sent requests.
        complete: have all their pods.
        reached: the gateway has been seen to reach the canary; where it has not, no request is sent there.
        trouble: what keeps a revision from being ready.
        judgement: of the analysis, for the canary's present step.
        mirrors: whether the gateway copies requests; None while that is not known.
        obstacle: why no new revision can be tried out here at all.
    """

    ready: frozenset[str]
    complete: frozenset[str]
    trouble: Mapping[str, Finding]
    judgement: Judgement
    reached: bool = True
    mirrors: bool | None = None
    obstacle: Finding | None = None


@dataclass(frozen=True)
class Move:
    """What a look at the rollout comes to.

    Attributes:
        state: as it should be now.
        finding: for the condition Progressing.
        progressing: whether a revision is on its way.
        news: for events.
        again_after: seconds until the next look, news or not.
    """

    state: State
    finding: Finding
    progressing: bool = False
    news: tuple[News, ...] = ()
    again_after: float | None = None


def advance(state: State, target: Target | None, facts: Facts, rollout: Rollout, now: datetime) -> Move:
    """One step of a rollout, at most."""
    wanted = _wanted(state, target, rollout)
    for policy in (_nothing_new, _rejected_by_person, _paused, _another, _blocked, _failed, _start, _try_out):
        move = policy(state, wanted, facts, rollout, now)
        if move is not None:
            return move
    raise AssertionError("the last policy always answers")


def weights(state: State, ready: frozenset[str]) -> dict[str, int]:
    """Percent of the requests by revision; a canary that is not ready gets none."""
    if state.stable is None:
        return {}
    canary = state.canary
    share = canary.weight if canary is not None and canary.revision in ready else 0
    shares = {state.stable.revision: 100 - share}
    if canary is not None:
        shares[canary.revision] = share
    return {revision: percent for revision, percent in shares.items() if percent}


def warm(state: State, rollout: Rollout, now: datetime) -> HistoryEntry | None:
    """The revision before the stable one, while it is to be kept ready; its entry in the history."""
    before = predecessor(state)
    promoted = next((one for one in state.history if one.outcome == "Promoted"), None)
    if before is None or promoted is None:
        return None
    return before if now < promoted.when + timedelta(seconds=rollout.keep_warm_seconds) else None


def warm_for(state: State, rollout: Rollout, now: datetime) -> float | None:
    """Seconds until the revision before the stable one need not be kept any more; None when none is kept."""
    if warm(state, rollout, now) is None:
        return None
    promoted = next(one for one in state.history if one.outcome == "Promoted")
    return max(0.0, (promoted.when - now).total_seconds() + rollout.keep_warm_seconds)


def predecessor(state: State, without: str | None = None) -> HistoryEntry | None:
    """The last revision before the stable one that had all the traffic and was not sent away since."""
    stable = state.stable.revision if state.stable else None
    return revisions.predecessor(state.history, stable, without)


def _wanted(state: State, target: Target | None, rollout: Rollout) -> Target | None:
    """The target, unless a person or the analysis has turned it down."""
    stable = state.stable
    down = rollout.rejected_revision
    if stable is not None and stable.revision == down:
        before = predecessor(state, down)
        other = None if target is None or target.revision == down else target
        return Target(before.revision, before.uri, before.digest) if before is not None else other
    if target is None:
        # The model's job is gone or begins anew: what is on its way goes on.
        return _as_target(state.canary or stable)
    staying = _as_target(stable)
    if target.revision == down or _turned_down(state, target.revision, rollout):
        return staying
    return target


def _as_target(one: RevisionStatus | None) -> Target | None:
    return None if one is None else Target(one.revision, one.uri, one.digest)


def _turned_down(state: State, revision: str, rollout: Rollout) -> bool:
    """Whether the last that is known of a revision is that it was rejected, and nobody vouches for it."""
    if rollout.approved_revision == revision:
        return False
    last = next((one for one in state.history if one.revision == revision), None)
    return last is not None and last.outcome in ("Rejected", "RolledBack")


def _nothing_new(
    state: State, wanted: Target | None, facts: Facts, rollout: Rollout, now: datetime
) -> Move | None:
    stable, canary = state.stable, state.canary
    if wanted is None and canary is None:
        finding = Finding(Reason.COMPLETED, "No revision is on its way.")
        if state.history and state.history[0].outcome == "Rejected":
            finding = _turned_down_finding(state.history[0])
        return Move(state, finding)
    if stable is None or wanted is None or wanted.revision != stable.revision:
        return None
    if canary is None:
        last = state.history[0] if state.history else None
        if last is not None and last.outcome == "Rejected":
            return Move(state, _turned_down_finding(last))
        return Move(state, Finding(Reason.COMPLETED, f"{stable.revision} has all the traffic."))
    if canary.revision == rollout.rejected_revision:
        return None
    return _end(state, "Superseded", Finding(Reason.COMPLETED, "The spec no longer asks for it."), now)


def _turned_down_finding(entry: HistoryEntry) -> Finding:
    return Finding(
        Reason.CANARY_REJECTED,
        f"{entry.revision} was rejected and is not tried again by itself: {entry.message} Train a better "
        "model, or have it tried again with tunesmith promote.",
    )


def _rejected_by_person(
    state: State, wanted: Target | None, facts: Facts, rollout: Rollout, now: datetime
) -> Move | None:
    canary = state.canary
    if canary is None or canary.revision != rollout.rejected_revision:
        return None
    return _end(state, "Rejected", _NAMED, now)


def _paused(
    state: State, wanted: Target | None, facts: Facts, rollout: Rollout, now: datetime
) -> Move | None:
    if not rollout.paused:
        return None
    message = "spec.rollout.paused is true. Set it to false to go on."
    return Move(_withdrawn(state, facts, now), Finding(Reason.PAUSED, message))


def _another(
    state: State, wanted: Target | None, facts: Facts, rollout: Rollout, now: datetime
) -> Move | None:
    """Begin with the revision that is wanted; one on its way that is not gives way."""
    canary = state.canary
    if wanted is None:
        return None
    if canary is not None and canary.revision == wanted.revision:
        return None
    if canary is not None:
        message = f"{wanted.revision} is wanted instead."
        state = _end(state, "Superseded", Finding(Reason.COMPLETED, message), now).state
    new = CanaryStatus(
        revision=wanted.revision, uri=wanted.uri, digest=wanted.digest, weight=0, step=0, since=now
    )
    finding = Finding(Reason.ROLLING_OUT, f"{wanted.revision} starts.")
    news = (News(False, Reason.ROLLING_OUT.value, f"{wanted.revision} starts, with {wanted.digest}."),)
    return Move(replace(state, canary=new), finding, True, news, LOOK_SECONDS)


def _blocked(
    state: State, wanted: Target | None, facts: Facts, rollout: Rollout, now: datetime
) -> Move | None:
    """Without a gateway nothing can be tried out; the first revision needs none of that."""
    if facts.obstacle is None or state.stable is None or _at_once(state, wanted, rollout):
        return None
    return Move(state, facts.obstacle, True, again_after=30.0)


def _failed(
    state: State, wanted: Target | None, facts: Facts, rollout: Rollout, now: datetime
) -> Move | None:
    """Not ready: a while of patience, none for a package that is not what it should be."""
    canary = state.canary
    assert canary is not None
    if canary.revision in facts.ready:
        return None
    found = facts.trouble.get(canary.revision)
    if found is not None and found.reason in FINAL:
        return _end(state, "Rejected", found, now)
    if _share(canary):
        message = f"{canary.revision} is not ready any more; it gets no requests until it is."
        return Move(
            _withdrawn(state, facts, now),
            found or Finding(Reason.PREDICTOR_UNAVAILABLE, message),
            True,
            (News(True, Reason.PREDICTOR_UNAVAILABLE.value, message),),
            LOOK_SECONDS,
        )
    left = _left(canary, rollout.progress_deadline_seconds, now)
    if left <= 0:
        late = f"It was not ready within {rollout.progress_deadline_seconds} s."
        message = f"{late} {found.message}" if found else late
        reason = found.reason if found else Reason.DEADLINE_EXCEEDED
        return _end(state, "Rejected", Finding(reason, message), now)
    return Move(
        state,
        found or Finding(Reason.ROLLING_OUT, f"{canary.revision} starts."),
        True,
        again_after=min(left, 30.0),
    )


def _start(state: State, wanted: Target | None, facts: Facts, rollout: Rollout, now: datetime) -> Move | None:
    """What is not tried out takes over when it has all its pods; the rest begins its first step."""
    canary = state.canary
    assert canary is not None
    full = canary.revision in facts.complete
    # The first revision has no route yet that could lead to it, nor requests that could be lost.
    unknown = state.stable is not None and not _share(canary) and not facts.reached
    if full and unknown:
        message = f"{canary.revision} is ready; the gateway does not reach it yet."
        finding = Finding(Reason.ROLLING_OUT, message)
        return Move(state, finding, True, again_after=REACH_SECONDS)
    if _at_once(state, wanted, rollout):
        if full:
            return _promote(state, rollout, now)
    elif _share(canary):
        return None
    elif rollout.strategy == "Shadow" and not facts.mirrors:
        return _without_mirror(state, facts)
    elif full:
        return _begin_step(state, canary.step, rollout, now)
    finding = Finding(Reason.ROLLING_OUT, f"{canary.revision} answers; the rest of its pods start.")
    return Move(state, finding, True, again_after=LOOK_SECONDS)


def _try_out(state: State, wanted: Target | None, facts: Facts, rollout: Rollout, now: datetime) -> Move:
    """In a step: go back, wait, or go on."""
    canary, said = state.canary, facts.judgement
    assert canary is not None
    if said.verdict == "Broken":
        return _end(state, "Rejected", Finding(Reason.LIMIT_EXCEEDED, said.message), now)
    hold = _hold(rollout, canary.step)
    left = _left(canary, hold, now)
    if said.verdict == "Waiting":
        patience = left + rollout.progress_deadline_seconds
        if patience <= 0:
            message = (
                f"{hold + rollout.progress_deadline_seconds} s were not enough for a verdict: {said.message} "
                "Send more requests, or lower rollout.minimumRequests."
            )
            return _end(state, "Rejected", Finding(Reason.AWAITING_REQUESTS, message), now)
        finding = Finding(Reason.AWAITING_REQUESTS, f"{state_words(state)}. {said.message}")
        return Move(state, finding, True, again_after=LOOK_SECONDS)
    if left > 0:
        message = f"{state_words(state)} for {hold} s. {said.message}"
        return Move(state, Finding(Reason.ROLLING_OUT, message), True, again_after=min(left, LOOK_SECONDS))
    last = rollout.strategy == "Shadow" or canary.step + 1 >= len(rollout.steps or ())
    if not last:
        return _begin_step(state, canary.step + 1, rollout, now)
    if rollout.approval == "Manual":
        message = (
            f"{state_words(state)}. {said.message} It waits for a person: tunesmith promote, or "
            f"spec.rollout.approvedRevision: {canary.revision}."
        )
        return Move(state, Finding(Reason.AWAITING_APPROVAL, message), True, again_after=LOOK_SECONDS)
    return _promote(state, rollout, now)


def _at_once(state: State, wanted: Target | None, rollout: Rollout) -> bool:
    """Whether it needs no trial: the first one, one that was stable before, one that a person approved."""
    if state.stable is None or rollout.strategy == "Replace" or wanted is None:
        return True
    back = state.stable.revision == rollout.rejected_revision
    return back or wanted.revision == rollout.approved_revision


def _begin_step(state: State, step: int, rollout: Rollout, now: datetime) -> Move:
    canary = state.canary
    assert canary is not None
    if rollout.strategy == "Shadow":
        given = {"weight": 0, "mirrored": rollout.shadow_or_default.percent}
    else:
        steps = rollout.steps or ()
        step = min(step, len(steps) - 1)
        given = {"weight": steps[step].weight, "mirrored": 0}
    new = replace(state, canary=canary.model_copy(update={**given, "step": step, "since": now}))
    message = f"{state_words(new)}."
    return Move(
        new,
        Finding(Reason.ROLLING_OUT, message),
        True,
        (News(False, Reason.ROLLING_OUT.value, message),),
        LOOK_SECONDS,
    )


def _without_mirror(state: State, facts: Facts) -> Move:
    if facts.mirrors is None:
        finding = Finding(Reason.ROLLING_OUT, "It is tried whether the gateway copies requests.")
        return Move(state, finding, True, again_after=LOOK_SECONDS)
    message = (
        "This gateway does not copy requests (RequestMirror), so no request was touched. Use strategy "
        "Canary, or a gateway that does, like Envoy Gateway."
    )
    return Move(state, Finding(Reason.MIRROR_UNSUPPORTED, message), True, again_after=60.0)


def _promote(state: State, rollout: Rollout, now: datetime) -> Move:
    canary, stable = state.canary, state.stable
    assert canary is not None
    new = RevisionStatus(revision=canary.revision, uri=canary.uri, digest=canary.digest)
    entries = []
    replaced = "It has all the traffic."
    if stable is not None and stable.revision == rollout.rejected_revision:
        entries.append(_entry(stable, "RolledBack", _NAMED, now))
    if stable is not None:
        replaced = f"It has all the traffic, in place of {stable.revision}."
    entries.append(_entry(new, "Promoted", Finding(Reason.PROMOTED, replaced), now))
    state = State(new, None, _history(replace(state, stable=new), entries))
    return Move(
        state,
        Finding(Reason.COMPLETED, f"{new.revision} has all the traffic."),
        news=(News(False, Reason.PROMOTED.value, f"{new.revision}: {replaced}"),),
        again_after=LOOK_SECONDS,
    )


def _end(state: State, outcome: Outcome, finding: Finding, now: datetime) -> Move:
    """The canary is given up."""
    canary = state.canary
    assert canary is not None
    entry = _entry(canary, outcome, finding, now)
    state = State(state.stable, None, _history(state, [entry]))
    rejected = outcome == "Rejected"
    told = finding
    if rejected:
        told = Finding(Reason.CANARY_REJECTED, f"{canary.revision} was rejected: {finding.message}")
    news = News(rejected, (Reason.CANARY_REJECTED if rejected else Reason.COMPLETED).value, told.message)
    return Move(state, told, news=(news,), again_after=LOOK_SECONDS)


def _withdrawn(state: State, facts: Facts, now: datetime) -> State:
    """Without requests for a canary that is not ready; its step begins again when it is."""
    canary = state.canary
    if canary is None or canary.revision in facts.ready or not _share(canary):
        return state
    return replace(state, canary=canary.model_copy(update={"weight": 0, "mirrored": 0, "since": now}))


def _share(canary: CanaryStatus) -> int:
    return canary.weight + canary.mirrored


def _hold(rollout: Rollout, step: int) -> int:
    if rollout.strategy == "Shadow":
        return rollout.shadow_or_default.hold_seconds
    steps = rollout.steps or ()
    return steps[min(step, len(steps) - 1)].hold_seconds


def _left(canary: CanaryStatus, seconds: float, now: datetime) -> float:
    since = canary.since or now
    return seconds - (now - since).total_seconds()


def _entry(one: RevisionStatus, outcome: Outcome, finding: Finding, now: datetime) -> HistoryEntry:
    return HistoryEntry(
        revision=one.revision,
        uri=one.uri,
        digest=one.digest,
        outcome=outcome,
        reason=finding.reason.value,
        message=finding.message[:_LONGEST],
        when=now,
    )


def _history(state: State, new: list[HistoryEntry]) -> tuple[HistoryEntry, ...]:
    """The newest first and not too many; the revision to go back to is never forgotten."""
    entries = (*reversed(new), *state.history)
    kept = entries[:HISTORY_LENGTH]
    before = predecessor(replace(state, history=entries))
    return kept if before is None or before in kept else (*kept[:-1], before)


def state_words(state: State) -> str:
    """Where the canary is, for people."""
    canary = state.canary
    assert canary is not None
    if canary.mirrored:
        return f"{canary.revision} gets copies of {canary.mirrored} % of the requests"
    return f"{canary.revision} has {canary.weight} % of the requests"
