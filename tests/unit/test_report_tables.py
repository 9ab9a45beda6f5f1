"""In which order the report has the trials, and which of them it draws."""

from dataclasses import replace

from tests.report_samples import good_run

from tunesmith_trainer.publish.report import ReportData, tables
from tunesmith_trainer.publish.report.data import CurvePoint, SearchFacts, TrialRow
from tunesmith_trainer.publish.report.figures import draw, drawn_trials, fine_tunes

LOSS = "negativeLogLikelihood"


def trial(id: str, strategy: str = "LinearProbe", **metrics: float) -> TrialRow:
    curve = (CurvePoint(1, 0.4, 0.3, 0.9),) if strategy == "FineTune" else ()
    return TrialRow(
        id,
        strategy,
        "resnet18",
        (("learningRate", 0.001 * len(id) + metrics.get(LOSS, 0)),),
        "Succeeded" if metrics else "Failed",
        metrics=tuple(metrics.items()),
        curve=curve,
    )


def run_of(*trials: TrialRow, chosen: str, objective: str = "macroF1") -> ReportData:
    data = good_run()
    search = SearchFacts("Random", "ASHA", objective=objective, trials=trials)
    return replace(data, search=search, model=replace(data.model, trial=chosen))


def order(data: ReportData) -> list[str]:
    return [each.id for each in tables.trials_in_order(data.search, data.model.trial)]


def test_trials_begin_with_the_chosen_one_and_strategies_do_not_mix() -> None:
    data = run_of(
        trial("probe", macroF1=0.96, negativeLogLikelihood=0.2),
        trial("best probe", macroF1=0.99, negativeLogLikelihood=0.1),
        trial("failed"),
        trial("tune", "FineTune", macroF1=0.93, negativeLogLikelihood=0.3),
        trial("best tune", "FineTune", macroF1=0.95, negativeLogLikelihood=0.2),
        chosen="tune",
    )
    assert order(data) == ["tune", "best tune", "best probe", "probe", "failed"]
    rows = tables.trial_table(data.search, "tune", 2).rows
    assert [(row.key, row.chosen) for row in rows] == [("tune", True), ("best tune", False)]
    assert [each.id for each in fine_tunes(data)] == ["tune", "best tune"]


def test_chosen_trial_without_the_objective_is_first_and_drawn_all_the_same() -> None:
    data = run_of(
        trial("probe", macroF1=0.96, negativeLogLikelihood=0.2),
        trial("tune", "FineTune", negativeLogLikelihood=0.1),
        trial("failed"),
        chosen="tune",
    )
    assert order(data) == ["tune", "probe", "failed"]
    assert [each.id for each in drawn_trials(data)] == ["tune", "probe"]
    charts = draw(data)
    for drawing in (charts.parallel_wide, charts.parallel_narrow):
        assert 'class="trial best" data-trial="tune"' in drawing
