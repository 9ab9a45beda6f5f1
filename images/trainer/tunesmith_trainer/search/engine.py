"""Ray Tune as the engine: it places trials on the machine's resources, runs and restarts their actors.

What to try and what to stop is decided outside (``study``), what a trial does inside its trainable; this file
only connects them: a ``Source`` hands out configurations and takes results, and one ``run`` drives them all.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from tunesmith_trainer.devices import Device

OBJECT_STORE_BYTES = 80 * 2**20
"""Only configurations and metrics travel between processes; images and features are read from disk."""


@dataclass(frozen=True)
class Share:
    """Resources of one running trial."""

    cpus: float
    gpus: float


class Source(Protocol):
    """Where configurations come from and results go to; all calls come from one thread."""

    def next(self) -> Mapping[str, Any] | None:
        """The next configuration, with a unique ``id``; None when there are no more."""
        ...

    def result(self, trial_id: str, metrics: Mapping[str, Any]) -> bool:
        """Take the news of one step, with ``done`` for the last; False ends the trial."""
        ...

    def ended(self, trial_id: str, *, failed: bool) -> None:
        """Take note that a trial is over; ``failed`` when its process died (other errors are results)."""
        ...


def report(score: float, news: Mapping[str, Any], *, done: bool) -> dict[str, Any]:
    """What a trainable's ``step`` returns: a score, and news for ``Source.result``.

    The news travel as text, because Ray flattens nested results in some of its calls and not in others.
    """
    return {"score": score, "news": json.dumps(news), "done": done}


def trial_share(device: Device, parallel: int, gpus_per_trial: float | None) -> Share:
    """Divide the machine among ``parallel`` trials, so that together they fit."""
    gpus = 0.0
    if device.gpus:
        gpus = gpus_per_trial or device.gpus / parallel
    return Share(max(1.0, device.threads // parallel), gpus)


@contextmanager
def local_ray(device: Device, scratch: Path) -> Iterator[None]:
    """Run Ray on this machine alone for the duration of the block, and remove what it leaves.

    No dashboard, no usage statistics, loopback only. Ray's sockets need short paths, so its session lies in
    the temporary folder of the system.
    """
    if ray.is_initialized():
        yield
        return
    session = tempfile.mkdtemp(prefix="ts-ray-")
    try:
        ray.init(
            num_cpus=device.threads,
            num_gpus=device.gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=session,
            _node_ip_address="127.0.0.1",
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(session, ignore_errors=True)


def run(
    trainable: type[tune.Trainable],
    source: Source,
    share: Share,
    *,
    parallel: int,
    scratch: Path,
    mutations: Mapping[str, Any] | None = None,
) -> None:
    """Run trials of ``source`` until it has no more.

    A trial whose process dies is over; the others go on.

    Args:
        trainable: a class whose ``setup`` takes the configuration.
        source: gives configurations, takes results.
        share: resources of each trial.
        parallel: how many run at once.
        scratch: a folder for Ray Tune's own files, which nobody reads.
        mutations: what population based training (Jaderberg et al. 2017) may change of a configuration; None
            for no such training.
    """
    adapter = _Search(source)
    scheduler = _Scheduler(adapter) if mutations is None else _Population(adapter, mutations)
    resources = tune.with_resources(trainable, {"cpu": share.cpus, "gpu": share.gpus})
    with tempfile.TemporaryDirectory(dir=scratch, prefix="tune-", ignore_cleanup_errors=True) as folder:
        tune.Tuner(
            resources,
            tune_config=tune.TuneConfig(
                search_alg=adapter,
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=parallel,
                reuse_actors=mutations is None,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        ).fit()


class _Unsaved:
    """Leaves nothing in the snapshots that Ray Tune pickles: the ledger has it all, nobody restores from them."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Search(_Unsaved, Searcher):
    """Hands the source's configurations to Ray Tune and maps its trial names to ours."""

    def __init__(self, source: Source) -> None:
        super().__init__(metric="score", mode="min")
        self.source = source
        self.ids: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        config = self.source.next()
        if config is None:
            return Searcher.FINISHED
        self.ids[trial_id] = str(config["id"])
        return dict(config)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self.source.ended(self.ids.pop(trial_id), failed=error)

    def tell(self, trial: Any, result: Mapping[str, Any]) -> bool:
        """Pass a trial's result on; False ends the trial."""
        name = self.ids.get(trial.trial_id)
        if name is None or "news" not in result:
            return True
        return self.source.result(name, {**json.loads(result["news"]), "done": result["done"]})

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class _Scheduler(_Unsaved, FIFOScheduler):
    """Asks the source after each step whether the trial goes on."""

    def __init__(self, adapter: _Search) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.adapter = adapter

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        go_on = self.adapter.tell(trial, result)
        return str(TrialScheduler.CONTINUE if go_on else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        # Ray gives the last result, whose `done` the trainable set, only here.
        self.adapter.tell(trial, result)


class _Population(_Unsaved, PopulationBasedTraining):
    """Ray's population based training, with each result told to the source first."""

    def __init__(self, adapter: _Search, mutations: Mapping[str, Any]) -> None:
        super().__init__(
            time_attr="training_iteration",
            metric="score",
            mode="min",
            perturbation_interval=2,
            hyperparam_mutations=dict(mutations),
        )
        self.adapter = adapter

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if not self.adapter.tell(trial, result):
            return str(TrialScheduler.STOP)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.adapter.tell(trial, result)
        super().on_trial_complete(tune_controller, trial, result)
