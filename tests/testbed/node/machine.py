"""What a node changes on the machine, written down before it is changed, so that it can be put back.

It lies in /run: after a restart of the machine there is nothing to put back, and no record of it.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RUN = Path("/run/tunesmith-testbed")
"""Of the one node that a machine can carry; its sockets lie here too, because their paths must be short."""
LOCK_SECONDS = 600.0


class Busy(Exception):
    """Another process starts or stops the node."""


@contextlib.contextmanager
def lock(seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """One process at a time; the lock leaves no file, and ends with the process that holds it.

    Of a process that is killed, what it was about to start holds the lock until it carries the node's mark.
    """
    descriptor = os.open("/run", os.O_RDONLY | os.O_DIRECTORY)
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Busy(
                        f"Another process has been starting or stopping a node for {seconds:.0f} s."
                    ) from None
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def node_folder() -> Path | None:
    """The folder of the node that was started on this machine, whole or in part, and not yet taken down."""
    try:
        return Path((RUN / "folder").read_text())
    except FileNotFoundError:
        return None


def claim(folder: Path) -> None:
    """Write down which node it is, before anything else."""
    RUN.mkdir(mode=0o700, exist_ok=True)
    _write("folder", str(folder))


def release() -> None:
    """Forget the node: everything has been put back."""
    for name in ("created.json", "sysctls.json", "folder"):
        (RUN / name).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        for socket in RUN.iterdir():
            socket.unlink()
        RUN.rmdir()


def raise_sysctls(wanted: Mapping[str, int], others: Iterable[str]) -> None:
    """Raise these to at least so much; with those that others will set they are saved before."""
    if not (RUN / "sysctls.json").exists():
        saved = {
            name: _sysctl(name).read_text().strip() for name in (*wanted, *others) if _sysctl(name).exists()
        }
        _write("sysctls.json", json.dumps(saved))
    for name, value in wanted.items():
        if _sysctl(name).exists() and int(_sysctl(name).read_text()) < value:
            _sysctl(name).write_text(str(value))


def saved_sysctls() -> dict[str, str]:
    """As they were before."""
    return dict(_read("sysctls.json", {}))


def restore_sysctls() -> None:
    """Put them back."""
    for name, value in saved_sysctls().items():
        if _sysctl(name).exists() and _sysctl(name).read_text().strip() != value:
            _sysctl(name).write_text(value)


def create_folders(folders: Sequence[Path]) -> None:
    """Create what is missing, and remember it."""
    missing: list[str] = list(_read("created.json", []))
    for folder in folders:
        missing += [
            str(one) for one in (folder, *folder.parents) if not one.exists() and str(one) not in missing
        ]
    _write("created.json", json.dumps(missing))
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)


def remove_created_folders() -> None:
    """Remove those that were created and are empty, the innermost first."""
    for name in sorted(_read("created.json", []), key=len, reverse=True):
        with contextlib.suppress(OSError):
            Path(name).rmdir()


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name.replace(".", "/")


def _read(name: str, otherwise: Any) -> Any:
    try:
        return json.loads((RUN / name).read_text())
    except FileNotFoundError:
        return otherwise


def _write(name: str, text: str) -> None:
    unfinished = RUN / f"{name}.unfinished"
    unfinished.write_text(text)
    unfinished.replace(RUN / name)
