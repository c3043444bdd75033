"""A port: HTTP/1.1 by aiohttp, of which whatever is no request also gets one line and no traceback."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, cast

from aiohttp import StreamReader, web

from extender.server.at_once import Ahead, AtOnce, Message, is_plain, with_head

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

    __slots__ = ("_at_once",)

    def __init__(self, manager: web.Server, at_once: AtOnce | None, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._at_once = at_once
        if at_once is not None:
            self._parser = cast("Any", Ahead(self._parser, self._first))

    def _first(self, message: Message) -> Message | None:
        """Answer a request at once, if it is a plain one and nothing else is under way."""
        waiting, transport = self._waiter, self.transport
        idle = waiting is not None and not waiting.done() and not self._upgraded
        if not idle or self._paused or transport is None or not is_plain(message):
            return message
        head, payload = message
        body = payload.read_nowait()
        answer = self._at_once(head.path, body) if self._at_once is not None else None
        if answer is None:
            again = StreamReader(self, self._read_bufsize, loop=self._loop)
            again.feed_data(body)
            again.feed_eof()
            return head, again
        transport.write(with_head(answer))
        self._next_keepalive_close_time = self._loop.time() + self.keepalive_timeout
        return None

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
    at_once: AtOnce | None = None,
    drain_s: float = DRAIN_S,
) -> AsyncIterator[int]:
    """Serve the app as long as the context lasts; gives the port taken.

    Args:
        app: what to serve.
        bind: address.
        port: port; 0 takes any free one.
        tls: the server's side, for HTTPS.
        at_once: answers plain requests ahead of the app.
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
                at_once,
                loop=loop,
                keepalive_timeout=KEEP_ALIVE_S,
                access_log=None,  # as AppRunner passes it on
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
