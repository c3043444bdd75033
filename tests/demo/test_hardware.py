import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.core.catalogue import PRODUCTS, Product, layouts, product_of, profile_name
from extender.core.node import build_node
from extender.demo.hardware import (
    WHOLE,
    allocatable,
    cut,
    gpu_labels,
    node_object,
    product_label,
    product_named,
)


@st.composite
def cards(draw: st.DrawFn) -> tuple[Product, list[str]]:
    product = draw(st.sampled_from([*PRODUCTS.values()]))
    layout = draw(st.sampled_from(layouts(product)))
    return product, [name for name, _ in layout.placements]


@given(cards())
def test_pieces_lie_side_by_side_inside_the_card(card: tuple[Product, list[str]]) -> None:
    product, profiles = card
    gpu = cut("n", 0, product, profiles)
    assert sorted(piece.profile for piece in gpu.pieces) == sorted(profiles)
    end = 0
    for piece in gpu.pieces:
        assert piece.start >= end
        end = piece.start + piece.slices
    assert end <= product.memory_slices


@given(cards(), st.integers(0, 3))
def test_what_a_node_tells_is_what_the_decision_reads(
    card: tuple[Product, list[str]], whole: int
) -> None:
    product, profiles = card
    gpus = [
        cut("n", 0, product, profiles),
        *(cut("n", i + 1, product, WHOLE) for i in range(whole)),
    ]
    label = product_label(product.name)
    node = node_object("n", gpus, label, plain={"cpu": "1", "memory": "1Gi"}, labels={})
    counts = allocatable(gpus)
    read = build_node("n", labels=node["metadata"]["labels"], gpus=counts, overrides={})
    assert read.product is product
    assert read.gpu_count == len(gpus)
    assert counts.get("nvidia.com/gpu", 0) == whole
    assert sum(counts.values()) == len(profiles) + whole
    assert {node["status"]["allocatable"][name] for name in counts} == {
        str(count) for count in counts.values()
    }
    for resource, offer in read.offers.items():
        known = product.profile(profile_name(resource))
        assert known
        assert (offer.usable_mib, offer.shared) == (known.memory_mib, False)


@pytest.mark.parametrize("name", PRODUCTS)
def test_every_product_of_the_catalogue_can_be_played(name: str) -> None:
    product = product_named(name)
    assert product is PRODUCTS[name]
    labels = gpu_labels([cut("n", 0, product, WHOLE)], product_label(name))
    memory = int(labels["nvidia.com/gpu.memory"])
    assert product_of(labels["nvidia.com/gpu.product"], memory) is product


def test_a_label_names_its_product_and_stays_as_it_is() -> None:
    assert product_named("NVIDIA-A100-SXM4-80GB") is PRODUCTS["A100-80GB"]
    assert product_label("NVIDIA-A100-SXM4-80GB") == "NVIDIA-A100-SXM4-80GB"
    assert product_named("NVIDIA-T4") is None


def test_profiles_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit on one A100-80GB"):
        cut("n", 0, PRODUCTS["A100-80GB"], ["4g.40gb", "4g.40gb"])


def test_mig_labels_are_those_of_gpu_feature_discovery() -> None:
    product = PRODUCTS["A100-80GB"]
    labels = gpu_labels([cut("n", 0, product, ["2g.20gb", "1g.10gb+me"])], "NVIDIA-A100-SXM4-80GB")
    assert labels["nvidia.com/mig.strategy"] == "mixed"
    assert labels["nvidia.com/gpu.replicas"] == "0"
    assert labels["nvidia.com/mig-2g.20gb.memory"] == "19968"
    assert labels["nvidia.com/mig-2g.20gb.count"] == "1"
    assert labels["nvidia.com/mig-2g.20gb.slices.gi"] == "2"
    assert labels["nvidia.com/mig-2g.20gb.product"] == "NVIDIA-A100-SXM4-80GB-MIG-2g.20gb"
    assert labels["nvidia.com/mig-1g.10gb.me.product"] == "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb.me"
