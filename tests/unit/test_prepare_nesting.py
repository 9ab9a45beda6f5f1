"""A store and a dataset that lie in each other are refused, and others are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.testbed.photo_sets import two_classes

from tunesmith_api.reasons import SpecInvalid
from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_trainer.prepare.nesting import check_apart
from tunesmith_trainer.prepare.source import Listing
from tunesmith_trainer.prepare.sources import list_source


@pytest.mark.parametrize(
    ("dataset", "store"),
    [
        pytest.param("file:///data/photos", "file:///data/photos/models", id="below a folder"),
        pytest.param("file:///data/photos/", "file:///data/photos", id="the same folder"),
        pytest.param("file:///data/my%20photos", "file:///data/./my photos/models", id="written otherwise"),
        pytest.param("file:///data/photos/list.csv", "file:///data/photos/models", id="beside a manifest"),
        pytest.param("s3://photos", "s3://photos/models", id="in a bucket"),
        pytest.param("s3://one/photos", "s3://one/photos/models", id="below a prefix"),
        pytest.param("torchvision://EuroSAT?root=/data", "file:///data/store", id="of torchvision"),
    ],
)
def test_store_in_the_dataset_is_refused_before_anything_is_listed(dataset: str, store: str) -> None:
    spec = TrainingJobSpec.model_validate({"dataset": {"uri": dataset}, "store": {"uri": store}})
    with pytest.raises(SpecInvalid, match=r"each run would change the dataset.* beside the dataset"):
        list_source(spec)


def test_store_that_a_link_leads_to_in_the_dataset_is_refused(tmp_path: Path) -> None:
    root = two_classes(tmp_path / "photos", 2).root
    (tmp_path / "models").symlink_to(root / "models")
    spec = TrainingJobSpec.model_validate(
        {"dataset": {"uri": f"file://{root}"}, "store": {"uri": f"file://{tmp_path}/models"}}
    )
    with pytest.raises(SpecInvalid, match="lies in the dataset"):
        list_source(spec)


def test_dataset_in_the_store_is_fine_but_not_in_the_stores_own_folders(tmp_path: Path) -> None:
    def listed_in_store(folder: str) -> Listing:
        root = two_classes(tmp_path / folder, 2).root
        spec = {"dataset": {"uri": f"file://{root}"}, "store": {"uri": f"file://{tmp_path}"}}
        return list_source(TrainingJobSpec.model_validate(spec))

    assert listed_in_store("photos").total == 4
    with pytest.raises(SpecInvalid, match=r"lies in jobs/ of the store .* are features, jobs, models"):
        listed_in_store("jobs/photos")


@pytest.mark.parametrize("store", ["s3://other/photos", "s3://one/photos-models", "file:///photos/models"])
def test_store_beside_the_dataset_is_apart_from_it(store: str) -> None:
    check_apart("s3://one/photos", store)
