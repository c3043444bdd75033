from collections.abc import Mapping

import pytest

from extender.core.catalogue import PRODUCTS, Product, Profile, product_of
from extender.core.node import (
    POOL_LABELS,
    Node,
    build_node,
    is_mixed,
    is_reconfiguring,
    memory_label,
    offer_of,
    usable_mib,
)
from tests.build import GPU, mig
from tests.build import node as node_object

A100 = "NVIDIA-A100-SXM4-80GB"
B200 = "NVIDIA-B200"
GB = 10**9


def built(
    labels: Mapping[str, str | None] | None = None,
    gpus: Mapping[str, int] | None = None,
    product: str = A100,
) -> Node:
    """The node of `tests.build`, with labels and GPUs of its own."""
    found = node_object(product=product, labels=labels)
    return build_node(
        "gpu-a",
        labels=found["metadata"]["labels"],
        gpus={GPU: 2, mig("2g.20gb"): 3} if gpus is None else gpus,
        overrides={},
    )


# --- who offers slices ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "mixed"),
    [
        ({}, True),
        ({"nvidia.com/mig.strategy": "mixed"}, True),
        ({"nvidia.com/mig.strategy": "single"}, False),
        ({"nvidia.com/mig.strategy": "none"}, False),
        ({"cloud.google.com/gke-gpu-partition-size": "1g.10gb"}, False),
        (
            {
                "cloud.google.com/gke-gpu-partition-size": "1g.10gb",
                "nvidia.com/mig.strategy": "mixed",
            },
            False,
        ),
        ({"cloud.google.com/gke-gpu-partition-size": ""}, True),
    ],
)
def test_slices_are_offered_by_name_under_strategy_mixed_or_none_said(
    labels: dict[str, str], mixed: bool
) -> None:
    assert is_mixed(labels) is mixed


def test_a_node_under_strategy_single_offers_no_slices_but_keeps_its_gpus() -> None:
    found = built({"nvidia.com/mig.strategy": "single"})
    assert found.offers == {}
    assert found.gpus == {GPU: 2, mig("2g.20gb"): 3}


@pytest.mark.parametrize("state", ["pending", "rebooting"])
def test_a_node_whose_layout_is_being_changed_offers_no_slices(state: str) -> None:
    found = built({"nvidia.com/mig.config.state": state})
    assert found.reconfiguring
    assert found.offers == {}


@pytest.mark.parametrize("state", ["success", "failed", None])
def test_a_node_whose_layout_is_settled_offers_its_slices(state: str | None) -> None:
    found = built({"nvidia.com/mig.config.state": state})
    assert not is_reconfiguring(found.labels)
    assert set(found.offers) == {mig("2g.20gb")}


def test_what_is_not_allocatable_is_not_offered() -> None:
    assert built(gpus={GPU: 0, mig("2g.20gb"): 0, mig("1g.10gb"): 1}).gpus == {mig("1g.10gb"): 1}
    assert built(gpus={mig("2g.20gb"): 0}).offers == {}


@pytest.mark.parametrize("label", POOL_LABELS)
def test_a_node_of_a_group_that_can_grow_is_autoscaled(label: str) -> None:
    assert built({label: "gpus"}).autoscaled


def test_a_node_of_no_group_is_not_autoscaled() -> None:
    assert not built().autoscaled


@pytest.mark.parametrize(
    ("label", "count"), [("8", 8), ("0", 1), (None, 1), ("many", 1), ("-1", 1)]
)
def test_a_node_counts_its_cards_and_without_a_word_has_one(label: str | None, count: int) -> None:
    assert built({"nvidia.com/gpu.count": label}).gpu_count == count


# --- usable memory -------------------------------------------------------------------------------


def usable(label: str | None, product: str = A100, profile: str = "2g.20gb") -> int | None:
    labels = {} if label is None else {memory_label(mig(profile)): label}
    return usable_mib(mig(profile), labels, product_of(product), {})


def test_the_label_of_a_node_comes_before_the_catalogue() -> None:
    assert usable("19456") == 19456


def test_without_a_label_the_catalogue_gives_the_least_value_it_knows_of() -> None:
    assert usable(None) == 19968
    assert usable(None, profile="7g.80gb") == 80384  # drivers differ: 80384 to 81152


@pytest.mark.parametrize("label", ["0", "-1", "unknown", "", "19968Mi", "19968.0"])
def test_a_label_that_is_no_count_of_mib_leaves_the_memory_unknown(label: str) -> None:
    assert usable(label) is None


@pytest.mark.parametrize(
    ("label", "known"), [("16972", False), ("16973", True), ("22963", True), ("22964", False)]
)
def test_a_label_more_than_15_percent_off_a_confirmed_value_is_not_believed(
    label: str, known: bool
) -> None:
    assert usable(label) == (int(label) if known else None)


def test_a_value_the_catalogue_cannot_confirm_doubts_no_label_and_stands_in_for_none() -> None:
    assert usable("1000", B200, "3g.90gb") == 1000
    assert usable(None, B200, "3g.90gb") is None


@pytest.mark.parametrize(
    ("product", "profile"),
    [
        pytest.param(product, profile, id=f"{name}-{profile.name}")
        for name, product in PRODUCTS.items()
        for profile in product.profiles
    ],
)
def test_only_confirmed_rows_stand_in_for_a_label_and_doubt_one(
    product: Product, profile: Profile
) -> None:
    def memory(label: int | None) -> int | None:
        labels = {} if label is None else {memory_label(profile.resource): str(label)}
        return usable_mib(profile.resource, labels, product, {})

    if profile.memory_mib is None:
        assert memory(None) is None
        assert [memory(1), memory(10**6)] == [1, 10**6]
        return
    reported = [profile.memory_mib, *profile.memory_mib_elsewhere]
    assert memory(None) == min(reported)
    assert [memory(mib) for mib in reported] == reported
    assert [memory(1), memory(10**6)] == [None, None]


def test_a_label_is_believed_on_a_product_nobody_knows() -> None:
    assert usable("5000", "NVIDIA-Z999") == 5000
    assert usable(None, "NVIDIA-Z999") is None


@pytest.mark.parametrize("label", ["19968", "0", None])
def test_the_word_of_the_admin_stands_above_label_and_catalogue(label: str | None) -> None:
    labels = {"nvidia.com/gpu.product": A100}
    if label is not None:
        labels[memory_label(mig("2g.20gb"))] = label
    said = {A100: {"2g.20gb": 18000}}
    assert usable_mib(mig("2g.20gb"), labels, product_of(A100), said) == 18000
    assert usable_mib(mig("2g.20gb"), labels, product_of(A100), {B200: said[A100]}) != 18000


# --- what is said of a slice ---------------------------------------------------------------------


def test_bandwidth_is_the_share_of_memory_slices_not_of_compute_slices() -> None:
    gpus = {mig(name): 1 for name in ("1g.10gb", "3g.40gb", "4g.40gb", "7g.80gb")}
    offers = built(gpus=gpus).offers
    shares = {o.profile: o.bandwidth_bytes_s for o in offers.values()}
    whole = 1935 * GB
    assert shares == {
        "1g.10gb": whole // 8,
        "3g.40gb": whole // 2,
        "4g.40gb": whole // 2,
        "7g.80gb": whole,
    }


def test_the_same_name_is_another_slice_on_another_product() -> None:
    h200 = built(product="NVIDIA-H200", gpus={mig("1g.35gb"): 1}).offers[mig("1g.35gb")]
    gb300 = built(product="NVIDIA-GB300", gpus={mig("1g.35gb"): 1}).offers[mig("1g.35gb")]
    assert (h200.memory_slices, gb300.memory_slices) == (2, 1)


@pytest.mark.parametrize(
    ("profile", "special"),
    [("1g.10gb", False), ("1g.10gb+me", True), ("1g.24gb-me", True), ("9g.99gb+gfx", True)],
)
def test_a_profile_with_extensions_is_special_known_or_not(profile: str, special: bool) -> None:
    assert built(gpus={mig(profile): 1}).offers[mig(profile)].special is special


def test_a_slice_of_an_unknown_product_says_what_its_name_says() -> None:
    offer = built(product="NVIDIA-Z999", gpus={mig("3g.40gb"): 1}).offers[mig("3g.40gb")]
    assert (offer.compute_slices, offer.bandwidth_bytes_s, offer.usable_mib) == (3, None, None)


@pytest.mark.parametrize(
    ("labels", "shared"),
    [
        ({}, False),
        ({"replicas": "1"}, False),
        ({"replicas": "2"}, True),
        ({"replicas": "some"}, False),
        ({"sharing-strategy": "none"}, False),
        ({"sharing-strategy": "time-slicing"}, True),
        ({"sharing-strategy": "mps"}, True),
    ],
)
def test_a_slice_is_shared_when_the_labels_of_its_own_name_say_so(
    labels: dict[str, str], shared: bool
) -> None:
    resource = mig("2g.20gb")
    said = {f"{resource}.{key}": value for key, value in labels.items()}
    assert offer_of(resource, said, product_of(A100), {}).shared is shared


def test_the_labels_of_whole_gpus_do_not_make_a_slice_shared() -> None:
    labels = {"nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.sharing-strategy": "time-slicing"}
    assert not built(labels).offers[mig("2g.20gb")].shared


def test_a_resource_renamed_for_sharing_is_shared() -> None:
    resource = f"{mig('2g.20gb')}.shared"
    assert built(gpus={resource: 6}).offers[resource].shared


@pytest.mark.parametrize(
    ("label", "word", "labelled"),
    [
        ("19968", None, True),
        (None, None, False),
        ("0", None, False),
        ("19968", 18000, True),
        ("19968", 20500, False),
        ("0", 18000, False),
        (None, 18000, False),
    ],
)
def test_a_slice_is_labelled_when_its_label_stands_for_what_we_count_on(
    label: str | None, word: int | None, labelled: bool
) -> None:
    resource = mig("2g.20gb")
    labels = {"nvidia.com/gpu.product": A100}
    if label is not None:
        labels[memory_label(resource)] = label
    overrides = {} if word is None else {A100: {"2g.20gb": word}}
    assert offer_of(resource, labels, product_of(A100), overrides).labelled is labelled
