"""One job on this machine: what its status says of the dataset."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from tests.testbed.photo_sets import PhotoSet
from tests.testbed.tiny_job import tiny_job

from tunesmith_api.training_job import TrainingJob
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare.dataset import DatasetUnusable
from tunesmith_trainer.run import JobRun


def test_status_of_a_job_whose_dataset_is_refused_counts_what_was_found(tmp_path: Path) -> None:
    photos = PhotoSet(tmp_path / "photos").photos("ants", 12)
    for path in sorted((photos.root / "ants").iterdir()):
        photos.add(f"bees/{path.name}", path.read_bytes())
    job = TrainingJob.model_validate(tiny_job(photos.root, f"file://{tmp_path}/store"))
    run = JobRun(job, tmp_path / "cache", "cpu", Events(io.StringIO()))
    with pytest.raises(DatasetUnusable):
        run.run()
    status = run.board.status.dataset
    assert status is not None
    assert (status.images, status.skipped) == (0, 24)
    assert [(each.check, each.count, each.policy) for each in status.findings] == [
        ("conflicting-label", 24, "Drop")
    ]
