"""Where there is room for a pod, and what becomes of it where there is none."""

from typing import Any

import pytest

from extender.core.decide import decide
from extender.core.decision import Verdict
from extender.core.policy import Inject, Policy, WhenFull
from extender.core.reason import Reason
from tests.build import (
    GPU,
    JSON,
    bound,
    changed,
    chosen,
    container,
    decided,
    full,
    holders,
    mig,
    node,
    pod,
    state,
    verdicts,
    waiting,
)

LARGER, NOW, LATER, WAIT = WhenFull
SMALL, MIDDLE, LARGE = mig("1g.10gb"), mig("2g.20gb"), mig("3g.40gb")
NEVER = Policy(when_full=())


# --- what is free ----------------------------------------------------------------------------------


def test_plain_resources_must_be_free_where_the_slice_is() -> None:
    tree = changed(pod(), "spec", "containers", 0, "resources", "requests", "cpu", to="97")
    assert decided(tree).reason is Reason.NO_FREE_SLICE
    busy = bound("busy", "gpu-a", {"cpu": 95})
    assert decided(pod(), pods=[busy]).reason is Reason.NO_FREE_SLICE
    assert decided(pod(), node(), node("gpu-b"), pods=[busy]).reason is Reason.FITS


def test_pods_that_ended_hold_nothing() -> None:
    ended = [changed(each, "status", "phase", to="Succeeded") for each in full("2g.20gb")]
    assert decided(pod(), pods=ended).reason is Reason.FITS


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        (0, 0, Reason.FITS_LARGER),
        (0, 100, Reason.FITS_LARGER),
        (100, 0, Reason.FITS),
        (100, 100, Reason.FITS_LARGER),
    ],
)
def test_pods_that_wait_come_first_unless_their_priority_is_lower(
    mine: int, theirs: int, expected: Reason
) -> None:
    queue = [waiting(f"w{n}", {MIDDLE: 1}, priority=theirs) for n in range(3)]
    assert decided(pod(priority=mine), pods=queue).reason is expected


def test_pods_that_wait_elsewhere_or_behind_a_gate_do_not_count() -> None:
    elsewhere = [waiting(f"w{n}", {MIDDLE: 1}, nodeSelector={"zone": "b"}) for n in range(3)]
    gated = [waiting(f"w{n}", {MIDDLE: 1}, schedulingGates=[{"name": "g"}]) for n in range(3)]
    assert decided(pod(), pods=elsewhere).reason is Reason.FITS
    assert decided(pod(), pods=gated).reason is Reason.FITS


def test_what_was_promised_to_pods_on_their_way_is_not_free() -> None:
    cluster, reasons = state(policy=NEVER), []
    for number in range(5):
        decision = decide(pod(), cluster.snapshot(), cluster.policy, request_id=str(number))
        cluster.reserve(decision)
        reasons.append(decision.reason)
    assert reasons == [*[Reason.FITS] * 3, *[Reason.NO_FREE_SLICE] * 2]


def test_what_was_promised_to_pods_that_go_elsewhere_is_free_here() -> None:
    one_each = [
        node(zone, labels={"zone": zone}, slices={"2g.20gb": 1}, whole=0) for zone in ("a", "b")
    ]
    cluster = state(*one_each, policy=NEVER)

    def reason(zone: str) -> Reason:
        tree = pod(nodeSelector={"zone": zone})
        decision = decide(tree, cluster.snapshot(), cluster.policy, request_id=zone)
        cluster.reserve(decision)
        return decision.reason

    assert [reason("a"), reason("b")] == [Reason.FITS, Reason.FITS]
    assert [reason("a"), reason("b")] == [Reason.NO_FREE_SLICE, Reason.NO_FREE_SLICE]


def test_whole_gpus_kept_by_pods_on_their_way_are_not_free() -> None:
    cluster = state(pods=full("2g.20gb"), policy=Policy(when_full=(NOW, WAIT)))
    reasons = []
    for number in range(4):
        decision = decide(pod(), cluster.snapshot(), cluster.policy, request_id=str(number))
        cluster.reserve(decision)
        reasons.append(decision.reason)
    assert reasons == [*[Reason.NO_FREE_SLICE] * 2, *[Reason.WAITS] * 2]


def test_a_pod_that_could_have_no_slice_still_keeps_its_gpu_from_others() -> None:
    cluster = state(pods=[*full("2g.20gb"), *holders(1)], policy=Policy(when_full=(NOW, WAIT)))
    unknown = decide(pod(footprint=None), cluster.snapshot(), cluster.policy, request_id="a")
    assert unknown.reason is Reason.NO_FOOTPRINT
    cluster.reserve(unknown)
    assert decide(pod(), cluster.snapshot(), cluster.policy).reason is Reason.WAITS


# --- several containers ----------------------------------------------------------------------------


def test_all_slices_of_a_pod_must_be_free_on_one_node() -> None:
    one_each = [node(name, slices={"2g.20gb": 1}) for name in ("a", "b")]
    both = pod(container("asr"), container("tts"))
    assert decided(both, *one_each, policy=NEVER).reason is Reason.NO_FREE_SLICE
    two = node("c", slices={"2g.20gb": 2})
    decision = decided(both, *one_each, two, policy=NEVER)
    assert (decision.reason, decision.claims) == (Reason.FITS, {MIDDLE: 2})


@pytest.mark.parametrize(
    ("starting", "claims"),
    [
        ([container("fetch")], {MIDDLE: 1}),
        ([container("proxy", restartPolicy="Always")], {MIDDLE: 2}),
        ([container("proxy", restartPolicy="Always"), container("fetch")], {MIDDLE: 2}),
        ([container("fetch"), container("warm")], {MIDDLE: 1}),
    ],
)
def test_init_containers_use_one_slice_after_another_and_sidecars_one_each(
    starting: list[JSON], claims: dict[str, int]
) -> None:
    tree = pod(container(), initContainers=starting)
    decision = decided(tree, node(slices={"2g.20gb": claims[MIDDLE]}), policy=NEVER)
    assert (decision.reason, decision.claims) == (Reason.FITS, claims)
    assert set(chosen(decision).values()) == {"2g.20gb"}


def two_sizes(small: str = "8G", large: str = "30G") -> JSON:
    tree = pod(container("small"), container("large"), footprint=large)
    return changed(tree, "metadata", "annotations", "gpu-memory.migfit.io/small", to=small)


def test_containers_of_different_sizes_get_slices_of_their_own() -> None:
    decision = decided(two_sizes())
    assert chosen(decision) == {"small": "1g.10gb", "large": "3g.40gb"}
    assert decision.claims == {SMALL: 1, LARGE: 1}
    assert (decision.profile, decision.need_mib, decision.usable_mib) == ("3g.40gb", 34333, 40192)


def test_the_larger_of_two_slices_makes_way_together_with_the_smaller() -> None:
    decision = decided(two_sizes(), pods=full("1g.10gb"))
    assert decision.reason is Reason.FITS_LARGER
    assert chosen(decision) == {"small": "2g.20gb", "large": "3g.40gb"}


def test_a_small_container_uses_the_slice_that_a_large_init_container_leaves() -> None:
    tree = pod(container("small"), initContainers=[container("large")], footprint="15G")
    tree = changed(tree, "metadata", "annotations", "gpu-memory.migfit.io/small", to="7G")
    decision = decided(tree)
    assert chosen(decision) == {"small": "2g.20gb", "large": "2g.20gb"}
    assert decision.claims == {MIDDLE: 1}


@pytest.mark.parametrize(("first", "profile"), [("7G", "2g.20gb"), ("14G", "4g.40gb")])
def test_of_unequal_slices_the_larger_goes_to_the_larger_need(first: str, profile: str) -> None:
    one_each = node(slices={"2g.20gb": 1, "4g.40gb": 1})
    tree = pod(container("first"), container("second"), footprint="10G")
    tree = changed(tree, "metadata", "annotations", "gpu-memory.migfit.io/first", to=first)
    decision = decided(tree, one_each)
    assert chosen(decision)["first"] == profile


def test_one_container_that_fits_nothing_leaves_them_all() -> None:
    decision = decided(two_sizes(large="60G"))
    assert decision.reason is Reason.TOO_LARGE
    assert chosen(decision) == {"small": None, "large": None}


# --- when the smallest is full ---------------------------------------------------------------------


def outcome(when_full: tuple[WhenFull, ...], pods: list[JSON], *nodes: JSON, **policy: Any) -> str:
    """Reason, and profile where there is one."""
    found = decided(pod(), *nodes, pods=pods, policy=Policy(when_full=when_full, **policy))
    return f"{found.reason} {found.profile or ''}".strip()


def test_the_next_larger_free_profile_is_taken() -> None:
    assert outcome((LARGER,), full("2g.20gb")) == "FitsLarger 3g.40gb"
    assert outcome((LARGER,), full("2g.20gb", "3g.40gb")) == "NoFreeSlice"
    larger = node(slices={"2g.20gb": 0, "3g.40gb": 2, "4g.40gb": 1})
    assert outcome((LARGER,), [], larger) == "Fits 3g.40gb"


def test_whole_now_leaves_the_pod_where_a_whole_gpu_is_free() -> None:
    assert outcome((NOW,), full("2g.20gb")) == "NoFreeSlice"
    assert outcome((NOW, WAIT), full("2g.20gb")) == "NoFreeSlice"
    assert outcome((NOW, WAIT), [*full("2g.20gb"), *holders(2)]) == "Waits 2g.20gb"


def test_whole_now_counts_shared_gpus_and_slices_under_strategy_single() -> None:
    single = node(
        "gpu-b",
        slices={},
        whole=7,
        labels={"nvidia.com/mig.strategy": "single", "nvidia.com/gpu.replicas": "4"},
    )
    pods = [*full("2g.20gb"), *holders(2)]
    assert outcome((NOW, WAIT), pods, node(), single) == "NoFreeSlice"


def test_whole_now_asks_for_as_many_gpus_as_the_pod_does_on_one_node() -> None:
    tree = pod(container("asr"), container("tts"))
    policy = Policy(when_full=(NOW, WAIT))
    pods = full("2g.20gb")
    assert decided(tree, pods=pods, policy=policy).reason is Reason.NO_FREE_SLICE
    assert decided(tree, pods=[*pods, *holders(1)], policy=policy).reason is Reason.WAITS


def test_whole_now_gives_way_to_pods_that_wait_for_whole_gpus() -> None:
    queue = [waiting(f"w{n}", {GPU: 1}) for n in range(2)]
    assert outcome((NOW, WAIT), [*full("2g.20gb"), *queue]) == "Waits 2g.20gb"


def test_whole_later_leaves_the_pod_where_a_whole_gpu_may_become_free() -> None:
    busy = [*full("2g.20gb"), *holders(2)]
    assert outcome((LATER, WAIT), busy) == "NoFreeSlice"
    assert outcome((LATER, WAIT), busy[:3], node(whole=0)) == "Waits 2g.20gb"


def test_whole_later_needs_a_node_that_can_have_all_the_pod_asks_for() -> None:
    tree = pod(container("asr"), container("tts"))
    policy = Policy(when_full=(LATER, WAIT))
    pods = full("2g.20gb")
    assert decided(tree, node(whole=1), pods=pods, policy=policy).reason is Reason.WAITS
    assert decided(tree, node(whole=2), pods=pods, policy=policy).reason is Reason.NO_FREE_SLICE


@pytest.mark.parametrize(
    ("autoscaled", "labels", "expected"),
    [
        (None, {}, "Waits 2g.20gb"),
        (None, {"karpenter.sh/nodepool": "gpus"}, "NoFreeSlice"),
        (None, {"cloud.google.com/gke-nodepool": "gpus"}, "NoFreeSlice"),
        (False, {"eks.amazonaws.com/nodegroup": "gpus"}, "Waits 2g.20gb"),
        (True, {}, "NoFreeSlice"),
    ],
)
def test_whole_later_counts_on_an_autoscaler(
    autoscaled: bool | None, labels: dict[str, str], expected: str
) -> None:
    only_slices = node(whole=0, labels=labels)
    pods = full("2g.20gb")
    assert outcome((LATER, WAIT), pods, only_slices, autoscaled=autoscaled) == expected


def test_the_entries_are_tried_in_the_order_of_the_admin() -> None:
    pods = full("2g.20gb")
    assert outcome((LARGER, NOW, LATER, WAIT), pods) == "FitsLarger 3g.40gb"
    assert outcome((NOW, LARGER), pods) == "NoFreeSlice"
    assert outcome((WAIT, LARGER), pods) == "Waits 2g.20gb"
    assert outcome((LATER, LARGER), pods) == "NoFreeSlice"
    assert outcome((LATER, LARGER), pods, node(whole=0)) == "FitsLarger 3g.40gb"


def test_an_exhausted_list_leaves_the_pod() -> None:
    assert outcome((), full("2g.20gb")) == "NoFreeSlice"
    assert outcome((NOW, LATER), full("2g.20gb"), node(whole=0)) == "NoFreeSlice"


def test_a_whole_gpu_is_judged_by_what_the_pod_says_before_injection() -> None:
    mine = node(whole=0, labels={"pool": "mig"})
    theirs = node("gpu-b", slices={}, whole=8, labels={"pool": "whole"})
    inject = Inject(node_selector=(("pool", "mig"),))
    assert outcome((NOW, WAIT), full("2g.20gb"), mine, theirs, inject=inject) == "NoFreeSlice"
    assert outcome((LARGER,), full("2g.20gb"), mine, theirs, inject=inject) == "FitsLarger 3g.40gb"


def test_waiting_is_for_slices_that_some_node_can_have_together() -> None:
    apart = [
        node("gpu-a", slices={"1g.10gb": 2}, whole=0),
        node("gpu-b", slices={"2g.20gb": 1, "3g.40gb": 2}, whole=0),
    ]
    held = holders(2, LARGE, on="gpu-b")
    decision = decided(two_sizes(), *apart, pods=held, policy=Policy(when_full=(WAIT,)))
    assert decision.reason is Reason.WAITS
    assert chosen(decision) == {"small": "2g.20gb", "large": "3g.40gb"}


def test_a_pod_no_node_can_ever_hold_waits_for_no_slice() -> None:
    tree = changed(pod(), "spec", "containers", 0, "resources", "requests", "cpu", to="97")
    assert decided(tree, policy=Policy(when_full=(WAIT,))).reason is Reason.NO_FREE_SLICE


def test_a_profile_found_full_is_told_so() -> None:
    decision = decided(pod(), pods=full("2g.20gb", "3g.40gb"), policy=NEVER)
    assert verdicts(decision) == {
        "1g.10gb": Verdict.TOO_SMALL,
        "2g.20gb": Verdict.FULL,
        "3g.40gb": Verdict.FITS,
    }
    assert "mig-2g.20gb" in decision.message
