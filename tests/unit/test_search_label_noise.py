"""Suspected wrong labels."""

from pathlib import Path

import numpy as np
import pytest

from tunesmith_trainer.search.feature_matrix import FeatureMatrix
from tunesmith_trainer.search.heads import HeadConfig, HeadTask
from tunesmith_trainer.search.label_noise import confident_disagreements, find_suspects
from tunesmith_trainer.search.selection import stratified_folds


def test_disagreement_needs_confidence_above_the_class_threshold() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    probabilities = np.array(
        [[0.9, 0.1], [0.8, 0.2], [0.05, 0.95], [0.1, 0.9], [0.2, 0.8], [0.45, 0.55]], np.float32
    )
    indices, suggested = confident_disagreements(probabilities, labels)
    assert indices.tolist() == [2]
    assert suggested.tolist() == [1]


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_flipped_labels_are_found_and_right_ones_left_alone(tmp_path: Path, share: float) -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 5, 500)
    features = random.normal(0, 1, (5, 32))[truth] * 1.8 + random.normal(0, 1, (500, 32))
    (tmp_path / "features.f16").write_bytes(features.astype(np.float16).tobytes())
    flipped = random.choice(500, int(share * 500), replace=False)
    labels = truth.copy()
    labels[flipped] = (labels[flipped] + random.integers(1, 5, len(flipped))) % 5
    task = HeadTask(
        FeatureMatrix(tmp_path / "features.f16", 500, 32),
        np.arange(500),
        labels,
        np.ones(500, np.float32),
        stratified_folds(labels, np.arange(500), 5, 0),
        5,
    )
    rounds: list[None] = []
    suspects = find_suspects(
        task,
        HeadConfig(1e-2, 0.01, 20),
        np.arange(500) + 1000,
        device="cpu",
        on_round=lambda: rounds.append(None),
    )
    found = {suspect.row - 1000 for suspect in suspects}
    hits = len(found & set(flipped.tolist()))
    assert hits / len(found) >= 0.75
    assert hits / len(flipped) >= 0.75
    assert [s.confidence for s in suspects] == sorted((s.confidence for s in suspects), reverse=True)
    right = [suspect for suspect in suspects if suspect.row - 1000 in set(flipped.tolist())]
    assert np.mean([suspect.suggested == truth[suspect.row - 1000] for suspect in right]) > 0.8
    assert len(rounds) == 2
