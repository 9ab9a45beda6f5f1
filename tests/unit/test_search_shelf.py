"""Files of the first machine for trials on others, through the store."""

from pathlib import Path

import numpy as np
import pytest

from tunesmith_package.preprocess import Preprocess
from tunesmith_package.store import Store, open_store
from tunesmith_trainer.devices import Device
from tunesmith_trainer.prepare.pixels import PixelStore
from tunesmith_trainer.search.backbones import IMAGENET_MEAN, IMAGENET_STD
from tunesmith_trainer.search.finetune_task import FineTuneTask
from tunesmith_trainer.search.machines import Machines, trial_share
from tunesmith_trainer.search.shelf import CACHE_VARIABLE, MachineShelf, Shelf

SIDE = 4
IMAGES = np.arange(3 * SIDE * SIDE * 3, dtype=np.uint8).reshape(3, SIDE, SIDE, 3)


@pytest.fixture
def task(tmp_path: Path) -> FineTuneTask:
    """A task whose pixels are a view: the first machine's cache has the images in another order."""
    folder = tmp_path / "first"
    folder.mkdir()
    with PixelStore.create(folder / "target.u8", SIDE) as target:
        for image in IMAGES:
            target.append(image)
    PixelStore.view(folder / "pixels.u8", folder / "target.u8", np.array([2, 0]))
    for name in ("probe.safetensors", "images.npz"):
        (folder / name).write_bytes(name.encode())
    preprocess = Preprocess(SIDE, "CenterCrop", IMAGENET_MEAN, IMAGENET_STD)
    weights, images, pixels = (folder / name for name in ("probe.safetensors", "images.npz", "pixels.u8"))
    return FineTuneTask("resnet18", 2, preprocess, weights, images, pixels, resample=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}/store")


def shelf_of(store: Store, tmp_path: Path) -> Shelf:
    return Shelf(store, "run/shelf/", tmp_path / "first" / "cache")


def machine(shelf: Shelf, folder: Path, monkeypatch: pytest.MonkeyPatch) -> MachineShelf:
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return MachineShelf(shelf.address)


def test_other_machine_finds_the_same_files_in_its_own_folder(
    task: FineTuneTask, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = shelf_of(store, tmp_path)
    lent = shelf.lend(task)
    assert str(tmp_path) not in str(lent), "names instead of paths"
    there = machine(shelf, tmp_path / "second", monkeypatch).task(lent)
    (tmp_path / "first").rename(tmp_path / "gone")
    assert there.weights.read_bytes() == b"probe.safetensors"
    assert there.images.read_bytes() == b"images.npz"
    with PixelStore.open(there.pixels, SIDE) as pixels:
        np.testing.assert_array_equal(pixels.read(np.array([0, 1])), IMAGES[[2, 0]])
    assert all(tmp_path / "second" in path.parents for path in (there.weights, there.images, there.pixels))


def test_what_a_machine_has_is_not_taken_again(
    task: FineTuneTask, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = shelf_of(store, tmp_path)
    lent = shelf.lend(task)
    machine(shelf, tmp_path / "second", monkeypatch).task(lent)
    shelf.clear()
    assert not list(store.list("run/shelf/"))
    for folder in ("second", "first/cache"):  # the first machine has it from the start
        again = machine(shelf, tmp_path / folder, monkeypatch).task(lent)
        assert again.images.read_bytes() == b"images.npz"


def test_first_machine_of_a_run_that_goes_on_is_not_led_to_files_of_the_killed_one(
    task: FineTuneTask, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = shelf_of(store, tmp_path)
    lent = shelf.lend(task)
    task.images.unlink()
    taken = machine(shelf, tmp_path / "first" / "cache", monkeypatch).task(lent)
    assert taken.images.read_bytes() == b"images.npz"


def test_checkpoints_go_to_the_store_and_come_back(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = machine(shelf_of(store, tmp_path), tmp_path / "second", monkeypatch)
    path = second.folder / "t0001-0001.safetensors"
    path.write_bytes(b"weights")
    second.keep(path, "run/checkpoints/t0001-0001.safetensors")
    assert not path.exists()
    with second.checkpoint("run/checkpoints/t0001-0001.safetensors") as restored:
        assert restored.read_bytes() == b"weights"
    assert not restored.exists()


SHARES = {
    "one trial on each of two machines has all of it": (2, Machines(2, 4, "node:a"), (4.0, 4.0, "")),
    "three trials on two machines: two side by side": (3, Machines(2, 4, "node:a"), (2.0, 2.0, "")),
    "on the first machine of two it stays there": (1, Machines(2, 4, "node:a").first, (4.0, 4.0, "node:a")),
    "on one machine Ray counts trials": (2, Machines(), (4.0, 1.0, "")),
}


@pytest.mark.parametrize("case", SHARES)
def test_share_of_a_trial(case: str) -> None:
    parallel, machines, wanted = SHARES[case]
    share = trial_share(Device("cpu", 8, 0, None), parallel, None, machines)
    assert (share.cpus, share.slots, share.node) == wanted
    assert share.resources["cpu"] == share.slots
