"""Debian's packages: unpacked into the cache, without installing them, or installed."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.testbed.go_commands import cache_folder

SECONDS = 300


class NotToBeHad(Exception):
    """A package cannot be fetched here; says why and what to do."""


def unpacked(package: str, say: Callable[[str], None] = lambda line: None) -> Path:
    """The folder with a package's files, fetched on the first call on a machine."""
    target = cache_folder() / f"debian-{package}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f"debian-{package}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            say(f"Fetching Debian's package {package}")
            unfinished = target.with_name(f"{target.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            # apt's own user cannot write here, which it says in a warning; root can.
            _run(["apt-get", "download", "-o", "APT::Sandbox::User=root", package], unfinished)
            (file,) = unfinished.glob("*.deb")
            _run(["dpkg-deb", "-x", file.name, "."], unfinished)
            file.unlink()
            unfinished.rename(target)
    return target


def install(packages: Sequence[str]) -> None:
    """Install packages on this machine; root alone can."""
    _run(["apt-get", "update", "-qq"], Path("/"))
    _run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], Path("/"))


def _run(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
    except FileNotFoundError as error:
        raise NotToBeHad(f"{command[0]} is not on this machine: is it a Debian?") from error
    if done.returncode:
        raise NotToBeHad(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
