"""The model as KServe's server knows it: its readiness, its types, and its predictions by gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import grpc_interceptor.exceptions as grpc_errors
from kserve import InferRequest, InferResponse, Model
from kserve.logging import logger
from kserve.model import InferenceVerb

from tunesmith_predictor import v2
from tunesmith_predictor.metrics import CLIENT_GONE, Metrics
from tunesmith_predictor.refusals import Refused
from tunesmith_predictor.service import Service, new_request_id

_GRPC_ERRORS = {
    400: grpc_errors.InvalidArgument,
    404: grpc_errors.NotFound,
    413: grpc_errors.ResourceExhausted,
    429: grpc_errors.ResourceExhausted,
    503: grpc_errors.Unavailable,
}


class PackageModel(Model):  # type: ignore[misc]
    """A model package; its predictions by HTTP go through `tunesmith_predictor.routes`."""

    def __init__(self, service: Service, metrics: Metrics, dimensions: int) -> None:
        """Ready only once the server has started the engine.

        Args:
            service: that answers.
            metrics: where requests are counted.
            dimensions: width of the embedding.
        """
        super().__init__(service.identity.name)
        self._service, self._metrics, self._dimensions = service, metrics, dimensions
        self.ready = True

    async def __call__(
        self,
        body: InferRequest,
        headers: Mapping[str, str] | None = None,
        verb: InferenceVerb = InferenceVerb.PREDICT,
    ) -> tuple[InferResponse, dict[str, str]]:
        """Answer a request that came by gRPC."""
        started, code = time.perf_counter(), "500"
        predictor = self._service.predictor
        try:
            asked = await self._service.engine.compute(
                lambda: v2.understand(body, {}, predictor.labels, predictor.preprocess)
            )
            answers = await self._service.answer(asked, body.id or new_request_id())
            response, code = v2.respond(body, answers, predictor.labels), "200"
            return response, {}
        except Refused as refused:
            code = str(int(refused.status))
            raise _GRPC_ERRORS.get(int(refused.status), grpc_errors.InvalidArgument)(
                refused.message
            ) from refused
        except asyncio.CancelledError:
            code = CLIENT_GONE
            raise
        except Exception:
            logger.exception("A request failed, which is a fault of this server")
            raise
        finally:
            self._metrics.request("grpc", "infer", code, time.perf_counter() - started)

    def get_input_types(self) -> list[dict[str, Any]]:
        """See `v2.input_types`."""
        return v2.input_types(self._service.predictor.preprocess)

    def get_output_types(self) -> list[dict[str, Any]]:
        """See `v2.output_types`."""
        return v2.output_types(len(self._service.predictor.labels), self._dimensions)
