"""Keeps a sample of the images that arrive, for people to label and for the next training.

::

    DIR/unlabelled/CLASS/ID.jpg    as the model sees it: look through these, and move what is wrong
    DIR/labelled/CLASS/ID.jpg      as feedback says: a data set of class folders, as a TrainingJob reads it

Everything is written by one thread behind a short queue; an image that finds it full is let go, so no request
ever waits for a disk. The folder may be a volume that outlives the pod: what lies there counts.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from kserve.logging import logger

UNLABELLED, LABELLED = "unlabelled", "labelled"
QUEUE = 32
"""Images that may wait for the disk."""
REMEMBERED = 10_000
"""Images whose request feedback can still name."""
CLOSE_SECONDS = 3.0
"""How long the end of the server waits for the disk."""
_TIDY_SECONDS = 60.0
_JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class SampleLimits:
    """What may be kept; unlabelled images chosen at random make room for others, those with a label stay.

    Attributes:
        rate: share of the images that are considered, 0 to 1.
        images: at most.
        bytes: of all together.
        seconds: after which an image without a label goes.
    """

    rate: float = 0.1
    images: int = 1_000
    bytes: int = 500_000_000
    seconds: float = 30 * 86_400.0


class Sampler:
    """A uniform sample of all images since the start (reservoir sampling, Vitter 1985), within its limits.

    Attributes:
        kept: images that were written.
        let_go: images that were chosen and found the queue full or the disk unwilling.
    """

    def __init__(self, folder: Path, limits: SampleLimits, *, chance: random.Random | None = None) -> None:
        """Take over what lies in the folder; begins at once.

        Raises:
            OSError: the folder cannot be made or read.
        """
        self._folder, self._limits = folder, limits
        self._chance = chance or random.Random()
        self._seen = 0
        self.kept = self.let_go = 0
        for part in (UNLABELLED, LABELLED):
            (folder / part).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._unlabelled = _present(folder / UNLABELLED)
        self._labelled = _present(folder / LABELLED)
        self._known: OrderedDict[tuple[str, int], Path] = OrderedDict()
        self._tidied = 0.0
        self._work: queue.Queue[Callable[[], None] | None] = queue.Queue(QUEUE)
        self._thread = threading.Thread(target=self._run, name="sample", daemon=True)
        self._thread.start()

    def offer(self, request_id: str, place: int, image: bytes, label: str) -> None:
        """Perhaps keep an image; returns at once.

        Args:
            request_id: that feedback will name.
            place: of the image in its request.
            image: its encoding, JPEG or PNG.
            label: what the model says.
        """
        if self._chance.random() < self._limits.rate:
            self._enqueue(lambda: self._keep((request_id, place), image, label))

    def label(self, request_id: str, place: int, label: str) -> None:
        """Move an image to its true class, if it was kept; returns at once."""
        self._enqueue(lambda: self._relabel((request_id, place), label))

    def close(self) -> None:
        """Write what waits, and end; a disk that hangs is not waited for."""
        with contextlib.suppress(queue.Full):
            self._work.put(None, timeout=CLOSE_SECONDS)
        self._thread.join(CLOSE_SECONDS)

    def _enqueue(self, work: Callable[[], None]) -> None:
        try:
            self._work.put_nowait(work)
        except queue.Full:
            self.let_go += 1

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except OSError as error:
                self.let_go += 1
                logger.warning("A sampled image was let go: %s", error)

    def _keep(self, key: tuple[str, int], image: bytes, label: str) -> None:
        self._tidy()
        self._seen += 1
        if len(image) > self._limits.bytes or not self._make_room(len(image)):
            return
        name = uuid.uuid4().hex + (".jpg" if image.startswith(_JPEG) else ".png")
        path = self._folder / UNLABELLED / class_folder(label) / name
        _write(path, image)
        self._unlabelled[path] = len(image)
        self._known[key] = path
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        self.kept += 1

    def _make_room(self, size: int) -> bool:
        """Whether there is room for one more, after images chosen at random have made it."""
        limits, images = self._limits, len(self._unlabelled) + len(self._labelled)
        # The n-th image belongs to a uniform sample of k with probability k / n.
        if images >= limits.images and self._chance.random() >= limits.images / max(self._seen, images + 1):
            return False
        total = sum(self._unlabelled.values()) + sum(self._labelled.values())
        while images >= limits.images or total + size > limits.bytes:
            if not self._unlabelled:
                return False  # labels are somebody's work
            path = self._chance.choice(list(self._unlabelled))
            path.unlink(missing_ok=True)
            total -= self._unlabelled.pop(path)
            images -= 1
        return True

    def _relabel(self, key: tuple[str, int], label: str) -> None:
        path = self._known.get(key)
        if path is None or not path.exists():
            return
        moved = self._folder / LABELLED / class_folder(label) / path.name
        moved.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.replace(moved)
        pile = self._unlabelled if path in self._unlabelled else self._labelled
        size = pile.pop(path, 0)
        self._labelled[moved] = size
        self._known[key] = moved

    def _tidy(self) -> None:
        """Forget what people have moved or deleted, and remove what is too old."""
        now = time.time()
        if now - self._tidied < _TIDY_SECONDS:
            return
        self._tidied = now
        for path in _present(self._folder / UNLABELLED):
            with contextlib.suppress(FileNotFoundError):
                if now - path.stat().st_mtime > self._limits.seconds:
                    path.unlink()
        self._unlabelled = _present(self._folder / UNLABELLED)
        self._labelled = _present(self._folder / LABELLED)


def class_folder(label: str) -> str:
    """The folder of a class: its name, written otherwise only where that could not be one."""
    plain = label not in ("", ".", "..") and not set(label) & set("/\\\0") and len(label.encode()) <= 200
    return label if plain else quote(label, safe="")[:200].replace(".", "%2E")


def _present(folder: Path) -> dict[Path, int]:
    """The images in class folders, with their sizes."""
    found = {}
    for path in folder.glob("*/*"):
        with contextlib.suppress(FileNotFoundError):
            if not path.name.startswith("."):
                found[path] = path.stat().st_size
    return found


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
