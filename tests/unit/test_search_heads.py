"""Linear heads trained in bulk."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from tunesmith_api.reasons import SearchFailed
from tunesmith_trainer.search.feature_matrix import FeatureMatrix
from tunesmith_trainer.search.heads import (
    Head,
    HeadConfig,
    HeadTask,
    TrainedHead,
    cross_validate,
    learning_rate_at,
    measure_scaling,
    train_heads,
)
from tunesmith_trainer.search.judgement import judge
from tunesmith_trainer.search.probes import Probes
from tunesmith_trainer.search.selection import stratified_folds


def train(task: HeadTask, configs: list[HeadConfig]) -> list[TrainedHead]:
    return train_heads(task, configs, device="cpu")


def make_task(
    folder: Path, *, count: int = 240, dim: int = 24, classes: int = 3, folds: int = 3, seed: int = 0
) -> HeadTask:
    """Gaussian classes that overlap a little, with features of very different scale."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    centres = random.normal(0, 1, (classes, dim))
    scale = np.exp(random.normal(0, 1.5, dim))
    features = (centres[labels] + random.normal(0, 1.3, (count, dim))) * scale + scale
    path = folder / f"features-{seed}.f16"
    features.astype(np.float16).tofile(path)
    fold = stratified_folds(labels, np.arange(count), folds, seed) if folds else np.full(count, -1)
    return HeadTask(
        FeatureMatrix(path, count, dim),
        np.arange(count),
        labels,
        np.ones(count, np.float32),
        fold,
        classes,
        seed,
    )


@given(rows=st.lists(st.integers(0, 239), max_size=50))
@settings(max_examples=50, deadline=None)
def test_feature_matrix_any_rows_come_in_the_order_asked(
    rows: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    task = make_task(tmp_path_factory.getbasetemp())
    everything = task.features.read(np.arange(240))
    wanted = np.array(rows, np.int64)
    np.testing.assert_array_equal(task.features.read(wanted), everything[wanted])


def test_feature_matrix_truncated_file_is_an_error(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    with task.features.path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(OSError, match="ends before row"):
        task.features.read(np.arange(240))


def test_scaling_matches_numpy(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    features = task.features.read(task.rows)
    scaling = measure_scaling(task)
    np.testing.assert_allclose(scaling.mean, features.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scaling.std, features.std(0), rtol=0.05)


def test_heads_trained_together_equal_heads_trained_alone(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    configs = [HeadConfig(1e-2, 0.1, 6), HeadConfig(3e-3, 1.0, 12, 0.1), HeadConfig(3e-2, 0.0, 4)]
    together = train(task, configs)
    for config, one in zip(configs, together, strict=True):
        alone = train(task, [config])[0]
        np.testing.assert_allclose(one.head.weight, alone.head.weight, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(one.held_out_logits, alone.held_out_logits, rtol=1e-3, atol=1e-3)


def test_cross_validation_alone_says_what_training_says(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    configs = [HeadConfig(1e-2, 0.1, 6), HeadConfig(3e-3, 1.0, 12, 0.1)]
    for one, logits in zip(train(task, configs), cross_validate(task, configs, device="cpu"), strict=True):
        np.testing.assert_allclose(one.held_out_logits, logits, rtol=1e-3, atol=1e-3)


def test_step_is_that_of_torchs_own_optimiser(tmp_path: Path) -> None:
    task = make_task(tmp_path, count=40, folds=0)  # One mini-batch, so the order of rows does not matter.
    config = HeadConfig(1e-2, 0.3, 7)
    own = train(task, [config])[0].head
    scaling = measure_scaling(task)
    features = torch.from_numpy((task.features.read(task.rows) - scaling.mean) / scaling.std)
    layer = torch.nn.Linear(24, 3)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(layer.parameters(), betas=(0.9, 0.99), weight_decay=config.weight_decay)
    for epoch in range(config.epochs):
        optimizer.param_groups[0]["lr"] = learning_rate_at(config, epoch)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(layer(features), torch.from_numpy(task.labels))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    weight = layer.weight.detach().numpy() / scaling.std
    np.testing.assert_allclose(own.weight, weight, rtol=1e-3, atol=1e-6)


def test_held_out_logits_never_come_from_a_model_that_saw_the_row(tmp_path: Path) -> None:
    task = make_task(tmp_path, count=60, dim=200, classes=2)
    random_labels = np.random.default_rng(5).integers(0, 2, 60)
    folds = stratified_folds(random_labels, np.arange(60), 3, 0)
    noise = HeadTask(task.features, task.rows, random_labels, task.weights, folds, 2)
    trained = train(noise, [HeadConfig(3e-2, 0.0, 40)])[0]
    fitted = judge(trained.head.logits(task.features.read(task.rows)), random_labels).accuracy
    held_out = judge(trained.held_out_logits, random_labels).accuracy
    assert fitted > 0.95, "200 dimensions can fit 60 random labels"
    assert held_out < 0.75, "labels without meaning cannot be predicted"


def test_head_reaches_the_likelihood_of_scikit_learns_logistic_regression(tmp_path: Path) -> None:
    task = make_task(tmp_path, count=600)
    fit, test = np.arange(400), np.arange(400, 600)
    part = HeadTask(task.features, fit, task.labels[fit], task.weights[fit], np.full(400, -1), 3)
    head = train(part, [HeadConfig(1e-2, 0.1, 30)])[0].head
    scaling = measure_scaling(part)
    features = (task.features.read(task.rows) - scaling.mean) / scaling.std
    reference = LogisticRegression(C=0.1, max_iter=500).fit(features[fit], task.labels[fit])
    own = judge(head.logits(task.features.read(test)), task.labels[test])
    other = judge(reference.decision_function(features[test]).astype(np.float32), task.labels[test])
    assert own.loss < other.loss + 0.05
    assert own.accuracy > other.accuracy - 0.03


def test_rows_of_weight_zero_do_not_change_the_head(tmp_path: Path) -> None:
    task = make_task(tmp_path, folds=0)
    weights = task.weights.copy()
    weights[:40] = 0
    wrong = task.labels.copy()
    wrong[:40] = (wrong[:40] + 1) % 3
    first = HeadTask(task.features, task.rows, task.labels, weights, task.folds, 3)
    second = HeadTask(task.features, task.rows, wrong, weights, task.folds, 3)
    heads = [train(one, [HeadConfig(epochs=5)])[0].head.weight for one in (first, second)]
    np.testing.assert_array_equal(heads[0], heads[1])


def test_heads_beyond_the_memory_bound_train_in_several_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(tmp_path)
    configs = [HeadConfig(1e-2, 0.1, 3)] * 5
    whole = train(task, configs)
    monkeypatch.setattr("tunesmith_trainer.search.heads.MAX_PARAMETERS", 2 * 4 * 24 * 3)
    pieces = train(task, configs)
    assert len(pieces) == 5
    np.testing.assert_allclose(whole[4].head.weight, pieces[4].head.weight, rtol=1e-3, atol=1e-5)


def test_head_that_diverges_on_all_images_ends_the_search_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = TrainedHead(
        Head(np.full((2, 3), np.nan, np.float32), np.zeros(2, np.float32)), np.zeros((1, 2), np.float32)
    )
    monkeypatch.setattr("tunesmith_trainer.search.probes.train_heads", lambda *args, **kwargs: [broken])
    probes = object.__new__(Probes)
    monkeypatch.setattr(probes, "head_task", lambda *args: None)
    probes.context = SimpleNamespace(device=SimpleNamespace(type="cpu"))  # type: ignore[assignment]
    nothing = np.empty(0, np.int64)
    with pytest.raises(SearchFailed, match="diverged"):
        probes.train_head("mobilenet_v2", HeadConfig(), nothing, nothing)
