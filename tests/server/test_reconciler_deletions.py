"""Which pods the reconciler deletes, when, and what comes between."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest

from extender.cluster.errors import ApiError
from extender.cluster.holds import rfc3339
from extender.core.policy import Backoff, BackoffAction, Globs, Mode
from tests.cluster.rewritten_pods import rewritten, status
from tests.server.reconciling import HOLDS, WINDOW_S, World, crashed

HOUR_S = 3600.0
PAIR = {"asr-1": "Deployment", "llm-0": "StatefulSet"}
"""Two pods, and what made them."""


async def test_of_a_workload_with_many_such_pods_one_is_deleted_in_each_window() -> None:
    world = World()
    for number in range(3):
        world.see(crashed(name=f"asr-{number}"))

    await world.rounds(60)
    assert len(world.deleted) == 1
    world.lose(world.deleted[0])
    await world.rounds(int(WINDOW_S))

    assert len(world.deleted) == 2
    assert world.counted("migfit_holds_total", cause="Crashes") == 1


@pytest.mark.parametrize("restarts", [3, 4])
async def test_a_pod_that_runs_again_by_then_is_not_deleted(restarts: int) -> None:
    world = World()
    world.see(crashed())
    await world.rounds(5)
    world.see(rewritten(containerStatuses=[status(restarts)]))

    await world.rounds(60)

    assert world.deleted == []
    assert world.held == {"Deployment/asr": "Crashes"}


async def test_a_pod_that_runs_again_while_its_deletion_is_written_down_stays() -> None:
    world = World()
    world.see(crashed())

    def run(method: str, _path: str, body: bytes) -> None:
        if method == "PATCH" and b"deleted" in body:
            world.see(rewritten(containerStatuses=[status(4)]))

    world.shelf.after = run

    await world.rounds(60)

    assert world.deleted == []
    assert world.held == {"Deployment/asr": "Crashes"}


async def test_a_pod_that_runs_again_while_another_is_deleted_stays() -> None:
    world = World()
    for name, owner in PAIR.items():
        world.see(crashed(name=name, owner=owner))

    def run(method: str, path: str, _body: bytes) -> None:
        if method == "DELETE" and len(world.deleted) == 1:
            (other,) = {*PAIR} - {path.rpartition("/")[2]}
            world.see(rewritten(other, PAIR[other], containerStatuses=[status(4)]))

    world.shelf.after = run

    await world.rounds(60)

    assert len(world.deleted) == 1


@pytest.mark.parametrize("when", ["DELETE", "PATCH"])
async def test_a_hold_that_somebody_lifts_just_before_the_deletion_stays_lifted_and_the_pod_stays(
    when: str,
) -> None:
    world = World()
    for name, owner in PAIR.items():
        world.see(crashed(name=name, owner=owner))
    lifted: list[str] = []

    def lift(method: str, path: str, body: bytes) -> None:
        """Of the other, while the first is deleted; or of the one whose deletion is written down."""
        if lifted or method != when or (method == "PATCH" and b"deleted" not in body):
            return
        if method == "DELETE":
            (name,) = {*PAIR} - {path.rpartition("/")[2]}
        else:
            (name,) = [name for name, owner in PAIR.items() if owner in body.decode()]
        lifted.append(name)
        world.lift(f"speech.{PAIR[name]}.asr")

    world.shelf.after = lift

    await world.rounds(60)

    assert len(lifted) == 1
    assert world.deleted == [name for name in PAIR if name not in lifted]
    assert list(world.held) == [f"{PAIR[name]}/asr" for name in PAIR if name not in lifted]


async def test_a_deletion_that_is_refused_because_the_pod_has_changed_is_tried_again() -> None:
    world = World()
    world.see(crashed())
    world.shelf.refuse_deletions = 2

    await world.rounds(13)

    assert world.deleted == ["asr-1"]
    assert [line["deleted"] for line in world.lines] == [False, True]


async def test_from_a_deletion_that_took_several_tries_a_whole_window_passes_to_the_next() -> None:
    world = World()
    for name in ("asr-1", "asr-2"):
        world.see(crashed(name=name))
    world.shelf.refuse_deletions = 300

    await world.rounds(600)
    assert len(world.deleted) == 1
    world.lose(world.deleted[0])
    await world.rounds(300)

    assert len(world.deleted) == 1


@pytest.mark.parametrize("status_", [429, 500, 503])
async def test_a_deletion_that_fails_for_now_is_tried_again_at_once(status_: int) -> None:
    world = World()
    world.see(crashed())
    tries = world.refuse_to_delete(status_, times=2)

    for _ in range(13):
        with suppress(ApiError):
            await world.rounds(1)

    assert (len(tries), world.deleted) == (2, ["asr-1"])


async def test_a_deletion_that_fails_holds_up_no_other() -> None:
    world = World()
    for name, owner in PAIR.items():
        world.see(crashed(name=name, owner=owner))
    world.refuse_to_delete(500, "asr-1")

    for _ in range(13):
        with suppress(ApiError):
            await world.rounds(1)

    assert world.deleted == ["llm-0"]


async def test_a_deletion_that_is_forbidden_is_not_said_to_be_done_and_tried_once_in_a_window() -> (
    None
):
    world = World()
    world.see(crashed())
    tries = world.refuse_to_delete(403, times=2)

    for _ in range(60):
        with suppress(ApiError):
            await world.rounds(1)
    [hold] = world.shelf.objects[HOLDS]["data"].values()
    assert len(tries) == 1
    assert "deleted" not in json.loads(hold)
    assert [line["deleted"] for line in world.lines] == [False]
    for _ in range(int(2 * WINDOW_S)):
        with suppress(ApiError):
            await world.rounds(1)

    assert (len(tries), world.deleted) == (2, ["asr-1"])


async def test_a_pod_whose_deletion_was_refused_long_ago_waits_for_its_turn_like_any_other() -> (
    None
):
    world = World()
    world.see(crashed())
    world.shelf.refuse_deletions = 1
    await world.rounds(11)
    world.see(rewritten(containerStatuses=[status(3)]))
    world.see(crashed(name="asr-2"))
    await world.rounds(int(WINDOW_S))
    assert world.deleted == ["asr-2"]
    world.lose("asr-2")

    world.see(crashed(4))
    await world.rounds(60)
    assert world.deleted == ["asr-2"]
    await world.rounds(int(WINDOW_S))

    assert world.deleted == ["asr-2", "asr-1"]


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
async def test_a_clock_stepped_allows_no_second_deletion_within_a_window(ahead_s: float) -> None:
    world = World(backoff=Backoff(window_s=WINDOW_S, hold_s=24 * HOUR_S))
    for name in ("asr-1", "asr-2"):
        world.see(crashed(name=name))
    await world.rounds(12)
    assert len(world.deleted) == 1
    world.lose(world.deleted[0])

    world.ahead_s += ahead_s
    await world.rounds(int(WINDOW_S) - 30)

    assert len(world.deleted) == 1


async def test_a_process_that_takes_over_after_the_deletion_was_written_down_does_not_repeat_it() -> (
    None
):
    world = World()
    for name in ("asr-1", "asr-2"):
        world.see(crashed(name=name))
    await world.rounds(12)
    assert len(world.deleted) == 1

    await world.replica.leadership.release()
    world.start()
    await world.rounds(60)

    assert len(world.deleted) == 1
    assert [line["deleted"] for line in world.lines] == [False, True]


async def test_what_another_process_deleted_meanwhile_counts_for_one_that_takes_over_again() -> (
    None
):
    world = World()
    world.see(crashed())
    world.shelf.refuse_deletions = 1
    await world.rounds(11)
    await world.replica.leadership.release()
    await world.replica.round()
    [(entry, hold)] = world.shelf.objects[HOLDS]["data"].items()
    told = json.dumps({**json.loads(hold), "deleted": rfc3339(world.wall() + 5)})
    world.shelf.change(HOLDS, {"data": {entry: told}})
    world.watch_holds()

    await world.rounds(60)

    assert world.deleted == []


@pytest.mark.parametrize("owner", ["Job", "Workflow", "DaemonSet", "Pod"])
async def test_pods_of_others_are_held_and_told_and_never_deleted(owner: str) -> None:
    world = World()
    world.see(crashed(owner=owner))

    await world.rounds(60)

    assert list(world.held.values()) == ["Crashes"]
    assert len(world.lines) == 1
    assert world.deleted == []


@pytest.mark.parametrize(
    "policy",
    [
        {"backoff": Backoff(window_s=WINDOW_S, action=BackoffAction.REPORT)},
        {"mode": Mode.DISABLED},
        {"exclude": Globs(("speech",))},
        {"include": Globs(("vision",))},
    ],
    ids=["Report", "Disabled", "excluded", "not included"],
)
async def test_nothing_is_deleted_when_the_configuration_does_not_want_it(policy: Any) -> None:
    world = World(**policy)
    world.see(crashed())

    await world.rounds(60)

    assert world.deleted == []
    assert list(world.held) == ["Deployment/asr"]
