"""Tunesmith from Python: jobs in every form, and a model as an object."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.api_refusals import MODEL_DEPLOYMENT, TRAINING_JOB, changed
from tests.testbed.tiny_package import HEADER, LABELS, picture, write_tiny_package
from tests.unit.emitting_trainer import Steps, result, trainer_command

from tunesmith import client, local_run
from tunesmith_api.reasons import ModelUnverified, SpecInvalid
from tunesmith_api.training_job import TrainingJob
from tunesmith_api.yaml_text import dump
from tunesmith_package.package import PublishedPackage, publish_package
from tunesmith_package.preprocess import ImageInvalid
from tunesmith_package.store import open_store


def publish(folder: Path, *, verified: bool = True) -> PublishedPackage:
    store = open_store((folder / "store").as_uri())
    header = replace(HEADER, verified=verified)
    return publish_package(write_tiny_package(folder / "built"), store, "colours", header)


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process that speaks the trainer's protocol."""
    steps: Steps = [result(0, "Completed", status={"phase": "Succeeded"})]
    command = trainer_command(tmp_path, steps)
    monkeypatch.setattr(local_run, "_installed_trainer", lambda: command)


@pytest.mark.usefixtures("trainer")
@pytest.mark.parametrize("form", ["file", "mapping", "resource"])
def test_run_takes_a_job_in_every_form(tmp_path: Path, form: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.yaml").write_text(dump(TRAINING_JOB))
    forms: dict[str, Any] = {
        "file": tmp_path / "job.yaml",
        "mapping": TRAINING_JOB,
        "resource": TrainingJob.model_validate(TRAINING_JOB),
    }

    outcome = client.run(forms[form], cache_dir=tmp_path / "cache", quiet=True)

    assert outcome.succeeded
    assert outcome.job.name == "flowers"
    assert capfd.readouterr() == ("", "")


def test_run_what_a_server_would_refuse_is_refused_and_a_deployment_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match="numTrials"):
        client.run(changed(TRAINING_JOB, {"spec.search.numTrials": 0}), cache_dir=tmp_path)
    with pytest.raises(SpecInvalid, match="only TrainingJobs run"):
        client.run(MODEL_DEPLOYMENT, cache_dir=tmp_path)


def test_model_predicts_from_paths_and_bytes_and_draws_why(tmp_path: Path) -> None:
    package = publish(tmp_path)
    (tmp_path / "green.png").write_bytes(picture("green"))

    model = client.open_model(package.uri, digest=package.digest)
    green, blue = model.predict([tmp_path / "green.png", picture("blue", format="JPEG")])

    assert model.labels == LABELS
    assert (green.label, blue.label) == ("green", "blue")
    assert green.probability == max(green.probabilities.values()) == green.probabilities["green"]
    assert list(green.probabilities) == list(LABELS)
    assert model.explain(picture("red"), "red").startswith(b"\x89PNG")
    with pytest.raises(ImageInvalid):
        model.predict([b"hello"])


def test_open_model_refuses_an_unverified_one_unless_it_is_asked_for(tmp_path: Path) -> None:
    package = publish(tmp_path, verified=False)
    with pytest.raises(ModelUnverified):
        client.open_model(package.uri)
    assert client.open_model(package.uri, verified=False).labels == LABELS
