"""When the node's `GpuNode` is written: when it tells something new, rarely enough, and as a heartbeat."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import Any, NoReturn, Protocol

from extender.agent.apiserver import ApiServerError
from extender.agent.earlier import earlier
from extender.agent.metrics import AgentMetrics
from extender.agent.said import Said
from extender.agent.sampler import Sampler
from extender.agent.status import Json, differs

TAKE_OVER_S = 600.0
"""What is older may be of an earlier pod of the same name, or of a card that was mended meanwhile."""
MOST_BACKOFF_S = 120.0


class Store(Protocol):
    """Where the node's object is kept: the API server."""

    async def read(self) -> dict[str, Any] | None:
        """The object, None if there is none; raises ApiServerError."""

    async def write(self, status: Json) -> None:
        """Make this its status; raises ApiServerError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often.

    Attributes:
        sample_s: from one reading to the next.
        write_s: the least time between two writes.
        heartbeat_s: the most.
    """

    sample_s: float = 5.0
    write_s: float = 10.0
    heartbeat_s: float = 60.0


class Writer:
    """Keeps the object as the sampler sees the node.

    Args:
        store: where to write.
        sampler: what to write.
        pace: how often.
        metrics: what counts.
        clock: seconds, monotonic.
        wall: Unix time.
        rng: for jitter.
    """

    def __init__(
        self,
        store: Store,
        sampler: Sampler,
        pace: Pace,
        metrics: AgentMetrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: Random | None = None,
    ) -> None:
        self._store, self._sampler, self._pace, self._metrics = store, sampler, pace, metrics
        self._clock, self._wall, self._rng = clock, wall, rng or SystemRandom()
        self._taken_over = False
        self._written: Json | None = None
        self._next_s = self._heartbeat_due_s = clock()
        self._failures = 0
        self._said = Said()

    async def write_if_due(self) -> None:
        """Write the latest status if it is time; what fails is tried again later, and later still."""
        now_s = self._clock()
        if now_s < self._next_s:
            return
        new = self._written is None or differs(self._written, self._sampler.latest)
        if not new and now_s < self._heartbeat_due_s:
            return
        try:
            if not self._taken_over:
                await self._take_over()
            written = self._sampler.latest
            await self._store.write(written)
        except ApiServerError as error:
            self._failures += 1
            wait_s = min(self._pace.write_s * 2 ** min(self._failures - 1, 10), MOST_BACKOFF_S)
            self._next_s = now_s + wait_s * (1 + self._rng.random() / 2)
            self._metrics.writes.labels("failed").inc()
            self._said.about("apiserver", str(error))
            return
        self._failures = 0
        self._written = written
        self._next_s = now_s + self._pace.write_s
        # Early by up to a tenth, so that the agents of a cluster do not go on writing all at once.
        self._heartbeat_due_s = now_s + self._pace.heartbeat_s * (1 - self._rng.random() / 10)
        self._metrics.writes.labels("written").inc()
        self._said.about("apiserver", "")

    async def _take_over(self) -> None:
        """Before the first write: what the run before this one saw of pods that are still there."""
        found = await self._store.read()
        self._taken_over = True
        told = earlier((found or {}).get("status") or {})
        if told.heartbeat_s is not None and self._wall() - told.heartbeat_s <= TAKE_OVER_S:
            self._sampler.take_over(told)


async def run(
    sampler: Sampler,
    writer: Writer,
    pace: Pace,
    stop: asyncio.Event,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Sample and write until told to stop, which no hung driver and no slow API server holds up."""
    working = asyncio.create_task(_work(sampler, writer, pace, clock))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working  # a defect ends the process: its restart is seen, its silence is not


async def _work(
    sampler: Sampler, writer: Writer, pace: Pace, clock: Callable[[], float]
) -> NoReturn:
    """A slow API server holds up no sample."""
    writing: asyncio.Task[None] | None = None
    due_s = clock()
    try:
        while True:
            await sampler.sample()
            if writing is not None and writing.done():
                writing.result()
            if writing is None or writing.done():
                writing = asyncio.create_task(writer.write_if_due())
            due_s = max(due_s + pace.sample_s, clock())
            await asyncio.sleep(due_s - clock())
    finally:
        if writing is not None:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
