"""Ray Tune as the engine: it places trials on the machine's resources, runs and restarts their actors.

What to try and what to stop is decided outside (``study``), what a trial does inside its trainable; this file
only connects them: a ``Source`` hands out configurations and takes results, and one ``run`` drives them all.
"""

from __future__ import annotations

import json
import random
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.sample import Float, Integer

from tunesmith_trainer.devices import Device
from tunesmith_trainer.search.local_ray import local_ray as ray_session
from tunesmith_trainer.search.local_ray import trial_slots as trial_slots
from tunesmith_trainer.search.machines import Machines as Machines
from tunesmith_trainer.search.machines import Share as Share
from tunesmith_trainer.search.machines import trial_share as trial_share

T = TypeVar("T")

PERTURBATION_EPOCHS = 2
"""Population based training compares the population each time every trial has had this many more epochs."""


class Source(Protocol):
    """Where configurations come from and results go to.

    All calls come from one thread, while the one that called ``run`` waits.
    """

    def next(self) -> Mapping[str, Any] | None:
        """The next configuration, with a unique ``id``; None when there are no more."""
        ...

    def result(self, trial_id: str, metrics: Mapping[str, Any]) -> bool:
        """Take the news of one step, with ``done`` for the last; False ends the trial."""
        ...

    def ended(self, trial_id: str, *, failed: bool) -> None:
        """Take note that a trial is over; ``failed`` when its process died (other errors are results)."""
        ...


@runtime_checkable
class EvolvingSource(Source, Protocol):
    """A source that wants to know what population based training does to its trials."""

    def changed(self, trial_id: str, config: Mapping[str, Any], donor: str) -> None:
        """Take note that a trial goes on with the donor's weights and a new configuration."""
        ...

    def ending(self, alive: Sequence[str]) -> Collection[str]:
        """Which of the trials that are not done end now; asked after each step, for all are begun at once."""
        ...


def report(score: float, news: Mapping[str, Any], *, done: bool) -> dict[str, Any]:
    """What a trainable's ``step`` returns: a score, and news for ``Source.result``.

    The news travel as text, because Ray flattens nested results in some of its calls and not in others.
    """
    return {"score": score, "news": json.dumps(news), "done": done}


@contextmanager
def local_ray(device: Device, slots: int) -> Iterator[Machines]:
    """Ray on this machine for the duration of the block; see ``local_ray``.

    Ray Tune wants some environment variables set in its workers, which on one machine inherit them anyway.
    A worker that was started ahead counts as having none of them set, and would be left aside.
    """
    class_cache.DEFAULT_ENV_VARS.clear()
    class_cache.ENV_VARS_TO_PROPAGATE.clear()
    with ray_session(slots, device.gpus):
        yield Machines()


def run(
    trainable: type[tune.Trainable],
    source: Source,
    share: Share,
    *,
    parallel: int,
    scratch: Path,
    mutations: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """Run trials of ``source`` until it has no more.

    A trial whose process dies is over; the others go on. What the source raises ends the run at once, without
    waiting for the epochs that are under way; Ray must not be used after that. What the process's handlers of
    signals raise comes out at once too, and leaves Ray Tune at work: the process must end. The source is not
    called any more then: what trials say while their files are taken from under them is no result.

    Args:
        trainable: a class whose ``setup`` takes the configuration.
        source: gives configurations, takes results.
        share: resources of each trial.
        parallel: how many run at once.
        scratch: a folder for Ray Tune's own files, which nobody reads.
        mutations: what population based training (Jaderberg et al. 2017) may change of a configuration; None
            for no such training. All trials of the source then run in turns, ``parallel`` at a time.
        seed: of what population based training draws at random.

    Raises:
        Exception: whatever the source or a handler of signals raised.
    """
    connection = _Connection(source)
    space: dict[str, Any] | None = None
    if mutations is None:
        config = _feed(connection, parallel)
    else:
        trainable, space = _boxed(trainable), _population(connection)
        if space is None:
            return
        config = _evolve(connection, mutations, seed)
    with (
        tempfile.TemporaryDirectory(dir=scratch, prefix="tune-", ignore_cleanup_errors=True) as folder,
        closing(connection),
    ):
        tuner = tune.Tuner(
            tune.with_resources(trainable, share.resources),
            param_space=space,
            tune_config=config,
            run_config=tune.RunConfig(
                name="search",
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        _apart(tuner.fit)


def _feed(connection: _Connection, parallel: int) -> tune.TuneConfig:
    """Configurations one by one, each as soon as a slot is free."""
    return tune.TuneConfig(
        search_alg=_Search(connection),
        scheduler=_Scheduler(connection),
        num_samples=-1,
        max_concurrent_trials=parallel,
        reuse_actors=True,
    )


_BOX = "trial"
"""Population based training allows no searcher, only a list of values for a parameter: here whole trials."""


def _population(connection: _Connection) -> dict[str, Any] | None:
    """All trials at once; None when there are none, which Ray Tune cannot take."""
    configurations = list(iter(lambda: connection.call(connection.source.next), None))
    if not configurations:
        return None
    return {_BOX: tune.grid_search([dict(one) for one in configurations if one is not None])}


def _evolve(connection: _Connection, mutations: Mapping[str, Any], seed: int) -> tune.TuneConfig:
    """All trials in turns, comparing them as they go."""
    random.seed(seed)  # Ray draws from the process's own generators.
    np.random.seed(seed)
    return tune.TuneConfig(scheduler=_Population(connection, mutations), reuse_actors=True)


def _boxed(trainable: type[tune.Trainable]) -> type[tune.Trainable]:
    """The class, taking its configuration out of the box."""

    class Boxed(trainable):  # type: ignore[valid-type, misc]
        def setup(self, config: dict[str, Any]) -> None:
            super().setup(config.get(_BOX, config))

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return bool(super().reset_config(new_config.get(_BOX, new_config)))

    return Boxed


class _Cut(BaseException):
    """An error on its way past Ray Tune, which would wrap it in one of its own and wait for epochs to end."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def _apart(fit: Callable[[], object]) -> None:
    """Run Ray Tune in a thread of its own, so that signals find the main thread at leisure.

    A signal that arrives inside of Ray's C++ comes out as a SystemError, and late.
    """
    caught: list[BaseException] = []

    def work() -> None:
        try:
            fit()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=work, name="ray-tune", daemon=True)
    thread.start()
    thread.join()
    for error in caught:
        raise error.error if isinstance(error, _Cut) else error


class _Connection:
    """The source as Ray Tune's classes see it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.over: set[str] = set()
        self._closed = threading.Event()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, in the snapshots that Ray Tune pickles: the ledger has it all, nobody restores them."""
        return {}

    def close(self) -> None:
        """Take nothing more."""
        self._closed.set()

    def call(self, ask: Callable[[], T]) -> T:
        """Ask the source; its errors pass Ray Tune by.

        Does not return once the connection is closed: the thread that still asks ends with the process.
        """
        if self._closed.is_set():
            threading.Event().wait()
        try:
            return ask()
        except Exception as error:
            raise _Cut(error) from error

    def tell(self, trial: Any, result: Mapping[str, Any]) -> bool:
        """Pass a trial's result on; False ends the trial."""
        if "news" not in result or trial.trial_id in self.over:
            return trial.trial_id not in self.over
        news = {**json.loads(result["news"]), "done": result["done"]}
        go_on = self.call(lambda: self.source.result(name_of(trial), news))
        # Ray hands over twice the result after which a trial ends.
        if news["done"] or not go_on:
            self.over.add(trial.trial_id)
        return go_on

    def ended(self, trial: Any, *, failed: bool) -> None:
        """Say that a trial is over."""
        self.call(lambda: self.source.ended(name_of(trial), failed=failed))


def name_of(trial: Any) -> str:
    """Our name of one of Ray Tune's trials."""
    return str(trial.config.get(_BOX, trial.config)["id"])


class _Search(Searcher):
    """Hands the source's configurations to Ray Tune."""

    def __init__(self, connection: _Connection) -> None:
        super().__init__(metric="score", mode="min")
        self.connection = connection

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        config = self.connection.call(self.connection.source.next)
        return Searcher.FINISHED if config is None else dict(config)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to do: the scheduler is told the same."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class _Scheduler(FIFOScheduler):
    """Asks the source after each step whether the trial goes on."""

    def __init__(self, connection: _Connection) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.connection = connection

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        go_on = self.connection.tell(trial, result)
        return str(TrialScheduler.CONTINUE if go_on else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        # Ray gives the last result, whose `done` the trainable set, only here.
        self.connection.tell(trial, result)
        self.connection.ended(trial, failed=False)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self.connection.ended(trial, failed=True)


def _within(config: Mapping[str, Any], mutations: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with its numbers clipped to their ranges, which Ray's factors do not heed."""
    clipped = dict(config)
    for name, domain in mutations.items():
        if isinstance(domain, Mapping):
            clipped[name] = _within(config[name], domain)
        elif isinstance(domain, Float):
            clipped[name] = min(max(config[name], domain.lower), domain.upper)
        elif isinstance(domain, Integer):
            clipped[name] = min(max(config[name], domain.lower), domain.upper - 1)
    return clipped


class _Population(PopulationBasedTraining):
    """Ray's population based training, with each result told to the source first."""

    def __init__(self, connection: _Connection, mutations: Mapping[str, Any]) -> None:
        super().__init__(
            time_attr="training_iteration",
            metric="score",
            mode="min",
            perturbation_interval=PERTURBATION_EPOCHS,
            hyperparam_mutations={_BOX: dict(mutations)},
            custom_explore_fn=lambda config: _within(config, {_BOX: mutations}),
            log_config=False,
            synch=True,
        )
        self.connection = connection
        self.names: dict[str, str] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        go_on = self.connection.tell(trial, result)
        self._end_others(tune_controller, trial)
        if not go_on or trial.trial_id in self.connection.over:
            return str(TrialScheduler.STOP)
        return str(super().on_trial_result(tune_controller, trial, result))

    def _end_others(self, tune_controller: Any, trial: Any) -> None:
        """Stop what the source ends: paused trials at once, those that are at work after their step."""
        source, over = self.connection.source, self.connection.over
        if not isinstance(source, EvolvingSource):
            return
        alive = {name_of(one): one for one in tune_controller.get_live_trials() if one.trial_id not in over}
        for name in self.connection.call(lambda: source.ending(list(alive))):
            one = alive[name]
            over.add(one.trial_id)
            if one is not trial and one.status in (Trial.PENDING, Trial.PAUSED):
                tune_controller.request_stop_trial(one)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The next trial, also where the others wait for one that ended before it could be compared."""
        chosen = super().choose_trial_to_run(tune_controller)
        live = tune_controller.get_live_trials()
        if chosen is None and live and all(one.status == Trial.PAUSED for one in live):
            self._next_perturbation_sync += self._perturbation_interval
            chosen = super().choose_trial_to_run(tune_controller)
        return chosen

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.connection.tell(trial, result)
        self._end_others(tune_controller, trial)
        super().on_trial_complete(tune_controller, trial, result)
        self.connection.ended(trial, failed=False)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_error(tune_controller, trial)
        self.connection.ended(trial, failed=True)

    def _exploit(self, tune_controller: Any, trial: Any, trial_to_clone: Any) -> None:
        super()._exploit(tune_controller, trial, trial_to_clone)
        # Ray copies the better trial's whole configuration, its name too.
        config = {**trial.config[_BOX], "id": self.names[trial.trial_id]}
        trial.set_config({_BOX: config})
        donor, source = name_of(trial_to_clone), self.connection.source
        if isinstance(source, EvolvingSource):
            self.connection.call(lambda: source.changed(config["id"], config, donor))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        self.names[trial.trial_id] = name_of(trial)
