"""Fine-tuning of a ResNet-50 on one GPU, in images per second: ours, torchvision's way and timm's.

JPEG images of 500x375 pixels, random crops and flips to 224, automatic mixed precision, channels last, all
layers trained. Ours includes its one pass over the JPEG files, spread over the epochs of a default
fine-tuning; an epoch alone is told too. How near the pipeline comes to the GPU's own limit says the last row:
the same steps on a batch that is there already.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tests.bench.harness import data
from tests.bench.harness.report import Report, Target, parser, say, skip
from tests.bench.plain import gpu_training
from torchvision import models

from tunesmith_api.training_job import TrainingJob, TransferSpec
from tunesmith_package.store import open_store
from tunesmith_trainer.devices import find_device
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare.dataset import TRAIN
from tunesmith_trainer.prepare.prepare import prepare_dataset
from tunesmith_trainer.search.backbones import ImageClassifier, build_backbone
from tunesmith_trainer.search.finetune import FineTuneConfig, FineTuner, Images
from tunesmith_trainer.workspace import Workspace

NAME = "gpu"
LEAST_RATIO = 1.3
LEAST_OF_COMPUTE = 0.9
"""Of the GPU's own limit; below it the input pipeline would be what limits."""
KINDS = 10


def measure_ours(options: argparse.Namespace, photos: Path, work: Path) -> tuple[float, float]:
    """Images per second of an epoch alone, and with the share of the pass over the files."""
    store = (work / "store").as_uri()
    job = TrainingJob.model_validate(
        {
            "apiVersion": "tunesmith.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": "gpu"},
            "spec": {"dataset": {"uri": photos.as_uri()}, "store": {"uri": store}},
        }
    )
    started = time.perf_counter()
    with (work / "events.jsonl").open("w") as stream:
        workspace = Workspace(open_store(store), "jobs/gpu/bench/", work / "cache")
        dataset = prepare_dataset(job.spec, workspace, Events(stream))
    prepared = time.perf_counter() - started
    rows = dataset.rows(TRAIN)
    images = Images(
        dataset.pixels, rows, dataset.labels[rows].astype(np.int64), np.ones(len(rows), np.float32)
    )
    nobody = Images(dataset.pixels, rows[:0], images.labels[:0], images.weights[:0])
    model = ImageClassifier(build_backbone("resnet50", dataset.image_size), KINDS)
    config = FineTuneConfig(batch_size=options.batch_size, epochs=options.epochs + 1, frozen_fraction=0.0)
    tuner = FineTuner(
        model, dataset.preprocess, images, nobody, config, find_device(options.device, "Auto"), 0
    )
    tuner.run_epoch()
    started = gpu_training.clock(options.device)
    for _ in range(options.epochs):
        tuner.run_epoch()
    seconds = (gpu_training.clock(options.device) - started) / options.epochs
    share = prepared * len(rows) / len(dataset) / TransferSpec().max_epochs
    return len(rows) / seconds, len(rows) / (seconds + share)


def measure(options: argparse.Namespace, report: Report, photos: Path, work: Path) -> None:
    """Measure all ways, one after the other."""
    say("ours")
    alone, ours = measure_ours(options, photos, work)
    report.add(who="tunesmith, an epoch", imagesPerSecond=alone)
    report.add(who="tunesmith, with its pass over the files", imagesPerSecond=ours)
    loaders = {
        "torchvision's way": gpu_training.torchvision_batches(photos, options.batch_size),
        "timm's way": gpu_training.timm_batches(photos, options.batch_size, options.device),
    }
    for who, batches in loaders.items():
        if batches is None:
            report.notes.append(f"{who}: not run: timm is not installed (pip install timm).")
            continue
        say(who)
        model = models.resnet50(num_classes=KINDS)
        rate = gpu_training.images_per_second(batches, model, options.epochs, options.device)
        report.add(who=who, imagesPerSecond=rate)
        report.targets.append(Target(f"ours over {who}", ours / rate, "at least", LEAST_RATIO, "x"))
    model = models.resnet50(num_classes=KINDS)
    limit = gpu_training.compute_bound(model, options.batch_size, options.steps, options.device)
    report.add(who="the GPU's own limit, in torchvision's step", imagesPerSecond=limit)
    report.targets.append(
        Target("an epoch of ours over that limit", alone / limit, "at least", LEAST_OF_COMPUTE, "x")
    )


def main() -> int:
    """Measure and tell, where there is a GPU."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--images", type=int, default=10_000)
    options_parser.add_argument(
        "--epochs", type=int, default=3, help="that are measured, after one to warm up"
    )
    options_parser.add_argument("--batch-size", type=int, default=128)
    options_parser.add_argument("--steps", type=int, default=30, help="that find the GPU's own limit")
    options_parser.add_argument("--device", default="cuda", help="cpu only shows that the benchmark runs")
    options = options_parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        skip(NAME, "no GPU.")
    report = Report(NAME, full=options.device == "cuda" and options.images >= 10_000)
    if options.device == "cuda":
        report.facts["gpu"] = torch.cuda.get_device_name()
    with data.workplace(options.keep) as work:
        say(f"drawing {options.images} images")
        photos = data.synthetic_set(work / "photos", options.images, kinds=KINDS, width=500, height=375)
        measure(options, report, photos, work)
    return report.finish(("who", "imagesPerSecond"), output=options.output, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
