"""The whole search on generated pictures: real networks, real Ray, a real store."""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tunesmith_api.training_job import TrainingJob, TrainingJobSpec
from tunesmith_package.store import Store, open_store
from tunesmith_trainer.devices import Device
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare.dataset import TEST, TRAIN, VALIDATION, Dataset, TestSealed
from tunesmith_trainer.prepare.pixels import PixelStore
from tunesmith_trainer.prepare.prepare import prepare_dataset
from tunesmith_trainer.run import JobRun
from tunesmith_trainer.search.backbones import IMAGENET_MEAN, IMAGENET_STD, Pretrained, load_backbone
from tunesmith_trainer.search.candidate import restore_candidate, store_candidate
from tunesmith_trainer.search.context import SearchContext
from tunesmith_trainer.search.features import compute_features, embedder
from tunesmith_trainer.search.fine_tuning import START_HEAD
from tunesmith_trainer.search.head_trials import head_config
from tunesmith_trainer.search.ledger import Ledger, Trial
from tunesmith_trainer.search.probes import importance
from tunesmith_trainer.search.search import SearchResult, run_search
from tunesmith_trainer.workspace import Workspace

CLASSES = ("blue", "green", "red")
CPU = Device("cpu", 1, 0, None)
SIZE = 32


def picture(channel: int, seed: int) -> bytes:
    """Random patches in one tint."""
    generator = np.random.default_rng(seed)
    patches = generator.integers(20, 140, size=(5, 5, 3), dtype=np.uint8)
    patches[..., channel] += 100
    buffer = io.BytesIO()
    Image.fromarray(patches).resize((SIZE, SIZE), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tints; one green picture of the training split really is red."""
    root = tmp_path_factory.mktemp("search") / "photos"
    seed = 0
    for name in CLASSES:
        for split, count in (("train", 14), ("validation", 5), ("test", 4)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                wrong = name == "green" and split == "train" and number == 0
                channel = 0 if wrong else 2 - CLASSES.index(name)
                seed += 1
                (folder / f"{number:02}.png").write_bytes(picture(channel, seed))
    return root


def spec_with(
    root: Path, *backbones: str, checks: dict[str, Any] | None = None, **spec: Any
) -> TrainingJobSpec:
    return TrainingJobSpec.model_validate(
        {
            "dataset": {"uri": f"file://{root}", "checks": checks or {}},
            "backbones": [{"name": name, "weights": "Random"} for name in backbones],
            "transfer": {"imageSize": SIZE, "maxEpochs": 2, "batchSize": 16, **spec.pop("transfer", {})},
            "store": {"uri": f"file://{root.parent / 'store'}"},
            "search": spec,
        }
    )


def prepare(spec: TrainingJobSpec, root: Path) -> Dataset:
    """The dataset, with labels of test images that no array of the search could take."""
    workspace = Workspace(open_store(spec.store.uri), "jobs/colours/run", root.parent / "cache")
    dataset = prepare_dataset(spec, workspace, Events(io.StringIO()))
    labels = np.where(dataset.split == TEST, 1_000, dataset.labels).astype(np.int32)
    return dataclasses.replace(dataset, labels=labels)


def random_backbone(name: str) -> Pretrained:
    """The same random weights each time, as a file of weights would give."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(name))
        return load_backbone(name, SIZE, weights="Random", weights_file=None)


@dataclasses.dataclass
class Run:
    """One call of the search and what it told."""

    context: SearchContext
    result: SearchResult
    told: list[Trial]
    events: list[dict[str, Any]]


def search(
    spec: TrainingJobSpec,
    dataset: Dataset,
    folder: Path,
    prefix: str = "jobs/colours/run/",
    load: Callable[[str], Pretrained] = random_backbone,
) -> Run:
    lines, told = io.StringIO(), list[Trial]()
    scratch = folder / f"scratch-{len(list(folder.glob('scratch-*')))}"
    scratch.mkdir()
    context = SearchContext(
        spec=spec,
        dataset=dataset.without_test(),
        store=open_store(spec.store.uri),
        prefix=prefix,
        cache_dir=folder / "cache",
        scratch=scratch,
        device=CPU,
        events=Events(lines),
        on_trial=told.append,
        load_backbone=load,
    )
    result = run_search(context)
    return Run(context, result, told, [json.loads(line) for line in lines.getvalue().splitlines()])


@pytest.fixture(scope="module")
def spec(photos: Path) -> TrainingJobSpec:
    return spec_with(
        photos,
        "resnet18",
        "mobilenet_v2",
        checks={"labelNoise": "Drop", "imbalance": "Loss"},
        numTrials=8,
        maxFineTuneTrials=2,
        earlyStopping={"name": "None"},
        transfer={"strategies": ["FineTune"]},
    )


@pytest.fixture(scope="module")
def dataset(spec: TrainingJobSpec, photos: Path) -> Dataset:
    return prepare(spec, photos)


@pytest.fixture(scope="module")
def run(spec: TrainingJobSpec, dataset: Dataset, photos: Path) -> Run:
    return search(spec, dataset, photos.parent)


def test_ledger_holds_every_trial_and_the_refit_last(run: Run) -> None:
    trials = Ledger(run.context.store, "jobs/colours/run/ledger").trials
    assert trials == run.result.trials
    assert [row.id for row in trials] == [*(f"t{number:04d}" for number in range(1, 9)), "refit"]
    assert [row.strategy for row in trials] == ["LinearProbe"] * 6 + ["FineTune"] * 3
    assert {row.state for row in trials} == {"Succeeded"}
    assert all(row.score is not None and row.metrics for row in trials[:8])
    assert [row.epochs for row in trials[6:]] == [2, 2, 2]
    assert {row.backbone for row in trials[:6]} == {"resnet18", "mobilenet_v2"}
    assert not any(row.parent for row in trials)
    assert all(head_config(row.start_head) == START_HEAD for row in trials[6:])
    assert {row.id: row for row in run.told} == {row.id: row for row in trials}
    assert [one["trial"]["id"] for one in run.events if one["type"] == "trial"] == [
        row.id for row in run.told
    ]


def test_search_learns_the_tints_although_some_labels_are_wrong(run: Run, dataset: Dataset) -> None:
    candidate = run.result.candidate
    images = dataset.preprocess.normalise(dataset.pixels.read(dataset.rows(TRAIN, VALIDATION)))
    with torch.no_grad():
        logits, embedding, _ = candidate.model(torch.from_numpy(images))
    right = logits.argmax(1).numpy() == dataset.labels[dataset.rows(TRAIN, VALIDATION)]
    assert right.mean() > 0.9
    assert embedding.shape[1] == candidate.model.head.in_features
    assert not any(module.training for module in candidate.model.modules())


def test_candidate_says_where_it_comes_from(run: Run) -> None:
    facts = run.result.candidate.facts
    assert facts.strategy == "FineTune"
    assert facts.trial_id in {"t0007", "t0008"}
    assert facts.trial_id in facts.selection
    assert facts.temperature > 0
    assert (facts.num_classes, facts.image_size) == (3, SIZE)
    assert run.result.ended == "The search ended because all of its 8 trials were done."


def test_candidate_restored_from_the_store_gives_the_same_logits(run: Run, tmp_path: Path) -> None:
    candidate, store = run.result.candidate, open_store(f"file://{tmp_path}")
    store_candidate(candidate, store, "candidate.safetensors")
    restored = restore_candidate(store, "candidate.safetensors", candidate.facts)
    images = torch.randn(4, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(restored.model(images)[0], candidate.model(images)[0], rtol=0, atol=0)


def test_wrong_labels_are_found_and_lose_their_weight(run: Run, dataset: Dataset) -> None:
    wrong = {"train/green/00.png"}
    found = {str(dataset.paths[one.row]) for one in run.result.suspects}
    assert wrong <= found
    assert len(found) <= 5
    for one in run.result.suspects:
        if str(dataset.paths[one.row]) in wrong:
            assert (CLASSES[one.given], CLASSES[one.suggested]) == ("green", "red")
    images = np.load(run.context.scratch / f"all-{run.result.candidate.facts.backbone}" / "images.npz")
    assert not set(images["train_rows"]) & {one.row for one in run.result.suspects}


def test_suspected_labels_are_counted_in_the_status_by_the_search_and_by_who_takes_it_over(
    run: Run, spec: TrainingJobSpec, dataset: Dataset, photos: Path, tmp_path: Path
) -> None:
    name = "jobs/colours/run/"
    job = TrainingJob.model_validate({"metadata": {"name": "colours"}, "spec": spec})
    for stage in ("started", "reused"):
        lines = io.StringIO()
        job_run = JobRun(job, photos.parent / "cache", "cpu", Events(lines))
        job_run.load_backbone = random_backbone  # type: ignore[method-assign]
        job_run.workspace = Workspace(job_run.store, name, job_run.cache_dir)
        job_run.scratch, job_run.key, job_run.prefix = tmp_path / stage, "run", name
        job_run.scratch.mkdir()
        job_run._search(dataset)
        told = [json.loads(line) for line in lines.getvalue().splitlines()]
        assert next(one["state"] for one in told if one["type"] == "stage") == stage
        status = job_run.board.status.dataset
        assert status is not None
        assert status.digest == dataset.digest
        suspects = len(run.result.suspects)
        assert [(one.check, one.count, one.policy) for one in status.findings] == [
            ("label-noise", suspects, "Drop")
        ]
        (finding,) = [one for one in told if one["type"] == "finding"]
        assert finding["sentence"].endswith("probably wrong; nothing learns from these images.")


def test_test_rows_are_sealed_and_in_none_of_the_files_that_trials_read(run: Run, dataset: Dataset) -> None:
    with pytest.raises(TestSealed):
        run.context.dataset.rows(TEST)
    test = set(dataset.rows(TEST).tolist())
    files = sorted(run.context.scratch.glob("*/images.npz"))
    assert len(files) == 3
    for file in files:
        with np.load(file) as arrays:
            assert not test & {*arrays["train_rows"].tolist(), *arrays["held_out_rows"].tolist()}


def test_second_call_trains_nothing_and_gives_the_same_model(
    run: Run, spec: TrainingJobSpec, dataset: Dataset, photos: Path
) -> None:
    again = search(spec, dataset, photos.parent)
    assert again.told == []
    assert again.result.trials == run.result.trials
    assert again.result.suspects == run.result.suspects
    assert again.result.candidate.facts == run.result.candidate.facts
    images = torch.randn(4, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(
            again.result.candidate.model(images)[0], run.result.candidate.model(images)[0]
        )


@pytest.mark.parametrize("damaged", ["refit", "the chosen one"])
def test_damaged_checkpoint_costs_its_trial_and_not_the_job(
    damaged: str, run: Run, spec: TrainingJobSpec, dataset: Dataset, photos: Path
) -> None:
    trials = {row.id: row for row in run.result.trials}
    chosen = run.result.candidate.facts.trial_id
    file = photos.parent / "store" / trials["refit" if damaged == "refit" else chosen].checkpoint
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    try:
        again = search(spec, dataset, photos.parent)
    finally:
        file.write_bytes(whole)
    notes = [event["message"] for event in again.events if event["type"] == "note"]
    assert any("damaged" in note for note in notes)
    assert any(note.endswith("as judged.") for note in notes)
    facts = again.result.candidate.facts
    assert facts.strategy == "FineTune"
    assert (facts.trial_id == chosen) is (damaged == "refit")


def test_another_job_takes_the_features_from_the_store_and_one_head_is_a_search(
    run: Run, photos: Path, dataset: Dataset, tmp_path: Path
) -> None:
    spec = spec_with(photos, "resnet18", "mobilenet_v2", numTrials=1)
    (tmp_path / "nothing.u8").write_bytes(b"")
    blind = dataclasses.replace(dataset, pixels=PixelStore.open(tmp_path / "nothing.u8", SIZE))
    other = search(spec, blind, tmp_path, "jobs/other/run/")
    assert [row.strategy for row in other.result.trials] == ["LinearProbe"]
    assert other.result.candidate.facts.strategy == "LinearProbe"
    assert other.result.candidate.facts.probe_accuracy > 0.8


def test_features_of_the_graph_equal_those_of_torch(dataset: Dataset) -> None:
    backbone = random_backbone("mobilenet_v2").backbone
    images = dataset.preprocess.normalise(dataset.pixels.read(dataset.rows(TRAIN)[:5]))
    with torch.no_grad():
        expected = backbone.embed(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(embedder(backbone, SIZE, CPU)(images), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("left", [0, 1, 700, 10_000], ids=lambda left: f"{left} bytes left")
def test_features_go_on_where_a_killed_pass_stopped(
    run: Run, dataset: Dataset, tmp_path: Path, left: int
) -> None:
    rows, pretrained = dataset.rows(TRAIN, VALIDATION), random_backbone("resnet18")
    preprocess = dataclasses.replace(dataset.preprocess, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def features(folder: Path, store: Store) -> tuple[Path, list[int]]:
        done: list[int] = []
        matrix = compute_features(
            dataset,
            pretrained,
            preprocess,
            rows,
            device=CPU,
            store=store,
            cache_dir=folder,
            on_images=done.append,
        )
        return matrix.path, done

    whole, _ = features(run.context.cache_dir, run.context.store)
    data = whole.read_bytes()
    killed = tmp_path / "cache" / "features" / whole.parent.name / "features.4194305.partial"
    killed.parent.mkdir(parents=True)
    killed.write_bytes(data[:left])
    path, done = features(tmp_path / "cache", open_store(f"file://{tmp_path / 'store'}"))
    assert done[0] == left // (len(data) // len(rows))
    assert sum(done) == len(rows)
    again = np.frombuffer(path.read_bytes(), np.float16).astype(np.float32)
    np.testing.assert_allclose(
        again, np.frombuffer(data, np.float16).astype(np.float32), atol=2e-3, rtol=2e-3
    )
    shutil.rmtree(killed.parent)


@pytest.mark.parametrize("strategy", ["None", "Loss", "Sampling"])
def test_classes_weigh_the_same_where_they_are_to_be_balanced(dataset: Dataset, strategy: str) -> None:
    labels = np.array([0] * 8 + [1] * 2)
    unequal = dataclasses.replace(
        dataset, imbalance=strategy, weights=np.linspace(0.5, 2, 10, dtype=np.float32)
    )
    weights = importance(unequal, np.arange(10), labels, 2)
    shares = np.bincount(labels, weights=weights)
    assert weights.sum() == pytest.approx(unequal.weights.sum(), rel=1e-5)
    # Within a class the manifest's own weights stay in proportion.
    np.testing.assert_allclose(
        weights[1:8] / weights[0], unequal.weights[1:8] / unequal.weights[0], rtol=1e-5
    )
    assert bool(np.isclose(shares[0], shares[1], rtol=1e-4)) is (strategy != "None")
