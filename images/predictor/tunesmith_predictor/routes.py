"""The addresses that requests come to by HTTP; KServe's server adds its own behind these.

KServe answers first what is registered first. Its handlers for predictions are not reached: they parse on
the event loop, send the request's headers back with an explanation, and answer 500 to what is malformed. Nor
are those that load and unload models, with which any client could take the model away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI
from kserve import InferRequest
from kserve.logging import logger
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tunesmith_predictor import v1, v2
from tunesmith_predictor.answers import v1_document
from tunesmith_predictor.metrics import CLIENT_GONE, Metrics
from tunesmith_predictor.monitoring.watch import Watch
from tunesmith_predictor.page import page
from tunesmith_predictor.questions import Request
from tunesmith_predictor.refusals import Refused
from tunesmith_predictor.service import Service, new_request_id

Handler = Callable[[HttpRequest, str], Awaitable[Response]]
_REQUEST_ID = 128  # characters of a client's own request id


class Routes:
    """Handlers for one model."""

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        watch: Watch,
        metadata: dict[str, Any],
        ready: Callable[[], bool],
    ) -> None:
        """Nothing is reachable before `register`."""
        self._service, self._metrics, self._metadata, self._ready = service, metrics, metadata, ready
        self._watch = watch

    def register(self, app: FastAPI) -> None:
        """Add all addresses to an application."""
        one = "/models/{model_name}"
        app.add_route(f"/v1{one}:predict", self._counted("v1", "predict", self._v1_predict), methods=["POST"])
        app.add_route(f"/v1{one}:explain", self._counted("v1", "explain", self._v1_explain), methods=["POST"])
        app.add_route(f"/v2{one}/infer", self._counted("v2", "infer", self._v2_infer), methods=["POST"])
        app.add_route(f"/v2{one}", self._v2_metadata, methods=["GET"])
        app.add_route("/v2/health/ready", self._health, methods=["GET"])
        app.add_route("/", self._page, methods=["GET"])
        app.add_route("/monitoring", self._monitoring, methods=["GET"])
        app.add_route("/feedback", self._feedback, methods=["POST"])
        for verb in ("load", "unload"):
            app.add_route(f"/v2/repository{one}/{verb}", self._no_repository, methods=["POST"])

    def _counted(
        self, protocol: str, verb: str, handler: Handler
    ) -> Callable[[HttpRequest], Awaitable[Response]]:
        """Answer whatever happens, and count it."""

        async def answer(request: HttpRequest) -> Response:
            started = time.perf_counter()
            request_id = _request_id(request)
            code = HTTPStatus.INTERNAL_SERVER_ERROR
            try:
                self._require_own_name(request)
                response = await handler(request, request_id)
                code = HTTPStatus(response.status_code)
            except Refused as refused:
                code = refused.status
                response = _json({"error": refused.message}, code, refused.headers)
            except asyncio.CancelledError:
                self._metrics.request(protocol, verb, CLIENT_GONE, time.perf_counter() - started)
                raise
            except Exception:
                logger.exception("A request failed, which is a fault of this server")
                response = _json({"error": "The server failed; its log says why."}, code)
            self._metrics.request(protocol, verb, str(int(code)), time.perf_counter() - started)
            response.headers.update(self._service.identity.headers(request_id))
            return response

        return answer

    async def _v1_predict(self, request: HttpRequest, request_id: str) -> Response:
        return await self._v1(request, request_id, explain=False)

    async def _v1_explain(self, request: HttpRequest, request_id: str) -> Response:
        return await self._v1(request, request_id, explain=True)

    async def _v1(self, request: HttpRequest, request_id: str, *, explain: bool) -> Response:
        body, kind = await request.body(), request.headers.get("content-type", "")
        query, predictor = dict(request.query_params), self._service.predictor

        def read() -> Request:
            return v1.read_request(body, kind, query, predictor.labels, predictor.preprocess, explain=explain)

        asked = read() if kind.startswith("image/") else await self._service.engine.compute(read)
        answers = await self._service.answer(asked, request_id)
        return _json(v1_document(answers, predictor.labels))

    async def _v2_infer(self, request: HttpRequest, request_id: str) -> Response:
        body = await request.body()
        length, query = request.headers.get("inference-header-content-length"), dict(request.query_params)
        name, predictor = self._service.identity.name, self._service.predictor

        def read() -> tuple[InferRequest, Request]:
            raw = v2.read_rest(body, length, name)
            return raw, v2.understand(raw, query, predictor.labels, predictor.preprocess)

        raw, asked = await self._service.engine.compute(read)
        answers = await self._service.answer(asked, request_id)
        document, json_length = v2.respond(raw, answers, predictor.labels).to_rest()
        if json_length is None:
            return _json(document)
        headers = {"inference-header-content-length": str(json_length)}
        return Response(document, media_type="application/octet-stream", headers=headers)

    async def _v2_metadata(self, request: HttpRequest) -> Response:
        try:
            self._require_own_name(request)
        except Refused as refused:
            return _json({"error": refused.message}, refused.status)
        return _json(self._metadata)

    async def _health(self, request: HttpRequest) -> Response:
        ready = self._ready()
        return _json({"ready": ready}, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)

    async def _page(self, request: HttpRequest) -> Response:
        text, headers = page(self._service.identity.name)
        return Response(text, headers=headers, media_type="text/html")

    async def _monitoring(self, request: HttpRequest) -> Response:
        return _json(await self._watch.document())

    async def _feedback(self, request: HttpRequest) -> Response:
        started, body = time.perf_counter(), await request.body()
        try:
            response = _json(self._watch.take_feedback(body))
        except Refused as refused:
            response = _json({"error": refused.message}, refused.status, refused.headers)
        seconds = time.perf_counter() - started
        self._metrics.request("http", "feedback", str(response.status_code), seconds)
        return response

    async def _no_repository(self, request: HttpRequest) -> Response:
        message = "This server serves one model for its whole life. Start another server for another model."
        return _json({"error": message}, HTTPStatus.FORBIDDEN)

    def _require_own_name(self, request: HttpRequest) -> None:
        name = request.path_params["model_name"]
        own = self._service.identity.name
        if name != own:
            raise Refused(HTTPStatus.NOT_FOUND, f"There is no model {name[:60]!r} here; there is {own}.")


def _request_id(request: HttpRequest) -> str:
    """The client's own id where it has a sensible one, else a new one."""
    own = request.headers.get("x-request-id", "")
    return own if 0 < len(own) <= _REQUEST_ID and own.isascii() and own.isprintable() else new_request_id()


def _json(
    document: object, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(document), int(status), headers, "application/json")
