from fractions import Fraction

import pytest

from extender.core.catalogue import PRODUCTS
from extender.demo import caption
from extender.demo.hardware import cut
from extender.demo.kubelet import Spot
from extender.demo.outcome import Figures, PodOutcome, Run, figures

A100 = PRODUCTS["A100-80GB"]


def add_up(
    layouts: list[str | list[str]],
    held: dict[tuple[int, int], str],
    sizes: dict[str, str | None],
    headroom: str = "1/5",
) -> Figures:
    cards = tuple(cut("n", index, A100, layout) for index, layout in enumerate(layouts))
    pods = tuple(
        PodOutcome(
            name=name,
            title=name,
            namespace="default",
            footprint_bytes=None if size is None else int(Fraction(size) * 10**9),
            node="n" if name in held.values() else "",
        )
        for name, size in sizes.items()
    )
    run = Run("", cards, {Spot("n", *at): name for at, name in held.items()}, pods)
    return figures(run, headroom=Fraction(headroom), gpu_month=Fraction(1000))


def test_a_pod_is_hollow_when_a_smaller_profile_would_hold_its_need() -> None:
    # 3g.40gb has 40192 MiB: 42.1 GB; with 20 % on top 35.1 GB fit and 35.2 GB do not.
    assert add_up(["whole"], {(0, 0): "a"}, {"a": "35.1"}).hollow
    assert not add_up(["whole"], {(0, 0): "a"}, {"a": "35.2"}).hollow
    assert add_up(["whole"], {(0, 0): "a"}, {"a": "35.2"}, headroom="0").hollow


def test_a_slice_is_never_called_hollow() -> None:
    found = add_up([["3g.40gb", "3g.40gb"]], {(0, 0): "a"}, {"a": "1"})
    assert not found.hollow
    assert found.held_gb == 40


def test_a_pod_on_several_cards_uses_each_in_part_and_is_named_once() -> None:
    found = add_up(["whole", "whole"], {(0, 0): "a", (1, 0): "a"}, {"a": "10"})
    assert (int(found.used_gb), int(found.held_gb), len(found.hollow)) == (10, 160, 1)


def test_use_that_is_not_known_counts_as_none_and_is_not_hollow() -> None:
    found = add_up(["whole"], {(0, 0): "a"}, {"a": None})
    assert (int(found.used_gb), int(found.held_gb)) == (0, 80)
    assert not found.hollow


def test_cards_that_nobody_holds_are_free_when_whole_and_idle_when_cut() -> None:
    found = add_up(["whole", ["3g.40gb"], "whole"], {(0, 0): "a"}, {"a": "70"})
    assert [gpu.index for gpu in found.free] == [2]
    assert [gpu.index for gpu in found.idle] == [1]
    assert caption.spare(found, nodes=1) == "GPU 2 free, GPU 1 idle (partitioned)"
    assert caption.spare(found, nodes=2) == "n/2 free, n/1 idle (partitioned)"


def test_only_cards_in_use_cost() -> None:
    found = add_up(["whole", "whole"], {(0, 0): "a"}, {"a": "70"})
    assert (found.gpus_in_use, int(found.cost_a_month)) == (1, 1000)


def test_pods_without_a_place_are_told() -> None:
    found = add_up(["whole"], {(0, 0): "a"}, {"a": "70", "b": "1"})
    assert caption.pending(found) == "b without a place"


def test_nothing_at_all_has_a_sentence_too() -> None:
    found = add_up(["whole"], {}, {"a": "1"})
    assert caption.sentence(caption.use(found), caption.waste(found)) == "0 of 0 GB, 0 %."


def test_many_are_counted_not_named() -> None:
    found = add_up(
        ["whole"] * 8, {(i, 0): f"p{i}" for i in range(4)}, {f"p{i}": "1" for i in range(4)}
    )
    assert caption.waste(found) == "4 pods use 4 of 320 GB, 316 GB (99 %) wasted"
    assert caption.spare(found, nodes=1) == "GPUs 4, 5, 6, 7 free"


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (4320, 2880, "4,320 → 2,880 $ a month, \N{MINUS SIGN}1,440 $"),
        (1000, 1500, "1,000 → 1,500 $ a month, +500 $"),
        (1000, 1000, "1,000 → 1,000 $ a month, \N{PLUS-MINUS SIGN}0 $"),
    ],
)
def test_the_saving_has_its_sign(before: int, after: int, text: str) -> None:
    assert caption.saving(costing(before), costing(after), "$") == text


def costing(amount: int) -> Figures:
    cards = (cut("n", 0, A100, "whole"),)
    holder = PodOutcome(name="a", title="a", namespace="d", footprint_bytes=1, node="n")
    run = Run("", cards, {Spot("n", 0, 0): "a"}, (holder,))
    return figures(run, headroom=Fraction(0), gpu_month=Fraction(amount))


@pytest.mark.parametrize(
    ("amount", "text"), [("96.2", "96.2"), ("23", "23"), ("0.05", "0.1"), ("1234.04", "1,234")]
)
def test_gigabytes_have_one_decimal_where_it_says_something(amount: str, text: str) -> None:
    assert caption.gb(Fraction(amount)) == text


def test_money_has_cents_where_there_are_any() -> None:
    assert caption.money(Fraction("1036.8")) == "1,036.80"
    assert caption.money(Fraction(1440)) == "1,440"
