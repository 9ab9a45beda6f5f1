"""Gathers what the report and the model card are drawn from."""

from __future__ import annotations

import io
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
from PIL import Image

from tunesmith_api import __version__
from tunesmith_api.training_job import TrainingJob
from tunesmith_api.validation import to_yaml
from tunesmith_package.activation import overlay_png
from tunesmith_package.inference import Predictor
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare.dataset import TEST, TRAIN, VALIDATION, Dataset
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
    Section,
    SliceResult,
    SuspectLabel,
    TrialRow,
)
from tunesmith_trainer.search.candidate import CandidateFacts
from tunesmith_trainer.search.label_noise import Suspect
from tunesmith_trainer.search.ledger import Trial
from tunesmith_trainer.verify.verification import TestPredictions, Verification

MOST_SAMPLES = 24
MOST_MISTAKES = 24
MOST_SUSPECTS = 48
_PICTURE_SIDE = 160

Uint8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Run:
    """What is known of a run when its report is written.

    Attributes:
        job: the TrainingJob.
        run_key: key of the run in the store.
        dataset: with all splits.
        facts: of the candidate.
        trials: the whole ledger.
        suspects: suspected wrong labels.
        timings: (what, seconds).
        ended: why the search ended.
        verification: of the exported model.
        predictor: the exported model.
        events: told the progress.
        onnx_bytes: size of its graph.
        store_uri: where packages of this job go.
        now: the time to write down.
    """

    job: TrainingJob
    run_key: str
    dataset: Dataset
    facts: CandidateFacts
    trials: Sequence[Trial]
    suspects: Sequence[Suspect]
    timings: Mapping[str, float]
    ended: str
    verification: Verification
    predictor: Predictor
    events: Events
    onnx_bytes: int
    store_uri: str
    now: datetime


def report_data(run: Run) -> ReportData:
    """Fill the report's data; pictures are read from the dataset's pixels."""
    verification = run.verification
    return ReportData(
        name=run.job.name,
        namespace=run.job.metadata.namespace or "default",
        created=run.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        created_by=created_by(),
        verified=verification.passed,
        verdict=verdict(verification),
        store_uri=run.store_uri,
        model=_model(run),
        dataset=_dataset(run),
        search=_search(run),
        quality=_quality(verification, run.facts.temperature),
        reproduction=_reproduction(run),
        gates=tuple(
            GateResult(
                gate.metric,
                gate.limit,
                gate.value,
                gate.passed,
                gate.message,
                bound=given.maximum if given.minimum is None else given.minimum,
                advice=gate.advice,
            )
            for gate, given in zip(verification.gates, run.job.spec.verification.gates, strict=True)
        ),
        mistakes=explained_mistakes(verification.predictions, run.dataset, run.predictor, run.events),
        suspects=_suspects(run),
        suspects_found=len(run.suspects),
        absent=_absent(run),
    )


def created_by() -> str:
    """Program and version, as in the package's manifest."""
    return f"tunesmith {__version__}"


def verdict(verification: Verification) -> str:
    """One or two sentences: verified and why, or what was missed."""
    failed = [gate.message for gate in verification.gates if not gate.passed]
    if failed:
        return " ".join(failed)
    gates = len(verification.gates)
    if not gates:
        return "No gates were set, so nothing could be missed."
    return "The gate was passed." if gates == 1 else f"All {gates} gates were passed."


def _absent(run: Run) -> tuple[tuple[Section, str], ...]:
    """Why some sections have no data, where the spec says so."""
    dataset = run.job.spec.dataset
    absent: list[tuple[Section, str]] = []
    if dataset.checks.label_noise == "Ignore":
        absent.append(("suspects", "dataset.checks.labelNoise is Ignore, so nobody looked for wrong labels."))
    if not dataset.slice_columns:
        absent.append(("slices", "dataset.sliceColumns names no columns to slice the test images by."))
    return tuple(absent)


def picture(pixels: Uint8Array, side: int = _PICTURE_SIDE) -> bytes:
    """A small JPEG of pixels uint8 ``[S, S, 3]``."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _model(run: Run) -> ModelFacts:
    trial = next((one for one in run.trials if one.id == run.facts.trial_id), None)
    parameters = tuple(sorted(trial.parameters.items())) if trial else ()
    return ModelFacts(
        backbone=run.facts.backbone,
        strategy=run.facts.strategy,
        trial=run.facts.trial_id,
        parameters=parameters,
        selection=run.facts.selection,
        image_size=run.facts.image_size,
        resize=run.dataset.preprocess.resize,
        onnx_bytes=run.onnx_bytes,
        weights=run.facts.weights,
    )


def _dataset(run: Run) -> DatasetFacts:
    dataset = run.dataset
    counts = {
        split: np.bincount(dataset.labels[dataset.rows(split)], minlength=len(dataset.classes))
        for split in (TRAIN, VALIDATION, TEST)
    }
    classes = tuple(
        ClassCount(name, int(counts[TRAIN][k]), int(counts[VALIDATION][k]), int(counts[TEST][k]))
        for k, name in enumerate(dataset.classes)
    )
    findings = tuple(
        FindingFacts(
            one.check,
            one.policy,
            one.count,
            one.sentence,
            tuple(Evidence(each.path, each.detail, each.thumbnail_jpeg) for each in one.evidence),
        )
        for one in dataset.findings
    )
    return DatasetFacts(
        uri=run.job.spec.dataset.uri,
        digest=dataset.digest,
        format=dataset.format,
        classes=classes,
        split=split_sentence(dataset.given_splits),
        skipped=dataset.skipped,
        imbalance=dataset.imbalance,
        samples=_samples(dataset),
        findings=findings,
    )


def split_sentence(given: tuple[str, ...] | None) -> str:
    """Where the split comes from, by the names of those that the source has of its own."""
    own = [name for name in ("validation", "test") if given and name in given]
    if given is None:
        return ""
    if len(own) == 2:
        return "The split is the source's own."
    if own:
        cut = "validation" if own == ["test"] else "test"
        return f"The {own[0]} part is the source's own; the {cut} part is cut by the images' content."
    return "The split is fixed by the images' content, so adding images moves none."


def _samples(dataset: Dataset) -> tuple[Sample, ...]:
    rows = dataset.rows(TRAIN)
    labels = dataset.labels[rows]
    chosen = [int(rows[np.flatnonzero(labels == k)[0]]) for k in np.unique(labels)[:MOST_SAMPLES]]
    pixels = dataset.pixels.read(np.array(chosen, np.int64))
    return tuple(
        Sample(dataset.classes[dataset.labels[row]], path_of(dataset, row), picture(image))
        for row, image in zip(chosen, pixels, strict=True)
    )


def path_of(dataset: Dataset, row: int) -> str:
    """Path of an image, relative to the dataset's root."""
    return str(dataset.paths[row])


def _search(run: Run) -> SearchFacts:
    search, objective = run.job.spec.search, run.job.spec.objectives[0]
    return SearchFacts(
        algorithm=search.algorithm.name,
        early_stopping=search.early_stopping.name,
        objective=objective.metric,
        maximize=objective.maximize,
        goal=objective.goal,
        trials=tuple(_trial(one) for one in run.trials),
        timings=tuple(run.timings.items()),
        ended=run.ended,
    )


def _trial(trial: Trial) -> TrialRow:
    fine_tune = trial.strategy == "FineTune"
    return TrialRow(
        id=trial.id,
        strategy=trial.strategy,
        backbone=trial.backbone,
        parameters=tuple(sorted(trial.parameters.items())),
        state=trial.state,
        reason=trial.reason,
        message=trial.message,
        metrics=tuple(trial.metrics.items()),
        curve=tuple(
            CurvePoint(
                one.epoch, one.train_loss, one.validation_loss, one.validation_accuracy, one.learning_rate
            )
            for one in trial.curve
        ),
        epochs=trial.epochs,
        max_epochs=trial.max_epochs if fine_tune else 0,
        duration_seconds=trial.duration_seconds,
        parent=trial.parent,
    )


def _quality(verification: Verification, temperature: float) -> QualityFacts:
    return QualityFacts(
        images=verification.images,
        metrics=tuple(
            Estimate(name, one.value, one.low, one.high, one.method)
            for name, one in verification.metrics.items()
        ),
        per_class=tuple(
            ClassResult(
                one.name,
                one.support,
                one.precision,
                one.recall,
                one.f1,
                recall_low=one.recall_low,
                recall_high=one.recall_high,
            )
            for one in verification.per_class
        ),
        confusion=verification.confusion,
        reliability=tuple(
            ReliabilityBin(one.lower, one.upper, one.count, one.confidence, one.accuracy)
            for one in verification.calibration.bins
        ),
        calibration_floor=verification.calibration.expected_if_calibrated,
        temperature=temperature,
        slices=tuple(
            SliceResult(
                one.column, one.value, one.support, one.accuracy, one.low, one.high, judged=one.judged
            )
            for one in verification.slices
        ),
        corruptions=tuple(
            CorruptionResult(one.kind, one.severity, one.accuracy) for one in verification.corruptions
        ),
        corruption_images=verification.corruption_images,
        clean_accuracy=verification.clean_accuracy,
        latency_note=verification.latency.note,
    )


def explained_mistakes(
    tested: TestPredictions, dataset: Dataset, predictor: Predictor, events: Events
) -> tuple[Mistake, ...]:
    """Test images that the model got wrong, the most certain first, with what spoke for its answer."""
    predicted = tested.probabilities.argmax(1)
    wrong = np.flatnonzero(predicted != tested.labels)
    certainty = tested.probabilities[wrong, predicted[wrong]]
    chosen = wrong[np.argsort(-certainty, kind="stable")][:MOST_MISTAKES]
    if not len(chosen):
        return ()
    mistakes = []
    # Without a feature map every explanation takes 50 inferences.
    with events.progress("explain", total=len(chosen), unit="mistakes") as bar:
        for i in chosen:
            row = int(tested.rows[i])
            pixels = dataset.pixels.read(np.array([row], np.int64))
            tensor = predictor.preprocess.normalise(pixels)
            activation = predictor.activation_map_of(tensor, int(predicted[i]))
            overlay = Image.open(io.BytesIO(overlay_png(pixels[0], activation))).convert("RGB")
            mistakes.append(
                Mistake(
                    path=path_of(dataset, row),
                    given=dataset.classes[tested.labels[i]],
                    predicted=dataset.classes[predicted[i]],
                    probability=float(tested.probabilities[i, predicted[i]]),
                    given_probability=float(tested.probabilities[i, tested.labels[i]]),
                    picture=picture(pixels[0]),
                    activation=picture(np.asarray(overlay)),
                    method=activation.method,
                )
            )
            bar.advance()
    return tuple(mistakes)


def _suspects(run: Run) -> tuple[SuspectLabel, ...]:
    dataset = run.dataset
    shown = run.suspects[:MOST_SUSPECTS]
    pixels = dataset.pixels.read(np.array([one.row for one in shown], np.int64))
    return tuple(
        SuspectLabel(
            path_of(dataset, one.row),
            dataset.classes[one.given],
            dataset.classes[one.suggested],
            one.confidence,
            picture(image),
        )
        for one, image in zip(shown, pixels, strict=True)
    )


def _reproduction(run: Run) -> ReproductionFacts:
    packages = ("torch", "torchvision", "ray", "optuna", "onnxruntime", "pillow", "numpy")
    spec = run.job.spec
    return ReproductionFacts(
        spec_yaml=to_yaml(run.job),
        run_key=run.run_key,
        seeds=(("search", str(spec.search.seed)), ("split", str(spec.dataset.split.seed))),
        digests=(("dataset", run.dataset.digest), ("pretrained weights", run.facts.weights_digest)),
        versions=(("tunesmith", __version__), *((name, version(name)) for name in packages)),
        machine=(
            ("processor", platform.processor() or platform.machine()),
            ("cores", str(os.cpu_count())),
            ("system", platform.system()),
        ),
    )
