"""What the disturbed runs are compared with."""

from dataclasses import dataclass

from tests.testbed.tiny_job import Outcome
from tests.testbed.trainers import Trainer


@dataclass(frozen=True)
class Reference:
    """The undisturbed run: what it told, and what it left in the store."""

    trainer: Trainer
    outcome: Outcome
