"""Test accuracy of a search over linear probes, over many seeds: Tunesmith's and a plain Ray Tune script's.

One search says little: on 240 photos one more or less is 0.4 points, and which trials a search draws decides
about it. `search` times both and compares one run of each; this compares what they usually come to.

The script's heads are trained as ``plain/ray_tune.py`` trains them: the same images, transforms, split,
model, optimizer, epochs and ranges, and the trial with the least validation loss is taken. But the frozen
backbone answers each image once for all of them, and no scheduler ends a trial early; so a search takes
seconds instead of an hour. Tunesmith is run as a command, each time with another seed.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import torch
from tests.bench.harness import command, data
from tests.bench.harness.report import Report, Target, parser
from tests.bench.plain import ray_tune
from tests.bench.search import LEARNING_RATE, WEIGHT_DECAY, spec
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

NAME = "accuracy"


@dataclass(frozen=True)
class Features:
    """The backbone's answers.

    Attributes:
        rows: (N, 1280) float32.
        labels: (N,) int64.
    """

    rows: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Split:
    """All that the script's heads see."""

    train: Features
    validation: Features
    test: Features


@torch.no_grad()
def features(backbone: nn.Module, loader: DataLoader[Any]) -> Features:
    """The backbone's answers to the images of a loader."""
    answers = [
        (backbone(images.contiguous(memory_format=torch.channels_last)), labels) for images, labels in loader
    ]
    rows, labels = zip(*answers, strict=True)
    return Features(torch.cat(rows), torch.cat(labels))


def split_of(options: argparse.Namespace) -> Split:
    """The script's own split of a photo set, as features."""
    config = {
        "data": str(options.dataset),
        "weights": str(options.weights),
        "strategy": "LinearProbe",
        "classes": len(ImageFolder(options.dataset / "train").classes),
        "image_size": options.image_size,
        "contiguous": False,
        "loader_workers": 0,
    }
    backbone = ray_tune.build_model(config).eval()
    backbone.classifier = nn.Identity()
    train, validation = ray_tune.load_data(config)
    [held_out] = [one for one in map(options.dataset.joinpath, ("test", "val")) if one.is_dir()]
    images = ImageFolder(held_out, ray_tune.evaluation_transform(options.image_size))
    test = DataLoader(images, ray_tune.BATCH_SIZE)
    return Split(features(backbone, train), features(backbone, validation), features(backbone, test))


def trial(split: Split, classes: int, learning_rate: float, weight_decay: float) -> tuple[float, float]:
    """Validation loss and test accuracy of a head after the script's epochs."""
    head = nn.Linear(ray_tune.FEATURES, classes)
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=weight_decay)
    for _ in range(ray_tune.PROBE_EPOCHS):
        for batch in torch.split(torch.randperm(len(split.train.labels)), ray_tune.BATCH_SIZE):
            optimizer.zero_grad()
            outputs = head(split.train.rows[batch])
            nn.functional.cross_entropy(outputs, split.train.labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(head(split.validation.rows), split.validation.labels)
        right = head(split.test.rows).argmax(1) == split.test.labels
    return float(loss), float(right.float().mean())


def script_accuracy(split: Split, trials: int, seed: int) -> float:
    """Test accuracy of the best of the script's trials."""
    torch.manual_seed(seed)
    classes = int(split.train.labels.max()) + 1

    def drawn(low: str, high: str) -> float:
        least, most = math.log(float(low)), math.log(float(high))
        return math.exp(least + (most - least) * float(torch.rand(())))

    found = [trial(split, classes, drawn(*LEARNING_RATE), drawn(*WEIGHT_DECAY)) for _ in range(trials)]
    return min(found)[1]


def tunesmith_accuracies(options: argparse.Namespace, work: Path) -> Iterator[float]:
    """Of the same search by Tunesmith, seed by seed."""
    for seed in range(options.seeds):
        own = spec(options, "probe", seed)
        job = command.job(f"seed-{seed}", options.dataset, options.weights, work / "store", **own)
        yield command.run(job, work, work / "cache").metrics["accuracy"]


def main() -> int:
    """Measure and tell."""
    options_parser = parser(__doc__)
    add = options_parser.add_argument
    add("--set", default="flowers12", help="photo set with train/ and test/")
    add("--seeds", type=int, default=20, help="searches of each (default: 20)")
    add("--trials", type=int, default=64, help="of each search (default: 64)")
    add("--image-size", type=int, default=224)
    options = options_parser.parse_args()
    options.plain_epochs = 0
    photos, options.weights = data.photos(options.set, NAME), data.mobilenet_weights(NAME)
    report = Report(NAME, full=options.seeds >= 20 and options.trials >= 64)
    with data.workplace(options.keep) as work:
        options.dataset = data.without_dropped(data.part_of(photos, work / "some", None), work / "photos")
        split = split_of(options)
        found = {
            "plain": [script_accuracy(split, options.trials, seed) for seed in range(options.seeds)],
            "tunesmith": list(tunesmith_accuracies(options, work)),
        }
    for who, values in found.items():
        report.add(who=who, mean=mean(values), deviation=pstdev(values), least=min(values), most=max(values))
        report.facts[who] = values
    # To the six digits that a status has.
    theirs = round(mean(found["plain"]), 6)
    what = f"{options.set}: mean test accuracy of {options.seeds} searches, against the script's"
    report.targets.append(Target(what, mean(found["tunesmith"]), "at least", theirs))
    return report.finish(
        ("who", "mean", "deviation", "least", "most"), output=options.output, check=options.check
    )


if __name__ == "__main__":
    sys.exit(main())
