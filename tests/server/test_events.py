"""Events wait for nobody, and no more than so many wait for the API server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import structlog

from extender.server.events import MOST_AT_ONCE, Events
from extender.server.metrics import Metrics

if TYPE_CHECKING:
    from extender.cluster.client import ApiClient

POD = {"apiVersion": "v1", "kind": "Pod", "namespace": "speech", "name": "asr-1", "uid": "1"}


def value(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(name)


class Slow:
    """An API server that answers when it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = asyncio.Event()

    async def request(self, *_: object) -> bytes:
        self.asked += 1
        await self.answers.wait()
        return b"{}"


async def test_while_the_api_server_does_not_answer_no_more_than_so_many_events_wait() -> None:
    server = Slow()
    metrics = Metrics()
    events = Events(cast("ApiClient", server), metrics)

    with structlog.testing.capture_logs() as lines:
        for number in range(MOST_AT_ONCE + 3):
            events.warn(POD, str(number), "Waits", "it waits")
            await asyncio.sleep(0)

    assert server.asked == MOST_AT_ONCE
    assert [line["error"] for line in lines] == ["too many are waiting"] * 3
    assert value(metrics, "migfit_events_waiting") == MOST_AT_ONCE
    assert value(metrics, "migfit_events_dropped_total") == 3
    server.answers.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert value(metrics, "migfit_events_waiting") == 0
    events.warn(POD, "later", "Waits", "it waits")
    await asyncio.sleep(0)
    assert server.asked == MOST_AT_ONCE + 1
