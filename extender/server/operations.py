"""The operations port: health, readiness, metrics.

On a thread of its own, so that it answers even while the request path is saturated.
"""

import asyncio
import threading
from collections.abc import Callable
from http import HTTPStatus

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from extender.server.connections import PROBES
from extender.server.listen import listening, refusal
from extender.server.metrics import Metrics
from extender.server.routes import counted

Unready = Callable[[], str | None]
"""Why the process should get no requests now, in one line; None if it may."""


def operations_app(metrics: Metrics, unready: Unready) -> web.Application:
    """GET /healthz, /readyz, /metrics."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        why = unready()
        return (
            web.Response(text="ok\n")
            if why is None
            else refusal(HTTPStatus.SERVICE_UNAVAILABLE, why)
        )

    async def exposition(_request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    app = web.Application(middlewares=[counted(metrics, lambda: False)])
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", exposition)
    return app


class OperationsThread:
    """Serves the operations port until stopped.

    Args:
        app: what to serve.
        bind: address.
        port: port; 0 takes any free one.
    """

    def __init__(self, app: web.Application, bind: str, port: int) -> None:
        self._app, self._bind, self._port = app, bind, port
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="operations", daemon=True)

    def start(self) -> int:
        """Begin to serve; the port taken.

        Raises:
            OSError: the port cannot be had.
        """
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            raise self._error
        return self._port

    def stop(self) -> None:
        """Serve no more."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5.0)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        try:
            async with listening(
                self._app, self._bind, self._port, drain_s=1.0, limits=PROBES
            ) as self._port:
                self._started.set()
                await self._stop.wait()
        except OSError as error:
            self._error = error
        finally:
            self._started.set()
