"""NVIDIA's MIG products: profiles, placements, usable memory, bandwidth, and names both ways.

The data, with its sources, is `catalogue.json`. What a node reports of itself always comes first:
usable memory differs between drivers and boards, so the figures here are only a fallback.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

MIG_PREFIX = "nvidia.com/mig-"
_LONGEST_NAME = len("nvidia.com/") + 63
"""Of a resource, in Kubernetes (`IsQualifiedName`)."""

_PROFILE = re.compile(
    r"([1-9][0-9]?)g\.([1-9][0-9]{0,3})gb((?!.*\.shared$)(?:[+-][a-z]+(?:\.[a-z]+)*)?)"
)
_VGPU = re.compile(r"-[0-9]+[ABCQ]$")
_DESCRIBED = (
    "name", "family", "compute_slices", "memory_slices", "nominal_gb", "memory_mib",
    "bandwidth_bytes_s", "bandwidth_confirmed", "bandwidth_source", "source", "notes",
)  # fmt: skip
_DESCRIBED_PROFILE = (
    "name", "resource", "special", "compute_slices", "memory_slices", "memory_mib", "fallback_mib",
    "max_count", "multiprocessors", "gi_profile_id", "confirmed", "placements_confirmed",
)  # fmt: skip
_OFF_BY_PERCENT = 10
"""How far a memory label may be from the size in a product's name: drivers and ECC take some."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a profile's name says: its GB are rounded up and no measure of usable memory."""

    compute_slices: int
    nominal_gb: int
    suffix: str
    """`+me`, `+gfx`, `-me` …; empty for a plain profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One MIG profile of one product. The same name means other slices on another product."""

    name: str
    """As NVML spells it: `1g.10gb+me`."""
    compute_slices: int
    memory_slices: int
    memory_mib: int | None
    """Usable MiB on the drivers seen most; None where no source confirms it."""
    memory_mib_elsewhere: tuple[int, ...]
    """What other drivers or boards report under this name."""
    starts: tuple[int, ...]
    """The memory slice at which each legal placement begins."""
    max_count: int
    multiprocessors: int | None
    gi_profile_id: int | None
    confirmed: bool
    """Whether a source shows this row on silicon. If not, its memory is None."""
    placements_confirmed: bool

    @property
    def resource(self) -> str:
        """The MIG resource of this profile: `nvidia.com/mig-1g.10gb.me`."""
        return resource_name(self.name)

    @property
    def suffix(self) -> str:
        """`+me`, `+gfx`, `-me` …; empty for a plain profile."""
        return self.name.partition("gb")[2]

    @property
    def special(self) -> bool:
        """Whether it takes or forgoes engines that plain profiles share; only on request."""
        return self.suffix != ""

    @property
    def fallback_mib(self) -> int | None:
        """The least usable MiB any confirmed source gives: what to count on unmeasured."""
        if self.memory_mib is None:
            return None
        return min((self.memory_mib, *self.memory_mib_elsewhere))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Product:
    """One GPU product, or several boards that partition alike."""

    name: str
    family: str
    """`7-slice` or `4-slice`."""
    compute_slices: int
    memory_slices: int
    nominal_gb: int
    """Memory of the whole card in GiB, rounded up, as in the name of its largest profile."""
    bandwidth_bytes_s: int
    """Memory bandwidth of the whole card, the least of its variants."""
    bandwidth_confirmed: bool
    bandwidth_source: str
    profiles: tuple[Profile, ...]
    labels: tuple[str, ...]
    """Patterns of `nvidia.com/gpu.product`, without NVIDIA-."""
    by_memory: bool
    """Whether the memory size alone tells this product from GPUs without MIG."""
    pci_device_ids: tuple[str, ...]
    source: str
    notes: str

    @property
    def memory_mib(self) -> int:
        """Memory of the whole card: of the profile that takes it all, else what the name says."""
        whole = (p.memory_mib for p in self.profiles if p.memory_slices == self.memory_slices)
        return next((mib for mib in whole if mib is not None), self.nominal_gb * 1024)

    def profile(self, name: str) -> Profile | None:
        """The profile of that NVML name; None if this product has none."""
        return next((p for p in self.profiles if p.name == name), None)

    def bandwidth_of(self, profile: str) -> int:
        """Bytes per second of a slice: its share of memory slices, not of compute slices.

        MIG user guide, Concepts: a memory slice is a fixed part of capacity and bandwidth both.

        Raises:
            KeyError: this product has no profile of that name.
        """
        found = self.profile(profile)
        if found is None:
            raise KeyError(profile)
        return self.bandwidth_bytes_s * found.memory_slices // self.memory_slices


@dataclass(frozen=True, slots=True)
class Layout:
    """Profiles and where they sit on one GPU: (profile name, first memory slice), by slice."""

    placements: tuple[tuple[str, int], ...]

    @property
    def counts(self) -> dict[str, int]:
        """Profile name -> how many."""
        return dict(Counter(name for name, _ in self.placements))


def resource_name(profile: str) -> str:
    """The MIG resource that the device plugin advertises: `1g.10gb+me` -> `….1g.10gb.me`."""
    return MIG_PREFIX + profile.replace("+", ".")


@lru_cache(maxsize=1024)
def profile_name(resource: str) -> str:
    """The NVML name behind a MIG resource, the inverse of `resource_name`.

    A time-sliced slice (`….shared`) keeps that ending; no profile is called so, and `shape` says so.
    """
    name, gb, suffix = resource.removeprefix(MIG_PREFIX).partition("gb")
    if suffix.startswith(".") and suffix != ".shared":
        suffix = "+" + suffix[1:]
    return name + gb + suffix


def is_mig_resource(name: str) -> bool:
    """Whether a resource is a MIG slice under strategy `mixed`, of a known profile or not.

    A name that is longer than the API server lets any be is none: nobody has checked what comes to us.
    """
    return name.startswith(MIG_PREFIX) and len(name) <= _LONGEST_NAME


@lru_cache(maxsize=1024)
def shape(profile: str) -> Shape | None:
    """What the name of a profile says, also of one the catalogue does not know."""
    match = _PROFILE.fullmatch(profile)
    return Shape(int(match[1]), int(match[2]), match[3]) if match else None


@lru_cache(maxsize=1024)
def product_of(label: str, memory_mib: int | None = None) -> Product | None:
    """The product behind a node's `nvidia.com/gpu.product`, or behind a name that NVML gives.

    `memory_mib` is `nvidia.com/gpu.memory`. It decides where products share a name (`NVIDIA-GB200`)
    and stands in for a name we do not know. None rather than a guess: in doubt, for vGPUs, and
    where name and memory contradict each other.
    """
    plain, of_a_slice = _plain(label)
    named = _named(plain)
    if of_a_slice or not memory_mib:
        return named[0] if len(named) == 1 else None
    if len(named) == 1:
        off_mib = abs(memory_mib - named[0].nominal_gb * 1024)
        return named[0] if off_mib * 100 <= named[0].nominal_gb * 1024 * _OFF_BY_PERCENT else None
    if _VGPU.search(plain):
        return None
    # go-nvlib names the largest profile by the card's memory in GiB, rounded up.
    gb = -(-memory_mib // 1024)
    sized = [p for p in named or PRODUCTS.values() if p.nominal_gb == gb]
    return sized[0] if len(sized) == 1 and (named or sized[0].by_memory) else None


def lookup(text: str) -> tuple[Product, ...]:
    """Products for what a person types: a catalogue name, a node's label, or a part of a name."""
    wanted = text.strip().casefold()
    exact = tuple(p for p in PRODUCTS.values() if p.name.casefold() == wanted)
    labelled = tuple(_named(_plain(text)[0]))
    return exact or labelled or tuple(p for p in PRODUCTS.values() if wanted in p.name.casefold())


def describe(product: Product) -> dict[str, object]:
    """A product as JSON would hold it, with what follows from the data: names, bandwidth shares."""
    return {
        **{name: getattr(product, name) for name in _DESCRIBED},
        "labels": list(product.labels),
        "pci_device_ids": list(product.pci_device_ids),
        "profiles": [
            {
                **{name: getattr(profile, name) for name in _DESCRIBED_PROFILE},
                "starts": list(profile.starts),
                "memory_mib_elsewhere": list(profile.memory_mib_elsewhere),
                "bandwidth_bytes_s": product.bandwidth_of(profile.name),
            }
            for profile in product.profiles
        ],
    }


@lru_cache(maxsize=64)
def layouts(product: Product, *, special: bool = False) -> tuple[Layout, ...]:
    """Every set of profiles one GPU can hold, the empty one first, each with one placement of it.

    Without `special`, plain profiles only: 78 layouts on a 7-slice GPU.
    """
    profiles = [p for p in product.profiles if special or not p.special]
    found: list[Layout] = []

    def extend(chosen: tuple[Profile, ...], first: int) -> None:
        layout = _place(product, chosen)
        if layout is None:
            return  # a set that does not fit does not fit with more in it either
        found.append(layout)
        for index in range(first, len(profiles)):
            extend((*chosen, profiles[index]), index)

    extend((), 0)
    return tuple(found)


@lru_cache(maxsize=64)
def maximal(product: Product, *, special: bool = False) -> tuple[Layout, ...]:
    """The layouts to which no profile can be added, wherever its slices are put."""
    every = layouts(product, special=special)
    known = {_key(layout.counts) for layout in every}
    names = [p.name for p in product.profiles]

    def full(layout: Layout) -> bool:
        return all(_key(Counter(layout.counts) + Counter([name])) not in known for name in names)

    return tuple(layout for layout in every if full(layout))


def place(product: Product, counts: Mapping[str, int]) -> Layout | None:
    """Where these profiles can sit together on one GPU; None where they cannot.

    Raises:
        ValueError: a negative count.
    """
    chosen: list[Profile] = []
    for name, count in counts.items():
        profile = product.profile(name)
        if count < 0:
            raise ValueError(f"{count} of {name}: a layout holds none or more of a profile")
        if count and (profile is None or count > profile.max_count):
            return None
        if profile is not None:
            chosen += [profile] * count
    return _place(product, tuple(chosen))


def _place(product: Product, profiles: tuple[Profile, ...]) -> Layout | None:
    """A legal placement, large profiles first and from the highest slice down.

    That keeps what is free in one piece at the low end, where 4g and 7g must start; NVML too puts
    a 3g at slice 4 first.
    """
    if sum(p.compute_slices for p in profiles) > product.compute_slices:
        return None
    if any(n > p.max_count for p, n in Counter(profiles).items()) or not _engines_suffice(profiles):
        return None
    ordered = sorted(profiles, key=lambda p: (-p.memory_slices, -p.compute_slices))

    def fit(index: int, taken: int) -> tuple[tuple[str, int], ...] | None:
        if index == len(ordered):
            return ()
        profile = ordered[index]
        for start in reversed(profile.starts):
            slices = (1 << profile.memory_slices) - 1 << start
            if not slices & taken:
                rest = fit(index + 1, taken | slices)
                if rest is not None:
                    return ((profile.name, start), *rest)
        return None

    placed = fit(0, 0)
    return None if placed is None else Layout(tuple(sorted(placed, key=lambda at: at[1])))


def _engines_suffice(profiles: Iterable[Profile]) -> bool:
    """One instance at most has media extensions; `+me.all` leaves engines only for `-me` ones.

    MIG user guide, Supported MIG Profiles, hardware units: a card has one OFA, `+me.all` takes all
    decoders and encoders, and plain profiles of the same product need one each.
    """
    suffixes = [p.suffix for p in profiles]
    extended = [s for s in suffixes if s.startswith("+me")]
    if "+me.all" in extended:
        return suffixes.count("-me") == len(suffixes) - 1
    return len(extended) <= 1


def _key(counts: Mapping[str, int]) -> frozenset[tuple[str, int]]:
    return frozenset(counts.items())


def _plain(label: str) -> tuple[str, bool]:
    """A product label without its additions, and whether it described a slice of that product."""
    name, mig, _ = "-".join(label.split()).removesuffix("-SHARED").partition("-MIG-")
    return name, bool(mig)


def _named(plain: str) -> list[Product]:
    return [p for p in PRODUCTS.values() if _PATTERNS[p.name].fullmatch(plain)]


def _load() -> Mapping[str, Product]:
    """The data of this package: the one file that `core` reads, once, at import."""
    text = files(__package__).joinpath("catalogue.json").read_text(encoding="utf-8")
    products = json.loads(text)["products"]
    return MappingProxyType({name: _product(name, row) for name, row in products.items()})


def _product(name: str, row: dict[str, Any]) -> Product:
    return Product(
        name=name,
        family=row["family"],
        compute_slices=row["compute_slices"],
        memory_slices=row["memory_slices"],
        nominal_gb=row["nominal_gb"],
        bandwidth_bytes_s=row["bandwidth_gb_s"] * 10**9,
        bandwidth_confirmed=row["bandwidth_confirmed"],
        bandwidth_source=row["bandwidth_source"],
        profiles=tuple(_profile(profile) for profile in row["profiles"]),
        labels=tuple(row["labels"]),
        by_memory=row["by_memory"],
        pci_device_ids=tuple(row["pci_device_ids"]),
        source=row["source"],
        notes=row["notes"],
    )


def _profile(row: dict[str, Any]) -> Profile:
    return Profile(
        name=row["name"],
        compute_slices=row["compute"],
        memory_slices=row["memory"],
        memory_mib=row["mib"],
        memory_mib_elsewhere=tuple(row.get("mib_elsewhere", ())),
        starts=tuple(row["starts"]),
        max_count=row["max"],
        multiprocessors=row["sms"],
        gi_profile_id=row["id"],
        confirmed=row["confirmed"],
        placements_confirmed=row["placements_confirmed"],
    )


PRODUCTS: Mapping[str, Product] = _load()
"""Every product by its catalogue name, such as `A100-80GB`."""

ALL_RESOURCES: tuple[str, ...] = tuple(
    sorted({profile.resource for product in PRODUCTS.values() for profile in product.profiles})
)
"""The name of every MIG resource that any product can have."""

_PATTERNS = {
    product.name: re.compile(
        "(?:NVIDIA-)?(?:" + "|".join(translate(label) for label in product.labels) + ")",
        re.IGNORECASE,
    )
    for product in PRODUCTS.values()
}
