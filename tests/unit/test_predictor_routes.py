"""How requests are counted: whose fault each is decides whether a canary is rolled back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import Response
from tests.testbed.tiny_package import LABELS, write_tiny_package

from tunesmith_package.inference import Predictor
from tunesmith_predictor.engine import Engine, Limits
from tunesmith_predictor.metrics import Metrics
from tunesmith_predictor.monitoring.watch import Watch
from tunesmith_predictor.refusals import BadRequest
from tunesmith_predictor.routes import Routes
from tunesmith_predictor.service import Identity, Service


def routes(directory: Path, name: str) -> Routes:
    identity = Identity(name, "sha256:0")
    predictor = Predictor(write_tiny_package(directory), threads=1)
    engine, metrics = Engine(predictor, Limits(1)), Metrics(identity, LABELS)
    watch = Watch(LABELS, metrics, engine.compute)
    return Routes(Service(identity, predictor, engine), metrics, watch, {}, lambda: True)


def counted(name: str, code: str) -> float:
    labels = {"model": name, "digest": "sha256:0", "revision": "", "protocol": "v1", "verb": "predict"}
    return REGISTRY.get_sample_value("tunesmith_requests_total", {**labels, "code": code}) or 0.0


def request(name: str) -> Request:
    return Request({"type": "http", "method": "POST", "headers": [], "path_params": {"model_name": name}})


async def refuses(request: Request, request_id: str) -> Response:
    raise BadRequest("No.")


async def fails(request: Request, request_id: str) -> Response:
    raise RuntimeError("secret detail")


async def answers(request: Request, request_id: str) -> Response:
    return Response("{}")


@pytest.mark.parametrize(("handler", "code"), [(answers, 200), (refuses, 400), (fails, 500)])
def test_every_answer_is_counted_once_by_its_code(tmp_path: Path, handler: object, code: int) -> None:
    name = f"counted-{code}"
    answer = routes(tmp_path / "p", name)._counted("v1", "predict", handler)  # type: ignore[arg-type]

    async def ask() -> Response:
        return await answer(request(name))

    response = asyncio.run(ask())
    assert response.status_code == code
    assert b"secret detail" not in response.body
    assert response.headers["x-tunesmith-model-digest"] == "sha256:0"
    assert counted(name, str(code)) == 1


def test_a_request_whose_client_hung_up_is_no_fault_of_the_server(tmp_path: Path) -> None:
    async def waits(request: Request, request_id: str) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def hang_up() -> None:
        asking = asyncio.ensure_future(
            routes(tmp_path / "p", "gone")._counted("v1", "predict", waits)(request("gone"))
        )
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(hang_up())
    assert counted("gone", "499") == 1
    assert counted("gone", "500") == 0
