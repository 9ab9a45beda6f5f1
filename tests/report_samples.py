"""Seeded report data for tests: a good run, a failed one by a hostile author, and one of a hundred
classes."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import cache

import numpy as np
from tests.drawn_photos import activation, photo

from tunesmith_trainer.publish.report.data import (
    ClassCount,
    ClassResult,
    CorruptionResult,
    CurvePoint,
    DatasetFacts,
    Estimate,
    Evidence,
    FindingFacts,
    GateResult,
    Mistake,
    ModelFacts,
    QualityFacts,
    ReliabilityBin,
    ReportData,
    ReproductionFacts,
    Sample,
    SearchFacts,
    Setting,
    SliceResult,
    SuspectLabel,
    TrialRow,
)

FLOWERS = (
    "bluebell",
    "buttercup",
    "colts-foot",
    "daisy",
    "dandelion",
    "fritillary",
    "iris",
    "lily-valley",
    "pansy",
    "sunflower",
    "tigerlily",
    "windflower",
)
HOSTILE_NAMES = ("<script>alert('class')</script>", 'ants" onload="alert(1)\u202e\x00 & bees]]>')
HOSTILE_PATH = "../<img src=x onerror=alert(2)>/`rm -rf`/\udcffphoto|one.jpg"
SPEC = """apiVersion: tunesmith.dev/v1alpha1
kind: TrainingJob
metadata:
  name: flowers
spec:
  dataset:
    uri: s3://datasets/flowers
    split: {validation: 0.15, test: 0.15, seed: 0}
  backbones:
  - {name: mobilenet_v2, weights: IMAGENET1K_V1}
  - {name: resnet50, weights: IMAGENET1K_V1}
  search:
    algorithm: {name: TPE}
    earlyStopping: {name: ASHA}
    numTrials: 64
  verification:
    gates:
    - {metric: accuracy, minimum: 0.9}
    - {metric: worstClassRecall, minimum: 0.7}
  store: {uri: s3://models}
"""


def _noise_confusion(
    pick: np.random.Generator, classes: int, support: int, errors: float
) -> tuple[tuple[int, ...], ...]:
    """Rows of `support` images of which about `errors` go to a few favourite neighbours."""
    rows = []
    for given in range(classes):
        favourites = [(given + step) % classes for step in (1, 3, 7)]
        wrong = pick.binomial(support, min(errors * pick.uniform(0, 2.4), 0.9))
        row = [0] * classes
        row[given] = support - int(wrong)
        for _ in range(int(wrong)):
            row[favourites[int(pick.choice(3, p=(0.6, 0.3, 0.1)))]] += 1
        rows.append(tuple(row))
    return tuple(rows)


def _quality(names: tuple[str, ...], confusion: tuple[tuple[int, ...], ...]) -> QualityFacts:
    matrix = np.array(confusion)
    right, given, predicted = np.diag(matrix), matrix.sum(1), np.maximum(matrix.sum(0), 1)
    recall, precision = right / given, right / predicted
    f1 = 2 * recall * precision / np.maximum(recall + precision, 1e-9)
    accuracy, images = float(right.sum() / matrix.sum()), int(matrix.sum())
    spread = 1.96 * math.sqrt(accuracy * (1 - accuracy) / images)
    estimates = (
        Estimate("accuracy", accuracy, accuracy - spread, min(accuracy + spread, 1.0)),
        Estimate(
            "macroF1", float(f1.mean()), float(f1.mean()) - spread * 1.1, min(float(f1.mean()) + spread, 1.0)
        ),
        Estimate(
            "worstClassRecall",
            float(recall.min()),
            max(float(recall.min()) - 0.12, 0),
            float(recall.min()) + 0.08,
        ),
        Estimate("negativeLogLikelihood", 0.082, 0.041, 0.137),
        Estimate("calibrationError", 0.013, 0.008, 0.029),
        Estimate("corruptionAccuracy", accuracy - 0.09, accuracy - 0.12, accuracy - 0.06),
        Estimate("latencyP95Milliseconds", 14.2, 13.9, 15.0),
        Estimate("modelSizeMegabytes", 9.1),
    )
    return QualityFacts(
        images=images,
        metrics=estimates,
        per_class=tuple(
            ClassResult(name, int(given[i]), float(precision[i]), float(recall[i]), float(f1[i]))
            for i, name in enumerate(names)
        ),
        confusion=confusion,
        reliability=_reliability(images),
        temperature=1.18,
        slices=(
            SliceResult("camera", "phone", images // 2, accuracy + 0.004, accuracy - 0.02, 1.0),
            SliceResult("camera", "dslr", images // 3, accuracy + 0.01, accuracy - 0.02, 1.0),
            SliceResult(
                "camera",
                "drone",
                images - images // 2 - images // 3,
                accuracy - 0.07,
                accuracy - 0.15,
                accuracy,
            ),
        ),
        corruptions=tuple(
            CorruptionResult(kind, severity, max(accuracy - cost * severity, 0.2))
            for kind, cost in (
                ("GaussianNoise", 0.048),
                ("Blur", 0.031),
                ("JPEG", 0.011),
                ("Brightness", 0.004),
                ("Contrast", 0.017),
            )
            for severity in (1, 3, 5)
        ),
        corruption_images=min(images, 200),
        clean_accuracy=accuracy,
        latency_note="Latency of one photo on 2 cores with ONNX Runtime, decoding included.",
    )


def _reliability(images: int) -> tuple[ReliabilityBin, ...]:
    shares = {5: 0.01, 7: 0.02, 9: 0.03, 10: 0.02, 11: 0.04, 12: 0.06, 13: 0.1, 14: 0.72}
    filled = []
    for index, share in shares.items():
        low, high = index / 15, (index + 1) / 15
        middle = 0.992 if index == 14 else (low + high) / 2
        off = {5: 0.12, 7: -0.09, 9: 0.05, 10: -0.1, 11: 0.04, 12: -0.03, 13: 0.01, 14: 0.001}[index]
        filled.append(
            ReliabilityBin(low, high, max(round(share * images), 1), middle, min(middle + off, 1.0))
        )
    return tuple(filled)


def _trials(seed: int, probes: int = 56, tunes: int = 8) -> tuple[TrialRow, ...]:
    pick = random.Random(seed)
    rows = [_probe(pick, index) for index in range(probes)]
    parents = sorted(rows, key=lambda row: -(row.metric("accuracy") or 0))[:tunes]
    rows.extend(_tune(pick, probes + index, parent, index) for index, parent in enumerate(parents))
    return tuple(rows)


def _probe(pick: random.Random, index: int) -> TrialRow:
    rate, decay = 10 ** pick.uniform(-4.5, -0.5), 10 ** pick.uniform(-6, -1)
    backbone = pick.choice(("mobilenet_v2", "resnet50"))
    quality = 0.965 - 0.02 * (math.log10(rate) + 2.1) ** 2 - 0.004 * (math.log10(decay) + 3) ** 2
    quality += pick.gauss(0, 0.004) - (0.006 if backbone == "mobilenet_v2" else 0)
    parameters: tuple[tuple[str, Setting], ...] = (
        ("learningRate", rate),
        ("weightDecay", decay),
        ("labelSmoothing", pick.choice((0.0, 0.05, 0.1))),
        ("batchSize", 32),
    )
    metrics = (
        ("accuracy", min(quality, 1.0)),
        ("negativeLogLikelihood", max(0.12 + 2.1 * (0.965 - quality), 0.03)),
    )
    if index in (17, 41):
        return TrialRow(
            f"t{index:04d}",
            "LinearProbe",
            backbone,
            (("learningRate", 0.31), *parameters[1:]),
            "Failed",
            "Diverged",
            "The loss became infinite in epoch 1; lower the learning rate.",
            duration_seconds=0.1,
        )
    return TrialRow(
        f"t{index:04d}",
        "LinearProbe",
        backbone,
        parameters,
        "Succeeded",
        metrics=metrics,
        duration_seconds=pick.uniform(0.1, 0.3),
    )


def _tune(pick: random.Random, number: int, parent: TrialRow, rank: int) -> TrialRow:
    rate, epochs = 10 ** pick.uniform(-4, -2.4), (12, 4, 12, 1, 4, 1, 1, 12)[rank % 8]
    start, gain = parent.metric("accuracy") or 0.9, pick.uniform(0.008, 0.022)
    curve = tuple(
        CurvePoint(
            epoch,
            train_loss=0.5 * math.exp(-epoch / 4) + 0.03 + pick.uniform(0, 0.02),
            validation_loss=0.21 * math.exp(-epoch / 5) + 0.06 + pick.uniform(0, 0.015),
            validation_accuracy=min(start - 0.012 + (gain + 0.012) * (1 - math.exp(-epoch / 3)), 1.0),
            learning_rate=rate * (1 + math.cos(math.pi * epoch / 12)) / 2,
        )
        for epoch in range(1, epochs + 1)
    )
    last = curve[-1]
    return TrialRow(
        f"t{number:04d}",
        "FineTune",
        parent.backbone,
        (
            ("learningRate", rate),
            ("weightDecay", 10 ** pick.uniform(-5, -2)),
            ("labelSmoothing", 0.05),
            ("batchSize", 32),
            ("backboneLearningRateFactor", pick.uniform(0.1, 0.5)),
            ("augmentation", pick.choice(("RandomResizedCrop", "TrivialAugment"))),
        ),
        "Succeeded" if epochs == 12 else "Stopped",
        "" if epochs == 12 else "EarlyStopped",
        "" if epochs == 12 else f"ASHA: others did better after {epochs} epochs.",
        (("accuracy", last.validation_accuracy or 0), ("negativeLogLikelihood", last.validation_loss or 0)),
        curve,
        epochs,
        12,
        epochs * 33.8,
        parent.id,
    )


def _findings(classes: int) -> tuple[FindingFacts, ...]:
    def seen(count: int, detail: str) -> tuple[Evidence, ...]:
        return tuple(
            Evidence(f"train/{FLOWERS[i % 12]}/image_{i:04d}.jpg", detail, photo(i % classes, 900 + i, 96))
            for i in range(count)
        )

    return (
        FindingFacts(
            "truncated",
            "Skip",
            2,
            "2 files end before their picture does; they were left out.",
            seen(2, "ends at 61 %"),
        ),
        FindingFacts(
            "near-duplicate",
            "Group",
            14,
            "14 images are nearly the same as another one; each pair lies on the same side of the split.",
            seen(12, "4 bits from train/iris/image_0031.jpg"),
        ),
        FindingFacts(
            "exif-orientation",
            "Accept",
            31,
            "31 images were turned upright as their EXIF orientation says.",
            seen(3, ""),
        ),
        FindingFacts(
            "animated",
            "FirstFrame",
            1,
            "1 image is an animation; its first frame was used.",
            seen(1, "3 frames"),
        ),
        FindingFacts("zero-byte", "Skip", 0, ""),
        FindingFacts("not-an-image", "Skip", 0, ""),
        FindingFacts("pixel-bomb", "Skip", 0, ""),
    )


@cache
def good_run() -> ReportData:
    """Twelve classes, verified, with everything there is to show."""
    pick = np.random.default_rng(7)
    confusion = _noise_confusion(pick, 12, 20, 0.022)
    trials = _trials(3)
    best = max(trials, key=lambda trial: trial.metric("accuracy") or 0)
    quality = _quality(FLOWERS, confusion)
    return ReportData(
        name="flowers",
        created="2026-01-31T12:04:00+00:00",
        created_by="tunesmith 0.1.0",
        verified=True,
        verdict="5 of 5 gates passed on 240 test photos.",
        store_uri="s3://models/models/flowers",
        model=ModelFacts(
            backbone=best.backbone,
            strategy=best.strategy,
            trial=best.id,
            parameters=best.parameters,
            selection="Fine-tuning beats its own linear probe by 1.9 points on validation, beyond noise.",
            image_size=224,
            resize="CenterCrop",
            onnx_bytes=9_120_000,
            weights="IMAGENET1K_V1",
        ),
        dataset=DatasetFacts(
            uri="s3://datasets/flowers",
            digest="sha256:" + "5c1e" * 16,
            format="Folder",
            classes=tuple(
                ClassCount(name, 48 - 2 * (i % 5), 12 - i % 3, 20) for i, name in enumerate(FLOWERS)
            ),
            skipped=2,
            imbalance="Loss",
            samples=tuple(
                Sample(name, f"train/{name}/image_0001.jpg", photo(i, 1, 160))
                for i, name in enumerate(FLOWERS)
            ),
            findings=_findings(12),
        ),
        search=SearchFacts(
            algorithm="TPE",
            early_stopping="ASHA",
            goal=0.99,
            trials=trials,
            timings=(("decode", 2.1), ("features", 41.7), ("heads", 9.4), ("finetune", 1588.0)),
            ended="It ended because all 64 trials were used.",
        ),
        quality=quality,
        reproduction=_reproduction(),
        gates=_gates(quality),
        mistakes=tuple(_mistake(FLOWERS, i) for i in range(6)),
        suspects=tuple(
            SuspectLabel(
                f"train/{FLOWERS[i]}/image_{i:04d}.jpg",
                FLOWERS[i],
                FLOWERS[(i + 5) % 12],
                0.97 - 0.05 * i,
                photo(i + 5, 300 + i),
            )
            for i in range(5)
        ),
    )


def _gates(quality: QualityFacts, accuracy: float = 0.9, recall: float = 0.7) -> tuple[GateResult, ...]:
    def value(metric: str) -> float:
        estimate = quality.metric(metric)
        assert estimate is not None
        assert estimate.value is not None
        return estimate.value

    return (
        GateResult(
            "accuracy",
            f"at least {accuracy:.0%}",
            value("accuracy"),
            True,
            "The accuracy is above the gate.",
            accuracy,
        ),
        GateResult(
            "worstClassRecall",
            f"at least {recall:.0%}",
            value("worstClassRecall"),
            True,
            "The worst class is above the gate.",
            recall,
        ),
        GateResult(
            "calibrationError",
            "at most 0.050",
            0.013,
            True,
            "The calibration error is 0.037 below the gate.",
            0.05,
        ),
        GateResult(
            "latencyP95Milliseconds", "at most 80 ms", 14.2, True, "65.8 ms faster than asked for.", 80.0
        ),
        GateResult(
            "accuracy",
            "no worse than the champion",
            value("accuracy"),
            True,
            "The champion has 95.8 %; a paired test finds no loss (p = 0.34).",
        ),
    )


def _mistake(names: tuple[str, ...], index: int) -> Mistake:
    given, predicted = names[index % len(names)], names[(index * 5 + 1) % len(names)]
    return Mistake(
        f"test/{given}/image_{index:04d}.jpg",
        given,
        predicted,
        0.99 - 0.07 * index,
        0.004 + 0.03 * index,
        photo(index, 500 + index),
        activation(index, 500 + index),
        "cam",
    )


def _reproduction() -> ReproductionFacts:
    return ReproductionFacts(
        spec_yaml=SPEC,
        run_key="9f2c61d07ab3",
        seeds=(("split", "0"), ("search", "0")),
        digests=(("dataset", "sha256:" + "5c1e" * 16), ("model.onnx", "sha256:" + "a07f" * 16)),
        versions=(
            ("tunesmith", "0.1.0"),
            ("torch", "2.7.0"),
            ("torchvision", "0.22.0"),
            ("onnxruntime", "1.22.0"),
        ),
        machine=(("processor", "2 cores, x86_64"), ("accelerator", "none")),
    )


@cache
def failed_run() -> ReportData:
    """Two classes with hostile names, nothing but failed trials and a failed gate, and most sections
    empty."""
    good = good_run()
    confusion = ((11, 7), (4, 14))
    quality = _quality(HOSTILE_NAMES, confusion)
    nowhere = tuple(
        TrialRow(
            f"t{index:04d}",
            "LinearProbe",
            "mobilenet_v2",
            (("learningRate", 0.3),),
            "Failed" if index else "Succeeded",
            "OutOfMemory" if index else "",
            "<b>4 GiB</b> were needed & 2 GiB were there." if index else "",
            (("accuracy", 0.71), ("negativeLogLikelihood", float("nan"))) if not index else (),
        )
        for index in range(2)
    )
    return replace(
        good,
        name="ants-bees",
        verified=False,
        verdict="1 of 1 gates failed.",
        dataset=DatasetFacts(
            uri="file://./ants <and> bees",
            digest="sha256:" + "00ff" * 16,
            format="Folder",
            classes=(ClassCount(HOSTILE_NAMES[0], 90, 18, 18), ClassCount(HOSTILE_NAMES[1], 3, 18, 18)),
        ),
        search=SearchFacts("Random", "None", trials=nowhere, ended="It ended because its time was used up."),
        model=replace(
            good.model, strategy="LinearProbe", trial="t0000", selection="It is the only trial with a result."
        ),
        quality=replace(
            quality, metrics=quality.metrics[:2], slices=(), corruptions=(), reliability=(), temperature=None
        ),
        gates=(
            GateResult(
                "accuracy",
                "at least 90 %",
                25 / 36,
                False,
                "The accuracy is 69.4 %, which is 20.6 points below the gate of 90 %.",
                0.9,
            ),
        ),
        mistakes=(
            Mistake(
                HOSTILE_PATH,
                HOSTILE_NAMES[0],
                HOSTILE_NAMES[1],
                0.91,
                None,
                photo(1, 2),
                b"not a picture",
                "occlusion",
            ),
            Mistake("plain.jpg", HOSTILE_NAMES[1], HOSTILE_NAMES[0], None),
        ),
        suspects=(),
    )


@cache
def long_names() -> ReportData:
    """The failed run again, with names that no line can hold and no space to break them at."""
    failed, good = failed_run(), good_run()
    names, path = ("W" * 300, "蒲公英" * 80), "p" * 300
    counts, results = failed.dataset.classes, failed.quality.per_class
    return replace(
        failed,
        name="a" * 63,
        verdict="v" * 400,
        store_uri="s3://" + "b" * 300,
        model=replace(failed.model, backbone="k" * 200, trial="t" * 90, selection="s" * 300),
        dataset=replace(
            good.dataset,
            uri="s3://" + "b" * 300,
            classes=tuple(replace(each, name=name) for each, name in zip(counts, names, strict=True)),
            samples=tuple(replace(each, class_name=names[0]) for each in good.dataset.samples),
            findings=tuple(replace(each, check="c" * 90, policy="p" * 90) for each in good.dataset.findings),
        ),
        quality=replace(
            failed.quality,
            per_class=tuple(replace(each, name=name) for each, name in zip(results, names, strict=True)),
        ),
        gates=tuple(
            replace(each, metric="q" * 99, limit="l" * 99, message="m" * 400) for each in failed.gates
        ),
        mistakes=tuple(
            replace(each, given=names[0], predicted=names[1], path=path) for each in good.mistakes
        ),
        suspects=tuple(
            replace(each, given=names[0], suggested=names[1], path=path) for each in good.suspects
        ),
    )


@cache
def hundred_classes() -> ReportData:
    """A hundred classes of very different sizes."""
    good = good_run()
    pick = np.random.default_rng(11)
    names = tuple(
        f"species {index:03d} {'abcdefgh'[index % 8] * (index % 9)}".strip() for index in range(100)
    )
    quality = _quality(names, _noise_confusion(pick, 100, 20, 0.12))
    sizes = [int(20 + 180 * math.exp(-index / 30)) for index in range(100)]
    return replace(
        good,
        name="hundred-species",
        verdict="5 of 5 gates passed on 2,000 test photos.",
        quality=quality,
        gates=_gates(quality, accuracy=0.8, recall=0.5),
        dataset=replace(
            good.dataset,
            classes=tuple(
                ClassCount(name, size, size // 5, 20) for name, size in zip(names, sizes, strict=True)
            ),
            samples=tuple(Sample(name, f"{name}/1.jpg", photo(i, 1, 160)) for i, name in enumerate(names)),
        ),
        mistakes=tuple(_mistake(names, index) for index in range(12)),
    )
