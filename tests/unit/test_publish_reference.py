import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tunesmith_package.preprocess import Preprocess, decode
from tunesmith_package.reference import REFERENCE_FILE
from tunesmith_trainer.publish.reference import (
    DIMENSIONS,
    small_enough,
    spread_over_classes,
    write_reference,
)

PREPROCESS = Preprocess(64, "CenterCrop", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def noise_png(size: int, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, size=(size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_golden_rows_come_from_as_many_classes_as_there_are() -> None:
    labels = np.array([0, 0, 0, 0, 1, 2, 2, 3])
    rows = np.arange(8) + 100
    chosen = spread_over_classes(rows, labels, 6)
    assert chosen.tolist() == [100, 104, 105, 107, 101, 106]


def test_golden_rows_of_a_small_test_split_are_all_of_it() -> None:
    assert sorted(spread_over_classes(np.arange(3), np.array([1, 0, 1]), 8).tolist()) == [0, 1, 2]


def test_golden_image_that_is_small_keeps_its_bytes() -> None:
    data = noise_png(32)
    assert small_enough(data, PREPROCESS, limit=len(data)) is data


@pytest.mark.parametrize("limit", [12_000, 5_000])
def test_golden_image_that_is_large_becomes_a_jpeg_of_the_models_size(limit: int) -> None:
    data = noise_png(400)
    small = small_enough(data, PREPROCESS, limit=limit)
    assert len(small) <= limit
    assert Image.open(io.BytesIO(small)).size == (64, 64)
    assert decode(small, PREPROCESS).pixels.shape == (64, 64, 3)


PROPERTIES = np.full((5, 5), 0.5, np.float32)


def read_reference(directory: Path) -> dict[str, Any]:
    with np.load(directory / REFERENCE_FILE, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def write(
    directory: Path, n: int = 500, classes: int = 12, width: int = 40, seed: int = 0
) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(classes, 0.2), size=n).astype(np.float32)
    embeddings = generator.gamma(2.0, size=(n, width)).astype(np.float16)
    write_reference(directory, probabilities, embeddings, PROPERTIES)
    return probabilities, embeddings


def test_reference_keeps_the_distribution_of_the_predictions(tmp_path: Path) -> None:
    probabilities, _ = write(tmp_path)
    found = read_reference(tmp_path)
    assert found["probabilities"].dtype == np.float16
    assert found["probabilities"] == pytest.approx(probabilities, abs=1e-3)
    expected = np.bincount(probabilities.argmax(axis=1), minlength=12) / 500
    assert found["class_fraction"] == pytest.approx(expected)


def test_reference_scores_follow_from_what_lies_beside_them(tmp_path: Path) -> None:
    _, embeddings = write(tmp_path)
    found = read_reference(tmp_path)
    projection = found["embedding_projection"]
    assert projection.shape == (40, DIMENSIONS)
    assert projection.T @ projection == pytest.approx(np.eye(DIMENSIONS), abs=1e-5)
    scores = ((embeddings - found["embedding_mean"]) / found["embedding_std"]) @ projection
    assert found["embedding_scores"] == pytest.approx(scores, abs=0.02)


def test_reference_scores_of_new_images_of_the_same_kind_look_the_same(tmp_path: Path) -> None:
    # Fewer images than dimensions: directions fitted to the images would not pass this.
    write(tmp_path, n=150, width=400)
    found = read_reference(tmp_path)
    fresh = np.random.default_rng(9).gamma(2.0, size=(150, 400))
    scores = ((fresh - found["embedding_mean"]) / found["embedding_std"]) @ found["embedding_projection"]
    assert scores.std() == pytest.approx(found["embedding_scores"].astype(float).std(), rel=0.1)


def test_reference_of_a_silent_dimension_does_not_divide_by_nothing(tmp_path: Path) -> None:
    embeddings = np.random.default_rng(0).random((50, 8))
    embeddings[:, 3] = 0
    write_reference(tmp_path, np.full((50, 2), 0.5, np.float32), embeddings, PROPERTIES)
    found = read_reference(tmp_path)
    assert np.isfinite(found["embedding_scores"]).all()
    assert found["embedding_std"][3] > 0.01


@pytest.mark.parametrize(("n", "classes", "rows"), [(9_000, 10, 2_000), (3_000, 2_000, 1_000)])
def test_reference_of_many_images_is_bounded(n: int, classes: int, rows: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.random((n, classes), dtype=np.float32)
    embeddings = generator.random((n, 16), dtype=np.float32)
    write_reference(tmp_path, probabilities, embeddings, PROPERTIES)
    found = read_reference(tmp_path)
    assert found["probabilities"].shape == (rows, classes)
    assert found["embedding_scores"].shape == (1_000, 16)
    assert (tmp_path / REFERENCE_FILE).stat().st_size < 5_000_000


def test_reference_of_the_same_predictions_is_the_same_file(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
        written.append((tmp_path / name / REFERENCE_FILE).read_bytes())
    assert written[0] == written[1]
