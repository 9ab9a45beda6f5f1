"""How near the search comes to the least that it could take.

The floor is: decode once, one forward pass of the backbone over the training and validation images, and the
fine-tuning epochs that were granted. Each part is measured alone, in this process and this run, with the
trainer's own functions on the same images: the pass over the data, the embedding without its set-up, and an
epoch with its held-out evaluation, once on the part that compared trainings have and once on all images.

Against it stands the time of the stages prepare and search together, for decoding is part of the first. It is
measured with cold caches, for the default spec and for linear probes alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.bench.harness import command, data
from tests.bench.harness.report import Report, Target, parser, say

from tunesmith_api.training_job import TrainingJob, TrainingJobSpec
from tunesmith_package.store import open_store
from tunesmith_trainer.devices import Device, find_device
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare.dataset import TRAIN, VALIDATION, Dataset
from tunesmith_trainer.prepare.prepare import prepare_dataset, preprocess_of
from tunesmith_trainer.prepare.scan import scan
from tunesmith_trainer.prepare.sources import list_source
from tunesmith_trainer.search.backbones import ImageClassifier, Pretrained, load_backbone
from tunesmith_trainer.search.features import BATCH_SIZE, embedder
from tunesmith_trainer.search.fine_tuning import FINE_TUNE_FOLDS
from tunesmith_trainer.search.finetune import FineTuner, Images
from tunesmith_trainer.search.finetune_task import finetune_config
from tunesmith_trainer.search.ledger import REFIT
from tunesmith_trainer.search.selection import fold_count, stratified_folds
from tunesmith_trainer.workspace import Workspace

NAME = "floor"
MOST = 2.0
KINDS: dict[str, dict[str, Any]] = {
    "default spec": {},
    "linear probes": {"transfer": {"strategies": ["LinearProbe"]}},
}


@dataclass(frozen=True)
class Parts:
    """Seconds of each part of the floor.

    Attributes:
        decode: the pass that reads, hashes and decodes every image.
        forward: the backbone over the training and validation images.
        epoch: one epoch of a fine-tuning that is compared, with its held-out images.
        refit_epoch: one epoch on all training and validation images.
    """

    decode: float
    forward: float
    epoch: float
    refit_epoch: float

    def floor(self, trials: dict[str, Any]) -> float:
        """Seconds that a search with these trials needs at least."""
        tuned = [row for row in trials.values() if row["strategy"] == "FineTune"]
        compared = sum(row["epochs"] for row in tuned if row["id"] != REFIT)
        refit = sum(row["epochs"] for row in tuned if row["id"] == REFIT)
        tuning = float(compared * self.epoch + refit * self.refit_epoch)
        return self.decode + self.forward + tuning


def measure_decode(spec: TrainingJobSpec, events: Events, folder: Path) -> float:
    """Seconds of the pass over the data alone."""
    listing = list_source(spec)
    started = time.perf_counter()
    scan(listing, preprocess_of(spec), folder / "scan", events)
    return time.perf_counter() - started


def measure_forward(dataset: Dataset, pretrained: Pretrained, device: Device) -> float:
    """Seconds of the backbone over all training and validation images, without building its session."""
    rows = dataset.rows(TRAIN, VALIDATION)
    embed = embedder(pretrained.backbone, dataset.image_size, device)
    embed(dataset.preprocess.normalise(dataset.pixels.read(rows[:BATCH_SIZE])))
    started = time.perf_counter()
    for start in range(0, len(rows), BATCH_SIZE):
        embed(dataset.preprocess.normalise(dataset.pixels.read(rows[start : start + BATCH_SIZE])))
    return time.perf_counter() - started


def parts_of(dataset: Dataset, seed: int) -> tuple[Images, Images, Images]:
    """The images of a compared fine-tuning, those held out from it, and all of them."""
    rows = dataset.rows(TRAIN, VALIDATION)
    labels = dataset.labels[rows].astype(np.int64)
    if fold_count(len(rows)):
        held_out = stratified_folds(labels, dataset.groups[rows], FINE_TUNE_FOLDS, seed) == 0
    else:
        held_out = dataset.split[rows] == VALIDATION
    weights = np.ones(len(rows), np.float32)
    some, other, every = (
        Images(dataset.pixels, rows[chosen], labels[chosen], weights[chosen])
        for chosen in (~held_out, held_out, np.ones(len(rows), np.bool_))
    )
    return some, other, every


def measure_epoch(
    spec: TrainingJobSpec, dataset: Dataset, images: tuple[Images, Images], device: Device, weights: Path
) -> float:
    """Seconds of one fine-tuning epoch, the second of a training: the first allocates and warms up."""
    pretrained = load_backbone("mobilenet_v2", dataset.image_size, weights=None, weights_file=weights)
    model = ImageClassifier(pretrained.backbone, len(dataset.classes))
    tuner = FineTuner(model, dataset.preprocess, *images, finetune_config({}, spec.transfer), device, 0)
    tuner.run_epoch()
    started = time.perf_counter()
    tuner.run_epoch()
    return time.perf_counter() - started


def measure_parts(job: dict[str, Any], weights: Path, folder: Path) -> Parts:
    """Measure each part of the floor alone, on the images of a job."""
    spec = TrainingJob.model_validate(job).spec
    device = find_device("auto", spec.transfer.precision)
    torch.set_num_threads(device.threads)
    with (folder / "events.jsonl").open("w") as stream:
        events = Events(stream)
        say("decoding alone")
        decode = measure_decode(spec, events, folder)
        workspace = Workspace(open_store((folder / "store").as_uri()), "jobs/floor/alone/", folder / "cache")
        dataset = prepare_dataset(spec, workspace, events)
    say("one forward pass alone")
    pretrained = load_backbone("mobilenet_v2", dataset.image_size, weights=None, weights_file=weights)
    forward = measure_forward(dataset, pretrained, device)
    say("fine-tuning epochs alone")
    some, held_out, every = parts_of(dataset, spec.search.seed + 1)
    nobody = Images(dataset.pixels, every.rows[:0], every.labels[:0], every.weights[:0])
    epoch = measure_epoch(spec, dataset, (some, held_out), device, weights)
    refit = measure_epoch(spec, dataset, (every, nobody), device, weights)
    return Parts(decode, forward, epoch, refit)


def measure(options: argparse.Namespace, report: Report, photos: Path, weights: Path, work: Path) -> None:
    """Run the jobs, then measure the parts and compare."""
    runs = {}
    jobs = {}
    for kind, own in KINDS.items():
        folder = work / kind.replace(" ", "-")
        own = {**own, "search": {"numTrials": options.trials}} if options.trials else own
        jobs[kind] = command.job(folder.name, photos, weights, folder / "store", **own)
        runs[kind] = command.run(jobs[kind], folder, folder / "cache")
    alone = work / "alone"
    alone.mkdir(parents=True)
    parts = measure_parts(jobs["default spec"], weights, alone)
    report.facts["secondsAlone"] = vars(parts)
    for kind, done in runs.items():
        floor, spent = parts.floor(dict(done.trials)), done.stages["prepare"] + done.stages["search"]
        tuned = {row["id"]: row["epochs"] for row in done.trials.values() if row["strategy"] == "FineTune"}
        report.add(
            job=kind,
            prepare=done.stages["prepare"],
            search=done.stages["search"],
            floor=floor,
            ratio=spent / floor,
            epochs=sum(tuned.values()),
            command=done.seconds,
            epochsOfTrials=tuned,
        )
        report.targets.append(Target(f"{kind}: time over the floor", spent / floor, "at most", MOST, "x"))
    report.notes.append(
        f"Alone: decode {parts.decode:.1f} s, forward {parts.forward:.1f} s, an epoch {parts.epoch:.1f} s, "
        f"an epoch on all images {parts.refit_epoch:.1f} s."
    )


def main() -> int:
    """Measure and tell."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--set", default="flowers12", help="photo set")
    options_parser.add_argument("--trials", type=int, help="instead of the default spec's (to shorten)")
    options_parser.add_argument("--per-class", type=int, help="images of each class (to shorten)")
    options = options_parser.parse_args()
    source, weights = data.photos(options.set, NAME), data.mobilenet_weights(NAME)
    report = Report(NAME, full=not (options.trials or options.per_class))
    with data.workplace(options.keep) as work:
        photos = data.part_of(source, work / "photos", options.per_class)
        measure(options, report, photos, weights, work)
    columns = ("job", "prepare", "search", "floor", "ratio", "epochs", "command")
    return report.finish(columns, output=options.output, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
