"""What the report makes of the facts: rankings, savings, confusions and remarks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.report_samples import failed_run, good_run

from tunesmith_trainer.publish.report import commands, summary, tables
from tunesmith_trainer.publish.report.data import (
    ClassResult,
    CorruptionResult,
    QualityFacts,
    SearchFacts,
    TrialRow,
    TrialState,
)

MATRICES = st.integers(2, 6).flatmap(
    lambda k: st.lists(st.lists(st.integers(0, 9), min_size=k, max_size=k), min_size=k, max_size=k)
)


def trial(id: str, accuracy: float | None = None, loss: float | None = None, **fields: object) -> TrialRow:
    metrics = (("accuracy", accuracy), ("negativeLogLikelihood", loss))
    known = tuple((name, value) for name, value in metrics if value is not None)
    return replace(TrialRow(id, "LinearProbe", "resnet50", (), "Succeeded", metrics=known), **fields)  # type: ignore[arg-type]


def tuned(state: TrialState, epochs: int, seconds: float | None = None) -> TrialRow:
    return TrialRow(
        "t", "FineTune", "resnet50", (), state, epochs=epochs, max_epochs=12, duration_seconds=seconds
    )


def test_ranked_trials_begin_with_the_best_and_ties_go_to_the_better_likelihood() -> None:
    trials = (
        trial("a", 0.9, 0.3),
        trial("b", 0.95, 0.2),
        trial("c", 0.95, 0.1),
        trial("d"),
        trial("e", float("nan")),
    )
    assert [each.id for each in summary.ranked(SearchFacts("TPE", "ASHA", trials=trials))] == ["c", "b", "a"]


def test_ranked_trials_of_a_loss_begin_with_the_lowest() -> None:
    trials = (trial("a", 0.9, 0.3), trial("b", 0.8, 0.2))
    facts = SearchFacts("TPE", "ASHA", objective="negativeLogLikelihood", maximize=False, trials=trials)
    assert [each.id for each in summary.ranked(facts)] == ["b", "a"]


def test_varied_parameters_count_one_that_is_not_always_set() -> None:
    trials = (
        trial("a", parameters=(("epochs", 3), ("batchSize", 32))),
        trial("b", parameters=(("batchSize", 32),)),
    )
    assert summary.varied_parameters(trials) == ("epochs",)


def test_early_stopping_saves_the_epochs_that_stopped_trials_did_not_run() -> None:
    trials = (
        tuned("Succeeded", 12, 400),
        tuned("Stopped", 2, 60),
        tuned("Stopped", 4, 100),
        tuned("Failed", 1, 9),
    )
    saving = summary.early_stopping_saving((*trials, trial("probe", 0.9)))
    assert (saving.tuned, saving.stopped, saving.budget, saving.ran, saving.saved) == (4, 2, 48, 19, 18)
    assert saving.seconds == pytest.approx(10 * 30 + 8 * 25)


def test_last_training_on_all_images_is_neither_a_trial_nor_a_fine_tune_that_could_be_stopped() -> None:
    trials = (tuned("Succeeded", 12), tuned("Stopped", 2), replace(tuned("Succeeded", 12), id="refit"))
    saving = summary.early_stopping_saving(trials)
    assert (saving.tuned, saving.stopped, saving.budget, saving.ran) == (2, 1, 24, 14)
    assert summary.proposed(trials) == trials[:2]


def test_early_stopping_saved_no_epochs_that_the_end_of_the_search_left_out() -> None:
    trials = (tuned("Succeeded", 12), replace(tuned("Stopped", 4, 100), reason="BudgetSpent"))
    saving = summary.early_stopping_saving(trials)
    assert (saving.tuned, saving.stopped, saving.budget, saving.saved, saving.seconds) == (2, 0, 16, 0, 0)


def test_early_stopping_with_unknown_durations_saves_epochs_and_says_no_seconds() -> None:
    assert summary.early_stopping_saving((tuned("Stopped", 2),)).seconds == 0


@given(MATRICES)
def test_confused_pairs_hold_every_mistake_once_and_the_most_frequent_first(matrix: list[list[int]]) -> None:
    names = [str(index) for index in range(len(matrix))]
    pairs = summary.confused_pairs(names, matrix)
    mistakes = sum(map(sum, matrix)) - sum(matrix[index][index] for index in range(len(matrix)))
    assert sum(pair.images for pair in pairs) == mistakes
    assert [pair.images for pair in pairs] == sorted((pair.images for pair in pairs), reverse=True)
    assert all(pair.given != pair.predicted for pair in pairs)


def test_most_confused_classes_are_kept_in_their_own_order() -> None:
    matrix = ((9, 0, 0, 1), (0, 9, 0, 0), (0, 0, 9, 0), (4, 0, 0, 9))
    assert summary.most_confused(matrix, 2) == (0, 3)


def test_lede_without_an_accuracy_says_that_it_was_not_measured() -> None:
    assert "not measured" in summary.lede(replace(good_run(), quality=QualityFacts()))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(
            {"per_class": (ClassResult("iris", 20, 1.0, 0.85, 0.9), ClassResult("pansy", 20, 1.0, 1.0, 1.0))},
            "Weakest class: iris, 17 of 20 test photos right (85.0\u202f%).",
            id="a weak class is named with its counts",
        ),
        pytest.param(
            {"clean_accuracy": 0.95, "corruptions": (CorruptionResult("GaussianNoise", 5, 0.7),)},
            "Most sensitive to Gaussian noise: severity 5 costs 25 points of accuracy.",
            id="a costly corruption is named with its cost",
        ),
        pytest.param({"images": 36}, "There are only 36 test photos", id="a small test split is a warning"),
    ],
)
def test_worth_knowing_names_what_stands_out(change: dict[str, object], expected: str) -> None:
    data = good_run()
    quality = replace(data.quality, **change)  # type: ignore[arg-type]
    remarks = summary.worth_knowing(replace(data, quality=quality))
    assert any(remark.sentence.startswith(expected) for remark in remarks)


def test_worth_knowing_of_a_flawless_run_is_empty() -> None:
    data = good_run()
    flawless = replace(
        data,
        dataset=replace(data.dataset, findings=()),
        search=SearchFacts("TPE", "ASHA"),
        quality=QualityFacts(images=500, per_class=(ClassResult("iris", 500, 1.0, 1.0, 1.0),)),
        suspects=(),
    )
    assert summary.worth_knowing(flawless) == ()


def test_trial_table_leaves_out_metrics_that_no_trial_has_and_keeps_failed_trials_last() -> None:
    table = tables.trial_table(failed_run().search, "t0000", 500)
    assert [column.label for column in table.columns][2:] == ["Accuracy", "State", "Epochs", "Time"]
    assert [(row.key, row.chosen) for row in table.rows] == [("t0000", True), ("t0001", False)]


def test_trial_table_of_a_great_many_trials_is_cut_and_says_by_how_many() -> None:
    trials = tuple(trial(f"t{index}", 0.9) for index in range(57))
    table = tables.trial_table(SearchFacts("Random", "None", trials=trials), "t0", 50)
    assert (len(table.rows), table.left_out) == (50, 7)


def test_corruption_table_says_what_each_cell_lost_and_leaves_gaps_where_nothing_was_measured() -> None:
    results = (
        CorruptionResult("Blur", 1, 0.93),
        CorruptionResult("Blur", 5, 0.6),
        CorruptionResult("JPEG", 5, 0.96),
    )
    table = tables.corruption_table(results, 0.95)
    cells = [[(cell.text.replace("\u202f", ""), cell.note) for cell in row.cells] for row in table.rows]
    assert cells[0] == [("Blur", ""), ("93.0%", "−2.0"), ("60.0%", "−35.0")]
    assert cells[1] == [("JPEG", ""), ("–", ""), ("96.0%", "+1.0")]


def test_predict_command_quotes_a_store_that_the_shell_would_read_differently() -> None:
    data = replace(good_run(), store_uri="file:///my store/$(reboot)")
    assert commands.predict_command(data).startswith("tunesmith predict 'file:///my store/$(reboot)/'")


def test_deployment_of_a_job_with_a_long_name_has_a_name_that_the_api_takes() -> None:
    data = replace(good_run(), name="a" * 39 + "-b")
    assert f"name: {'a' * 39}\n" in commands.deployment_yaml(data)
