"""The report's charts: drawn where the numbers say, whatever the names are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from tests.report_samples import HOSTILE_NAMES, failed_run, good_run, hundred_classes

from tunesmith_trainer.publish.report import svg
from tunesmith_trainer.publish.report.charts import dataset, glyphs, parallel, quality, search
from tunesmith_trainer.publish.report.data import (
    ClassCount,
    CurvePoint,
    Estimate,
    ReliabilityBin,
    SearchFacts,
    TrialRow,
    TrialState,
)
from tunesmith_trainer.publish.report.figures import Charts, curve_ranges, draw

FINITE = st.floats(-1e6, 1e6)
ACCURACIES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def parsed(drawing: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(str(drawing))


def of_class(drawing: Markup, name: str) -> list[ElementTree.Element]:
    return [each for each in parsed(drawing).iter() if name in each.get("class", "").split()]


def drawings(charts: Charts) -> Iterator[Markup]:
    for value in vars(charts).values():
        for each in value if isinstance(value, tuple) else (value,):
            yield from (part for part in (each if isinstance(each, tuple) else (each,)) if "<svg" in part)


def probe(index: int, accuracy: float | None, **parameters: float | str) -> TrialRow:
    metrics = (("accuracy", accuracy),) if accuracy is not None else ()
    state: TrialState = "Succeeded" if metrics else "Failed"
    return TrialRow(
        f"t{index:04d}", "LinearProbe", "mobilenet_v2", tuple(parameters.items()), state, metrics=metrics
    )


@pytest.mark.parametrize("run", [good_run, failed_run, hundred_classes], ids=lambda run: run.__name__)
def test_every_chart_of_a_run_is_well_formed_and_says_what_it_shows(run: object) -> None:
    assert callable(run)
    shown = list(drawings(draw(run())))
    assert shown
    for drawing in shown:
        root = parsed(drawing)
        assert root.get("role") == "img"
        assert len(root.get("aria-label", "")) > 10


@pytest.mark.parametrize("run", [good_run, failed_run], ids=lambda run: run.__name__)
def test_no_chart_holds_a_colour_or_a_style_of_its_own(run: object) -> None:
    assert callable(run)
    for drawing in drawings(draw(run())):
        assert not re.search(r'style=|(fill|stroke)="|#[0-9a-f]{3,6}\b', drawing)


@given(st.text(), st.text())
def test_element_with_any_text_and_attribute_is_well_formed_and_means_just_that(body: str, name: str) -> None:
    root = parsed(svg.element("g", svg.element("title", body), data_trial=name))
    assert [each.tag for each in root.iter()] == ["g", "title"]
    assert set(root.attrib) == {"data-trial"}


@given(FINITE, FINITE, st.integers(2, 9))
def test_ticks_of_a_linear_scale_lie_on_it_and_are_no_more_than_asked(
    one: float, other: float, most: int
) -> None:
    low, high = sorted((one, other))
    scale = svg.Scale(low, high, 0, 100)
    ticks = scale.ticks(most)
    slack = 1e-6 * max(abs(low), abs(high), 1)
    assert len(ticks) <= most
    assert all(low - slack <= tick <= high + slack for tick in ticks)


@given(st.floats(1e-6, 1e3), st.floats(2, 1e6), st.floats(0, 1), st.floats(0, 1))
def test_a_logarithmic_scale_keeps_order_and_stays_between_its_ends(
    low: float, ratio: float, one: float, other: float
) -> None:
    scale = svg.Scale(low, low * ratio, 0, 100, log=True)
    near, far = sorted((one, other))
    places = [scale(low * ratio**at) for at in (near, far)]
    assert -1e-6 <= places[0] <= places[1] + 1e-6 <= 100 + 1e-5


def test_a_scale_with_one_value_puts_it_in_the_middle() -> None:
    assert svg.Scale(3, 3, 10, 20)(3) == 15


@given(st.lists(st.integers(0, 5000), min_size=3, max_size=3).filter(any))
def test_split_bar_is_cut_in_proportion(counts: list[int]) -> None:
    splits = tuple(zip(("train", "validation", "test"), counts, strict=True))
    bars = [each for each in parsed(dataset.split_bar(splits, 300)).iter() if each.get("height") == "26"]
    widths = [float(each.get("width", "nan")) for each in bars]
    for width, images in zip(widths, counts, strict=True):
        assert width == pytest.approx(max(images / sum(counts) * 300 - 2, 0), abs=0.06)


def test_class_counts_of_few_classes_name_each_and_say_its_number() -> None:
    drawing = dataset.class_counts((ClassCount("ant", 3, 1, 1), ClassCount("<bee>", 5, 0, 2)), 350)
    said = {each.text for each in parsed(drawing).iter() if each.tag == "text"}
    assert said == {"ant", "<bee>", "5", "7"}


def test_class_counts_of_many_classes_are_a_skyline_from_the_largest_down() -> None:
    classes = tuple(ClassCount(f"c{index}", 10 + index, 0, 0) for index in range(60))
    columns = [each for each in parsed(dataset.class_counts(classes, 350)).iter() if each.tag == "g"]
    heights = [float(column[1].get("height", "nan")) for column in columns]
    assert len(heights) == 60
    assert heights == sorted(heights, reverse=True)


@given(ACCURACIES)
def test_progress_line_of_an_accuracy_only_ever_rises(accuracies: list[float]) -> None:
    trials = tuple(probe(index, value) for index, value in enumerate(accuracies))
    drawing = search.progress(SearchFacts("Random", "None", trials=trials), "accuracy", 400)
    (line,) = of_class(drawing, "best-line")
    heights = [float(pair.split()[1]) for pair in line.get("d", "")[1:].split("L")]
    assert all(after <= before for before, after in pairwise(heights))
    assert len(of_class(drawing, "probe")) == len(accuracies)


def test_progress_of_a_failed_trial_is_a_cross_with_its_reason() -> None:
    trials = (probe(0, 0.9), probe(1, None))
    drawing = search.progress(SearchFacts("Random", "None", trials=trials), "accuracy", 400)
    (cross,) = of_class(drawing, "failed")
    assert cross.get("data-trial") == "t0001"


def test_progress_with_one_hopeless_trial_still_tells_the_good_ones_apart() -> None:
    trials = tuple(probe(index, value) for index, value in enumerate((0.95, 0.96, 0.97, 0.955, 0.02)))
    drawing = search.progress(SearchFacts("Random", "None", trials=trials), "accuracy", 400)
    heights = [float(each.get("cy", "nan")) for each in of_class(drawing, "probe")]
    assert heights[0] - heights[2] > 40  # pixels between 95 % and 97 %


def test_progress_of_a_trial_beyond_the_scale_is_an_arrow_that_points_there() -> None:
    losses = (0.2, 0.21, 0.22, 0.19, 0.7)
    trials = tuple(
        replace(probe(index, 0.9), metrics=(("negativeLogLikelihood", loss),))
        for index, loss in enumerate(losses)
    )
    facts = SearchFacts("Random", "None", trials=trials)
    drawing = search.progress(facts, "negativeLogLikelihood", 400)
    (arrow,) = of_class(drawing, "beyond")
    assert arrow.get("data-trial") == "t0004"
    assert "h10L" in arrow.get("d", "")
    base, tip = re.findall(r"[ML][-\d.]+ ([-\d.]+)", arrow.get("d", ""))
    assert float(tip) < float(base)  # upwards: the loss is larger
    assert "0.700, beyond the scale" in (arrow[0].text or "")
    assert search.beyond_scale(facts, "negativeLogLikelihood")


def test_progress_of_trials_within_the_scale_has_no_arrow() -> None:
    facts = SearchFacts("Random", "None", trials=tuple(probe(i, 0.9 + 0.01 * i) for i in range(5)))
    assert not search.beyond_scale(facts, "accuracy")
    assert not of_class(search.progress(facts, "accuracy", 400), "beyond")


def test_progress_line_begins_anew_with_each_strategy() -> None:
    tunes = tuple(replace(probe(i, 0.9 + 0.01 * i), strategy="FineTune") for i in (3, 4))
    facts = SearchFacts("Random", "None", trials=(probe(1, 0.97), probe(2, 0.95), *tunes))
    lines = of_class(search.progress(facts, "accuracy", 400), "best-line")
    assert [len(line.get("d", "").split("L")) for line in lines] == [2, 4]


@pytest.mark.parametrize(
    ("points", "ends"),
    [
        pytest.param(
            (CurvePoint(1, 0.5, 0.4, 0.9), CurvePoint(2, 0.4, 0.3, 0.92)), 3, id="three whole curves"
        ),
        pytest.param((CurvePoint(1, 0.5, 0.4, 0.9),), 3, id="one epoch is three dots"),
        pytest.param((CurvePoint(1, None, math.nan, 0.9),), 1, id="unknown values are left out"),
        pytest.param((CurvePoint(1),), 0, id="nothing known draws nothing"),
    ],
)
def test_learning_curve_draws_what_is_known(points: tuple[CurvePoint, ...], ends: int) -> None:
    trial = TrialRow(
        "t1", "FineTune", "resnet50", (), "Stopped", curve=points, epochs=len(points), max_epochs=9
    )
    drawing = search.learning_curve(trial, accuracies=(0.8, 1), losses=(0, 1))
    assert len(of_class(drawing, "end")) == ends
    assert not of_class(drawing, "ideal")


def test_losses_above_the_range_of_the_learning_curves_are_noticed() -> None:
    points = tuple(CurvePoint(epoch, 0.5, 0.4, 0.9) for epoch in range(1, 9))
    tame = TrialRow("t1", "FineTune", "resnet50", (), "Succeeded", curve=points)
    wild = replace(tame, id="t2", curve=(*points, CurvePoint(9, 50.0, 0.4, 0.9)))
    assert not search.beyond_losses((tame,), curve_ranges((tame,))[1][1])
    assert search.beyond_losses((tame, wild), curve_ranges((tame, wild))[1][1])


def test_epochs_granted_fill_their_share_of_the_bar() -> None:
    trial = TrialRow("t1", "FineTune", "resnet50", (), "Stopped", epochs=3, max_epochs=12)
    drawing = search.epochs_granted((trial,), 400)
    (room,), (fill,) = of_class(drawing, "bar-room"), of_class(drawing, "bar-fill")
    assert float(fill.get("width", "nan")) == pytest.approx(float(room.get("width", "nan")) / 4, abs=0.1)


def test_parameter_axis_of_wide_positive_numbers_is_logarithmic() -> None:
    axis = parallel.parameter_axis("learningRate", (1e-5, 1e-3, 1e-1))
    assert axis.places == pytest.approx((0, 0.5, 1))


def test_parameter_axis_of_words_gives_each_its_place_and_a_missing_one_none() -> None:
    axis = parallel.parameter_axis("augmentation", ("Flip", None, "None", "Flip"))
    assert axis.places == (0.25, None, 0.75, 0.25)
    assert axis.ticks == ((0.25, "Flip"), (0.75, "None"))


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_parameter_axis_of_numbers_keeps_their_order(values: list[float]) -> None:
    places = parallel.parameter_axis("x", values).places
    pairs = sorted(zip(values, places, strict=True))
    assert all(place is not None and -1e-9 <= place <= 1 + 1e-9 for place in places)
    assert all((one[1] or 0) <= (other[1] or 0) + 1e-9 for one, other in pairwise(pairs))


@pytest.mark.parametrize("upright", [False, True], ids=["side by side", "one below the other"])
def test_parallel_coordinates_draw_each_trial_through_every_axis_and_the_best_on_top(upright: bool) -> None:
    trials = (probe(2, 0.97, learningRate=0.1), probe(0, 0.9, learningRate=0.01), probe(1, 0.8))
    drawing = parallel.parallel_coordinates(
        trials, ("learningRate",), ("accuracy",), best="t0002", width=348, upright=upright
    )
    lines = of_class(drawing, "trial")
    assert [line.get("data-trial") for line in lines] == ["t0001", "t0000", "t0002"]
    assert {len(line.get("d", "").split("L")) for line in lines} == {2}
    assert "best" in lines[-1].get("class", "")


def test_confusion_matrix_of_two_classes_says_every_count_and_every_tooltip_names_both() -> None:
    drawing = quality.confusion_matrix(HOSTILE_NAMES, ((11, 7), (4, 14)))
    assert [each.text for each in of_class(drawing, "on")] == ["11", "7", "4", "14"]
    tips = [each.text or "" for each in parsed(drawing).iter() if each.tag == "title"]
    assert tips[1].startswith("<script>alert('class')</script> predicted as ants")


def test_confusion_matrix_of_a_hundred_classes_fits_a_desktop_page_and_shows_single_mistakes() -> None:
    names = [f"class {index}" for index in range(100)]
    confusion = [
        [20 * (given == other) + (given == 3 and other == 7) for other in range(100)] for given in range(100)
    ]
    drawing = quality.confusion_matrix(names, confusion)
    assert float(parsed(drawing).get("width", "inf")) <= 968
    (mistake,) = [
        each for each in parsed(drawing).iter("rect") if re.fullmatch(r"w[1-6]", each.get("class", ""))
    ]
    assert mistake.get("class", "") >= "w3"


@given(st.floats(0, 1), st.integers(1, 10_000))
def test_reliability_of_a_calibrated_bin_lies_on_the_diagonal(confidence: float, images: int) -> None:
    each = ReliabilityBin(0, 1, images, confidence, confidence)
    (gap,) = of_class(quality.reliability((each,)), "gap")
    assert gap.get("y1") == gap.get("y2")


def test_reliability_without_images_draws_no_dot() -> None:
    assert not of_class(quality.reliability((ReliabilityBin(0, 0.1, 0, None, None),)), "dot")


def test_interval_glyph_puts_the_bound_where_it_belongs() -> None:
    drawing = glyphs.interval(Estimate("accuracy", 0.95, 0.93, 0.97), bound=0.9)
    (bound,), (dot,) = of_class(drawing, "bound"), of_class(drawing, "dot")
    assert float(bound.get("x1", "nan")) < float(dot.get("cx", "nan"))


def test_interval_glyph_without_an_interval_is_nothing() -> None:
    assert glyphs.interval(Estimate("accuracy", 0.95)) == ""


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_bar_of_any_number_stays_within_its_room(fraction: float) -> None:
    drawing = glyphs.bar(fraction)
    if math.isfinite(fraction):
        (fill,) = of_class(drawing, "bar-fill")
        assert 0 <= float(fill.get("width", "nan")) <= 70
    else:
        assert drawing == ""
