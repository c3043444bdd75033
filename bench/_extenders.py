"""Extenders to hold ours against: one that does nothing, and one that answers garbage."""

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from bench._servers import serve_app
from extender.server.routes import LARGEST_ARGS_BYTES

GARBAGE: tuple[tuple[int, bytes], ...] = (
    (200, b"<html><body>welcome to the proxy</body></html>"),
    (200, b'{"NodeNames": ["a-node-that-nobody-asked-about"], "Error": ""}'),
    (500, b"internal error"),
    (200, b'[{"Host": "n", "Score": 7.5}]'),
    (200, b'"a string"'),
    (200, b'{"NodeNames": {"a": "map"}}'),
    (200, b""),
    (404, b"nothing is served at this path"),
)
"""Status and body of answers that kube-scheduler cannot take for filter and prioritize results.

Not among them is what it can take: `{}` is a filter result that turns every node down."""

Handler = Callable[[web.Request], Awaitable[web.Response]]


def do_nothing(port: int) -> None:
    """Passes every node and prefers none; parses what it is asked, as any extender must."""

    async def pass_all(request: web.Request) -> web.Response:
        args: dict[str, Any] = orjson.loads(await request.read())
        passed = {"NodeNames": args["NodeNames"], "FailedNodes": {}, "Error": ""}
        return web.Response(body=orjson.dumps(passed), content_type="application/json")

    async def prefer_none(request: web.Request) -> web.Response:
        orjson.loads(await request.read())
        return web.Response(body=b"[]", content_type="application/json")

    _serve(port, pass_all, prefer_none)


def garbage(port: int) -> None:
    """Answers every request with something else that is no answer; either verb with all of it."""

    def babbling() -> Handler:
        answers = itertools.cycle(GARBAGE)

        async def babble(request: web.Request) -> web.Response:
            await request.read()
            status, body = next(answers)
            return web.Response(status=status, body=body, content_type="application/json")

        return babble

    _serve(port, babbling(), babbling())


def _serve(port: int, on_filter: Handler, on_prioritize: Handler) -> None:
    app = web.Application(client_max_size=LARGEST_ARGS_BYTES)
    app.router.add_post("/scheduler/filter", on_filter)
    app.router.add_post("/scheduler/prioritize", on_prioritize)
    serve_app(port, app)
