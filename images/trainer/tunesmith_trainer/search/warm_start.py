"""What a search takes from the trials of an earlier job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunesmith_api.reasons import SpecInvalid
from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_package.store import Store
from tunesmith_trainer.search.judgement import LIKELIHOOD, leading_metric, score_of
from tunesmith_trainer.search.ledger import Ledger, Trial

LEARNING = ("TPE", "BOHB")
"""Algorithms that learn from trials."""


def earlier_trials(spec: TrainingJobSpec, store: Store, own_prefix: str) -> tuple[tuple[Trial, ...], str]:
    """The trials that a search starts from, and a sentence about them; nothing where the spec names no job.

    Args:
        spec: of the job.
        store: of the job.
        own_prefix: of this run's keys: a run that goes on must not learn from itself.

    Raises:
        SpecInvalid: the job that the spec names has no trials in this store.
    """
    reference = spec.search.warm_start_from
    if reference is None:
        return (), ""
    runs = {
        info.key.split("ledger/")[0]
        for info in store.list(f"jobs/{reference.name}/")
        if "/ledger/" in info.key and not info.key.startswith(own_prefix)
    }
    if not runs:
        raise SpecInvalid(
            f"search.warmStartFrom names {reference.name}, of which {spec.store.uri} has no earlier trials.",
            "Check the name and spec.store.uri, or leave warmStartFrom out.",
        )
    algorithm = spec.search.algorithm.name
    if algorithm not in LEARNING:
        return (), (
            f"{algorithm} learns nothing from the trials of {reference.name}: set search.algorithm to TPE or "
            "BOHB, or leave warmStartFrom out."
        )
    rows = [row for run in sorted(runs) for row in Ledger(store, f"{run}ledger/").trials]
    usable = learnable(rows, spec.objectives[0].metric)
    return usable, f"The search starts from {len(usable)} trials of {reference.name}."


def learnable(trials: Sequence[Trial], objective: str) -> tuple[Trial, ...]:
    """The trials that have a result, with the score that this objective gives it."""
    needed = {LIKELIHOOD, leading_metric(objective)}
    return tuple(
        replace(row, score=score_of(row.metrics, objective))
        for row in trials
        if row.state in ("Succeeded", "Stopped") and needed <= row.metrics.keys()
    )
