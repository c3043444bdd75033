"""A port: HTTP/1.1 by aiohttp, of which whatever is no request also gets one line and no traceback."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from aiohttp import web

KEEP_ALIVE_S = 120.0
"""Longer than the 90 s after which Go gives up an idle connection: the client must be the one to
close it, or a request is now and then sent into a connection that is just being closed."""
HANDSHAKE_S = 10.0
DRAIN_S = 5.0


def refusal(status: HTTPStatus, why: str) -> web.Response:
    """A plain-text answer of one line."""
    return web.Response(status=status, text=f"{why}\n")


class Protocol(web.RequestHandler):
    """aiohttp's protocol, without its pages for errors and its tracebacks for noise on the line."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002  aiohttp's signature
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never became a request of the app."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        first, _, _ = (message or "").partition("\n")
        response = refusal(HTTPStatus(status), f"no request we can read: {first.rstrip(':')}")
        response.force_close()
        return response

    def log_exception(self, *args: object, **kw: object) -> None:
        """Broken connections are everyday business; what our handlers raise is logged by the app."""


@asynccontextmanager
async def listening(
    app: web.Application,
    bind: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    drain_s: float = DRAIN_S,
) -> AsyncIterator[int]:
    """Serve the app as long as the context lasts; gives the port taken.

    Args:
        app: what to serve.
        bind: address.
        port: port; 0 takes any free one.
        tls: the server's side, for HTTPS.
        drain_s: how long requests in progress may take to finish at the end.

    Raises:
        OSError: the port cannot be had.
    """
    loop = asyncio.get_running_loop()
    runner = web.AppRunner(app, shutdown_timeout=drain_s)
    await runner.setup()
    try:
        manager = runner.server
        assert manager is not None  # noqa: S101  set up above

        def protocol() -> Protocol:
            return Protocol(
                manager,
                loop=loop,
                keepalive_timeout=KEEP_ALIVE_S,
                access_log=None,  # type: ignore[arg-type]  # as AppRunner passes it on
                auto_decompress=False,  # nobody compresses requests to us but to make us swell
            )

        server = await loop.create_server(
            protocol, bind, port, ssl=tls, ssl_handshake_timeout=HANDSHAKE_S if tls else None
        )
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
    finally:
        await runner.cleanup()
