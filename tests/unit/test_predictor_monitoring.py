"""Monitoring: what counts as a shift, what a window holds, and what feedback adds up to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.testbed.tiny_package import LABELS, write_tiny_package, write_tiny_reference

from tunesmith_api.reasons import PackageInvalid
from tunesmith_package.properties import PROPERTIES, input_properties
from tunesmith_package.reference import REFERENCE_FILE, Reference, read_reference
from tunesmith_predictor.engine import Answer
from tunesmith_predictor.monitoring.feedback import Entry, Feedback, read_entries
from tunesmith_predictor.monitoring.monitor import Monitor
from tunesmith_predictor.monitoring.shift import compare, kolmogorov_smirnov
from tunesmith_predictor.monitoring.window import MOST_ROWS, Window
from tunesmith_predictor.refusals import BadRequest, TooLarge

CLASSES, WIDTH = 3, 6


def drawn(count: int, seed: int, shift: float = 0.0) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).normal(shift, 1, (count, 4))


@pytest.mark.parametrize("decimals", [8, 0], ids=["all different", "many ties"])
def test_statistic_is_scipys_and_the_p_value_nearly(decimals: int) -> None:
    first, second = drawn(200, 0).round(decimals), drawn(90, 1, 0.3).round(decimals)
    exact = [stats.ks_2samp(a, b, method="asymp") for a, b in zip(first.T, second.T, strict=True)]
    assert kolmogorov_smirnov(first, second) == pytest.approx([one.statistic for one in exact])
    found = compare("x", first[:, :1], second[:, :1], 0.05)
    assert found.p_value == pytest.approx(exact[0].pvalue, rel=0.3)


def test_windows_without_shift_are_called_shifted_no_more_often_than_said() -> None:
    alarms = [compare("x", drawn(150, 2 * i), drawn(200, 2 * i + 1), 0.05).shifted for i in range(400)]
    assert 0 < sum(alarms) <= stats.binom.ppf(0.999, len(alarms), 0.05)


def test_a_shift_of_one_column_is_found_and_named() -> None:
    window = drawn(200, 1)
    window[:, 2] += 0.8
    found = compare("x", drawn(150, 0), window, 0.01)
    assert found.shifted
    assert found.column == 2


def reference(seed: int = 0, images: int = 150) -> Reference:
    generator = np.random.default_rng(seed)
    return Reference(
        generator.dirichlet(np.ones(CLASSES), images).astype(np.float16),
        np.zeros(WIDTH, np.float32),
        np.ones(WIDTH, np.float32),
        np.eye(WIDTH, 2, dtype=np.float32),
        generator.normal(size=(images, 2)).astype(np.float16),
        generator.normal(size=(images, len(PROPERTIES))).astype(np.float32),
    )


def answers(count: int, seed: int, *, brightness: float = 0.0, repeat: int = 1) -> list[Answer]:
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        properties = generator.normal(size=len(PROPERTIES)).astype(np.float32)
        properties[0] += brightness
        answer = Answer(
            generator.dirichlet(np.ones(CLASSES)).astype(np.float32),
            generator.normal(size=WIDTH).astype(np.float32),
            np.zeros((3, 2, 2), np.float32),
            None,
            properties=properties,
            key=seed * 1_000_000 + number,
        )
        found += [answer] * repeat
    return found


def told(images: list[Answer], window: int = 1_000, **metrics: float) -> dict[str, Any]:
    monitor = Monitor(LABELS, reference(), metrics or {"accuracy": 0.9}, window)
    for one in images:
        monitor.add(one)
    return dict(monitor.report(monitor.sample()).document)


def test_a_window_below_its_minimum_says_so_and_gives_no_number() -> None:
    document = told(answers(49, 1, brightness=50))
    assert not document["shift"]["shifted"]
    for one in document["shift"]["tests"]:
        assert "49 different images so far" in one["message"]
        assert "pValue" not in one
    assert "value" not in document["estimatedAccuracy"]


def test_images_like_the_references_are_no_shift_and_brighter_ones_are() -> None:
    same = told(answers(300, 1))["shift"]
    assert not same["shifted"]
    assert [one["name"] for one in same["tests"]] == ["predictions", "embedding", "inputs"]
    brighter = told(answers(300, 1, brightness=1.0))["shift"]
    assert [one["shifted"] for one in brighter["tests"]] == [False, False, True]
    assert brighter["tests"][2]["most"] == "brightness"


def test_an_image_that_is_sent_again_counts_once() -> None:
    document = told(answers(60, 1, repeat=20))
    assert document["window"] == {
        "images": 1_000,
        "samples": 60,
        "minimum": 50,
        "arrived": 1_200,
        "repeated": 1_140,
    }


def test_a_window_holds_the_last_images_and_no_more() -> None:
    window = Window(100, CLASSES, reference())
    for one in answers(130, 1) + answers(100, 2, brightness=100):
        window.add(one)
    sample = window.sample()
    assert len(sample.probabilities) == len(sample.properties) == 100
    assert sample.properties[:, 0].min() > 50
    again = Window(100, CLASSES, reference())
    for one in answers(130, 1) + answers(1, 1):
        again.add(one)
    assert again.sample().repeated == 0, "the first has left the window"


def test_of_a_long_window_evenly_spaced_images_are_kept() -> None:
    window = Window(1_000_000, CLASSES, reference())
    for one in answers(5_000, 1):
        window.add(one)
    assert len(window.sample().probabilities) == 5_000 * MOST_ROWS // 1_000_000


def test_estimated_accuracy_falls_by_what_confidence_has_lost() -> None:
    known = reference()
    unsure = np.full(CLASSES, 1 / CLASSES, np.float32)
    images = [
        Answer(unsure, np.zeros(WIDTH, np.float32), np.zeros((3, 2, 2), np.float32), None) for _ in range(80)
    ]
    document = told(images, accuracy=0.9)["estimatedAccuracy"]
    lost = float(known.probabilities.max(axis=1).astype(float).mean()) - 1 / CLASSES
    assert document["value"] == pytest.approx(0.9 - lost, abs=1e-3)
    assert document["onTestSplit"] == 0.9
    assert "message" in told(images, f1=0.9)["estimatedAccuracy"]


@pytest.mark.parametrize("older_properties", [None, np.zeros((7, 4), np.float32)], ids=["none", "others"])
def test_a_reference_of_an_older_package_has_no_inputs_to_compare(
    tmp_path: Path, older_properties: npt.NDArray[Any] | None
) -> None:
    directory = write_tiny_package(tmp_path / "p")
    write_tiny_reference(directory)
    with np.load(directory / REFERENCE_FILE) as file:
        older = {name: file[name] for name in file.files if name != "properties"}
    assert read_reference(directory, 3, 4).properties is not None
    if older_properties is not None:
        older["properties"] = older_properties
    np.savez(directory / REFERENCE_FILE, **older)
    found = read_reference(directory, 3, 4)
    assert found.properties is None
    monitor = Monitor(LABELS, found, {}, 100)
    names = [one.name for one in monitor.report(monitor.sample()).findings]
    assert names == ["predictions", "embedding"]


@pytest.mark.parametrize("shape", [(), (5,), (2, 5, 1)])
def test_properties_of_no_sound_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    directory = write_tiny_package(tmp_path / "p")
    write_tiny_reference(directory)
    with np.load(directory / REFERENCE_FILE) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(directory / REFERENCE_FILE, **{**arrays, "properties": np.zeros(shape, np.float32)})
    with pytest.raises(PackageInvalid, match="does not fit"):
        read_reference(directory, 3, 4)


def test_size_that_changes_alone_is_a_shift_of_the_inputs_and_named() -> None:
    scaled = answers(300, 1)
    for one in scaled:
        assert one.properties is not None
        one.properties[PROPERTIES.index("size")] += 1.0
    inputs = told(scaled)["shift"]["tests"][2]
    assert (inputs["shifted"], inputs["most"]) == (True, "size")


@pytest.mark.parametrize(("classes", "dimensions"), [(4, 4), (3, 5)])
def test_a_reference_of_another_model_is_refused(classes: int, dimensions: int, tmp_path: Path) -> None:
    directory = write_tiny_package(tmp_path / "p")
    write_tiny_reference(directory)
    with pytest.raises(PackageInvalid, match="does not fit"):
        read_reference(directory, classes, dimensions)
    np.savez_compressed(directory / REFERENCE_FILE, probabilities=np.zeros(2**27, np.uint8))
    with pytest.raises(PackageInvalid, match="unpacks to"):
        read_reference(directory, 3, 4)
    (directory / REFERENCE_FILE).write_bytes(b"not an archive")
    with pytest.raises(PackageInvalid, match="cannot be read"):
        read_reference(directory, 3, 4)


def test_properties_are_what_their_names_say() -> None:
    grey = np.full((32, 32, 3), 128, np.uint8)
    assert input_properties(grey, 640 * 360) == pytest.approx([128 / 255, 0, 0, 0, 480], abs=1e-5)
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    assert input_properties(red, 1)[3] == pytest.approx(1.0)
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[::2] = 255
    ramp = np.repeat(np.linspace(0, 255, 32).astype(np.uint8)[:, np.newaxis], 32, axis=1)
    soft = np.repeat(ramp[..., np.newaxis], 3, axis=2)
    sharp, smooth = input_properties(stripes, 1), input_properties(soft, 1)
    assert sharp[1] == pytest.approx(0.5)
    assert sharp[2] > 100 * smooth[2]


def test_feedback_becomes_accuracy_with_an_interval_and_what_is_unknown_is_counted() -> None:
    feedback = Feedback(LABELS)
    for number in range(10):
        feedback.remember(f"r{number}", [0, 1])
    entries = [Entry(f"r{number}", 0, "red" if number < 8 else "green") for number in range(10)]
    counts = feedback.take(
        [*entries, Entry("nobody", 0, "red"), Entry("r1", 0, "mauve"), Entry("r1", 5, "red")]
    )
    assert counts == {"taken": 10, "unknownRequests": 2, "unknownLabels": 1}
    document = feedback.document()
    assert document["samples"] == 10
    assert document["accuracy"]["value"] == pytest.approx(0.8)
    assert document["accuracy"]["low"] == pytest.approx(0.490, abs=1e-3)  # Wilson 1927, by hand
    assert document["accuracy"]["high"] == pytest.approx(0.943, abs=1e-3)
    assert {one["label"]: (one["samples"], one["recall"]) for one in document["perClass"]} == {
        "red": (8, 1.0),
        "green": (2, 0.0),
    }


def test_a_later_label_of_the_same_image_replaces_the_earlier_one() -> None:
    feedback = Feedback(LABELS)
    feedback.remember("r", [2])
    feedback.take([Entry("r", 0, "red")])
    feedback.take([Entry("r", 0, "blue")])
    assert feedback.accuracy() == (1.0, 1)


def test_feedback_remembers_and_counts_no_more_than_it_should() -> None:
    feedback = Feedback(LABELS, remembered=3, window=2)
    for number in range(5):
        feedback.remember(f"r{number}", [0])
    counts = feedback.take([Entry(f"r{number}", 0, "red" if number < 4 else "blue") for number in range(5)])
    assert counts == {"taken": 3, "unknownRequests": 2, "unknownLabels": 0}
    assert feedback.accuracy() == (0.5, 2)


@pytest.mark.parametrize(
    "document",
    [None, 3, {}, {"requestId": 3, "label": "red"}, {"requestId": "r"}, ["x"]]
    + [{"requestId": "r", "label": "red", "image": image} for image in (-1, 64, "0", 1.5)],
)
def test_feedback_that_makes_no_sense_is_refused(document: object) -> None:
    with pytest.raises(BadRequest, match="requestId"):
        read_entries(document)


def test_too_much_feedback_at_once_is_refused() -> None:
    with pytest.raises(TooLarge):
        read_entries([{"requestId": "r", "label": "red"}] * 1_001)


FIELDS = st.sampled_from(["requestId", "label", "image", "other"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ENTRIES = st.dictionaries(FIELDS, SCALARS | st.lists(SCALARS, max_size=2), max_size=4) | SCALARS


@given(ENTRIES | st.lists(ENTRIES, max_size=4))
def test_any_feedback_is_taken_or_refused_and_nothing_else(document: object) -> None:
    feedback = Feedback(["red", "blue"])
    try:
        entries = read_entries(document)
    except BadRequest:
        return
    counts = feedback.take(entries)
    assert sum(counts.values()) == len(entries)
