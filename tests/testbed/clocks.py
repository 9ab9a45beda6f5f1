"""A process whose wall clock a test sets, by Debian's libfaketime; its other clocks go on as they are."""

import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path


class NoFakeClock(Exception):
    """libfaketime cannot be had on this machine."""


@dataclass
class WallClock:
    """Set with `jump`; `environment` starts a process with it."""

    library: Path
    file: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(self.library),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, seconds: int) -> None:
        """Put it so many seconds before (negative) or after the true time."""
        unfinished = self.file.with_suffix(".new")
        unfinished.write_text(f"{seconds:+d}\n")
        unfinished.replace(self.file)


def wall_clock(folder: Path) -> WallClock:
    """Fetch Debian's package into a folder, without installing it.

    Raises:
        NoFakeClock: with the reason.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if platform.system() != "Linux":
        raise NoFakeClock("libfaketime comes from a Debian package.")
    try:
        fetched = subprocess.run(
            ["apt-get", "download", "libfaketime"], cwd=folder, capture_output=True, text=True, timeout=120
        )
        if fetched.returncode:
            raise NoFakeClock(f"apt-get download libfaketime: {fetched.stderr.strip()[-300:]}")
        (package,) = folder.glob("libfaketime_*.deb")
        subprocess.run(["dpkg-deb", "-x", package.name, "."], cwd=folder, check=True, capture_output=True)
    except FileNotFoundError as error:
        raise NoFakeClock(f"{error.filename} is not on this machine.") from error
    (library,) = folder.glob("usr/lib/*/faketime/libfaketime.so.1")
    clock = WallClock(library, folder / "offset")
    clock.jump(0)
    return clock
