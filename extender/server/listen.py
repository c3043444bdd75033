"""A port: HTTP/1.1 by aiohttp, of which whatever is no request also gets one line and no traceback."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any, cast

from aiohttp import StreamReader, web

from extender.server.at_once import Ahead, AtOnce, Message, is_plain, with_head
from extender.server.connections import BACKLOG, OVER_TLS, PLAIN, Limits, Listener

KEEP_ALIVE_S = 120.0
"""Longer than the 90 s after which Go gives up an idle connection: the client must be the one to
close it, or a request is now and then sent into a connection that is just being closed."""
LET_GO_S = 95.0
"""Longer than those 90 s, too: by then it has closed every connection that it does not use."""
DRAIN_S = 5.0

LetGo = Callable[[Callable[[], int]], Awaitable[None]]
"""Waits until clients have closed their connections; is told how to ask how many are open."""

_TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: 33\r\nConnection: close\r\n\r\nthe request's head took too long\n"
)


def refusal(status: HTTPStatus, why: str) -> web.Response:
    """A plain-text answer of one line."""
    return web.Response(status=status, text=f"{why}\n")


class Protocol(web.RequestHandler):
    """aiohttp's protocol, without its pages for errors and its tracebacks for noise on the line.

    aiohttp bounds lines, fields and number of headers, and what it reads ahead; it closes a connection
    that is idle for `KEEP_ALIVE_S`. What else a client may leave undone is watched over by the listener.
    """

    __slots__ = ("_at_once", "_in_head", "_line", "_listener")

    def __init__(
        self, listener: Listener, manager: web.Server, at_once: AtOnce | None, **settings: Any
    ) -> None:
        super().__init__(manager, **settings)
        self._listener = listener
        self._at_once = at_once
        if at_once is not None:
            self._parser = cast("Any", Ahead(self._parser, self._first))
        self._line: asyncio.Transport | None = None
        """The transport, also after aiohttp has forgotten it."""
        self._in_head = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there, and any handshake is done."""
        super().connection_made(transport)
        self._line = self.transport
        self._listener.join(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """One of the two has gone."""
        self._listener.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        asked = self._request_count
        super().data_received(data)
        self._in_head = bool(data) and asked == self._request_count and self._idle()

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
        self._request_count += 1
        self._next_keepalive_close_time = self._loop.time() + self.keepalive_timeout
        return None

    def _idle(self) -> bool:
        """Whether nothing is to be done before another request has come."""
        if self._waiter is None:  # at work, or not begun yet
            return not self._request_count
        return not self._waiter.done()

    def owes(self) -> str | None:
        """See `connections.Connection`."""
        line = self._line
        if line is not None and (line.is_closing() or line.get_write_buffer_size()):
            return "answer"
        return "head" if self._in_head and self._idle() else None

    def dispensable(self, grace_s: float) -> tuple[int, float] | None:
        """First who has never asked, then who may ask again, then who is sending a body; then by age."""
        request = self._current_request
        if self._line is not None and self._line.is_closing():
            rank = 0
        elif self._idle():
            rank = 1 if self._request_count else 0
        elif request is not None and not request.content.is_eof():
            rank = 2
        else:
            return None
        answered_s = self._next_keepalive_close_time - KEEP_ALIVE_S  # or opened
        if rank != 1 and self._loop.time() - answered_s < grace_s:
            return None
        return rank, answered_s

    def give_up(self, owes: str | None) -> None:
        """Close at once; who is in the middle of a head is told why."""
        if self._line is None:
            return
        if owes == "head":
            self._line.write(_TOO_SLOW)
            self.force_close()
        else:
            self._line.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never became a request of the app."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        if isinstance(exc, UnicodeError):  # aiohttp would quote a header that cannot be quoted
            status, message = HTTPStatus.BAD_REQUEST, "a header is no text"
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
    limits: Limits | None = None,
    let_go: LetGo | None = None,
) -> AsyncIterator[int]:
    """Serve the app as long as the context lasts; gives the port taken.

    Args:
        app: what to serve.
        bind: address; of a name with several, all.
        port: port; 0 takes any free one.
        tls: the server's side, for HTTPS.
        at_once: answers plain requests ahead of the app.
        drain_s: how long requests in progress may take to finish at the end.
        limits: what to put up with, on each address; the usual ones unless given.
        let_go: waited for at the end, when new connections are taken no more.

    Raises:
        OSError: the port cannot be had.
    """
    loop = asyncio.get_running_loop()
    runner = web.AppRunner(app, shutdown_timeout=drain_s)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        manager = runner.server
        assert manager is not None  # noqa: S101  set up above
        if let_go is not None:
            stack.push_async_callback(let_go, lambda: len(manager.connections))

        def protocol(listener: Listener) -> Protocol:
            return Protocol(
                listener,
                manager,
                at_once,
                loop=loop,
                keepalive_timeout=KEEP_ALIVE_S,
                access_log=None,  # as AppRunner passes it on
                auto_decompress=False,  # nobody compresses requests to us but to make us swell
            )

        limits = limits or (PLAIN if tls is None else OVER_TLS)
        sockets = await _sockets(bind, port)
        for each in sockets:
            await stack.enter_async_context(Listener(each, protocol, tls, limits).serving())
        yield sockets[0].getsockname()[1]


async def _sockets(bind: str, port: int) -> list[socket.socket]:
    found = await asyncio.get_running_loop().getaddrinfo(
        bind, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            sockets.append(socket.create_server(address, family=family, backlog=BACKLOG))
            sockets[-1].setblocking(False)
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets
