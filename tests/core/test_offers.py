from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.core.node import Offer
from extender.core.offers import smallest_first, summarize
from tests.build import mig


def offer(**fields: Any) -> Offer:
    known: dict[str, Any] = {
        "resource": mig("1g.35gb"),
        "profile": "1g.35gb",
        "usable_mib": 33024,
        "compute_slices": 1,
        "memory_slices": 2,
        "bandwidth_bytes_s": 1200,
        "special": False,
        "shared": False,
        "labelled": True,
    }
    return Offer(**{**known, **fields})


def test_a_name_is_worth_the_least_that_any_node_says_of_it() -> None:
    h200 = offer()
    gb300 = offer(usable_mib=34000, memory_slices=1, bandwidth_bytes_s=1000)
    found = summarize(h200.resource, [(h200, 0b01), (gb300, 0b10)])
    assert (found.usable_mib, found.compute_slices, found.bandwidth_bytes_s) == (33024, 1, 1000)
    assert found.memory_slices == 2
    assert not found.uniform
    assert (found.nodes, found.offering) == (0b11, 0b11)


def test_a_node_of_unknown_memory_offers_but_does_not_count() -> None:
    found = summarize(mig("1g.35gb"), [(offer(), 0b01), (offer(usable_mib=None), 0b10)])
    assert found.uncounted
    assert found.uniform
    assert (found.usable_mib, found.nodes, found.offering) == (33024, 0b01, 0b11)


@given(
    st.fixed_dictionaries(
        {
            "usable_mib": st.sampled_from([None, 9728, 33024]),
            "bandwidth_bytes_s": st.sampled_from([None, 1200]),
            "special": st.booleans(),
            "shared": st.booleans(),
            "labelled": st.booleans(),
        }
    )
)
def test_nodes_that_say_the_same_fold_alike_in_one_group_and_in_two(said: dict[str, Any]) -> None:
    each = offer(**said)
    together = summarize(each.resource, [(each, 0b11)])
    assert together == summarize(each.resource, [(each, 0b01), (each, 0b10)])


def test_where_no_node_says_its_memory_nothing_is_known_of_the_name() -> None:
    found = summarize(mig("1g.35gb"), [(offer(usable_mib=None), 0b1)])
    assert (found.usable_mib, found.nodes, found.guardable) == (None, 0, False)


@pytest.mark.parametrize("flag", ["special", "shared"])
def test_one_node_is_enough_to_make_a_name_special_or_shared(flag: str) -> None:
    found = summarize(mig("1g.35gb"), [(offer(), 0b01), (offer(**{flag: True}), 0b10)])
    assert getattr(found, flag)
    assert not getattr(summarize(mig("1g.35gb"), [(offer(), 0b01)]), flag)


def test_a_name_can_be_guarded_when_every_counted_node_carries_the_label() -> None:
    silent = offer(labelled=False)
    assert summarize(mig("1g.35gb"), [(offer(), 1)]).guardable
    assert not summarize(mig("1g.35gb"), [(offer(), 1), (silent, 2)]).guardable
    uncounted = offer(labelled=False, usable_mib=None)
    assert summarize(mig("1g.35gb"), [(offer(), 1), (uncounted, 2)]).guardable


def test_bandwidth_is_unknown_where_any_node_does_not_know_it() -> None:
    found = summarize(mig("1g.35gb"), [(offer(), 1), (offer(bandwidth_bytes_s=None), 2)])
    assert found.bandwidth_bytes_s is None


def test_the_least_memory_comes_first_then_fewer_slices_and_what_is_unknown_last() -> None:
    offers = {
        "large": offer(resource="large", usable_mib=40000),
        "small": offer(resource="small", usable_mib=9000),
        "wide": offer(resource="wide", usable_mib=9000, compute_slices=2),
        "special": offer(resource="special", usable_mib=9000, special=True),
        "unknown": offer(resource="unknown", usable_mib=None),
    }
    found = smallest_first({name: [(each, 1)] for name, each in offers.items()})
    assert [each.resource for each in found] == ["small", "special", "wide", "large", "unknown"]
