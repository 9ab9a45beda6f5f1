"""Every trial of a job, one JSON object each in the store: the only memory that a search has.

A killed run reads it and goes on: finished trials are never run again, and what the search algorithm proposes
next follows from these rows alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from tunesmith_api.reasons import SearchFailed
from tunesmith_package.store import Store
from tunesmith_trainer.verify.records import CAMEL

State = Literal["Running", "Succeeded", "Stopped", "Failed"]
Setting = str | int | float

MAX_CURVE_POINTS = 1_000
REFIT = "refit"
"""The last fine-tuning: the chosen hyper-parameters on training and validation images together."""


@dataclass(frozen=True, config=CAMEL)
class CurvePoint:
    """One epoch of a fine-tuning; losses are mean negative log likelihoods in nats.

    What held-out images say is None where there are none: the last fine-tuning learns from all of them. The
    score is what the search minimises.
    """

    epoch: int
    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    score: float | None = None

    @property
    def compared(self) -> float | None:
        """What early stopping compares; rows of earlier versions have the likelihood alone."""
        return self.validation_loss if self.score is None else self.score


@dataclass(frozen=True, config=CAMEL)
class Trial:
    """One trial: a linear head or a fine-tuning with one set of hyper-parameters.

    Attributes:
        id: ``t0001`` and so on, in the order in which they were proposed.
        strategy: ``LinearProbe`` or ``FineTune``.
        backbone: torchvision's name.
        parameters: hyper-parameters, by the names of the spec.
        state: how it stands.
        score: what the search minimises: see ``search/README.md``; None before the first result.
        reason: a word for why it was stopped or failed.
        message: the same as a sentence.
        metrics: on held-out images.
        curve: one point for each epoch of a fine-tuning.
        epochs: epochs done.
        max_epochs: epochs granted at most.
        start_time: ISO 8601, UTC.
        duration_seconds: wall-clock time; a head that was trained with others has its share.
        start_head: hyper-parameters of the head that a fine-tuning starts from, which is trained for it on
            its own images and is no trial.
        parent: the trial whose weights population based training gave it.
        checkpoint: key of its weights in the store.
    """

    id: str
    strategy: str
    backbone: str
    parameters: Mapping[str, Setting] = Field(default_factory=dict)
    state: State = "Running"
    score: float | None = None
    reason: str = ""
    message: str = ""
    metrics: Mapping[str, float] = Field(default_factory=dict)
    curve: tuple[CurvePoint, ...] = Field(default=(), max_length=MAX_CURVE_POINTS)
    epochs: int = 0
    max_epochs: int = 0
    start_time: str = ""
    duration_seconds: float = 0.0
    start_head: Mapping[str, Setting] = Field(default_factory=dict)
    parent: str = ""
    checkpoint: str = ""

    @property
    def finished(self) -> bool:
        """Whether it will never run again."""
        return self.state != "Running"


_TRIAL = TypeAdapter(Trial)


def trial_to_json(trial: Trial) -> dict[str, object]:
    """A trial as plain JSON in camelCase."""
    return dict(_TRIAL.dump_python(trial, mode="json", by_alias=True))


class Ledger:
    """The trials under a prefix of a store."""

    def __init__(self, store: Store, prefix: str) -> None:
        """Open the ledger and read what is there.

        Raises:
            SearchFailed: a row cannot be read.
            StoreError: the store cannot be reached.
        """
        self._store, self._prefix = store, prefix.rstrip("/") + "/"
        rows = [self._read(info.key) for info in store.list(self._prefix)]
        self._trials = {trial.id: trial for trial in rows}

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials in the order in which they were proposed; one without a number comes last."""
        return tuple(self._trials[key] for key in sorted(self._trials, key=_place))

    def get(self, trial_id: str) -> Trial | None:
        """The trial of this id, if there is one."""
        return self._trials.get(trial_id)

    def record(self, trial: Trial) -> None:
        """Write a trial, in place of its earlier row."""
        if self._trials.get(trial.id) == trial:
            return
        self._store.put(f"{self._prefix}{trial.id}.json", _TRIAL.dump_json(trial, by_alias=True))
        self._trials[trial.id] = trial

    def _read(self, key: str) -> Trial:
        try:
            return _TRIAL.validate_json(self._store.get(key))
        except ValidationError as error:
            raise SearchFailed(
                f"The ledger's row {self._store.url(key)} cannot be read: {error.errors()[0]['msg']}.",
                "Delete that object to have the trial run again.",
            ) from error


def trial_id(index: int) -> str:
    """Name of the trial proposed as number ``index``, from 1."""
    return f"t{index:04d}"


def trial_number(trial_id: str) -> int | None:
    """The number that ``trial_id`` named, or None for a name that is not one of its."""
    digits = trial_id.removeprefix("t")
    return int(digits) if digits.isdigit() else None


def _place(trial_id: str) -> tuple[float, str]:
    number = trial_number(trial_id)
    return (math.inf if number is None else number), trial_id
