from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.cluster.objects import NodeObject
from extender.cluster.reading import read_node
from extender.core import score
from extender.core.capacity import Capacity, Holding, Usage
from extender.core.layout import Cut
from extender.core.node import Node
from extender.core.pod import Ask
from extender.core.policy import Policy
from extender.core.score import BATCH, IDLE, TOP_SCORE, Ranking, Size, drain_costs
from tests.build import GPU, mig, node

ASR, TTS = "speech/Deployment/asr", "speech/Deployment/tts"
SLICE = mig("2g.20gb")


def read(name: str, gpus: int = 4, slices: int = 9) -> Node:
    """A node whose totals do not tell its layout: as many slices do not fit, or not evenly."""
    return cut(name, {"2g.20gb": slices}, gpus)


def cut(name: str, slices: Mapping[str, int], gpus: int, whole: int = 2) -> Node:
    labels = {"nvidia.com/gpu.count": str(gpus)}
    each = node(name, slices=slices, whole=whole, labels=labels)
    return read_node(msgspec.convert(each, NodeObject), Policy())


class Cluster:
    """A capacity with its ranking."""

    def __init__(self, *nodes: Node) -> None:
        self.capacity = Capacity()
        self.ranking = Ranking(self.capacity)
        for each in nodes:
            self.capacity.put_node(each)

    def hold(self, name: str, pods: int, workload: str = TTS, resource: str = SLICE) -> "Cluster":
        for _ in range(pods):
            self.capacity.hold(Holding(name, Ask(), ((resource, 1),), workload))
        return self

    def order(
        self,
        *names: str,
        workload: str = ASR,
        spread: bool = True,
        asked: tuple[str, ...] = (SLICE,),
    ) -> list[str]:
        """Nodes that got a score, best first."""
        return [n for n, _ in self.ranking.scores(set(names), asked, workload, spread=spread)]

    def cost(self, name: str, resource: str = SLICE) -> float:
        found = self.capacity.index.get(name)
        assert found is not None
        return drain_costs(found, self.capacity.usage(name))[resource]


def test_the_node_with_most_gpu_pods_comes_first_over_all_profiles_and_whole_gpus() -> None:
    cluster = Cluster(*(read(name) for name in ("a", "b", "c", "d")))
    cluster.hold("b", 1).hold("c", 2).hold("d", 1, resource=GPU).hold(
        "d", 2, resource="nvidia.com/mig-x"
    )
    assert cluster.order("a", "b", "c", "d") == ["d", "c", "b", "a"]


def test_pods_without_gpus_do_not_count() -> None:
    cluster = Cluster(read("a"), read("b"))
    cluster.hold("b", 1)
    for _ in range(5):
        cluster.capacity.hold(Holding("a", Ask(cpu_milli=4000)))
    assert cluster.order("a", "b") == ["b", "a"]


def test_scores_are_ranks_from_10_down_and_the_rest_gets_none() -> None:
    cluster = Cluster(*(read(f"n{number:02}") for number in range(15)))
    scores = cluster.ranking.scores({f"n{number:02}" for number in range(15)}, {SLICE})
    assert scores == [(f"n{number:02}", 10 - number) for number in range(10)]


def test_scores_are_integers_within_the_bounds_of_an_extender() -> None:
    cluster = Cluster(read("a"), read("b")).hold("a", 3)
    scores = cluster.ranking.scores({"a", "b"}, {SLICE})
    assert all(type(score) is int and 0 <= score <= 10 for _, score in scores)


def test_of_equals_the_node_with_fewer_gpus_comes_first_and_then_the_name_decides() -> None:
    cluster = Cluster(read("a", gpus=8), read("c"), read("b"))
    assert cluster.order("a", "b", "c") == ["b", "c", "a"]
    assert cluster.order("c", "b", "a") == ["b", "c", "a"]


def test_of_idle_nodes_with_as_many_gpus_the_one_with_more_slices_is_opened_first() -> None:
    cluster = Cluster(
        cut("a", {"2g.20gb": 4, "3g.40gb": 4}, 4),
        cut("b", {"2g.20gb": 4, "1g.10gb": 20}, 4),
        cut("c", {"2g.20gb": 12, "1g.10gb": 4}, 4),
    )
    assert cluster.order("a", "b", "c") == ["b", "c", "a"]
    cluster.hold("a", 1)
    assert cluster.order("a", "b", "c") == ["a", "b", "c"]


def test_unknown_names_get_no_score() -> None:
    assert Cluster(read("a")).order("a", "stranger") == ["a"]
    assert Cluster(read("a")).order() == []


def test_among_used_nodes_those_without_a_replica_come_first_and_idle_ones_last() -> None:
    cluster = Cluster(*(read(name) for name in ("a", "b", "c")))
    cluster.hold("a", 5).hold("a", 1, workload=ASR).hold("b", 1)
    assert cluster.order("a", "b", "c") == ["b", "a", "c"]
    assert cluster.order("a", "b", "c", workload=TTS) == ["a", "b", "c"]
    assert cluster.order("a", "b", "c", spread=False) == ["a", "b", "c"]


def test_replicas_are_told_apart_by_namespace() -> None:
    cluster = Cluster(read("a"), read("b"))
    cluster.hold("a", 2, workload="other/Deployment/asr").hold("b", 1)
    assert cluster.order("a", "b") == ["a", "b"]


def test_ten_nodes_are_found_behind_any_number_of_replicas() -> None:
    cluster = Cluster(*(read(f"n{number:02}") for number in range(40)))
    for number in range(25):
        cluster.hold(f"n{number:02}", 3, workload=ASR)
    for number in range(25, 37):
        cluster.hold(f"n{number:02}", 1)
    assert cluster.order(*(f"n{number:02}" for number in range(40))) == [
        f"n{number:02}" for number in range(25, 35)
    ]


# --- the cost ----------------------------------------------------------------------------------------

CUTS: tuple[Mapping[str, int], ...] = (
    {GPU: 1},
    {mig("1g.10gb"): 7},
    {mig("2g.20gb"): 3, mig("1g.10gb"): 1},
    {mig("3g.40gb"): 2},
    {mig("1g.10gb"): 2, mig("2g.20gb"): 1, mig("3g.40gb"): 1},
)


def totals(gpus: Sequence[Mapping[str, int]]) -> Counter[str]:
    found = Counter[str]()
    for gpu in gpus:
        found.update(gpu)
    return found


def defined_cost(
    gpus: Sequence[Mapping[str, int]], used: Mapping[str, int], pods: int, asked: str
) -> float:
    """The definition, GPU by GPU."""
    total = totals(gpus)
    of_gpu = 0.0
    for gpu in gpus:
        if asked in gpu:
            beside = 0.0
            for name, count in gpu.items():
                mine = int(name == asked)
                if total[name] > mine:
                    beside += (count - mine) * used.get(name, 0) / (total[name] - mine)
            of_gpu += gpu[asked] / total[asked] / (1 + beside)
    return of_gpu + 1 / (1 + pods)


@st.composite
def nodes_in_use(draw: st.DrawFn) -> tuple[list[Mapping[str, int]], dict[str, int]]:
    """The GPUs of a node, and what is in use of each resource, so that one of each is free."""
    gpus = draw(st.lists(st.sampled_from(CUTS), min_size=1, max_size=8))
    used = {name: draw(st.integers(0, count - 1)) for name, count in totals(gpus).items()}
    return gpus, {name: count for name, count in used.items() if count}


@given(nodes_in_use())
def test_the_cost_is_that_of_the_node_and_the_mean_over_the_gpus_the_slice_may_lie_on(
    found: tuple[list[Mapping[str, int]], dict[str, int]],
) -> None:
    gpus, used = found
    layout = tuple(Cut(1, tuple(gpu.items())) for gpu in gpus)
    total, pods = totals(gpus), sum(used.values())
    each = Node(name="a", labels={}, gpus=dict(total), gpu_count=len(gpus), layout=layout)
    assert drain_costs(each, Usage(gpus=used, gpu_pods=pods)) == {
        name: pytest.approx(defined_cost(gpus, used, pods, name), abs=1e-9) for name in total
    }


def test_a_layout_told_gpu_by_gpu_or_in_groups_costs_the_same() -> None:
    gpus = {mig("1g.10gb"): 14, mig("3g.40gb"): 4}
    usage = Usage(gpus={mig("1g.10gb"): 5, mig("3g.40gb"): 1}, gpu_pods=6)
    small, large = ((mig("1g.10gb"), 7),), ((mig("3g.40gb"), 2),)
    grouped = (Cut(2, small), Cut(2, large))
    single = (Cut(1, small), Cut(1, large), Cut(1, small), Cut(1, large))
    one, other = (
        drain_costs(Node(name="a", labels={}, gpus=gpus, gpu_count=4, layout=layout), usage)
        for layout in (grouped, single)
    )
    assert one == other


def test_an_idle_node_costs_two_mean_lifetimes_and_a_used_one_never_more_than_one_and_a_half() -> (
    None
):
    cluster = Cluster(cut("a", {"1g.10gb": 14}, 4), cut("b", {"1g.10gb": 14}, 4), read("c"))
    cluster.hold("b", 1, resource=GPU).hold("c", 1)
    assert cluster.cost("a", mig("1g.10gb")) == IDLE == 2.0
    assert cluster.cost("b", mig("1g.10gb")) == 1.5
    assert cluster.cost("c") < 1.5


def test_for_whole_gpus_only_the_pods_of_the_node_decide() -> None:
    cluster = Cluster(cut("a", {"1g.10gb": 14}, 4), cut("b", {"3g.40gb": 4}, 4))
    cluster.hold("a", 2, resource=mig("1g.10gb")).hold("b", 3, resource=mig("3g.40gb"))
    assert cluster.cost("a", GPU) == pytest.approx(1 + 1 / 3)
    assert cluster.cost("b", GPU) == 1.25


def test_for_whole_gpus_a_layout_that_is_not_known_makes_no_difference() -> None:
    cluster = Cluster(read("a"), cut("b", {"3g.40gb": 4}, 4))
    cluster.hold("a", 2).hold("b", 3, resource=mig("3g.40gb"))
    assert cluster.cost("a", GPU) == pytest.approx(1 + 1 / 3)
    assert cluster.order("a", "b", asked=(GPU,)) == ["b", "a"]


@pytest.mark.parametrize("slices", [{"1g.10gb": 7}, {"1g.10gb": 9}])
def test_of_nodes_with_as_many_pods_the_one_with_the_fuller_gpus_costs_less(
    slices: Mapping[str, int],
) -> None:
    """Whether the layout is known or not."""
    one = cut("a", slices, 1, whole=0)
    four = cut("b", {name: 4 * count for name, count in slices.items()}, 4, whole=0)
    small = mig("1g.10gb")
    cluster = Cluster(one, four).hold("a", 3, resource=small).hold("b", 3, resource=small)
    assert cluster.cost("a", small) < cluster.cost("b", small)


def test_more_in_use_than_there_is_breaks_nothing() -> None:
    """A node may be cut anew under pods that the API server still shows as running."""
    cluster = Cluster(cut("a", {"1g.10gb": 7, "3g.40gb": 2}, 4))
    cluster.hold("a", 9, resource=mig("1g.10gb")).hold("a", 2, resource="nvidia.com/mig-x")
    assert all(0 < cluster.cost("a", r) <= IDLE for r in (mig("1g.10gb"), mig("3g.40gb"), GPU))


def test_for_a_pod_with_several_resources_costs_add_up_on_nodes_that_have_them_all() -> None:
    small, large = mig("1g.10gb"), mig("3g.40gb")
    both = {"1g.10gb": 7, "3g.40gb": 2}
    cluster = Cluster(
        cut("a", both, 2, whole=0), cut("b", both, 2, whole=0), cut("c", {"1g.10gb": 7}, 1, whole=0)
    )
    cluster.hold("a", 2, resource=small).hold("b", 2, resource=large).hold("c", 6, resource=small)
    sums = {name: cluster.cost(name, small) + cluster.cost(name, large) for name in ("a", "b")}
    first, second = sorted(sums, key=lambda name: sums[name])
    assert sums[first] < sums[second]
    assert cluster.order("a", "b", "c", asked=(small, large)) == [first, second]
    assert cluster.order("a", "b", asked=()) == []


def test_each_resource_has_an_order_of_its_own_and_nodes_without_it_get_no_score() -> None:
    small, large = mig("1g.10gb"), mig("3g.40gb")
    cluster = Cluster(
        cut("a", {"1g.10gb": 14}, 4), cut("b", {"3g.40gb": 4}, 4), cut("c", {"1g.10gb": 7}, 3)
    )
    cluster.hold("c", 1, resource=small)
    assert cluster.order("a", "b", "c", asked=(small,)) == ["c", "a"]
    assert cluster.order("a", "b", "c", asked=(large,)) == ["b"]
    assert cluster.order("a", "b", "c", asked=("nvidia.com/mig-5g.50gb",)) == []


# --- kept up to date ---------------------------------------------------------------------------------

NAMES = [f"n{number}" for number in range(6)]
SHAPES: tuple[tuple[Mapping[str, int], int], ...] = (
    ({"2g.20gb": 9}, 4),
    ({"2g.20gb": 6, "1g.10gb": 2}, 4),
    ({"2g.20gb": 2, "1g.10gb": 4, "3g.40gb": 2}, 4),
    ({"2g.20gb": 18, "1g.10gb": 6}, 8),
    ({"1g.10gb": 7}, 3),
)
asked_for = st.sampled_from([SLICE, mig("1g.10gb"), GPU])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(NAMES), st.sampled_from(SHAPES)),
        st.tuples(st.just("drop"), st.sampled_from(NAMES)),
        st.tuples(st.just("hold"), st.sampled_from(NAMES), st.sampled_from([ASR, TTS]), asked_for),
        st.tuples(st.just("release"), st.integers(0, 9)),
        st.tuples(st.just("score")),
    ),
    max_size=30,
)


@given(steps, st.sets(st.sampled_from([*NAMES, "stranger"])), asked_for, st.booleans())
def test_the_order_is_always_that_of_sorting_all_nodes_anew(
    events: list[tuple[Any, ...]], names: set[str], asked: str, spread: bool
) -> None:
    cluster, there, held = Cluster(), dict[str, Node](), list[Holding]()
    for event in events:
        match event:
            case ("put", name, (slices, gpus)):
                there[name] = cut(name, slices, gpus)
                cluster.capacity.put_node(there[name])
            case ("drop", name):
                there.pop(name, None)
                cluster.capacity.drop_node(name)
            case ("hold", name, workload, resource):
                held.append(Holding(name, Ask(), ((resource, 1),), workload))
                cluster.capacity.hold(held[-1])
            case ("release", position) if held:
                cluster.capacity.release(held.pop(position % len(held)))
            case ("score",):
                cluster.order(*NAMES)

    def key(name: str) -> tuple[bool, bool, float, Size, str]:
        here = [each for each in held if each.node == name]
        replica = spread and any(each.workload == ASR for each in here)
        used = Counter(each.gpus[0][0] for each in here)
        cost = drain_costs(there[name], Usage(gpus=dict(used), gpu_pods=len(here)))[asked]
        size = there[name].gpu_count, -sum(there[name].gpus.values())
        return (not here, replica and bool(here), cost, size, name)

    known = sorted((n for n in names if n in there and asked in there[n].gpus), key=key)
    assert cluster.order(*names, spread=spread, asked=(asked,)) == known[:TOP_SCORE]


def test_a_ranking_made_late_knows_the_nodes_that_were_there_before() -> None:
    cluster = Cluster(read("a"), read("b")).hold("b", 1)
    late = Ranking(cluster.capacity)
    assert [name for name, _ in late.scores({"a", "b"}, {SLICE})] == ["b", "a"]


@pytest.mark.parametrize("changed", [1, 3, 40, BATCH, 200])
def test_few_changes_and_many_lead_to_the_same_order(changed: int) -> None:
    names = [f"n{number:03}" for number in range(200)]
    cluster = Cluster(*(read(name) for name in names))
    cluster.order(*names)
    for number, name in enumerate(names[:changed]):
        cluster.hold(name, 1 + number % 7)
    kept = cluster.ranking.scores(set(names), {SLICE})
    assert kept == Ranking(cluster.capacity).scores(set(names), {SLICE})
    assert kept[0][0] in names[:changed]


def test_no_question_pays_for_more_than_a_batch_however_much_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"n{number:03}" for number in range(3 * BATCH + 7)]
    cluster = Cluster(*(read(name) for name in names))
    cluster.order(*names)
    counted: list[str] = []

    def counting(node: Node, usage: Usage) -> dict[str, float]:
        counted.append(node.name)
        return drain_costs(node, usage)

    monkeypatch.setattr(score, "drain_costs", counting)
    for name in names:
        cluster.hold(name, 1)
    paid_by_changes = len(counted)
    cluster.order(*names)
    assert (paid_by_changes, len(counted)) == (3 * BATCH, len(names))


def test_nothing_is_kept_for_names_and_resources_that_nobody_has() -> None:
    cluster = Cluster(read("a"))
    for number in range(50):
        cluster.ranking.scores({f"stranger-{number}"}, {f"nvidia.com/mig-{number}"}, f"w/{number}")
    cluster.capacity.drop_node("a")
    cluster.ranking.scores({"a"}, {SLICE})
    assert not cluster.ranking._orders
    assert not cluster.ranking._keys


# --- without an extender -----------------------------------------------------------------------------


def test_of_the_nodes_in_use_those_with_a_slice_free_are_preferred_best_first() -> None:
    cluster = Cluster(read("a"), read("b"), read("c", slices=2), read("d"), read("e"))
    cluster.hold("a", 1).hold("b", 2).hold("c", 2).hold("d", 3)
    reach = sum(1 << cluster.capacity.index.slot_of[name] for name in ("a", "b", "c", "e"))
    assert cluster.ranking.best_used([SLICE], reach) == ["b", "a"]


@pytest.mark.parametrize("used", [9, 10, 11, 15])
def test_no_more_nodes_are_preferred_than_the_extender_would_score(used: int) -> None:
    cluster = Cluster(*(read(f"n{number:02}") for number in range(used)))
    for number in range(used):
        cluster.hold(f"n{number:02}", 1)
    everywhere = cluster.capacity.index.all
    assert len(cluster.ranking.best_used([SLICE], everywhere)) == min(used, 10)


# --- the page ----------------------------------------------------------------------------------------


def test_the_example_in_the_documentation_is_right() -> None:
    both = {"1g.10gb": 4, "2g.20gb": 2, "3g.40gb": 2}
    cluster = Cluster(*(cut(name, both, 2, whole=0) for name in ("a", "b", "c")))
    cluster.hold("a", 2, resource=mig("1g.10gb")).hold("a", 1).hold("c", 1, resource=mig("3g.40gb"))
    large = mig("3g.40gb")
    assert {name: cluster.cost(name, large) for name in "abc"} == {"a": 0.65, "b": 2.0, "c": 1.5}
    page = Path(__file__).parents[2] / "docs/reference/consolidation.md"
    shown = [line.split() for line in page.read_text("utf-8").splitlines() if "of 96" in line]
    assert {words[0]: float(words[-1]) for words in shown[:3]} == {"a": 0.65, "b": 2.0, "c": 1.5}
