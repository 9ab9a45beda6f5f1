"""One undisturbed run, with which the disturbed ones are compared, and the server that starts trainers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.resilience.reference import Reference
from tests.testbed.s3 import s3_bucket, s3_server
from tests.testbed.tiny_job import Outcome, tiny_job, write_photos
from tests.testbed.trainers import Trainers, running_trainers

from tunesmith_package.store import open_store

__all__ = ["s3_bucket", "s3_server"]


@pytest.fixture(scope="session")
def trainers() -> Iterator[Trainers]:
    """Starts trainers; none of them outlives the session."""
    with running_trainers() as started:
        yield started


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of all these runs: its address is a part of a run's name."""
    return write_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def reference(trainers: Trainers, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    store = f"file://{folder}/store"
    trainer = trainers.start(folder, tiny_job(photos, store))
    assert trainer.wait() == 0, trainer.tail()
    return Reference(trainer, Outcome.read(open_store(store)))
