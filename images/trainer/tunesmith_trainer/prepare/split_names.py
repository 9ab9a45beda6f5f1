"""The names by which sources call their splits."""

from __future__ import annotations

from tunesmith_trainer.prepare.dataset import TEST, TRAIN, VALIDATION

SPLITS = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
}


def split_of(name: str) -> int | None:
    """The split of that name, in whatever case; None: it is not one of a split."""
    return SPLITS.get(name.strip().lower())
