"""The connections of a port: how many there may be, and how long each may wait for its client.

Whoever reaches a port can open connections and say nothing, or say it slowly, or not listen. None of
that may cost others their turn: what waits for its client is given up after a time, and at once when
somebody else needs the room. What we are working on is never given up.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)

MOST_CONNECTIONS = 256
"""Of one port. An API server keeps 25 idle ones at most, and opens more only while it waits for as
many answers at once. With TLS each takes 0.3 MB, nearly all of it asyncio's buffer; and three ports of
these fit the 1,024 open files that a process may be given."""
BACKLOG = 1024
"""Connections that the kernel keeps for us until we take them. Who finds no room there tries again after
a second, as TCP does."""
GRACE_S = 0.2
"""For so long a connection that is new, or a body on its way, is not given up for somebody else."""
SILENT_S = 0.5
"""The same for a client that has not greeted yet, which it does with its first packet."""
PROBE_GRACE_S = 0.05
"""The same on the operations port, where a request is one packet right behind the connection: a probe
has a second, and waits in line behind all who say nothing."""
TLS_GRACE_S = 2.0
"""The same from the greeting of a handshake on: 256 of them at the same time keep a busy core for a
second, and the API server waits for three."""
HANDSHAKE_S = 5.0
"""A TLS handshake takes milliseconds, and the API server gives a whole review three seconds."""
HEAD_S = 5.0
"""From the first bytes of a request's head to its last."""
UNREAD_S = 10.0
"""How long an answer may wait for its client to take it."""
SWEEP_S = 1.0
"""How often connections are looked through: the two times above are longer by up to so much."""
AGAIN_S = 0.02
"""Until the next try, after an accept that failed or while there is no room to be made."""
TLS_RECORD_HEAD = 5
"""Bytes before each record: its type, the version, and the length of what follows (RFC 8446, 5.1)."""
TLS_HANDSHAKE = 22
"""The type of the record that a client begins with."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a listener puts up with."""

    connections: int = MOST_CONNECTIONS
    silent_s: float = SILENT_S
    grace_s: float = GRACE_S
    handshake_s: float = HANDSHAKE_S
    head_s: float = HEAD_S
    unread_s: float = UNREAD_S
    sweep_s: float = SWEEP_S


PLAIN = Limits()
OVER_TLS = Limits(grace_s=TLS_GRACE_S)
PROBES = Limits(grace_s=PROBE_GRACE_S)


class Connection(Protocol):
    """What a listener must know of each of its connections."""

    def owes(self) -> str | None:
        """What its client is to do within a time: the rest of a `head`, or to take its `answer`."""

    def dispensable(self, grace_s: float) -> tuple[int, float] | None:
        """Who goes first when there is no room, the least one; None for what we are working on."""

    def give_up(self, owes: str | None) -> None:
        """Close it, whatever is unsent; told why, if that is what it owes."""


class Listener:
    """Takes connections in as long as there is room for them.

    Args:
        taken: a listening socket, non-blocking.
        protocol: makes what serves a connection; that must `join` and `leave`.
        tls: the server's side, for HTTPS.
        limits: what to put up with.
    """

    def __init__(
        self,
        taken: socket.socket,
        protocol: "Callable[[Listener], asyncio.Protocol]",
        tls: ssl.SSLContext | None,
        limits: Limits,
    ) -> None:
        self._socket, self._protocol, self._tls = taken, protocol, tls
        self._limits = limits
        self._silent: dict[asyncio.Task[None], float] = {}
        """Taken, and since when; with TLS, not greeted yet. The oldest comes first, here and below."""
        self._arriving: dict[asyncio.Task[None], float] = {}
        """Greeted and not served yet: with TLS, in the middle of a handshake."""
        self._open: dict[Connection, tuple[str | None, float]] = {}
        """What each owes, and since when it was seen to."""

    def join(self, connection: Connection) -> None:
        """A connection is there."""
        self._open[connection] = (None, 0.0)

    def leave(self, connection: Connection) -> None:
        """It is gone."""
        self._open.pop(connection, None)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Take connections in as long as the context lasts; those that are open stay open."""
        jobs = [asyncio.create_task(self._accept()), asyncio.create_task(self._sweep())]
        try:
            yield
        finally:
            # Nobody is turned away who has been let in, but for the middle of a handshake.
            jobs += [*self._silent, *self._arriving]
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            self._socket.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        failing = False
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._socket)
            except OSError as error:  # no more open files; or the client has thought better of it
                if not failing:
                    log.warning("connection not taken", error=str(error))
                failing = True
                await asyncio.sleep(AGAIN_S)
                continue
            failing = False
            try:
                await self._make_room()
            except asyncio.CancelledError:
                accepted.close()
                raise
            task = asyncio.create_task(self._arrive(accepted))
            self._silent[task] = loop.time()
            task.add_done_callback(self._arrived)
            # An accept that need not wait lets nobody else run: those taken are to be read from, too,
            # or their request, which is here already, would not show before they are given up.
            await asyncio.sleep(0)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._silent.pop(task, None)
        self._arriving.pop(task, None)

    async def _make_room(self) -> None:
        """Come back when one more connection may be taken."""
        while self._count() >= self._limits.connections:
            if not self._give_one_up():
                await asyncio.sleep(AGAIN_S)

    def _count(self) -> int:
        return len(self._open) + len(self._silent) + len(self._arriving)

    def _give_one_up(self) -> bool:
        """Close the one that matters least; False if none may be closed now."""
        if self._turned_away(self._silent, self._limits.silent_s):
            return True
        ranked = [
            (rank, connection)
            for connection in self._open
            if (rank := connection.dispensable(self._limits.grace_s)) is not None
        ]
        rank, least = min(ranked, key=lambda each: each[0], default=((1, 0.0), None))
        if rank[0] > 0 and self._turned_away(self._arriving, self._limits.grace_s):
            return True
        if least is None:
            return False
        self.leave(least)
        least.give_up(None)
        return True

    def _turned_away(self, coming: dict[asyncio.Task[None], float], grace_s: float) -> bool:
        """Close the one that has been coming for longest, if that is longer than this."""
        oldest, since_s = next(iter(coming.items()), (None, 0.0))
        if oldest is None or asyncio.get_running_loop().time() - since_s < grace_s:
            return False
        del coming[oldest]
        oldest.cancel()
        return True

    async def _arrive(self, accepted: socket.socket) -> None:
        """Let a client in; whoever does not manage the handshake is no news."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        with contextlib.suppress(OSError):  # TLS and time-outs too
            if self._tls is not None:
                # asyncio sets 0.3 MB aside for a handshake: not for a client that has not begun one.
                try:
                    async with asyncio.timeout(self._limits.handshake_s):
                        await _greeting(accepted)
                except BaseException:
                    accepted.close()
                    raise
            if task is not None and self._silent.pop(task, None) is not None:
                self._arriving[task] = loop.time()
            await loop.connect_accepted_socket(
                lambda: self._protocol(self),
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=self._limits.handshake_s if self._tls else None,
            )

    async def _sweep(self) -> None:
        """Give up whoever owes us something for too long."""
        loop = asyncio.get_running_loop()
        patience_s = {"head": self._limits.head_s, "answer": self._limits.unread_s}
        while True:
            await asyncio.sleep(self._limits.sweep_s)
            now_s = loop.time()
            for connection, (owed, since_s) in list(self._open.items()):
                owes = connection.owes()
                if owes != owed:
                    self._open[connection] = (owes, now_s)
                elif owes is not None and now_s - since_s >= patience_s[owes]:
                    connection.give_up(owes)


async def _greeting(accepted: socket.socket) -> None:
    """Come back when the client's greeting is here, or whatever it sends instead; it is left unread."""
    loop = asyncio.get_running_loop()
    while not _is_greeted(accepted):
        readable = asyncio.Event()
        loop.add_reader(accepted, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(accepted)
        if not _is_greeted(accepted):  # a part of it, and that is readable all the time
            await asyncio.sleep(AGAIN_S)


def _is_greeted(accepted: socket.socket) -> bool:
    """Whether the first record of TLS is here, or something that is none."""
    try:
        head = accepted.recv(TLS_RECORD_HEAD, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    if head and head[0] == TLS_HANDSHAKE and len(head) < TLS_RECORD_HEAD:
        return False
    if not head or head[0] != TLS_HANDSHAKE:  # gone; or for OpenSSL to refuse
        return True
    size = TLS_RECORD_HEAD + int.from_bytes(head[3:])
    return len(accepted.recv(size, socket.MSG_PEEK)) == size
