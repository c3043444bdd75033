"""Pods created at a steady rate, and what became of each."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass
from itertools import count, cycle
from typing import TYPE_CHECKING, Self

import aiohttp

from tests.controlplane.objects import gpu_pod

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.controlplane.plane import ControlPlane

DECISION = "migfit.io/decision"
AT_ONCE = 40
"""Creations on their way at most. A machine that cannot keep the rate must not pile them up until they
time out: then the rate is lower, and the figures say so."""
_LATE_S = 1.0
ANSWER_S = 30.0


@dataclass(frozen=True, slots=True)
class Creation:
    """One pod, and what the user who created it saw.

    Attributes:
        namespace: where.
        began_s: when it was sent, by the monotonic clock.
        lasted_s: until the answer.
        failed: why it was not created; empty if it was.
        reason: of our decision on it; empty if there is none.
    """

    namespace: str
    began_s: float
    lasted_s: float
    failed: str = ""
    reason: str = ""


class Load:
    """Creates pods of one GPU in turn in each namespace; an asynchronous context manager.

    Args:
        plane: where.
        namespaces: which exist.
        rate: pods a second, as far as the machine allows.
    """

    def __init__(self, plane: ControlPlane, namespaces: Sequence[str], rate: float) -> None:
        self._url, self._tls = plane.url, plane.client.tls
        self._namespaces = cycle(namespaces)
        self._rate = rate
        self._numbers = count()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._stop = asyncio.Event()
        self.all: list[Creation] = []

    async def __aenter__(self) -> Self:
        assert self._tls is not None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=ANSWER_S),
        )
        self._began_s = time.monotonic()
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self._session.close()

    async def stop(self) -> None:
        """Creates no more and waits for those on their way."""
        self._stop.set()
        await self._running
        self._ended_s = time.monotonic()

    async def burst(self, pods: int) -> None:
        """So many at once, for which the API server needs as many connections to us."""
        for _ in range(pods):
            await self._room.acquire()
        await asyncio.gather(*(self._create(next(self._namespaces)) for _ in range(pods)))

    async def _run(self) -> None:
        due_s = time.monotonic()
        async with asyncio.TaskGroup() as creations:
            while not self._stop.is_set():
                now_s = time.monotonic()
                due_s = max(due_s + 1 / self._rate, now_s - _LATE_S)
                await asyncio.sleep(max(0.0, due_s - now_s))
                await self._room.acquire()
                creations.create_task(self._create(next(self._namespaces)))

    async def _create(self, namespace: str) -> None:
        name = f"pod-{next(self._numbers)}"
        pod = gpu_pod(name, namespace, annotations={"migfit.io/gpu-memory": "9.6G"})
        began_s = time.monotonic()
        failed, reason = "", ""
        try:
            url = f"{self._url}/api/v1/namespaces/{namespace}/pods"
            async with self._session.post(url, json=pod) as answer:
                body = await answer.json()
            if answer.status == 201:
                mark = body["metadata"].get("annotations", {}).get(DECISION)
                reason = json.loads(mark)["reason"] if mark else ""
            else:
                failed = str(body.get("message", answer.status))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            failed = f"the API server is out of reach: {error!r}"
        finally:
            self._room.release()
        lasted_s = time.monotonic() - began_s
        self.all.append(Creation(namespace, began_s, lasted_s, failed, reason))

    # --- figures ---------------------------------------------------------------------------------

    @property
    def failed(self) -> list[Creation]:
        """Those not created."""
        return [each for each in self.all if each.failed]

    @property
    def missed(self) -> list[Creation]:
        """Those created without a decision of ours."""
        return [each for each in self.all if not each.failed and not each.reason]

    @property
    def reasons(self) -> Counter[str]:
        """How many pods were created with each reason."""
        return Counter(each.reason for each in self.all if not each.failed)

    def since(self, began_s: float) -> int:
        """How many have been created that were begun since then."""
        return sum(each.began_s >= began_s and not each.failed for each in self.all)

    @property
    def reached(self) -> float:
        """Pods a second that were answered, all in all; once stopped."""
        return len(self.all) / (self._ended_s - self._began_s)

    @property
    def told(self) -> str:
        """All of that in a few lines."""
        whys = Counter(each.failed for each in self.failed).most_common(3)
        told = (
            f"{len(self.all)} pods at {self.reached:.0f} a second, {len(self.failed)} not created, "
            f"{len(self.missed)} missed, {dict(self.reasons)}"
        )
        return "\n".join([told, *(f"  {times} x {why}" for why, times in whys)])
