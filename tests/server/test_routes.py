"""Both request ports over real sockets: what they answer, and what they survive."""

import base64
import json
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from extender.server.listen import listening
from extender.server.metrics import Metrics
from extender.server.routes import counted
from tests.server.serving import (
    HOST,
    SLICE,
    Answer,
    Serving,
    Wire,
    gpu_pod,
    request,
    review_of,
    wait_until,
)

MIB = 1 << 20
PATHS = {"webhook": "/mutate", "extender": "/scheduler/prioritize", "ops": "/readyz"}
POSTS = ["webhook", "extender"]
PORTS = [*POSTS, "ops"]

ARGS = json.dumps({"Pod": gpu_pod(), "Nodes": None, "NodeNames": ["gpu-1", "unknown"]}).encode()


def good_request_is_served(serving: Serving, port: str) -> None:
    if port == "webhook":
        assert serving.review(review_of())["allowed"] is True
    elif port == "extender":
        answer = serving.ask("extender", "POST", PATHS["extender"], ARGS)
        assert [score["Host"] for score in answer.json] == ["gpu-1"]
    else:
        assert serving.ask("ops", "GET", "/readyz").line == "ok"


def refused(serving: Serving, port: str, data: bytes) -> Answer:
    """A refusal in one line, after which the next request is served and nothing crashed."""
    before = len(serving.tracebacks())
    with serving.wire(port) as wire:
        wire.send(data)
        answer = wire.answer()
    assert answer is not None
    assert 400 <= answer.status < 500
    assert answer.line
    good_request_is_served(serving, port)
    assert serving.tracebacks()[before:] == []
    return answer


# --- good requests -------------------------------------------------------------------------------


def test_a_pod_that_fits_a_slice_is_rewritten(serving: Serving) -> None:
    body = review_of(gpu_pod())

    response = serving.review(body)

    assert response["allowed"] is True
    assert response["uid"] == json.loads(body)["request"]["uid"]
    patch = json.loads(base64.b64decode(response["patch"]))
    resources = "/spec/containers/0/resources"
    slash = SLICE.replace("/", "~1")
    assert {"op": "add", "path": f"{resources}/limits/{slash}", "value": "1"} in patch
    assert response["warnings"]
    assert "Fits" in response["auditAnnotations"]["decision"]


def test_nodes_are_filtered_and_ranked(serving: Serving) -> None:
    rewritten = gpu_pod(labels={"migfit.io/rewritten": "true"})
    rewritten["spec"]["containers"][0]["resources"] = {"limits": {SLICE: "1"}}
    args = json.dumps({"Pod": rewritten, "NodeNames": ["unknown", "gpu-1"]}).encode()

    passed = serving.ask("extender", "POST", "/scheduler/filter", args).json
    ranked = serving.ask("extender", "POST", "/scheduler/prioritize", args).json

    assert passed["NodeNames"] == ["unknown", "gpu-1"]
    assert ranked == [{"Host": "gpu-1", "Score": 10}]


def test_requests_in_a_row_on_one_connection_are_all_answered(serving: Serving) -> None:
    bodies = [review_of(gpu_pod(f"p{i}")) for i in range(50)]
    with serving.wire("webhook") as wire:
        for body in bodies:
            answer = wire.ask("POST", "/mutate", body)
            assert answer.headers.get("connection") != "close"
            assert answer.json["response"]["uid"] == json.loads(body)["request"]["uid"]


def test_requests_sent_at_once_are_answered_in_their_order(serving: Serving) -> None:
    bodies = [review_of(gpu_pod(f"p{i}")) for i in range(20)]
    bad = request("POST", "/mutate", b"not json")
    with serving.wire("webhook") as wire:
        wire.send(b"".join(request("POST", "/mutate", body) + bad for body in bodies))
        for body in bodies:
            answer = wire.answer()
            assert answer is not None
            assert answer.json["response"]["uid"] == json.loads(body)["request"]["uid"]
            answer = wire.answer()
            assert answer is not None
            assert answer.status == 400


# --- bad requests --------------------------------------------------------------------------------

DEEP = b"[" * 10_000
DEEP_OBJECT = b'{"a":' * 10_000 + b"1" + b"}" * 10_000


@pytest.mark.parametrize("port", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b'{"torn',
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b"7",
        b'{"kind":"Pod","apiVersion":"v1"}',
        DEEP,
        DEEP_OBJECT,
        zlib.compress(b"{}"),
    ],
    ids=[
        "none", "text", "torn", "bytes", "null", "list", "number", "wrong kind", "deep list",
        "deep object", "compressed",
    ],
)  # fmt: skip
def test_a_body_that_is_no_request_of_ours_is_refused(
    serving: Serving, port: str, body: bytes
) -> None:
    answer = refused(serving, port, request("POST", PATHS[port], body))

    assert answer.status == 400


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}}, "Pod"),
        ({"operation": "DELETE"}, "neither CREATE nor UPDATE"),
        ({"subResource": "status"}, "Pod"),
        ({"object": None}, "object"),
        ({"uid": ""}, "uid"),
    ],
)
def test_a_review_we_cannot_answer_is_refused_and_says_why(
    serving: Serving, fields: dict[str, Any], says: str
) -> None:
    answer = refused(serving, "webhook", request("POST", "/mutate", review_of(**fields)))

    assert says in answer.line


@pytest.mark.parametrize("port", POSTS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_only_post_is_served_and_the_refusal_says_so(
    serving: Serving, port: str, method: str
) -> None:
    answer = refused(serving, port, request(method, PATHS[port]))

    assert answer.status == 405
    assert answer.headers["allow"] == "POST"
    assert "use POST" in answer.line


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_nothing_can_be_posted_to_the_operations_port(serving: Serving, path: str) -> None:
    answer = refused(serving, "ops", request("POST", path, b"{}"))

    assert answer.status == 405


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("path", ["/", "/mutate/", "/scheduler", "/../etc/passwd", "/%00", "*"])
def test_nothing_else_is_served(serving: Serving, port: str, path: str) -> None:
    assert refused(serving, port, request("POST", path, b"{}")).status in {400, 404}


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\xff\r\n\r\n",
        b"hello there\n\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nno colon here\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 5_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /nowhere HTTP/1.1\r\nHost: a\r\nExpect: \xba\r\n\r\n",
    ],
    ids=[
        "bytes", "text", "version", "no colon", "huge header", "many headers", "long path",
        "negative length", "two lengths", "HTTP/2", "no text",
    ],
)  # fmt: skip
def test_what_is_no_http_is_refused_and_the_connection_closed(
    serving: Serving, port: str, data: bytes
) -> None:
    refused(serving, port, data)


@pytest.mark.parametrize("port", POSTS)
def test_a_body_in_broken_chunks_is_refused(serving: Serving, port: str) -> None:
    head = f"POST {PATHS[port]} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()

    assert refused(serving, port, head + b"nonsense\r\nabc\r\n").status == 400


@pytest.mark.parametrize("port", POSTS)
def test_a_client_that_leaves_in_the_middle_of_a_body_hurts_nobody(
    serving: Serving, port: str
) -> None:
    before = len(serving.tracebacks())
    for _ in range(3):
        with serving.wire(port) as wire:
            wire.send(request("POST", PATHS[port], b'{"half', Content_Length=1000))

    good_request_is_served(serving, port)
    assert serving.tracebacks()[before:] == []


def test_plain_http_on_the_tls_port_is_hung_up_on(serving: Serving) -> None:
    with Wire(serving.port("webhook")) as wire:
        wire.send(request("GET", "/mutate"))
        assert wire.answer() is None

    good_request_is_served(serving, "webhook")


@pytest.mark.parametrize("port", ["extender", "ops"])
def test_tls_on_a_plain_port_is_refused(serving: Serving, port: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011  any of ssl's, or a reset
        Wire(serving.port(port), serving.tls)

    good_request_is_served(serving, port)


# --- too much ------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", ["webhook", "ops"])
def test_50_mb_are_refused_before_they_are_sent(serving: Serving, port: str) -> None:
    with serving.wire(port) as wire:
        wire.send(request("POST", PATHS[port], b"[", Content_Length=50 * MIB))
        answer = wire.answer()

    assert answer is not None
    assert answer.status == 413
    assert answer.line
    good_request_is_served(serving, port)


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("chunked", [False, True])
def test_50_mb_do_not_swell_the_process(serving: Serving, port: str, chunked: bool) -> None:
    piece = b" " * MIB
    before_kib = serving.peak_kib()
    with serving.wire(port) as wire:
        if chunked:
            head = f"POST {PATHS[port]} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            wire.send(head.encode())
        else:
            wire.send(request("POST", PATHS[port], Content_Length=50 * MIB))
        for _ in range(50):
            wire.send(b"%x\r\n%s\r\n" % (MIB, piece) if chunked else piece)
        wire.send(b"0\r\n\r\n" if chunked else b"")
        answer = wire.answer()

    assert answer is None or 400 <= answer.status < 500
    # A whole NodeList may come to the extender; a review and an operations request are small.
    most_mib = 150 if port == "extender" else 40
    assert serving.peak_kib() - before_kib < most_mib * 1024
    good_request_is_served(serving, port)


Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[..., Awaitable[str]]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def serve(metrics: Metrics) -> AsyncIterator[Serve]:
    """An app with one route `/do`, behind the middleware; its URL."""
    async with AsyncExitStack() as stack:

        async def begin(handle: Handle, *, draining: bool = False) -> str:
            middleware = counted(metrics, lambda: draining)
            app = web.Application(client_max_size=1000, middlewares=[middleware])
            app.router.add_post("/do", handle)
            port = await stack.enter_async_context(listening(app, HOST, 0, drain_s=0.1))
            return f"http://{HOST}:{port}/do"

        yield begin


async def read_it(request: web.Request) -> web.StreamResponse:
    return web.Response(text=f"{len(await request.read())}\n")


async def test_a_bug_of_ours_is_one_line_to_the_client_and_a_trace_in_the_log(
    serve: Serve, session: aiohttp.ClientSession, metrics: Metrics
) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        raise ZeroDivisionError("a secret\nof two lines")

    url = await serve(handle)

    with capture_logs() as logs:
        for _ in range(2):
            async with session.post(url, data=b"{}") as answer:
                assert answer.status == 500
                assert (await answer.text()).splitlines() == [
                    "internal error; see the log of migfit"
                ]

    assert [log["event"] for log in logs] == ["request failed"] * 2
    assert all(log["exc_info"] for log in logs)
    assert b'migfit_requests_total{code="500",verb="/do"} 2.0' in generate_latest(metrics.registry)


@pytest.mark.parametrize("draining", [False, True])
async def test_while_draining_every_answer_lets_the_connection_go(
    serve: Serve, session: aiohttp.ClientSession, draining: bool
) -> None:
    url = await serve(read_it, draining=draining)

    for target in (url, f"{url}/nowhere"):
        async with session.post(target, data=b"{}") as answer:
            assert (answer.headers.get("Connection") == "close") is draining


# --- dry runs ------------------------------------------------------------------------------------


def test_a_dry_run_is_answered_alike_and_counts_in_its_own_counter_only(serving: Serving) -> None:
    pod = gpu_pod("dry")
    serving.review(review_of(pod))

    def counters() -> dict[str, float]:
        """What counts, but for events of the cluster and for our own looking."""
        return {
            name: value
            for name, value in serving.metrics().items()
            if re.match(r"migfit_(?!watch_).*_(total|count|sum|bucket)\b", name)
            and 'verb="/metrics"' not in name
        }

    before = counters()
    body = review_of(pod, dry_run=True)
    response = serving.review(body)
    after = counters()

    uid = json.loads(body)["request"]["uid"]
    assert json.loads(base64.b64decode(response["patch"]))
    (line,) = wait_until(lambda: serving.audit_of(uid), "its audit line is there")
    assert line["dryRun"] is True
    changed = {k: after[k] - before.get(k, 0) for k in after if after[k] != before.get(k)}
    assert changed == {"migfit_dry_run_reviews_total": 1}
