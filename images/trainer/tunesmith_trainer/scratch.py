"""A folder for one process's temporary files, which the next process removes if this one cannot.

Its owner holds a lock on it: the system drops the lock with the process, however that ends and whatever
process has its number by then.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PREFIX = "run-"
LOCK = "lock"
GATE = "scratch.lock"
"""Locked while folders are made and swept: a folder about to get its lock must not look like a dead one."""


@contextmanager
def open_scratch(cache_dir: Path) -> Iterator[Path]:
    """A new folder below ``cache_dir`` for the duration of the block, the home of all temporary files.

    Libraries put theirs there too: they may be as large as a model, and the cache is the place that was
    chosen to be large enough. What killed processes left in ``cache_dir`` is removed first.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    with ExitStack() as stack:
        with (cache_dir / GATE).open("ab") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            _remove_leftovers(cache_dir)
            made = tempfile.TemporaryDirectory(dir=cache_dir, prefix=PREFIX, ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(made))
            lock = stack.enter_context((folder / LOCK).open("ab"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        before, tempfile.tempdir = tempfile.tempdir, str(folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = before


def _remove_leftovers(cache_dir: Path) -> None:
    """Remove the folders whose owners are gone; the caller holds the gate."""
    for folder in cache_dir.glob(f"{PREFIX}*"):
        if not folder.is_dir() or _owned(folder):
            continue
        shutil.rmtree(folder, ignore_errors=True)


def _owned(folder: Path) -> bool:
    try:
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
