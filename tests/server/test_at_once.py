"""Plain requests are answered ahead of the app; nobody shall be able to tell but by the clock."""

import asyncio
import json
import time

import pytest
from aiohttp import web

from extender.server import listen
from extender.server.listen import listening
from tests.server.serving import (
    HOST,
    JSON,
    SLICE,
    Answer,
    Serving,
    Wire,
    gpu_pod,
    request,
    review_of,
)

ARGS = json.dumps({"Pod": gpu_pod(), "Nodes": None, "NodeNames": ["gpu-1", "unknown"]}).encode()
VERBS = {
    "/mutate": ("webhook", review_of(gpu_pod("asr"), uid="alike", dryRun=True)),
    "/scheduler/filter": ("extender", ARGS),
    "/scheduler/prioritize": ("extender", ARGS),
}


def at_once(answer: Answer) -> bool:
    """aiohttp names itself in every answer it makes."""
    return "server" not in answer.headers


def warm(wire: Wire, path: str, body: bytes) -> None:
    """The first request of a connection may arrive before aiohttp waits for one."""
    wire.ask("POST", path, body)


@pytest.mark.parametrize("path", VERBS)
def test_the_app_would_have_answered_the_same(serving: Serving, path: str) -> None:
    port, body = VERBS[path]
    with serving.wire(port) as wire:
        warm(wire, path, body)
        quick = wire.ask("POST", path, body)
        slow = wire.ask("POST", path, body, Connection="close")

    assert (at_once(quick), at_once(slow)) == (True, False)
    assert (quick.status, quick.json) == (slow.status, slow.json)
    shared = quick.headers.keys() & slow.headers.keys()
    assert shared == {"content-type", "content-length", "date"}
    assert quick.headers["content-type"].partition(";")[0] == "application/json"


def counters(serving: Serving, verb: str) -> tuple[float, float]:
    found = serving.metrics()
    labels = f'{{code="200",verb="{verb}"}}'
    timed = f'migfit_request_duration_seconds_count{{verb="{verb}"}}'
    return found.get(f"migfit_requests_total{labels}", 0.0), found.get(timed, 0.0)


@pytest.mark.parametrize("path", VERBS)
def test_it_is_counted_like_any_other(serving: Serving, path: str) -> None:
    port, body = VERBS[path]
    if path == "/mutate":
        body = review_of(gpu_pod("counted"))
    with serving.wire(port) as wire:
        warm(wire, path, body)
        before = counters(serving, path)
        assert at_once(wire.ask("POST", path, body))
        wire.ask("POST", path, body, Connection="close")
    requests, timed = counters(serving, path)
    assert (requests - before[0], timed - before[1]) == (2, 2)


@pytest.mark.parametrize(
    "sent",
    [
        request("POST", "/mutate", b"not json"),
        request("POST", "/mutate", b""),
        request("POST", "/mutate/elsewhere", b"{}"),
        request("GET", "/mutate"),
        request("POST", "/mutate", b"{}", Connection="close"),
        request("POST", "/mutate", b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"),
        request("POST", "/mutate", b"{}", Connection="Upgrade", Upgrade="websocket"),
    ],
    ids=["no JSON", "no body", "no such path", "GET", "closing", "HTTP/1.0", "upgrade"],
)
def test_what_is_not_plain_goes_on_to_the_app(serving: Serving, sent: bytes) -> None:
    with serving.wire("webhook") as wire:
        warm(wire, "/mutate", review_of())
        wire.send(sent)
        answer = wire.answer()
    assert answer is not None
    assert not at_once(answer)
    assert 400 <= answer.status < 500
    assert answer.line


def test_a_body_in_pieces_is_waited_for(serving: Serving) -> None:
    body = review_of()
    whole = request("POST", "/mutate", body)
    with serving.wire("webhook") as wire:
        warm(wire, "/mutate", body)
        wire.send(whole[:-1])
        with serving.wire("webhook") as other:  # by its answer the first piece has been read too
            other.ask("POST", "/mutate", review_of())
        wire.send(whole[-1:])
        answer = wire.answer()
    assert answer is not None
    assert not at_once(answer)
    assert answer.json["response"]["allowed"] is True


def test_the_query_that_the_api_server_adds_makes_no_difference(serving: Serving) -> None:
    with serving.wire("webhook") as wire:
        warm(wire, "/mutate", review_of())
        answer = wire.ask("POST", "/mutate?timeout=3s", review_of())
    assert at_once(answer)
    assert answer.json["response"]["allowed"] is True


def test_a_pod_turned_down_everywhere_is_looked_at_again_by_the_app(serving: Serving) -> None:
    rewritten: JSON = gpu_pod(labels={"migfit.io/rewritten": "true"})
    rewritten["metadata"]["annotations"]["migfit.io/need"] = "99999Mi"
    rewritten["spec"]["containers"][0]["resources"] = {"limits": {SLICE: "1"}}
    body = json.dumps({"Pod": rewritten, "NodeNames": ["gpu-1"]}).encode()
    with serving.wire("extender") as wire:
        warm(wire, "/scheduler/prioritize", ARGS)
        answer = wire.ask("POST", "/scheduler/filter", body)
    assert not at_once(answer)
    assert answer.json["NodeNames"] == []


async def test_a_connection_in_use_is_kept_open_and_one_left_alone_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listen, "KEEP_ALIVE_S", 1.0)
    app = web.Application()
    async with listening(app, HOST, 0, at_once=lambda _path, body: body) as port:
        loop = asyncio.get_running_loop()

        def ask_until(end_s: float) -> int:
            asked = 0
            while time.monotonic() < end_s:
                assert wire.ask("POST", "/", b"{}").json == {}
                asked += 1
            return asked

        with Wire(port) as wire:
            first = await loop.run_in_executor(None, wire.ask, "POST", "/", b"{}")
            while not at_once(first):  # before aiohttp waits, the app says 404
                first = await loop.run_in_executor(None, wire.ask, "POST", "/", b"{}")
            end_s = time.monotonic() + 2.0
            assert await loop.run_in_executor(None, ask_until, end_s) > 0
            assert await loop.run_in_executor(None, wire.answer) is None  # hung up on, when idle
