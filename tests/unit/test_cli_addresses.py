"""Relative addresses start at the file they stand in."""

from pathlib import Path

import pytest

from tunesmith.addresses import absolute, with_absolute_addresses
from tunesmith_api.training_job import TrainingJob

FOLDER = Path("/home/me/flowers")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        pytest.param("file://./photos", "file:///home/me/flowers/photos", id="below the file's folder"),
        pytest.param("file://../store", "file:///home/me/store", id="beside the file's folder"),
        pytest.param("file://.", "file:///home/me/flowers", id="the folder itself"),
        pytest.param("file:///data/photos", "file:///data/photos", id="absolute paths stay"),
        pytest.param("s3://bucket/photos", "s3://bucket/photos", id="buckets stay"),
        pytest.param("pvc://claim/photos", "pvc://claim/photos", id="volume claims stay"),
        pytest.param("torchvision://CIFAR10", "torchvision://CIFAR10", id="a data set without root stays"),
        pytest.param(
            "torchvision://CIFAR10?root=./data",
            "torchvision://CIFAR10?root=/home/me/flowers/data",
            id="a data set's root is a path too",
        ),
        pytest.param(
            "torchvision://CIFAR10?root=/data",
            "torchvision://CIFAR10?root=/data",
            id="a data set's absolute root stays",
        ),
        pytest.param(
            "file://./my%20photos", "file:///home/me/flowers/my%20photos", id="escapes are kept as escapes"
        ),
    ],
)
def test_address_in_a_file_means(written: str, meant: str) -> None:
    assert absolute(written, FOLDER) == meant


def test_job_every_address_becomes_absolute_and_the_rest_stays() -> None:
    job = TrainingJob.model_validate(
        {
            "metadata": {"name": "flowers", "labels": {"team": "garden"}},
            "spec": {
                "dataset": {"uri": "file://./photos"},
                "backbones": [{"name": "mobilenet_v2", "weightsUri": "file://./w/mobilenet_v2.safetensors"}],
                "store": {"uri": "file://./models"},
            },
        }
    )
    resolved = with_absolute_addresses(job, FOLDER)
    assert resolved.spec.dataset.uri == "file:///home/me/flowers/photos"
    assert resolved.spec.backbones[0].weights_uri == "file:///home/me/flowers/w/mobilenet_v2.safetensors"
    assert resolved.spec.store.uri == "file:///home/me/flowers/models"
    assert resolved.metadata == job.metadata
    assert resolved.spec.search == job.spec.search
