"""Which slices are candidates for a pod, and in which order."""

from dataclasses import replace

import pytest

from extender.core.decision import Verdict
from extender.core.policy import Inject, Policy, Pool, WhenFull
from extender.core.reason import Reason
from tests.build import (
    annotated,
    changed,
    chosen,
    container,
    decided,
    full,
    holders,
    mig,
    node,
    pod,
    verdicts,
)

SMALL, MIDDLE, LARGE = mig("1g.10gb"), mig("2g.20gb"), mig("3g.40gb")
MEMORY = f"{MIDDLE}.memory"


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


def test_the_largest_slice_told_is_one_that_could_be_taken() -> None:
    shared = node(slices={"1g.10gb": 2, "2g.20gb": 3}, labels={f"{MIDDLE}.replicas": "2"})
    decision = decided(pod(), shared)
    assert (decision.reason, verdicts(decision)) == (
        Reason.TOO_LARGE,
        {"1g.10gb": Verdict.TOO_SMALL, "2g.20gb": Verdict.SHARED},
    )
    assert decision.message == "need 10987Mi; the largest slice in reach has 9728Mi"


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


def test_without_a_need_none_is_told() -> None:
    decision = decided(annotated(pod(footprint=None), profile="1g.10gb", min_compute="2"))
    assert decision.reason is Reason.TOO_LARGE
    assert decision.message == "no slice in reach has the memory, compute and bandwidth together"


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
    policy = Policy(pools=(LATER_NODES,), when_full=(WhenFull.WAIT,))
    decision = decided(pod(), small, policy=policy)
    assert (decision.reason, decision.profile) == (Reason.WAITS, "2g.20gb")
    assert decision.candidates[-1].free == 0
    assert decided(pod(), small, policy=replace(policy, when_full=())).reason is (
        Reason.NO_FREE_SLICE
    )


def test_a_pool_out_of_reach_offers_nothing() -> None:
    small = node(slices={"1g.10gb": 2}, labels={"zone": "a"})
    policy = Policy(pools=(LATER_NODES,), when_full=(WhenFull.WAIT,))
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
    policy = Policy(pools=(pool,), when_full=(WhenFull.WAIT,))
    assert decided(tree, small, policy=policy).reason is Reason.NO_FREE_SLICE
