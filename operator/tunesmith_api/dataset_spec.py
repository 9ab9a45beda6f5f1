"""``spec.dataset``: where the images lie, how they are split, and what happens to the bad ones."""

from typing import Annotated, Literal

from pydantic import Field

from tunesmith_api.fields import ApiModel, DatasetUri, Fraction, SecretRef, Seed
from tunesmith_api.rules import Rule


class Split(ApiModel):
    """How images go to validation and test.

    An image's side follows from its content and the seed, so adding images never moves an old one. A dataset
    that comes with train/, validation/ and test/ keeps its own split.
    """

    rules = (
        Rule(
            "self.validation + self.test < 0.9",
            "validation and test together must leave more than a tenth for training; "
            "write for example validation: 0.15, test: 0.15",
        ),
    )

    validation: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Fraction of the images on which the search compares its trials."""
    test: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Fraction of the images that is read once, to verify the chosen model."""
    seed: Seed = 0
    """Another seed gives another split."""


class Checks(ApiModel):
    """What happens to images that something is wrong with. Every finding is counted in status.dataset."""

    on_corrupt: Literal["Skip", "Fail"] = "Skip"
    """Images that cannot be decoded, are empty or truncated, or have more than maxPixels."""
    max_corrupt_fraction: Fraction = 0.01
    """With onCorrupt: Skip, the job still fails when more than this fraction of the images is corrupt."""
    min_images_per_class: Annotated[int, Field(ge=1, le=1_000_000)] = 8
    """Classes with fewer images fall under onSmallClass."""
    on_small_class: Literal["Fail", "Drop", "Keep"] = "Fail"
    """What to do with classes that have fewer than minImagesPerClass images."""
    on_duplicate: Literal["Drop", "Keep", "Fail"] = "Drop"
    """The same bytes or the same pixels twice in one class: Drop keeps one of them."""
    on_near_duplicate: Literal["Group", "Drop", "Fail"] = "Group"
    """Nearly the same picture twice: Group puts both on the same side of the split."""
    near_duplicate_distance: Annotated[int, Field(ge=0, le=16)] = 4
    """Near duplicates differ in at most this many of the 64 bits of their perceptual hashes."""
    on_leakage: Literal["Drop", "Report", "Fail"] = "Drop"
    """The same or nearly the same image in two splits of a dataset that comes split: Drop removes the twin on
    the training side."""
    on_conflicting_label: Literal["Drop", "Report", "Fail"] = "Drop"
    """The same image under two labels: Drop removes both."""
    on_class_name_collision: Literal["Fail", "Merge", "Report"] = "Fail"
    """Class names that differ only by case or spaces, like "Cat" and "cat "."""
    on_animated: Literal["FirstFrame", "Skip", "Fail"] = "FirstFrame"
    """Images with more than one frame."""
    on_format_mismatch: Literal["Accept", "Skip", "Fail"] = "Accept"
    """Images whose content is of another format than their extension says."""
    max_pixels: Annotated[int, Field(ge=1_024, le=1_000_000_000)] = 50_000_000
    """Images with more pixels than this are not decoded (decompression bombs)."""
    imbalance: Literal["Auto", "None", "Loss", "Sampling"] = "Auto"
    """How training makes up for classes of very different size: by weights in the loss or by sampling. Auto
    weighs the loss when the largest class has more than ten times the images of the smallest."""
    label_noise: Literal["Report", "Drop", "Ignore"] = "Report"
    """Labels that a cross-validated model contradicts confidently: list them in the report, or train without
    them, or do not look for them."""


class DatasetSpec(ApiModel):
    """The labelled images."""

    uri: DatasetUri
    """Where the images lie: s3://BUCKET/PREFIX, file:///PATH, pvc://CLAIM/PATH, or torchvision://NAME?root=PATH
    for one of torchvision's own datasets in local files."""
    format: Literal["Auto", "Folder", "Manifest", "WebDataset"] = "Auto"
    """Folder is a tree with one folder for each class; Manifest a CSV or Parquet table with the columns path
    and label and, optionally, split and weight; WebDataset a set of .tar shards. Auto looks."""
    secret_ref: SecretRef | None = None
    """The Secret with the credentials for uri, if it needs any."""
    max_images_per_class: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Take at most this many images of each class, and of each split that the data set brings, always the
    same ones."""
    slice_columns: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=128)], ...],
        Field(max_length=16),
        Rule(
            "self.all(column, self.exists_one(other, other == column))",
            "each column of sliceColumns may stand there once",
        ),
    ] = ()
    """Columns of the manifest by whose values the metrics are also reported, like camera or site."""
    split: Split = Field(default_factory=Split)
    """How images go to validation and test."""
    checks: Checks = Field(default_factory=Checks)
    """What happens to images that something is wrong with."""
