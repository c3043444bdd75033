"""Bodies on their way: how long each may take, and how much of them there may be at the same time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

BODY_S = 10.0


class Bodies:
    """Takes bodies in; there is one for a port.

    What counts is what has come of a body, not what its head says will. When that is too much of all
    together the largest is given up: who sends much and does not end it costs others nothing, whose
    requests are small.

    Args:
        most_bytes: of all that have come, in part or whole, and are not answered yet.
        body_s: how long one may take to arrive.
    """

    def __init__(self, most_bytes: int, body_s: float = BODY_S) -> None:
        self._most_bytes, self._body_s = most_bytes, body_s
        self._coming: dict[asyncio.Timeout, int] = {}
        """How much of each has come, by its time-out."""
        self._whole_bytes = 0
        self._given_up: set[asyncio.Timeout] = set()

    @property
    def come_bytes(self) -> int:
        """How much has come of what is not answered yet."""
        return sum(self._coming.values()) + self._whole_bytes

    @asynccontextmanager
    async def whole(self, request: web.Request) -> AsyncIterator[bytes]:
        """The body of a request, which has its room until it is answered.

        Raises:
            web.HTTPException: it is too large, it took too long, or there is no room for it.
        """
        if request.content.is_eof():  # it came whole with its head: nothing to count or to time
            yield await request.read()
            return
        body = await self._arrived(request)
        self._whole_bytes += len(body)
        try:
            yield body
        finally:
            self._whole_bytes -= len(body)

    async def _arrived(self, request: web.Request) -> bytes:
        body = bytearray()
        patience = asyncio.timeout(self._body_s)
        try:
            async with patience:
                while piece := await request.content.readany():
                    body += piece
                    if len(body) > request.client_max_size:
                        raise web.HTTPRequestEntityTooLarge(request.client_max_size)
                    self._coming[patience] = len(body)
                    self._make_room(patience)
        except TimeoutError:
            if patience in self._given_up:
                raise _no_room() from None
            why = f"the body took longer than {self._body_s:g} s"
            raise web.HTTPRequestTimeout(reason=why) from None
        finally:
            self._coming.pop(patience, None)
            self._given_up.discard(patience)
        return bytes(body)

    def _make_room(self, mine: asyncio.Timeout) -> None:
        """Give up as many as it takes, the largest first; of equals, the one that has just grown."""
        while self.come_bytes > self._most_bytes:
            largest = max(self._coming, key=lambda each: (self._coming[each], each is mine))
            if largest is mine:
                raise _no_room()
            del self._coming[largest]
            if not largest.expired():
                self._given_up.add(largest)
                largest.reschedule(0.0)  # long ago: it is over with its next step


def _no_room() -> web.HTTPException:
    return web.HTTPServiceUnavailable(reason="too many requests at once; try again")
