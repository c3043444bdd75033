"""How many connections a port takes, and what it does with clients who leave things undone."""

import asyncio
import resource
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from extender.server.at_once import AtOnce
from extender.server.connections import Limits
from extender.server.listen import listening
from tests.server.conftest import Start
from tests.server.serving import HOST, PATIENCE_S, Pair, Wire, request, wait_until

SHORT = {
    "silent_s": 0.0,
    "grace_s": 0.0,
    "handshake_s": 0.2,
    "head_s": 0.2,
    "unread_s": 0.2,
    "sweep_s": 0.02,
}
"""Times that are over soon."""
LONG = {
    "silent_s": 0.0,
    "grace_s": 0.0,
    "handshake_s": 60.0,
    "head_s": 60.0,
    "unread_s": 60.0,
    "sweep_s": 0.02,
}
"""Times that are never over here."""
PARTIAL = b"GET /do HTTP/1.1\r\nHost: a\r\nX-Half: "

Begin = Callable[..., Awaitable[int]]


@pytest.fixture
def server_tls(pair: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    return context


@pytest.fixture
async def begin() -> AsyncIterator[Begin]:
    """An app with one route `/do` and the limits given; its port."""

    async def plain(request: web.Request) -> web.StreamResponse:
        return web.Response(text=f"{len(await request.read())}\n")

    async with AsyncExitStack() as stack:

        async def start(
            handle: Any = plain,
            tls: ssl.SSLContext | None = None,
            at_once: AtOnce | None = None,
            **limits: Any,
        ) -> int:
            app = web.Application()
            app.router.add_route("*", "/do", handle)
            serving = listening(
                app, HOST, 0, tls=tls, at_once=at_once, drain_s=0.1, limits=Limits(**limits)
            )
            return await stack.enter_async_context(serving)

        yield start


async def aside(job: Callable[..., Any], *args: Any) -> Any:
    """Do what blocks on a thread, so that the server can answer meanwhile."""
    return await asyncio.wait_for(asyncio.to_thread(job, *args), PATIENCE_S)


def connected(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), timeout=PATIENCE_S)


def read_to_the_end(raw: socket.socket) -> bytes:
    """What comes until the server closes; TimeoutError if it does not."""
    pieces = []
    with raw:
        try:
            while piece := raw.recv(1 << 16):
                pieces.append(piece)
        except ConnectionError:
            pass
    return b"".join(pieces)


def greeting(tls: ssl.SSLContext) -> bytes:
    """The first that a client of TLS sends."""
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        tls.wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost").do_handshake()
    return out.read()


def ask(port: int, tls: ssl.SSLContext | None = None) -> int:
    with Wire(port, tls) as wire:
        return wire.ask("GET", "/do").status


# --- too many ------------------------------------------------------------------------------------


async def test_beyond_the_most_those_who_never_asked_go_first_the_oldest_before_all(
    begin: Begin,
) -> None:
    port = await begin(connections=4, **LONG)
    asked = Wire(port)
    assert (await aside(asked.ask, "GET", "/do")).status == 200
    silent = [await aside(connected, port) for _ in range(3)]

    assert await aside(ask, port) == 200  # in the place of the first
    assert await aside(read_to_the_end, silent[0]) == b""
    assert (await aside(asked.ask, "GET", "/do")).status == 200
    with asked, silent[1], silent[2]:
        silent[2].sendall(request("GET", "/do"))
        assert (await aside(silent[2].recv, 100)).startswith(b"HTTP/1.1 200")


async def test_of_those_who_asked_the_one_longest_idle_goes_first(begin: Begin) -> None:
    port = await begin(connections=2, **LONG)
    with Wire(port) as first, Wire(port) as second:
        for wire in (first, second, first):
            assert (await aside(wire.ask, "GET", "/do")).status == 200

        assert await aside(ask, port) == 200

        assert await aside(second.answer) is None
        assert (await aside(first.ask, "GET", "/do")).status == 200


async def test_what_we_are_working_on_is_never_given_up_and_others_wait_for_their_turn(
    begin: Begin,
) -> None:
    go, begun = asyncio.Event(), asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        begun.set()
        await go.wait()
        return web.Response(text="done\n")

    port = await begin(handle, connections=1, **SHORT)
    working = asyncio.create_task(aside(ask, port))
    await begun.wait()
    waiting = asyncio.create_task(aside(ask, port))
    done, _ = await asyncio.wait([working, waiting], timeout=0.3)
    assert done == set()

    go.set()

    assert [await working, await waiting] == [200, 200]


async def test_who_is_answered_at_once_has_asked_and_owes_nothing(begin: Begin) -> None:
    port = await begin(at_once=lambda _path, _body: b"{}", connections=2, **SHORT)
    with Wire(port) as asked, Wire(port) as silent:
        assert (await aside(asked.ask, "POST", "/do", b"{}")).body == b"{}"
        await asyncio.sleep(0.5)  # longer than a head may take

        assert await aside(ask, port) == 200

        assert await aside(silent.answer) is None
        assert (await aside(asked.ask, "POST", "/do", b"{}")).body == b"{}"


async def test_who_has_only_just_come_is_not_given_up_for_the_next(begin: Begin) -> None:
    port = await begin(connections=1, **{**LONG, "grace_s": 60.0})
    with Wire(port) as first:
        waiting = asyncio.create_task(aside(ask, port))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert done == set()

        assert (await aside(first.ask, "GET", "/do")).status == 200  # from now on it is idle

        assert await waiting == 200
        assert await aside(first.answer) is None


async def test_of_many_who_come_at_once_with_their_request_nobody_is_given_up_unread(
    begin: Begin,
) -> None:
    port = await begin(connections=4, **{**LONG, "grace_s": 60.0})
    crowd = [connected(port) for _ in range(40)]  # on this thread: nobody is taken meanwhile
    for raw in crowd:
        raw.sendall(request("GET", "/do"))

    answers = await asyncio.gather(*(aside(raw.recv, 100) for raw in crowd))

    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 40
    for raw in crowd:
        raw.close()


async def test_a_body_that_does_not_come_makes_room_for_a_request_that_does(begin: Begin) -> None:
    port = await begin(connections=1, **LONG)
    stuck = await aside(connected, port)
    stuck.sendall(request("POST", "/do", b"ha", Content_Length=100))

    assert await aside(ask, port) == 200
    assert b"200" not in await aside(read_to_the_end, stuck)


async def test_handshakes_that_never_begin_make_room_for_one_that_does(
    begin: Begin, server_tls: ssl.SSLContext, pair: Pair
) -> None:
    port = await begin(tls=server_tls, connections=4, **LONG)
    silent = [await aside(connected, port) for _ in range(20)]

    assert await aside(ask, port, pair.tls) == 200
    for raw in silent[:10]:
        assert await aside(read_to_the_end, raw) == b""
    for raw in silent[10:]:
        raw.close()


@pytest.mark.parametrize("said", [0, 1, 5, 100])
async def test_who_has_not_said_all_of_a_greeting_makes_room_for_those_who_have(
    begin: Begin, server_tls: ssl.SSLContext, pair: Pair, said: int
) -> None:
    port = await begin(tls=server_tls, connections=1, **{**LONG, "grace_s": 60.0})
    hesitant = await aside(connected, port)
    hesitant.sendall(greeting(pair.tls)[:said])

    assert await aside(ask, port, pair.tls) == 200
    assert await aside(read_to_the_end, hesitant) == b""


async def test_in_the_middle_of_a_handshake_a_client_is_given_time(
    begin: Begin, server_tls: ssl.SSLContext, pair: Pair
) -> None:
    port = await begin(tls=server_tls, connections=1, **{**LONG, "grace_s": 60.0})
    with await aside(connected, port) as greeted:
        greeted.sendall(greeting(pair.tls))
        assert await aside(greeted.recv, 1)  # the server's turn is over
        waiting = asyncio.create_task(aside(ask, port, pair.tls))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert done == set()

    assert await waiting == 200


async def test_a_greeting_may_come_in_pieces_and_what_is_none_is_refused_at_once(
    begin: Begin, server_tls: ssl.SSLContext, pair: Pair
) -> None:
    port = await begin(tls=server_tls, **LONG)
    said = greeting(pair.tls)

    def hesitate() -> bytes:
        with connected(port) as raw:
            for piece in (said[:3], said[3:90], said[90:]):
                raw.sendall(piece)
                time.sleep(0.05)
            return raw.recv(1)

    def blurt() -> bytes:
        with connected(port) as raw:
            raw.sendall(request("GET", "/do"))
            return read_to_the_end(raw)

    assert await aside(hesitate) == b"\x16"
    assert b"200" not in await aside(blurt)


# --- too slow ------------------------------------------------------------------------------------


async def test_a_head_that_does_not_end_is_told_so_in_one_line_however_it_drips(
    begin: Begin,
) -> None:
    port = await begin(**SHORT)

    def drip() -> bytes:
        with connected(port) as raw:
            raw.sendall(PARTIAL)
            raw.settimeout(0.05)
            for _ in range(int(PATIENCE_S / 0.05)):
                try:
                    answer = raw.recv(1000)
                except TimeoutError:
                    raw.sendall(b"x")
                    continue
                return answer + read_to_the_end(raw)
        return b""

    head, _, body = (await aside(drip)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert f"Content-Length: {len(body)}".encode() in head
    assert body == b"the request's head took too long\n"
    assert await aside(ask, port) == 200


async def test_the_head_of_a_later_request_has_no_more_time(begin: Begin) -> None:
    port = await begin(**SHORT)
    with Wire(port) as wire:
        assert (await aside(wire.ask, "GET", "/do")).status == 200
        wire.send(PARTIAL)
        answer = await aside(wire.answer)
        assert answer.status == 408
        assert await aside(wire.answer) is None


async def test_a_handshake_that_does_not_end_is_hung_up_on(
    begin: Begin, server_tls: ssl.SSLContext, pair: Pair
) -> None:
    port = await begin(tls=server_tls, **SHORT)
    begun = await aside(connected, port)
    begun.sendall(b"\x16\x03\x01\x02\x00\x01")  # the first bytes of a ClientHello

    await aside(read_to_the_end, begun)

    assert await aside(ask, port, pair.tls) == 200


async def test_a_client_that_takes_no_answers_is_hung_up_on(begin: Begin) -> None:
    lost = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return web.Response(body=bytes(64 << 20))
        finally:
            lost.set()

    port = await begin(handle, **SHORT)
    deaf = await aside(connected, port)
    deaf.sendall(request("GET", "/do"))
    await lost.wait()

    def is_open() -> bool:
        raw = Path("/proc/net/tcp").read_text().splitlines()[1:]
        peer = f":{deaf.getsockname()[1]:04X}"
        rows = [row.split() for row in raw]
        # 01: established, seen from the server's side.
        return any(row[2].endswith(peer) and row[3] == "01" for row in rows)

    await aside(wait_until, lambda: not is_open(), "the server has hung up")
    deaf.close()


async def test_who_is_merely_idle_stays(begin: Begin) -> None:
    port = await begin(**SHORT)
    with Wire(port) as asked, Wire(port) as silent:
        assert (await aside(asked.ask, "GET", "/do")).status == 200
        await asyncio.sleep(0.5)  # longer than any of the times, which are not for this

        assert (await aside(asked.ask, "GET", "/do")).status == 200
        assert (await aside(silent.ask, "GET", "/do")).status == 200


async def test_a_slow_body_is_no_slow_head(begin: Begin) -> None:
    port = await begin(**SHORT)
    with Wire(port) as wire:
        wire.send(request("POST", "/do", b"a", Content_Length=4))
        await asyncio.sleep(0.5)
        wire.send(b"bcd")

        answer = await aside(wire.answer)
        assert (answer.status, answer.body) == (200, b"4\n")


# --- the process ---------------------------------------------------------------------------------


def test_out_of_open_files_a_port_waits_and_serves_again_when_there_are_some(start: Start) -> None:
    running = start().wait_ready()
    pid = running.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    names = {"webhook": "/mutate", "extender": "/scheduler/filter", "ops": "/healthz"}

    def told() -> int:
        return len(running.logged("connection not taken"))

    def more_than(count: int) -> bool:
        return told() > count

    for name, path in names.items():
        before_it = told()
        open_files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files + 5, before[1]))
        crowd = [connected(running.port(name)) for _ in range(30)]
        wait_until(partial(more_than, before_it), "it says so")
        assert told() == before_it + 1, "once, and not for each of them"
        for raw in crowd:
            raw.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert running.ask(name, "GET", path).status in {200, 405}

    assert running.tracebacks() == []
    assert running.stop() == 0
