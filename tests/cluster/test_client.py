"""The client against real servers on loopback: requests, refusals, streams."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from extender.cluster.client import ApiClient, Stream, connect
from extender.cluster.errors import ApiError, Unreachable, Unreadable
from tests.cluster.apiserver import Handler, echo, kubeconfig, serving


@asynccontextmanager
async def client_of(handler: Handler, folder: Path) -> AsyncIterator[ApiClient]:
    async with serving(handler) as url, connect(kubeconfig(folder, url)) as client:
        yield client


# ---- requests and refusals


async def test_parameters_and_body_arrive_as_they_were_given(tmp_path: Path) -> None:
    params = {"fieldSelector": "spec.nodeName!=,status.phase!=Failed", "continue": "a+b/c=="}
    async with client_of(echo, tmp_path) as client:
        got = json.loads(await client.get("/api/v1/pods", params))
        patched = json.loads(
            await client.request("PATCH", "/x", b'{"a": 1}', "application/merge-patch+json")
        )

    assert (got["method"], got["path"], got["query"]) == ("GET", "/api/v1/pods", params)
    assert got["authorization"] is None
    assert (patched["method"], patched["body"]) == ("PATCH", '{"a": 1}')
    assert patched["content_type"] == "application/merge-patch+json"


async def test_a_refusal_carries_status_reason_message_and_retry_after(tmp_path: Path) -> None:
    async def refuse(_: web.BaseRequest) -> web.StreamResponse:
        body = {"kind": "Status", "code": 429, "reason": "TooManyRequests", "message": "slow\ndown"}
        return web.json_response(body, status=429, headers={"Retry-After": "7"})

    async with client_of(refuse, tmp_path) as client:
        with pytest.raises(ApiError) as caught:
            await client.get("/x")

    error = caught.value
    assert (error.status, error.reason, error.message) == (429, "TooManyRequests", "slow down")
    assert error.retry_after_s == 7
    assert str(error) == "429 TooManyRequests: slow down"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>secret</html>", ""),
        (b'{"kind":"Secret","message":"secret"}', ""),
        (b'{"kind":"Status","message":7}', ""),
        (b"[" * 70_000, ""),
        (json.dumps({"kind": "Status", "message": "x" * 9000}).encode(), "x" * 255 + "…"),
    ],
)
async def test_of_an_odd_refusal_only_the_status_is_kept(
    tmp_path: Path, body: bytes, message: str
) -> None:
    async def refuse(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=502, body=body, headers={"Retry-After": "Wed, 21 Oct 2026"})

    async with client_of(refuse, tmp_path) as client:
        with pytest.raises(ApiError) as caught:
            await client.get("/x")

    assert (caught.value.status, caught.value.message) == (502, message)
    assert caught.value.retry_after_s is None
    assert caught.value.reason == "Bad Gateway"


async def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    async def elsewhere(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/x":
            return web.Response(status=302, headers={"Location": "/y"})
        return web.Response(body=b"followed")

    async with client_of(elsewhere, tmp_path) as client:
        with pytest.raises(ApiError, match="302"):
            await client.get("/x")


async def test_a_server_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    async with serving(echo) as url:
        file = kubeconfig(tmp_path, url)
    async with connect(file) as client:
        with pytest.raises(
            Unreachable, match=r"/x: Cannot connect to host 127.0.0.1:\d+ \[Connect call failed"
        ):
            await client.get("/x")
        with pytest.raises(Unreachable):
            async with client.stream("/x"):
                pytest.fail("there is nothing to stream")


async def test_a_body_cut_short_is_unreachable(tmp_path: Path) -> None:
    async def cut(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with client_of(cut, tmp_path) as client:
        with pytest.raises(Unreachable):
            await client.get("/x")


async def test_noise_instead_of_http_is_unreachable(tmp_path: Path) -> None:
    async def noise(request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request.transport, asyncio.Transport)
        request.transport.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        request.transport.close()
        return web.Response()

    async with client_of(noise, tmp_path) as client:
        with pytest.raises(Unreachable):
            await client.get("/x")


async def test_the_server_version_is_told(tmp_path: Path) -> None:
    async def version(_: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"major": "1", "gitVersion": "v1.37.0"})

    async with client_of(version, tmp_path) as client:
        assert await client.server_version() == "v1.37.0"
    async with client_of(echo, tmp_path) as client:
        with pytest.raises(Unreadable, match="no API server"):
            await client.server_version()


# ---- streams


def chunks(*pieces: bytes, abort: bool = False) -> Handler:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"X-Told": "yes"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if abort:
            assert request.transport is not None
            request.transport.abort()
        return response

    return answer


async def test_a_stream_gives_its_lines_however_long(tmp_path: Path) -> None:
    long = b"x" * 3_000_000
    async with (
        client_of(chunks(b"a\n\nb", b"c\n" + long, long + b"\nend\n"), tmp_path) as client,
        client.stream("/x") as stream,
    ):
        lines = [line async for line in stream]

        assert (stream.status, stream.headers["x-told"]) == (200, "yes")
    assert lines == [b"a", b"", b"bc", long + long, b"end"]


@pytest.mark.parametrize("abort", [True, False])
async def test_a_stream_that_ends_inside_a_line_is_unreachable(tmp_path: Path, abort: bool) -> None:
    async with (
        client_of(chunks(b"whole\n", b"half", abort=abort), tmp_path) as client,
        client.stream("/x") as stream,
    ):
        assert await anext(stream) == b"whole"
        with pytest.raises(Unreachable):
            await anext(stream)


async def test_a_line_without_end_is_given_up(tmp_path: Path) -> None:
    async with (
        client_of(chunks(*[b"x" * 1000] * 100), tmp_path) as client,
        client.stream("/x", line_bytes=50_000) as stream,
    ):
        with pytest.raises(Unreadable, match="more than 50000 bytes"):
            await anext(stream)


async def test_a_stream_that_is_refused_says_so_on_entry(tmp_path: Path) -> None:
    async def refuse(_: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "reason": "Expired"}, status=410)

    async with client_of(refuse, tmp_path) as client:
        with pytest.raises(ApiError, match="410 Expired"):
            async with client.stream("/x"):
                pytest.fail("refused")


@given(st.lists(st.binary(max_size=4).map(lambda raw: raw.replace(b"x", b"\n")), max_size=12))
def test_lines_do_not_depend_on_how_the_bytes_are_cut(pieces: list[bytes]) -> None:
    stream = Stream.__new__(Stream)
    stream._line_bytes = 1000
    stream._lines = deque()
    stream._begun, stream._begun_bytes = [], 0
    for piece in pieces:
        stream._split(piece)

    *whole, rest = b"".join(pieces).split(b"\n")
    assert list(stream._lines) == whole
    assert b"".join(stream._begun) == rest
