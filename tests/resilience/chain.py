"""Runs of one job that are disturbed again and again, each going on where the last one was when it ended.

The clock of a moment is the undisturbed run: a moment is some time after one of its landmarks (a stage, an
epoch, a trial, a count of images) and before the next. A disturbed run is at the moment when it tells that
landmark, or any later one, because what was done before is not done again.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.testbed.tiny_job import ledger
from tests.testbed.trainers import PATIENCE_SECONDS, POLL_SECONDS, Event, Trainer, Trainers

from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_package.store import Store, open_store

STAGES = ("prepare", "search", "verify", "publish")
SIGTERM_SECONDS = 10.0
LONGEST_DELAY_SECONDS = 3.0
Signal = signal.Signals


def landmark(event: Event) -> str | None:
    """Name of a point that every run of the job passes; None for events that are no such point."""
    match event["type"]:
        case "stage":
            state = "finished" if event["state"] == "reused" else event["state"]
            return f"{event['stage']} {state}"
        case "trial":
            trial = event["trial"]
            return f"{trial['id']} {trial['state']} after {trial['epochs']}"
        case "progress":
            return f"{event['task']} {event['done']}"
    return None


@dataclass(frozen=True)
class Course:
    """The landmarks of the undisturbed run, in order, and when it passed them (seconds after its start)."""

    names: tuple[str, ...]
    seconds: tuple[float, ...]

    @classmethod
    def of(cls, trainer: Trainer) -> Course:
        """What a trainer passed."""
        passed: dict[str, float] = {}
        for event, seen in zip(trainer.events, trainer.seen, strict=True):
            name = landmark(event)
            if name is not None:
                passed.setdefault(name, seen)
        return cls(tuple(passed), tuple(passed.values()))

    def stage(self, name: str) -> range:
        """Places of a stage's landmarks, without its end."""
        return range(self.names.index(f"{name} started"), self.names.index(f"{name} finished"))

    def place(self, event: Event) -> int:
        """Where an event lies on the course; -1 for one that is not on it."""
        name = landmark(event)
        return self.names.index(name) if name in self.names else -1

    def moments(self, count: int, seed: int) -> list[Moment]:
        """Moments over all stages, in order: some in each, and the more the longer the list of landmarks."""
        rng = random.Random(seed)
        share = {"prepare": count // 8, "verify": count // 5, "publish": count // 8}
        share = {stage: max(1, number) for stage, number in share.items()}
        share["search"] = max(1, count - sum(share.values()))
        places = [rng.choice(self.stage(stage)) for stage, number in share.items() for _ in range(number)]
        return sorted(self._moment(place, rng.random()) for place in places[:count])

    def _moment(self, place: int, fraction: float) -> Moment:
        gap = self.seconds[place + 1] - self.seconds[place]
        return Moment(place, round(min(0.9 * gap, LONGEST_DELAY_SECONDS) * fraction, 3))


@dataclass(frozen=True, order=True)
class Moment:
    """When a run is disturbed: ``delay`` seconds after a landmark, or at the next one if that comes first."""

    place: int
    delay: float


@dataclass
class Chain:
    """Runs of one job, each disturbed but the last.

    Attributes:
        trainers: starts them.
        course: of the undisturbed run.
        folder: for their files and their cache.
        job: what they run.
        credentials: of its store, where that is a bucket.
    """

    trainers: Trainers
    course: Course
    folder: Path
    job: dict[str, Any]
    credentials: Mapping[str, str]
    runs: list[Trainer] = field(default_factory=list)
    hit: list[str] = field(default_factory=list)
    finished: set[str] = field(default_factory=set)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        """The job's store."""
        return open_store(self.job["spec"]["store"]["uri"], credentials=self.credentials)

    def run(self, moments: Sequence[Moment], signals: Sequence[Signal]) -> None:
        """Disturb a run at each moment by the signal, then let the last one end."""
        for moment, number in zip(moments, signals, strict=True):
            trainer = self.start()
            if not self.reach(trainer, moment):
                break
            self.disturb(trainer, number)
            self.hit.append(f"{number.name} at {self.course.names[moment.place]} + {moment.delay} s")
            self.check(trainer)
            self.remember()
        last = self.start()
        assert last.wait() == 0, last.tail()
        self.check(last)

    def start(self) -> Trainer:
        """The same command again."""
        self.runs.append(self.trainers.start(self.folder, self.job, environment=self.credentials))
        return self.runs[-1]

    def reach(self, trainer: Trainer, moment: Moment) -> bool:
        """Wait for the moment; False when the run ended before it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        at: float | None = None
        while at is None or time.monotonic() < at:
            over = trainer.ended.is_set()
            places = [self.course.place(event) for event in trainer.look()]
            if over:
                assert trainer.code == 0, trainer.tail()
                return False
            if max(places, default=-1) > moment.place:
                return True
            if at is None and moment.place in places:
                at = time.monotonic() + moment.delay
            assert time.monotonic() < deadline, trainer.tail()
            time.sleep(POLL_SECONDS)
        return True

    def disturb(self, trainer: Trainer, number: Signal) -> None:
        """Send the signal; what must hold after it."""
        if number is signal.SIGKILL:
            trainer.kill()
            assert trainer.wait(SIGTERM_SECONDS) == -signal.SIGKILL
            trainer.wait_until_gone()
            return
        trainer.terminate()
        assert trainer.wait(SIGTERM_SECONDS) == EXIT_CODES[Reason.INTERRUPTED], trainer.tail()
        assert trainer.result["reason"] == Reason.INTERRUPTED, trainer.result
        trainer.wait_until_gone()
        assert not ray_folders(trainer), "a stopped trainer leaves nothing of Ray"

    def check(self, trainer: Trainer) -> None:
        """Nothing that was finished when this run began was done again."""
        for stage, states in trainer.stage_states().items():
            if stage in self.finished:
                assert states == ["reused"], f"{stage} was finished, and then {states}"
        for event in trainer.of_type("trial"):
            row, before = event["trial"], self.rows.get(event["trial"]["id"])
            if before is None:
                continue
            assert before["state"] == "Running", f"{row['id']} was {before['state']} and ran again"
            assert row["epochs"] >= before["epochs"], f"{row['id']} lost epochs that had a checkpoint"
            assert row["startTime"] == before["startTime"]

    def remember(self) -> None:
        """Take note of what is finished now."""
        name = self.job["metadata"]["name"]
        begun = [info.key for info in self.store.list(f"jobs/{name}/") if info.key.endswith("/starts.json")]
        if not begun:
            return
        (run,) = (key.rpartition("/")[0] for key in begun)
        self.finished = {stage for stage in STAGES if self.store.exists(f"{run}/{stage}.json")}
        rows = ledger(self.store, run)
        for name, row in self.rows.items():
            if row["state"] != "Running":
                assert rows[name] == row, f"{name} was finished and its row has changed"
        self.rows = rows


def ray_folders(trainer: Trainer) -> list[Path]:
    """Ray's temporary folders of a trainer."""
    return list(Path("/tmp").glob(f"ts-ray-{trainer.pid}-*"))
