from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.core.catalogue import PRODUCTS, Product, layouts, maximal, resource_name
from extender.core.layout import Cut, NodeLayout, node_layout
from extender.core.node import build_node
from tests.build import GPU, mig

A100 = PRODUCTS["A100-80GB"]
BALANCED = {mig("1g.10gb"): 2, mig("2g.20gb"): 1, mig("3g.40gb"): 1}


def found(totals: Mapping[str, int], gpus: int = 8, shares: int = 1) -> list[dict[str, int]] | None:
    """The layout GPU by GPU, those that hold most first."""
    layout = node_layout(A100, totals, gpus, shares)
    if layout is None:
        return None
    each = [dict(cut.slices) for cut in layout for _ in range(cut.gpus)]
    return sorted(each, key=lambda gpu: (-sum(gpu.values()), sorted(gpu)))


def times(gpus: int, slices: Mapping[str, int]) -> dict[str, int]:
    return {name: gpus * count for name, count in slices.items()}


def totals_of(layout: NodeLayout) -> Counter[str]:
    total = Counter[str]()
    for cut in layout:
        total.update(times(cut.gpus, dict(cut.slices)))
    return total


# --- what totals tell --------------------------------------------------------------------------------


@given(
    st.sampled_from(sorted(PRODUCTS)).map(lambda name: PRODUCTS[name]),
    st.integers(0, 77),
    st.integers(1, 16),
)
def test_gpus_that_are_all_cut_alike_are_recognised_whatever_the_cut(
    product: Product, which: int, gpus: int
) -> None:
    every = layouts(product)[1:]
    each = {resource_name(p): n for p, n in every[which % len(every)].counts.items()}
    layout = node_layout(product, times(gpus, each), gpus)
    assert layout == (Cut(gpus, tuple(sorted(each.items()))),)


@given(st.lists(st.integers(0, 27), min_size=1, max_size=8), st.integers(0, 4))
def test_what_is_found_adds_up_to_the_totals_and_to_the_number_of_gpus(
    cuts: list[int], whole: int
) -> None:
    total = Counter({GPU: whole} if whole else {})
    for number in cuts:
        counts = maximal(A100)[number].counts
        total.update({resource_name(profile): n for profile, n in counts.items()})
    layout = node_layout(A100, total, len(cuts) + whole)
    if layout is not None:
        assert totals_of(layout) == total
        assert sum(cut.gpus for cut in layout) == len(cuts) + whole


def test_partitioned_and_whole_gpus_are_told_apart() -> None:
    assert found({GPU: 6, **times(2, BALANCED)}) == [BALANCED] * 2 + [{GPU: 1}] * 6


def test_different_cuts_are_found_where_there_is_only_one_way() -> None:
    assert found({mig("1g.10gb"): 28, mig("3g.40gb"): 8}) == (
        [{mig("1g.10gb"): 7}] * 4 + [{mig("3g.40gb"): 2}] * 4
    )
    assert found({mig("7g.80gb"): 3, mig("1g.10gb"): 35}) == (
        [{mig("1g.10gb"): 7}] * 5 + [{mig("7g.80gb"): 1}] * 3
    )


def test_where_there_are_several_ways_none_is_guessed() -> None:
    """3 balanced, 2 of 1g only, 2 of 3g only, 1 of 2g: as well 5 others."""
    assert found({mig("1g.10gb"): 21, mig("2g.20gb"): 6, mig("3g.40gb"): 7}) is None


def test_a_search_that_would_take_long_is_given_up() -> None:
    many = {"1g.10gb": 40, "1g.20gb": 4, "2g.20gb": 20, "3g.40gb": 9, "4g.40gb": 2}
    assert found({mig(name): count for name, count in many.items()}, gpus=16) is None


@pytest.mark.parametrize(
    ("totals", "gpus"),
    [
        ({mig("2g.20gb"): 9}, 2),  # a card holds three
        ({mig("1g.10gb"): 7}, 0),
        ({GPU: 8, mig("1g.10gb"): 7}, 8),  # no card is left for the slices
        ({GPU: 9}, 8),
        ({mig("5g.60gb"): 2}, 2),  # no such profile
        ({mig("1g.10gb") + ".shared": 14}, 2),  # time-sliced slices
        ({}, 8),
    ],
)
def test_totals_that_cannot_be_tell_nothing(totals: Mapping[str, int], gpus: int) -> None:
    assert found(totals, gpus) is None


def test_slices_of_an_unknown_product_tell_nothing_and_whole_cards_need_no_product() -> None:
    assert node_layout(None, {mig("1g.10gb"): 7}, 1) is None
    assert node_layout(None, {GPU: 4}, 4) == (Cut(4, ((GPU, 1),)),)


def test_a_shared_card_holds_as_many_pods_as_it_has_shares() -> None:
    assert found({GPU: 8}, gpus=2, shares=4) == [{GPU: 4}] * 2
    assert found({GPU: 7}, gpus=2, shares=4) is None


def test_media_extensions_are_part_of_a_cut_like_any_profile() -> None:
    each = {mig("1g.10gb+me"): 1, mig("1g.10gb"): 6}
    assert found(times(8, each)) == [each] * 8


# --- on a node ---------------------------------------------------------------------------------------


def test_a_node_tells_its_layout_by_labels_and_allocatable() -> None:
    labels = {
        "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
        "nvidia.com/gpu.memory": "81920",
        "nvidia.com/gpu.count": "3",
        "nvidia.com/gpu.replicas": "1",
    }
    gpus = {GPU: 1, **times(2, BALANCED)}
    node = build_node("a", labels=labels, gpus=gpus, overrides={})
    assert node.layout == (Cut(1, ((GPU, 1),)), Cut(2, tuple(sorted(BALANCED.items()))))
    without = {key: value for key, value in labels.items() if key != "nvidia.com/gpu.count"}
    assert build_node("a", labels=without, gpus=gpus, overrides={}).layout is None
