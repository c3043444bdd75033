from dataclasses import replace
from typing import Any

import pytest

from extender.core.decide import decide
from extender.core.decision import Decision, Verdict
from extender.core.policy import Inject, Policy, Pool, WhenFull
from extender.core.reason import Reason
from tests.build import (
    GPU,
    JSON,
    annotated,
    bound,
    changed,
    chosen,
    container,
    decided,
    mig,
    node,
    pod,
    state,
    waiting,
)

LARGER, NOW, LATER, WAIT = WhenFull
SMALL, MIDDLE, LARGE = mig("1g.10gb"), mig("2g.20gb"), mig("3g.40gb")
MEMORY = f"{MIDDLE}.memory"
NEVER = Policy(when_full=())


def verdicts(decision: Decision) -> dict[str, Verdict]:
    """Profile -> what was found of it."""
    return {c.resource.removeprefix("nvidia.com/mig-"): c.verdict for c in decision.candidates}


def full(*profiles: str, on: str = "gpu-a") -> list[JSON]:
    """Pods that hold every slice of these profiles on the node of `tests.build`."""
    counts = {"1g.10gb": 2, "2g.20gb": 3, "3g.40gb": 2}
    return [bound(f"{p}-{n}", on, {mig(p): 1}) for p in profiles for n in range(counts[p])]


def holders(count: int, resource: str = GPU, on: str = "gpu-a") -> list[JSON]:
    return [bound(f"holder-{n}", on, {resource: 1}) for n in range(count)]


# --- order -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("footprint", "profile"),
    [
        ("8G", "1g.10gb"),
        ("8.5G", "1g.10gb"),
        ("8.6G", "2g.20gb"),
        ("17G", "2g.20gb"),
        ("18G", "3g.40gb"),
    ],
)
def test_the_smallest_profile_that_holds_the_need_is_taken(footprint: str, profile: str) -> None:
    decision = decided(pod(footprint=footprint))
    assert (decision.reason, decision.profile) == (Reason.FITS, profile)


def test_every_candidate_is_told_with_what_was_found_of_it() -> None:
    decision = decided(pod(), pods=holders(2, LARGE))
    assert [(c.resource, c.usable_mib, c.free, c.verdict) for c in decision.candidates] == [
        (SMALL, 9728, 2, Verdict.TOO_SMALL),
        (MIDDLE, 19968, 3, Verdict.CHOSEN),
        (LARGE, 40192, 0, Verdict.FITS),
    ]


@pytest.mark.parametrize(
    ("slices", "product", "profile"),
    [
        (("1g.20gb", "2g.20gb"), "NVIDIA-H100-80GB-HBM3", "1g.20gb"),  # fewer compute slices
        (("3g.40gb", "4g.40gb"), "NVIDIA-A100-SXM4-80GB", "3g.40gb"),
        (("1g.10gb", "2g.10gb"), "NVIDIA-A100-SXM4-40GB", "1g.10gb"),
    ],
)
def test_of_equal_memory_the_profile_with_fewer_compute_slices_comes_first(
    slices: tuple[str, ...], product: str, profile: str
) -> None:
    offered = node(slices=dict.fromkeys(reversed(slices), 1), product=product)
    tree = pod(footprint="7G" if profile == "1g.10gb" else "15G")
    assert decided(tree, offered).profile == profile


def test_a_plain_profile_comes_before_a_special_one() -> None:
    both = node(slices={"1g.10gb+me": 1, "1g.10gb": 1})
    policy = Policy(allow_special_profiles=True)
    assert decided(pod(footprint="7G"), both, policy=policy).profile == "1g.10gb"


def test_without_anything_else_to_tell_them_apart_the_name_decides() -> None:
    said = {f"{mig(p)}.memory": "9000" for p in ("1g.10gb", "1g.11gb")}
    odd = node(slices={"1g.11gb": 1, "1g.10gb": 1}, product="NVIDIA-Z999", labels=said)
    assert decided(pod(footprint="7G"), odd).profile == "1g.10gb"


# --- what is no candidate --------------------------------------------------------------------------


def test_special_profiles_are_taken_on_request_only() -> None:
    special = node(slices={"1g.10gb+me": 1})
    tree = pod(footprint="7G")
    unasked = decided(tree, special)
    assert (unasked.reason, verdicts(unasked)) == (
        Reason.NO_REACHABLE_MIG,
        {"1g.10gb.me": Verdict.SPECIAL},
    )
    assert decided(tree, special, policy=Policy(allow_special_profiles=True)).reason is Reason.FITS
    assert decided(annotated(tree, profile="1g.10gb+me"), special).profile == "1g.10gb+me"


def test_the_profile_that_is_asked_for_is_the_only_candidate() -> None:
    decision = decided(annotated(pod(footprint="1G"), profile="3g.40gb"))
    assert verdicts(decision) == {
        "1g.10gb": Verdict.NOT_ASKED_FOR,
        "2g.20gb": Verdict.NOT_ASKED_FOR,
        "3g.40gb": Verdict.CHOSEN,
    }
    missing = decided(annotated(pod(), profile="4g.40gb"))
    assert missing.reason is Reason.NO_REACHABLE_MIG
    assert "4g.40gb" in missing.message


def test_a_profile_that_is_asked_for_is_checked_against_the_need() -> None:
    decision = decided(annotated(pod(), profile="1g.10gb"))
    assert decision.reason is Reason.PROFILE_TOO_SMALL
    assert "10987Mi" in decision.message
    assert "9728Mi" in decision.message


def test_a_profile_that_is_asked_for_is_never_replaced_by_a_larger_one() -> None:
    tree = annotated(pod(), profile="2g.20gb")
    assert decided(tree, pods=full("2g.20gb")).reason is Reason.NO_FREE_SLICE


@pytest.mark.parametrize("label", [f"{MIDDLE}.replicas", f"{MIDDLE}.sharing-strategy"])
def test_one_reachable_node_that_shares_a_name_spoils_it(label: str) -> None:
    value = "2" if label.endswith("replicas") else "time-slicing"
    sharing = node("gpu-b", labels={label: value, "zone": "b"})
    decision = decided(pod(), node(), sharing)
    assert decision.profile == "3g.40gb"
    assert verdicts(decision)["2g.20gb"] is Verdict.SHARED
    elsewhere = pod(nodeSelector={"kubernetes.io/hostname": "gpu-a"})
    assert decided(elsewhere, node(), sharing).profile == "2g.20gb"


def test_slices_renamed_for_sharing_are_no_candidates() -> None:
    shared = node(slices={})
    shared["status"]["allocatable"][f"{MIDDLE}.shared"] = "6"
    decision = decided(pod(), shared)
    assert (decision.reason, verdicts(decision)) == (
        Reason.NO_REACHABLE_MIG,
        {"2g.20gb.shared": Verdict.SHARED},
    )


@pytest.mark.parametrize(
    "labels",
    [
        {"nvidia.com/mig.strategy": "single"},
        {"cloud.google.com/gke-gpu-partition-size": "2g.20gb"},
        {"nvidia.com/mig.config.state": "pending"},
        {"nvidia.com/mig.config.state": "rebooting"},
    ],
)
def test_nodes_that_take_no_part_offer_nothing(labels: dict[str, str]) -> None:
    aside = node(labels=labels)
    assert decided(pod(), aside).reason is Reason.NO_REACHABLE_MIG
    assert decided(pod(), aside, node("gpu-b")).reason is Reason.FITS


def test_a_node_without_a_word_on_strategy_is_judged_by_what_it_has() -> None:
    assert decided(pod(), node(labels={"nvidia.com/mig.strategy": None})).reason is Reason.FITS


def test_only_nodes_the_pod_may_land_on_offer_it_anything() -> None:
    tree = pod(nodeSelector={"zone": "b"})
    assert decided(tree, node()).reason is Reason.NO_REACHABLE_MIG
    small = node("gpu-b", slices={"3g.40gb": 1}, labels={"zone": "b"})
    assert decided(tree, node(), small).profile == "3g.40gb"


def test_too_large_is_told_with_the_need_and_the_largest_slice() -> None:
    decision = decided(pod(footprint="60G"))
    assert decision.reason is Reason.TOO_LARGE
    assert "68665Mi" in decision.message
    assert "40192Mi" in decision.message
    assert set(verdicts(decision).values()) == {Verdict.TOO_SMALL}


@pytest.mark.parametrize(
    ("key", "value", "verdict"),
    [
        ("min_compute", "4", Verdict.TOO_LITTLE_COMPUTE),
        ("min_bandwidth", "1000G", Verdict.TOO_LITTLE_BANDWIDTH),
    ],
)
def test_too_large_may_be_a_matter_of_compute_or_bandwidth(
    key: str, value: str, verdict: Verdict
) -> None:
    decision = decided(annotated(pod(footprint="1G"), **{key: value}))
    assert (decision.reason, set(verdicts(decision).values())) == (Reason.TOO_LARGE, {verdict})


def test_bandwidth_nobody_knows_satisfies_no_demand() -> None:
    unknown = node(product="NVIDIA-Z999", labels={MEMORY: "19968"}, slices={"2g.20gb": 1})
    assert decided(pod(), unknown).reason is Reason.FITS
    assert decided(annotated(pod(), min_bandwidth="1G"), unknown).reason is Reason.TOO_LARGE


@pytest.mark.parametrize(("most", "profile"), [("0", "3g.40gb"), ("1", "2g.20gb")])
def test_a_limit_range_may_forbid_a_slice(most: str, profile: str) -> None:
    limit = {
        "metadata": {"name": "no-middle", "namespace": "speech"},
        "spec": {"limits": [{"type": "Container", "max": {MIDDLE: most}}]},
    }
    assert decided(pod(), limits=[limit]).profile == profile


def test_a_limit_range_is_told_where_but_for_it_some_slice_would_do() -> None:
    limit = {
        "metadata": {"name": "no-large", "namespace": "speech"},
        "spec": {"limits": [{"type": "Container", "max": {LARGE: "0"}}]},
    }
    picky = annotated(pod(), min_compute="3")
    decision = decided(picky, limits=[limit])
    assert decision.reason is Reason.LIMIT_RANGE
    assert verdicts(decision) == {
        "1g.10gb": Verdict.TOO_SMALL,
        "2g.20gb": Verdict.TOO_LITTLE_COMPUTE,
        "3g.40gb": Verdict.LIMIT_RANGE,
    }
    too_large = annotated(pod(), min_compute="4")
    assert decided(too_large, limits=[limit]).reason is Reason.TOO_LARGE


# --- usable memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["0", "16000", "25000", "unknown"])
def test_a_slice_of_unknown_memory_is_no_candidate(label: str) -> None:
    odd = node(labels={MEMORY: label}, slices={"2g.20gb": 1})
    decision = decided(pod(), odd)
    assert (decision.reason, verdicts(decision)) == (
        Reason.NO_REACHABLE_MIG,
        {"2g.20gb": Verdict.MEMORY_UNKNOWN},
    )


def test_a_profile_asked_for_without_a_need_may_be_of_unknown_memory() -> None:
    odd = node(labels={MEMORY: "0"}, slices={"2g.20gb": 1})
    tree = annotated(pod(footprint=None), profile="2g.20gb")
    assert (decided(tree, odd).reason, decided(tree, odd).guards) == (Reason.FITS, ())


def test_a_name_is_worth_the_least_over_the_nodes_in_reach() -> None:
    poorer = node("gpu-b", labels={MEMORY: "17000", "zone": "b"})
    tree = pod(footprint="15G")  # needs 17167 MiB
    assert decided(tree, node(), poorer).profile == "3g.40gb"
    away = pod(footprint="15G", nodeSelector={"kubernetes.io/hostname": "gpu-a"})
    assert decided(away, node(), poorer).profile == "2g.20gb"


def test_the_admins_word_on_memory_counts() -> None:
    product = "NVIDIA-A100-SXM4-80GB"
    policy = Policy(usable_mib={product: {"1g.10gb": 11000}})
    assert decided(pod(), policy=policy).profile == "1g.10gb"


# --- the guard -------------------------------------------------------------------------------------


def test_where_every_node_says_the_same_nothing_is_guarded() -> None:
    assert decided(pod(), node("a"), node("b")).guards == ()


def test_where_nodes_differ_kube_scheduler_is_asked_to_check() -> None:
    other = node("b", labels={MEMORY: "19000"})
    assert decided(pod(), node("a"), other).guards == ((MEMORY, 10986),)


def test_where_a_node_is_not_counted_it_is_kept_away_by_a_guard() -> None:
    decision = decided(pod(), node("a"), node("b", labels={MEMORY: "0"}))
    assert (decision.reason, decision.guards) == (Reason.FITS, ((MEMORY, 10986),))
    assert decision.usable_mib == 19968


def test_a_node_that_is_not_counted_makes_no_room() -> None:
    unsure = node("gpu-b", labels={MEMORY: "0"})
    decision = decided(pod(), node(), unsure, pods=full("2g.20gb"))
    assert decision.reason is Reason.FITS_LARGER


def test_where_the_filter_is_off_kube_scheduler_checks_in_its_place() -> None:
    assert decided(pod(), policy=Policy(filter=False)).guards == ((MEMORY, 10986),)


def test_without_labels_there_is_no_guard() -> None:
    silent = node(labels={MEMORY: None})
    decision = decided(pod(), silent, policy=Policy(filter=False))
    assert (decision.reason, decision.guards) == (Reason.FITS, ())


def test_where_a_guard_is_needed_and_impossible_the_name_is_no_candidate() -> None:
    unknown = node("b", labels={MEMORY: "0"}, slices={"2g.20gb": 1})
    silent = node("a", labels={MEMORY: None}, slices={"2g.20gb": 1})
    decision = decided(pod(), silent, unknown)
    assert verdicts(decision) == {"2g.20gb": Verdict.MEMORY_UNKNOWN}


def test_a_pool_that_does_not_carry_the_label_makes_a_guard_impossible() -> None:
    product = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}
    silent = Pool(name="later", labels=product, slices={MIDDLE: 1})
    telling = replace(silent, labels={**product, MEMORY: "19968"})
    assert decided(pod(), policy=Policy(filter=False, pools=(silent,))).guards == ()
    assert decided(pod(), policy=Policy(filter=False, pools=(telling,))).guards != ()


def test_a_label_the_admin_contradicts_is_no_guard() -> None:
    product = "NVIDIA-A100-SXM4-80GB"
    policy = Policy(filter=False, usable_mib={product: {"2g.20gb": 19000}})
    wrong = node(labels={MEMORY: "0"}, slices={"2g.20gb": 1})
    decision = decided(pod(), wrong, policy=policy)
    assert (decision.reason, decision.guards) == (Reason.FITS, ())


def test_without_a_need_there_is_nothing_to_guard() -> None:
    tree = annotated(pod(footprint=None), profile="2g.20gb")
    assert decided(tree, policy=Policy(filter=False)).guards == ()


def test_containers_on_the_same_profile_are_guarded_by_the_larger_need() -> None:
    tree = pod(container("asr"), container("tts"))
    tree = changed(tree, "metadata", "annotations", "gpu-memory.migfit.io/tts", to="13G")
    decision = decided(tree, policy=Policy(filter=False))
    assert chosen(decision) == {"asr": "2g.20gb", "tts": "2g.20gb"}
    assert decision.guards == ((MEMORY, 14877),)


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


# --- injection and pools ---------------------------------------------------------------------------


def test_a_pod_reaches_what_it_will_tolerate_and_select_after_injection() -> None:
    tainted = node(taints=[{"key": "mig", "effect": "NoSchedule"}], labels={"pool": "mig"})
    toleration = {"key": "mig", "operator": "Exists"}
    assert decided(pod(), tainted).reason is Reason.NO_REACHABLE_MIG
    tolerant = Policy(inject=Inject(tolerations=(toleration,)))
    assert decided(pod(), tainted, policy=tolerant).reason is Reason.FITS
    selective = Policy(inject=Inject(node_selector=(("pool", "mig"),)))
    assert decided(pod(), node(), policy=selective).reason is Reason.NO_REACHABLE_MIG


def test_a_selector_of_the_pods_own_is_not_overruled_by_injection() -> None:
    selective = Policy(inject=Inject(node_selector=(("pool", "mig"),)))
    tree = pod(nodeSelector={"pool": "speech"})
    assert decided(tree, node(labels={"pool": "speech"}), policy=selective).reason is Reason.FITS


LATER_NODES = Pool(name="later", labels={"zone": "b", MEMORY: "19968"}, slices={MIDDLE: 3})


def test_a_pool_offers_slices_that_are_never_free() -> None:
    small = node(slices={"1g.10gb": 2}, whole=0)
    policy = Policy(pools=(LATER_NODES,), when_full=(WAIT,))
    decision = decided(pod(), small, policy=policy)
    assert (decision.reason, decision.profile) == (Reason.WAITS, "2g.20gb")
    assert decision.candidates[-1].free == 0
    assert decided(pod(), small, policy=replace(policy, when_full=())).reason is (
        Reason.NO_FREE_SLICE
    )


def test_a_pool_out_of_reach_offers_nothing() -> None:
    small = node(slices={"1g.10gb": 2}, labels={"zone": "a"})
    policy = Policy(pools=(LATER_NODES,), when_full=(WAIT,))
    tree = pod(nodeSelector={"zone": "a"})
    assert decided(tree, small, policy=policy).reason is Reason.TOO_LARGE
    taint = {"key": "spot", "value": "", "effect": "NoSchedule"}
    kept = replace(policy, pools=(replace(LATER_NODES, taints=(taint,)),))
    assert decided(pod(), small, policy=kept).reason is Reason.TOO_LARGE


def test_a_pool_whose_memory_nobody_knows_makes_its_name_unsure() -> None:
    unknown = Pool(name="later", labels={MEMORY: "0"}, slices={MIDDLE: 3})
    decision = decided(pod(), policy=Policy(pools=(unknown,)))
    assert (decision.profile, decision.guards) == ("2g.20gb", ((MEMORY, 10986),))


def test_a_pool_smaller_than_the_pod_is_not_waited_for() -> None:
    tree = pod(container("asr"), container("tts"))
    small = node(slices={"1g.10gb": 2}, whole=0)
    pool = replace(LATER_NODES, slices={MIDDLE: 1})
    policy = Policy(pools=(pool,), when_full=(WAIT,))
    assert decided(tree, small, policy=policy).reason is Reason.NO_FREE_SLICE
