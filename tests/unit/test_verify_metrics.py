import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith_package.intervals import wilson_interval
from tunesmith_trainer.verify.bootstrap import percentile_interval, resample_counts
from tunesmith_trainer.verify.metrics import (
    MAX_SLICES,
    Predictions,
    confusion_matrix,
    measure,
    measure_resamples,
    per_class,
    per_slice,
    score_ends,
)


def predictions(
    seed: int,
    n: int = 120,
    classes: int = 4,
    strength: float = 2.0,
    slices: dict[str, npt.NDArray[np.str_]] | None = None,
) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=n)
    scores = generator.standard_normal((n, classes))
    scores[np.arange(n), labels] += strength
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return Predictions(probabilities.astype(np.float32), labels.astype(np.int64), slices or {})


def recalls_and_f1(labels: list[int], chosen: list[int]) -> tuple[list[float], list[float]]:
    """Per class in plain Python, from the definitions."""
    recalls, scores = [], []
    for k in sorted({*labels, *chosen}):
        hit = sum(y == k and p == k for y, p in zip(labels, chosen, strict=True))
        support, predicted = labels.count(k), chosen.count(k)
        scores.append(2 * hit / (support + predicted))
        if support:
            recalls.append(hit / support)
    return recalls, scores


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 7))
def test_metrics_equal_their_definitions(seed: int, n: int, classes: int) -> None:
    given_ = predictions(seed, n, classes)
    labels, chosen = given_.labels.tolist(), given_.probabilities.argmax(axis=1).tolist()
    recalls, scores = recalls_and_f1(labels, chosen)
    found = measure(given_)
    assert found["accuracy"] == pytest.approx(np.mean([y == p for y, p in zip(labels, chosen, strict=True)]))
    assert found["macroF1"] == pytest.approx(np.mean(scores))
    assert found["worstClassRecall"] == pytest.approx(min(recalls))
    likelihoods = given_.probabilities[np.arange(n), given_.labels]
    assert found["negativeLogLikelihood"] == pytest.approx(-np.log(likelihoods).mean(), rel=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 1_000))
def test_metrics_do_not_depend_on_the_order_of_the_images(seed: int) -> None:
    one = predictions(seed)
    order = np.random.default_rng(seed).permutation(len(one.labels))
    assert measure(Predictions(one.probabilities[order], one.labels[order])) == pytest.approx(measure(one))


def test_metrics_of_a_resample_are_those_of_its_images() -> None:
    given_ = predictions(7, n=50, slices={"light": np.repeat(["day", "night"], 25)})
    resampled = measure_resamples(given_, samples=8, seed=3)
    counts = np.concatenate(list(resample_counts(50, 8, seed=3))).astype(np.int64)
    for i, row in enumerate(counts):
        images = np.repeat(np.arange(50), row)
        drawn = Predictions(given_.probabilities[images], given_.labels[images])
        expected = measure(drawn)
        assert {name: resampled[name][i] for name in expected} == pytest.approx(expected, rel=1e-5)
        night = images[images >= 25]
        correct = given_.probabilities.argmax(axis=1) == given_.labels
        assert resampled["worstSliceAccuracy"][i] == pytest.approx(
            min(correct[images[images < 25]].mean(), correct[night].mean())
        )


def test_resamples_of_one_seed_are_the_same_for_two_models_of_the_same_images() -> None:
    one = np.concatenate(list(resample_counts(31, 40, seed=9)))
    two = np.concatenate(list(resample_counts(31, 40, seed=9)))
    assert np.array_equal(one, two)
    assert (one.sum(axis=1) == 31).all()


def test_resamples_of_many_images_come_in_bounded_blocks() -> None:
    blocks = list(resample_counts(100_000, 100, seed=0))
    assert sum(len(block) for block in blocks) == 100
    assert max(block.size for block in blocks) <= 4_000_000


def test_percentile_interval_of_accuracy_agrees_with_the_normal_approximation() -> None:
    given_ = predictions(11, n=2_000, strength=1.5)
    accuracy = measure(given_)["accuracy"]
    found = percentile_interval(accuracy, measure_resamples(given_, 1_000, 0)["accuracy"])
    half = 1.96 * np.sqrt(accuracy * (1 - accuracy) / 2_000)
    assert found.low == pytest.approx(accuracy - half, abs=0.15 * half)
    assert found.high == pytest.approx(accuracy + half, abs=0.15 * half)


def flawless(*support: int, slices: dict[str, npt.NDArray[np.str_]] | None = None) -> Predictions:
    labels = np.repeat(np.arange(len(support)), support)
    probabilities = np.full((len(labels), len(support)), 0.01, np.float32)
    probabilities[np.arange(len(labels)), labels] = 0.9
    return Predictions(probabilities, labels, slices or {})


def test_percentile_interval_without_width_is_the_score_interval_and_says_so() -> None:
    given_ = flawless(30, 26)
    resampled = measure_resamples(given_, 100, 0)
    found = percentile_interval(1.0, resampled["accuracy"], score=score_ends(given_)["accuracy"])
    assert found.low == pytest.approx(56 / (56 + 1.96**2), abs=1e-4)
    assert (found.high, found.method) == (1.0, "wilson")


def test_percentile_interval_with_width_does_not_ask_for_the_score_interval() -> None:
    found = percentile_interval(0.9, np.linspace(0.8, 1.0, 101), score=(0.1, 0.2))
    assert [found.low, found.high] == pytest.approx([0.805, 0.995])
    assert found.method == "bootstrap"


def test_percentile_interval_that_nobody_asked_for_stays_the_value() -> None:
    found = percentile_interval(1.0, np.empty(0), score=(0.9, 1.0))
    assert (found.low, found.high) == (1.0, 1.0)


def test_score_ends_of_flawless_worst_classes_and_slices_are_those_of_the_smallest() -> None:
    light = np.array(["day"] * 20 + ["night"] * 12)
    ends = score_ends(flawless(25, 4, 3, slices={"light": light}))
    of = {size: size / (size + 1.96**2) for size in (3, 12)}
    assert ends["worstClassRecall"] == pytest.approx((of[3], 1), abs=1e-4)
    assert ends["worstSliceAccuracy"] == pytest.approx((of[12], 1), abs=1e-4)


def test_score_ends_of_macro_f1_are_those_of_accuracy_unless_a_class_is_small() -> None:
    equal, unequal = score_ends(flawless(20, 20, 20)), score_ends(flawless(50, 7, 3))
    assert equal["macroF1"] == pytest.approx(equal["accuracy"])
    assert unequal["worstClassRecall"][0] < unequal["macroF1"][0] < unequal["accuracy"][0]


@given(st.integers(0, 10_000), st.integers(10, 60), st.integers(2, 7), st.sampled_from([-9.0, 1.0, 9.0]))
def test_score_ends_hold_the_metric(seed: int, n: int, classes: int, strength: float) -> None:
    light = np.array(["day", "night"])[np.arange(n) % 2]
    given_ = predictions(seed, n, classes, strength, {"light": light})
    values = measure(given_)
    for name, (low, high) in score_ends(given_).items():
        assert low - 1e-9 <= values[name] <= high + 1e-9


@given(st.integers(0, 50), st.integers(0, 50))
def test_wilson_interval_holds_the_fraction_and_stays_a_fraction(successes: int, failures: int) -> None:
    trials = successes + failures
    low, high = wilson_interval(np.array([successes]), np.array([trials]))
    fraction = successes / trials if trials else 0.5
    assert 0 <= low[0] <= fraction + 1e-12
    assert fraction - 1e-12 <= high[0] <= 1


def test_confusion_matrix_has_labels_in_rows_and_predictions_in_columns() -> None:
    probabilities = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    matrix = confusion_matrix(Predictions(probabilities, np.array([0, 0, 1, 2])))
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_per_class_results_leave_out_what_is_undefined() -> None:
    matrix = np.array([[2, 1, 0], [0, 0, 0], [0, 0, 0]])
    seen, only_predicted, absent = per_class(matrix, ("seen", "only predicted", "absent"))
    assert (seen.support, seen.precision) == (3, 1.0)
    assert seen.recall == pytest.approx(2 / 3)
    assert (only_predicted.recall, only_predicted.precision, only_predicted.f1) == (None, 0.0, 0.0)
    assert (absent.recall, absent.precision, absent.f1) == (None, None, None)


def test_worst_slice_is_chosen_among_slices_with_enough_images() -> None:
    probabilities = np.eye(2, dtype=np.float32)[[0] * 30]
    labels = np.array([0] * 27 + [1] * 3)
    place = np.array(["park"] * 15 + ["street"] * 12 + ["cellar"] * 3)
    given_ = Predictions(probabilities, labels, {"place": place})
    assert measure(given_)["worstSliceAccuracy"] == 1.0
    found = per_slice(given_)
    assert [(one.value, one.judged) for one in found] == [("park", True), ("street", True), ("cellar", False)]
    assert found[2].accuracy == 0.0


def test_slices_without_a_value_are_no_slice() -> None:
    given_ = predictions(1, n=40, slices={"camera": np.array(["a"] * 20 + [""] * 20)})
    assert [(one.column, one.value) for one in per_slice(given_)] == [("camera", "a")]


def test_slices_of_a_column_with_very_many_values_are_bounded() -> None:
    values = np.array([f"v{i % 1_000}" for i in range(12_000)])
    given_ = predictions(1, n=12_000, slices={"id": values})
    assert len(per_slice(given_)) == MAX_SLICES
    assert "worstSliceAccuracy" in measure(given_)


def test_worst_slice_is_absent_without_slices() -> None:
    assert "worstSliceAccuracy" not in measure(predictions(1))


def test_metrics_without_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no predictions"):
        Predictions(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))
