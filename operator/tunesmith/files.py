"""Files that appear whole or not at all, their digests, and where those go that can be made again."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def default_cache() -> Path:
    """Where what can be made again is kept, unless somebody says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunesmith"


def sha256_of(path: Path) -> str:
    """The sha256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def holds(path: Path, sha256: str) -> bool:
    """Whether the file is there with this sha256."""
    return path.is_file() and sha256_of(path) == sha256


def place(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file and then move it to ``path``, whose folder is made if need be.

    An interrupted or failed ``write`` leaves nothing behind at ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
