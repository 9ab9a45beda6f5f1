"""Decoded images on disk: one file of uint8 pixels, written once in order and read by rows.

Rows are read with positioned reads instead of a memory map: pages of a map count as the process's memory,
which would then grow with the dataset.
"""

from __future__ import annotations

import errno
import os
import secrets
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt

from tunesmith_api.reasons import DatasetInvalid, DiskFull

Uint8Array = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class PixelStore:
    """``count`` images as uint8 ``[count, S, S, 3]`` in a file without a header.

    A store is either being written (`create`, `resume`) or read (`open`). A view shows the images of another
    file in another order. A reader can be sent to other processes: each opens the file for itself.

    Attributes:
        path: the file.
        image_size: S, the side of each image in pixels.
        order: row ``i`` of this store is image ``order[i]`` of the file; None: rows are images of the file.
    """

    def __init__(self, path: Path, image_size: int, order: IntArray | None, file: BinaryIO | None) -> None:
        """Use `create`, `resume` or `open`."""
        self.path, self.image_size, self.order = path, image_size, order
        self._file = file
        self._descriptor: int | None = None
        self._count = 0

    @property
    def width(self) -> int:
        """Bytes of one image."""
        return 3 * self.image_size * self.image_size

    @classmethod
    def create(cls, path: Path, image_size: int) -> Self:
        """Begin an empty file for writing.

        Raises:
            DiskFull: there is no room for it.
        """
        return cls.resume(path, image_size, 0)

    @classmethod
    def resume(cls, path: Path, image_size: int, count: int) -> Self:
        """Go on writing after the first ``count`` images; what lies behind them is cut off.

        Raises:
            DiskFull: there is no room.
            ValueError: the file holds fewer images.
        """
        with translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("r+b" if path.exists() else "w+b")
            size = count * 3 * image_size * image_size
            if file.seek(0, os.SEEK_END) < size:
                file.close()
                raise ValueError(f"{path} holds fewer than {count} images")
            file.truncate(size)
            file.seek(size)
        store = cls(path, image_size, None, file)
        store._count = count
        return store

    @classmethod
    def open(cls, path: Path, image_size: int) -> Self:
        """Open a finished file, or a view of one, for reading.

        Raises:
            DatasetInvalid: the file is missing or holds a part of an image.
        """
        sidecar = _sidecar(path)
        order = np.load(sidecar, allow_pickle=False).astype(np.int64) if sidecar.exists() else None
        store = cls(path, image_size, order, None)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise DatasetInvalid(
                f"The decoded images {path} are gone.", "Run the same command again: it decodes them anew."
            ) from None
        if size % store.width:
            raise DatasetInvalid(
                f"The decoded images {path} are cut off.", f"Delete {path.parent} and run it again."
            )
        return store

    @classmethod
    def view(cls, path: Path, target: Path, order: IntArray) -> None:
        """Make ``path`` a view of ``target``, whose row i is image ``order[i]`` of it; nothing is copied.

        Raises:
            DiskFull: there is no room for the order.
        """
        with translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
            with part.open("xb") as file:
                np.save(file, np.asarray(order, np.int64))
            part.replace(_sidecar(path))
            part.symlink_to(os.path.relpath(target, path.parent))
            part.replace(path)

    def append(self, pixels: Uint8Array) -> None:
        """Add one image, uint8 ``[S, S, 3]``.

        Raises:
            DiskFull: there is no room; images appended before stay.
            ValueError: another shape or type.
        """
        if pixels.shape != (self.image_size, self.image_size, 3) or pixels.dtype != np.uint8:
            raise ValueError(f"expected uint8 of side {self.image_size}, got {pixels.dtype} {pixels.shape}")
        if self._file is None:
            raise ValueError(f"{self.path} is open for reading")
        with translated(self.path):
            self._file.write(np.ascontiguousarray(pixels).data)
        self._count += 1

    def flush(self) -> None:
        """Hand what was appended to the operating system.

        Raises:
            DiskFull: there is no room for it.
        """
        if self._file is not None:
            with translated(self.path):
                self._file.flush()

    def sync(self) -> None:
        """Make what was flushed survive a power cut; callable while another thread appends.

        Raises:
            DiskFull: there is no room for it.
        """
        if self._file is not None:
            with translated(self.path):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Finish writing or reading.

        Raises:
            DiskFull: the last images found no room.
        """
        file, self._file = self._file, None
        if file is not None:
            with translated(self.path):
                try:
                    file.flush()
                    os.fsync(file.fileno())
                finally:
                    file.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __len__(self) -> int:
        """Number of images."""
        if self.order is not None:
            return len(self.order)
        if self._file is not None:
            return self._count
        return self.path.stat().st_size // self.width

    def read(self, rows: IntArray) -> Uint8Array:
        """Read rows as uint8 ``[len(rows), S, S, 3]``, in the order asked for.

        Raises:
            IndexError: a row without an image.
            OSError: the file cannot be read.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        images = wanted if self.order is None else self.order[wanted]
        if len(images) and images.min() < 0:
            raise IndexError("a row has no image")
        out = np.empty((len(images), self.image_size, self.image_size, 3), np.uint8)
        descriptor = self._reading()
        breaks = np.flatnonzero(np.diff(images) != 1) + 1
        edges = [0, *map(int, breaks), len(images)]
        for start, stop in pairwise(edges):
            if start < stop:
                self._read_run(descriptor, out[start:stop], int(images[start]))
        return out

    def _read_run(self, descriptor: int, out: Uint8Array, first: int) -> None:
        view, offset = memoryview(out.data).cast("B"), first * self.width
        while view:
            # one call reads at most 2 GiB
            count = os.preadv(descriptor, [view[: 1 << 30]], offset)
            if count == 0:
                raise IndexError(f"{self.path} ends before image {first + len(out) - 1}")
            view, offset = view[count:], offset + count

    def _reading(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptor

    def __getstate__(self) -> dict[str, object]:
        """What another process needs to open the file for itself."""
        if self._file is not None:
            raise TypeError("a store that is being written stays in its process")
        return {"path": self.path, "image_size": self.image_size, "order": self.order}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Open lazily in the new process."""
        self.__dict__.update(state, _file=None, _descriptor=None, _count=0)

    def __del__(self) -> None:
        """Give the descriptor back."""
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]  # just seen not to be None
            self._descriptor = None

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def files_of(path: Path) -> tuple[Path, Path | None]:
    """The file that holds the pixels of a store, and the order in which a view shows them, if it is one."""
    sidecar = _sidecar(path)
    return path.resolve(), sidecar if sidecar.exists() else None


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.order")


class translated:  # noqa: N801  # used like a function
    """Turns "no space left on device" into `DiskFull`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and error.errno in _FULL:
            raise disk_full(self.path) from error


def disk_full(path: Path) -> DiskFull:
    """The error for a local disk that has no room for ``path``."""
    return DiskFull(
        f"This machine's disk has no room for {path}.",
        "What is decoded is kept: make room, or choose another cache folder, and run the same command again.",
    )
