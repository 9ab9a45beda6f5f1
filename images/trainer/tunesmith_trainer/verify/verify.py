"""The verify stage: every metric of the exported model on the test split, and the gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tunesmith_api.reasons import DatasetInvalid
from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_package.inference import Predictor
from tunesmith_package.intervals import wilson_ends
from tunesmith_trainer.devices import allowed_processors
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare.dataset import TEST, Dataset
from tunesmith_trainer.verify import latency as timing
from tunesmith_trainer.verify.bootstrap import FloatArray, Interval, percentile_interval
from tunesmith_trainer.verify.calibration import Calibration, calibrate_error
from tunesmith_trainer.verify.champion import Champion, Measured, compare
from tunesmith_trainer.verify.corruptions import (
    CorruptionPlan,
    corruption_accuracy,
    per_corruption,
    plan_corruptions,
    resample_corruption_accuracy,
)
from tunesmith_trainer.verify.gates import Comparison, decide_gates
from tunesmith_trainer.verify.latency import Latency
from tunesmith_trainer.verify.metrics import (
    Predictions,
    confusion_matrix,
    measure,
    measure_resamples,
    per_class,
    per_slice,
    score_ends,
)
from tunesmith_trainer.verify.predictions import (
    EMBEDDING_ROWS,
    Evaluation,
    evaluate,
    evaluate_corrupted,
    even_rows,
)
from tunesmith_trainer.verify.tables import Tables, remarks
from tunesmith_trainer.verify.verification import ChampionResult, TestPredictions, Verification

_MOST_THREADS = 8  # as many as a predictor takes unless told otherwise
_TIMED_IMAGES = 32
_TIMED_SECONDS = 0.6


@dataclass(frozen=True)
class _Sample:
    """The test split as it is judged: rows, labels, slices, what is corrupted how, resamples and seed."""

    dataset: Dataset
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    slices: Mapping[str, npt.NDArray[np.str_]]
    plan: CorruptionPlan
    samples: int
    seed: int

    @property
    def timed(self) -> npt.NDArray[np.int64]:
        """Rows of the images whose requests are timed."""
        return self.rows[even_rows(len(self.rows), _TIMED_IMAGES)]


@dataclass(frozen=True)
class _Judged:
    """A model on the test split."""

    measured: Measured
    predictions: Predictions
    evaluation: Evaluation
    corrupted: npt.NDArray[np.bool_]


def verify_model(
    directory: Path,
    dataset: Dataset,
    spec: TrainingJobSpec,
    events: Events,
    champion: Champion | None,
    *,
    now: datetime | None = None,
) -> Verification:
    """Measure the exported model on the test split and answer the gates.

    This is the stage that reads the test split, once. Memory does not depend on the number of images but for
    their probabilities. A failed gate does not raise here (`gates.require_gates` does): the model is kept
    with everything that was measured.

    Args:
        directory: holds the files of `publish.export.export_model`.
        dataset: with its test split.
        spec: of the TrainingJob: gates, corruptions, resamples and seed.
        events: told the progress.
        champion: see `champion.find_champion`; only looked at when a gate is relative to it.
        now: the time to write down; the clock's unless given.

    Raises:
        DatasetInvalid: the test split has no images.
    """
    sample = _read_test_split(dataset, spec)
    threads = min(allowed_processors(), _MOST_THREADS)
    predictor = Predictor(directory, threads=1)
    judged = _judge(predictor, sample, threads, events, task="evaluate", corrupted=True)
    tables = _tabulate(judged, sample, predictor.preprocess.image_size)
    took, times = _time(directory, sample, threads, events)
    metrics = _intervals(judged, sample.plan, tables.calibration)
    metrics["latencyP95Milliseconds"] = _latency_interval(times, sample)
    megabytes = model_megabytes(directory)
    metrics["modelSizeMegabytes"] = Interval(megabytes, megabytes, megabytes)
    rival = _measure_champion(champion, spec, sample, threads, events)
    comparisons = _comparisons(spec, judged.measured, metrics, rival, champion, dataset)
    explained = remarks(tables, took)
    lowest = tables.lowest_slice
    return Verification(
        metrics=metrics,
        images=len(sample.rows),
        classes=dataset.classes,
        worst_class=tables.worst_class.name,
        worst_slice=f"{lowest.column}={lowest.value}" if lowest else None,
        per_class=tables.classes,
        confusion=tables.confusion,
        calibration=tables.calibration,
        slices=tables.slices,
        corruptions=tables.corruptions,
        corruption_images=sample.plan.images,
        clean_accuracy=float(judged.measured.correct[np.unique(sample.plan.position)].mean()),
        latency=took,
        gates=decide_gates(spec.verification.gates, metrics, comparisons, explained),
        champion=_champion_result(champion, rival),
        verified_at=(now or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        predictions=TestPredictions(
            sample.rows, sample.labels, judged.predictions.probabilities, judged.evaluation.embeddings
        ),
    )


def model_megabytes(directory: Path) -> float:
    """Size of the ONNX file in units of a million bytes."""
    return (directory / "model.onnx").stat().st_size / 1e6


def _read_test_split(dataset: Dataset, spec: TrainingJobSpec) -> _Sample:
    rows = dataset.rows(TEST)
    if not len(rows):
        raise DatasetInvalid(
            "The test split has no images, so nothing can be verified.",
            "Raise spec.dataset.split.test, or add images to the dataset's test folder.",
        )
    labels = dataset.labels[rows].astype(np.int64)
    asked = spec.verification.corruptions
    plan = plan_corruptions(labels, asked.kinds, asked.severities, asked.max_images, spec.search.seed)
    return _Sample(
        dataset=dataset,
        rows=rows,
        labels=labels,
        slices={name: values[rows] for name, values in dataset.slices.items()},
        plan=plan,
        samples=spec.verification.bootstrap_samples,
        seed=spec.search.seed,
    )


def _judge(
    predictor: Predictor, sample: _Sample, workers: int, events: Events, *, task: str, corrupted: bool
) -> _Judged:
    """Predict the test split and, if asked for, its corrupted images, and measure what can be resampled."""
    evaluation = evaluate(
        predictor,
        sample.dataset,
        sample.rows,
        events,
        task=task,
        workers=workers,
        keep_embeddings=even_rows(len(sample.rows), EMBEDDING_ROWS),
    )
    predictions = Predictions(evaluation.probabilities, sample.labels, sample.slices)
    values = measure(predictions)
    resampled = measure_resamples(predictions, sample.samples, sample.seed)
    right = np.empty(0, np.bool_)
    images = {
        "corruptionAccuracy": sample.plan.images,
        "latencyP95Milliseconds": len(sample.timed),
        "modelSizeMegabytes": 0,
    }
    if corrupted:
        right = evaluate_corrupted(
            predictor,
            sample.dataset,
            sample.rows,
            sample.plan,
            events,
            task=f"{task} corrupted",
            workers=workers,
        )
        values["corruptionAccuracy"] = corruption_accuracy(sample.plan, right)
        resampled["corruptionAccuracy"] = resample_corruption_accuracy(
            sample.plan, right, sample.samples, sample.seed
        )
    correct = evaluation.probabilities.argmax(axis=1) == sample.labels
    return _Judged(Measured(values, resampled, correct, images), predictions, evaluation, right)


def _tabulate(judged: _Judged, sample: _Sample, image_size: int) -> Tables:
    confusion = confusion_matrix(judged.predictions)
    return Tables(
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        classes=per_class(confusion, sample.dataset.classes),
        slices=per_slice(judged.predictions),
        calibration=calibrate_error(
            judged.predictions.probabilities, sample.labels, samples=sample.samples, seed=sample.seed
        ),
        corruptions=per_corruption(sample.plan, judged.corrupted, image_size),
    )


def _intervals(judged: _Judged, plan: CorruptionPlan, calibration: Calibration) -> dict[str, Interval]:
    nothing: FloatArray = np.empty(0)
    values, resampled = judged.measured.values, judged.measured.resampled
    scores = score_ends(judged.predictions)
    # The corruptions of one image are no new images.
    scores["corruptionAccuracy"] = wilson_ends(values["corruptionAccuracy"], plan.images)
    intervals = {
        name: percentile_interval(value, resampled.get(name, nothing), score=scores.get(name))
        for name, value in values.items()
    }
    intervals["calibrationError"] = calibration.error
    return intervals


def _time(directory: Path, sample: _Sample, threads: int, events: Events) -> tuple[Latency, list[float]]:
    """Time single-image requests with all threads and, where that differs, with one."""
    images = [sample.dataset.source_bytes(int(row)) for row in sample.timed]
    events.note(f"Timing single-image requests with {threads} thread{'s' if threads > 1 else ''}.")
    times = timing.time_requests(_one_by_one(directory, threads), images, seconds=_TIMED_SECONDS)
    p50, p95 = timing.percentiles(times)
    alone: tuple[float | None, float | None] = (None, None)
    if threads > 1:
        single = timing.time_requests(
            _one_by_one(directory, 1), images, seconds=_TIMED_SECONDS / 2, least=timing.LEAST_REQUESTS // 3
        )
        alone = timing.percentiles(single)
    machine = timing.describe_machine(threads)
    return Latency(p50, p95, len(times), threads, alone[0], alone[1], machine), times


def _one_by_one(directory: Path, threads: int) -> timing.Predict:
    predictor = Predictor(directory, threads=threads)
    return lambda image: predictor.probabilities([image])


def _latency_interval(times: list[float], sample: _Sample) -> Interval:
    _, p95 = timing.percentiles(times)
    drawn = np.random.default_rng(sample.seed).choice(times, size=(sample.samples, len(times)))
    resampled = np.percentile(drawn, 95, axis=1) if sample.samples else np.empty(0)
    return percentile_interval(p95, resampled)


def _measure_champion(
    champion: Champion | None, spec: TrainingJobSpec, sample: _Sample, threads: int, events: Events
) -> Measured | None:
    """Measure of the champion what the gates compare; None without champion or such gates."""
    wanted = {gate.metric for gate in spec.verification.gates if gate.relative_to}
    if champion is None or not wanted:
        return None
    measured = _judge(
        Predictor(champion.directory, threads=1),
        sample,
        threads,
        events,
        task="evaluate the champion",
        corrupted="corruptionAccuracy" in wanted,
    ).measured
    values = {**measured.values, "modelSizeMegabytes": model_megabytes(champion.directory)}
    if "latencyP95Milliseconds" in wanted:
        took, _ = _time(champion.directory, sample, threads, events)
        values["latencyP95Milliseconds"] = took.p95_milliseconds
    return replace(measured, values=values)


def _champion_result(champion: Champion | None, rival: Measured | None) -> ChampionResult | None:
    if champion is None or rival is None:
        return None
    return ChampionResult(champion.digest, champion.dataset_digest, rival.values)


def _comparisons(
    spec: TrainingJobSpec,
    model: Measured,
    metrics: Mapping[str, Interval],
    rival: Measured | None,
    champion: Champion | None,
    dataset: Dataset,
) -> dict[tuple[str, float], Comparison]:
    if rival is None or champion is None:
        return {}
    full = replace(model, values={name: one.value for name, one in metrics.items()})
    name = champion.name
    if champion.dataset_digest != dataset.digest:
        name += " (trained on another version of the dataset)"
    return {
        (gate.metric, gate.delta): compare(gate.metric, gate.delta, full, rival, name)
        for gate in spec.verification.gates
        if gate.relative_to and gate.metric in full.values and gate.metric in rival.values
    }
