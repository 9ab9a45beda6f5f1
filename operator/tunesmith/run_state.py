"""What is known of a running training: the trainer's events folded into one value, without I/O."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

STAGES = ("prepare", "search", "verify", "publish")

StageWord = Literal["waiting", "started", "finished", "reused"]


@dataclass(frozen=True)
class Stage:
    """One of the four stages.

    Attributes:
        name: prepare, search, verify or publish.
        state: waiting, started, finished or reused (an earlier run finished it).
        started: clock reading at its start, in seconds.
        seconds: how long it took; None while it is not over.
    """

    name: str
    state: StageWord = "waiting"
    started: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Task:
    """Countable work within a stage.

    Attributes:
        name: what is done, like decode.
        stage: the stage it belongs to; empty when it belongs to none.
        done, total: finished and planned units; a total of 0 is unknown.
        unit: what is counted, like images.
        first, started: the count and the clock reading when it was first heard of.
        updated: the clock reading of the newest count.
    """

    name: str
    stage: str
    done: int
    total: int
    unit: str
    first: int
    started: float
    updated: float

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return 0 < self.total <= self.done

    @property
    def rate(self) -> float | None:
        """Units a second since it was first heard of; None before two counts are known."""
        seconds = self.updated - self.started
        return (self.done - self.first) / seconds if seconds > 0 and self.done > self.first else None

    def seconds_left(self, now: float) -> float | None:
        """How long the rest takes at this rate; None while the rate is unknown."""
        if self.rate is None or self.over:
            return None
        return max(0.0, (self.total - self.done) / self.rate - (now - self.updated))


@dataclass(frozen=True)
class Finding:
    """Something a check found in the dataset, as a sentence."""

    check: str
    count: int
    policy: str
    sentence: str


@dataclass(frozen=True)
class RunState:
    """Everything the events said so far; ``after`` gives the next state.

    Attributes:
        stages: the four stages in their order.
        tasks: by (stage, name), the newest last.
        trials: rows of the ledger by their id, in order of appearance.
        findings: of the dataset's checks.
        notes: sentences for a person.
        status: the newest TrainingJob status, camelCase.
        result: the trainer's last word, or None before it.
    """

    stages: tuple[Stage, ...] = tuple(Stage(name) for name in STAGES)
    tasks: Mapping[tuple[str, str], Task] = field(default_factory=dict)
    trials: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    status: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None

    def after(self, event: Mapping[str, Any], now: float) -> "RunState":
        """The state after an event that arrived at ``now`` (seconds); unknown types change nothing."""
        match event:
            case {"type": "stage", "stage": str(name), "state": "started" | "finished" | "reused"}:
                return replace(self, stages=tuple(_moved(one, name, event, now) for one in self.stages))
            case {"type": "progress", "task": str(name), "done": int(done), "total": int(total)}:
                return self._with_task(name, done, total, event, now)
            case {"type": "trial", "trial": {"id": str(trial)} as row}:
                return replace(self, trials={**self.trials, trial: row})
            case {"type": "finding"}:
                return replace(self, findings=(*self.findings, _finding(event)))
            case {"type": "note", "message": str(message)}:
                return replace(self, notes=(*self.notes, message))
            case {"type": "status", "status": dict(status)}:
                return replace(self, status=status)
            case {"type": "result"}:
                return replace(self, result=event, status=event.get("status") or self.status)
        return self

    def _with_task(
        self, name: str, done: int, total: int, event: Mapping[str, Any], now: float
    ) -> "RunState":
        stage = str(event.get("stage") or "")
        old = self.tasks.get((stage, name))
        if old is None or done < old.done or total != old.total:
            task = Task(name, stage, done, total, str(event.get("unit", "")), done, now, now)
        else:
            task = replace(old, done=done, updated=now)
        rest = {key: value for key, value in self.tasks.items() if key != (stage, name)}
        return replace(self, tasks={**rest, (stage, name): task})

    def current_task(self, stage: str) -> Task | None:
        """The stage's work that was heard of last and is not over."""
        going = [task for task in self.tasks.values() if task.stage == stage and not task.over]
        return going[-1] if going else None

    def best_trials(self, metric: str, *, maximize: bool, limit: int) -> list[Mapping[str, Any]]:
        """The trials with the best values of a metric, the best first; those without one are left out.

        Trials that tie, as many do on a small validation split, stand in the order of the search's own score.
        """
        sign = -1.0 if maximize else 1.0
        known = [
            (value, row) for row in self.trials.values() if (value := metric_of(row, metric)) is not None
        ]
        known.sort(key=lambda pair: (sign * pair[0], _score(pair[1])))
        return [row for _, row in known[:limit]]

    def trial_counts(self) -> dict[str, int]:
        """How many trials there are in each state, by the state's word."""
        counts: dict[str, int] = {}
        for row in self.trials.values():
            word = str(row.get("state", ""))
            counts[word] = counts.get(word, 0) + 1
        return counts


def metric_of(row: Mapping[str, Any], metric: str) -> float | None:
    """A trial's metric, or None where it has not been measured."""
    value = (row.get("metrics") or {}).get(metric)
    return float(value) if isinstance(value, int | float) else None


def _score(row: Mapping[str, Any]) -> float:
    """What the search minimises; a trial without a score comes last."""
    score = row.get("score")
    return float(score) if isinstance(score, int | float) else math.inf


def _moved(stage: Stage, name: str, event: Mapping[str, Any], now: float) -> Stage:
    if stage.name != name:
        return stage
    if event["state"] == "started":
        return replace(stage, state="started", started=now, seconds=None)
    seconds = event.get("seconds")
    took = float(seconds) if isinstance(seconds, int | float) else 0.0
    return replace(stage, state=event["state"], seconds=took)


def _finding(event: Mapping[str, Any]) -> Finding:
    return Finding(
        str(event.get("check", "")),
        count if isinstance(count := event.get("count"), int) else 0,
        str(event.get("policy", "")),
        str(event.get("sentence", "")),
    )
