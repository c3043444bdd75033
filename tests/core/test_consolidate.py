import itertools
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.core.capacity import Capacity, Usage
from extender.core.consolidate import Option, Placing, idle_chance, prefer, spare
from extender.core.decide import decide
from extender.core.decision import Decision, Verdict
from extender.core.layout import Cut
from extender.core.node import Node
from extender.core.pod import Ask
from extender.core.policy import Policy
from extender.core.reason import Action, Reason
from extender.core.render import warning
from extender.core.score import Ranking
from tests.build import JSON, UID, bound, changed, container, decided, mig, node, pod, state
from tests.draw import clusters, crowds, pods, policies

SMALL, MEDIUM, LARGE = mig("1g.10gb"), mig("2g.20gb"), mig("3g.40gb")


# --- the chance of opening an idle GPU ---------------------------------------------------------------

CUTS: tuple[Mapping[str, int], ...] = (
    {SMALL: 3},
    {MEDIUM: 2, SMALL: 1},
    {LARGE: 2},
    {SMALL: 1, MEDIUM: 1, LARGE: 1},
)


def enumerated(gpus: list[Mapping[str, int]], used: Mapping[str, int], asked: str) -> Fraction:
    """Over every way the slices in use, and then ours, can have been picked."""
    slices = [(g, name) for g, gpu in enumerate(gpus) for name, n in gpu.items() for _ in range(n)]
    of = {name: [i for i, (_, q) in enumerate(slices) if q == name] for name in used}
    good = every = 0
    for taken in itertools.product(*(itertools.combinations(of[q], n) for q, n in used.items())):
        busy = {i for picked in taken for i in picked}
        free = [i for i, (_, q) in enumerate(slices) if q == asked and i not in busy]
        every += len(free)
        good += sum(all(slices[i][0] != slices[b][0] for b in busy) for i in free)
    return Fraction(good, every)


@given(st.lists(st.sampled_from(CUTS), min_size=1, max_size=3), st.data())
def test_the_chance_is_that_of_counting_every_way_the_slices_may_have_been_picked(
    gpus: list[Mapping[str, int]], data: st.DataObject
) -> None:
    total: dict[str, int] = {}
    for gpu in gpus:
        for name, count in gpu.items():
            total[name] = total.get(name, 0) + count
    asked = data.draw(st.sampled_from(sorted(total)))
    used = {q: data.draw(st.integers(0, n - int(q == asked))) for q, n in total.items()}
    layout = tuple(Cut(1, tuple(gpu.items())) for gpu in gpus)
    each = Node(name="a", labels={}, gpus=total, gpu_count=len(gpus), layout=layout)
    usage = Usage(gpus={q: n for q, n in used.items() if n}, gpu_pods=sum(used.values()))
    assert idle_chance(each, usage, asked) == pytest.approx(float(enumerated(gpus, used, asked)))


@pytest.mark.parametrize("layout", [None, (Cut(4, ((SMALL, 7),)),)])
def test_on_an_idle_node_it_is_certain_and_falls_with_every_pod(
    layout: tuple[Cut, ...] | None,
) -> None:
    each = Node(name="a", labels={}, gpus={SMALL: 28}, gpu_count=4, layout=layout)
    chances = [idle_chance(each, Usage(gpus={SMALL: n}, gpu_pods=n), SMALL) for n in range(28)]
    assert chances[0] == 1.0
    assert all(more > less >= 0 for more, less in itertools.pairwise(chances[:20]))


# --- the choice --------------------------------------------------------------------------------------


def cluster(used_large: int = 3) -> tuple[Placing, list[Option]]:
    """An idle node with small slices; one with large ones, some in use; both also have medium ones."""
    capacity = Capacity()
    ranking = Ranking(capacity)
    idle = {SMALL: 14, MEDIUM: 3}
    capacity.put_node(Node(name="idle", labels={}, pods=99, gpus=idle, gpu_count=3))
    busy = {LARGE: 8}
    layout = (Cut(4, ((LARGE, 2),)),)
    capacity.put_node(Node(name="busy", labels={}, pods=99, gpus=busy, gpu_count=4, layout=layout))
    usage = capacity.usage("busy")
    usage.gpus[LARGE] = usage.gpu_pods = used_large
    capacity.touched("busy")
    everywhere = capacity.index.all
    options = [
        Option(SMALL, 1, everywhere),
        Option(MEDIUM, 2, everywhere),
        Option(LARGE, 4, everywhere),
    ]
    return Placing(capacity, ranking, Ask()), options


def test_it_goes_where_the_score_would_send_the_pod_and_there_is_room() -> None:
    placing, (small, _, large) = cluster()
    found = [placing.node(option) for option in (small, large, replace(small, nodes=0))]
    assert [each and each.name for each in found] == ["idle", "busy", None]
    full = replace(placing, plain=Ask(cpu_milli=1))
    assert full.node(small) is None


@pytest.mark.parametrize(
    ("weight", "chosen"),
    [(0.5, 0), (1.0, 0), (6.9, 0), (7.1, 2), (20.0, 2)],
)
def test_a_larger_slice_is_taken_once_an_idle_gpu_is_worth_the_difference(
    weight: float, chosen: int
) -> None:
    """Three memory slices more, and a chance of 4/7 that it opens an idle GPU as well: 3 / (3/7)."""
    placing, options = cluster()
    assert prefer(options, weight, placing) == chosen


def test_what_is_not_eligible_or_not_comparable_is_not_taken() -> None:
    placing, options = cluster()
    assert prefer(options, 8, placing, lambda position: position != 2) == 0
    assert prefer([*options[:2], replace(options[2], memory_slices=0)], 8, placing) == 0
    assert prefer([replace(options[0], memory_slices=0), *options[1:]], 8, placing) == 0
    assert prefer([options[0], replace(options[2], memory_slices=1)], 8, placing) == 0


@pytest.mark.parametrize(("used", "taken", "enough"), [(5, 0, True), (6, 0, False), (5, 1, False)])
def test_a_profile_can_be_spared_while_thirty_percent_of_it_is_free(
    used: int, taken: int, enough: bool
) -> None:
    """Of eight, that is three."""
    placing, (_, _, large) = cluster(used_large=used)
    placing.capacity.put_node(placing.capacity.index.nodes[1])  # type: ignore[arg-type]
    assert spare(placing.capacity, large, taken) is enough


# --- in a decision -----------------------------------------------------------------------------------

LABELS = {"nvidia.com/gpu.count": "4"}
EMPTY = node("empty", slices={"1g.10gb": 28}, whole=0, labels=LABELS)
USED = node("used", slices={"2g.20gb": 12, "1g.10gb": 4}, whole=0, labels=LABELS)
THREE = Policy(consolidation_lambda=3.0)


def crowd(medium: int, small: int = 4) -> list[JSON]:
    """Pods on the node in use, where all slices of the smallest profile are taken."""
    held = [(MEDIUM, number) for number in range(medium)] + [(SMALL, n) for n in range(small)]
    return [bound(f"{name[-4:]}-{number}", "used", {name: 1}) for name, number in held]


def small_pod() -> JSON:
    return pod(footprint="4G")


def verdicts(decision: Decision) -> dict[str, Verdict]:
    return {c.resource: c.verdict for c in decision.candidates}


def test_by_default_the_smallest_free_slice_is_taken_wherever_it_is() -> None:
    decision = decided(small_pod(), EMPTY, USED, pods=crowd(6))
    assert (decision.reason, decision.profile) == (Reason.FITS, "1g.10gb")


def test_with_lambda_a_larger_slice_in_use_is_taken_rather_than_open_an_idle_gpu() -> None:
    decision = decided(small_pod(), EMPTY, USED, pods=crowd(6), policy=THREE)
    assert (decision.action, decision.reason) == (Action.REWRITTEN, Reason.FITS_CONSOLIDATED)
    assert (decision.profile, decision.claims) == ("2g.20gb", {MEDIUM: 1})
    assert verdicts(decision) == {SMALL: Verdict.FITS, MEDIUM: Verdict.CHOSEN}
    assert "rather than open an idle GPU" in decision.message
    assert "FitsConsolidated" in (warning(decision) or "")


def test_with_lambda_the_smallest_is_taken_where_its_gpu_is_in_use_already() -> None:
    decision = decided(small_pod(), EMPTY, USED, pods=crowd(6, small=3), policy=THREE)
    assert (decision.reason, decision.profile) == (Reason.FITS, "1g.10gb")


@pytest.mark.parametrize(("medium", "reason"), [(8, Reason.FITS_CONSOLIDATED), (9, Reason.FITS)])
def test_a_larger_profile_is_taken_only_while_thirty_percent_of_it_is_free(
    medium: int, reason: Reason
) -> None:
    decision = decided(small_pod(), EMPTY, USED, pods=crowd(medium), policy=THREE)
    assert decision.reason is reason


def test_pods_with_several_slices_take_the_smallest_as_ever() -> None:
    two = pod(container("asr"), container("vad"), footprint="4G")
    decision = decided(two, EMPTY, USED, pods=crowd(6), policy=THREE)
    assert (decision.reason, decision.claims) == (Reason.FITS, {SMALL: 2})


def test_of_larger_slices_too_the_one_that_opens_no_gpu_is_taken_when_the_smallest_is_full() -> (
    None
):
    more = node("more", slices={"3g.40gb": 8}, whole=0, labels=LABELS)
    empty = node("empty", slices={"2g.20gb": 12}, whole=0, labels=LABELS)
    full = node("full", slices={"1g.10gb": 7}, whole=0, labels={"nvidia.com/gpu.count": "1"})
    held = [bound(f"s-{n}", "full", {SMALL: 1}) for n in range(7)]
    held += [bound(f"l-{n}", "more", {LARGE: 1}) for n in range(4)]
    reasons = {}
    for weight in (0.0, 8.0):
        policy = Policy(consolidation_lambda=weight)
        found = decided(small_pod(), full, empty, more, pods=held, policy=policy)
        reasons[weight] = (found.reason, found.profile)
    assert reasons == {
        0.0: (Reason.FITS_LARGER, "2g.20gb"),
        8.0: (Reason.FITS_CONSOLIDATED, "3g.40gb"),
    }


def test_replicas_are_kept_apart_here_too() -> None:
    """The one used node has a replica already, the idle one is the last resort all the same."""
    replica = changed(
        crowd(1)[0], "metadata", "ownerReferences", to=small_pod()["metadata"]["ownerReferences"]
    )
    decision = decided(small_pod(), EMPTY, USED, pods=[*crowd(6), replica], policy=THREE)
    assert decision.reason is Reason.FITS_CONSOLIDATED


@given(clusters(), crowds(), pods(), policies(), st.floats(0, 1))
def test_up_to_one_lambda_changes_nothing(
    nodes: list[JSON], others: list[JSON], tree: JSON, policy: Policy, weight: float
) -> None:
    snapshot = state(*nodes, pods=others, policy=policy).snapshot()
    plain = decide(tree, snapshot, policy, request_id=UID)
    assert decide(tree, replace(snapshot, ranking=None), policy, request_id=UID) == plain
    weighed = decide(tree, snapshot, replace(policy, consolidation_lambda=weight), request_id=UID)
    assert (weighed.reason, weighed.changes) == (plain.reason, plain.changes)


@given(clusters(), crowds(), pods(), policies(), st.floats(1, 1000))
def test_no_lambda_leaves_or_denies_a_pod_that_would_be_rewritten_or_the_other_way_round(
    nodes: list[JSON], others: list[JSON], tree: JSON, policy: Policy, weight: float
) -> None:
    snapshot = state(*nodes, pods=others, policy=policy).snapshot()
    plain = decide(tree, snapshot, policy, request_id=UID)
    weighed = decide(tree, snapshot, replace(policy, consolidation_lambda=weight), request_id=UID)
    assert (weighed.action, weighed.would_be) == (plain.action, plain.would_be)
    if weighed.reason is not Reason.FITS_CONSOLIDATED:
        assert weighed.reason is plain.reason
        assert weighed.changes == plain.changes or weighed.reason is Reason.DRY_RUN
        return
    assert plain.reason in {Reason.FITS, Reason.FITS_LARGER}
    assert weighed.need_mib is None or weighed.need_mib <= (weighed.usable_mib or 0)
    assert snapshot.capacity.room(weighed.claims, Ask(), weighed.nodes, {})
