"""Builds small sets of labelled pictures, image by image, and prepares them."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_package.store import open_store
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare.dataset import Dataset
from tunesmith_trainer.prepare.findings import Finding
from tunesmith_trainer.prepare.prepare import prepare_dataset
from tunesmith_trainer.workspace import Workspace

SIDE = 48


def picture(seed: int, side: int = SIDE) -> Image.Image:
    """Random soft patches of colour: pictures of different seeds do not resemble each other."""
    patches = np.random.default_rng(seed).integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((side, side), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    """The encoded picture."""
    buffer = io.BytesIO()
    image.save(buffer, format, **({"quality": 90} if format == "JPEG" else {}) | options)
    return buffer.getvalue()


@dataclass
class PhotoSet:
    """A folder that grows; every method returns the set itself."""

    root: Path
    seed: int = 0

    def add(self, path: str, data: bytes) -> Self:
        """Write a file."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return self

    def photos(self, folder: str, count: int, *, side: int = SIDE) -> Self:
        """Write ``count`` new pictures into a folder."""
        for _ in range(count):
            self.seed += 1
            self.add(f"{folder}/{self.seed:05d}.jpg", encode(picture(self.seed, side)))
        return self


def two_classes(root: Path, count: int = 12) -> PhotoSet:
    """Ants and bees, ``count`` of each, in class folders."""
    return PhotoSet(root).photos("ants", count).photos("bees", count)


@dataclass
class Bench:
    """A store, a cache and a spec, to prepare sets with."""

    folder: Path
    run: str = "jobs/photos/run"
    image_size: int = 32
    log: io.StringIO = field(default_factory=io.StringIO)

    def spec(self, uri: str, checks: dict[str, Any] | None = None, **dataset: Any) -> TrainingJobSpec:
        """A spec with small images and the given dataset."""
        return TrainingJobSpec.model_validate(
            {
                "dataset": {"uri": uri, "checks": checks or {}, **dataset},
                "transfer": {"imageSize": self.image_size},
                "store": {"uri": f"file://{self.folder}/store"},
            }
        )

    @property
    def workspace(self) -> Workspace:
        """The run's places."""
        return Workspace(open_store(f"file://{self.folder}/store"), self.run, self.folder / "cache")

    def prepare(
        self,
        uri: str | Path,
        checks: dict[str, Any] | None = None,
        *,
        credentials: dict[str, str] | None = None,
        **dataset: Any,
    ) -> Dataset:
        """Prepare what lies at an address."""
        address = f"file://{uri}" if isinstance(uri, Path) else uri
        return prepare_dataset(
            self.spec(address, checks, **dataset), self.workspace, Events(self.log), credentials
        )


def finding(dataset: Dataset, check: str) -> Finding:
    """The one finding of a check."""
    (found,) = [each for each in dataset.findings if each.check == check]
    return found


def splits(dataset: Dataset) -> dict[str, int]:
    """The split of each image by its name."""
    return dict(zip(dataset.paths.to_pylist(), dataset.split.tolist(), strict=True))
