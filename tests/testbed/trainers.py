"""Trainers as processes that tests watch, stop and kill."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.02
PATIENCE_SECONDS = float(os.environ.get("TUNESMITH_TEST_PATIENCE", "180"))
"""For what takes seconds on a machine that does nothing else."""

Event = Mapping[str, Any]


@dataclass
class Trainer:
    """One trainer.

    Attributes:
        pid: also the id of its session and process group.
        events_file: what it wrote to standard output.
        log: what it wrote to standard error.
        events: what it told so far, as of the last `look`.
        seen: when each event was seen, in seconds after the start.
        code: its exit code once it has ended; minus the signal's number when one ended it.
    """

    pid: int
    events_file: Path
    log: Path
    ended: threading.Event
    started: float = field(default_factory=time.monotonic)
    events: list[Event] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)
    code: int | None = None
    _rest: bytes = b""
    _read: int = 0

    def look(self) -> list[Event]:
        """The events that came since the last look."""
        now = time.monotonic() - self.started
        with self.events_file.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        fresh: list[Event] = [json.loads(line) for line in lines]
        self.events += fresh
        self.seen += [now] * len(fresh)
        return fresh

    def wait_for(self, is_it: Callable[[Event], bool], seconds: float = PATIENCE_SECONDS) -> Event:
        """The first event from now on that is it."""
        deadline = time.monotonic() + seconds
        while True:
            over = self.ended.is_set()
            found = next((event for event in self.look() if is_it(event)), None)
            if found is not None:
                return found
            assert not over, f"the trainer ended with {self.code}: {self.tail()}"
            assert time.monotonic() < deadline, f"it took more than {seconds} s: {self.tail()}"
            time.sleep(POLL_SECONDS)

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Its exit code, when it has ended."""
        deadline = time.monotonic() + seconds
        while not self.ended.wait(POLL_SECONDS):
            self.look()
            assert time.monotonic() < deadline, f"it runs for more than {seconds} s: {self.tail()}"
        self.look()
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        """End the whole process group, as `tunesmith run` does and as the system does to a container."""
        os.killpg(self.pid, signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to stop."""
        os.kill(self.pid, signal.SIGTERM)

    @property
    def result(self) -> Event:
        """The result event, which must be the last."""
        assert self.events, self.tail()
        assert self.events[-1]["type"] == "result", self.events[-1]
        return self.events[-1]

    def of_type(self, kind: str) -> list[Event]:
        """Its events of a type."""
        return [event for event in self.events if event["type"] == kind]

    def stage_states(self) -> dict[str, list[str]]:
        """What was told of each stage."""
        states: dict[str, list[str]] = {}
        for event in self.of_type("stage"):
            states.setdefault(event["stage"], []).append(event["state"])
        return states

    def tail(self) -> str:
        """The last it said, for failures."""
        log = self.log.read_text(errors="replace")[-2_000:] if self.log.exists() else ""
        return f"{self.events[-2:]} {log}"

    def remains(self) -> list[str]:
        """Command lines of living processes of its session and of its Ray, itself included."""
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                ours = int(session) == self.pid or f"/ts-ray-{self.pid}-" in command
                if ours and state not in "ZX":
                    found.append(f"{folder.name} {command[:200]}")
        return found

    def wait_until_gone(self, seconds: float = 10) -> None:
        """Wait until the system has taken every process of it apart."""
        deadline = time.monotonic() + seconds
        while left := self.remains():
            assert time.monotonic() < deadline, f"still there: {left}"
            time.sleep(POLL_SECONDS)


class Trainers:
    """Starts trainers, quickly; see `trainer_server`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.testbed.trainer_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            start_new_session=True,
        )
        self._one_at_a_time = threading.Lock()
        self._answered = threading.Condition()
        self._started: list[int] = []
        self._running: dict[int, Trainer] = {}
        self._codes: dict[int, int] = {}
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def start(
        self,
        folder: Path,
        job: Mapping[str, Any],
        *options: str,
        cache: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Trainer:
        """Start a trainer for a job; its files go to ``folder``, its cache too unless given."""
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("events-*")))
        spec, events, log = (
            folder / name for name in ("job.json", f"events-{number:02d}", f"log-{number:02d}")
        )
        spec.write_text(json.dumps(job))
        events.touch()
        arguments: Sequence[str] = (
            *("--spec", str(spec), "--cache-dir", str(cache or folder / "cache"), "--device", "cpu"),
            *options,
        )
        request = {
            "arguments": arguments,
            "events": str(events),
            "log": str(log),
            "environment": dict(environment or {}),
        }
        with self._one_at_a_time, self._answered:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode())
            self._process.stdin.flush()
            assert self._answered.wait_for(lambda: bool(self._started), PATIENCE_SECONDS), (
                "no trainer started"
            )
            trainer = Trainer(self._started.pop(), events, log, threading.Event())
            if trainer.pid in self._codes:
                self._end(trainer, self._codes.pop(trainer.pid))
            else:
                self._running[trainer.pid] = trainer
        return trainer

    def close(self) -> None:
        """End the server and all that it started."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_SECONDS)
        self._listener.join()
        self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            with self._answered:
                if "started" in answer:
                    self._started.append(answer["started"])
                if "ended" in answer:
                    trainer = self._running.pop(answer["ended"], None)
                    if trainer is None:
                        self._codes[answer["ended"]] = answer["code"]
                    else:
                        self._end(trainer, answer["code"])
                self._answered.notify_all()

    @staticmethod
    def _end(trainer: Trainer, code: int) -> None:
        trainer.code = code
        trainer.ended.set()


@contextlib.contextmanager
def running_trainers() -> Iterator[Trainers]:
    """A server for trainers, ended with all of them."""
    trainers = Trainers()
    try:
        yield trainers
    finally:
        trainers.close()
