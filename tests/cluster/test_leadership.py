"""Who holds the Lease: never two at once, and always somebody after a while."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.cluster.errors import Unreachable
from extender.cluster.leadership import GIVE_UP_S, LASTS_S, LEASE, MARK, RETRY_S, Leadership
from tests.build import Clock
from tests.cluster.shelf import JSON, Shelf

PATH = f"/apis/coordination.k8s.io/v1/namespaces/ours/leases/{LEASE}"


class Replicas:
    """Some replicas before one API server, on one clock."""

    def __init__(self, count: int = 2) -> None:
        self.shelf, self.clock = Shelf(), Clock()
        self.all = [self.another(f"replica-{n}") for n in range(count)]

    def another(self, identity: str) -> Leadership:
        return Leadership(self.shelf.client, "ours", identity=identity, clock=self.clock)

    @property
    def holding(self) -> list[int]:
        return [n for n, each in enumerate(self.all) if each.held]

    @property
    def lease(self) -> JSON:
        return self.shelf.objects[PATH]

    async def look(self, *numbers: int) -> None:
        for number in numbers:
            await self.all[number].look()

    async def live(self, seconds: float, *numbers: int) -> None:
        """So long these look as often as they should."""
        for _ in range(int(seconds / RETRY_S)):
            self.clock.now_s += RETRY_S
            await self.look(*numbers)


async def test_the_first_to_look_makes_the_lease_and_holds_it() -> None:
    replicas = Replicas()

    await replicas.look(0, 1)

    assert replicas.holding == [0]
    assert replicas.lease["spec"]["holderIdentity"] == "replica-0"
    assert replicas.lease["spec"]["leaseDurationSeconds"] == LASTS_S
    assert replicas.all[0].since == "2027-01-15T08:00:00Z"


async def test_who_renews_keeps_it_for_ever() -> None:
    replicas = Replicas()
    await replicas.look(0, 1)

    await replicas.live(600, 0, 1)

    assert replicas.holding == [0]


async def test_who_cannot_renew_gives_up_before_another_takes_over() -> None:
    replicas = Replicas()
    await replicas.look(0, 1)

    await replicas.live(GIVE_UP_S, 1)
    assert replicas.holding == []
    await replicas.live(LASTS_S, 1)

    assert replicas.holding == [1]
    assert replicas.lease["spec"]["leaseTransitions"] == 1


async def test_who_wakes_up_after_another_took_over_finds_out_and_waits() -> None:
    replicas = Replicas()
    await replicas.look(0, 1)
    await replicas.live(GIVE_UP_S + LASTS_S, 1)

    await replicas.look(0, 0)

    assert replicas.holding == [1]


async def test_released_it_is_free_at_once() -> None:
    replicas = Replicas()
    await replicas.look(0, 1)

    await replicas.all[0].release()
    assert replicas.holding == []
    await replicas.look(1)

    assert replicas.holding == [1]


async def test_what_one_holder_notes_the_next_one_finds() -> None:
    replicas = Replicas()
    await replicas.look(0)
    replicas.all[0].mark = "2027-01-15T09:00:00Z"
    await replicas.look(0)
    assert replicas.lease["metadata"]["annotations"] == {MARK: "2027-01-15T09:00:00Z"}

    await replicas.all[0].release()
    await replicas.look(1)

    assert replicas.all[1].mark == "2027-01-15T09:00:00Z"


async def test_a_lease_that_somebody_deletes_is_made_again() -> None:
    replicas = Replicas()
    await replicas.look(0)

    del replicas.shelf.objects[PATH]
    await replicas.look(0, 0)

    assert replicas.holding == [0]


async def test_an_api_server_out_of_reach_ends_the_hold_and_nothing_else() -> None:
    replicas = Replicas()
    await replicas.look(0)
    replicas.shelf.away = True

    with pytest.raises(Unreachable):
        await replicas.look(0)
    assert replicas.holding == [0]
    replicas.clock.now_s += GIVE_UP_S
    assert replicas.holding == []
    replicas.shelf.away = False
    await replicas.look(0)

    assert replicas.holding == [0]


async def test_following_survives_every_trouble_and_lets_go_at_the_end() -> None:
    replicas = Replicas()
    replicas.shelf.away = True
    task = asyncio.create_task(replicas.all[0].follow())
    await asyncio.sleep(0)
    assert not task.done()
    replicas.shelf.away = False
    await replicas.look(0)

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert replicas.lease["spec"]["holderIdentity"] == ""


steps = st.lists(
    st.tuples(st.sampled_from(["look", "look", "release", "delete"]), st.integers(0, 2))
    | st.tuples(st.just("pass"), st.integers(1, 30)),
    max_size=60,
)


@given(steps)
async def test_whatever_happens_never_two_hold_it_at_once(every: list[tuple[str, int]]) -> None:
    replicas = Replicas(3)
    deleted = False
    for what, number in every:
        if what == "pass":
            replicas.clock.now_s += number
        elif what == "delete":  # by an admin: the only way to two, so time passes first
            if PATH in replicas.shelf.objects and not deleted:
                replicas.clock.now_s += GIVE_UP_S
                del replicas.shelf.objects[PATH]
                deleted = True
        elif what == "release":
            await replicas.all[number].release()
        else:
            await replicas.look(number)

        assert len(replicas.holding) <= 1

    await replicas.live(3 * LASTS_S, 0, 1, 2)
    assert len(replicas.holding) == 1
