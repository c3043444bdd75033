import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import jsonpatch
import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from extender.cluster.state import State
from extender.core.decide import decide
from extender.core.decision import Decision
from extender.core.policy import Inject, Match, Mode, Policy, Rule, WhenFull
from extender.core.reason import Action, Reason
from extender.core.render import annotation, differs
from extender.core.rewrite import DECISION_ANNOTATION, Patch, apply, patch_for
from tests.build import (
    GPU,
    JSON,
    bound,
    changed,
    chosen,
    container,
    decided,
    mig,
    namespace,
    node,
    pod,
    state,
)
from tests.draw import clusters, crowds, pods, policies

MIDDLE = mig("2g.20gb")
ENFORCE = st.just(Mode.ENFORCE)


def patch(decision: Decision, tree: JSON, policy: Policy) -> Patch:
    """The patch that carries a decision out."""
    existing = tree["metadata"]["annotations"].get(DECISION_ANNOTATION)
    told = not differs(decision, existing)
    text = None if told else annotation(decision)
    return patch_for(decision, tree, inject=policy.inject, annotation=text)


def look(tree: JSON, cluster: State, request_id: str = "uid-1") -> Decision:
    return decide(tree, cluster.snapshot(), cluster.policy, request_id=request_id)


# --- what holds for every pod in every cluster -----------------------------------------------------


@given(pods(), clusters(), crowds(), policies())
def test_a_decision_carried_out_is_not_made_again(
    tree: JSON, nodes: list[JSON], crowd: list[JSON], policy: Policy
) -> None:
    cluster = state(*nodes, pods=crowd, policy=policy)
    first = look(tree, cluster)
    cluster.reserve(first)
    after = apply(patch(first, tree, policy), tree)
    second = look(after, cluster, request_id="uid-2")
    assert patch(second, after, policy) == []
    if first.action is Action.REWRITTEN:
        assert second.reason is Reason.ALREADY_MIG
    else:
        assert replace(second, id="uid-1", message=first.message) == first


OURS = ("/metadata/annotations/migfit.io~1decision",)
REWRITE = (
    "/metadata/annotations/migfit.io~1need",
    "/metadata/labels/migfit.io~1rewritten",
    "/spec/schedulerName",
    "/spec/nodeSelector",
    "/spec/tolerations",
    "/spec/affinity",
)


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Pointers to whatever is other than it was, down to the type and the order of members."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = [f"{path}/{key.replace('/', '~1')}" for key in before.keys() ^ after.keys()]
        both = [key for key in before if key in after]
        if both != [key for key in after if key in before]:
            found.append(f"{path}: order")
        for key in both:
            found += differences(before[key], after[key], f"{path}/{key.replace('/', '~1')}")
        return found
    if isinstance(before, list) and isinstance(after, list):
        found = [f"{path}/{n}" for n in range(len(before), len(after))]
        for number, (old, new) in enumerate(zip(before, after, strict=False)):
            found += differences(old, new, f"{path}/{number}")
        return found if len(after) >= len(before) else [*found, path]
    return [] if orjson.dumps(before) == orjson.dumps(after) else [path]


@given(pods(), clusters(), crowds(), policies())
def test_nothing_is_changed_but_what_a_decision_is_about(
    tree: JSON, nodes: list[JSON], crowd: list[JSON], policy: Policy
) -> None:
    decision = look(tree, state(*nodes, pods=crowd, policy=policy))
    after = apply(patch(decision, tree, policy), tree)
    allowed = [*OURS]
    if decision.action is Action.REWRITTEN:
        allowed += REWRITE
        for change in decision.changes:
            for name in (change.resource, str(change.to)):
                token = name.replace("/", "~1")
                allowed += [
                    f"{change.pointer}/resources/{p}/{token}" for p in ("limits", "requests")
                ]
    inside = ("/spec/tolerations/", "/spec/affinity/", "/spec/nodeSelector/")
    for path in differences(tree, after):
        assert path in allowed or (decision.action is Action.REWRITTEN and path.startswith(inside))


@given(pods(), clusters(), crowds(), policies())
def test_the_patch_means_to_others_what_it_means_to_us(
    tree: JSON, nodes: list[JSON], crowd: list[JSON], policy: Policy
) -> None:
    decision = look(tree, state(*nodes, pods=crowd, policy=policy))
    operations = patch(decision, tree, policy)
    after = apply(operations, tree)
    assert after == jsonpatch.apply_patch(tree, operations)
    held = {
        c["name"]: c
        for c in [*after["spec"]["containers"], *after["spec"].get("initContainers", [])]
    }
    for change in decision.changes:
        for part in ("limits", "requests"):
            asked = held[change.name]["resources"][part]
            if decision.action is Action.REWRITTEN:
                assert GPU not in asked
                assert asked[change.to] == "1"
            else:
                assert GPU in asked


@given(pods(), clusters(), crowds(), policies(usable_mib={}))
def test_the_need_is_never_above_what_a_slice_has_where_the_pod_may_land(
    tree: JSON, nodes: list[JSON], crowd: list[JSON], policy: Policy
) -> None:
    cluster = state(*nodes, pods=crowd, policy=policy)
    decision = look(tree, cluster)
    assume(decision.action is Action.REWRITTEN)
    guarded = dict(decision.guards)
    reached = cluster.capacity.index.reach(apply(patch(decision, tree, policy), tree)["spec"])
    for each in cluster.capacity.index.members(reached):
        for change in decision.changes:
            label = each.labels.get(f"{change.to}.memory")
            if label is None or change.to not in each.gpus or not each.offers:
                continue
            assert change.need_mib is None or change.need_mib <= int(label)
    assert all(least < max(c.need_mib or 0 for c in decision.changes) for least in guarded.values())
    if decision.need_mib is not None:
        assert decision.usable_mib is not None
        assert decision.need_mib <= decision.usable_mib


sizes = st.integers(1, 80).map(lambda gib: gib * 1024**3)


@given(pods(), sizes, sizes, clusters(), crowds(), policies(mode=Mode.ENFORCE))
def test_a_smaller_footprint_never_gets_a_larger_slice(
    tree: JSON, one: int, other: int, nodes: list[JSON], crowd: list[JSON], policy: Policy
) -> None:
    cluster = state(*nodes, pods=crowd, policy=policy)

    def look_with(footprint: int) -> Decision:
        path = ("metadata", "annotations", "gpu-memory.migfit.io/c0")
        return look(changed(tree, *path, to=str(footprint)), cluster)

    smaller, larger = look_with(min(one, other)), look_with(max(one, other))
    usable = {c.resource: c.usable_mib or 0 for c in (*smaller.candidates, *larger.candidates)}
    got = {c.name: c.to for c in smaller.changes}.get("c0")
    would_get = {c.name: c.to for c in larger.changes}.get("c0")
    if smaller.action is larger.action is Action.REWRITTEN and got and would_get:
        assert usable[got] <= usable[would_get]
    if policy.when_full[:1] == (WhenFull.NEXT_LARGER,) and larger.reason in RANKS:
        assert smaller.reason in RANKS


RANKS = {Reason.FITS: 2, Reason.FITS_LARGER: 1}
"""How good it is for a pod; whatever else may become of it is 0."""

in_order = st.lists(
    st.sampled_from([WhenFull.WHOLE_NOW, WhenFull.WHOLE_LATER, WhenFull.WAIT]), unique=True
).map(lambda rest: (WhenFull.NEXT_LARGER, *rest))


@given(st.data(), pods(), clusters(), crowds(most=12), in_order)
def test_more_that_is_free_never_makes_a_decision_worse(
    data: st.DataObject,
    tree: JSON,
    nodes: list[JSON],
    crowd: list[JSON],
    when_full: tuple[WhenFull, ...],
) -> None:
    policy = data.draw(policies(mode=Mode.ENFORCE, when_full=when_full))
    fewer = [each for each in crowd if data.draw(st.booleans())]
    before = look(tree, state(*nodes, pods=crowd, policy=policy))
    after = look(tree, state(*nodes, pods=fewer, policy=policy))
    assert RANKS.get(after.reason, 0) >= RANKS.get(before.reason, 0)
    if before.reason is after.reason is Reason.FITS_LARGER:
        assert (after.usable_mib or 0) <= (before.usable_mib or 0)


@given(st.randoms(use_true_random=False), pods(), clusters(), crowds(), policies())
def test_the_order_of_nodes_and_pods_decides_nothing(
    rng: Any, tree: JSON, nodes: list[JSON], crowd: list[JSON], policy: Policy
) -> None:
    first = look(tree, state(*nodes, pods=crowd, policy=policy))
    rng.shuffle(nodes)
    rng.shuffle(crowd)
    assert look(tree, state(*nodes, pods=crowd, policy=policy)) == first


@given(st.randoms(use_true_random=False), pods(), clusters(), crowds(), policies())
def test_the_order_of_containers_decides_nothing(
    rng: Any, tree: JSON, nodes: list[JSON], crowd: list[JSON], policy: Policy
) -> None:
    cluster = state(*nodes, pods=crowd, policy=policy)
    first = look(tree, cluster)
    rng.shuffle(tree["spec"]["containers"])
    second = look(tree, cluster)
    assert (second.action, second.reason) == (first.action, first.reason)
    assert (second.claims, second.need_mib) == (first.claims, first.need_mib)
    assert chosen(second) == chosen(first)


@given(pods(), clusters(), crowds(), policies(), st.data())
def test_all_gpu_containers_are_rewritten_or_none_is(
    tree: JSON, nodes: list[JSON], crowd: list[JSON], policy: Policy, data: st.DataObject
) -> None:
    mode = data.draw(st.sampled_from(Mode))
    decision = look(tree, state(*nodes, pods=crowd, policy=replace(policy, mode=mode)))
    slices = {c.to is not None for c in decision.changes}
    assert len(slices) <= 1
    if decision.action is Action.REWRITTEN:
        assert slices == {True}
        assert sum(decision.claims.values()) <= len(decision.changes)
    assert decision.action is not Action.DENIED  # there is no quota
    assert (decision.reason is Reason.DRY_RUN) is (decision.would_be is not None)


@given(pods(), clusters(), crowds(), policies())
def test_a_cluster_is_only_looked_at(
    tree: JSON, nodes: list[JSON], crowd: list[JSON], policy: Policy
) -> None:
    cluster = state(*nodes, pods=crowd, policy=policy)
    before = orjson.dumps(tree)
    assert look(tree, cluster) == look(tree, cluster)
    assert orjson.dumps(tree) == before


# --- the pod as it is called -----------------------------------------------------------------------


def test_a_decision_tells_whom_it_is_about() -> None:
    decision = decided(pod())
    assert (decision.namespace, decision.pod) == ("speech", "asr-5d4f8c7b9d-")
    assert str(decision.workload) == "Deployment/asr"


def test_without_any_namespace_said_it_is_the_default_one() -> None:
    tree = changed(pod(), "metadata", "namespace", to=None)
    assert decided(tree).namespace == "default"


def test_init_containers_sidecars_and_containers_are_rewritten_alike() -> None:
    starting = [container("fetch"), container("proxy", restartPolicy="Always")]
    tree = pod(container(), initContainers=starting)
    decision = decided(tree)
    assert chosen(decision) == {"fetch": "2g.20gb", "proxy": "2g.20gb", "asr": "2g.20gb"}
    after = apply(patch(decision, tree, Policy()), tree)
    for each in (*after["spec"]["initContainers"], *after["spec"]["containers"]):
        assert each["resources"]["limits"][MIDDLE] == "1"
        assert GPU not in each["resources"]["limits"]


def test_ephemeral_containers_are_left_alone() -> None:
    tree = pod(container(), ephemeralContainers=[container("debug")])
    after = apply(patch(decided(tree), tree, Policy()), tree)
    assert after["spec"]["ephemeralContainers"] == tree["spec"]["ephemeralContainers"]


def test_pod_level_resources_are_counted_and_left_alone() -> None:
    tree = pod(resources={"requests": {"cpu": "97"}, "limits": {"cpu": "97"}})
    assert decided(tree).reason is Reason.NO_FREE_SLICE
    modest = pod(resources={"requests": {"cpu": "3"}})
    decision = decided(modest)
    assert decision.reason is Reason.FITS
    after = apply(patch(decision, modest, Policy()), modest)
    assert after["spec"]["resources"] == {"requests": {"cpu": "3"}}


@pytest.mark.parametrize("gpu", ["1", 1, "1.0", "1000m", "1e0"])
def test_one_gpu_is_one_gpu_in_every_spelling(gpu: object) -> None:
    assert decided(pod(container(gpu=gpu))).reason is Reason.FITS


# --- modes -----------------------------------------------------------------------------------------


def mode_of(policy: Mode, rule: Mode | None, pod_says: str, namespace_says: str) -> str:
    tree = pod()
    if pod_says:
        tree = changed(tree, "metadata", "labels", "migfit.io/mode", to=pod_says)
    rules = (Rule(name="r", match=Match(), mode=rule),)
    spaces = [namespace(mode=namespace_says)] if namespace_says else []
    decision = decided(tree, policy=Policy(mode=policy, rules=rules), namespaces=spaces)
    return {Reason.FITS: "Enforce"}.get(decision.reason, decision.reason)


@pytest.mark.parametrize("rule", [None, *Mode])
@pytest.mark.parametrize("policy", Mode)
def test_the_admins_rule_beats_the_admins_mode_up_and_down(policy: Mode, rule: Mode | None) -> None:
    assert mode_of(policy, rule, "", "") == (rule or policy).value


@pytest.mark.parametrize(
    ("admin", "pod_says", "namespace_says", "expected"),
    [
        (Mode.ENFORCE, "dry-run", "", "DryRun"),
        (Mode.ENFORCE, "", "dry-run", "DryRun"),
        (Mode.ENFORCE, "enforce", "dry-run", "DryRun"),
        (Mode.ENFORCE, "dry-run", "enforce", "DryRun"),
        (Mode.ENFORCE, "enforce", "ignore", "Ignored"),
        (Mode.ENFORCE, "ignore", "dry-run", "Ignored"),
        (Mode.ENFORCE, "Dry-Run", "IGNORE", "BadAnnotation"),
        (Mode.DRY_RUN, "enforce", "enforce", "DryRun"),
        (Mode.DRY_RUN, "ignore", "", "Ignored"),
        (Mode.DISABLED, "enforce", "enforce", "Disabled"),
        (Mode.DISABLED, "dry-run", "", "Disabled"),
    ],
)
def test_labels_of_tenants_only_go_down(
    admin: Mode, pod_says: str, namespace_says: str, expected: str
) -> None:
    assert mode_of(admin, None, pod_says, namespace_says) == expected
    assert mode_of(Mode.DISABLED, admin, pod_says, namespace_says) == expected


def test_a_dry_run_tells_what_would_have_been_done_and_keeps_the_whole_gpu() -> None:
    decision = decided(pod(), policy=Policy(mode=Mode.DRY_RUN))
    assert (decision.action, decision.would_be) == (Action.LEFT, Action.REWRITTEN)
    assert decision.message == "would be rewritten: need 10987Mi fits mig-2g.20gb, 19968Mi usable"
    assert chosen(decision) == {"asr": "2g.20gb"}
    assert decision.claims == {GPU: 1}


def test_a_dry_run_replaces_no_other_reason() -> None:
    dry = Policy(mode=Mode.DRY_RUN)
    assert decided(pod(footprint="60G"), policy=dry).reason is Reason.TOO_LARGE
    assert decided(pod(footprint=None), policy=dry).reason is Reason.NO_FOOTPRINT


# --- what is kept from others ----------------------------------------------------------------------


def test_a_rewritten_pod_claims_its_slices_and_a_left_one_its_gpus() -> None:
    assert decided(pod(container("a"), container("b"))).claims == {MIDDLE: 2}
    assert decided(pod(container("a"), container("b"), footprint="60G")).claims == {GPU: 2}
    assert decided(pod(container(gpu="4"))).claims == {GPU: 4}


@pytest.mark.parametrize("tree", [pod(container(gpu=None)), pod(nodeName="gpu-a")])
def test_a_pod_that_is_not_ours_claims_nothing(tree: JSON) -> None:
    assert decided(tree).claims == {}


def test_a_left_pod_claims_its_gpus_where_it_may_land_as_it_came() -> None:
    cluster = state(node("a", labels={"zone": "1"}), node("b"))
    tree = pod(footprint="60G", nodeSelector={"zone": "1"})
    reached = cluster.capacity.index.members(look(tree, cluster).nodes)
    assert [each.name for each in reached] == ["a"]


# --- a pod that comes again ------------------------------------------------------------------------


def test_a_pod_that_comes_again_does_not_stand_in_its_own_way() -> None:
    held = [bound(f"h{n}", "gpu-a", {MIDDLE: 1}) for n in range(3)]
    held.append(bound("whole", "gpu-a", {GPU: 1}))
    policy = Policy(when_full=(WhenFull.WHOLE_NOW, WhenFull.WAIT))
    cluster = state(pods=held, policy=policy)
    first = look(pod(), cluster)
    assert first.reason is Reason.NO_FREE_SLICE
    cluster.reserve(first)
    again = apply(patch(first, pod(), policy), pod())
    assert look(again, cluster, "uid-2").reason is Reason.NO_FREE_SLICE
    assert look(pod(), cluster, "uid-3").reason is Reason.WAITS


def test_what_another_namespace_was_promised_cannot_be_claimed_by_its_id() -> None:
    cluster = state(node(slices={"2g.20gb": 1}), policy=Policy(when_full=()))
    cluster.reserve(look(pod(), cluster, "uid-1"))
    forged = changed(pod(), "metadata", "annotations", DECISION_ANNOTATION, to='{"id":"uid-1"}')
    elsewhere = changed(forged, "metadata", "namespace", to="video")
    assert look(elsewhere, cluster, "uid-2").reason is Reason.NO_FREE_SLICE


# --- the old key comes back ------------------------------------------------------------------------


def came_back(name: str = "asr", claimed: Any = None) -> JSON:
    """A rewritten pod to which a LimitRange or another webhook gave the GPU back."""
    tree = apply(patch(decided(pod()), pod(), Policy()), pod())
    for part in ("limits", "requests"):
        tree = changed(tree, "spec", "containers", 0, "resources", part, GPU, to="1")
    tree = changed(tree, "spec", "containers", 0, "name", to=name)
    if claimed is not None:
        path = ("metadata", "annotations", DECISION_ANNOTATION)
        tree = changed(tree, *path, to=json.dumps(claimed))
    return tree


def test_an_old_key_that_came_back_is_removed_and_nothing_else_is_done() -> None:
    tree = came_back()
    decision = decided(tree)
    assert decision.reason is Reason.ALREADY_MIG
    assert decision.claims == {}
    after = apply(patch(decision, tree, Policy()), tree)
    expected = apply(patch(decided(pod()), pod(), Policy()), pod())
    assert after == expected
    assert decided(after).reason is Reason.ALREADY_MIG
    assert patch(decided(after), after, Policy()) == []


def test_an_old_key_is_removed_whatever_mode_and_state_have_become() -> None:
    cluster = state(policy=Policy(mode=Mode.DRY_RUN))
    stale = replace(cluster.snapshot(), stale=True)
    assert decide(came_back(), stale, cluster.policy).stray == ("/spec/containers/0",)


@pytest.mark.parametrize(
    "claimed",
    [
        {"action": "left", "containers": [{"name": "asr", "to": MIDDLE}]},
        {"action": "rewritten", "containers": [{"name": "other", "to": MIDDLE}]},
        {"action": "rewritten", "containers": [{"name": "asr", "to": mig("3g.40gb")}]},
        {"action": "rewritten", "containers": [{"name": "asr", "to": GPU}]},
        {"action": "rewritten", "containers": [{"name": "asr", "to": "cpu"}]},
        {},
    ],
)
def test_a_gpu_is_removed_only_beside_the_slice_our_decision_names(claimed: JSON) -> None:
    decision = decided(came_back(claimed=claimed))
    assert decision.stray == ()
    assert decision.reason is Reason.MIXED_REQUESTS


def test_a_forged_claim_takes_no_gpu_from_a_pod() -> None:
    forged = '{"action":"rewritten","containers":[{"name":"asr","to":"nvidia.com/gpu"}]}'
    tree = changed(pod(), "metadata", "annotations", DECISION_ANNOTATION, to=forged)
    assert decided(tree).reason is Reason.FITS


# --- from one end to the other ---------------------------------------------------------------------


def test_two_small_models_share_a_card_and_the_large_one_keeps_its_own() -> None:
    partitioned = node("gpu-a", slices={"3g.40gb": 2}, whole=2)
    cluster = state(partitioned)
    found = []
    for number, footprint in enumerate(("73.2G", "9.6G", "13.4G")):
        decision = look(pod(footprint=footprint), cluster, str(number))
        cluster.reserve(decision)
        found.append((decision.reason, decision.profile, decision.need_mib))
    assert found == [
        (Reason.TOO_LARGE, None, 83771),
        (Reason.FITS, "3g.40gb", 10987),
        (Reason.FITS, "3g.40gb", 15336),
    ]


def test_headroom_and_injection_of_the_configuration_show_in_the_pod() -> None:
    policy = Policy(headroom=Fraction(1), inject=Inject(node_selector=(("pool", "mig"),)))
    labelled = node(labels={"pool": "mig"})
    after = apply(patch(decided(pod(), labelled, policy=policy), pod(), policy), pod())
    assert after["metadata"]["annotations"]["migfit.io/need"] == "18311Mi"
    assert after["spec"]["nodeSelector"] == {"pool": "mig"}
