"""A view of a real cluster, fed as in `migfit serve`, held against a fresh list."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from extender.cluster.client import connect
from extender.cluster.inventory import ask, inventory
from extender.cluster.state import State
from extender.cluster.watch import Unmetered, follow
from extender.core.policy import Policy
from extender.server.serve import LIMITS, NAMESPACES, NODES, PODS, QUOTAS
from tests.cluster.picture import differences, picture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from extender.cluster.watch import Pace
    from tests.controlplane.plane import ControlPlane


class Noted(Unmetered):
    """A meter that keeps what trouble there was."""

    def __init__(self) -> None:
        self.causes: list[str] = []

    def trouble(self, resource: str, cause: str) -> None:
        self.causes.append(cause)


@asynccontextmanager
async def following(
    kubeconfig: Path, meter: Noted, pace: Pace | None = None
) -> AsyncIterator[State]:
    """A state that is fed by the real server, as in `migfit serve`."""
    state = State(Policy(), time.monotonic)
    tenants = state.tenants
    async with connect(kubeconfig) as client, asyncio.TaskGroup() as group:
        jobs = (
            follow(client, NODES, state.nodes, meter=meter, pace=pace),
            follow(client, PODS, state.pods, meter=meter, pace=pace),
            follow(client, NAMESPACES, tenants.namespaces, meter=meter, pace=pace),
            follow(client, QUOTAS, tenants.quotas, meter=meter, pace=pace),
            follow(client, LIMITS, tenants.limits, meter=meter, pace=pace),
        )
        tasks = [group.create_task(job) for job in jobs]
        yield state
        for task in tasks:
            task.cancel()


async def becomes_equal(plane: ControlPlane, state: State, timeout_s: float = 20.0) -> None:
    """Wait until the state followed equals one built from a fresh list."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        fresh = picture(inventory(await ask(plane.kubeconfig), Policy(), time.monotonic))
        if state.synced and picture(state) == fresh:
            return
        assert time.monotonic() < deadline_s, differences(picture(state), fresh)
        await asyncio.sleep(0.1)
