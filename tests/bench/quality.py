"""Test accuracy and calibration of the default spec on photo sets that come split, the mean of some seeds.

Each seed runs two jobs on one store: the default spec, and linear probes alone (as many as the default spec
trains, so the very heads that its fine-tuning starts from). The second finds the features of the first. Only
the dataset's address, the weights, the store and the seeds of search and split are set.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean
from typing import Any

from tests.bench.harness import command, data
from tests.bench.harness.report import Report, Target, parser

from tunesmith_api.search_spec import SearchSpec

NAME = "quality"
SETS = ("flowers12", "hymenoptera")
LEAST_ACCURACY = {"flowers12": 0.975, "hymenoptera": 0.95}
MOST_CALIBRATION_ERROR = 0.03
BOTH, PROBE = "default", "probe"


def spec(kind: str, seed: int, trials: int | None) -> dict[str, Any]:
    """What differs from the default spec."""
    search: dict[str, Any] = {"seed": seed}
    if trials is not None:
        search["numTrials"] = trials
    dataset = {"dataset": {"split": {"seed": seed}}}
    if kind == BOTH:
        return {**dataset, "search": search}
    default = SearchSpec()
    search["numTrials"] = max(1, (trials or default.num_trials) - default.max_fine_tune_trials)
    return {**dataset, "search": search, "transfer": {"strategies": ["LinearProbe"]}}


def measure(
    report: Report,
    name: str,
    kind: str,
    seed: int,
    *,
    photos: Path,
    weights: Path,
    work: Path,
    trials: int | None,
) -> None:
    """Run one job and keep what its test images say."""
    folder = work / name
    job = command.job(f"{name}-{kind}-{seed}", photos, weights, folder / "store", **spec(kind, seed, trials))
    done = command.run(job, folder, folder / "cache")
    metrics = done.package_file("metrics.json")["metrics"]
    calibration = metrics["calibrationError"]
    report.add(
        set=name,
        job=kind,
        seed=seed,
        accuracy=metrics["accuracy"]["value"],
        chosen=done.package_file("manifest.json")["strategy"],
        calibrationError=calibration["value"],
        low=calibration["low"],
        high=calibration["high"],
        seconds=done.seconds,
        stages=dict(done.stages),
        metrics=done.metrics,
    )


def judge(report: Report, name: str) -> None:
    """Hold the mean over the seeds against what was promised."""
    rows = {kind: [r for r in report.rows if r["set"] == name and r["job"] == kind] for kind in (BOTH, PROBE)}
    accuracy = {kind: mean(row["accuracy"] for row in own) for kind, own in rows.items()}
    report.targets.append(
        Target(f"{name}: mean test accuracy", accuracy[BOTH], "at least", LEAST_ACCURACY[name])
    )
    if name == "hymenoptera":
        what = f"{name}: mean test accuracy, against its own linear probe's"
        report.targets.append(Target(what, accuracy[BOTH], "at least", accuracy[PROBE]))
    report.notes.append(
        f"{name}: default spec {100 * accuracy[BOTH]:.2f} %, its linear probe {100 * accuracy[PROBE]:.2f} %."
    )
    for row in rows[BOTH]:
        # The promise is kept when the error, or the lower end of its interval, is small enough.
        reached = min(row["calibrationError"], row["low"])
        what = f"{name}, seed {row['seed']}: calibration error {row['calibrationError']:.3f}, interval from"
        report.targets.append(Target(what, reached, "at most", MOST_CALIBRATION_ERROR))


def main() -> int:
    """Measure and tell."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    options_parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    options_parser.add_argument("--trials", type=int, help="instead of the default spec's (to shorten)")
    options_parser.add_argument("--per-class", type=int, help="images of each class (to shorten)")
    options = options_parser.parse_args()
    sources = {name: data.photos(name, NAME) for name in options.sets}
    weights = data.mobilenet_weights(NAME)
    report = Report(NAME, full=not (options.trials or options.per_class or len(options.seeds) < 3))
    with data.workplace(options.keep) as work:
        for name, source in sources.items():
            photos = data.part_of(source, work / "photos" / name, options.per_class)
            for seed in options.seeds:
                for kind in (BOTH, PROBE):
                    measure(
                        report,
                        name,
                        kind,
                        seed,
                        photos=photos,
                        weights=weights,
                        work=work,
                        trials=options.trials,
                    )
            judge(report, name)
    columns = ("set", "job", "seed", "accuracy", "chosen", "calibrationError", "low", "high", "seconds")
    return report.finish(columns, output=options.output, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
