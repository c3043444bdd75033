"""The scheduler's Lease, as a leader renews it, loses it, or never takes it."""

import json
from typing import TYPE_CHECKING, cast

from extender.cluster.errors import Unreachable
from extender.cluster.lease import FRESH_S, SchedulerLease
from tests.cluster.watching import Clock

if TYPE_CHECKING:
    from extender.cluster.client import ApiClient


class Leases:
    """An API server that knows Leases, each with the time it was last renewed."""

    def __init__(self) -> None:
        self.renewed: list[str | None] = []
        self.asked: list[str] = []
        self.away = False

    async def get(self, path: str, params: dict[str, str]) -> bytes:
        assert path == "/apis/coordination.k8s.io/v1/leases"
        self.asked.append(params["fieldSelector"])
        if self.away:
            raise Unreachable("nobody there")
        items = [{"spec": {"renewTime": time}} for time in self.renewed]
        return json.dumps({"items": items}).encode()


class Watched:
    """A lease under test, with its server and clock."""

    def __init__(self) -> None:
        self.server, self.clock, self.name = Leases(), Clock(), "migfit-scheduler"
        client = cast("ApiClient", self.server)
        self.lease = SchedulerLease(client, lambda: self.name, self.clock)

    async def look(self, *renewed: str | None) -> bool:
        self.server.renewed = list(renewed)
        await self.lease.look()
        return self.lease.alive


async def test_a_scheduler_is_alive_once_it_was_seen_to_renew() -> None:
    watched = Watched()
    assert not await watched.look("12:00:00")
    assert not await watched.look("12:00:00")
    assert await watched.look("12:00:02")
    assert watched.server.asked[0] == "metadata.name=migfit-scheduler"


async def test_a_scheduler_that_renews_no_more_is_alive_for_as_long_as_its_lease() -> None:
    watched = Watched()
    await watched.look("12:00:00")
    assert await watched.look("12:00:02")
    watched.clock.now_s += FRESH_S
    assert await watched.look("12:00:02")
    watched.clock.now_s += 0.1
    assert not await watched.look("12:00:02")


async def test_a_lease_that_is_missing_or_was_never_taken_is_nobodys() -> None:
    watched = Watched()
    assert not await watched.look()
    assert not await watched.look(None)
    assert not await watched.look(None)


async def test_an_api_server_out_of_reach_ends_it_only_after_a_while() -> None:
    watched = Watched()
    await watched.look("12:00:00")
    await watched.look("12:00:02")
    watched.server.away = True
    assert await watched.look()
    watched.clock.now_s += FRESH_S + 1
    assert not await watched.look()


async def test_another_name_starts_anew() -> None:
    watched = Watched()
    await watched.look("12:00:00")
    assert await watched.look("12:00:02")
    watched.name = "other-scheduler"
    assert not watched.lease.alive
    assert not await watched.look("12:00:02")
    assert watched.server.asked[-1] == "metadata.name=other-scheduler"
