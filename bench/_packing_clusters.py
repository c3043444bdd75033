"""Invented clusters for the packing benchmark: what is cut out of which GPU, and the load on it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

from extender.cluster.objects import NodeObject
from extender.cluster.reading import read_node
from extender.core.catalogue import PRODUCTS
from extender.core.node import Node
from extender.core.policy import Policy
from extender.demo.hardware import (
    WHOLE,
    Gpu,
    allocatable,
    cut,
    node_object,
    product_label,
)

Layout = tuple[str, ...]
"""Profiles of one GPU, in eighths of its memory: `("1g", "1g", "2g", "3g")`; `("whole",)`."""

BALANCED: Layout = ("1g", "1g", "2g", "3g")
ALL_1G: Layout = ("1g",) * 7
ALL_2G: Layout = ("2g", "2g", "2g", "1g")
ALL_3G: Layout = ("3g", "3g")
ONE_7G: Layout = ("7g",)
CARD: Layout = (WHOLE,)
CUTS = (BALANCED, ALL_1G, ALL_2G, ALL_3G)

SPELLED: Mapping[str, Mapping[str, str]] = {
    "A100-40GB": {"1g": "1g.5gb", "2g": "2g.10gb", "3g": "3g.20gb"},
    "A100-80GB": {"1g": "1g.10gb", "2g": "2g.20gb", "3g": "3g.40gb", "7g": "7g.80gb"},
    "H100-80GB": {"1g": "1g.10gb", "2g": "2g.20gb", "3g": "3g.40gb"},
}


@dataclass(frozen=True, slots=True)
class Machine:
    """One node: its GPUs and its cores."""

    product: str
    layouts: tuple[Layout, ...]
    cores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A cluster and what comes to it. Lifetimes have mean 1; load is a share of the slices."""

    name: str
    machines: tuple[Machine, ...]
    load: float
    cpu: str = "random"
    """Cores of a GPU pod: `random` of 1, 2, 4 and 8; `prop`ortional to its slice; `anti`."""
    whole_cores: int = 0
    """Cores of a pod with a whole GPU; 0: as the others."""
    demand: tuple[float, ...] = ()
    """By how much more of each kind comes than the load says, smallest kind first; none: as it says."""
    churn: float = 0.0
    """Pods without GPUs, in shares of all cores."""
    resident: float = 0.0
    """Every node has a fixed cpu load, uniform from 0 to this share of its cores."""
    arrivals: str = "poisson"
    """`poisson`; `bursts` of ten on average; `diurnal`."""
    lifetimes: str = "exponential"
    """`exponential` or `heavy` (log-normal, sigma 1.8)."""
    horizon: float = 60.0
    warm_up: float = 12.0
    minimum: bool = False
    """Part of the smaller set."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a pod can ask for: a profile, or a whole GPU."""

    resource: str
    memory_slices: int
    total: int
    """In the whole cluster."""


@dataclass(frozen=True, slots=True)
class Place:
    """One node as the simulator sees it."""

    name: str
    cores: int
    gpus: tuple[tuple[int, ...], ...]
    """For each GPU how many slices of each kind it has."""
    capacity: tuple[int, ...]
    """Of each kind in total."""
    node: Node = field(repr=False)
    """The same node as the production code reads it from the API."""
    manifest: Mapping[str, Any] = field(repr=False)
    """The same node in the API."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Kinds and nodes of a scenario."""

    kinds: tuple[Kind, ...]
    places: tuple[Place, ...]

    @property
    def gpus(self) -> int:
        return sum(len(place.gpus) for place in self.places)


def _hardware(machine: Machine, node: str) -> list[Gpu]:
    product = PRODUCTS[machine.product]
    spelled = SPELLED[machine.product]
    return [
        cut(node, index, product, WHOLE if layout == CARD else [spelled[p] for p in layout])
        for index, layout in enumerate(machine.layouts)
    ]


def _slices_of(gpu: Gpu) -> dict[str, int]:
    return allocatable([gpu])


@lru_cache(maxsize=4)
def build(scenario: Scenario, names: tuple[int, ...]) -> Cluster:
    """The cluster, its nodes called by these numbers: a name decides between equals."""
    hardware = [
        _hardware(machine, f"node-{number:03}")
        for machine, number in zip(scenario.machines, names, strict=True)
    ]
    totals = Counter[str]()
    slots: dict[str, int] = {}
    for gpus in hardware:
        totals.update(allocatable(gpus))
        slots |= {piece.resource: piece.slices for gpu in gpus for piece in gpu.pieces}
    kinds = tuple(Kind(name, slots[name], totals[name]) for name in sorted(totals))
    places = []
    for machine, gpus in zip(scenario.machines, hardware, strict=True):
        tree = node_object(
            gpus[0].node,
            gpus,
            product_label(machine.product),
            plain={"cpu": str(machine.cores), "memory": "2Ti", "pods": "1000"},
            labels={},
        )
        held = [tuple(_slices_of(gpu).get(kind.resource, 0) for kind in kinds) for gpu in gpus]
        places.append(
            Place(
                gpus[0].node,
                machine.cores,
                tuple(held),
                tuple(map(sum, zip(*held, strict=True))),
                read_node(msgspec.convert(tree, NodeObject), Policy()),
                tree,
            )
        )
    return Cluster(kinds, tuple(places))
