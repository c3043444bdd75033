from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.cluster.objects import NodeObject
from extender.cluster.reading import read_node
from extender.core.capacity import Capacity, Holding
from extender.core.node import Node
from extender.core.pod import Ask
from extender.core.policy import Policy
from extender.core.score import TOP_SCORE, Ranking, best_used
from tests.build import GPU, mig, node

ASR, TTS = "speech/Deployment/asr", "speech/Deployment/tts"
SLICE = mig("2g.20gb")


def read(name: str, gpus: int = 4, slices: int = 9) -> Node:
    labels = {"nvidia.com/gpu.count": str(gpus)}
    each = node(name, slices={"2g.20gb": slices}, labels=labels)
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

    def order(self, *names: str, workload: str = ASR, spread: bool = True) -> list[str]:
        """Nodes that got a score, best first."""
        return [n for n, _ in self.ranking.scores(set(names), workload, spread=spread)]


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
    scores = cluster.ranking.scores({f"n{number:02}" for number in range(15)})
    assert scores == [(f"n{number:02}", 10 - number) for number in range(10)]


def test_scores_are_integers_within_the_bounds_of_an_extender() -> None:
    cluster = Cluster(read("a"), read("b")).hold("a", 3)
    assert all(type(s) is int and 0 <= s <= 10 for _, s in cluster.ranking.scores({"a", "b"}))


def test_of_equals_the_node_with_fewer_gpus_comes_first_and_then_the_name_decides() -> None:
    cluster = Cluster(read("a", gpus=8), read("c"), read("b"))
    assert cluster.order("a", "b", "c") == ["b", "c", "a"]
    assert cluster.order("c", "b", "a") == ["b", "c", "a"]


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


# --- kept up to date ---------------------------------------------------------------------------------

NAMES = [f"n{number}" for number in range(6)]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(NAMES), st.integers(1, 3)),
        st.tuples(st.just("drop"), st.sampled_from(NAMES)),
        st.tuples(st.just("hold"), st.sampled_from(NAMES), st.sampled_from([ASR, TTS])),
        st.tuples(st.just("release"), st.integers(0, 9)),
        st.tuples(st.just("score")),
    ),
    max_size=30,
)


@given(steps, st.sets(st.sampled_from([*NAMES, "stranger"])), st.booleans())
def test_the_order_is_always_that_of_sorting_all_nodes_anew(
    events: list[tuple[Any, ...]], names: set[str], spread: bool
) -> None:
    cluster, gpus, held = Cluster(), dict[str, int](), list[Holding]()
    for event in events:
        match event:
            case ("put", name, count):
                gpus[name] = count
                cluster.capacity.put_node(read(name, count))
            case ("drop", name):
                gpus.pop(name, None)
                cluster.capacity.drop_node(name)
            case ("hold", name, workload):
                held.append(Holding(name, Ask(), ((SLICE, 1),), workload))
                cluster.capacity.hold(held[-1])
            case ("release", position) if held:
                cluster.capacity.release(held.pop(position % len(held)))
            case ("score",):
                cluster.order(*NAMES)

    def key(name: str) -> tuple[bool, bool, int, int, str]:
        here = [each for each in held if each.node == name]
        replica = spread and any(each.workload == ASR for each in here)
        return (not here, replica, -len(here), gpus[name], name)

    known = sorted((name for name in names if name in gpus), key=key)
    assert cluster.order(*names, spread=spread) == known[:TOP_SCORE]


# --- without an extender -----------------------------------------------------------------------------


def test_of_the_nodes_in_use_those_with_a_slice_free_are_preferred_best_first() -> None:
    cluster = Cluster(read("a"), read("b"), read("c", slices=2), read("d"), read("e"))
    cluster.hold("a", 1).hold("b", 2).hold("c", 2).hold("d", 3)
    reach = sum(1 << cluster.capacity.index.slot_of[name] for name in ("a", "b", "c", "e"))
    assert best_used(cluster.capacity, [SLICE], reach) == ["b", "a"]


@pytest.mark.parametrize("used", [9, 10, 11, 15])
def test_no_more_nodes_are_preferred_than_the_extender_would_score(used: int) -> None:
    cluster = Cluster(*(read(f"n{number:02}") for number in range(used)))
    for number in range(used):
        cluster.hold(f"n{number:02}", 1)
    assert len(best_used(cluster.capacity, [SLICE], cluster.capacity.index.all)) == min(used, 10)
