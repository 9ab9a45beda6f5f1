"""Dataset, weights and store may be in three accounts."""

import io
from pathlib import Path

import pytest
from tests.api_refusals import TRAINING_JOB, changed
from tests.testbed.s3 import S3Server
from tests.testbed.tiny_package import picture

from tunesmith.job_file import read_job_file
from tunesmith_api.reasons import StoreDenied
from tunesmith_api.training_job import TrainingJob
from tunesmith_api.yaml_text import dump
from tunesmith_trainer.credentials import DATASET, KEYS, STORE, credentials_for, weights_of
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare.sources import list_source
from tunesmith_trainer.run import JobRun


def test_credentials_each_purpose_has_its_own_and_the_rest_is_left_to_boto3() -> None:
    environment = {
        "AWS_ACCESS_KEY_ID": "everybody's",
        "TUNESMITH_DATASET_AWS_ACCESS_KEY_ID": "data",
        "TUNESMITH_DATASET_AWS_ENDPOINT_URL": "http://data",
        "TUNESMITH_DATASET_HOME": "no key of a Secret",
        "TUNESMITH_BACKBONE_1_AWS_ACCESS_KEY_ID": "weights",
        "TUNESMITH_STORE_AWS_REGION": "",
    }
    assert credentials_for(DATASET, environment) == {
        "AWS_ACCESS_KEY_ID": "data",
        "AWS_ENDPOINT_URL": "http://data",
    }
    assert credentials_for(weights_of(1), environment) == {"AWS_ACCESS_KEY_ID": "weights"}
    assert credentials_for(weights_of(0), environment) == credentials_for(STORE, environment) == {}


def test_dataset_and_store_with_accounts_of_their_own_are_both_read(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_server.client().put_object(Bucket=s3_bucket, Key="photos/a/1.png", Body=picture("red"))
    s3_server.client().put_object(Bucket=s3_bucket, Key="photos/b/1.png", Body=picture("blue"))
    address = f"s3://{s3_bucket}/photos"
    spec = {"spec.dataset.uri": address, "spec.store.uri": f"s3://{s3_bucket}/store"}
    job = TrainingJob.model_validate(changed(TRAINING_JOB, spec))
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for key, value in s3_server.credentials.items():
        monkeypatch.setenv(f"TUNESMITH_DATASET_{key}", value)
        monkeypatch.setenv(f"TUNESMITH_STORE_{key}", value)
    monkeypatch.setenv("TUNESMITH_STORE_AWS_SECRET_ACCESS_KEY", "another account's")

    listing = list_source(job.spec, credentials_for(DATASET), patience_seconds=5)
    run = JobRun(job, tmp_path, "cpu", Events(io.StringIO()), patience_seconds=5)

    assert listing.total == 2
    with pytest.raises(StoreDenied):
        run.store.exists("anything")


def test_job_file_with_secrets_says_where_their_keys_come_from_here(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(dump(changed(TRAINING_JOB, {"spec.dataset.secretRef": {"name": "photos"}})))
    [remark] = read_job_file(path).remarks
    assert "spec.dataset.secretRef names the Secret photos" in remark
    assert "TUNESMITH_DATASET_AWS_ACCESS_KEY_ID" in remark
