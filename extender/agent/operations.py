"""The agent's operations port: health and metrics. GET only, and nothing of a request is read."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SILENT_S = 120.0
"""Without a sample for so long the process is of no use any more: the kubelet restarts it."""


def operations_app(registry: CollectorRegistry, age_s: Callable[[], float]) -> web.Application:
    """GET /healthz and /metrics.

    Args:
        registry: what is exposed.
        age_s: since the last sample.
    """

    async def healthz(_request: web.Request) -> web.Response:
        if age_s() <= SILENT_S:
            return web.Response(text="ok\n")
        return web.Response(status=503, text=f"no sample for {age_s():.0f} s\n")

    async def metrics(_request: web.Request) -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=generate_latest(registry), headers=headers)

    app = web.Application(client_max_size=1024)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", metrics)
    return app


@asynccontextmanager
async def listening(app: web.Application, bind: str, port: int) -> AsyncIterator[int]:
    """Serve as long as the context lasts; gives the port taken.

    Raises:
        OSError: the port cannot be had.
    """
    runner = web.AppRunner(app, shutdown_timeout=1.0, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, bind, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
