"""What a search found, for the stages after it: no Ray in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tunesmith_trainer.search.candidate import Candidate
from tunesmith_trainer.search.label_noise import Suspect
from tunesmith_trainer.search.ledger import Trial


@dataclass(frozen=True)
class SearchResult:
    """What the search found.

    Attributes:
        candidate: the chosen model.
        trials: all trials, in the order of their ids.
        suspects: suspected wrong labels, the most certain first.
        timings: seconds spent on features, heads and finetune.
        ended: one sentence: why the search ended.
    """

    candidate: Candidate
    trials: tuple[Trial, ...]
    suspects: tuple[Suspect, ...]
    timings: Mapping[str, float]
    ended: str
