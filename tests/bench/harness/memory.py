"""Peak memory of a process with all its descendants, sampled from /proc."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PERIOD_SECONDS = 0.25


@dataclass
class Peaks:
    """Highest sums over the processes, in bytes.

    Attributes:
        rss: resident set size; pages that processes share count in each.
        pss: proportional set size; a shared page counts once, divided among those who share it.
        pss_by_stage: the same for each stage of the run.
        processes: most processes at once.
    """

    rss: int = 0
    pss: int = 0
    pss_by_stage: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    processes: int = 0

    def take(self, stage: str, sizes: list[tuple[int, int]]) -> None:
        """Take a sample: RSS and PSS of each process."""
        rss, pss = sum(size[0] for size in sizes), sum(size[1] for size in sizes)
        self.rss, self.pss = max(self.rss, rss), max(self.pss, pss)
        self.pss_by_stage[stage] = max(self.pss_by_stage[stage], pss)
        self.processes = max(self.processes, len(sizes))


class TreeWatcher:
    """Samples a process tree in a thread until its root is gone."""

    def __init__(self) -> None:
        """Nothing is watched yet."""
        self.peaks = Peaks()
        self._thread: threading.Thread | None = None

    def watch(self, pid: int, stage: Callable[[], str]) -> None:
        """Begin; ``stage`` names what is going on."""
        self._thread = threading.Thread(target=self._sample, args=(pid, stage), daemon=True)
        self._thread.start()

    def finish(self) -> Peaks:
        """Wait for the end of the process and return its peaks."""
        if self._thread is not None:
            self._thread.join()
        return self.peaks

    def _sample(self, root: int, stage: Callable[[], str]) -> None:
        # A daemon whose parent has ended still belongs to the run, so whoever was seen once stays.
        known: set[int] = {root}
        pause = threading.Event()
        while _parent(root) is not None:
            known = family(known)
            self.peaks.take(stage(), [size for pid in known if (size := sizes_of(pid)) is not None])
            pause.wait(PERIOD_SECONDS)


def family(known: set[int]) -> set[int]:
    """The living ones of some processes, with all their descendants."""
    parents = {
        int(path.name): parent
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and (parent := _parent(int(path.name))) is not None
    }
    found = known & parents.keys()
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _parent(pid: int) -> int | None:
    """The parent of a process; None when it is gone or a zombie."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state in ("Z", "X") else int(parent)


def sizes_of(pid: int) -> tuple[int, int] | None:
    """RSS and PSS of a process in bytes; None when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("Rss:", "Pss:"))}
    return (1024 * int(sizes["Rss"]), 1024 * int(sizes["Pss"])) if len(sizes) == 2 else None
