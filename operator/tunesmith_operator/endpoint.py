"""``/metrics``, ``/healthz`` and ``/readyz``."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from tunesmith_operator.metrics import Metrics


@asynccontextmanager
async def endpoint(
    host: str, port: int, metrics: Metrics, ready: Callable[[], str], healthy: Callable[[], str]
) -> AsyncIterator[int]:
    """Serve while the context lasts; yields the port.

    Args:
        host: address to listen on.
        port: 0 for any that is free.
        metrics: what ``/metrics`` shows.
        ready: why this process is not ready, or nothing.
        healthy: why it should be started anew, or nothing.
    """

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"})

    def probe(why_not: Callable[[], str]) -> Callable[[web.Request], web.Response]:
        async def answer(_: web.Request) -> web.Response:
            problem = why_not()
            return web.Response(text=(problem or "ok") + "\n", status=503 if problem else 200)

        return answer  # type: ignore[return-value]

    app = web.Application()
    app.add_routes(
        [
            web.get("/metrics", show_metrics),
            web.get("/healthz", probe(healthy)),  # type: ignore[arg-type]
            web.get("/readyz", probe(ready)),  # type: ignore[arg-type]
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
