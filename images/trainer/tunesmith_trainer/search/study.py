"""What to try next and what to stop, by Optuna; both follow from the ledger's rows alone.

Nothing of Optuna's state is kept: for proposal number i a study is built from the trials before it, with a
sampler seeded by (seed, i). So a continued run proposes what the undisturbed one would have proposed.

BOHB (Falkner et al. 2018) is TPE with Hyperband's brackets, which is what Optuna's documentation recommends
for it; Ray's own TuneBOHB needs hpbandster, which is no longer maintained.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tunesmith_api.search_spec import Categorical, IntUniform, LogUniform, Parameter
from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_trainer.search import space
from tunesmith_trainer.search.ledger import Setting, Trial

optuna.logging.set_verbosity(optuna.logging.WARNING)

STARTUP_TRIALS = 8
"""TPE draws this many trials at random before it has a model."""


class Proposer:
    """Proposes the hyper-parameters of the trials of one strategy.

    Args:
        spec: with the search space and the algorithm.
        strategy: ``LinearProbe`` or ``FineTune``.
        earlier: trials of the job to warm-start from; those that do not fit this space are left out.
        backbones: names among which trials choose.

    Attributes:
        grid: all combinations, where they are what is tried; None for algorithms that draw.
    """

    def __init__(
        self, spec: TrainingJobSpec, strategy: str, backbones: Sequence[str], earlier: Sequence[Trial] = ()
    ) -> None:
        """Prepare the search space."""
        self._spec, self._strategy, self._backbones = spec, strategy, list(backbones)
        gridded = spec.search.algorithm.name == "Grid"
        self.grid = space.Grid(spec, strategy, self._backbones) if gridded else None
        self._points = None if self.grid is None else self.grid.draw(spec.search.num_trials)
        self._distributions: dict[str, BaseDistribution] = {
            one.name: _distribution(one) for one in space.parameters_of(spec, strategy)
        }
        if len(self._backbones) > 1:
            self._distributions["backbone"] = CategoricalDistribution(self._backbones)
        self._earlier = [seen for one in earlier if (seen := self._observe(one, pruned=True)) is not None]

    @property
    def limit(self) -> int | None:
        """How many different trials there are; None when there is no end."""
        return None if self._points is None else len(self._points)

    def left_out(self, count: int) -> str:
        """What ``count`` trials leave out of a grid, as a sentence; empty when that is nothing."""
        if self.grid is None or count >= self.grid.size:
            return ""
        return (
            f"The grid for {self._strategy} has {self.grid.size} combinations, of which {count} are tried, "
            "drawn at random over all backbones. Raise spec.search.numTrials or maxFineTuneTrials, or give "
            "fewer values."
        )

    def propose(self, history: Sequence[Trial], first: int, count: int) -> list[dict[str, Setting]]:
        """Propose trials number ``first`` to ``first + count - 1`` at once.

        Args:
            history: finished trials of this strategy that were proposed before.
            first: number of the first proposal, from 0; with the seed it decides the random numbers.
            count: how many; the later ones keep their distance from the earlier ones, whose results are
                not known yet (the constant liar of Ginsbourger et al. 2010).
        """
        study = self._study(first)
        study.add_trials([*self._earlier, *filter(None, map(self._observe, history))])
        if self._points is not None:
            for point in self._points[first : first + count]:
                study.enqueue_trial(dict(point))
            count = min(count, max(0, len(self._points) - first))
        elif self._strategy == "LinearProbe" and len(self._backbones) > 1:
            # The first heads go round the backbones: by chance alone a small search may miss one of them.
            for name in self._backbones[first : first + count]:
                study.enqueue_trial({"backbone": name})
        return [space.sample(self._spec, self._strategy, self._backbones, study.ask()) for _ in range(count)]

    def _study(self, number: int) -> optuna.Study:
        seed = (self._spec.search.seed * 1_000_003 + number) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler: optuna.samplers.BaseSampler
            if self._spec.search.algorithm.name in ("Random", "Grid", "PBT"):
                sampler = optuna.samplers.RandomSampler(seed=seed)
            else:
                sampler = optuna.samplers.TPESampler(
                    seed=seed, n_startup_trials=STARTUP_TRIALS, constant_liar=True
                )
            return optuna.create_study(study_name="tunesmith", direction="minimize", sampler=sampler)

    def _observe(self, trial: Trial, *, pruned: bool = False) -> FrozenTrial | None:
        """A finished trial as Optuna knows it, or None when it has no score or is outside of this space.

        With ``pruned`` one that was stopped counts for the epochs that it had, behind all that had more.
        """
        if trial.strategy != self._strategy or trial.backbone not in self._backbones:
            return None
        if trial.state == "Failed" or trial.score is None or not math.isfinite(trial.score):
            return None
        values: dict[str, Setting] = {"backbone": trial.backbone, **trial.parameters}
        known = {name: one for name, one in self._distributions.items() if name in values}
        params = {
            name: _to_choice(values[name], one) if isinstance(one, CategoricalDistribution) else values[name]
            for name, one in known.items()
        }
        try:
            if pruned and trial.state == "Stopped":
                return create_trial(
                    state=TrialState.PRUNED,
                    params=params,
                    distributions=known,
                    intermediate_values={trial.epochs: trial.score},
                )
            return create_trial(
                state=TrialState.COMPLETE, params=params, distributions=known, value=trial.score
            )
        except ValueError:
            return None


def _to_choice(value: Setting, distribution: CategoricalDistribution) -> Setting:
    """The choice, as the spec spells it, that was read as this value."""
    for choice in distribution.choices:
        if choice == value or (isinstance(choice, str) and space.as_setting(choice) == value):
            return choice
    return value


def _distribution(parameter: Parameter) -> BaseDistribution:
    kind = parameter.search_space.kind
    if isinstance(kind, Categorical):
        return CategoricalDistribution(list(kind.choices))
    if isinstance(kind, IntUniform):
        return IntDistribution(*kind.bounds)
    return FloatDistribution(*kind.bounds, log=isinstance(kind, LogUniform))


class EarlyStopper:
    """Decides after each epoch whether a fine-tuning goes on: ASHA, the median rule, Hyperband or never.

    ASHA is Li et al. (2020), by Optuna's SuccessiveHalvingPruner.
    """

    def __init__(self, spec: TrainingJobSpec, max_epochs: int, earlier: Sequence[Trial] = ()) -> None:
        """Replay the trials of the ledger, so that the next epoch meets the rungs as they are.

        Args:
            spec: with the rule.
            max_epochs: of a fine-tuning.
            earlier: finished and unfinished trials, in the order in which they were proposed.
        """
        self._study = optuna.create_study(
            study_name="tunesmith", direction="minimize", pruner=_pruner(spec, max_epochs)
        )
        self._running: dict[str, optuna.Trial] = {}
        self._seen: dict[str, int] = {}
        for trial in earlier:
            for point in trial.curve:
                if point.compared is not None:
                    self.stop_after(trial.id, point.epoch, point.compared)
            if trial.finished:
                self.close(trial.id, trial.score)

    def stop_after(self, trial_id: str, epoch: int, score: float) -> bool:
        """Tell the score after an epoch; True when the trial should end here."""
        trial = self._running.get(trial_id)
        if trial is None:
            trial = self._running[trial_id] = self._study.ask()
        if epoch <= self._seen.get(trial_id, 0):
            return False
        self._seen[trial_id] = epoch
        trial.report(score, epoch)
        return trial.should_prune()

    def close(self, trial_id: str, score: float | None) -> None:
        """Say that a trial is over."""
        trial = self._running.pop(trial_id, None)
        if trial is not None:
            if score is None:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._study.tell(trial, score)


def _pruner(spec: TrainingJobSpec, max_epochs: int) -> optuna.pruners.BasePruner:
    stopping = spec.search.early_stopping
    if stopping.name == "None":
        return optuna.pruners.NopPruner()
    if stopping.name == "Median":
        return optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=stopping.grace_epochs)
    if spec.search.algorithm.name == "BOHB":
        return optuna.pruners.HyperbandPruner(
            min_resource=stopping.grace_epochs,
            max_resource=max(max_epochs, stopping.grace_epochs),
            reduction_factor=stopping.reduction_factor,
        )
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=stopping.grace_epochs, reduction_factor=stopping.reduction_factor
    )
