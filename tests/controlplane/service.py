"""A Service in the suite: TCP on loopback, forwarded to the replicas that were ready a moment ago."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import aiohttp

from tests.controlplane.plane import free_port

if TYPE_CHECKING:
    from tests.controlplane.migfit import Ports

LAG_S = 2.0
"""From what a replica says of itself until connections follow, as with the endpoints of a Service."""
PROBE_EVERY_S = 0.1
PROBE_S = 1.0
"""How long /readyz may take."""
_PIECE_BYTES = 64 * 1024
HOST = "127.0.0.1"


@dataclass(eq=False)
class Endpoint:
    """One replica behind the Service.

    Attributes:
        name: of the replica.
        ports: where it listens.
        ready: whether new connections go there.
        changed_s: when that changed last, by the monotonic clock.
    """

    name: str
    ports: Ports
    ready: bool = False
    changed_s: float = 0.0

    def saw(self, ready: bool) -> None:
        """Take over what /readyz said a while ago."""
        if ready is not self.ready:
            self.ready = ready
            self.changed_s = time.monotonic()


class Service:
    """Forwards as kube-proxy does: a new connection to any ready replica, an open one stays.

    Where there is no ready replica a connection is cut at once. An asynchronous context manager.

    Attributes:
        port: where it listens on 127.0.0.1.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self._endpoints: list[Endpoint] = []
        self._probes: dict[Endpoint, asyncio.Task[None]] = {}
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PROBE_S))
        self._server = await asyncio.start_server(self._accepted, HOST, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        tasks = [*self._probes.values(), *self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    async def add(self, name: str, ports: Ports) -> Endpoint:
        """Follow one more replica, which may not have been started yet."""
        endpoint = Endpoint(name, ports)
        self._endpoints.append(endpoint)
        self._probes[endpoint] = asyncio.create_task(self._probe(endpoint))
        return endpoint

    @property
    def ready(self) -> set[str]:
        """Names of the replicas that new connections go to."""
        return {each.name for each in self._endpoints if each.ready}

    def changed_s(self, name: str) -> float:
        """When new connections began or ceased to go to that replica, by the monotonic clock."""
        return next(each.changed_s for each in self._endpoints if each.name == name)

    async def _probe(self, endpoint: Endpoint) -> None:
        url = f"http://{HOST}:{endpoint.ports.ops}/readyz"
        while True:
            ready = False
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with self._session.get(url) as answer:
                    ready = answer.status == 200
            self._loop.call_later(LAG_S, endpoint.saw, ready)
            await asyncio.sleep(PROBE_EVERY_S)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._forward(reader, writer)
        finally:
            writer.transport.abort()
            self._connections.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ready = [each for each in self._endpoints if each.ready]
        if not ready:
            return
        port = random.choice(ready).ports.webhook
        try:
            inner, outer = await asyncio.open_connection(HOST, port)
        except OSError:
            return  # to where nobody is any more
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, outer))
                both.create_task(_copy(inner, writer))
        except* OSError:
            pass  # one side was cut: so is the other
        finally:
            outer.transport.abort()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Everything until the end, the end included."""
    while piece := await source.read(_PIECE_BYTES):
        target.write(piece)
        await target.drain()
    target.write_eof()
