"""What is concluded from what predictors counted."""

import asyncio
import contextlib
import json
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from aiohttp import web

from tunesmith_api.model_deployment import Analysis
from tunesmith_api.status import CanaryStatus
from tunesmith_operator.kinds import Key
from tunesmith_operator.model_deployment.analysis import Counts, Window, judge, quantile, shift
from tunesmith_operator.model_deployment.counters import (
    FromPods,
    FromPrometheus,
    Reading,
    read_answer,
    read_text,
)
from tunesmith_operator.model_deployment.pods import PredictorPod
from tunesmith_operator.model_deployment.predictors import Meter, grey_png


def limit(metric: str, **fields: object) -> Analysis:
    return Analysis.model_validate({"metric": metric, **fields})


def window(canary: Counts, stable: Counts | None = None, complaint: str = "") -> Window:
    return Window(stable or Counts(), canary, complaint)


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
    said = judge(window(counts, complaint="One is silent."), [], 10)
    assert (said.verdict, said.message) == ("Waiting", "One is silent.")
    assert judge(window(counts, complaint="One is silent."), [], 1_000).message.endswith(" One is silent.")
    assert judge(window(counts), [], 10).verdict == "Passed"


BEGAN = datetime(2026, 11, 30, 12, tzinfo=UTC)
CANARY = CanaryStatus(revision="b", uri="s3://m/b", digest=f"sha256:{'b' * 64}", weight=10, since=BEGAN)


def pod(uid: str, *, age: float) -> PredictorPod:
    created = BEGAN - timedelta(seconds=age)
    return PredictorPod(uid, uid, "127.0.0.1", created, ready=True)


async def windows(*looks: dict[PredictorPod, float | None]) -> list[float]:
    """Requests of the canary after each look, whose pods have then answered so many; None is silent."""
    counted: dict[str, float | None] = {}

    class Played:
        async def read(self, pods: Sequence[PredictorPod]) -> Reading:
            said = {pod.uid: counted[pod.uid] for pod in pods}
            return Reading({uid: Counts({"200": one}) for uid, one in said.items() if one is not None})

    meter, found = Meter(Played()), []
    for look in looks:
        counted = {pod.uid: answered for pod, answered in look.items()}
        window = await meter.window(Key("team", "f"), CANARY, "a", {"b": tuple(look)})
        found.append(window.canary.answered)
    return found


def test_what_a_pod_had_answered_before_the_step_does_not_count() -> None:
    old = pod("old", age=100)
    assert asyncio.run(windows({old: 100}, {old: 130})) == [0, 30]


def test_a_pod_that_was_silent_when_the_step_began_counts_from_its_first_word() -> None:
    old = pod("old", age=100)
    assert asyncio.run(windows({old: None}, {old: 1_000}, {old: 1_010})) == [0, 0, 10]


def test_a_pod_that_came_later_counts_whole() -> None:
    old, new = pod("old", age=100), pod("new", age=-5)
    assert asyncio.run(windows({old: 7}, {old: 7, new: 20})) == [0, 20]


def test_a_container_that_began_anew_counts_from_nothing_for_good() -> None:
    old = pod("old", age=100)
    assert asyncio.run(windows({old: 100}, {old: 5}, {old: 150})) == [0, 5, 150]


def test_a_pod_that_went_keeps_what_it_had_answered() -> None:
    old, new = pod("old", age=100), pod("new", age=-5)
    assert asyncio.run(windows({old: 100}, {old: 140}, {new: 3})) == [0, 40, 43]


@pytest.mark.parametrize(
    "line",
    [
        'tunesmith_request_seconds_bucket{verb="predict"} 1.0',
        'tunesmith_request_seconds_bucket{verb="predict",le="much"} 1.0',
        'tunesmith_requests_total{verb="predict",code="200"} NaN',
        'tunesmith_requests_total{verb="predict",code="200"} +Inf',
        'tunesmith_requests_total{verb="predict",code="200"} -5',
        'tunesmith_requests_total{verb="predict"',
    ],
)
def test_metrics_that_make_no_sense_are_no_counts(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the parser's own words
        read_text(line)


def test_lines_that_are_not_read_are_not_parsed() -> None:
    assert read_text("other{ nonsense\n" * 100_000) == Counts()


@contextlib.asynccontextmanager
async def served(app: web.Application, host: str, port: int) -> AsyncIterator[None]:
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    try:
        yield
    finally:
        await runner.cleanup()


def test_a_pod_cannot_lead_the_operator_elsewhere() -> None:
    """It answers with a redirect; where that leads, nobody asks."""
    asked: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(request.path)
        if request.path == "/metrics":
            return web.Response(status=302, headers={"Location": "/elsewhere"})
        return web.Response(text='tunesmith_requests_total{verb="predict",code="200"} 5.0\n')

    async def ask() -> Reading:
        app = web.Application()
        app.router.add_get("/{path}", handle)
        async with served(app, "127.79.0.1", 8080), aiohttp.ClientSession() as session:
            return await FromPods(session).read([replace(pod("p", age=0), address="127.79.0.1")])

    assert asyncio.run(ask()) == Reading({}, "1 of 1 predictors did not answer: p.")
    assert asked == ["/metrics"]


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
    counts = read_text(METRICS)
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


NAMED = '"__name__": "a", '


@pytest.mark.parametrize(
    ("name", "value"),
    [("", '[1, "2"]'), (NAMED, "3"), (NAMED, "[1]"), (NAMED, '[1, "NaN"]'), (NAMED, '[1, "many"]')],
)
def test_answer_of_prometheus_that_makes_no_sense_is_no_counts(name: str, value: str) -> None:
    labels = f'{{{name}"instance": "10.0.0.1:8080"}}'
    answer = f'{{"data": {{"result": [{{"metric": {labels}, "value": {value}}}]}}}}'
    with pytest.raises(ValueError):  # noqa: PT011 - the parser's own words
        read_answer(answer.encode(), [replace(pod("p", age=0), address="10.0.0.1")])


def test_pod_that_two_jobs_of_prometheus_look_at_is_counted_once() -> None:
    def sample(job: str, value: str) -> dict[str, object]:
        name = {"__name__": "tunesmith_requests_total", "verb": "predict", "code": "200"}
        return {"metric": {**name, "job": job, "instance": "10.0.0.1:8080"}, "value": [1, value]}

    answer = json.dumps({"data": {"result": [sample("annotations", "7"), sample("monitor", "9")]}})
    found = read_answer(answer.encode(), [replace(pod("p", age=0), address="10.0.0.1")])
    assert found["p"].requests == {"200": 9.0}


@pytest.mark.parametrize(
    "answer",
    [b"<html>", b"{}", b"[]", b'{"data": {"result": [1]}}', b'{"data": {"result": [{"metric": []}]}}'],
)
def test_answer_that_is_none_of_prometheus_is_no_counts(answer: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the parser's own words
        read_answer(answer, [])


def test_prometheus_is_asked_about_these_pods_and_no_others() -> None:
    """Also where an address has signs that mean something in a regular expression."""
    asked: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(str((await request.post())["query"]))
        return web.Response(text='{"data": {"result": []}}')

    async def ask() -> Reading:
        app = web.Application()
        app.router.add_post("/prometheus/api/v1/query", handle)
        pods = [replace(pod("p", age=0), address=one) for one in ("10.0.0.1", "fd00::1")]
        async with served(app, "127.79.0.3", 9090), aiohttp.ClientSession() as session:
            return await FromPrometheus(session, "http://127.79.0.3:9090/prometheus/").read(pods)

    assert asyncio.run(ask()).counts == {}
    (query,) = asked
    assert r'instance=~"10\\.0\\.0\\.1:8080|\\[fd00::1\\]:8080"' in query
