"""What ResourceQuotas say to a slice, against plain counting, and against a world without us."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.core.decide import decide
from extender.core.decision import Decision, Verdict
from extender.core.pod import containers
from extender.core.policy import Mode, Policy, QuotaRule, WhenFull
from extender.core.quota import (
    Excess,
    Namespace,
    Quota,
    Scope,
    ScopeTest,
    Share,
    Tally,
    cross_namespace,
    excess,
    excess_as_gpus,
    scope_of,
)
from extender.core.reason import Action, Reason
from tests.build import GPU, JSON, annotated, bound, changed, container, mig, node, pod, state

SMALL, MIDDLE = mig("1g.10gb"), mig("2g.20gb")
PLAIN = Scope()


# --- how quotas see a pod --------------------------------------------------------------------------


def seen(tree: JSON) -> Scope:
    return scope_of(tree, containers(tree))


def test_an_ordinary_pod_is_neither_terminating_nor_best_effort() -> None:
    assert seen(pod()) == Scope()


def test_a_deadline_makes_a_pod_terminating() -> None:
    assert seen(pod(activeDeadlineSeconds=600)).terminating
    assert not seen(pod(activeDeadlineSeconds=None)).terminating


@pytest.mark.parametrize("part", ["limits", "requests"])
@pytest.mark.parametrize(
    ("asked", "best_effort"),
    [
        ({GPU: "1"}, True),
        ({GPU: "1", "cpu": "0", "memory": "0"}, True),
        ({GPU: "1", "cpu": "lots"}, True),
        ({GPU: "1", "cpu": "1m"}, False),
        ({GPU: "1", "memory": 1}, False),
        ({GPU: "1", "ephemeral-storage": "1Gi"}, True),
    ],
)
def test_a_pod_without_cpu_and_memory_is_best_effort(
    part: str, asked: JSON, best_effort: bool
) -> None:
    held = {"name": "asr", "resources": {part: asked}}
    assert seen(pod(held)).best_effort is best_effort
    beside = seen(pod({"name": "asr"}, initContainers=[held]))
    assert beside.best_effort is best_effort
    whole = seen(pod({"name": "asr"}, resources={part: asked}))
    assert whole.best_effort is best_effort


def test_a_pod_keeps_its_priority_class() -> None:
    assert seen(pod(priorityClassName="high")).priority_class == "high"


REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


@pytest.mark.parametrize("kind", ["podAffinity", "podAntiAffinity"])
@pytest.mark.parametrize(
    ("term", "crosses"),
    [
        ({"topologyKey": "zone"}, False),
        ({"namespaces": []}, False),
        ({"namespaces": ["vision"]}, True),
        ({"namespaceSelector": None}, False),
        ({"namespaceSelector": {}}, True),
    ],
)
def test_pod_affinity_that_names_or_selects_namespaces_crosses_them(
    kind: str, term: JSON, crosses: bool
) -> None:
    assert cross_namespace({kind: {REQUIRED: [{}, term]}}) is crosses
    assert cross_namespace({kind: {PREFERRED: [{"podAffinityTerm": term}]}}) is crosses


def test_node_affinity_crosses_no_namespace() -> None:
    assert not cross_namespace({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{}]}}})
    assert not cross_namespace(None)


@pytest.mark.parametrize(
    ("test", "scope", "passes"),
    [
        (ScopeTest("Terminating"), Scope(terminating=True), True),
        (ScopeTest("Terminating"), PLAIN, False),
        (ScopeTest("NotTerminating"), Scope(terminating=True), False),
        (ScopeTest("NotTerminating"), PLAIN, True),
        (ScopeTest("BestEffort"), Scope(best_effort=True), True),
        (ScopeTest("BestEffort"), PLAIN, False),
        (ScopeTest("NotBestEffort"), Scope(best_effort=True), False),
        (ScopeTest("NotBestEffort"), PLAIN, True),
        (ScopeTest("CrossNamespacePodAffinity"), Scope(cross_namespace=True), True),
        (ScopeTest("CrossNamespacePodAffinity"), PLAIN, False),
        (ScopeTest("PriorityClass"), Scope(priority_class="high"), True),
        (ScopeTest("PriorityClass"), PLAIN, False),
        (ScopeTest("PriorityClass", "In", ("high",)), Scope(priority_class="high"), True),
        (ScopeTest("PriorityClass", "In", ("high",)), Scope(priority_class="low"), False),
        (ScopeTest("PriorityClass", "In", ("high",)), PLAIN, False),
        (ScopeTest("PriorityClass", "NotIn", ("high",)), Scope(priority_class="high"), False),
        (ScopeTest("PriorityClass", "NotIn", ("high",)), Scope(priority_class="low"), True),
        (ScopeTest("PriorityClass", "NotIn", ("high",)), PLAIN, True),
        (ScopeTest("PriorityClass", "DoesNotExist"), Scope(priority_class="high"), False),
        (ScopeTest("PriorityClass", "DoesNotExist"), PLAIN, True),
        (ScopeTest("VolumeAttributesClass"), PLAIN, False),
    ],
)
def test_a_scope_is_judged_as_quota_admission_does(
    test: ScopeTest, scope: Scope, passes: bool
) -> None:
    assert test.passes(scope) is passes


def test_a_quota_covers_pods_that_fall_under_all_its_scopes() -> None:
    both = Quota("q", {}, (ScopeTest("Terminating"), ScopeTest("PriorityClass", "In", ("high",))))
    assert both.covers(Scope(terminating=True, priority_class="high"))
    assert not both.covers(Scope(terminating=True))
    assert not both.covers(Scope(priority_class="high"))
    assert Quota("q", {}).covers(PLAIN)


# --- counting, against a plain reference -----------------------------------------------------------

RESOURCES = (GPU, SMALL, MIDDLE)
scopes = st.builds(
    Scope, terminating=st.booleans(), priority_class=st.sampled_from(["", "high", "low"])
)
shares = st.builds(Share, scopes, st.booleans())
claims = st.dictionaries(st.sampled_from(RESOURCES), st.integers(1, 3), min_size=1)
crowds = st.lists(st.tuples(shares, claims), max_size=8)
tests = st.lists(
    st.builds(ScopeTest, st.sampled_from(["Terminating", "NotTerminating"]))
    | st.builds(
        ScopeTest,
        st.just("PriorityClass"),
        st.sampled_from(["Exists", "DoesNotExist", "In", "NotIn"]),
        st.just(("high",)),
    ),
    max_size=2,
).map(tuple)
hards = st.dictionaries(st.sampled_from(RESOURCES), st.integers(0, 8))
quotas = st.lists(st.builds(Quota, st.sampled_from("abc"), hards, tests), max_size=3).map(tuple)

Crowd = Iterable[tuple[Share, Mapping[str, int]]]


def counted(crowd: Crowd) -> Tally:
    found = Tally()
    for share, claimed in crowd:
        found.add(share, claimed.items(), 1)
    return found


@given(quotas, crowds, scopes, claims)
def test_a_quota_is_exceeded_when_what_its_pods_hold_and_the_new_claim_is_above_it(
    every: tuple[Quota, ...],
    crowd: Sequence[tuple[Share, Mapping[str, int]]],
    scope: Scope,
    claimed: Mapping[str, int],
) -> None:
    expected = []
    for quota in every:
        mine = [held for share, held in crowd if quota.covers(share.scope)]
        for name, count in claimed.items():
            used = sum(held.get(name, 0) for held in mine)
            if quota.covers(scope) and used + count > quota.hard.get(name, 10**9):
                expected.append(Excess(quota.name, name, count, used, quota.hard[name]))
    home = Namespace(quotas=every, tally=counted(crowd))
    assert excess(home, scope, claimed) == (expected[0] if expected else None)


@given(quotas, crowds, scopes, st.integers(1, 3))
def test_our_slices_count_as_gpus_unless_a_quota_of_the_namespace_limits_their_name(
    every: tuple[Quota, ...],
    crowd: Sequence[tuple[Share, Mapping[str, int]]],
    scope: Scope,
    asked: int,
) -> None:
    limited = [name for quota in every for name in quota.hard]
    expected = []
    for quota in every:
        used = 0
        for share, held in crowd:
            if quota.covers(share.scope):
                used += held.get(GPU, 0)
                if share.rewritten:
                    used += sum(held.get(n, 0) for n in (SMALL, MIDDLE) if n not in limited)
        if GPU in quota.hard and quota.covers(scope) and used + asked > quota.hard[GPU]:
            expected.append(Excess(quota.name, GPU, asked, used, quota.hard[GPU]))
    home = Namespace(quotas=every, tally=counted(crowd))
    assert excess_as_gpus(home, scope, GPU, asked) == (expected[0] if expected else None)


@given(crowds, crowds, st.randoms())
def test_pods_that_came_and_went_leave_no_trace(
    staying: list[tuple[Share, Mapping[str, int]]],
    passing: list[tuple[Share, Mapping[str, int]]],
    order: Any,
) -> None:
    coming = [*staying, *passing]
    order.shuffle(coming)
    found = counted(coming)
    order.shuffle(passing)
    for share, claimed in passing:
        found.add(share, claimed.items(), -1)
    assert found == counted(staying)
    assert bool(found) is bool(staying)


@given(crowds, shares, claims)
def test_a_tally_without_a_pod_is_a_copy(
    crowd: list[tuple[Share, Mapping[str, int]]], share: Share, claimed: Mapping[str, int]
) -> None:
    full = counted([*crowd, (share, claimed)])
    assert full.without(share, claimed) == counted(crowd)
    assert full == counted([*crowd, (share, claimed)])


def test_an_excess_reads_as_quota_admission_would_say_it() -> None:
    assert str(Excess("team", GPU, asked=1, used=2, hard=2)) == (
        "exceeded quota: team, requested: requests.nvidia.com/gpu=1, "
        "used: requests.nvidia.com/gpu=2, limited: requests.nvidia.com/gpu=2"
    )


# --- the decision ----------------------------------------------------------------------------------


def quota(hard: Mapping[str, int], **spec: Any) -> JSON:
    """A quota of the namespace `speech`."""
    named = {f"requests.{resource}": str(count) for resource, count in hard.items()}
    return {"metadata": {"name": "team", "namespace": "speech"}, "spec": {"hard": named, **spec}}


def decided(
    tree: JSON,
    *held: JSON,
    pods: Iterable[JSON] = (),
    nodes: Sequence[JSON] = (),
    **policy: Any,
) -> Decision:
    """The decision on a pod where these quotas are in force and these pods are there."""
    cluster = state(*nodes, pods=pods, quotas=held, policy=Policy(**policy))
    return decide(tree, cluster.snapshot(), cluster.policy)


def ours(name: str, resource: str = MIDDLE, count: int = 1) -> JSON:
    """A pod that we rewrote and that runs now."""
    labels = ("metadata", "labels", "migfit.io/rewritten")
    return changed(bound(name, "gpu-a", {resource: count}), *labels, to="true")


KINDS = {
    "light": pod(),
    "heavy": pod(footprint="73.2G"),
    "unknown": pod(footprint=None),
    "two lights": pod(container("asr"), container("tts")),
    "light, then light": pod(initContainers=[container("warm")]),
    "one with two": pod(container(gpu="2")),
    "no gpu": pod(container(gpu=None)),
}


def whole(tree: JSON) -> int:
    """GPUs that quota admission counts for a pod."""
    asked = [c.count(GPU) for c in containers(tree) if c.kind == "regular"]
    first = [c.count(GPU) for c in containers(tree) if c.kind == "init"]
    return max(sum(asked), *first, 0)


@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=8), st.integers(0, 5))
def test_any_mixture_and_order_of_pods_is_admitted_as_it_would_be_without_us(
    kinds: list[str], hard: int
) -> None:
    plenty = node(slices={"2g.20gb": 99}, whole=99)
    cluster = state(plenty, quotas=[quota({GPU: hard})])
    with_us, without_us, kept_whole, used = [], [], 0, 0
    for number, kind in enumerate(kinds):
        tree = KINDS[kind]
        asked = whole(tree)
        decision = decide(tree, cluster.snapshot(), cluster.policy, request_id=f"uid-{number}")
        refused = decision.action is Action.DENIED
        if decision.action is Action.LEFT and asked:  # quota admission itself counts whole GPUs
            refused = kept_whole + asked > hard
            kept_whole += 0 if refused else asked
        if not refused:
            cluster.reserve(decision)
        with_us.append(not refused)
        without_us.append(not asked or used + asked <= hard)
        used += asked if without_us[-1] else 0
    assert with_us == without_us


def test_a_pod_beyond_the_quota_on_gpus_is_denied_in_the_quotas_own_words() -> None:
    decision = decided(pod(), quota({GPU: 1}), pods=[ours("first")])
    assert (decision.action, decision.reason) == (Action.DENIED, Reason.QUOTA)
    assert decision.message == str(Excess("team", GPU, asked=1, used=1, hard=1))
    assert (decision.claims, decision.changes[0].to) == ({}, None)


def test_a_pod_that_would_have_been_left_is_denied_just_the_same() -> None:
    decision = decided(pod(footprint=None), quota({GPU: 1}), pods=[ours("first")])
    assert (decision.action, decision.reason) == (Action.DENIED, Reason.QUOTA)


def test_a_pod_that_quota_admission_refuses_by_itself_is_left_to_it() -> None:
    taken = bound("first", "gpu-a", {GPU: 1})
    decision = decided(pod(), quota({GPU: 1}), pods=[taken])
    assert (decision.action, decision.reason) == (Action.LEFT, Reason.QUOTA)
    unknown = decided(pod(footprint=None), quota({GPU: 1}), pods=[taken])
    assert (unknown.action, unknown.reason) == (Action.LEFT, Reason.NO_FOOTPRINT)


def test_what_is_none_of_ours_is_never_denied() -> None:
    elsewhere = pod(schedulerName="volcano")
    decision = decided(elsewhere, quota({GPU: 1}), pods=[ours("first")])
    assert (decision.action, decision.reason) == (Action.LEFT, Reason.OTHER_SCHEDULER)


def test_slices_that_pods_asked_for_by_name_never_count_as_gpus() -> None:
    by_name = bound("first", "gpu-a", {MIDDLE: 1})
    assert decided(pod(), quota({GPU: 1}), pods=[by_name]).reason is Reason.FITS


def test_slices_that_a_quota_limits_are_counted_there_alone() -> None:
    limits = quota({GPU: 1, MIDDLE: 2})
    assert decided(pod(), limits, pods=[ours("first")]).reason is Reason.FITS
    both = [ours("first"), ours("second")]
    larger = decided(pod(), limits, pods=both)
    assert (larger.reason, larger.profile) == (Reason.FITS, "3g.40gb")
    verdicts = {c.resource: c.verdict for c in larger.candidates}
    assert verdicts[MIDDLE] is Verdict.QUOTA


def test_pods_that_ended_or_are_elsewhere_do_not_count() -> None:
    ended = changed(ours("ended"), "status", "phase", to="Failed")
    elsewhere = changed(ours("elsewhere"), "metadata", "namespace", to="vision")
    assert decided(pod(), quota({GPU: 1}), pods=[ended, elsewhere]).reason is Reason.FITS


@pytest.mark.parametrize("when_full", [(WhenFull.NEXT_LARGER,), (WhenFull.WAIT,), ()])
def test_a_slice_without_quota_is_no_candidate_not_even_to_wait_for(
    when_full: tuple[WhenFull, ...],
) -> None:
    none = quota(dict.fromkeys((MIDDLE, mig("3g.40gb")), 0))
    decision = decided(pod(), none, when_full=when_full)
    assert (decision.action, decision.reason) == (Action.LEFT, Reason.QUOTA)
    assert f"requested: requests.{mig('3g.40gb')}=1" in decision.message
    named = decided(annotated(pod(), profile="2g.20gb"), none, when_full=when_full)
    assert f"requested: requests.{MIDDLE}=1" in named.message


def test_a_quota_on_a_slice_counts_all_slices_of_a_pod() -> None:
    both = pod(container("asr"), container("tts"))
    assert decided(both, quota({MIDDLE: 1})).profile == "3g.40gb"
    assert decided(both, quota({MIDDLE: 2})).profile == "2g.20gb"


def test_pods_outside_a_quotas_scope_are_none_of_its_business() -> None:
    deadline = quota({GPU: 0}, scopes=["Terminating"])
    assert decided(pod(), deadline).reason is Reason.FITS
    assert decided(pod(activeDeadlineSeconds=60), deadline).reason is Reason.QUOTA
    urgent = {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}
    high = quota({GPU: 0}, scopeSelector={"matchExpressions": [urgent]})
    assert decided(pod(priorityClassName="low"), high).reason is Reason.FITS
    assert decided(pod(priorityClassName="high"), high).reason is Reason.QUOTA


def test_with_ignore_slices_do_not_count_as_gpus() -> None:
    limits, there = quota({GPU: 1}), [ours("first")]
    assert decided(pod(), limits, pods=there, quota=QuotaRule.IGNORE).reason is Reason.FITS
    none = quota({MIDDLE: 0})  # but a quota on the slice itself is the API server's, not ours
    assert decided(pod(), none, quota=QuotaRule.IGNORE).profile == "3g.40gb"


def test_in_dry_run_a_denial_is_only_told() -> None:
    decision = decided(pod(), quota({GPU: 1}), pods=[ours("first")], mode=Mode.DRY_RUN)
    assert (decision.action, decision.reason) == (Action.LEFT, Reason.DRY_RUN)
    assert decision.would_be is Action.DENIED
    assert decision.claims == {GPU: 1}
