import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith_trainer.verify.corruptions import (
    KINDS,
    SEVERITIES,
    corrupt,
    corruption_accuracy,
    corruption_interval,
    per_corruption,
    plan_corruptions,
    resample_corruption_accuracy,
    strength,
)


def photo(size: int = 64, seed: int = 0) -> npt.NDArray[np.uint8]:
    """A smooth scene with an edge and some texture, uint8 [size, size, 3]."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    scene = np.stack([x, y, 0.5 + 0.3 * np.sin(9 * (x + y))], axis=2)
    scene[size // 3 : size // 2, size // 4 :] *= 0.4
    return (255 * np.clip(scene + 0.03 * generator.standard_normal(scene.shape), 0, 1)).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_corruption_of_higher_severity_changes_the_image_more(kind: str) -> None:
    image = photo()[np.newaxis]
    changes = [
        np.abs(corrupt(image, kind, severity, [0]).astype(int) - image).mean() for severity in SEVERITIES
    ]
    assert changes == sorted(changes)
    assert changes[0] > 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_corruption_does_not_depend_on_the_batch_around_an_image(kind: str) -> None:
    images = np.stack([photo(seed=seed) for seed in range(3)])
    together = corrupt(images, kind, 3, [11, 12, 13])
    alone = corrupt(images[1:2], kind, 3, [12])
    assert together.dtype == np.uint8
    assert np.array_equal(together[1], alone[0])
    assert images.base is None or np.array_equal(images[1], photo(seed=1))


def test_noise_of_two_images_with_different_seeds_differs() -> None:
    images = np.stack([photo(), photo()])
    noisy = corrupt(images, "GaussianNoise", 3, [1, 2]).astype(int)
    assert not np.array_equal(noisy[0], noisy[1])


def test_noise_has_the_stated_standard_deviation() -> None:
    grey = np.full((1, 224, 224, 3), 128, np.uint8)
    noisy = corrupt(grey, "GaussianNoise", 1, [0]).astype(float)
    assert noisy.std() / 255 == pytest.approx(0.08, rel=0.02)


def test_brightness_raises_the_value_and_keeps_the_hue() -> None:
    image = np.array([[[100, 50, 0], [0, 0, 0]]], np.uint8)[np.newaxis]
    image = np.broadcast_to(image, (1, 224, 2, 3))
    red, green, blue = corrupt(np.ascontiguousarray(image), "Brightness", 1, [0])[0, 0, 0].tolist()
    assert red == pytest.approx(100 + 25.5, abs=1)
    assert green == pytest.approx(red / 2, abs=1)
    assert blue == 0
    assert corrupt(np.ascontiguousarray(image), "Brightness", 1, [0])[0, 0, 1].tolist() == [26, 26, 26]


def test_contrast_keeps_each_channels_mean() -> None:
    image = photo()[np.newaxis]
    flat = corrupt(image, "Contrast", 3, [0])
    assert flat.mean(axis=(1, 2)) == pytest.approx(image.mean(axis=(1, 2)), abs=0.5)
    assert flat.std() < image.std()


@pytest.mark.parametrize(
    ("kind", "severity", "size", "expected"),
    [
        ("GaussianNoise", 5, 224, 0.38),
        ("GaussianNoise", 5, 32, 0.10),
        ("Blur", 5, 224, 6.0),
        ("Blur", 5, 448, 12.0),
        ("JPEG", 1, 224, 25.0),
        ("JPEG", 1, 32, 80.0),
        ("JPEG", 1, 1024, 25.0),
        ("Contrast", 1, 28, 0.75),
    ],
    ids=[
        "noise as in ImageNet-C",
        "noise as in CIFAR-10-C",
        "blur as in ImageNet-C",
        "blur grows with the image",
        "quality as in ImageNet-C",
        "quality as in CIFAR-10-C",
        "quality beyond 224 pixels stays",
        "below 32 pixels the smallest table counts",
    ],
)
def test_strength_at_published_sizes_is_the_published_number(
    kind: str, severity: int, size: int, expected: float
) -> None:
    assert strength(kind, severity, size) == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "severity"), [("Fog", 1), ("Blur", 0), ("Blur", 6)])
def test_strength_of_what_does_not_exist_is_refused(kind: str, severity: int) -> None:
    with pytest.raises(ValueError, match="no corruption"):
        strength(kind, severity, 224)


@settings(max_examples=50)
@given(
    st.integers(1, 120),
    st.integers(1, 12),
    st.lists(st.sampled_from(KINDS), min_size=1, unique=True),
    st.lists(st.sampled_from(SEVERITIES), min_size=1, unique=True),
    st.integers(1, 200),
    st.integers(0, 100),
)
def test_plan_uses_each_image_evenly_and_keeps_its_bound(
    n: int, classes: int, kinds: list[str], severities: list[int], most: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(classes, size=n)
    plan = plan_corruptions(labels, kinds, severities, most, seed)
    per_kind = min(most, n * len(severities))
    assert len(plan.position) == per_kind * len(kinds)
    assert plan.images == min(n, most)
    pairs = set(zip(plan.position.tolist(), plan.cell.tolist(), strict=True))
    assert len(pairs) == len(plan.position)
    counts = np.bincount(plan.cell, minlength=len(plan.cells))
    assert (np.diff(plan.cell) >= 0).all()
    if per_kind % len(severities) == 0 and n % len(severities) == 0:
        assert counts.max() == counts.min()


def test_plan_that_sees_part_of_the_images_has_the_classes_in_proportion() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    plan = plan_corruptions(labels, ["Blur"], [1], 100, seed=0)
    assert np.bincount(labels[plan.position]).tolist() == pytest.approx([60, 30, 10], abs=2)


def test_plan_gives_no_severity_to_a_class_alone() -> None:
    labels = np.repeat(np.arange(12), 20)
    plan = plan_corruptions(labels, KINDS, (1, 3, 5), 200, seed=0)
    first = labels[plan.position[plan.cell == 0]]
    assert len(np.unique(first)) == 12


def test_corruption_accuracy_is_the_mean_over_kinds_and_severities() -> None:
    plan = plan_corruptions(np.zeros(30, np.int64), ["Blur", "JPEG"], [1, 5], 1_000, seed=0)
    correct = plan.cell == 0
    assert corruption_accuracy(plan, correct) == pytest.approx(0.25)
    assert [one.accuracy for one in per_corruption(plan, correct, 224)] == [1.0, 0.0, 0.0, 0.0]


def test_corruption_interval_draws_all_corruptions_of_an_image_together() -> None:
    labels = np.zeros(200, np.int64)
    plan = plan_corruptions(labels, KINDS, SEVERITIES, 100_000, seed=0)
    # An image is right under all 25 corruptions or under none, so there are 200 independent facts, not 5,000.
    right = np.random.default_rng(1).random(200) < 0.8
    found = corruption_interval(plan, right[plan.position], 500, seed=0)
    half = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 200)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.2)
    assert found.value == pytest.approx(right.mean())


def test_corruption_resamples_of_one_image_are_its_own_accuracy() -> None:
    plan = plan_corruptions(np.zeros(1, np.int64), ["Blur"], [1, 5], 10, seed=0)
    assert resample_corruption_accuracy(plan, np.array([True, False]), 5, 0).tolist() == [0.5] * 5
