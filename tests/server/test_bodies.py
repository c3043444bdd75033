"""Bodies that come in pieces: how long they may take, and who is given up when they are too much."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp
import pytest
from aiohttp import web

from extender.server.bodies import Bodies
from extender.server.listen import listening
from extender.server.metrics import Metrics
from extender.server.routes import counted
from tests.server.serving import HOST, PATIENCE_S, Serving, request, review_of

Serve = Callable[[Bodies], Awaitable[str]]
LARGEST_BYTES = 1000
NO_ROOM = (503, "too many requests at once; try again\n")


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """An app that tells how long a body is; its URL."""
    async with AsyncExitStack() as stack:

        async def begin(bodies: Bodies) -> str:
            async def handle(request: web.Request) -> web.StreamResponse:
                async with bodies.whole(request) as body:
                    return web.Response(text=f"{len(body)}\n")

            app = web.Application(
                client_max_size=LARGEST_BYTES, middlewares=[counted(Metrics(), lambda: False)]
            )
            app.router.add_post("/do", handle)
            port = await stack.enter_async_context(listening(app, HOST, 0, drain_s=0.1))
            return f"http://{HOST}:{port}/do"

        yield begin


class Slow:
    """A body in pieces, each of which is sent when the test says so."""

    def __init__(self, session: aiohttp.ClientSession, url: str, **headers: str) -> None:
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._answer = asyncio.create_task(self._post(session, url, headers))

    async def _post(
        self, session: aiohttp.ClientSession, url: str, headers: dict[str, str]
    ) -> tuple[int, str]:
        async with session.post(url, data=self._body(), headers=headers) as answer:
            return answer.status, await answer.text()

    async def _body(self) -> AsyncIterator[bytes]:
        while piece := await self._pieces.get():
            yield piece

    def send(self, piece: bytes) -> None:
        """Send that; nothing says that it is over."""
        self._pieces.put_nowait(piece)

    async def answer(self) -> tuple[int, str]:
        """Status and text."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._answer


async def come(bodies: Bodies, count: int) -> None:
    """Wait until so many bytes have come."""
    async with asyncio.timeout(PATIENCE_S):
        while bodies.come_bytes != count:  # noqa: ASYNC110  no event to wait for
            await asyncio.sleep(0.001)


async def test_a_body_that_comes_in_pieces_is_taken_in_whole(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    bodies = Bodies(LARGEST_BYTES)
    body = Slow(session, await serve(bodies))

    for number in range(1, 6):
        body.send(b"ab")
        await come(bodies, 2 * number)
    body.send(b"")

    assert await body.answer() == (200, "10\n")
    assert bodies.come_bytes == 0


@pytest.mark.parametrize("headers", [{}, {"Content-Length": str(LARGEST_BYTES)}])
async def test_what_is_only_announced_takes_no_room(
    serve: Serve, session: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    bodies = Bodies(LARGEST_BYTES + 10)
    url = await serve(bodies)
    announced = [Slow(session, url, **headers) for _ in range(8)]
    for number, each in enumerate(announced, 1):
        each.send(b"a")
        await come(bodies, number)

    small = Slow(session, url)
    small.send(b"b")
    await come(bodies, 9)
    small.send(b"b")
    small.send(b"")

    assert await small.answer() == (200, "2\n")
    for each in announced:
        each.send(b"a" * (LARGEST_BYTES - 1 if headers else 1))
        each.send(b"")
        assert await each.answer() == (200, f"{LARGEST_BYTES if headers else 2}\n")


async def test_beyond_the_most_the_largest_is_given_up_and_the_others_go_on(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    bodies = Bodies(10)
    url = await serve(bodies)
    small, large, other = (Slow(session, url) for _ in range(3))
    for each, size, in_all in ((small, 1, 1), (large, 6, 7), (other, 3, 10)):
        each.send(b"x" * size)
        await come(bodies, in_all)

    small.send(b"x")

    assert await large.answer() == NO_ROOM
    await come(bodies, 5)
    small.send(b"")
    assert await small.answer() == (200, "2\n")
    other.send(b"")
    assert await other.answer() == (200, "3\n")
    assert bodies.come_bytes == 0


async def test_the_one_that_grows_is_given_up_when_it_is_itself_the_largest(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    bodies = Bodies(10)
    url = await serve(bodies)
    small, large = (Slow(session, url) for _ in range(2))
    small.send(b"x" * 5)
    await come(bodies, 5)
    large.send(b"x" * 5)
    await come(bodies, 10)

    large.send(b"x")

    assert await large.answer() == NO_ROOM
    assert bodies.come_bytes == 5
    small.send(b"x" * 5)
    small.send(b"")
    assert await small.answer() == (200, "10\n")


async def test_no_body_alone_may_be_larger_than_all_together(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    body = Slow(session, await serve(Bodies(10)))

    body.send(b"x" * 11)

    assert await body.answer() == NO_ROOM


async def test_one_larger_than_its_port_takes_is_refused_however_it_comes(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    bodies = Bodies(10 * LARGEST_BYTES)
    body = Slow(session, await serve(bodies))
    body.send(b"x" * LARGEST_BYTES)
    await come(bodies, LARGEST_BYTES)

    body.send(b"x")

    assert await body.answer() == (413, f"body is larger than {LARGEST_BYTES} bytes\n")
    assert bodies.come_bytes == 0


async def test_a_body_that_does_not_arrive_is_given_up(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    bodies = Bodies(LARGEST_BYTES, body_s=0.05)
    url = await serve(bodies)
    body = Slow(session, url)
    body.send(b"a")

    assert await body.answer() == (408, "the body took longer than 0.05 s\n")
    assert bodies.come_bytes == 0
    async with session.post(url, data=b"ab") as answer:
        assert (answer.status, await answer.text()) == (200, "2\n")


async def test_who_leaves_in_the_middle_takes_no_room(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    bodies = Bodies(LARGEST_BYTES)
    url = await serve(bodies)
    async with aiohttp.ClientSession() as leaving:
        Slow(leaving, url).send(b"abc")
        await come(bodies, 3)

    await come(bodies, 0)


# --- the process ---------------------------------------------------------------------------------


@pytest.mark.parametrize("length", ["Content-Length: 8388608", "Transfer-Encoding: chunked"])
def test_beside_heads_of_the_largest_reviews_one_in_two_pieces_is_answered(
    serving: Serving, length: str
) -> None:
    """As Go sends it: what is larger than 4 KB comes after its head."""
    head = f"POST /mutate HTTP/1.1\r\nHost: a\r\n{length}\r\n\r\n".encode()
    body = review_of()
    whole = request("POST", "/mutate", body)
    waiting = [serving.wire("webhook") for _ in range(20)]
    for each in waiting:
        each.send(head)

    with serving.wire("webhook") as wire:
        wire.send(whole[: -len(body)])
        assert serving.review(body)["allowed"]  # by when it is answered, that head has been read
        wire.send(body)
        answer = wire.answer()

    assert answer is not None
    assert answer.status == 200
    for each in waiting:
        each.socket.close()
