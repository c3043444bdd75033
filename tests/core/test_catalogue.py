import json
from collections import Counter
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.core.catalogue import (
    ALL_RESOURCES,
    MIG_PREFIX,
    PRODUCTS,
    Layout,
    Product,
    Profile,
    describe,
    is_mig_resource,
    layouts,
    lookup,
    maximal,
    place,
    product_of,
    profile_name,
    resource_name,
    shape,
)

EVERY = [pytest.param(product, id=name) for name, product in PRODUCTS.items()]
COMPLETE = [
    pytest.param(product, id=name)
    for name, product in PRODUCTS.items()
    if name != "GB200-189GB"  # only the names of its large profiles are known
]
ROWS = [(product, profile) for product in PRODUCTS.values() for profile in product.profiles]


def multiset(layout: Layout) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(layout.counts.items()))


def assert_legal(product: Product, layout: Layout) -> None:
    taken: list[int] = []
    compute = 0
    media = 0
    for name, start in layout.placements:
        profile = product.profile(name)
        assert profile is not None
        assert start in profile.starts
        taken += range(start, start + profile.memory_slices)
        compute += profile.compute_slices
        media += "+me" in name
    assert len(taken) == len(set(taken))
    assert all(0 <= memory_slice < product.memory_slices for memory_slice in taken)
    assert compute <= product.compute_slices
    assert media <= 1


@cache
def enumerated(product: Product) -> frozenset[tuple[tuple[str, int], ...]]:
    """Multisets of plain profiles that fit, found slice by slice: shares nothing with the code."""
    plain = [p for p in product.profiles if not p.special]
    found: set[tuple[tuple[str, int], ...]] = set()

    def walk(memory_slice: int, compute: int, chosen: tuple[str, ...]) -> None:
        found.add(tuple(sorted(Counter(chosen).items())))
        if memory_slice >= product.memory_slices:
            return
        walk(memory_slice + 1, compute, chosen)
        for p in plain:
            if memory_slice in p.starts and compute + p.compute_slices <= product.compute_slices:
                after = memory_slice + p.memory_slices
                walk(after, compute + p.compute_slices, (*chosen, p.name))

    walk(0, 0, ())
    return frozenset(found)


# Profiles and their data


@pytest.mark.parametrize(("product", "profile"), ROWS)
def test_each_profile_fits_its_product(product: Product, profile: Profile) -> None:
    named = shape(profile.name)
    assert named is not None
    assert named.compute_slices == profile.compute_slices
    assert named.suffix == profile.suffix
    assert profile.special == bool(named.suffix)
    assert 1 <= profile.compute_slices <= product.compute_slices
    assert 1 <= profile.memory_slices <= product.memory_slices
    assert profile.starts
    for start in profile.starts:
        assert 0 <= start <= product.memory_slices - profile.memory_slices


@pytest.mark.parametrize(("product", "profile"), ROWS)
def test_max_count_can_be_reached_and_not_exceeded(product: Product, profile: Profile) -> None:
    most = place(product, {profile.name: profile.max_count})
    assert most is not None
    assert_legal(product, most)
    assert place(product, {profile.name: profile.max_count + 1}) is None


@pytest.mark.parametrize(("product", "profile"), ROWS)
def test_only_confirmed_rows_carry_memory(product: Product, profile: Profile) -> None:
    assert profile.confirmed == (profile.memory_mib is not None)
    if profile.memory_mib is None:
        assert profile.fallback_mib is None
        return
    # A name's GB are eighths (or quarters) of the card rounded up: never less than what is usable.
    share = product.nominal_gb * 1024 * profile.memory_slices / product.memory_slices
    for mib in (profile.memory_mib, *profile.memory_mib_elsewhere):
        assert 0.85 * share < mib <= share
        assert profile.fallback_mib is not None
        assert profile.fallback_mib <= mib


@pytest.mark.parametrize(
    ("product", "profile", "mib"),
    [
        ("A30-24GB", "1g.6gb", 5952),
        ("A100-40GB", "3g.20gb", 19968),
        ("A100-80GB", "1g.10gb", 9728),
        ("A100-80GB", "2g.20gb", 19968),
        ("A100-80GB", "3g.40gb", 40192),
        ("H100-80GB", "1g.10gb", 9984),
        ("H200-141GB", "1g.18gb", 16384),
        ("GH200-144GB", "1g.18gb", 17920),
        ("B200-180GB", "3g.90gb", None),
    ],
)
def test_usable_memory_is_what_nvml_reports_not_what_the_name_says(
    product: str, profile: str, mib: int | None
) -> None:
    found = PRODUCTS[product].profile(profile)
    assert found is not None
    assert found.memory_mib == mib


def test_what_to_count_on_unmeasured_is_the_least_any_driver_gives() -> None:
    found = PRODUCTS["B200-180GB"].profile("1g.23gb")
    assert found is not None
    assert (found.memory_mib, found.fallback_mib) == (22528, 20992)


def test_one_name_means_different_slices_on_different_products() -> None:
    h200 = PRODUCTS["H200-141GB"].profile("1g.35gb")
    gb300 = PRODUCTS["GB300-278GB"].profile("1g.35gb")
    assert h200 is not None
    assert gb300 is not None
    assert (h200.memory_slices, gb300.memory_slices) == (2, 1)


def test_a_profile_the_product_has_not_is_none() -> None:
    assert PRODUCTS["A30-24GB"].profile("1g.10gb") is None


@pytest.mark.parametrize("product", EVERY)
def test_a_card_is_named_by_its_memory_in_gib_rounded_up(product: Product) -> None:
    named = [shape(p.name) for p in product.profiles]
    assert product.nominal_gb == max(found.nominal_gb for found in named if found)
    assert 0.95 * product.nominal_gb * 1024 < product.memory_mib <= product.nominal_gb * 1024


@pytest.mark.parametrize("product", EVERY)
def test_names_are_unique_within_a_product_and_sources_are_given(product: Product) -> None:
    names = [p.name for p in product.profiles]
    assert len(names) == len(set(names))
    assert product.source
    assert product.bandwidth_source
    assert product.family == f"{product.compute_slices}-slice"


# Bandwidth


@pytest.mark.parametrize(
    ("name", "giga"),
    [("A30-24GB", 933), ("A100-40GB", 1555), ("A100-80GB", 1935), ("H200-141GB", 4800)],
)
def test_bandwidth_is_that_of_the_slowest_variant(name: str, giga: int) -> None:
    assert PRODUCTS[name].bandwidth_bytes_s == giga * 10**9


def test_a_slice_has_bandwidth_by_its_memory_slices_not_its_compute_slices() -> None:
    a100 = PRODUCTS["A100-80GB"]
    assert a100.bandwidth_of("3g.40gb") == a100.bandwidth_of("4g.40gb") == 1935 * 10**9 // 2
    assert a100.bandwidth_of("1g.20gb") == a100.bandwidth_of("2g.20gb") == 1935 * 10**9 // 4
    assert a100.bandwidth_of("7g.80gb") == a100.bandwidth_bytes_s
    assert PRODUCTS["A30-24GB"].bandwidth_of("1g.6gb") == 933 * 10**9 // 4


def test_the_bandwidth_of_a_profile_the_product_has_not_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"1g\.5gb"):
        PRODUCTS["A100-80GB"].bandwidth_of("1g.5gb")


# Names


@pytest.mark.parametrize(
    ("profile", "resource"),
    [
        ("1g.10gb", "nvidia.com/mig-1g.10gb"),
        ("1g.10gb+me", "nvidia.com/mig-1g.10gb.me"),
        ("1g.24gb+gfx", "nvidia.com/mig-1g.24gb.gfx"),
        ("1g.24gb+me.all", "nvidia.com/mig-1g.24gb.me.all"),
        ("1g.24gb-me", "nvidia.com/mig-1g.24gb-me"),
    ],
)
def test_profile_and_resource_name_each_other_as_the_device_plugin_does(
    profile: str, resource: str
) -> None:
    assert resource_name(profile) == resource
    assert profile_name(resource) == profile
    assert is_mig_resource(resource)


@pytest.mark.parametrize(("product", "profile"), ROWS)
def test_every_name_round_trips(product: Product, profile: Profile) -> None:
    assert product.profile(profile_name(profile.resource)) is profile
    assert profile.resource in ALL_RESOURCES
    assert len(profile.resource) <= 63


def test_all_resources_are_the_names_of_all_products_sorted() -> None:
    assert list(ALL_RESOURCES) == sorted({profile.resource for _, profile in ROWS})


@pytest.mark.parametrize("name", ["nvidia.com/gpu", "cpu", "nvidia.com/gpu.shared", "mig-1g.10gb"])
def test_other_resources_are_no_mig_resources(name: str) -> None:
    assert not is_mig_resource(name)


@given(
    st.integers(1, 99),
    st.integers(1, 9999),
    st.sampled_from(["", "+me", "+gfx", "-me", "+me.all", "+new"]),
)
def test_a_profile_the_catalogue_does_not_know_is_read_from_its_name(
    compute: int, gb: int, suffix: str
) -> None:
    name = f"{compute}g.{gb}gb{suffix}"
    read = shape(name)
    assert read is not None
    assert (read.compute_slices, read.nominal_gb, read.suffix) == (compute, gb, suffix)
    assert profile_name(resource_name(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        *["", "gpu", "1g", "1g.10", "g.10gb", "0g.10gb", "1g.0gb", "1g.10gb+", "1g.10gbx"],
        *["1c.3g.40gb", "1g.10gb.shared", "1g.10gb+me.shared", "1g.10gb\n", "1G.10GB"],
    ],
)
def test_what_is_no_profile_has_no_shape(name: str) -> None:
    assert shape(name) is None


@pytest.mark.parametrize("resource", ["1g.10gb.shared", "1g.10gb.me.shared"])
def test_a_time_sliced_resource_is_no_profile(resource: str) -> None:
    assert is_mig_resource(MIG_PREFIX + resource)
    assert shape(profile_name(MIG_PREFIX + resource)) is None


# Products by label and memory


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("NVIDIA-A30", "A30-24GB"),
        ("A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA-A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA-A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA-A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA-A100-80GB-PCIe", "A100-80GB"),
        ("NVIDIA-A800-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA-H100-80GB-HBM3", "H100-80GB"),
        ("NVIDIA-H100-SXM5-80GB", "H100-80GB"),
        ("NVIDIA-H100-PCIe", "H100-80GB"),
        ("NVIDIA-H800", "H100-80GB"),
        ("NVIDIA-H100-NVL", "H100-94GB"),
        ("NVIDIA-H20", "H100-96GB-GH200"),
        ("NVIDIA-GH200-120GB", "H100-96GB-GH200"),
        ("NVIDIA-GH200-480GB", "H100-96GB-GH200"),
        ("NVIDIA-GH200-144G-HBM3e", "GH200-144GB"),
        ("NVIDIA-H200", "H200-141GB"),
        ("NVIDIA-H200-NVL", "H200-141GB"),
        ("NVIDIA-B200", "B200-180GB"),
        ("NVIDIA-B300-SXM6-AC", "B300-269GB"),
        ("NVIDIA-GB300", "GB300-278GB"),
        ("NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition", "RTX-PRO-6000-Blackwell-96GB"),
        ("NVIDIA-RTX-PRO-6000-Blackwell-Max-Q-Workstation-Edition", "RTX-PRO-6000-Blackwell-96GB"),
    ],
)
@pytest.mark.parametrize(
    "suffix", ["", "-SHARED", "-MIG-INVALID", "-MIG-1g.10gb", "-MIG-1g.5gb-SHARED"]
)
def test_a_product_is_known_by_its_label(label: str, suffix: str, name: str) -> None:
    assert product_of(label + suffix) is PRODUCTS[name]


@pytest.mark.parametrize(
    ("label", "memory_mib", "name"),
    [
        ("NVIDIA-GB200", 189471, "GB200-186GB"),
        ("NVIDIA-GB200", 192600, "GB200-189GB"),
        ("NVIDIA-H100", 81559, "H100-80GB"),
        ("NVIDIA-H100", 95830, "H100-94GB"),
        ("NVIDIA-H20-3e", 143771, "H200-141GB"),
        ("", 183359, "B200-180GB"),
        ("NVIDIA-B300-of-next-year", 275040, "B300-269GB"),
        ("NVIDIA-GB300", 284208, "GB300-278GB"),
        ("NVIDIA-A30", 24258, "A30-24GB"),
        ("A100-SXM4-40GB", 39538, "A100-40GB"),
        ("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", 9728, "A100-80GB"),
    ],
)
def test_memory_decides_where_the_name_does_not(label: str, memory_mib: int, name: str) -> None:
    assert product_of(label, memory_mib) is PRODUCTS[name]


@pytest.mark.parametrize(
    ("label", "memory_mib"),
    [
        ("", None),
        ("NVIDIA-L40S", 46068),
        ("NVIDIA-GB200", None),
        ("NVIDIA-GB200", 184320),
        ("NVIDIA-GB300-WS", 258048),
        ("NVIDIA-H100", 65247),
        ("NVIDIA-H100-80GB-HBM3", 65247),
        ("unheard-of", 81559),  # A100 and H100
        ("unheard-of", 97871),  # H20, GH200 and RTX PRO 6000
        ("unheard-of", 0),
        ("unheard-of", -1),
        ("NVIDIA-GeForce-RTX-3090", 24576),
        ("NVIDIA-A100-40C", 40960),
        ("unheard-of-MIG-1g.10gb", 40960),
    ],
)
def test_in_doubt_a_product_is_none(label: str, memory_mib: int | None) -> None:
    assert product_of(label, memory_mib) is None


@given(st.text(), st.none() | st.integers())
def test_any_label_is_a_product_or_none(label: str, memory_mib: int | None) -> None:
    assert product_of(label, memory_mib) in {None, *PRODUCTS.values()}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a100-80gb", ["A100-80GB"]),
        ("A100", ["A100-40GB", "A100-80GB"]),
        ("NVIDIA-B200", ["B200-180GB"]),
        ("gb200", ["GB200-186GB", "GB200-189GB"]),
        (" blackwell ", ["RTX-PRO-6000-Blackwell-96GB"]),
        ("voodoo", []),
    ],
)
def test_a_person_finds_products_by_name_label_or_part_of_a_name(
    text: str, names: list[str]
) -> None:
    assert [product.name for product in lookup(text)] == names


@pytest.mark.parametrize("product", EVERY)
def test_a_description_is_what_json_can_hold(product: Product) -> None:
    described = describe(product)
    assert json.loads(json.dumps(described)) == described
    assert described["name"] == product.name
    profiles = described["profiles"]
    assert isinstance(profiles, list)
    assert [row["resource"] for row in profiles] == [p.resource for p in product.profiles]


# Layouts


@pytest.mark.parametrize("product", COMPLETE)
def test_a_7_slice_gpu_has_78_layouts_and_28_maximal_ones(product: Product) -> None:
    expected = (78, 28) if product.compute_slices == 7 else (10, 4)
    assert (len(layouts(product)), len(maximal(product))) == expected


@pytest.mark.parametrize("product", EVERY)
def test_layouts_are_the_sets_that_fit_each_once_the_empty_one_first(product: Product) -> None:
    found = [multiset(layout) for layout in layouts(product)]
    assert found[0] == ()
    assert len(found) == len(set(found))
    assert set(found) == enumerated(product)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("product", EVERY)
def test_every_layout_is_legal_and_sorted_by_slice(product: Product, special: bool) -> None:
    for layout in layouts(product, special=special):
        assert_legal(product, layout)
        starts = [start for _, start in layout.placements]
        assert starts == sorted(starts)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("product", EVERY)
def test_nothing_can_be_added_to_a_maximal_layout_and_something_to_every_other(
    product: Product, special: bool
) -> None:
    full = {multiset(layout) for layout in maximal(product, special=special)}
    for layout in layouts(product, special=special):
        more = [
            place(product, Counter(layout.counts) + Counter([p.name]))
            for p in product.profiles
            if special or not p.special
        ]
        assert (multiset(layout) in full) == all(larger is None for larger in more)


@given(st.data())
def test_profiles_are_placed_exactly_when_they_fit(data: st.DataObject) -> None:
    product = data.draw(st.sampled_from(list(PRODUCTS.values())))
    plain = [p.name for p in product.profiles if not p.special]
    counts = data.draw(st.dictionaries(st.sampled_from(plain), st.integers(0, 4)))
    wanted = tuple(sorted((name, count) for name, count in counts.items() if count))
    layout = place(product, counts)
    assert (layout is not None) == (wanted in enumerated(product))
    if layout is not None:
        assert multiset(layout) == wanted
        assert_legal(product, layout)


@pytest.mark.parametrize(
    ("counts", "fits"),
    [
        ({"3g.40gb": 2}, True),
        ({"4g.40gb": 1, "3g.40gb": 1}, True),
        ({"3g.40gb": 1, "2g.20gb": 2}, True),
        ({"3g.40gb": 1, "2g.20gb": 1, "1g.10gb": 2}, True),
        ({"4g.40gb": 1, "2g.20gb": 1, "1g.20gb": 1}, True),
        ({"3g.40gb": 2, "1g.10gb": 1}, False),
        ({"2g.20gb": 3, "1g.10gb": 2}, False),
        ({"4g.40gb": 1, "2g.20gb": 1, "1g.10gb": 2}, False),
        ({"1g.10gb": 6, "1g.10gb+me": 1}, True),
        ({"1g.10gb": 7, "1g.10gb+me": 1}, False),
        ({"1g.5gb": 1}, False),
        ({"1g.10gb": 10**9}, False),
        ({"1g.5gb": 0}, True),
        ({}, True),
    ],
)
def test_known_layouts_of_an_a100(counts: dict[str, int], fits: bool) -> None:
    assert (place(PRODUCTS["A100-80GB"], counts) is not None) == fits


def test_a_3g_goes_to_the_upper_half_when_two_2g_stand_beside_it() -> None:
    layout = place(PRODUCTS["A100-80GB"], {"2g.20gb": 2, "3g.40gb": 1})
    assert layout == Layout((("2g.20gb", 0), ("2g.20gb", 2), ("3g.40gb", 4)))


def test_media_extensions_are_given_once_per_gpu() -> None:
    assert place(PRODUCTS["A30-24GB"], {"1g.6gb+me": 1, "2g.12gb+me": 1}) is None
    assert place(PRODUCTS["A30-24GB"], {"1g.6gb+me": 1, "2g.12gb": 1}) is not None


def test_all_media_engines_leave_room_only_for_instances_without_any() -> None:
    rtx = PRODUCTS["RTX-PRO-6000-Blackwell-96GB"]
    assert place(rtx, {"1g.24gb+me.all": 1, "1g.24gb-me": 3}) is not None
    assert place(rtx, {"1g.24gb+me.all": 1, "1g.24gb": 1}) is None
    assert place(rtx, {"1g.24gb+me.all": 1, "1g.24gb+me": 1}) is None


def test_a_negative_count_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"-1 of 1g\.10gb"):
        place(PRODUCTS["A100-80GB"], {"1g.10gb": -1})


def test_a_name_longer_than_any_resource_may_have_is_no_slice() -> None:
    assert is_mig_resource("nvidia.com/mig-" + "1" * 59)
    assert not is_mig_resource("nvidia.com/mig-" + "1" * 60)
