"""Well-known data sets in the layout that torchvision reads, to be named as ``torchvision://NAME?root=FOLDER``.

Fashion-MNIST comes from Debian's own package where apt-get can have it, and its contents are pinned. Every
other one comes from torchvision, which checks it against its own list.
"""

import gzip
import inspect
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tunesmith.files import holds, place, sha256_of
from tunesmith.wording import file_name, suggestion
from tunesmith_api.reasons import DatasetInvalid, DatasetMissing, SpecInvalid

Say = Callable[[str], None]

SPLITS = ("train", "trainval", "val", "valid", "test")
FASHION_MNIST_PACKAGE = "dataset-fashion-mnist"
FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""The sha256 of each file once unpacked: Debian's and torchvision's gzip wrappers differ."""


def fetch_data(name: str, directory: Path, *, say: Say) -> Path:
    """Put a data set of torchvision into ``directory``, the ``root`` that torchvision's class takes.

    Args:
        name: a class of torchvision.datasets that can download itself, for example ``FashionMNIST``.
        directory: the root; a complete data set in it is left alone.
        say: is told what is being done, one sentence at a time.

    Raises:
        SpecInvalid: torchvision has no such data set, or it cannot download itself.
        DatasetMissing: it cannot be downloaded.
        DatasetInvalid: what came is not what is pinned.
    """
    if name == "FashionMNIST":
        _fetch_fashion_mnist(directory, say)
    else:
        _download_by_torchvision(name, directory, say)
    say(f"{name} is in {directory}.")
    return directory


def _fetch_fashion_mnist(directory: Path, say: Say) -> None:
    raw = directory / "FashionMNIST" / "raw"
    if all(holds(raw / name, sha256) for name, sha256 in FASHION_MNIST.items()):
        return
    if not _unpack_debian_package(FASHION_MNIST_PACKAGE, raw, say):
        _download_by_torchvision("FashionMNIST", directory, say)
    check_fashion_mnist(raw)


def check_fashion_mnist(raw: Path) -> None:
    """Compare the unpacked files with their pinned digests.

    Raises:
        DatasetInvalid: one of them is missing or another.
    """
    for name, sha256 in FASHION_MNIST.items():
        if not holds(raw / name, sha256):
            found = sha256_of(raw / name) if (raw / name).exists() else "nothing"
            raise DatasetInvalid(
                f"{raw / name} is not the pinned file: its sha256 is {found} where {sha256} is expected.",
                f"Remove {raw} and try again.",
            )


def _unpack_debian_package(package: str, raw: Path, say: Say) -> bool:
    """Unpack the package's ``.gz`` files into ``raw``, not installing it; False where apt cannot have it."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return False
    with tempfile.TemporaryDirectory() as folder:
        # apt's own user, who downloads when root calls, must be able to write here
        Path(folder).chmod(0o777)
        say(f"Downloading Debian's {package} (31 MB).")
        downloaded = _run(["apt-get", "download", "-q", package], folder)
        if not downloaded and os.geteuid() == 0:
            downloaded = _run(["apt-get", "update", "-q"], folder) and _run(
                ["apt-get", "download", "-q", package], folder
            )
        archives = sorted(Path(folder).glob("*.deb"))
        if (
            not downloaded
            or not archives
            or not _run(["dpkg-deb", "-x", str(archives[0]), "unpacked"], folder)
        ):
            say(f"{package} is not to be had by apt-get; torchvision's own download is tried.")
            return False
        for packed in sorted(Path(folder, "unpacked").rglob("*-ubyte.gz")):
            place(raw / packed.stem, partial(_gunzip, packed))
    return True


def _run(command: list[str], folder: str) -> bool:
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def _gunzip(packed: Path, path: Path) -> None:
    with gzip.open(packed) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target)


def _dataset_class(name: str) -> Any:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise DatasetMissing(
            "torchvision downloads this data set, and it is not installed.",
            "Install it with pip install 'tunesmith[trainer]'.",
        ) from error
    able = [one for one in datasets.__all__ if _downloads_itself(getattr(datasets, one))]
    if name not in able:
        raise SpecInvalid(
            f"torchvision has no data set {name!r} that can download itself.", suggestion(name, able)
        )
    return getattr(datasets, name)


def _downloads_itself(dataset_class: Any) -> bool:
    parameters = inspect.signature(dataset_class).parameters
    needed = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
    return "download" in parameters and needed <= {"root"}


def _download_by_torchvision(name: str, directory: Path, say: Say) -> None:
    dataset = _dataset_class(name)
    say(f"Downloading {name} by torchvision.")
    try:
        for part in parts_of(dataset):
            dataset(root=directory, download=True, **part)
    except (OSError, RuntimeError) as error:
        raise DatasetMissing(
            f"torchvision could not download {name}: {error}.".replace("\n", " "),
            f"Where this machine has no way to it, put the files into {directory} by hand, "
            f"laid out as torchvision.datasets.{name} expects them.",
        ) from error


def parts_of(dataset_class: Any) -> list[dict[str, str]]:
    """Arguments for each part to download: classes that take a ``split`` may fetch that one only."""
    parameters = inspect.signature(dataset_class).parameters
    if "split" not in parameters:
        return [{}]
    documented = inspect.getdoc(dataset_class) or ""
    quoted = re.findall(r"[`'\"]+(\w+)[`'\"]+", documented)
    named = [word for word in SPLITS if word in quoted]
    return [{"split": word} for word in named or [str(parameters["split"].default)]]


def write_samples(name: str, directory: Path, folder: Path, *, say: Say) -> list[Path]:
    """Write the first test image of each class as ``folder/CLASS.png``, something to predict on.

    Args:
        name: a data set of torchvision whose class takes ``train=False`` for its test part.
        directory: the root that the data set lies in.
        folder: where the PNG files go.
        say: is told where they are.

    Raises:
        SpecInvalid: the data set has no part that was left out of training.
    """
    dataset_class = _dataset_class(name)
    if "train" not in inspect.signature(dataset_class).parameters:
        raise SpecInvalid(f"{name} has no test part of its own.", "Leave --samples out.")
    dataset = dataset_class(root=directory, train=False)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    targets = [int(target) for target in dataset.targets]
    for index, label in enumerate(dataset.classes):
        if index in targets:
            path = folder / f"{file_name(label)}.png"
            dataset[targets.index(index)][0].save(path)
            written.append(path)
    say(f"{len(written)} test images of {name} are in {folder}.")
    return written
