"""Ray Tune as the engine: one real Ray for all these tests."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from tunesmith_api.reasons import StoreFull
from tunesmith_trainer.devices import Device
from tunesmith_trainer.interruption import Stopped
from tunesmith_trainer.search.engine import Share, local_ray, report, run, trial_share

CPU = Device("cpu", 2, 0, None)
ONE = Share(1.0, 0.0)


class Countdown(tune.Trainable):
    """Counts its steps; dies at the step that its configuration says."""

    def setup(self, config: dict[str, Any]) -> None:
        self.settings, self.count = config, 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        self.count += 1
        if self.count == self.settings.get("dies"):
            os._exit(1)
        news = {"count": self.count, "process": os.getpid(), "rate": self.settings.get("rate", {})}
        return report(self.settings.get("score", 1.0), news, done=self.count == self.settings["steps"])

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / "count.json").write_text(json.dumps(self.count))

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        self.count = json.loads((Path(checkpoint_dir) / "count.json").read_text())


@dataclass
class Listed:
    """Hands out a list and writes down what happens."""

    configs: list[dict[str, Any]]
    stop: Mapping[str, int] = field(default_factory=dict)
    again: dict[str, dict[str, Any]] = field(default_factory=dict)
    news: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    ends: list[tuple[str, bool]] = field(default_factory=list)
    changes: list[tuple[str, Mapping[str, Any], str]] = field(default_factory=list)
    ends_all_after: int = 1_000

    def next(self) -> Mapping[str, Any] | None:
        return self.configs.pop(0) if self.configs else None

    def result(self, trial_id: str, metrics: Mapping[str, Any]) -> bool:
        self.news.setdefault(trial_id, []).append(dict(metrics))
        return len(self.news[trial_id]) != self.stop.get(trial_id)

    def ended(self, trial_id: str, *, failed: bool) -> None:
        self.ends.append((trial_id, failed))
        if failed and trial_id in self.again:
            self.configs.insert(0, self.again.pop(trial_id))

    def changed(self, trial_id: str, config: Mapping[str, Any], donor: str) -> None:
        self.changes.append((trial_id, config, donor))

    def ending(self, alive: Sequence[str]) -> Collection[str]:
        steps = sum(len(news) for news in self.news.values())
        return [one for one in alive if one != "t0"] if steps >= self.ends_all_after else []


@pytest.fixture(scope="module", autouse=True)
def ray_of_this_module() -> Iterator[None]:
    with local_ray(CPU, 2):
        yield


@pytest.fixture(scope="module")
def listed(ray_of_this_module: None, tmp_path_factory: pytest.TempPathFactory) -> Listed:
    """Six trials, one after another, with each kind of end."""
    source = Listed(
        [
            {"id": "whole", "steps": 3},
            {"id": "stopped", "steps": 50},
            {"id": "dies", "steps": 3, "dies": 2},
            {"id": "short", "steps": 1},
        ],
        stop={"stopped": 2},
        again={"dies": {"id": "dies", "steps": 3}},
    )
    run(Countdown, source, ONE, parallel=1, scratch=tmp_path_factory.mktemp("engine"))
    return source


def test_news_of_each_step_come_once_and_in_order(listed: Listed) -> None:
    counts = {name: [one["count"] for one in news] for name, news in listed.news.items()}
    assert counts == {"whole": [1, 2, 3], "stopped": [1, 2], "dies": [1, 1, 2, 3], "short": [1]}
    assert [one["done"] for one in listed.news["whole"]] == [False, False, True]


def test_each_end_is_told_once_and_failures_do_not_end_the_others(listed: Listed) -> None:
    assert listed.ends == [
        ("whole", False),
        ("stopped", False),
        ("dies", True),
        ("dies", False),
        ("short", False),
    ]


def test_process_goes_on_with_the_next_trial(listed: Listed) -> None:
    processes = {name: [one["process"] for one in news] for name, news in listed.news.items()}
    first, second = processes["dies"][:2]
    assert {*processes["whole"], *processes["stopped"], first} == {first}
    assert {*processes["dies"][1:], *processes["short"]} == {second}
    assert first != second


def test_source_without_trials_is_done_at_once(tmp_path: Path) -> None:
    source = Listed([])
    run(Countdown, source, ONE, parallel=1, scratch=tmp_path)
    run(Countdown, source, ONE, parallel=1, scratch=tmp_path, mutations={"rate": {"a": tune.uniform(0, 1)}})
    assert source.ends == []


def test_population_takes_the_better_ones_weights_and_changes_its_rates(tmp_path: Path) -> None:
    source = Listed(
        [{"id": f"t{number}", "steps": 6, "score": float(number), "rate": {"a": 0.5}} for number in range(4)]
    )
    run(
        Countdown,
        source,
        ONE,
        parallel=2,
        scratch=tmp_path,
        mutations={"rate": {"a": tune.uniform(0, 1)}},
        seed=1,
    )
    assert Counter(source.ends) == {(f"t{number}", False): 1 for number in range(4)}
    assert all([one["count"] for one in news] == [1, 2, 3, 4, 5, 6] for news in source.news.values())
    assert source.changes
    assert source.changes[0][2] == "t0"
    for name, config, _ in source.changes:
        assert config["id"] == name
        assert config["score"] == 0.0, "the configuration of the best one"
        assert 0 <= config["rate"]["a"] <= 1
        assert config["rate"] in [one["rate"] for one in source.news[name]]


def test_population_never_leaves_its_ranges(tmp_path: Path) -> None:
    source = Listed(
        [
            {"id": f"t{number}", "steps": 8, "score": float(number), "rate": {"a": 0.5, "b": 3}}
            for number in range(4)
        ]
    )
    mutations = {"rate": {"a": tune.uniform(0.49, 0.51), "b": tune.randint(3, 5)}}
    run(Countdown, source, ONE, parallel=2, scratch=tmp_path, mutations=mutations, seed=1)
    assert len(source.changes) > 1
    for _, config, _ in source.changes:
        assert 0.49 <= config["rate"]["a"] <= 0.51
        assert config["rate"]["b"] in (3, 4)


def population(tmp_path: Path, steps: int, **source: Any) -> Listed:
    configs = [
        {"id": f"t{number}", "steps": steps, "score": float(number), "rate": {"a": 0.5}}
        for number in range(4)
    ]
    listed = Listed(configs, **source)
    mutations = {"rate": {"a": tune.uniform(0, 1)}}
    run(Countdown, listed, ONE, parallel=2, scratch=tmp_path, mutations=mutations, seed=1)
    return listed


def test_population_that_is_over_goes_on_with_those_alone_that_the_source_leaves(tmp_path: Path) -> None:
    source = population(tmp_path, 8, ends_all_after=9)
    assert Counter(source.ends)["t0", False] == 1
    counts = {name: len(news) for name, news in source.news.items()}
    assert counts.pop("t0") == 8
    assert sum(counts.values()) <= 9, "whoever was at work may end its step"


def test_population_does_not_wait_for_a_trial_that_ended_before_the_comparison(tmp_path: Path) -> None:
    source = population(tmp_path, 6, stop={"t2": 1, "t3": 3})
    counts = {name: len(news) for name, news in source.news.items()}
    assert counts == {"t0": 6, "t1": 6, "t2": 1, "t3": 3}


class Refuses(Listed):
    """A source whose store is full."""

    def result(self, trial_id: str, metrics: Mapping[str, Any]) -> bool:
        raise StoreFull("The store is full.", "Free some space.")


@pytest.mark.parametrize(
    ("gpus", "parallel", "wanted", "share"),
    [
        pytest.param(0, 2, None, 0.0, id="no GPU"),
        pytest.param(1, 1, None, 1.0, id="the one GPU"),
        pytest.param(1, 4, None, 0.25, id="a part of one"),
        pytest.param(8, 3, None, 2.0, id="whole GPUs, as Ray allows no 2.67"),
        pytest.param(1, 1, 2.0, 1.0, id="never more than there are"),
        pytest.param(2, 1, 0.5, 0.5, id="what the spec says"),
    ],
)
def test_gpus_of_a_trial(gpus: int, parallel: int, wanted: float | None, share: float) -> None:
    device = Device("cuda" if gpus else "cpu", 16, gpus, None)
    assert trial_share(device, parallel, wanted).gpus == pytest.approx(share)


@pytest.mark.parametrize(("threads", "parallel", "cpus"), [(16, 1, 16), (16, 3, 5), (2, 8, 1)])
def test_threads_of_a_trial(threads: int, parallel: int, cpus: int) -> None:
    assert trial_share(Device("cpu", threads, 0, None), parallel, None).cpus == cpus


# The last one, for Ray must not be used after an error of a source.
def test_zz_error_of_the_source_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(StoreFull, match="The store is full"):
        run(Countdown, Refuses([{"id": "first", "steps": 1}]), ONE, parallel=1, scratch=tmp_path)


class Interrupts(Listed):
    """A source whose process is asked to stop at the first result."""

    def result(self, trial_id: str, metrics: Mapping[str, Any]) -> bool:
        go_on = super().result(trial_id, metrics)
        if len(self.news[trial_id]) == 1:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        return go_on


def interrupted(folder: Path) -> None:
    """Be asked to stop at the first result; write down how many there were then, and a while later."""

    def stop(number: int, frame: object) -> None:
        raise Stopped

    signal.signal(signal.SIGUSR1, stop)
    source = Interrupts([{"id": "endless", "steps": 1_000_000}])
    with local_ray(CPU, 2):
        try:
            run(Countdown, source, ONE, parallel=1, scratch=folder)
        except Stopped:
            counts = [len(source.news["endless"])]
            time.sleep(1)
            counts.append(len(source.news["endless"]))
            (folder / "counts.json").write_text(json.dumps(counts))
        os._exit(0)  # Ray Tune is still at work


def test_source_is_left_alone_once_the_process_was_asked_to_stop(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=interrupted, args=(tmp_path,))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    at_once, later = json.loads((tmp_path / "counts.json").read_text())
    assert later <= at_once + 1, "at most the call that was under way"
