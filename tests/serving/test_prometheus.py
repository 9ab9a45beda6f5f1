"""What a real predictor has counted, read from a real Prometheus, is what it says itself."""

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime

import aiohttp
import pytest
from tests.testbed import prometheus
from tests.testbed.debian import NotToBeHad
from tests.testbed.kube_api import wait_for
from tests.testbed.predictors import Server
from tests.testbed.tiny_package import picture

from tunesmith_operator.model_deployment import counters
from tunesmith_operator.model_deployment.counters import FromPods, FromPrometheus, Reading
from tunesmith_operator.model_deployment.pods import PredictorPod


@pytest.fixture(scope="module")
def url(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a Prometheus that looks at the predictor."""
    job = {"job_name": "predictors", "static_configs": [{"targets": [f"127.0.0.1:{server.http_port}"]}]}
    with contextlib.ExitStack() as stack:
        folder = tmp_path_factory.mktemp("prometheus")
        try:
            found = stack.enter_context(prometheus.running(folder, "127.0.0.1", job))
        except NotToBeHad as error:
            pytest.skip(f"There is no Prometheus here: {error}")
        yield found


def pod(name: str, address: str) -> PredictorPod:
    return PredictorPod(name, name, address, datetime.now(UTC), ready=True)


def read(url: str, *pods: PredictorPod) -> Reading:
    """From Prometheus where a URL is given, otherwise from the pods."""

    async def ask() -> Reading:
        async with aiohttp.ClientSession() as session:
            return await (FromPrometheus(session, url) if url else FromPods(session)).read(pods)

    return asyncio.run(ask())


def test_both_ways_give_the_same_counts(server: Server, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "PREDICTOR_PORT", server.http_port)
    one = pod("one", "127.0.0.1")
    before = read("", one).counts["one"].answered
    for _ in range(5):
        assert server.predict(picture("red")).status == 200
    own = read("", one)
    assert own.counts["one"].answered == before + 5
    assert own.counts["one"].seconds
    assert own.counts["one"].predicted
    wait_for(lambda: read(url, one) == own, "Prometheus has it too", 20)


def test_predictor_that_prometheus_does_not_know_is_named(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "PREDICTOR_PORT", server.http_port)
    one, other = pod("one", "127.0.0.1"), pod("other", "127.0.0.9")
    wait_for(lambda: read(url, one, other).counts, "it knows one", 20)
    found = read(url, one, other)
    assert found.counts.keys() == {"one"}
    assert found.complaint == "1 of 2 predictors are not known to Prometheus: other."


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://127.0.0.1:9", "Prometheus at http://127.0.0.1:9 did not answer (ClientConnectorError)."),
        ("http://127.0.0.1:{port}/none/", "Prometheus at http://127.0.0.1:{port}/none answered 404."),
    ],
)
def test_server_that_is_no_prometheus_is_told(server: Server, url: str, complaint: str) -> None:
    port = server.http_port
    assert read(url.format(port=port), pod("one", "127.0.0.1")) == Reading({}, complaint.format(port=port))
