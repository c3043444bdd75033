"""Which rewritten pods give reason to hold their workload back, and which do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from extender.cluster.rewritten import OTHER
from tests.build import container
from tests.cluster.rewritten_pods import World, at, failed, rewritten, status, waiting

if TYPE_CHECKING:
    from tests.build import JSON

MINUTE_S = 60.0


def crashing(restarts: int, *, running: bool = False, ended_s: float = 0.0) -> JSON:
    return rewritten(containerStatuses=[status(restarts, running=running, ended_s=ended_s)])


# --- crash loops ---------------------------------------------------------------------------------


def test_three_restarts_within_the_window_are_a_crash_loop_and_two_are_none() -> None:
    world = World()
    world.see(rewritten())
    for restarts in (1, 2):
        world.pass_s(MINUTE_S)
        world.see(crashing(restarts, running=True))
        assert world.causes() == {}

    world.see(crashing(3, running=True))

    assert world.causes() == {"asr-1": "Crashes"}
    [trouble] = world.troubles()
    assert trouble.message == "pod asr-1 on 2g.20gb restarted 3 times within 30 min"


def test_restarts_further_apart_than_the_window_are_none() -> None:
    world = World()
    world.see(rewritten())
    for restarts in range(1, 20):
        world.pass_s(16 * MINUTE_S)
        ended_s = restarts * 16 * MINUTE_S
        world.see(crashing(restarts, ended_s=ended_s))
        assert world.causes() == {}


def test_a_crash_loop_that_was_under_way_before_we_looked_is_one_by_the_kubelets_own_clock() -> (
    None
):
    world = World()

    world.see(crashing(3, ended_s=5 * MINUTE_S))

    assert world.causes() == {"asr-1": "Crashes"}


@pytest.mark.parametrize(
    "tree",
    [
        pytest.param(crashing(3, running=True, ended_s=MINUTE_S), id="it runs now"),
        pytest.param(crashing(3, ended_s=31 * MINUTE_S), id="over a longer time"),
        pytest.param(crashing(2, ended_s=MINUTE_S), id="too few"),
    ],
)
def test_restarts_from_before_we_looked_do_not_count_when(tree: JSON) -> None:
    world = World()

    world.see(tree)

    assert world.causes() == {}


def test_other_containers_may_restart_as_they_like() -> None:
    world = World()
    tree = rewritten()
    tree["spec"]["containers"].append(container("logs", gpu=None))
    for restarts in range(5):
        statuses = [status(), {**status(restarts, running=False), "name": "logs"}]
        tree["status"]["containerStatuses"] = statuses
        world.see(tree)

    assert world.causes() == {}


def test_an_init_container_with_a_slice_counts_and_one_that_has_done_its_work_is_not_stopped() -> (
    None
):
    world = World()
    tree = rewritten()
    warm_up = {**tree["spec"]["containers"][0], "name": "warm-up"}
    tree["spec"]["initContainers"] = [warm_up]
    done = {"name": "warm-up", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}
    for restarts in range(4):
        tree["status"]["initContainerStatuses"] = [{**done, "restartCount": restarts}]
        world.see(tree)

    [trouble] = world.troubles()
    world.rewritten.blame(trouble)

    assert world.stuck() == set()


def test_pods_that_only_carry_the_label_are_not_watched() -> None:
    world = World()
    tree = rewritten(containerStatuses=[status(9, running=False)])
    tree["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}

    world.see(tree)

    assert len(world.rewritten) == 0


def test_a_pod_that_is_being_deleted_is_left_in_peace() -> None:
    world = World()
    tree = crashing(5, ended_s=MINUTE_S)
    tree["metadata"]["deletionTimestamp"] = at(0)

    world.see(tree)

    assert world.causes() == {}


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", ["Job", "Workflow", "Pod"])
def test_the_first_failure_counts_where_each_takes_an_attempt(owner: str) -> None:
    world = World()
    world.see(rewritten(owner=owner))

    world.see(failed(owner=owner))

    assert world.causes() == {"asr-1": "Fails"}


@pytest.mark.parametrize("owner", ["Deployment", "StatefulSet"])
def test_where_pods_are_made_without_end_as_many_must_fail_as_may_restart(owner: str) -> None:
    world = World()
    for number in (1, 2):
        world.see(failed(f"asr-{number}", owner))
    assert world.causes() == {}

    world.see(failed("asr-3", owner))

    assert set(world.causes()) == {"asr-1", "asr-2", "asr-3"}


def test_failures_further_apart_than_the_window_do_not_add_up() -> None:
    world = World()
    for number in range(6):
        tree = failed(f"asr-{number}", "Deployment", ended_s=number * 16 * MINUTE_S)
        world.see(tree)
        assert world.causes() == {}
        world.pass_s(16 * MINUTE_S)


def test_what_the_cluster_ended_has_not_failed() -> None:
    world = World()
    disrupted = [{"type": "DisruptionTarget", "status": "True"}]

    world.see(failed(conditions=disrupted))

    assert world.causes() == {}


def test_a_pod_that_failed_because_somebody_deleted_it_has_not_failed() -> None:
    world = World()
    tree = failed()
    tree["metadata"]["deletionTimestamp"] = at(0)

    world.see(tree)

    assert world.causes() == {}


@pytest.mark.parametrize(("ago_s", "counts"), [(29 * MINUTE_S, True), (31 * MINUTE_S, False)])
def test_a_failure_found_in_a_first_list_counts_if_it_is_not_long_ago(
    ago_s: float, counts: bool
) -> None:
    world = World()
    world.pass_s(ago_s)

    world.see(failed(ended_s=0))

    assert bool(world.causes()) is counts


def test_a_failure_is_told_once_also_when_the_pod_changes_again_and_again() -> None:
    world = World()
    world.see(failed())
    [trouble] = world.troubles()
    world.rewritten.blame(trouble)

    world.see(failed())

    assert world.causes() == {}


# --- pending -------------------------------------------------------------------------------------


def test_a_pod_not_bound_for_long_though_a_gpu_is_free_for_it_is_in_trouble() -> None:
    world = World(pending_s=300.0)
    world.see(waiting())
    world.pass_s(299)
    assert world.causes() == {}

    world.pass_s(1)

    [trouble] = world.troubles()
    assert trouble.message == (
        "pod asr-1 on 2g.20gb not bound for 5 min, and a whole GPU is free for it"
    )


def test_without_a_free_gpu_it_would_wait_anyhow() -> None:
    world = World(whole=0)
    world.see(waiting())

    world.pass_s(3600)

    assert world.causes() == {}


def test_once_bound_it_waits_no_more() -> None:
    world = World()
    world.see(waiting())
    world.pass_s(299)
    world.see(rewritten())

    world.pass_s(3600)

    assert world.causes() == {}


def test_a_gate_does_not_count_as_waiting() -> None:
    world = World()
    gated = waiting()
    gated["spec"]["schedulingGates"] = [{"name": "later"}]
    world.see(gated)
    world.pass_s(3600)
    assert world.causes() == {}

    world.see(waiting())
    world.pass_s(299)

    assert world.causes() == {}


def test_unmet_is_who_waits_for_a_slice_that_nobody_has_free() -> None:
    world = World(slices=0)
    world.see(waiting())
    world.pass_s(29)
    assert world.unmet() == {}

    world.pass_s(1)
    assert world.unmet() == {"asr-1": ("2g.20gb",)}

    world.offer(1, 1)
    assert world.unmet() == {}


def test_a_profile_that_no_product_has_does_not_become_a_label() -> None:
    world = World(slices=0)
    tree = waiting()
    tree["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/mig-9g.made-up": "1"}}
    world.see(tree)

    world.pass_s(30)

    assert world.unmet() == {"asr-1": (OTHER,)}


def test_of_very_many_waiting_pods_a_round_looks_at_some_and_the_next_at_others() -> None:
    world = World(slices=0)
    for number in range(120):
        world.see(waiting(f"asr-{number}"))
    world.pass_s(60)

    found = [len(world.unmet())]
    for _ in range(2):
        world.pass_s(1)
        found.append(len(world.unmet()))

    assert found == [50, 100, 120]


# --- afterwards ----------------------------------------------------------------------------------


def test_evidence_that_a_hold_was_made_for_is_no_reason_for_another_but_new_one_is() -> None:
    world = World()
    world.see(crashing(3, ended_s=MINUTE_S))
    [trouble] = world.troubles()
    world.rewritten.blame(trouble)
    assert world.causes() == {}

    for restarts in (4, 5):
        world.see(crashing(restarts, ended_s=MINUTE_S))
        assert world.causes() == {}
    world.see(crashing(6, ended_s=MINUTE_S))

    assert world.causes() == {"asr-1": "Crashes"}


def test_a_pod_that_was_blamed_is_stuck_only_while_it_does_not_run() -> None:
    world = World()
    world.see(crashing(3, ended_s=MINUTE_S))
    assert world.stuck() == set()
    world.rewritten.blame(world.troubles()[0])

    assert world.stuck() == {"asr-1"}
    world.see(crashing(3, running=True, ended_s=MINUTE_S))
    assert world.stuck() == set()
    world.see(crashing(4, ended_s=2 * MINUTE_S))
    assert world.stuck() == {"asr-1"}


def test_a_pod_that_waited_is_stuck_only_while_a_gpu_is_free_for_it() -> None:
    world = World()
    world.see(waiting())
    world.pass_s(300)
    world.rewritten.blame(world.troubles()[0])

    assert world.stuck() == {"asr-1"}
    world.offer(0, 0)
    assert world.stuck() == set()
    world.offer(1, 0)
    world.see(rewritten())
    assert world.stuck() == set()


def test_of_pods_that_are_gone_nothing_is_kept() -> None:
    world = World()
    trees = [crashing(3), waiting("asr-2"), failed("asr-3")]
    for tree in trees:
        world.see(tree)
    world.pass_s(600)
    assert len(world.causes()) == 3

    for tree in trees:
        world.lose(tree)

    assert world.causes() == {}
    assert world.stuck() == set()
    assert len(world.rewritten) == 0
