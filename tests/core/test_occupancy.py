"""Real occupancy per GPU in place of what totals let one guess."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.core.capacity import Holding, Usage
from extender.core.consolidate import idle_chance
from extender.core.node import Node, build_node
from extender.core.occupancy import Occupancy, SeenGpu, existing, gpu_costs, idle_share
from extender.core.pod import Ask
from extender.core.score import drain_costs, seen_costs
from tests.build import GPU, mig

SMALL, LARGE = mig("1g.10gb"), mig("3g.40gb")
A100 = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB", "nvidia.com/mig.strategy": "mixed"}


def node(seen: Occupancy | None, gpus: int = 2, **labels: str) -> Node:
    """Two cards, each cut into one 3g and four 1g."""
    return build_node(
        "n",
        labels={**A100, "nvidia.com/gpu.count": str(gpus), **labels},
        gpus={SMALL: 4 * gpus, LARGE: gpus},
        overrides={},
        seen=seen,
    )


def usage(**pods: int) -> Usage:
    """So many pods, each with one slice."""
    found = Usage()
    for name, count in pods.items():
        for _ in range(count):
            found.add(Holding("n", Ask(), (({"small": SMALL, "large": LARGE}[name], 1),)), 1)
    return found


def test_a_free_slice_on_a_used_gpu_costs_less_than_one_on_an_idle_gpu() -> None:
    on_used = Occupancy((SeenGpu(1, ((SMALL, 3),)), SeenGpu(0)), held=((SMALL, 1),))
    on_idle = Occupancy((SeenGpu(1), SeenGpu(0, ((SMALL, 3),))), held=((SMALL, 1),))

    assert seen_costs(node(on_used), usage(small=1)) == {SMALL: 0.5 + 0.5}
    assert seen_costs(node(on_idle), usage(small=1)) == {SMALL: 0.5 + 1.0}
    assert drain_costs(node(on_used), usage(small=1)) == drain_costs(node(on_idle), usage(small=1))


def test_the_device_plugin_takes_any_free_slice_so_the_mean_over_those_counts() -> None:
    seen = Occupancy((SeenGpu(2, ((SMALL, 1),)), SeenGpu(0, ((SMALL, 3),))), held=((SMALL, 2),))

    assert gpu_costs(seen, {SMALL: 2}) == {SMALL: pytest.approx(1 / 4 / 3 + 3 / 4)}


def test_pods_bound_since_the_agent_looked_are_somewhere_on_the_free_slices() -> None:
    seen = Occupancy((SeenGpu(0, ((SMALL, 2),)), SeenGpu(0, ((SMALL, 2),))))

    none, one, two = (gpu_costs(seen, {SMALL: n})[SMALL] for n in (0, 1, 2))

    assert none == 1.0
    assert none > one > two > 0


def test_late_pods_of_another_profile_count_on_the_gpus_that_had_it_free() -> None:
    seen = Occupancy((SeenGpu(0, ((LARGE, 1), (SMALL, 1))), SeenGpu(0, ((SMALL, 1),))))

    assert gpu_costs(seen, {LARGE: 1})[SMALL] == pytest.approx((1 / 2 + 1) / 2)


def test_what_the_agent_does_not_know_is_left_to_the_totals() -> None:
    assert gpu_costs(Occupancy(), {}) == {}
    assert idle_share(Occupancy(), SMALL) is None
    assert seen_costs(node(Occupancy()), usage(small=1)) == {}
    assert seen_costs(node(None), usage(small=1)) == {}


def test_an_idle_node_stays_idle_whatever_its_agent_sees() -> None:
    seen = Occupancy((SeenGpu(1, ((SMALL, 3),)),))

    assert seen_costs(node(seen), Usage()) == {}


def test_consolidation_knows_how_likely_a_slice_opens_an_idle_gpu() -> None:
    seen = Occupancy((SeenGpu(1, ((SMALL, 1),)), SeenGpu(0, ((SMALL, 3),))), held=((LARGE, 1),))

    assert idle_chance(node(seen), usage(large=1), SMALL) == 0.75
    assert idle_chance(node(None), usage(large=1), SMALL) == 0.5


def test_a_slice_that_is_allocatable_and_gone_is_not_counted() -> None:
    seen = Occupancy(slices=((SMALL, 3),))

    assert existing(SMALL, 7, seen) == 3
    assert existing(SMALL, 2, seen) == 2
    assert existing(LARGE, 2, seen) == 0
    assert existing(LARGE, 2, Occupancy()) == 2
    found = node(seen)
    assert found.gpus == {SMALL: 3}
    assert found.offers.keys() == {SMALL}


def test_shared_names_and_whole_gpus_are_counted_as_the_node_says() -> None:
    seen = Occupancy(slices=((SMALL, 1),))
    found = build_node(
        "n",
        labels={**A100, f"{SMALL}.replicas": "4"},
        gpus={SMALL: 4, GPU: 2, f"{LARGE}.shared": 8},
        overrides={},
        seen=seen,
    )

    assert found.gpus == {SMALL: 4, GPU: 2, f"{LARGE}.shared": 8}


@pytest.mark.parametrize(
    ("label", "seen", "override", "usable"),
    [
        ("9728", 9600, None, 9600),
        (None, 9600, None, 9600),
        ("0", 9600, None, 9600),
        ("2000", 9600, None, 9600),  # a label that is off is no matter once NVML tells
        ("9700", None, None, 9700),
        ("9700", 9600, 9000, 9000),
    ],
)
def test_usable_memory_is_the_admins_word_then_nvmls_then_the_labels(
    label: str | None, seen: int | None, override: int | None, usable: int
) -> None:
    known = () if seen is None else ((SMALL, seen),)
    overrides = {} if override is None else {A100["nvidia.com/gpu.product"]: {"1g.10gb": override}}
    found = build_node(
        "n",
        labels={**A100, **({} if label is None else {f"{SMALL}.memory": label})},
        gpus={SMALL: 4},
        overrides=overrides,
        seen=Occupancy(usable_mib=known),
    )

    assert found.offers[SMALL].usable_mib == usable


CARDS = st.lists(
    st.builds(
        SeenGpu,
        st.integers(0, 3),
        st.tuples(st.integers(0, 2), st.integers(0, 3)).map(
            lambda n: tuple((r, k) for r, k in zip((LARGE, SMALL), n, strict=True) if k)
        ),
    ),
    min_size=1,
    max_size=3,
)


@given(CARDS, st.integers(0, 2), st.integers(0, 2))
def test_the_cost_is_the_mean_over_every_way_late_pods_may_lie_or_close_to_it(
    cards: list[SeenGpu], late_small: int, late_large: int
) -> None:
    """The expected 1/(1 + pods) is never below 1/(1 + expected pods), and is it where nothing is late."""
    seen = Occupancy(tuple(cards))
    slots = [(n, r) for n, card in enumerate(cards) for r, k in card.free for _ in range(k)]
    small = [s for s in slots if s[1] == SMALL]
    large = [s for s in slots if s[1] == LARGE]
    if len(small) <= late_small or len(large) < late_large:
        return
    costs = []
    for one in range(len(small)):
        rest = small[:one] + small[one + 1 :]
        for taken in itertools.combinations(rest, late_small):
            for taken_large in itertools.combinations(large, late_large):
                here = small[one][0]
                pods = cards[here].pods + sum(n == here for n, _ in (*taken, *taken_large))
                costs.append(1 / (1 + pods))
    exact = sum(costs) / len(costs)

    found = gpu_costs(seen, {SMALL: late_small, LARGE: late_large})[SMALL]

    assert found <= exact + 1e-9
    if not late_small and not late_large:
        assert found == pytest.approx(exact)
    assert 0 < found <= 1
