"""Search speed against a plain Ray Tune script: the same images, backbone, space and number of trials.

probe: 64 trials of a linear probe, once with cold caches (empty cache folder and store) and once as a second
job of another name and seed that finds the features of the first. mixed: 64 trials over probes and
fine-tuning. Both are timed as whole commands, each process from start to end, one after the other on a
machine that should do nothing else.

The plain script (``plain/ray_tune.py``) runs all 64 trials of the linear probe, and four of them to the
letter of Ray's guide, for the ratio of their epochs. Of the mixed search 64 trials would take an hour or
more, so it runs with fewer and the ratio is to what it would need at the least: with few trials ASHA stops
hardly any, so no line goes through them; the one that comes nearest is told with its residuals.

Both learn from the same photos: those that Tunesmith would leave out, because the test split repeats them,
are taken out before. A script that has seen its test photos would be compared by how well it remembers.

Tunesmith verifies its model and the script does not, so the job asks for the least verification a spec can
(one corrupted image, no bootstrap); checks of the data, label noise, package and report are all included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.harness import command, data
from tests.bench.harness.extrapolation import fit_line, least_epochs
from tests.bench.harness.report import REPOSITORY, Report, Target, parser, say

NAME = "search"
LEARNING_RATE = ("1e-4", "1e-2")
WEIGHT_DECAY = ("1e-5", "1e-1")
STRATEGIES = {"probe": ("LinearProbe",), "mixed": ("LinearProbe", "FineTune")}
MAX_EPOCHS = {"probe": 10, "mixed": 12}
PLAIN_TRIALS = {"probe": (64,), "mixed": (4, 8)}
LETTER_TRIALS, LETTER_CPUS = 4, 2
LETTER = ("--contiguous", "--cpus-per-trial", LETTER_CPUS, "--loader-workers", 8)
"""What the guide has and the script has not, because it would be slower."""
LEAST_RATIO = {("probe", "cold"): 50.0, ("probe", "warm"): 200.0, ("mixed", "cold"): 6.0}


def plain(
    options: argparse.Namespace, mode: str, trials: int, *, to_the_letter: bool = False
) -> dict[str, Any]:
    """Run the plain script with some trials; its own words, with the seconds of the whole command."""
    arguments: list[Any] = ["--data", options.dataset, "--weights", options.weights, "--trials", trials]
    arguments += ["--strategies", ",".join(STRATEGIES[mode]), "--image-size", options.image_size]
    arguments += ["--learning-rate", *LEARNING_RATE, "--weight-decay", *WEIGHT_DECAY]
    arguments += ["--epochs", options.plain_epochs, "--cpus-per-trial", options.plain_cpus]
    arguments += ["--loader-workers", options.plain_workers]
    arguments += LETTER if to_the_letter else []
    full = [sys.executable, "-m", "tests.bench.plain.ray_tune", *map(str, arguments)]
    say(f"plain Ray Tune script{', to the letter' if to_the_letter else ''}, {mode}, {trials} trials")
    started = time.perf_counter()
    done = subprocess.run(full, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise RuntimeError(f"the plain script failed: {done.stderr[-2_000:]}")
    outcome = dict(json.loads(done.stdout.strip().splitlines()[-1]))
    if outcome["failed"]:
        raise RuntimeError(f"{outcome['failed']} of the plain script's trials failed: {done.stderr[-2_000:]}")
    return {**outcome, "seconds": seconds}


def spec(options: argparse.Namespace, mode: str, seed: int) -> dict[str, Any]:
    """The job's spec where it differs from the default: the script's space, size and number of trials."""
    ranges = {"learningRate": LEARNING_RATE, "weightDecay": WEIGHT_DECAY}
    parameters = [
        {"name": name, "searchSpace": {"logUniform": {"min": low, "max": high}}}
        for name, (low, high) in ranges.items()
    ]
    transfer: dict[str, Any] = {"strategies": list(STRATEGIES[mode]), "imageSize": options.image_size}
    if options.plain_epochs:
        transfer["maxEpochs"] = options.plain_epochs
    return {
        "transfer": transfer,
        "search": {"numTrials": options.trials, "seed": seed, "parameters": parameters},
        "verification": command.LEAST_VERIFICATION,
    }


def epoch_seconds(outcome: dict[str, Any], cpus: int) -> float:
    """Seconds that the whole machine needs for an epoch while all its processors are busy with trials."""
    processors = len(os.sched_getaffinity(0))
    return float(sum(outcome["trialSeconds"]) / outcome["epochs"] * min(cpus, processors) / processors)


def measure_plain(options: argparse.Namespace, mode: str, report: Report) -> list[dict[str, Any]]:
    """Measure the plain script at each number of trials, and of probes a small search of it to the letter."""
    points = []
    wanted = [(one, False) for one in options.plain_trials or PLAIN_TRIALS[mode]]
    wanted += [(LETTER_TRIALS, True)] if mode == "probe" else []
    for trials, to_the_letter in wanted:
        outcome = plain(options, mode, trials, to_the_letter=to_the_letter)
        report.add(
            mode=mode,
            who="to the letter" if to_the_letter else "plain",
            trials=trials,
            seconds=outcome["seconds"],
            perTrial=outcome["seconds"] / trials,
            epochs=outcome["epochs"],
            testAccuracy=outcome["testAccuracy"],
            best=outcome["best"],
        )
        if not to_the_letter:
            points.append(outcome)
            continue
        slower = epoch_seconds(outcome, LETTER_CPUS) / epoch_seconds(points[-1], options.plain_cpus)
        report.facts["toTheLetter"] = slower
        report.notes.append(f"An epoch of the script to the letter takes {slower:.2f} times as long.")
    return points


def measure_tunesmith(
    options: argparse.Namespace, mode: str, report: Report, work: Path
) -> dict[str, command.Run]:
    """Run the job with cold caches and, of probes only, a second one that finds the features of the first."""
    folder = work / mode
    jobs = (("cold", "first", 0), ("warm", "second", 1))[: 2 if mode == "probe" else 1]
    runs = {}
    for kind, name, seed in jobs:
        own = spec(options, mode, seed)
        job = command.job(f"{mode}-{name}", options.dataset, options.weights, folder / "store", **own)
        done = runs[kind] = command.run(job, folder, folder / "cache")
        report.add(
            mode=mode,
            who=f"tunesmith {kind}",
            trials=options.trials,
            seconds=done.seconds,
            perTrial=done.seconds / options.trials,
            epochs=sum(row["epochs"] for row in done.trials.values()),
            testAccuracy=done.metrics["accuracy"],
            stages=dict(done.stages),
            strategy=done.package_file("manifest.json")["strategy"],
        )
    return runs


def expected_seconds(trials: int, longest: int, points: list[dict[str, Any]]) -> tuple[float, str]:
    """Seconds of the plain script for all trials, and how they were found, in words.

    Where fewer were run, it is the least that it could take: the quickest epoch of any point, times the
    epochs that ``trials`` trials of at most ``longest`` cannot do without.
    """
    last = points[-1]
    if last["trials"] >= trials:
        return last["seconds"], "as measured"
    quickest = min(one["seconds"] / one["epochs"] for one in points)
    epochs = least_epochs(trials, max_epochs=longest)
    how = f"at the least: {epochs:.0f} epochs of {quickest:.1f} s, as if ASHA granted none too many"
    if len(points) > 1:
        line = fit_line([one["trials"] for one in points], [one["seconds"] for one in points])
        residuals = ", ".join(f"{one:+.0f}" for one in line.residuals)
        how += (
            f"; a line through the points says {line.at(trials):.0f} s ({line.slope:.1f} s for each trial, "
            f"residuals {residuals} s, R² {line.r_squared:.2f})"
        )
    return quickest * epochs, how


def compare(
    options: argparse.Namespace,
    mode: str,
    report: Report,
    points: list[dict[str, Any]],
    runs: dict[str, command.Run],
) -> None:
    """Set the plain script and Tunesmith side by side."""
    longest = options.plain_epochs or MAX_EPOCHS[mode]
    expected, how = expected_seconds(options.trials, longest, points)
    report.facts[mode] = {"plainSeconds": expected, "how": how}
    report.notes.append(
        f"{mode}: the plain script needs {expected:.0f} s for {options.trials} trials, {how}."
    )
    # To the six digits that a status has.
    best = round(max(one["testAccuracy"] for one in points), 6)
    for kind, done in runs.items():
        what = f"{mode}, {kind} caches"
        ratio, limit = expected / done.seconds, LEAST_RATIO[mode, kind]
        accuracy = done.metrics["accuracy"]
        report.targets += [
            Target(f"{what}: times faster", ratio, "at least", limit, "x"),
            Target(f"{what}: test accuracy, against the script's", accuracy, "at least", best),
        ]
        if mode == "probe":
            letter = ratio * report.facts["toTheLetter"]
            report.targets.append(
                Target(f"{what}: times faster than to the letter", letter, "at least", limit, "x")
            )


def main() -> int:
    """Measure and tell."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--probe", action="store_true", help="only linear probes")
    options_parser.add_argument("--mixed", action="store_true", help="only probes and fine-tuning together")
    options_parser.add_argument("--set", default="flowers12", help="photo set with train/ and test/")
    options_parser.add_argument("--trials", type=int, default=64, help="of Tunesmith (default: 64)")
    options_parser.add_argument(
        "--plain-trials",
        type=int,
        nargs="+",
        help="of the script (default: 64, mixed 4 8)",
    )
    options_parser.add_argument(
        "--plain-epochs", type=int, default=0, help="at most; also of fine-tunings (to shorten)"
    )
    options_parser.add_argument(
        "--plain-cpus", type=int, default=1, help="processors of each of the script's trials"
    )
    options_parser.add_argument(
        "--plain-workers", type=int, default=0, help="loader workers of each of its trials"
    )
    options_parser.add_argument("--image-size", type=int, default=224)
    options_parser.add_argument("--per-class", type=int, help="images of each class (to shorten)")
    options = options_parser.parse_args()
    modes = [mode for mode in ("probe", "mixed") if getattr(options, mode)] or ["probe", "mixed"]
    photos, options.weights = data.photos(options.set, NAME), data.mobilenet_weights(NAME)
    short = options.per_class or options.plain_epochs or options.trials < 64
    report = Report(NAME, full=not short)
    with data.workplace(options.keep) as work:
        some = data.part_of(photos, work / "some", options.per_class)
        options.dataset = data.without_dropped(some, work / "photos")
        for mode in modes:
            points = measure_plain(options, mode, report)
            compare(options, mode, report, points, measure_tunesmith(options, mode, report, work))
    columns = ("mode", "who", "trials", "seconds", "perTrial", "epochs", "testAccuracy")
    return report.finish(columns, output=options.output, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
