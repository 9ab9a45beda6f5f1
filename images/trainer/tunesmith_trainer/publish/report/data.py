"""Everything the report and the model card say, as plain values.

`ReportData` holds strings, numbers, tuples and the bytes of JPEG or PNG pictures and nothing else, so it can
be filled from a dataset, a ledger and a verification of any origin, and a test can write it down. Mappings
are tuples of (name, value) pairs: they keep their order and stay immutable.

A fraction (accuracy, recall, probability) is a float in 0..1 and becomes a percentage only when it is
written. `None` and numbers that are not finite mean "not known" and are written as a dash. A section whose
tuple is empty says why: with the sentence given for it in `ReportData.absent`, else with one of its own.

Every string may come from a stranger (class names, paths, messages): nothing here is trusted to be short,
printable or harmless. Pictures are optional everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Setting = str | float | int | bool
"""The value of a trial's parameter."""

TrialState = Literal["Queued", "Running", "Succeeded", "Stopped", "Failed"]
"""As in the ledger."""

Section = Literal[
    "samples",
    "findings",
    "trials",
    "curves",
    "timings",
    "confusion",
    "reliability",
    "per_class",
    "slices",
    "corruptions",
    "mistakes",
    "suspects",
    "gates",
]
"""The parts of the report that may have no data; the keys of `ReportData.absent`."""


@dataclass(frozen=True)
class ModelFacts:
    """The candidate that was exported.

    Attributes:
        backbone: torchvision's name, e.g. "mobilenet_v2".
        strategy: "LinearProbe" or "FineTune".
        trial: Id of the trial it comes from.
        parameters: That trial's parameters.
        selection: One sentence: why this candidate and no other.
        image_size: Side of the square input in pixels.
        resize: "CenterCrop" or "Squash".
        onnx_bytes: Size of model.onnx.
        weights: Where the pretrained weights come from, e.g. "IMAGENET1K_V1".
    """

    backbone: str
    strategy: str
    trial: str
    parameters: tuple[tuple[str, Setting], ...]
    selection: str
    image_size: int
    resize: str
    onnx_bytes: int
    weights: str = ""


@dataclass(frozen=True)
class ClassCount:
    """How many images of a class lie in each split, after the checks."""

    name: str
    train: int
    validation: int
    test: int

    @property
    def total(self) -> int:
        """Images of this class in all splits."""
        return self.train + self.validation + self.test


@dataclass(frozen=True)
class Sample:
    """A photo as the model sees it (after resizing), to show what the class looks like."""

    class_name: str
    path: str
    picture: bytes | None = None


@dataclass(frozen=True)
class Evidence:
    """One image that a check found; `detail` says what about it, e.g. its twin's path."""

    path: str
    detail: str = ""
    picture: bytes | None = None


@dataclass(frozen=True)
class FindingFacts:
    """What one check found and what its policy made of it.

    Attributes:
        check: The check's name, e.g. "near-duplicate".
        policy: The policy in force, e.g. "Group".
        count: Images found; 0 is worth saying too.
        sentence: What was found and what was done.
        evidence: Some of the images.
    """

    check: str
    policy: str
    count: int
    sentence: str
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class DatasetFacts:
    """What went in.

    Attributes:
        uri: spec.dataset.uri.
        digest: The dataset's digest, "sha256:...".
        format: "Folder", "Manifest", "WebDataset" or a torchvision class's name.
        classes: One entry per class in the model's order of labels.
        split: Where the split comes from, a sentence.
        skipped: Images found in the source and not used.
        imbalance: The strategy against imbalance in force: "None", "Loss" or "Sampling".
        samples: A few photos, at best one of each class.
        findings: What the checks found.
    """

    uri: str
    digest: str
    format: str
    classes: tuple[ClassCount, ...]
    split: str = ""
    skipped: int = 0
    imbalance: str = "None"
    samples: tuple[Sample, ...] = ()
    findings: tuple[FindingFacts, ...] = ()

    @property
    def images(self) -> int:
        """Images in all splits."""
        return sum(counts.total for counts in self.classes)

    @property
    def splits(self) -> tuple[tuple[str, int], ...]:
        """(name, images) of the three splits."""
        return (
            ("train", sum(counts.train for counts in self.classes)),
            ("validation", sum(counts.validation for counts in self.classes)),
            ("test", sum(counts.test for counts in self.classes)),
        )


@dataclass(frozen=True)
class CurvePoint:
    """One epoch of fine-tuning; losses in nats, accuracy in 0..1."""

    epoch: int
    train_loss: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class TrialRow:
    """One trial of the ledger.

    Attributes:
        id: e.g. "t0007"; unique in the report.
        state: How it ended.
        reason: Why it ended so, a word ("EarlyStopped", "OutOfMemory"); empty when it simply succeeded.
        message: The same as a sentence.
        metrics: Validation metrics, e.g. ("accuracy", 0.96), ("negativeLogLikelihood", 0.13).
        curve: Its epochs; empty for a probe.
        epochs: Epochs run.
        max_epochs: Epochs it would have run without early stopping; 0 for a probe.
        duration_seconds: Wall-clock seconds.
        parent: Id of the trial whose weights a population gave it; empty for all others.
    """

    id: str
    strategy: str
    backbone: str
    parameters: tuple[tuple[str, Setting], ...]
    state: TrialState
    reason: str = ""
    message: str = ""
    metrics: tuple[tuple[str, float], ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    epochs: int = 0
    max_epochs: int = 0
    duration_seconds: float | None = None
    parent: str = ""

    def metric(self, name: str) -> float | None:
        """The value of one metric, or None when the trial has none of that name."""
        return dict(self.metrics).get(name)


@dataclass(frozen=True)
class SearchFacts:
    """How the search went.

    Attributes:
        algorithm: e.g. "TPE".
        early_stopping: "None", "Median" or "ASHA".
        objective: The primary objective's metric, e.g. "accuracy".
        maximize: Whether more of it is better.
        goal: Its goal, if the spec has one.
        trials: All trials in the order in which they started.
        timings: (what, seconds) in the order of the work: decode, features, heads, finetune.
        ended: One sentence: why the search ended.
    """

    algorithm: str
    early_stopping: str
    objective: str = "accuracy"
    maximize: bool = True
    goal: float | None = None
    trials: tuple[TrialRow, ...] = ()
    timings: tuple[tuple[str, float], ...] = ()
    ended: str = ""


@dataclass(frozen=True)
class Estimate:
    """A metric of the test split and its 95 % interval, where there is one.

    `method` says where the interval comes from: "bootstrap", or "wilson" where all resamples agree.
    """

    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    method: str = "bootstrap"


@dataclass(frozen=True)
class ClassResult:
    """How one class did on the test split; `support` is its number of test images."""

    name: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None
    recall_low: float | None = None
    recall_high: float | None = None


@dataclass(frozen=True)
class ReliabilityBin:
    """Test images whose highest probability lies in [low, high): their mean of it and their accuracy."""

    low: float
    high: float
    count: int
    confidence: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class SliceResult:
    """The accuracy on the test images with one value of one slice column.

    `judged` is False where there are too few of them to count as the worst slice.
    """

    column: str
    value: str
    images: int
    accuracy: float | None
    low: float | None = None
    high: float | None = None
    judged: bool = True


@dataclass(frozen=True)
class CorruptionResult:
    """The accuracy on test images after one kind of corruption at one severity (1 mild .. 5 strong)."""

    kind: str
    severity: int
    accuracy: float | None


@dataclass(frozen=True)
class QualityFacts:
    """How good the exported model is on the test split.

    Attributes:
        images: Test images.
        metrics: The metrics, the most important first.
        per_class: In the order of the labels.
        confusion: K rows of K counts: row = given label, column = predicted label; or ().
        reliability: Bins by confidence; bins without images may be left out.
        calibration_floor: The calibration error that a perfectly calibrated model would show on so few
        images.
        temperature: The temperature fitted on validation and folded into the model.
        slices: Accuracy per slice.
        corruptions: Accuracy per corruption.
        corruption_images: How many test images were corrupted.
        clean_accuracy: The accuracy on these same images before corruption.
        latency_note: On what machine and how the latency was measured, a sentence.
    """

    images: int = 0
    metrics: tuple[Estimate, ...] = ()
    per_class: tuple[ClassResult, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()
    calibration_floor: float | None = None
    temperature: float | None = None
    slices: tuple[SliceResult, ...] = ()
    corruptions: tuple[CorruptionResult, ...] = ()
    corruption_images: int = 0
    clean_accuracy: float | None = None
    latency_note: str = ""

    def metric(self, name: str) -> Estimate | None:
        """The estimate of one metric, or None."""
        return next((estimate for estimate in self.metrics if estimate.metric == name), None)


@dataclass(frozen=True)
class Mistake:
    """A test image that the model got wrong.

    Attributes:
        given: The label in the dataset.
        predicted: The class the model chose.
        probability: The model's probability of the class it chose.
        given_probability: Its probability of the label in the dataset.
        picture: The image as the model saw it.
        activation: The same image overlaid with the evidence for `predicted`.
        method: How the evidence was computed: "cam" or "occlusion".
    """

    path: str
    given: str
    predicted: str
    probability: float | None
    given_probability: float | None = None
    picture: bytes | None = None
    activation: bytes | None = None
    method: str = ""


@dataclass(frozen=True)
class SuspectLabel:
    """An image whose label is probably wrong, by out-of-fold predictions.

    `suggested` is the class the predictions say instead and `confidence` its probability.
    """

    path: str
    given: str
    suggested: str
    confidence: float | None
    picture: bytes | None = None


@dataclass(frozen=True)
class GateResult:
    """A gate of the spec.

    Attributes:
        metric: e.g. "accuracy".
        limit: What was asked for, in words: "at least 90 %", "no worse than the champion".
        value: What was measured.
        passed: Whether it was met.
        message: The sentence that says so, and by how much.
        bound: The limit as a number where it is one; drawn as a tick beside the metric.
        advice: What to do about a gate that failed, a sentence.
    """

    metric: str
    limit: str
    value: float | None
    passed: bool
    message: str
    bound: float | None = None
    advice: str = ""


@dataclass(frozen=True)
class ReproductionFacts:
    """What it takes to get the same model again.

    Attributes:
        spec_yaml: The whole TrainingJob as YAML.
        run_key: The key of the run in the store.
        seeds: (what, seed).
        digests: (what, "sha256:..."): dataset, pretrained weights, files of the package.
        versions: (distribution, version).
        machine: (what, value): processor, cores, accelerator.
    """

    spec_yaml: str
    run_key: str = ""
    seeds: tuple[tuple[str, str], ...] = ()
    digests: tuple[tuple[str, str], ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    machine: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ReportData:
    """All that `render_report` and `render_card` need.

    Attributes:
        name: The TrainingJob's name.
        created: When, ISO 8601 in UTC, e.g. "2026-01-31T12:00:00Z".
        created_by: e.g. "tunesmith 0.1.0".
        verified: Whether every gate was passed.
        verdict: One or two sentences: why it is verified, or what it missed and by how much.
        store_uri: Where the package is published to, without its digest: "{store}/models/{name}". The report
        is
            one of the files that the package's digest covers, so it cannot name that digest.
        suspects: The most certain of the suspected labels.
        suspects_found: How many labels are suspected in all, where that is more than `suspects` holds.
        namespace: The TrainingJob's namespace.
        absent: (section, sentence): why a section has no data, where the caller knows better than the
        default.
    """

    name: str
    created: str
    created_by: str
    verified: bool
    verdict: str
    store_uri: str
    model: ModelFacts
    dataset: DatasetFacts
    search: SearchFacts
    quality: QualityFacts
    reproduction: ReproductionFacts
    gates: tuple[GateResult, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    suspects: tuple[SuspectLabel, ...] = ()
    suspects_found: int = 0
    namespace: str = "default"
    absent: tuple[tuple[Section, str], ...] = field(default=())

    @property
    def suspect_count(self) -> int:
        """How many labels are suspected to be wrong."""
        return max(self.suspects_found, len(self.suspects))

    @property
    def unexplained_gates(self) -> tuple[GateResult, ...]:
        """Failed gates whose sentence is not part of the verdict already."""
        return tuple(gate for gate in self.gates if not gate.passed and gate.message not in self.verdict)

    def __post_init__(self) -> None:
        """Refuse a confusion matrix that does not fit the classes.

        Raises:
            ValueError: The matrix is not K x K for the dataset's K classes.
        """
        classes = len(self.dataset.classes)
        if self.quality.confusion and {classes} != {
            len(self.quality.confusion),
            *map(len, self.quality.confusion),
        }:
            raise ValueError(f"the confusion matrix must have {classes} rows and columns, one for each class")
