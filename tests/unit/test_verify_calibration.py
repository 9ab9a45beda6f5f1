import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from tunesmith_trainer.verify.calibration import (
    BINS,
    calibrate_error,
    expected_calibration_error,
    fit_temperature,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def draw(n: int, scale: float, seed: int, classes: int = 5, separation: float = 2.0) -> tuple[Floats, Ints]:
    """Images whose true probabilities are softmax(separation * x); the logits are those times scale."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=n)
    x = generator.standard_normal((n, classes))
    x[np.arange(n), labels] += separation
    return separation * x * scale, labels


def nll(logits: Floats, labels: Ints) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0], ids=["too timid", "calibrated already", "too sure"])
def test_temperature_of_many_images_undoes_the_scale_of_the_logits(scale: float) -> None:
    logits, labels = draw(20_000, scale, seed=1)
    assert fit_temperature(logits, labels) == pytest.approx(scale, rel=0.05)


def test_temperature_of_few_images_without_errors_does_not_make_the_model_certain() -> None:
    logits, labels = draw(30, 1.0, seed=2, classes=2, separation=6.0)
    assert (logits.argmax(axis=1) == labels).all()
    confidence = softmax(logits / fit_temperature(logits, labels), axis=1).max(axis=1)
    assert 0.9 < confidence.mean() < 1 - 0.5 / 30


def test_temperature_of_few_images_beats_the_plain_optimum_on_new_images() -> None:
    gains = []
    for seed in range(40):
        logits, labels = draw(24, 2.0, seed)
        new_logits, new_labels = draw(2_000, 2.0, seed + 1_000)
        candidates = np.exp(np.linspace(np.log(0.05), np.log(20), 200))
        plain = min(candidates, key=lambda t: nll(logits / t, labels))
        fitted = fit_temperature(logits, labels)
        gains.append(nll(new_logits / plain, new_labels) - nll(new_logits / fitted, new_labels))
    assert np.mean(gains) > 0


def test_temperature_with_weights_is_the_one_of_the_images_that_count() -> None:
    sure, sure_labels = draw(4_000, 4.0, seed=3)
    timid, timid_labels = draw(4_000, 0.5, seed=4)
    logits, labels = np.concatenate([sure, timid]), np.concatenate([sure_labels, timid_labels])
    weights = np.r_[np.ones(4_000), np.zeros(4_000)]
    assert fit_temperature(logits, labels, weights) == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize(
    ("logits", "labels", "weights"),
    [
        (np.zeros((0, 3)), np.zeros(0), None),
        (np.zeros((4, 1)), np.zeros(4), None),
        (np.zeros((4, 3)), np.zeros(4), np.zeros(4)),
    ],
    ids=["no images", "one class", "no weight"],
)
def test_temperature_where_nothing_can_be_learnt_is_one(
    logits: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None
) -> None:
    assert fit_temperature(logits, labels, weights) == 1.0


def test_temperature_of_logits_that_are_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        fit_temperature([[np.nan, 0.0]], [0])


@given(
    st.integers(2, 6), st.integers(1, 40), st.floats(0.01, 100), st.integers(0, 1_000), st.floats(-500, 500)
)
def test_temperature_is_within_its_bounds_and_ignores_what_all_logits_share(
    classes: int, n: int, scale: float, seed: int, shift: float
) -> None:
    logits, labels = draw(n, scale, seed, classes=classes)
    fitted = fit_temperature(logits, labels)
    assert 0.05 <= fitted <= 20
    assert fit_temperature(logits + shift, labels) == pytest.approx(fitted, rel=1e-2)


def slow_calibration_error(probabilities: Floats, labels: Ints) -> float:
    """The formula as it is printed, bin by bin."""
    total = 0.0
    for m in range(BINS):
        members = [
            (max(row), float(np.argmax(row) == label))
            for row, label in zip(probabilities.tolist(), labels, strict=True)
            if m / BINS < max(row) <= (m + 1) / BINS
        ]
        if members:
            confidence, correct = np.mean(members, axis=0)
            total += len(members) / len(labels) * abs(correct - confidence)
    return total


@given(st.integers(2, 8), st.integers(1, 60), st.integers(0, 10_000))
def test_calibration_error_equals_the_published_formula(classes: int, n: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(classes, 0.5), size=n)
    labels = generator.integers(classes, size=n)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(
        slow_calibration_error(probabilities, labels), abs=1e-12
    )


def test_calibration_error_of_a_confident_model_that_is_always_wrong_is_its_confidence() -> None:
    probabilities = np.tile([0.9, 0.1], (10, 1))
    assert expected_calibration_error(probabilities, np.ones(10)) == pytest.approx(0.9)


def test_calibration_error_without_images_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        expected_calibration_error(np.zeros((0, 3)), np.zeros(0))


def calibrated(n: int, seed: int, gap: float = 0.0) -> tuple[Floats, Ints]:
    """Two classes; the confidence is right up to ``gap``."""
    generator = np.random.default_rng(seed)
    confidence = 0.5 + generator.beta(4, 1, size=n) / 2
    right = generator.random(n) < confidence - gap
    return np.stack([confidence, 1 - confidence], axis=1), np.where(right, 0, 1)


def test_calibration_of_a_calibrated_model_is_consistent_with_chance() -> None:
    found = [calibrate_error(*calibrated(240, seed), samples=200, seed=seed) for seed in range(40)]
    # Calibrated by construction: the error that remains is the bias of the estimate.
    assert np.mean([one.error.value for one in found]) == pytest.approx(
        np.mean([one.expected_if_calibrated for one in found]), rel=0.15
    )
    assert sum(one.error.value <= one.highest_if_calibrated for one in found) >= 34


def test_calibration_of_an_overconfident_model_is_not_consistent_with_chance() -> None:
    found = calibrate_error(*calibrated(1_000, seed=1, gap=0.15), samples=200, seed=0)
    assert found.error.value > found.highest_if_calibrated
    assert found.error.low <= 0.15 <= found.error.high


def test_calibration_interval_covers_a_known_error_far_more_often_than_the_percentile_interval() -> None:
    # README: at 240 images the percentile interval has the true error 0.03 in it less than half of the time.
    covered = [
        calibrate_error(*calibrated(240, seed, gap=0.03), samples=200, seed=0).error for seed in range(60)
    ]
    assert np.mean([one.low <= 0.03 <= one.high for one in covered]) >= 0.8


def test_reliability_bins_hold_every_image_once_and_repeat_the_error() -> None:
    probabilities, labels = calibrated(500, seed=5, gap=0.1)
    found = calibrate_error(probabilities, labels, samples=0)
    assert sum(one.count for one in found.bins) == 500
    gaps = [
        one.count * abs(one.accuracy - one.confidence)
        for one in found.bins
        if one.accuracy is not None and one.confidence is not None
    ]
    assert sum(gaps) / 500 == pytest.approx(found.error.value)
    assert (found.error.low, found.error.high) == (found.error.value, found.error.value)


def test_reliability_bins_without_images_have_no_accuracy() -> None:
    bins = calibrate_error([[0.95, 0.05]], [0], samples=10).bins
    assert [one.count for one in bins] == [0] * 14 + [1]
    assert bins[0].accuracy is None
    assert bins[14].accuracy == 1.0
