"""What a benchmark found: printed as tables, kept as JSON with the facts of the machine."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NoReturn

from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).parents[3]
OUTPUT = REPOSITORY / "build" / "bench"


@dataclass(frozen=True)
class Target:
    """A promise and what was measured.

    Attributes:
        what: a noun phrase.
        value: as measured; None when it was not.
        bound: whether the limit is the least or the most that is allowed.
        limit: what was promised.
        unit: printed behind both.
    """

    what: str
    value: float | None
    bound: Literal["at least", "at most"]
    limit: float
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the promise is kept; a value that was not measured keeps none."""
        if self.value is None:
            return False
        return self.value >= self.limit if self.bound == "at least" else self.value <= self.limit


@dataclass
class Report:
    """The findings of one benchmark.

    Attributes:
        name: of the benchmark; its JSON is ``build/bench/NAME.json``.
        full: False for a shortened run, of which nothing is promised.
        facts: what has to be known to read the numbers.
        rows: the measurements, as they come.
        targets: the promises, in the order of the issue that made them.
    """

    name: str
    full: bool
    facts: dict[str, Any] = field(default_factory=lambda: machine())
    rows: list[dict[str, Any]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, **row: Any) -> None:
        """Keep a measurement and say so at once: the next may take minutes."""
        self.rows.append(row)
        say("  " + "  ".join(f"{key} {shown(value)}" for key, value in row.items()))

    def finish(self, columns: Sequence[str], *, output: Path, check: bool) -> int:
        """Print the tables, write the JSON and return the exit code: with ``check`` 1 for a missed target."""
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
        console.print(_measurements(self.rows, columns))
        if self.targets:
            console.print(_promises(self.targets, full=self.full))
        for note in self.notes:
            console.print(note)
        output.mkdir(parents=True, exist_ok=True)
        path = output / f"{self.name}.json"
        path.write_text(json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n")
        console.print(f"Kept in {path}")
        missed = [target for target in self.targets if not target.met]
        return 1 if check and self.full and missed else 0

    def to_json(self) -> dict[str, Any]:
        """The whole report as plain JSON."""
        return {
            "benchmark": self.name,
            "full": self.full,
            "facts": self.facts,
            "measurements": self.rows,
            "targets": [{**asdict(target), "met": target.met} for target in self.targets],
            "notes": self.notes,
        }


def _measurements(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        words = any(isinstance(row.get(name), str) for row in rows)
        table.add_column(name, justify="left" if words else "right")
    for row in rows:
        table.add_row(*(shown(row.get(name)) for name in columns))
    return table


def _promises(targets: Sequence[Target], *, full: bool) -> Table:
    title = "promised" if full else "promised (of the full benchmark; this one was shortened)"
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("what", "left"), ("measured", "right"), (title, "left"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # two of rich's literals
    for one in targets:
        verdict = "met" if one.met else "missed"
        limit = f"{one.bound} {shown(one.limit)}{one.unit}"
        table.add_row(one.what, f"{shown(one.value)}{one.unit}", limit, verdict if full else "")
    return table


def shown(value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 100 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return str(value)


def machine() -> dict[str, Any]:
    """What machine this is and how busy it was before."""
    versions = {name: _version(name) for name in ("torch", "torchvision", "ray", "onnxruntime", "numpy")}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processors": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memoryGiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "loadBefore": [round(one, 2) for one in os.getloadavg()],
        "python": platform.python_version(),
        **versions,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument(
        "--output", type=Path, default=OUTPUT, help="folder for the JSON (default: build/bench)"
    )
    made.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    made.add_argument(
        "--keep", type=Path, metavar="DIR", help="work in this folder and leave everything there"
    )
    return made


def say(sentence: str) -> None:
    """Tell how it goes."""
    print(sentence, flush=True)


def skip(name: str, sentence: str) -> NoReturn:
    """End a benchmark that this machine cannot carry; that is no failure."""
    print(f"bench-{name}: not run: {sentence}")
    sys.exit(0)
