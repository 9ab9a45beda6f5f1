import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tunesmith_api.reasons import DigestMismatch
from tunesmith_package.manifest import PackageHeader
from tunesmith_package.package import publish_package
from tunesmith_package.store import Store, open_store
from tunesmith_trainer.verify.champion import Measured, compare, find_champion, mcnemar_p

JOB = "flowers"


def publish(store: Store, folder: Path, verified_at: str, *, verified: bool = True, job: str = JOB) -> str:
    """A package as the publish stage writes it; find_champion looks at bytes, not into the model."""
    folder.mkdir()
    for name in ("model.onnx", "weights.safetensors", "preprocess.json", "labels.json"):
        (folder / name).write_text(f"{name} of {verified_at}")
    (folder / "metrics.json").write_text(json.dumps({"verifiedAt": verified_at}))
    header = PackageHeader(verified, "tunesmith test", "sha256:data", "run", "resnet18", "LinearProbe")
    return publish_package(folder, store, job, header).digest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path / 'store'}")


def test_champion_of_a_job_without_models_is_none(store: Store) -> None:
    assert find_champion(store, JOB) is None


def test_champion_is_the_newest_verified_model_of_the_same_job(store: Store, tmp_path: Path) -> None:
    publish(store, tmp_path / "old", "2026-01-01T00:00:00Z")
    newest = publish(store, tmp_path / "new", "2026-02-01T00:00:00Z")
    publish(store, tmp_path / "unverified", "2026-03-01T00:00:00Z", verified=False)
    publish(store, tmp_path / "other", "2026-04-01T00:00:00Z", job="flowers-2")
    champion = find_champion(store, JOB)
    assert champion is not None
    assert (champion.digest, champion.dataset_digest) == (newest, "sha256:data")
    assert (champion.directory / "labels.json").read_text() == "labels.json of 2026-02-01T00:00:00Z"
    assert champion.name == newest[:19]


def damage(store: Store, digest: str) -> None:
    path = Path(store.uri.removeprefix("file://")) / "models" / JOB / digest.removeprefix("sha256:")
    (path / "model.onnx").write_text("model.onnx of 2026-99-99T00:00:00Z")


def test_champion_that_is_damaged_is_passed_over_with_a_sentence(store: Store, tmp_path: Path) -> None:
    old = publish(store, tmp_path / "old", "2026-01-01T00:00:00Z")
    damage(store, publish(store, tmp_path / "new", "2026-02-01T00:00:00Z"))
    said: list[str] = []
    champion = find_champion(store, JOB, on_skip=said.append)
    assert champion is not None
    assert champion.digest == old
    assert len(said) == 1
    assert "2026-02-01T00:00:00Z is passed over" in said[0]


def test_champion_when_every_model_is_damaged_is_an_error_not_none(store: Store, tmp_path: Path) -> None:
    damage(store, publish(store, tmp_path / "only", "2026-02-01T00:00:00Z"))
    with pytest.raises(DigestMismatch):
        find_champion(store, JOB)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_p_is_the_one_sided_binomial_test(fewer: int, more: int) -> None:
    expected = binomtest(fewer, fewer + more, 0.5, alternative="less").pvalue if fewer + more else 1.0
    assert mcnemar_p(fewer, more) == pytest.approx(expected, rel=1e-9)


def measured(correct: list[bool], **metrics: float) -> Measured:
    right = np.asarray(correct, dtype=bool)
    generator = np.random.default_rng(0)
    drawn = generator.integers(len(right), size=(500, len(right)))
    values = {"accuracy": float(right.mean()), **metrics}
    return Measured(values, {"accuracy": right[drawn].mean(axis=1)}, right)


def test_comparison_of_accuracy_counts_the_images_that_only_one_gets_right() -> None:
    champion = measured([True] * 90 + [False] * 10)
    model = measured([False] * 12 + [True] * 78 + [True] * 2 + [False] * 8)
    found = compare("accuracy", 0.0, model, champion, "champion")
    assert found.test == "exact McNemar test"
    assert found.p_short == pytest.approx(binomtest(2, 14, 0.5, alternative="less").pvalue)
    assert found.p_gain == pytest.approx(binomtest(12, 14, 0.5, alternative="less").pvalue)
    assert found.images == 100


def test_comparison_with_itself_never_falls_short() -> None:
    model = measured([True] * 90 + [False] * 10)
    found = compare("accuracy", 0.0, model, model, "itself")
    assert (found.p_short, found.p_gain) == (1.0, 1.0)


def test_comparison_with_an_allowed_loss_tests_the_margin_by_the_bootstrap() -> None:
    champion = measured([True] * 380 + [False] * 20)
    model = measured([True] * 352 + [False] * 48)
    strict = compare("accuracy", -0.01, model, champion, "champion")
    generous = compare("accuracy", -0.15, model, champion, "champion")
    assert strict.test == generous.test == "paired bootstrap"
    assert strict.p_short is not None
    assert generous.p_short is not None
    assert strict.p_short < 0.05 < generous.p_short


def test_comparison_of_a_metric_that_should_be_small_calls_a_decrease_a_gain() -> None:
    images = np.random.default_rng(1).gamma(2.0, size=300)
    drawn = np.random.default_rng(2).integers(300, size=(500, 300))
    metric = "negativeLogLikelihood"
    champion = Measured({metric: images.mean()}, {metric: images[drawn].mean(axis=1)})
    model = Measured({metric: (images - 0.5).mean()}, {metric: (images - 0.5)[drawn].mean(axis=1)})
    found = compare(metric, 0.0, model, champion, "champion")
    assert found.p_gain == pytest.approx(1 / 501)
    assert found.p_short == pytest.approx(1.0)


def test_comparison_of_latency_has_no_test() -> None:
    model = measured([True], latencyP95Milliseconds=12.0)
    champion = measured([True], latencyP95Milliseconds=10.0)
    found = compare("latencyP95Milliseconds", 0.0, model, champion, "champion")
    assert (found.test, found.p_short, found.p_gain) == ("", None, None)
    assert (found.value, found.champion_value) == (12.0, 10.0)
