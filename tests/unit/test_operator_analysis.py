"""What is concluded from what predictors counted."""

import math
import random
from collections import Counter

import pytest

from tunesmith_api.model_deployment import Analysis
from tunesmith_operator.model_deployment.analysis import Counts, Window, judge, quantile, shift
from tunesmith_operator.model_deployment.predictors import grey_png, read_counts


def limit(metric: str, **fields: object) -> Analysis:
    return Analysis.model_validate({"metric": metric, **fields})


def window(canary: Counts, stable: Counts | None = None, *, complete: bool = True) -> Window:
    return Window(stable or Counts(), canary, complete)


def test_before_the_minimum_of_requests_nothing_is_said() -> None:
    said = judge(window(Counts({"500": 9.0})), [limit("errorRate", maximum=0.01)], 10)
    assert said.verdict == "Waiting"
    assert "9 of 10" in said.message


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [
        ({"200": 100.0}, "Passed"),
        ({"200": 99.0, "500": 1.0}, "Passed"),
        ({"200": 98.0, "503": 2.0}, "Broken"),
        ({"200": 98.0, "429": 2.0}, "Broken"),
        ({"200": 50.0, "400": 40.0, "499": 10.0}, "Passed"),
    ],
)
def test_errors_are_those_of_the_server(codes: dict[str, float], verdict: str) -> None:
    assert judge(window(Counts(codes)), [limit("errorRate", maximum=0.01)], 100).verdict == verdict


def test_a_quantile_lies_within_its_bucket() -> None:
    cumulative = {0.1: 50.0, 0.2: 90.0, 0.4: 100.0, math.inf: 100.0}
    assert quantile(cumulative, 0.5) == pytest.approx(0.1)
    assert quantile(cumulative, 0.7) == pytest.approx(0.15)
    assert quantile(cumulative, 0.95) == pytest.approx(0.3)
    assert quantile({0.1: 0.0, math.inf: 10.0}, 0.5) == 0.1, "beyond the last bound nothing is known"
    assert quantile({}, 0.5) is None
    assert quantile({0.1: 0.0, math.inf: 0.0}, 0.5) is None


def test_latency_is_compared_with_a_number_or_with_the_stable_revision() -> None:
    slow = Counts({"200": 100.0}, {0.1: 0.0, 0.2: 100.0, math.inf: 100.0})
    fast = Counts({"200": 100.0}, {0.1: 100.0, 0.2: 100.0, math.inf: 100.0})
    assert judge(window(slow), [limit("latencyP95Milliseconds", maximum=200)], 10).verdict == "Passed"
    assert judge(window(slow), [limit("latencyP95Milliseconds", maximum=150)], 10).verdict == "Broken"
    relative = limit("latencyP50Milliseconds", maximum=2, relativeTo="Stable")
    assert judge(window(slow, fast), [relative], 10).verdict == "Broken"
    assert judge(window(fast, fast), [relative], 10).verdict == "Passed"
    assert judge(window(fast), [relative], 10).verdict == "Waiting"


def test_shares_that_chance_explains_are_no_shift() -> None:
    """200 predictions each of 12 classes: the raw distance is some 0.13, what is left nearly nothing."""
    chance = random.Random(5)
    classes = [f"class-{number}" for number in range(12)]
    apart = [
        shift(Counter(chance.choices(classes, k=200)), Counter(chance.choices(classes, k=200)))
        for _ in range(200)
    ]
    assert sum(apart) / len(apart) < 0.02
    assert sorted(apart)[189] < 0.06


def test_other_shares_are_a_shift() -> None:
    assert shift({"a": 100.0}, {"b": 100.0}) == pytest.approx(1.0, abs=0.1)
    assert shift({"a": 900.0, "b": 100.0}, {"a": 500.0, "b": 500.0}) == pytest.approx(0.4, abs=0.03)
    said = judge(
        window(
            Counts({"200": 200.0}, predicted={"b": 200.0}), Counts({"200": 200.0}, predicted={"a": 200.0})
        ),
        [limit("predictionShift", maximum=0.2)],
        100,
    )
    assert said.verdict == "Broken"
    assert "predictionShift is" in said.message


def test_few_labels_reject_only_what_they_prove() -> None:
    lacking = judge(
        window(Counts({"200": 50.0}, labels=29.0, right=0.0)), [limit("feedbackAccuracy", minimum=0.9)], 10
    )
    assert lacking.verdict == "Waiting"
    unlucky = Counts({"200": 50.0}, labels=30.0, right=26.0)
    assert judge(window(unlucky), [limit("feedbackAccuracy", minimum=0.9)], 10).verdict == "Passed"
    bad = Counts({"200": 50.0}, labels=30.0, right=15.0)
    assert judge(window(bad), [limit("feedbackAccuracy", minimum=0.9)], 10).verdict == "Broken"


def test_a_predictor_that_is_silent_keeps_a_step_from_ending() -> None:
    counts = Counts({"200": 100.0})
    assert judge(window(counts, complete=False), [], 10).verdict == "Waiting"
    assert judge(window(counts), [], 10).verdict == "Passed"


def test_a_pod_that_began_anew_is_counted_from_nothing() -> None:
    before, now = Counts({"200": 100.0}), Counts({"200": 7.0})
    assert now.since(before).answered == 7
    assert Counts({"200": 110.0}).since(before).answered == 10


METRICS = """
# HELP tunesmith_requests_total Requests answered.
# TYPE tunesmith_requests_total counter
tunesmith_requests_total{model="f",digest="d",revision="r",protocol="v1",verb="predict",code="200"} 12.0
tunesmith_requests_total{model="f",digest="d",revision="r",protocol="v1",verb="explain",code="500"} 2.0
tunesmith_requests_total{model="f",digest="d",revision="r",protocol="http",verb="feedback",code="200"} 99.0
# TYPE tunesmith_request_seconds histogram
tunesmith_request_seconds_bucket{model="f",protocol="v1",verb="predict",le="0.1"} 10.0
tunesmith_request_seconds_bucket{model="f",protocol="v1",verb="predict",le="+Inf"} 12.0
tunesmith_request_seconds_bucket{model="f",protocol="v1",verb="explain",le="+Inf"} 2.0
# TYPE tunesmith_predicted_total counter
tunesmith_predicted_total{model="f",label="rose"} 9.0
tunesmith_predicted_total{model="f",label="tulip"} 3.0
# TYPE tunesmith_feedback_total counter
tunesmith_feedback_total{model="f",outcome="taken"} 8.0
tunesmith_feedback_total{model="f",outcome="unknownRequests"} 5.0
# TYPE tunesmith_feedback_accuracy gauge
tunesmith_feedback_accuracy{model="f"} 0.75
"""


def test_metrics_are_read_as_predictors_write_them() -> None:
    counts = read_counts(METRICS)
    assert counts.requests == {"200": 12.0, "500": 2.0}
    assert counts.seconds == {0.1: 10.0, math.inf: 12.0}
    assert counts.predicted == {"rose": 9.0, "tulip": 3.0}
    assert (counts.labels, counts.right) == (8.0, 6.0)


def test_the_picture_that_is_asked_about_is_one() -> None:
    import io

    from PIL import Image

    with Image.open(io.BytesIO(grey_png())) as picture:
        picture.load()
        assert (picture.format, picture.size) == ("PNG", (64, 64))
