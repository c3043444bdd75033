"""What may go wrong between migfit and the API server: a proxy of HTTP in which it does."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import aiohttp
from aiohttp import web

from tests.controlplane import commands
from tests.controlplane.plane import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.controlplane.plane import ControlPlane

HOST = "127.0.0.1"
EXPIRED = {
    "kind": "Status",
    "apiVersion": "v1",
    "metadata": {},
    "status": "Failure",
    "message": "too old resource version: 1 (2)",
    "reason": "Expired",
    "code": 410,
}
_PASSED_ON = ("Accept", "Accept-Encoding", "Content-Type")
_PASSED_BACK = ("Content-Type", "Content-Encoding", "Retry-After")
_LARGEST_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong; by default nothing.

    Attributes:
        gone: every list, and every watch by an ERROR event, is answered 410.
        answer_s: how long every answer takes to begin.
        watch_s: after so long every watch is ended, in good order; None: never.
        silent: every watch begins, and brings nothing.
    """

    gone: bool = False
    answer_s: float = 0.0
    watch_s: float | None = None
    silent: bool = False


class Between:
    """An API server on plain HTTP that is the plane's, but for its faults.

    An asynchronous context manager.

    Args:
        plane: who answers.
        folder: for the kubeconfig that leads here.

    Attributes:
        kubeconfig: how to get here, with the rights of the admin.
    """

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self._plane = plane
        self._port = free_port()
        self._fault = Fault()
        self._cut = asyncio.Event()
        self.kubeconfig = folder / "between.kubeconfig"
        document = commands.kubeconfig(f"http://{HOST}:{self._port}", plane.ca_file, {})
        self.kubeconfig.write_text(json.dumps(document))

    async def __aenter__(self) -> Self:
        assert self._plane.client.tls is not None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._plane.client.tls),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding",),
        )
        app = web.Application(client_max_size=_LARGEST_BYTES)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self._port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._cut.set()
        await self._runner.cleanup()
        await self._session.close()

    async def now(self, fault: Fault) -> float:
        """This is wrong from now on, and watches that are open are cut; the monotonic time.

        When all is well again, watches are cut only if they would bring nothing for ever.
        """
        silent, self._fault = self._fault.silent, fault
        if silent or fault != Fault():
            self._cut.set()
            self._cut = asyncio.Event()
        return time.monotonic()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        watch, fault = "watch" in request.query, self._fault
        listing = request.method == "GET" and "limit" in request.query
        if fault.answer_s:
            await asyncio.sleep(fault.answer_s)
        if fault.gone and watch:
            return web.Response(text=f"{json.dumps({'type': 'ERROR', 'object': EXPIRED})}\n")
        if fault.gone and listing:
            return web.json_response(EXPIRED, status=410)
        try:
            if watch:
                return await self._passed_on(request, fault.watch_s, silent=fault.silent)
            return await self._passed_on(request)
        except (aiohttp.ClientError, OSError):
            return _cut(request)  # it is really away

    async def _passed_on(
        self, request: web.Request, until_s: float | None = None, *, silent: bool = False
    ) -> web.StreamResponse:
        cut = self._cut
        async with self._session.request(
            request.method,
            self._plane.url + request.raw_path,
            data=await request.read() if request.body_exists else None,
            headers={k: request.headers[k] for k in _PASSED_ON if k in request.headers},
        ) as theirs:
            ours = web.StreamResponse(status=theirs.status)
            for name in _PASSED_BACK:
                if name in theirs.headers:
                    ours.headers[name] = theirs.headers[name]
            await ours.prepare(request)
            if silent:
                await cut.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(until_s):
                    await _copy(theirs, ours, cut)
            if cut.is_set():
                return _cut(request)
            await ours.write_eof()
            return ours


async def _copy(
    theirs: aiohttp.ClientResponse, ours: web.StreamResponse, cut: asyncio.Event
) -> None:
    """The body, until it ends or is to be cut."""
    cutting = asyncio.create_task(cut.wait())
    try:
        while not cut.is_set():
            reading = asyncio.ensure_future(theirs.content.readany())
            try:
                await asyncio.wait([reading, cutting], return_when=asyncio.FIRST_COMPLETED)
                if not reading.done() or not (piece := reading.result()):
                    return
            finally:
                reading.cancel()
            await ours.write(piece)
    finally:
        cutting.cancel()


def _cut(request: web.Request) -> web.StreamResponse:
    """Hang up. The answer given is written to nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)
