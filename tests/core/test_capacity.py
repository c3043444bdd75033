from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.cluster.objects import NodeObject
from extender.cluster.reading import read_node
from extender.core.capacity import MOST_REMEMBERED, Capacity, Demand, Holding, Usage
from extender.core.node import Node
from extender.core.offers import smallest_first
from extender.core.pod import Ask
from extender.core.policy import Policy
from extender.core.reach import Nodes
from tests.build import GPU, JSON, mig, node
from tests.draw import clusters, labels, nodes, places

NAMES = ("gpu-0", "gpu-1", "gpu-2", "gpu-3")
RESOURCES = (GPU, mig("1g.10gb"), mig("2g.20gb"))
GIB = 1024**3


def read(each: JSON, name: str = "") -> Node:
    tree = {**each, "metadata": {**each["metadata"], "name": name or each["metadata"]["name"]}}
    return read_node(msgspec.convert(tree, NodeObject), Policy())


def holding(on: str = "gpu-a", plain: Ask | None = None, **gpus: int) -> Holding:
    """A pod on a node; `g1=2` are two of `mig-1g.10gb`, `g2` and `whole` alike."""
    names = {"whole": GPU, "g1": mig("1g.10gb"), "g2": mig("2g.20gb")}
    asked = tuple((names[key], count) for key, count in gpus.items())
    return Holding(on, plain or Ask(), asked, "speech/Deployment/asr" if asked else "")


def demand(spec: Mapping[str, Any] | None = None, priority: int = 0, **gpus: int) -> Demand:
    """A pod that waits."""
    where = spec or {}
    return Demand(where, repr(where), holding("", None, **gpus).gpus, priority)


def mask(capacity: Capacity, names: Iterable[str]) -> Nodes:
    """The set of those of the nodes that are there."""
    slot_of = capacity.index.slot_of
    return sum(1 << slot_of[name] for name in set(names) if name in slot_of)


def named(capacity: Capacity, found: Nodes) -> set[str]:
    return {each.name for each in capacity.index.members(found)}


def made(
    *found: Node, holdings: Iterable[Holding] = (), demands: Iterable[Demand] = ()
) -> Capacity:
    """A capacity built from scratch."""
    capacity = Capacity()
    for each in found:
        capacity.put_node(each)
    for held in holdings:
        capacity.hold(held)
    for waits in demands:
        capacity.wait(waits)
    return capacity


# --- kept incrementally, it answers as if built from scratch ----------------------------------------


@dataclass
class World:
    """What is there: what a capacity is built from."""

    nodes: dict[str, Node] = field(default_factory=dict)
    holdings: list[Holding] = field(default_factory=list)
    demands: list[Demand] = field(default_factory=list)


asks = st.builds(Ask, st.integers(0, 50_000), st.integers(0, 600 * GIB), st.integers(0, GIB))


def some_gpus(least: int) -> st.SearchStrategy[tuple[tuple[str, int], ...]]:
    one = st.tuples(st.sampled_from(RESOURCES), st.integers(1, 3))
    return st.lists(one, min_size=least, max_size=2, unique_by=lambda g: g[0]).map(tuple)


holdings = st.builds(
    lambda on, plain, asked, who: Holding(on, plain, asked, who if asked else ""),
    st.sampled_from(NAMES),
    asks,
    some_gpus(0),
    st.sampled_from(["speech/Deployment/asr", "speech/Job/nightly"]),
)
demands = st.builds(
    lambda where, asked, priority: Demand(where, repr(where), asked, priority),
    places(NAMES),
    some_gpus(1),
    st.sampled_from([0, 100]),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(NAMES), nodes()),
        st.tuples(st.just("drop"), st.sampled_from(NAMES)),
        st.tuples(st.just("hold"), holdings),
        st.tuples(st.just("release"), st.integers(0, 9)),
        st.tuples(st.just("wait"), demands),
        st.tuples(st.just("stop"), st.integers(0, 9)),
        st.tuples(st.just("ask"), st.sets(st.sampled_from(NAMES))),
    ),
    min_size=2,
    max_size=25,
)


def play(capacity: Capacity, world: World, step: tuple[Any, ...]) -> None:
    """One change to a capacity, and to the record of what is there."""
    match step:
        case ("put", name, each):
            world.nodes[name] = read(each, name)
            capacity.put_node(world.nodes[name])
        case ("drop", name):
            world.nodes.pop(name, None)
            capacity.drop_node(name)
        case ("hold", held):
            world.holdings.append(held)
            capacity.hold(held)
        case ("release", position) if world.holdings:
            capacity.release(world.holdings.pop(position % len(world.holdings)))
        case ("wait", waits):
            world.demands.append(waits)
            capacity.wait(waits)
        case ("stop", position) if world.demands:
            capacity.stop_waiting(world.demands.pop(position % len(world.demands)))
        case ("ask", names):  # answers are remembered, and must not outlive a change
            for resource in RESOURCES:
                capacity.waiting(resource, mask(capacity, names), 0)


def answers(capacity: Capacity, names: set[str], ask: Mapping[str, int], plain: Ask) -> Any:
    """Whatever may be asked, by name."""
    found = mask(capacity, names)
    taken = {resource: capacity.waiting(resource, found, 0) for resource in ask}
    return {
        "free": {r: capacity.free(r, found) for r in RESOURCES},
        "total": {r: capacity.total(r, found) for r in RESOURCES},
        "with free": {r: named(capacity, capacity.with_free(r, found)) for r in RESOURCES},
        "usage": {name: capacity.usage(name) for name in NAMES},
        "waiting": {(r, p): capacity.waiting(r, found, p) for r in RESOURCES for p in (0, 1)},
        "room": capacity.room(ask, plain, found, taken),
        "room for the first": capacity.room(ask, plain, found, {}),
        "could hold": capacity.could_hold(ask, plain, found),
        "too small": named(capacity, capacity.too_small(ask, 10_000)),
        "present": {r: named(capacity, n) for r, n in capacity.present.items()},
        "offers": {
            r: {o: named(capacity, n) for o, n in every.items()}
            for r, every in capacity.offers.items()
        },
        "where": capacity.where,
    }


wanted = st.dictionaries(st.sampled_from(RESOURCES), st.integers(1, 3), min_size=1, max_size=2)


@given(clusters(), steps, st.sets(st.sampled_from(NAMES)), wanted, asks)
def test_a_capacity_that_was_changed_answers_like_one_made_new(
    first: list[JSON],
    events: list[tuple[Any, ...]],
    names: set[str],
    ask: dict[str, int],
    plain: Ask,
) -> None:
    capacity, world = Capacity(), World()
    for step in (*(("put", each["metadata"]["name"], each) for each in first), *events):
        play(capacity, world, step)
    fresh = made(*world.nodes.values(), holdings=world.holdings, demands=world.demands)
    assert answers(capacity, names, ask, plain) == answers(fresh, names, ask, plain)


@given(clusters(), steps, st.sets(st.sampled_from(NAMES)), wanted, asks)
def test_what_is_free_is_what_counting_node_by_node_finds(
    first: list[JSON],
    events: list[tuple[Any, ...]],
    names: set[str],
    ask: dict[str, int],
    plain: Ask,
) -> None:
    capacity, world = Capacity(), World()
    for step in (*(("put", each["metadata"]["name"], each) for each in first), *events):
        play(capacity, world, step)
    there = [each for name, each in world.nodes.items() if name in names]

    def left(each: Node, resource: str) -> int:
        used = sum(
            n for h in world.holdings if h.node == each.name for r, n in h.gpus if r == resource
        )
        return max(0, each.gpus.get(resource, 0) - used)

    def starts_on(each: Node) -> bool:
        here = [h.plain for h in world.holdings if h.node == each.name]
        cpu, memory, disk = (
            sum(getattr(h, kind) for h in here) + getattr(plain, kind)
            for kind in ("cpu_milli", "memory_bytes", "ephemeral_bytes")
        )
        return (
            len(here) < each.pods
            and (cpu <= each.cpu_milli or not plain.cpu_milli)
            and (memory <= each.memory_bytes or not plain.memory_bytes)
            and (disk <= each.ephemeral_bytes or not plain.ephemeral_bytes)
            and all(left(each, resource) >= count for resource, count in ask.items())
        )

    found = mask(capacity, names)
    for resource in RESOURCES:
        assert capacity.free(resource, found) == sum(left(each, resource) for each in there)
        assert capacity.total(resource, found) == sum(each.gpus.get(resource, 0) for each in there)
    for taken in (0, 2):
        roomy = [each for each in there if starts_on(each)]
        enough = all(
            sum(left(each, r) for each in roomy) - taken >= count for r, count in ask.items()
        )
        expected = bool(roomy) and enough
        assert capacity.room(ask, plain, found, dict.fromkeys(ask, taken)) is expected


# --- single rules ----------------------------------------------------------------------------------


def test_pods_may_arrive_before_their_node() -> None:
    capacity = made(holdings=[holding(g2=1)])
    assert capacity.usage("gpu-a").gpus == {mig("2g.20gb"): 1}
    capacity.put_node(read(node()))
    assert capacity.free(mig("2g.20gb"), capacity.index.all) == 2


def test_a_node_that_returns_holds_what_it_held() -> None:
    capacity = made(read(node()), holdings=[holding(g2=1)])
    capacity.drop_node("gpu-a")
    assert capacity.usage("gpu-a").gpu_pods == 1
    capacity.put_node(read(node()))
    assert capacity.free(mig("2g.20gb"), capacity.index.all) == 2


def test_the_next_node_in_a_slot_holds_nothing_of_the_one_before() -> None:
    capacity = made(read(node()), holdings=[holding(g2=1)])
    capacity.drop_node("gpu-a")
    capacity.put_node(read(node("gpu-b")))
    assert capacity.usage("gpu-b") == Usage()
    assert capacity.free(mig("2g.20gb"), capacity.index.all) == 3


def test_a_node_that_is_not_there_cannot_be_dropped_twice() -> None:
    capacity = made(read(node()))
    capacity.drop_node("gpu-a")
    capacity.drop_node("gpu-a")
    assert len(capacity.index) == 0


def test_more_used_than_allocatable_leaves_nothing_and_takes_nothing_from_others() -> None:
    both = (read(node("gpu-a", slices={"2g.20gb": 1})), read(node("gpu-b")))
    capacity = made(*both, holdings=[holding(g2=1), holding(g2=1)])
    assert capacity.free(mig("2g.20gb"), capacity.index.all) == 3


def test_pods_of_higher_priority_do_not_wait_behind_those_of_lower() -> None:
    waits = [demand(g2=1), demand(priority=100, g2=1)]
    capacity = made(read(node()), demands=waits)
    everywhere = capacity.index.all
    assert capacity.waiting(mig("2g.20gb"), everywhere, 0) == 2
    assert capacity.waiting(mig("2g.20gb"), everywhere, 50) == 1
    assert capacity.waiting(mig("2g.20gb"), everywhere, 101) == 0
    assert capacity.waiting(mig("1g.10gb"), everywhere, 0) == 0


def test_a_pod_that_waits_for_other_nodes_stands_in_nobodys_way() -> None:
    elsewhere = demand({"nodeSelector": {"zone": "1"}}, g2=1)
    capacity = made(read(node()), demands=[elsewhere])
    assert capacity.waiting(mig("2g.20gb"), capacity.index.all, 0) == 0
    capacity.put_node(read(node(labels={"zone": "1"})))
    assert capacity.waiting(mig("2g.20gb"), capacity.index.all, 0) == 1


@pytest.mark.parametrize(
    ("plain", "room"),
    [
        (Ask(96_000), True),
        (Ask(96_001), False),
        (Ask(0, 1000 * GIB), True),
        (Ask(0, 1000 * GIB + 1), False),
        (Ask(0, 0, 1024 * GIB), True),
        (Ask(0, 0, 1024 * GIB + 1), False),
    ],
)
def test_one_node_must_have_the_slice_and_all_plain_resources(plain: Ask, room: bool) -> None:
    full = node("gpu-b", slices={}, whole=8)
    full["status"]["allocatable"] |= {"cpu": "500", "memory": "9Ti", "ephemeral-storage": "9Ti"}
    capacity = made(read(node()), read(full))
    assert capacity.room({mig("2g.20gb"): 1}, plain, capacity.index.all, {}) is room
    assert capacity.could_hold({mig("2g.20gb"): 1}, plain, capacity.index.all) is room


def test_devices_of_other_kinds_must_be_on_the_same_node_as_the_slice() -> None:
    def room(allocatable: dict[str, str], *, taken: int = 0) -> bool:
        raw = node()
        raw["status"]["allocatable"] |= allocatable
        ask = Ask(others=(("rdma/ib", 1),))
        held = [holding(plain=Ask(others=(("rdma/ib", taken),)))] if taken else []
        capacity = made(read(raw), holdings=held)
        return capacity.room({mig("2g.20gb"): 1}, ask, capacity.index.all, {})

    assert not room({})
    assert not room({"rdma/ib": "0"})
    assert room({"rdma/ib": "2"})
    assert room({"rdma/ib": "2"}, taken=1)
    assert not room({"rdma/ib": "2"}, taken=2)


def test_what_a_pod_does_not_ask_for_may_be_overdrawn() -> None:
    capacity = made(read(node()), holdings=[holding(plain=Ask(200_000))])
    assert capacity.room({mig("2g.20gb"): 1}, Ask(0, GIB), capacity.index.all, {})
    assert not capacity.room({mig("2g.20gb"): 1}, Ask(1), capacity.index.all, {})


def test_a_pod_without_gpus_has_room_where_its_plain_resources_are() -> None:
    capacity = made(read(node()))
    assert capacity.room({}, Ask(96_000), capacity.index.all, {})
    assert not capacity.room({}, Ask(96_001), capacity.index.all, {})


def test_a_node_without_a_pod_slot_has_no_room() -> None:
    small = node()
    small["status"]["allocatable"]["pods"] = "1"
    capacity = made(read(small), holdings=[holding()])
    assert not capacity.room({mig("2g.20gb"): 1}, Ask(), capacity.index.all, {})
    assert capacity.could_hold({mig("2g.20gb"): 1}, Ask(), capacity.index.all)


def test_two_slices_must_be_free_on_one_node() -> None:
    capacity = made(*(read(node(name, slices={"2g.20gb": 1})) for name in ("a", "b")))
    assert capacity.free(mig("2g.20gb"), capacity.index.all) == 2
    assert not capacity.room({mig("2g.20gb"): 2}, Ask(), capacity.index.all, {})
    assert not capacity.could_hold({mig("2g.20gb"): 2}, Ask(), capacity.index.all)


def test_claims_of_others_count_against_nodes_with_room_only() -> None:
    busy = node("b")
    busy["status"]["allocatable"]["cpu"] = "1"
    capacity = made(read(node("a", slices={"2g.20gb": 1})), read(busy))
    ask, plain = {mig("2g.20gb"): 1}, Ask(2000)
    assert capacity.room(ask, plain, capacity.index.all, {})
    assert not capacity.room(ask, plain, capacity.index.all, {mig("2g.20gb"): 1})


def test_workloads_are_known_by_the_nodes_their_gpu_pods_are_on() -> None:
    held = holding(g2=1)
    capacity = made(holdings=[held, held, holding("gpu-b", whole=1), holding("gpu-c")])
    assert capacity.where == {"speech/Deployment/asr": {"gpu-a": 2, "gpu-b": 1}}
    for _ in range(2):
        capacity.release(held)
    assert capacity.where == {"speech/Deployment/asr": {"gpu-b": 1}}


def test_a_change_tells_which_node_it_touched() -> None:
    capacity, told = Capacity(), list[str]()
    capacity.touched = told.append
    capacity.put_node(read(node()))
    capacity.hold(holding(g2=1))
    capacity.hold(holding())  # of no interest: it has no GPU
    capacity.drop_node("gpu-a")
    assert told == ["gpu-a", "gpu-a", "gpu-a"]


def test_a_node_is_too_small_when_it_has_every_slice_asked_for_and_none_is_enough() -> None:
    capacity = made(
        read(node("a", slices={"1g.10gb": 1, "2g.20gb": 1})),
        read(node("b", slices={"1g.10gb": 1})),
        read(node("c", slices={"1g.10gb": 1}, labels={f"{mig('1g.10gb')}.memory": "0"})),
    )
    small, large = mig("1g.10gb"), mig("2g.20gb")
    assert named(capacity, capacity.too_small([small], 9729)) == {"a", "b"}
    assert named(capacity, capacity.too_small([small], 9728)) == set()
    assert named(capacity, capacity.too_small([small, large], 9729)) == set()
    assert named(capacity, capacity.too_small([small, large], 19969)) == {"a"}


@given(labels)
def test_equal_nodes_are_one_statement(said: dict[str, str]) -> None:
    capacity = made(*(read(node(name, labels=said)) for name in NAMES))
    assert [len(every) for every in capacity.offers.values()] == [1, 1, 1]


@given(clusters(most=6), st.data())
def test_what_a_set_of_nodes_offers_is_what_its_nodes_say_now(
    cluster: list[JSON], data: st.DataObject
) -> None:
    capacity = made(*(read(each, name) for each, name in zip(cluster, NAMES, strict=False)))
    reached = mask(capacity, data.draw(st.sets(st.sampled_from(NAMES))))
    capacity.offered(reached)  # asked before, on nodes as they were

    changed = data.draw(nodes(NAMES[0]))
    capacity.put_node(read(changed, NAMES[0]))

    assert capacity.offered(reached) == smallest_first(capacity.groups(reached))
    said = {o.resource for each in capacity.index.members(reached) for o in each.offers.values()}
    assert {offer.resource for offer in capacity.offered(reached)} == said


def test_no_more_than_so_many_sets_of_nodes_are_remembered() -> None:
    capacity = made(*(read(node(f"gpu-{number}")) for number in range(10)))
    for reached in range(1 << 10):
        capacity.offered(reached)
    assert len(capacity._offered) <= MOST_REMEMBERED
