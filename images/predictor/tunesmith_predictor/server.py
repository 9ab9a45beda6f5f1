"""KServe's server around one model: how it starts, and how it ends without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI
from kserve import ModelServer
from kserve.logging import logger
from kserve.model_repository import ModelRepository
from kserve.model_server import app
from kserve.protocol.grpc import server as grpc_server

from tunesmith_package.reference import read_reference
from tunesmith_predictor import v2
from tunesmith_predictor.engine import Engine, Limits
from tunesmith_predictor.guard import BodyLimits, Guard
from tunesmith_predictor.headers import BoundedHeaders
from tunesmith_predictor.metrics import Metrics
from tunesmith_predictor.model import PackageModel
from tunesmith_predictor.monitoring.feedback import Feedback
from tunesmith_predictor.monitoring.monitor import Monitor
from tunesmith_predictor.monitoring.sampler import SampleLimits, Sampler
from tunesmith_predictor.monitoring.watch import Watch
from tunesmith_predictor.routes import Routes
from tunesmith_predictor.service import Identity, Service
from tunesmith_predictor.startup import Loaded


@dataclass(frozen=True)
class Settings:
    """How a model is served.

    Attributes:
        host: address to listen on.
        http_port: for HTTP.
        grpc_port: for gRPC; None for none.
        engine: limits of the engine.
        bodies: limits of bodies.
        header_seconds: for the headers of a request to arrive.
        drain_seconds: after SIGTERM requests are still taken for this long, while the cluster learns that
            none should be sent here any more.
        grace_seconds: then this long for those that are on their way.
        drift_window: how many images are compared with the package's reference; 0 for no monitoring.
        feedback: whether true labels are taken.
        explanations: whether activation maps are drawn where they are asked for.
        sample_folder: where a sample of the images is kept; None for none.
        sample: what may be kept there.
        access_log: whether each request is a line in the log; the metrics count them anyway.
    """

    host: str
    http_port: int
    grpc_port: int | None
    engine: Limits
    bodies: BodyLimits = field(default_factory=BodyLimits)
    header_seconds: float = 10.0
    drain_seconds: float = 5.0
    grace_seconds: int = 20
    drift_window: int = 1_000
    feedback: bool = False
    explanations: bool = True
    access_log: bool = False
    sample_folder: Path | None = None
    sample: SampleLimits = field(default_factory=SampleLimits)


class _FixedRepository(ModelRepository):  # type: ignore[misc]
    """Holds one model, which no request can take away; KServe's own unloads whatever a client names."""

    def unload(self, name: str) -> None:
        """Leave it where it is."""
        raise KeyError(name)


class PackageServer(ModelServer):  # type: ignore[misc]
    """KServe's server with one model, our routes in front, and an end in three steps."""

    def __init__(self, loaded: Loaded, identity: Identity, settings: Settings) -> None:
        """Put everything together; nothing listens before `serve`."""
        super().__init__(
            http_port=settings.http_port,
            grpc_port=settings.grpc_port or 0,
            enable_grpc=settings.grpc_port is not None,
            workers=1,
            registered_models=_FixedRepository(),
            enable_latency_logging=False,
            grace_period=settings.grace_seconds,
        )
        self._settings = settings
        self._hurry = asyncio.Event()
        metrics = Metrics(identity, loaded.predictor.labels)
        monitor = _monitor(loaded, settings.drift_window)
        inspect = monitor is not None
        self._engine = Engine(loaded.predictor, settings.engine, metrics.engine(), inspect=inspect)
        metrics.in_flight.set_function(lambda: self._engine.in_flight)
        feedback = Feedback(loaded.predictor.labels) if settings.feedback else None
        sampler = Sampler(settings.sample_folder, settings.sample) if settings.sample_folder else None
        self._watch = Watch(
            loaded.predictor.labels,
            metrics,
            self._engine.compute,
            monitor=monitor,
            feedback=feedback,
            sampler=sampler,
        )
        service = Service(
            identity,
            loaded.predictor,
            self._engine,
            self._watch.answered,
            explanations=settings.explanations,
        )
        self._model = PackageModel(service, metrics, loaded.predictor.dimensions)
        about = metadata(loaded, identity, explanations=settings.explanations)
        Routes(service, metrics, self._watch, about, lambda: self._model.ready).register(app)
        app.add_middleware(
            Guard,
            limits=settings.bodies,
            on_refused=lambda status: metrics.request("http", "body", str(status), 0.0),
        )
        app.router.lifespan_context = self._lifespan

    def serve(self) -> None:
        """Serve until a signal."""
        self.start([self._model])

    def stop(self, sig: int) -> None:
        """KServe's handler of signals; `_end` has replaced it by the time that one can come."""

    async def _serve(self) -> None:
        """Run the servers that KServe has set up, with our engine and our end."""
        rest = self._rest_server
        rest.config.host = self._settings.host
        if not self._settings.access_log:
            # uvicorn looks at the logger; its own setting was read when KServe made the configuration.
            access = logging.getLogger("uvicorn.access")
            access.handlers, access.propagate = [], False
        rest.config.http = functools.partial(BoundedHeaders, header_seconds=self._settings.header_seconds)
        # KServe's times each request and writes three lines of log about it.
        rest._add_middlewares = lambda app: None
        _grpc_listens_on(self._settings.host)
        # What is there now stays. Going through all of it again and again, the collector would hold up health
        # checks for a tenth of a second, and cost a fifth of the throughput.
        gc.collect()
        gc.freeze()
        self._engine.start()
        self._watch.start()
        await asyncio.gather(*self.servers)
        await self._watch.stop()
        await self._engine.stop()

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Begin after uvicorn has set its own handlers of signals, which close its sockets at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._begin_to_end, self._rest_server._server)
        yield

    def _begin_to_end(self, rest: Any) -> None:
        if self._model.ready:
            self._model.ready = False
            self._ending = asyncio.ensure_future(self._end(rest))
        else:  # the second signal: somebody is in a hurry
            rest.force_exit = True
            self._hurry.set()

    async def _end(self, rest: Any) -> None:
        """Not ready, then no new connections, then no more than the grace period for what is on its way."""
        logger.info("Asked to stop: taking requests for %g s more", self._settings.drain_seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self._settings.drain_seconds)
        rest.should_exit = True
        if self._grpc_server:
            await self._grpc_server.stop()


def _grpc_listens_on(host: str) -> None:
    """Have KServe's gRPC server listen where HTTP does; by itself it listens on every address."""
    aio, everywhere = grpc_server.aio, host in ("0.0.0.0", "::")

    def server(*args: Any, **settings: Any) -> Any:
        made = aio.server(*args, **settings)
        add = made.add_insecure_port
        one = f"[{host}]" if ":" in host else host
        if not everywhere:
            made.add_insecure_port = lambda address: add(f"{one}:{address.rpartition(':')[2]}")
        return made

    grpc_server.aio = SimpleNamespace(server=server)


def _monitor(loaded: Loaded, window: int) -> Monitor | None:
    if not window:
        return None
    predictor = loaded.predictor
    reference = read_reference(loaded.package.directory, len(predictor.labels), predictor.dimensions)
    return Monitor(predictor.labels, reference, loaded.metrics, window)


def metadata(loaded: Loaded, identity: Identity, *, explanations: bool) -> dict[str, Any]:
    """What ``/v2/models/NAME`` says of the model."""
    header, predictor = loaded.package.manifest.header, loaded.predictor
    return {
        "name": identity.name,
        "versions": [identity.revision] if identity.revision else [],
        "platform": "tunesmith_onnxruntime",
        "inputs": v2.input_types(predictor.preprocess),
        "outputs": v2.output_types(len(predictor.labels), predictor.dimensions),
        "parameters": {
            "labels": list(predictor.labels),
            "metrics": loaded.metrics,
            "digest": identity.digest,
            "verified": header.verified,
            "backbone": header.backbone,
            "strategy": header.strategy,
            "imageSize": predictor.preprocess.image_size,
            "explanations": explanations,
        },
    }
