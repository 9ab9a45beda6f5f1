"""The images: real photos where there are some, parts of them, flipped labels, synthetic sets."""

from __future__ import annotations

import colorsys
import io
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from tests.bench.harness import command
from tests.bench.harness.report import REPOSITORY, say, skip

from tunesmith.cli import DEFAULT_CACHE
from tunesmith.fetch.weights import fetch_weights
from tunesmith_api.reasons import TunesmithError
from tunesmith_api.training_job import TrainingJob
from tunesmith_package.store import open_store
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare.dataset import DROPPED
from tunesmith_trainer.prepare.prepare import prepare_dataset
from tunesmith_trainer.workspace import Workspace

PHOTOS = Path(os.environ.get("TUNESMITH_PHOTOS", REPOSITORY.parent / "shared" / "data"))
"""Photo sets with train/ and test/ (or val/) folders; their licences keep them out of the repository."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif")


def photos(name: str, benchmark: str) -> Path:
    """The folder of a photo set; ends the benchmark where it is absent."""
    folder = PHOTOS / name
    if not folder.is_dir():
        skip(benchmark, f"there are no photos in {folder} (TUNESMITH_PHOTOS names another place for {name}).")
    return folder


def mobilenet_weights(benchmark: str) -> Path:
    """MobileNetV2's weights as safetensors; ends the benchmark where they cannot be had."""
    try:
        return fetch_weights("mobilenet_v2", DEFAULT_CACHE / "weights", cache=DEFAULT_CACHE, say=say)
    except TunesmithError as error:
        skip(benchmark, str(error))


@contextmanager
def workplace(keep: Path | None) -> Iterator[Path]:
    """A folder for a benchmark's files: a temporary one, or the one to keep.

    From here on SIGTERM ends the benchmark as Ctrl-C does: what it has started is stopped.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="tunesmith-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def part_of(source: Path, target: Path, per_class: int | None) -> Path:
    """The first ``per_class`` images of each class folder, copied; the source itself when that is None."""
    if per_class is None:
        return source
    shutil.rmtree(target, ignore_errors=True)
    for folder in sorted(source.glob("*/*/")):
        copy = target / folder.relative_to(source)
        copy.mkdir(parents=True)
        for image in images_of(folder)[:per_class]:
            shutil.copy(image, copy)
    return target


def without_dropped(source: Path, target: Path) -> Path:
    """A copy of a photo set without the images that the default checks drop: repeated, or in two splits."""
    shutil.rmtree(target, ignore_errors=True)
    spec = TrainingJob.model_validate(
        command.job("checks", source, Path("none.safetensors"), target / ".store")
    ).spec
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "events.jsonl").open("w") as stream:
        store = open_store((Path(folder) / "store").as_uri())
        workspace = Workspace(store, "jobs/checks/alone/", Path(folder) / "cache")
        prepare_dataset(spec, workspace, Events(stream))
        index = pq.read_table(next(Path(folder).glob("cache/datasets/*/index.parquet")))
    used = index.filter(pc.not_equal(index["split"], DROPPED))["path"].to_pylist()
    for path in used:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / path, target / path)
    say(f"{index.num_rows - len(used)} photos of {index.num_rows} are left out by the default checks")
    return target


def images_of(folder: Path) -> list[Path]:
    """The images directly in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


@dataclass(frozen=True)
class Flip:
    """An image that was moved to a wrong class: its new path under the root, and its true class."""

    path: str
    true_class: str


def choose_flips(classes: dict[str, list[str]], fraction: float, seed: int) -> list[tuple[str, str, str]]:
    """Choose images and a wrong class for each, evenly over all images.

    Args:
        classes: for each class the names of its images.
        fraction: of all images, 0 to 1.
        seed: of the choice.

    Returns:
        Triples of true class, image and wrong class.
    """
    pick = random.Random(seed)
    everything = [(label, name) for label in sorted(classes) for name in sorted(classes[label])]
    chosen = pick.sample(everything, round(fraction * len(everything)))
    others = {label: [one for one in sorted(classes) if one != label] for label in classes}
    return [(label, name, pick.choice(others[label])) for label, name in sorted(chosen)]


def flip_labels(source: Path, target: Path, fraction: float, seed: int) -> list[Flip]:
    """Copy a photo set and move a fraction of its training images to wrong classes."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    train = target / "train"
    classes = {folder.name: [path.name for path in images_of(folder)] for folder in train.iterdir()}
    flips = []
    for label, name, wrong in choose_flips(classes, fraction, seed):
        moved = train / wrong / f"moved-{label}-{name}"
        (train / label / name).rename(moved)
        flips.append(Flip(str(moved.relative_to(target)), label))
    return flips


def synthetic_image(kind: int, kinds: int, seed: int, width: int, height: int) -> bytes:
    """A JPEG of coloured blobs of a few KB; the kind sets the hue, the seed everything else."""
    noise = np.random.default_rng((kind, seed))
    hue = np.array(colorsys.hsv_to_rgb(kind / kinds, 0.8, 0.9))
    cells = noise.random((12, 12, 3)) * 0.6 + hue * 0.4
    small = Image.fromarray((cells * 255).astype(np.uint8))
    encoded = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=80)
    return encoded.getvalue()


def synthetic_set(
    folder: Path, count: int, *, kinds: int = 10, width: int = 224, height: int = 224, seed: int = 0
) -> Path:
    """``count`` different JPEG images in ``kinds`` class folders, the same ones each time."""
    for kind in range(kinds):
        (folder / f"kind-{kind:02d}").mkdir(parents=True, exist_ok=True)

    def write(index: int) -> None:
        kind = index % kinds
        data = synthetic_image(kind, kinds, seed * 1_000_003 + index, width, height)
        (folder / f"kind-{kind:02d}" / f"{index:06d}.jpg").write_bytes(data)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(write, range(count)))
    return folder
