"""The verify stage on a real dataset, a real ONNX graph and a model whose mistakes are known."""

import dataclasses
import io
import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tunesmith_api.reasons import DatasetInvalid, GateFailed
from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_package.inference import Predictor
from tunesmith_package.store import open_store
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare.dataset import TEST, TRAIN, Dataset, TestSealed
from tunesmith_trainer.prepare.prepare import prepare_dataset
from tunesmith_trainer.publish.export import export_classifier, export_model
from tunesmith_trainer.publish.reference import write_golden
from tunesmith_trainer.search.candidate import Candidate, CandidateFacts
from tunesmith_trainer.verify.champion import Champion
from tunesmith_trainer.verify.corruptions import plan_corruptions
from tunesmith_trainer.verify.gates import require_gates
from tunesmith_trainer.verify.predictions import evaluate, evaluate_corrupted
from tunesmith_trainer.verify.verification import Verification, load_verification, save_verification
from tunesmith_trainer.verify.verify import verify_model
from tunesmith_trainer.workspace import Workspace

CLASSES = ("blue", "green", "red")
CHANNEL = {"red": 0, "green": 1, "blue": 2}
TEST_IMAGES = 12
WRONG = 2  # of each class's test images, these are tinted like the next class
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def photo(colour: str, seed: int) -> bytes:
    """A picture of random patches in one tint."""
    generator = np.random.default_rng(seed)
    patches = generator.integers(30, 120, size=(6, 6, 3), dtype=np.uint8)
    patches[..., CHANNEL[colour]] += 100
    image = Image.fromarray(patches).resize((72, 72), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def spec_with(root: Path, **verification: Any) -> TrainingJobSpec:
    return TrainingJobSpec.model_validate(
        {
            "dataset": {"uri": f"file://{root}"},
            "transfer": {"imageSize": 64},
            "store": {"uri": f"file://{root.parent / 'store'}"},
            "verification": {"bootstrapSamples": 200, **verification},
        }
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verify") / "photos"
    for k, name in enumerate(CLASSES):
        for split, count in (("train", 6), ("validation", 3), ("test", TEST_IMAGES)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                wrong = split == "test" and i < WRONG
                colour = CLASSES[(k + 1) % 3] if wrong else name
                seed = 1_000 * k + 100 * len(split) + i
                (folder / f"{i:02}.png").write_bytes(photo(colour, seed))
    return root


@pytest.fixture(scope="module")
def dataset(root: Path) -> Dataset:
    store = open_store(f"file://{root.parent / 'store'}")
    workspace = Workspace(store, "jobs/colours/run", root.parent / "cache")
    prepared = prepare_dataset(spec_with(root), workspace, Events(io.StringIO()))
    assert prepared.counts() == {"train": 18, "validation": 9, "test": 3 * TEST_IMAGES}
    day = np.array(["day", "night"])[np.arange(len(prepared)) % 2]
    return dataclasses.replace(prepared, slices={"light": day})


class Tint(nn.Module):
    """Knows a tint by the mean colour; the head may be bent towards one class to make it worse."""

    def __init__(self, order: tuple[str, ...] = CLASSES, bias: float = 0.0):
        super().__init__()
        self.head = nn.Linear(3, len(order))
        with torch.no_grad():
            self.head.weight.zero_()
            for k, name in enumerate(order):
                self.head.weight[k, CHANNEL[name]] = 6.0
            self.head.bias.zero_()
            self.head.bias[0] = bias

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        feature_map = nn.functional.adaptive_avg_pool2d(images, 4)
        embedding = feature_map.mean((2, 3))
        return self.head(embedding), embedding, feature_map


def export(model: nn.Module, dataset: Dataset, folder: Path, order: tuple[str, ...] = CLASSES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    samples = dataset.pixels.read(dataset.rows(TRAIN)[:4])
    export_classifier(model, dataset.preprocess, order, samples, folder)
    return folder


@pytest.fixture(scope="module")
def package(dataset: Dataset, root: Path) -> Path:
    return export(Tint(), dataset, root.parent / "good")


@pytest.fixture(scope="module")
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(scope="module")
def verification(package: Path, dataset: Dataset, root: Path, stream: io.StringIO) -> Verification:
    gates = [{"metric": "accuracy", "minimum": 0.8}, {"metric": "worstClassRecall", "minimum": 0.9}]
    spec = spec_with(root, gates=gates)
    return verify_model(package, dataset, spec, Events(stream), None, now=NOW)


def test_verification_finds_exactly_the_mistakes_that_the_model_makes(verification: Verification) -> None:
    right = TEST_IMAGES - WRONG
    assert verification.images == 3 * TEST_IMAGES
    assert verification.metrics["accuracy"].value == pytest.approx(right / TEST_IMAGES)
    assert verification.metrics["worstClassRecall"].value == pytest.approx(right / TEST_IMAGES)
    assert verification.confusion == ((right, WRONG, 0), (0, right, WRONG), (WRONG, 0, right))
    assert [one.support for one in verification.per_class] == [TEST_IMAGES] * 3


def test_verification_measures_every_metric_with_an_interval_around_it(verification: Verification) -> None:
    assert list(verification.metrics) == [
        "accuracy",
        "macroF1",
        "worstClassRecall",
        "negativeLogLikelihood",
        "calibrationError",
        "worstSliceAccuracy",
        "corruptionAccuracy",
        "latencyP95Milliseconds",
        "modelSizeMegabytes",
    ]
    assert all(one.low <= one.high for one in verification.metrics.values())
    accuracy = verification.metrics["accuracy"]
    assert accuracy.low < accuracy.value < accuracy.high


def test_verification_shows_corruptions_by_kind_and_severity(verification: Verification) -> None:
    assert {(one.kind, one.severity) for one in verification.corruptions} == {
        (kind, severity)
        for kind in ("GaussianNoise", "Blur", "JPEG", "Brightness", "Contrast")
        for severity in (1, 3, 5)
    }
    assert verification.corruption_images == 36
    assert verification.clean_accuracy == verification.metrics["accuracy"].value
    blurred = next(one for one in verification.corruptions if (one.kind, one.severity) == ("Blur", 3))
    # The mean colour survives a blur.
    assert blurred.accuracy == pytest.approx(verification.metrics["accuracy"].value)


def test_verification_judges_slices(verification: Verification) -> None:
    assert sum(one.support for one in verification.slices) == 36
    assert verification.worst_slice in ("light=day", "light=night")
    assert verification.slices[0].accuracy == verification.metrics["worstSliceAccuracy"].value


def test_verification_says_how_the_latency_was_measured(verification: Verification) -> None:
    assert 0 < verification.latency.p50_milliseconds <= verification.latency.p95_milliseconds
    assert "decoding included" in verification.latency.note


def test_verification_reads_pixels_as_the_predictor_reads_files(
    verification: Verification, package: Path, dataset: Dataset
) -> None:
    tested = verification.predictions
    assert np.array_equal(tested.rows, dataset.rows(TEST))
    files = [dataset.source_bytes(int(row)) for row in tested.rows]
    assert tested.probabilities == pytest.approx(Predictor(package).probabilities(files), abs=1e-6)
    assert tested.embeddings.shape == (36, 3)


def test_verification_answers_the_gates_and_a_missed_one_fails_the_job(verification: Verification) -> None:
    assert [gate.passed for gate in verification.gates] == [True, False]
    assert not verification.passed
    assert f'The worst class is "{verification.worst_class}" with 12 test images.' in (
        verification.gates[1].message
    )
    with pytest.raises(GateFailed, match=r"worstClassRecall 0\.833 is 0\.067 below the minimum 0\.900"):
        require_gates(verification.gates)


def test_verification_reports_progress_to_the_last_image(
    verification: Verification, stream: io.StringIO
) -> None:
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    last = {line["task"]: (line["done"], line["total"]) for line in lines if line["type"] == "progress"}
    # 36 images at three severities are fewer than the 200 allowed, so every image has all of them.
    assert last == {"evaluate": (36, 36), "evaluate corrupted": (5 * 3 * 36, 5 * 3 * 36)}


def test_verification_survives_being_written_and_read(verification: Verification, tmp_path: Path) -> None:
    save_verification(verification, tmp_path)
    again = load_verification(tmp_path)
    assert dataclasses.replace(again, predictions=verification.predictions) == verification
    for name in ("rows", "labels", "probabilities", "embeddings"):
        assert np.array_equal(getattr(again.predictions, name), getattr(verification.predictions, name))
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert document["verifiedAt"] == "2026-01-31T12:00:00Z"
    assert document["metrics"]["accuracy"]["value"] == verification.metrics["accuracy"].value
    assert "predictions" not in document


def test_verification_status_holds_the_metrics_and_the_gates(verification: Verification) -> None:
    status = verification.status()
    assert status.metrics["accuracy"] == pytest.approx(10 / 12, abs=1e-6)
    assert status.metrics["latencyP50Milliseconds"] > 0
    assert [gate.limit for gate in status.gates] == [">= 0.8", ">= 0.9"]


def test_verification_of_the_same_model_again_gives_the_same_numbers(
    verification: Verification, package: Path, dataset: Dataset, root: Path
) -> None:
    again = verify_model(package, dataset, spec_with(root), Events(io.StringIO()), None, now=NOW)
    timed = "latencyP95Milliseconds"
    for name in set(verification.metrics) - {timed}:
        assert again.metrics[name] == verification.metrics[name]
    assert again.corruptions == verification.corruptions
    assert again.calibration == verification.calibration


def against(package: Path, champion: Path, dataset: Dataset, root: Path, *metrics: str) -> Verification:
    gates = [{"metric": metric, "relativeTo": "Champion"} for metric in metrics]
    rival = Champion("sha256:" + "c" * 64, dataset.digest, champion)
    return verify_model(package, dataset, spec_with(root, gates=gates), Events(io.StringIO()), rival)


def test_model_much_worse_than_the_champion_fails_by_the_paired_test(
    package: Path, dataset: Dataset, root: Path, tmp_path: Path
) -> None:
    bent = export(Tint(bias=50.0), dataset, tmp_path / "bent")
    found = against(bent, package, dataset, root, "accuracy", "corruptionAccuracy")
    assert [gate.passed for gate in found.gates] == [False, False]
    assert "beyond chance (exact McNemar test" in found.gates[0].message
    assert "beyond chance (paired bootstrap" in found.gates[1].message
    assert found.champion is not None
    assert found.champion.metrics["accuracy"] == pytest.approx(10 / 12)


def test_model_equal_to_the_champion_passes_every_comparison(
    package: Path, dataset: Dataset, root: Path
) -> None:
    found = against(
        package, package, dataset, root, "accuracy", "negativeLogLikelihood", "modelSizeMegabytes"
    )
    assert found.passed
    assert all("equals" in gate.message for gate in found.gates)


def test_comparison_with_the_champion_names_the_images_that_it_rests_on(
    package: Path, dataset: Dataset, root: Path
) -> None:
    metrics = ("accuracy", "corruptionAccuracy", "latencyP95Milliseconds", "modelSizeMegabytes")
    gates = [{"metric": metric, "relativeTo": "Champion"} for metric in metrics]
    spec = spec_with(root, gates=gates, corruptions={"maxImages": 10})
    rival = Champion("sha256:" + "c" * 64, dataset.digest, package)
    found = verify_model(package, dataset, spec, Events(io.StringIO()), rival)
    said = [gate.message for gate in found.gates]
    assert "on the same 36 test images" in said[0]
    assert "on the same 10 test images" in said[1]
    assert "on the same 32 test images" in said[2]
    assert "test images" not in said[3]


def test_flawless_model_has_score_intervals_where_resamples_cannot_differ(
    package: Path, dataset: Dataset, root: Path
) -> None:
    said = Predictor(package).probabilities([dataset.source_bytes(int(row)) for row in dataset.rows(TEST)])
    labels = dataset.labels.copy()
    labels[dataset.rows(TEST)] = said.argmax(axis=1)
    agreed = dataclasses.replace(dataset, labels=labels)
    spec = spec_with(root, corruptions={"kinds": ["JPEG"], "severities": [1], "maxImages": 10})
    metrics = verify_model(package, agreed, spec, Events(io.StringIO()), None).metrics
    shares = ("accuracy", "macroF1", "worstClassRecall", "worstSliceAccuracy", "corruptionAccuracy")
    for name in shares:
        one = metrics[name]
        assert (one.value, one.high, one.method) == (1.0, 1.0, "wilson"), name
    assert metrics["accuracy"].low == pytest.approx(36 / (36 + 1.96**2), abs=1e-4)
    assert metrics["corruptionAccuracy"].low == pytest.approx(10 / (10 + 1.96**2), abs=1e-4)
    assert metrics["negativeLogLikelihood"].method == "bootstrap"


def test_champion_with_other_classes_and_preprocessing_is_asked_in_its_own_way(
    package: Path, dataset: Dataset, root: Path, tmp_path: Path
) -> None:
    order = ("red", "violet", "blue")
    smaller = dataclasses.replace(
        dataset, preprocess=dataclasses.replace(dataset.preprocess, image_size=32, resize="Squash")
    )
    folder = tmp_path / "other"
    folder.mkdir()
    model = Tint(("red", "blue"))
    model.head = nn.Linear(3, 3)
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[6.0, 0, 0], [-90.0, -90.0, -90.0], [0, 0, 6.0]]))
        model.head.bias.zero_()
    samples = np.zeros((2, 32, 32, 3), np.uint8)
    samples[1] = 200
    export_classifier(model, smaller.preprocess, order, samples, folder)
    found = against(package, folder, dataset, root, "accuracy")
    assert found.champion is not None
    # It cannot say green: all 12 of them are mistakes, and what looks green in others may go either way.
    assert 20 / 36 <= found.champion.metrics["accuracy"] <= 22 / 36
    assert found.gates[0].passed


def test_evaluation_does_not_depend_on_how_many_batches_are_in_work(package: Path, dataset: Dataset) -> None:
    predictor, rows, events = Predictor(package, threads=1), dataset.rows(TEST), Events(io.StringIO())
    plan = plan_corruptions(dataset.labels[rows].astype(np.int64), ["GaussianNoise", "JPEG"], [2, 4], 50, 0)
    alone = evaluate(predictor, dataset, rows, events, task="one")
    together = evaluate(predictor, dataset, rows, events, task="three", workers=3)
    assert np.array_equal(alone.probabilities, together.probabilities)
    assert np.array_equal(
        evaluate_corrupted(predictor, dataset, rows, plan, events, task="one"),
        evaluate_corrupted(predictor, dataset, rows, plan, events, task="three", workers=3),
    )


def test_verification_of_a_dataset_that_is_sealed_is_refused(
    package: Path, dataset: Dataset, root: Path
) -> None:
    with pytest.raises(TestSealed):
        verify_model(package, dataset.without_test(), spec_with(root), Events(io.StringIO()), None)


def test_verification_without_test_images_is_refused(package: Path, dataset: Dataset, root: Path) -> None:
    empty = dataclasses.replace(dataset, split=np.full_like(dataset.split, TRAIN))
    with pytest.raises(DatasetInvalid, match="test split has no images"):
        verify_model(package, empty, spec_with(root), Events(io.StringIO()), None)


def test_export_of_a_candidate_uses_its_normalisation_and_never_the_test_split(
    dataset: Dataset, tmp_path: Path
) -> None:
    facts = CandidateFacts(
        backbone="tint",
        weights="none",
        weights_digest="none",
        strategy="LinearProbe",
        trial_id="t0001",
        image_size=64,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        num_classes=3,
        temperature=1.0,
        selection="",
        probe_accuracy=1.0,
        probe_loss=0.0,
    )
    model: Any = Tint()
    exported = export_model(Candidate(model, facts), dataset.without_test(), tmp_path)
    assert exported.outputs == ("logits", "embedding", "feature_map")
    assert Predictor(tmp_path).preprocess.mean == (0.5, 0.5, 0.5)
    assert Predictor(tmp_path).labels == CLASSES


def test_golden_predictions_are_reproduced_by_a_new_predictor(
    verification: Verification, package: Path, dataset: Dataset
) -> None:
    write_golden(package, Predictor(package), dataset, verification.predictions)
    with np.load(package / "golden.npz", allow_pickle=False) as golden:
        data, offsets = golden["images"].tobytes(), golden["offsets"]
        images = [data[start:end] for start, end in itertools.pairwise(offsets)]
        probabilities = Predictor(package, threads=1).probabilities(images)
        assert len(images) == 8
        assert set(golden["labels"].tolist()) == {0, 1, 2}
        assert np.abs(probabilities - golden["probabilities"]).max() <= golden["tolerance"]
    assert (package / "golden.npz").stat().st_size < 1_000_000
