"""Precision and recall of the suspected wrong labels when known ones are wrong.

A copy of flowers12 has 5 and 10 % of its training images moved to another class's folder, chosen with a seed.
The suspects come from the linear probes, before any fine-tuning, so the job trains probes only.

Precision is the share of suspects that were moved; recall the share of moved images that are suspects, of
those the job trains with. A moved image that the checks before leave out as the twin of one in its true class
is not among them; the table counts these.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import pyarrow.parquet as pq
from tests.bench.harness import command, data
from tests.bench.harness.report import Report, Target, parser

from tunesmith_trainer.prepare.dataset import INDEX_FILE, TRAIN, VALIDATION

NAME = "noise"
LEAST = 0.75
JUDGED = 0.1
"""The fraction of wrong labels for which a least precision and recall is promised."""


@dataclass(frozen=True)
class Found:
    """How the suspects fit the moved images."""

    moved: int
    left_out: int
    suspects: int
    right: int

    @property
    def precision(self) -> float:
        """Share of the suspects that were moved; 1 when there are none."""
        return self.right / self.suspects if self.suspects else 1.0

    @property
    def recall(self) -> float:
        """Share of the moved images in use that are suspects; 1 when there are none."""
        return self.right / self.moved if self.moved else 1.0


def match(moved: set[str], used: set[str], suspects: Sequence[str]) -> Found:
    """Compare paths of moved images, of images the search used and of its suspects."""
    own = moved & used
    return Found(len(own), len(moved - used), len(suspects), len(own & set(suspects)))


def suspects_of(store: Path, job: str) -> tuple[set[str], list[str]]:
    """Paths of the images that a job's search used, and of its suspects."""
    (run,) = [path.parent for path in (store / "jobs" / job).glob("*/search.json")]
    index = pq.read_table(run / INDEX_FILE, columns=["path", "split"]).to_pydict()
    used = {
        path
        for path, split in zip(index["path"], index["split"], strict=True)
        if split in (TRAIN, VALIDATION)
    }
    rows = [one["row"] for one in json.loads((run / "search.json").read_bytes())["suspects"]]
    return used, [index["path"][row] for row in rows]


def measure(
    options: argparse.Namespace,
    report: Report,
    photos: Path,
    weights: Path,
    work: Path,
    fraction: float,
    seed: int,
) -> None:
    """Flip labels, run the job and compare."""
    name = f"noise-{round(1000 * fraction)}-{seed}"
    folder = work / name
    flips = data.flip_labels(photos, folder / "photos", fraction, seed)
    search = {"seed": seed, **({"numTrials": options.trials} if options.trials else {})}
    spec = {
        "search": search,
        "transfer": {"strategies": ["LinearProbe"]},
        "verification": command.LEAST_VERIFICATION,
    }
    job = command.job(name, folder / "photos", weights, folder / "store", **spec)
    done = command.run(job, folder, folder / "cache")
    used, suspects = suspects_of(done.store, name)
    found = match({flip.path for flip in flips}, used, suspects)
    report.add(
        flipped=fraction,
        seed=seed,
        moved=found.moved,
        leftOut=found.left_out,
        suspects=found.suspects,
        right=found.right,
        precision=found.precision,
        recall=found.recall,
        accuracy=done.metrics["accuracy"],
        seconds=done.seconds,
    )


def main() -> int:
    """Measure and tell."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--fractions", type=float, nargs="+", default=(0.05, 0.1))
    options_parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (default: 3)")
    options_parser.add_argument("--trials", type=int, help="instead of the default spec's (to shorten)")
    options_parser.add_argument("--per-class", type=int, help="images of each class (to shorten)")
    options = options_parser.parse_args()
    source, weights = data.photos("flowers12", NAME), data.mobilenet_weights(NAME)
    report = Report(NAME, full=not (options.trials or options.per_class))
    with data.workplace(options.keep) as work:
        photos = data.part_of(source, work / "photos", options.per_class)
        for fraction in options.fractions:
            for seed in range(options.seeds):
                measure(options, report, photos, weights, work, fraction, seed)
    judged = [row for row in report.rows if row["flipped"] == JUDGED]
    for what in ("precision", "recall"):
        value = mean(row[what] for row in judged) if judged else None
        report.targets.append(Target(f"mean {what} at {100 * JUDGED:.0f} %", value, "at least", LEAST))
    columns = ("flipped", "seed", "moved", "leftOut", "suspects", "right", "precision", "recall", "accuracy")
    return report.finish(columns, output=options.output, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
