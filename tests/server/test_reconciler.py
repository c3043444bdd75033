"""What the reconciler does, and what it leaves alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest
import structlog

from extender.cluster.errors import ApiError
from extender.cluster.holds import rfc3339
from extender.cluster.objects import PodObject
from extender.cluster.reconcile import SETTLE_S
from extender.server.metrics import Metrics
from extender.server.reconciler import PATIENCE_S, Reconciler
from tests.build import pod, state
from tests.cluster.rewritten_pods import at, failed, rewritten, waiting
from tests.docs.test_audit_schema import VALIDATOR
from tests.server.reconciling import World, crashed

if TYPE_CHECKING:
    from tests.build import JSON


def valid(line: JSON) -> bool:
    """Whether it is as the schema of audit lines says, once it is stamped."""
    stamped = {"time": "2027-01-15T08:00:00.000+00:00", **line}
    return bool(VALIDATOR.is_valid(stamped))


async def test_a_crash_loop_is_held_told_and_after_ten_seconds_ended() -> None:
    world = World()
    world.see(crashed())

    await world.rounds(1)
    assert world.held == {"Deployment/asr": "Crashes"}
    [line] = world.lines
    assert (line["event"], line["reason"], line["deleted"]) == ("held", "BackedOff", False)
    assert line["until"] == rfc3339(world.wall() + 3600)
    await world.rounds(int(SETTLE_S) - 1)
    assert world.deleted == []
    await world.rounds(1)

    assert world.deleted == ["asr-1"]
    [(path, preconditions)] = world.shelf.deletions
    assert path == "/api/v1/namespaces/speech/pods/asr-1"
    assert preconditions == {"uid": "uid-of-asr-1", "resourceVersion": "8"}
    assert [line["deleted"] for line in world.lines] == [False, True]
    await asyncio.sleep(0)
    regarding = [event["regarding"] for event in world.shelf.events]
    assert {(each["kind"], each["name"]) for each in regarding} == {("Deployment", "asr")}
    assert len({event["metadata"]["name"] for event in world.shelf.events}) == 2
    assert world.counted("migfit_holds_total", cause="Crashes") == 1
    assert world.counted("migfit_pods_deleted_total") == 1
    assert world.counted("migfit_held_workloads") == 1
    assert all(map(valid, world.lines))


async def test_the_first_failure_of_a_jobs_pod_is_a_hold_within_a_round() -> None:
    world = World()
    world.see(rewritten(owner="Job"))
    await world.rounds(1)

    world.see(failed(owner="Job"))
    await world.rounds(1)

    assert world.held == {"Job/asr": "Fails"}
    assert world.cluster.snapshot().held == {("speech", "Job/asr"): 3600}


async def test_an_owner_of_any_name_is_held_back_and_holds_up_nobody() -> None:
    world = World()
    odd = failed("odd-1", "Workflow")
    odd["metadata"]["ownerReferences"][0] |= {"kind": "We ird", "name": "a b/ü"}
    for tree in (odd, crashed()):
        world.see(tree)

    await world.rounds(12)

    assert world.held == {"We ird/a b/ü": "Fails", "Deployment/asr": "Crashes"}
    assert world.deleted == ["asr-1"]


@pytest.mark.parametrize("member", ["kind", "name"])
async def test_a_name_longer_than_any_object_has_is_told_once_and_nothing_is_held_back_by_it(
    member: str,
) -> None:
    world = World()
    odd = failed("odd-1", "Workflow")
    odd["metadata"]["ownerReferences"][0][member] = "a" * 950_000
    world.see(crashed())
    await world.rounds(1)
    world.see(odd)

    with structlog.testing.capture_logs() as lines:
        await world.rounds(12)

    assert world.held == {"Deployment/asr": "Crashes"}
    assert world.deleted == ["asr-1"]
    [told] = [line for line in lines if line["log_level"] == "warning"]
    assert (told["namespace"], told["pod"], told["pods"]) == ("speech", "odd-1", 1)


@pytest.mark.parametrize("status_", [400, 413, 422])
async def test_where_one_hold_is_refused_the_others_are_written_and_deletions_go_on(
    status_: int,
) -> None:
    world = World()

    def refuse(method: str, _path: str, body: bytes) -> None:
        if method == "PATCH" and b"speech.Job." in body:
            raise ApiError(status_, "Invalid")

    world.shelf.before = refuse
    for tree in (failed("train-1", "Job"), crashed(), crashed(name="llm-0", owner="StatefulSet")):
        world.see(tree)

    for _ in range(12):
        with pytest.raises(ApiError, match=str(status_)):
            await world.rounds(1)

    assert world.held == {"Deployment/asr": "Crashes", "StatefulSet/asr": "Crashes"}
    assert sorted(world.deleted) == ["asr-1", "llm-0"]


async def test_without_the_lease_nothing_is_told_or_done_but_what_others_hold_is_known() -> None:
    world = World()
    other = Reconciler(
        world.shelf.client, "ours", state(), Metrics(), print, clock=world.clock, wall=world.wall
    )
    await other.leadership.look()
    world.see(crashed())
    before = list(world.shelf.requests)

    for _ in range(5):
        await world.replica.round()

    assert world.shelf.requests == before
    assert world.lines == []


async def test_nothing_is_done_on_a_stale_view() -> None:
    world = World()
    world.see(crashed())
    await world.replica.leadership.look()
    world.policy = replace(world.policy, stale_after_s=-1.0)
    world.cluster.set_policy(world.policy)
    before = list(world.shelf.requests)

    await world.replica.round()

    assert world.shelf.requests == before


async def test_missed_pods_are_told_once_and_the_next_holder_knows_until_when() -> None:
    world = World()
    await world.replica.leadership.look()
    world.replica.leadership.since = at(0)
    for number in range(2):
        tree = pod()
        meta = {"name": f"asr-{number}", "uid": str(number), "creationTimestamp": at(number)}
        tree["metadata"] |= meta
        world.replica.missed.seen(str(number), msgspec.convert(tree, PodObject))

    await world.rounds(5)

    assert [line["pod"] for line in world.lines] == ["asr-0", "asr-1"]
    assert world.counted("migfit_missed_total") == 2
    assert world.replica.leadership.mark == at(1)
    assert all(map(valid, world.lines))


async def test_unmet_demand_is_counted_by_profile_while_it_lasts_and_told_once() -> None:
    world = World()
    for name in ("asr-1", "asr-2"):
        world.see(waiting(name))

    await world.rounds(45)

    assert world.counted("migfit_unmet_demand", profile="2g.20gb") == 2
    assert sorted(line["pod"] for line in world.lines) == ["asr-1", "asr-2"]
    assert {line["event"] for line in world.lines} == {"unmet"}
    assert all(map(valid, world.lines))
    world.see(rewritten("asr-1"))
    world.see(rewritten("asr-2"))
    await world.rounds(1)
    assert world.counted("migfit_unmet_demand", profile="2g.20gb") == 0


async def test_trouble_with_the_api_server_ends_nothing() -> None:
    world = World()
    world.see(crashed())
    await world.replica.leadership.look()
    world.shelf.away = True
    task = asyncio.create_task(world.replica.run())
    await asyncio.sleep(1.2)
    assert not task.done()
    world.shelf.away = False

    await world.rounds(1)
    task.cancel()

    assert world.held == {"Deployment/asr": "Crashes"}


async def test_a_replica_waits_for_the_holds_but_not_for_ever() -> None:
    world = World()
    replica = Reconciler(
        world.shelf.client, "ours", state(), Metrics(), print, clock=world.clock, wall=world.wall
    )

    assert world.replica.knows
    assert not replica.knows
    world.clock.now_s += PATIENCE_S
    assert replica.knows
