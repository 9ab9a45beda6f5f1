"""What trials on other machines need of the first one: put on a shelf in the store, taken once per machine.

These are the weights that a fine-tuning starts from, its lists of images, and the decoded pixels of all of
them. They lie under the hash of their content, so that a run that goes on finds them there, and a machine
never takes old ones for new. Checkpoints go straight to where the ledger says; see ``finetune_trials``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith_package.store import Store, open_store
from tunesmith_trainer.credentials import STORE, credentials_for
from tunesmith_trainer.prepare.pixels import PixelStore, files_of
from tunesmith_trainer.search.finetune_task import FineTuneTask

CACHE_VARIABLE = "TUNESMITH_CACHE_DIR"
"""Each machine's folder for what can be made again."""
FOLDER = "shelf"
LOCK = "lock"


class Shelf:
    """The first machine's side.

    Args:
        store: that all machines reach.
        prefix: of the keys, ending in ``/``.
        cache_dir: of this machine, which takes nothing from the store that it has itself.
    """

    def __init__(self, store: Store, prefix: str, cache_dir: Path) -> None:
        """Nothing is on it yet."""
        self._store, self._prefix, self._own = store, prefix, cache_dir / FOLDER
        self._names: dict[Path, str] = {}

    @property
    def address(self) -> dict[str, str]:
        """Where other machines find it."""
        return {"uri": self._store.uri, "prefix": self._prefix}

    def lend(self, task: FineTuneTask) -> dict[str, Any]:
        """Put a task's files on the shelf; the task with their names instead of paths, and ``order``."""
        pixels, order = files_of(task.pixels)
        return {
            **task.to_config(),
            "weights": self._put(task.weights),
            "images": self._put(task.images),
            "pixels": self._put(pixels),
            "order": "" if order is None else self._put(order),
        }

    def clear(self) -> None:
        """Take everything off, also what an earlier run left."""
        for info in list(self._store.list(self._prefix)):
            self._store.delete(info.key)

    def _put(self, path: Path) -> str:
        if path not in self._names:
            with path.open("rb") as file:
                name = hashlib.file_digest(file, "sha256").hexdigest()
            if not self._store.exists(self._prefix + name):
                self._store.put(self._prefix + name, path)
            self._own.mkdir(parents=True, exist_ok=True)
            link = self._own / name
            with _locked(self._own):
                link.unlink(missing_ok=True)
                link.symlink_to(path.absolute())
            self._names[path] = name
        return self._names[path]


class MachineShelf:
    """The side of the machine that a trial runs on.

    Args:
        address: of the shelf.
    """

    def __init__(self, address: Mapping[str, str]) -> None:
        """Open the store; nothing is read yet."""
        cache = os.environ.get(CACHE_VARIABLE) or Path(tempfile.gettempdir()) / "tunesmith"
        self.folder = Path(cache) / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        self._store = open_store(address["uri"], credentials=credentials_for(STORE))
        self._prefix = address["prefix"]

    def task(self, lent: Mapping[str, Any]) -> FineTuneTask:
        """A task whose files lie on this machine.

        Raises:
            StoreError: one could not be had.
            DiskFull: there is no room for it.
        """
        with _locked(self.folder):
            paths = {part: str(self._take(lent[part])) for part in ("weights", "images", "pixels")}
            if lent["order"]:
                view = self.folder / f"{lent['pixels'][:32]}-{lent['order'][:32]}"
                if not view.exists():
                    order = np.load(self._take(lent["order"]), allow_pickle=False)
                    PixelStore.view(view, Path(paths["pixels"]), order)
                paths["pixels"] = str(view)
        return FineTuneTask.from_config({**lent, **paths})

    @contextlib.contextmanager
    def checkpoint(self, key: str) -> Iterator[Path]:
        """A checkpoint's file for the duration of the block."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="restored-") as folder:
            path = Path(folder) / "checkpoint.safetensors"
            self._store.download(key, path)
            yield path

    def keep(self, path: Path, key: str) -> None:
        """Move a checkpoint into the store."""
        self._store.put(key, path)
        path.unlink()

    def _take(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():  # nor where a link of a killed run leads to
            self._store.download(self._prefix + name, path)
        return path


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process of this machine at a time."""
    with (folder / LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
