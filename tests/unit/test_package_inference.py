"""Predictions and activation maps from a package, on ONNX Runtime alone."""

import io
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from safetensors.numpy import save_file
from tests.testbed.tiny_package import HEAD_BIAS, LABELS, PREPROCESS, encoded, picture, write_tiny_package

from tunesmith_api.reasons import PackageInvalid
from tunesmith_package.activation import ActivationMap, overlay_png
from tunesmith_package.inference import Predictor, softmax
from tunesmith_package.preprocess import ImageInvalid, decode


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_package(tmp_path_factory.mktemp("packages") / "cam")


@pytest.fixture(scope="module")
def predictor(directory: Path) -> Predictor:
    return Predictor(directory, threads=1)


@pytest.fixture(scope="module")
def without_map(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(
        write_tiny_package(tmp_path_factory.mktemp("packages") / "occlusion", feature_map=False), threads=1
    )


def with_patch(row: int, column: int, colour: tuple[int, int, int]) -> bytes:
    """A grey picture of 32 x 32 with one block of 8 x 8 in a colour."""
    image = Image.new("RGB", (32, 32), (128, 128, 128))
    image.paste(colour, (column * 8, row * 8, column * 8 + 8, row * 8 + 8))
    return encoded(image)


def test_predictor_probabilities_name_the_colour_of_each_picture(predictor: Predictor) -> None:
    images = [picture("green"), picture("blue", format="JPEG"), picture("red", (300, 200))]

    found = predictor.probabilities(images)

    assert found.dtype == np.float32
    assert found.shape == (3, 3)
    assert [predictor.labels[row] for row in found.argmax(axis=1)] == ["green", "blue", "red"]
    assert found.sum(axis=1) == pytest.approx(1.0)


def test_predictor_probabilities_of_more_than_a_batch_equal_those_one_by_one(predictor: Predictor) -> None:
    images = [picture((value, 255 - value, 90)) for value in range(0, 250, 6)]

    together = predictor.probabilities(images)
    alone = np.concatenate([predictor.probabilities([image]) for image in images])

    assert len(images) > 32
    assert together == pytest.approx(alone, abs=1e-6)


def test_predictor_probabilities_of_nothing_have_no_rows(predictor: Predictor) -> None:
    assert predictor.probabilities([]).shape == (0, 3)


def test_predictor_with_an_unusable_image_raises_what_is_wrong_with_it(predictor: Predictor) -> None:
    with pytest.raises(ImageInvalid) as caught:
        predictor.probabilities([picture("red"), b"hello"])
    assert caught.value.kind == "not-an-image"


def test_predictor_run_returns_every_output_in_its_shape(
    predictor: Predictor, without_map: Predictor
) -> None:
    tensor = np.zeros((2, 3, 32, 32), dtype=np.float32)

    outputs, bare = predictor.run(tensor), without_map.run(tensor)

    assert outputs.logits.shape == (2, 3)
    assert outputs.embedding.shape == (2, 4)
    assert outputs.feature_map is not None
    assert outputs.feature_map.shape == (2, 4, 4, 4)
    assert predictor.has_feature_map
    assert bare.feature_map is None
    assert not without_map.has_feature_map


def test_predictor_used_from_many_threads_gives_the_same_answers(predictor: Predictor) -> None:
    images = [picture(label) for label in LABELS]
    expected, answers = predictor.probabilities(images), []

    threads = [
        threading.Thread(target=lambda: answers.append(predictor.probabilities(images))) for _ in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert len(answers) == 8
    assert all(np.array_equal(answer, expected) for answer in answers)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 3), (2, 1), (3, 3)])
def test_activation_map_by_cam_is_highest_where_the_colour_lies(
    predictor: Predictor, row: int, column: int
) -> None:
    found = predictor.activation_map(with_patch(row, column, (255, 0, 0)), class_index=0)

    assert found.method == "cam"
    assert found.values.dtype == np.float32
    assert divmod(int(found.values.argmax()), 4) == (row, column)


def test_activation_map_by_cam_averages_to_the_logit_without_its_bias(predictor: Predictor) -> None:
    image = with_patch(1, 2, (10, 20, 250))
    logits = predictor.logits(PREPROCESS.normalise(decode(image, PREPROCESS).pixels[np.newaxis]))[0]

    for index in range(3):
        found = predictor.activation_map(image, index)
        assert found.values.mean() + HEAD_BIAS[index] == pytest.approx(logits[index], abs=1e-4)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 3)])
def test_activation_map_by_occlusion_is_highest_where_the_colour_lies(
    without_map: Predictor, row: int, column: int
) -> None:
    found = without_map.activation_map(with_patch(row, column, (0, 255, 0)), class_index=1)

    assert found.method == "occlusion"
    assert found.values.shape == (7, 7)
    top = divmod(int(found.values.argmax()), 7)
    assert (top[0] * 4 // 7, top[1] * 4 // 7) == (row, column)
    assert found.values.max() > 0
    far = found.values[6 - top[0], 6 - top[1]]
    assert far == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("label", LABELS)
def test_activation_map_without_a_class_explains_the_most_probable_one(
    predictor: Predictor, label: str
) -> None:
    assert predictor.activation_map(picture(label)).class_index == LABELS.index(label)


@pytest.mark.parametrize("index", [-1, 3])
def test_activation_map_of_a_class_that_is_not_there_is_refused(predictor: Predictor, index: int) -> None:
    with pytest.raises(IndexError):
        predictor.activation_map(picture("red"), index)


def test_overlay_png_covers_the_evidence_and_leaves_the_rest(predictor: Predictor) -> None:
    image = with_patch(0, 0, (255, 0, 0))

    drawn = np.asarray(Image.open(io.BytesIO(predictor.overlay_png(image, 0))))

    assert drawn.shape == (32, 32, 3)
    assert tuple(drawn[30, 30]) == (128, 128, 128)
    assert tuple(drawn[3, 3]) != (255, 0, 0)


@given(
    npst.arrays(
        np.float32,
        npst.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.floats(-1e6, 1e6, width=32),
    )
)
def test_overlay_png_of_any_map_is_a_picture_of_the_same_size(values: np.ndarray) -> None:
    pixels = np.full((16, 16, 3), 100, dtype=np.uint8)

    drawn = Image.open(io.BytesIO(overlay_png(pixels, ActivationMap(values, "cam", 0))))

    assert (drawn.format, drawn.size, drawn.mode) == ("PNG", (16, 16), "RGB")


def test_overlay_png_of_a_map_without_differences_is_the_picture() -> None:
    pixels = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)

    drawn = overlay_png(pixels, ActivationMap(np.full((3, 3), 7, dtype=np.float32), "cam", 0))

    assert np.array_equal(np.asarray(Image.open(io.BytesIO(drawn))), pixels)


@given(npst.arrays(np.float32, (2, 5), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_softmax_of_any_logits_is_a_distribution_in_their_order(logits: np.ndarray) -> None:
    found = softmax(logits)

    assert found.dtype == np.float32
    assert np.all(found >= 0)
    assert found.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert np.all(
        np.take_along_axis(found, logits.argmax(axis=1)[:, None], 1) >= found.max(axis=1, keepdims=True)
    )


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        pytest.param("labels.json", b'["a","a","b"]', "different names", id="a label twice"),
        pytest.param("labels.json", b"{}", "different names", id="labels are no list"),
        pytest.param("labels.json", None, "labels.json cannot be read", id="no labels"),
        pytest.param("labels.json", b'["a","b"]', "3 outputs for 2 labels", id="too few labels"),
        pytest.param("preprocess.json", b"[]", "must hold exactly", id="preprocess is no map"),
        pytest.param("model.onnx", b"x" * 99, "cannot be loaded", id="model is no ONNX"),
        pytest.param("model.onnx", None, "cannot be loaded", id="no model"),
    ],
)
def test_predictor_of_files_that_do_not_fit_says_which(
    tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    directory = write_tiny_package(tmp_path / "package")
    (directory / name).unlink()
    if content is not None:
        (directory / name).write_bytes(content)

    with pytest.raises(PackageInvalid, match=sentence):
        Predictor(directory, threads=1)


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        pytest.param({"other": np.zeros(1, np.float32)}, "no readable head.weight", id="no head"),
        pytest.param(
            {"head.weight": np.zeros((2, 4), np.float32)}, "for 3 classes", id="a head for two classes"
        ),
        pytest.param(
            {"head.weight": np.zeros((3, 4), np.float64)}, "not float32", id="a head in double precision"
        ),
    ],
)
def test_activation_map_with_a_head_that_does_not_fit_says_so(
    tmp_path: Path, tensors: dict[str, np.ndarray], sentence: str
) -> None:
    directory = write_tiny_package(tmp_path / "package")
    save_file(tensors, directory / "weights.safetensors")

    with pytest.raises(PackageInvalid, match=sentence):
        Predictor(directory, threads=1).activation_map(picture("red"))


def test_package_import_loads_neither_torch_nor_ray() -> None:
    program = (
        "import sys, tunesmith_package.inference, tunesmith_package.package, tunesmith_package.lease;"
        "print(sorted({'torch', 'torchvision', 'ray', 'onnx', 'pydantic'} & set(sys.modules)))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout

    assert printed.strip() == "[]"
