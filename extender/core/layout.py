"""How the slices of a node are spread over its GPUs, as far as its totals tell.

Labels and allocatable say how many GPUs a node has and how many slices of each profile, never which
GPU holds what. Often that is enough: mig-manager cuts all GPUs of a node alike, and people cut a GPU
either full or into one profile as often as it goes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from extender.core.catalogue import (
    Product,
    is_mig_resource,
    maximal,
    place,
    profile_name,
    resource_name,
)

MOST_STEPS = 512
"""How long to look for a way to split the slices of one node: 5 ms at the worst, once per totals."""


@dataclass(frozen=True, slots=True)
class Cut:
    """GPUs of one node that are cut alike; a whole GPU is one that holds one unit of its resource."""

    gpus: int
    slices: tuple[tuple[str, int], ...]
    """(GPU or MIG resource, how many of it each of these GPUs holds), by name."""


NodeLayout = tuple[Cut, ...]
"""Every GPU of one node with at least one slice."""


def node_layout(
    product: Product | None, allocatable: Mapping[str, int], gpus: int, shares: int = 1
) -> NodeLayout | None:
    """The layout that a node's totals allow; None where they allow none or several.

    Args:
        product: of the node's GPUs; without it slices cannot be told apart.
        allocatable: GPU and MIG resource -> how many the node has.
        gpus: cards in the node, partitioned or not (`nvidia.com/gpu.count`).
        shares: units of the GPU resource that one whole card gives (`nvidia.com/gpu.replicas`).
    """
    return _layout(product, tuple(sorted(allocatable.items())), gpus, shares)


@lru_cache(maxsize=4096)
def _layout(
    product: Product | None, allocatable: tuple[tuple[str, int], ...], gpus: int, shares: int
) -> NodeLayout | None:
    slices = {name: count for name, count in allocatable if is_mig_resource(name) and count > 0}
    whole = [(name, n) for name, n in allocatable if not is_mig_resource(name) and n > 0]
    found: list[Cut] = []
    for resource, count in whole:
        cards, odd = divmod(count, max(1, shares))
        if odd:
            return None
        found.append(Cut(cards, ((resource, max(1, shares)),)))
        gpus -= cards
    if slices:
        cut = None if product is None or gpus <= 0 else _split(product, slices, gpus)
        return None if cut is None else (*found, *cut)
    return tuple(found) if found and gpus >= 0 else None


def _split(product: Product, slices: Mapping[str, int], gpus: int) -> NodeLayout | None:
    """All GPUs alike if that is possible, else the only way to cut them as people do."""
    alike = {resource: count // gpus for resource, count in slices.items()}
    if all(count % gpus == 0 for count in slices.values()) and _legal(product, alike):
        return (Cut(gpus, tuple(alike.items())),)
    ways = _ways(_customary(product, tuple(slices)), tuple(slices.values()), gpus)
    if len(ways) != 1:
        return None
    return tuple(
        Cut(number, tuple((name, n) for name, n in zip(slices, cut, strict=True) if n))
        for cut, number in ways[0].items()
    )


def _legal(product: Product, counts: Mapping[str, int]) -> bool:
    named = {profile_name(resource): count for resource, count in counts.items()}
    return place(product, named) is not None


def _customary(product: Product, resources: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Cuts of one GPU into these resources only, as counts in their order: full, or of one profile."""
    counted = [
        {resource_name(profile): count for profile, count in layout.counts.items()}
        for layout in maximal(product)
    ]
    counted += [{p.resource: p.max_count} for p in product.profiles]
    mine = set(resources)
    cuts = {tuple(c.get(name, 0) for name in resources) for c in counted if c.keys() <= mine}
    return sorted(cuts, reverse=True)


def _ways(
    cuts: list[tuple[int, ...]], totals: tuple[int, ...], gpus: int
) -> list[dict[tuple[int, ...], int]]:
    """Up to two ways to make the totals out of so many cuts; none if that takes too long to say."""
    found: list[dict[tuple[int, ...], int]] = []
    steps = 0
    most = [
        tuple(map(max, zip(*cuts[first:], strict=True))) for first in range(len(cuts))
    ]  # of each profile on one GPU, if only these cuts are left

    def extend(first: int, left: tuple[int, ...], gpus: int, chosen: tuple[int, ...]) -> bool:
        """Whether to go on looking."""
        nonlocal steps
        steps += 1
        if gpus == 0:
            if not any(left):
                found.append({cuts[i]: chosen.count(i) for i in dict.fromkeys(chosen)})
            return len(found) < 2 and steps < MOST_STEPS  # noqa: PLR2004  two are too many
        for index in range(first, len(cuts)):
            if any(have > gpus * n for have, n in zip(left, most[index], strict=True)):
                break
            rest = tuple(have - takes for have, takes in zip(left, cuts[index], strict=True))
            if min(rest) >= 0 and not extend(index, rest, gpus - 1, (*chosen, index)):
                return False
        return steps < MOST_STEPS

    extend(0, totals, gpus, ())
    return found if steps < MOST_STEPS else []
