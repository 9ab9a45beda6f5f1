"""How often monitoring calls a stream of requests shifted: seeded streams, with shift and without.

A linear probe is trained on a third of the training photos of a set. The other photos, which it has never
seen, are divided anew for each seed: one half is the package's reference, the stream is drawn from the other.
So the reference changes with the seed too, as it would from one package to the next. Streams are given to the
predictor's own monitor image by image, as it would get them from requests.

Shifts are those of Rabanser et al. ("Failing Loudly", 2019) that photos can have: noise, blur and
brightness at three severities each (of ImageNet-C), label shift (half of the classes come less often, or not
at all), and another set's photos among the own ones. Where a stream is longer than the photos it is drawn
from, photos come again, and the monitor counts them once: the column `different` says how many it had. Mild
label shift vanishes that way at 500: by then the rare photos have all come.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import numpy.typing as npt
from tests.bench.harness import command, data
from tests.bench.harness.report import Report, Target, parser, say

from tunesmith_package.inference import Predictor, softmax
from tunesmith_package.preprocess import Float32Array, Preprocess, Uint8Array, decode
from tunesmith_package.properties import input_properties
from tunesmith_package.reference import Reference, read_reference
from tunesmith_predictor.engine import Answer
from tunesmith_predictor.monitoring.monitor import Monitor
from tunesmith_trainer.publish.reference import write_reference
from tunesmith_trainer.verify.corruptions import corrupt

NAME = "drift"
SETS = {"flowers12": "hymenoptera", "hymenoptera": "flowers12"}
"""Each set with the one that is foreign to it."""
LENGTHS = (50, 100, 200, 500)
JUDGED = 500
FALSE_ALARMS, DETECTION = 0.05, 0.65
NONE = "none"
SEVERITIES = {"mild": 1, "medium": 3, "strong": 5}
CORRUPTIONS = {"noise": "GaussianNoise", "blur": "Blur", "brightness": "Brightness"}
RARER = {"mild": 0.5, "medium": 0.2, "strong": 0.0}
"""How often half of the classes still come, of what is usual."""
FOREIGN = {"mild": 0.1, "medium": 0.5, "strong": 1.0}
"""Share of foreign photos."""
BATCH = 16

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Seen:
    """What a model says of n images, and what they look like."""

    probabilities: Float32Array
    embeddings: Float32Array
    properties: Float32Array

    def answer(self, row: int, key: int) -> Answer:
        """One of them, as the engine would answer."""
        none = np.empty((3, 0, 0), np.float32)
        return Answer(
            self.probabilities[row],
            self.embeddings[row],
            none,
            None,
            properties=self.properties[row],
            key=key,
        )


@dataclass(frozen=True)
class Photos:
    """Photos that a model has not seen: their classes' numbers [n], and what it says of each variant."""

    labels: IntArray
    variants: dict[str, Seen]
    foreign: Seen


def look(predictor: Predictor, pixels: Uint8Array, areas: Sequence[int]) -> Seen:
    """Run the model on images at its size, uint8 [n, S, S, 3], of sources with so many pixels."""
    outputs = [
        predictor.run(predictor.preprocess.normalise(pixels[start : start + BATCH]), feature_map=False)
        for start in range(0, len(pixels), BATCH)
    ]
    return Seen(
        softmax(np.concatenate([one.logits for one in outputs])),
        np.concatenate([one.embedding for one in outputs]),
        np.stack([input_properties(*one) for one in zip(pixels, areas, strict=True)]),
    )


def decoded(paths: list[Path], preprocess: Preprocess) -> tuple[Uint8Array, list[int]]:
    """Images at the model's size, uint8 [n, S, S, 3], and how many pixels their sources had."""
    images = [decode(path.read_bytes(), preprocess) for path in paths]
    return np.stack([one.pixels for one in images]), [one.width * one.height for one in images]


def divide(source: Path, target: Path) -> list[Path]:
    """Copy a third of each class's training photos and all test photos; the photos that are left."""
    left = []
    for folder in sorted(source.glob("*/*/")):
        split, images = folder.parent.name, data.images_of(folder)
        kept = images[::3] if split == "train" else images
        copy = target / split / folder.name
        copy.mkdir(parents=True)
        for image in kept:
            shutil.copy(image, copy)
        left += images if split != "train" else [one for one in images if one not in kept]
    return left


def photos(name: str, work: Path, weights: Path, seed_photos: dict[str, Path]) -> tuple[Predictor, Photos]:
    """Train a model on a part of a set, and have it look at the rest in every variant."""
    left = divide(seed_photos[name], work / "part")
    spec = {"transfer": {"strategies": ["LinearProbe"]}, "verification": command.LEAST_VERIFICATION}
    job = command.job(f"drift-{name}", work / "part", weights, work / "store", **spec)
    done = command.run(job, work, work / "cache")
    predictor = Predictor(done.package)
    accuracy = done.metrics["accuracy"]
    say(f"{name}: {len(left)} photos that the model has not seen; accuracy of the job {accuracy:.3f}")
    pixels, areas = decoded(left, predictor.preprocess)
    seeds = list(range(len(left)))
    variants = {NONE: look(predictor, pixels, areas)}
    for shift, kind in CORRUPTIONS.items():
        for strength, severity in SEVERITIES.items():
            changed = corrupt(pixels, kind, severity, seeds)
            variants[f"{shift} {strength}"] = look(predictor, changed, areas)
    others = sorted(path for path in seed_photos[SETS[name]].glob("*/*/*") if path.parts[-3] != "train")
    labels = np.array([predictor.labels.index(path.parent.name) for path in left], np.int64)
    return predictor, Photos(labels, variants, look(predictor, *decoded(others, predictor.preprocess)))


def cases() -> list[tuple[str, str]]:
    """All shifts with their strengths; the first is none."""
    kinds = (*CORRUPTIONS, "labels", "foreign")
    return [(NONE, ""), *((kind, strength) for kind in kinds for strength in SEVERITIES)]


def stream(
    known: Photos, own: IntArray, shift: str, strength: str, generator: np.random.Generator
) -> list[Answer]:
    """`JUDGED` answers to photos drawn from these rows."""
    weights = np.ones(len(own))
    if shift == "labels":
        classes = generator.permutation(int(known.labels.max()) + 1)
        weights[np.isin(known.labels[own], classes[: len(classes) // 2])] = RARER[strength]
    rows = draw(own, weights, generator)
    seen = known.variants.get(f"{shift} {strength}", known.variants[NONE])
    answers = [seen.answer(int(row), int(row)) for row in rows]
    if shift == "foreign":
        others = draw(np.arange(len(known.foreign.properties)), None, generator)
        for place in np.flatnonzero(generator.random(JUDGED) < FOREIGN[strength]):
            row = int(others[place])
            answers[place] = known.foreign.answer(row, -1 - row)
    return answers


def draw(rows: IntArray, weights: npt.NDArray[np.float64] | None, generator: np.random.Generator) -> IntArray:
    """`JUDGED` of these rows: all in random order, then again."""
    chances = np.full(len(rows), 1 / len(rows)) if weights is None else weights / weights.sum()
    usable = int((chances > 0).sum())
    # Each round takes a share of the photos, else the rare ones would all come in the end.
    size = min(usable, JUDGED) if np.unique(chances).size == 1 else max(1, usable // 3)
    rounds = -(-JUDGED // size)
    drawn = [generator.choice(rows, size, replace=False, p=chances) for _ in range(rounds)]
    return np.concatenate(drawn)[:JUDGED]


def reference_of(known: Photos, rows: IntArray, folder: Path, predictor: Predictor) -> Reference:
    """The reference that the trainer would write for these photos."""
    seen = known.variants[NONE]
    write_reference(folder, seen.probabilities[rows], seen.embeddings[rows], seen.properties[rows])
    return read_reference(folder, len(predictor.labels), predictor.dimensions)


def measure(
    options: argparse.Namespace, report: Report, name: str, predictor: Predictor, known: Photos, folder: Path
) -> None:
    """Give every stream of every seed to a monitor, and count alarms."""
    alarms: dict[tuple[str, str, int], list[bool]] = {}
    by_test: dict[tuple[str, str], dict[str, list[bool]]] = {}
    different: dict[tuple[str, str], list[int]] = {}
    for seed in range(options.seeds):
        generator = np.random.default_rng(seed)
        order = generator.permutation(len(known.labels))
        reference = reference_of(known, np.sort(order[: len(order) // 2]), folder, predictor)
        for case in cases():
            monitor = Monitor(predictor.labels, reference, {}, JUDGED)
            for count, answer in enumerate(stream(known, order[len(order) // 2 :], *case, generator), 1):
                monitor.add(answer)
                if count in LENGTHS:
                    found = monitor.report(monitor.sample())
                    alarms.setdefault((*case, count), []).append(any(one.shifted for one in found.findings))
            for one in found.findings:
                by_test.setdefault(case, {}).setdefault(one.name, []).append(one.shifted)
            different.setdefault(case, []).append(found.samples)
    for case in cases():
        report.add(
            set=name,
            shift=case[0],
            strength=case[1] or None,
            **{f"at{length}": mean(alarms[*case, length]) for length in LENGTHS},
            different=mean(different[case]),
            **{test: mean(shifted) for test, shifted in by_test[case].items()},
        )


def main() -> int:
    """Measure and tell."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    options_parser.add_argument("--seeds", type=int, default=100, help="how many, from 0 (default: 100)")
    options = options_parser.parse_args()
    sources = {name: data.photos(name, NAME) for name in SETS}
    weights = data.mobilenet_weights(NAME)
    report = Report(NAME, full=options.seeds >= 100 and len(options.sets) == len(SETS))
    with data.workplace(options.keep) as work:
        clean = {name: data.without_dropped(sources[name], work / f"clean-{name}") for name in SETS}
        for name in options.sets:
            predictor, known = photos(name, work / name, weights, clean)
            measure(options, report, name, predictor, known, work / name)
    judged = f"at{JUDGED}"
    alarms = [row[judged] for row in report.rows if row["shift"] == NONE]
    found = [row[judged] for row in report.rows if row["shift"] != NONE]
    report.targets = [
        Target(f"false alarms at {JUDGED} images, each set's", max(alarms), "at most", FALSE_ALARMS),
        Target(
            f"detection at {JUDGED} images, mean over sets and shifts", mean(found), "at least", DETECTION
        ),
    ]
    columns = ("set", "shift", "strength", *(f"at{length}" for length in LENGTHS), "different")
    tests = ("predictions", "embedding", "inputs")
    return report.finish((*columns, *tests), output=options.output, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
