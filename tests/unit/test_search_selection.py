"""Which model leaves the search."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_trainer.search.judgement import Judgement, judge
from tunesmith_trainer.search.selection import (
    Choice,
    Contender,
    choose,
    fold_count,
    stratified_folds,
)


def judgement(losses: list[float], correct: list[bool] | None = None) -> Judgement:
    right = [loss < 0.7 for loss in losses] if correct is None else correct
    return Judgement(np.array(losses, np.float32), np.array(right))


STEADY = [0.30, 0.32, 0.28, 0.31, 0.29, 0.33, 0.27, 0.30]


@pytest.mark.parametrize(
    ("contenders", "expected"),
    [
        pytest.param([], None, id="no fine-tuning: the probe"),
        pytest.param([[loss - 0.1 for loss in STEADY]], "t0", id="better on every image: the fine-tuned one"),
        pytest.param([[0.0] + [0.31] * 7], None, id="better on average by one lucky image: the probe"),
        pytest.param([[loss + 0.1 for loss in STEADY]], None, id="worse: the probe"),
        pytest.param([[0.01] * 7 + [0.8]], None, id="likelier but less accurate: the probe"),
        pytest.param([[0.2] * 8, [0.1] * 8], "t1", id="two that win: the likelier"),
        pytest.param([STEADY], None, id="a tie: the probe"),
    ],
)
def test_choose_keeps_the_simpler_unless_beaten_beyond_noise(
    contenders: list[list[float]], expected: str | None
) -> None:
    options = [Contender(f"t{i}", 1.0, judgement(losses)) for i, losses in enumerate(contenders)]
    choice = choose(judgement(STEADY), options)
    assert (choice.contender.trial_id if choice.contender else None) == expected
    assert choice.sentence.endswith(".")


def test_choose_without_validation_images_keeps_the_probe() -> None:
    assert choose(judgement([]), [Contender("t0", 1.0, judgement([]))]).contender is None


def test_judge_known_logits_gives_their_likelihood() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32))
    result = judge(logits, np.array([0, 0]))
    np.testing.assert_allclose(result.losses, -np.log([0.7, 0.1]), rtol=1e-5)
    assert result.correct.tolist() == [True, False]


def test_judge_rows_that_are_not_numbers_count_as_a_uniform_guess() -> None:
    assert judge(np.full((1, 4), np.nan, np.float32), np.array([2])).loss == pytest.approx(np.log(4))


def contender(trial_id: str, losses: list[float]) -> Contender:
    return Contender(trial_id, 1.0, Judgement(np.array(losses, np.float32), np.ones(len(losses), bool)))


PROBE = Judgement(np.full(8, 0.9, np.float32), np.ones(8, bool))
EVEN = [0.2] * 8
UNEVEN = [0.0, 0.3] * 4
"""On average a twentieth of a nat better than EVEN, which is within one standard error."""


def test_of_two_that_tie_the_recommended_one_is_chosen() -> None:
    both = [contender("found", UNEVEN), contender("known", EVEN)]
    assert chosen(choose(PROBE, both)) == "found"
    assert chosen(choose(PROBE, both, ["known"])) == "known"


def test_recommended_one_gives_way_to_a_better_one_and_to_the_first_recommended() -> None:
    better = [contender("found", [0.1] * 8), contender("known", EVEN)]
    assert chosen(choose(PROBE, better, ["known"])) == "found"
    alike = [contender("second", EVEN), contender("first", EVEN)]
    assert chosen(choose(PROBE, alike, ["ended early", "first", "second"])) == "first"


def test_recommended_one_that_does_not_beat_the_probe_is_not_chosen() -> None:
    noisy = contender("known", [0.0] * 7 + [7.2])
    good = contender("found", UNEVEN)
    assert chosen(choose(PROBE, [noisy, good], ["known"])) == "found"


def chosen(choice: Choice) -> str:
    assert choice.contender is not None
    return choice.contender.trial_id


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=80),
    count=st.integers(2, 5),
    seed=st.integers(0, 99),
    twins=st.integers(0, 10),
)
def test_folds_spread_each_class_evenly_and_keep_twins_together(
    labels: list[int], count: int, seed: int, twins: int
) -> None:
    classes = np.array(labels)
    groups = np.arange(len(labels))
    for i in range(1, min(twins, len(labels))):
        if classes[i] == classes[0]:
            groups[i] = groups[0]
    folds = stratified_folds(classes, groups, count, seed)
    assert len(set(folds[groups == groups[0]].tolist())) == 1
    _, first = np.unique(groups, return_index=True)
    for label in np.unique(classes[first]):
        sizes = np.bincount(folds[first][classes[first] == label], minlength=count)
        assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(folds, stratified_folds(classes, groups, count, seed))


def test_fold_count_small_sets_are_cross_validated_and_large_ones_are_not() -> None:
    assert (fold_count(245), fold_count(10_000), fold_count(100_000)) == (5, 3, 0)


def of_two_classes(right: tuple[int, int], probability: float = 0.9, others: bool = False) -> Judgement:
    """So many right of each class's 40 images, the first or the others, all with the same confidence."""
    count = 40
    labels = np.repeat([0, 1], count)
    hits = np.concatenate([np.arange(count) < number for number in right])
    hits = hits.reshape(2, count)[:, ::-1].ravel() if others else hits
    predicted = np.where(hits, labels, 1 - labels)
    said = np.full((2 * count, 2), 1 - probability, np.float32)
    said[np.arange(2 * count), predicted] = probability
    return judge(np.log(said), labels)


@pytest.mark.parametrize("objective", ["macroF1", "worstClassRecall"])
def test_objective_that_leads_decides_where_likelihood_would_decide_otherwise(objective: str) -> None:
    even, likely = of_two_classes((37, 37), probability=0.6), of_two_classes((40, 30), probability=0.95)
    options = [Contender("likely", 1.0, likely), Contender("even", 1.0, even)]
    probe = of_two_classes((36, 20), probability=0.9)
    assert likely.loss < even.loss
    assert chosen(choose(probe, options)) == "likely"
    choice = choose(probe, options, objective=objective)
    assert chosen(choice) == "even"
    assert ("macro F1" if objective == "macroF1" else "worst-class recall") in choice.sentence


def test_probe_is_kept_where_the_gain_in_the_leading_objective_is_within_noise() -> None:
    probe = of_two_classes((36, 35), others=True)
    options = [Contender("t0", 1.0, of_two_classes((36, 36)))]
    assert choose(probe, options, objective="macroF1").contender is None
    assert (
        chosen(choose(probe, [Contender("t0", 1.0, of_two_classes((40, 40)))], objective="macroF1")) == "t0"
    )


def test_better_calibrated_network_must_be_no_less_accurate() -> None:
    honest = Contender("t0", 1.0, of_two_classes((36, 36), probability=0.9))
    less = Contender("t0", 1.0, of_two_classes((24, 24), probability=0.6))
    probe = of_two_classes((36, 36), probability=0.6)
    assert chosen(choose(probe, [honest], objective="calibrationError")) == "t0"
    assert choose(probe, [less], objective="calibrationError").contender is None


@pytest.mark.parametrize("objective", ["accuracy", "latencyP95Milliseconds", "negativeLogLikelihood"])
def test_likelihood_leads_under_all_other_objectives(objective: str) -> None:
    judged = of_two_classes((30, 35))
    assert judged.score(objective) == judged.loss
