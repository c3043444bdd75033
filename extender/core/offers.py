"""What sets of nodes offer: the statements of their nodes, folded into the safest one."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from extender.core.node import Offer
from extender.core.reach import Nodes


class OfferSummary(NamedTuple):
    """What a set of nodes says of one MIG resource, folded into the safest statement."""

    resource: str
    profile: str
    usable_mib: int | None
    """The least over the counted nodes; None when there is none."""
    compute_slices: int
    memory_slices: int
    bandwidth_bytes_s: int | None
    special: bool
    shared: bool
    """On any node: then nobody may rely on the name."""
    uniform: bool
    """All counted nodes say the same MiB."""
    uncounted: bool
    """Some offering node's MiB is unknown."""
    guardable: bool
    """Every counted node carries the memory label."""
    nodes: Nodes
    """Counted nodes: those whose MiB is known."""
    offering: Nodes
    """All nodes that offer it."""


def summarize(resource: str, every: Sequence[tuple[Offer, Nodes]]) -> OfferSummary:
    """Fold what groups of nodes say of a resource; at least one group, each with its nodes."""
    if len(every) == 1:  # nodes of one product, cut alike
        offer, offering = every[0]
        known = offer.usable_mib is not None
        return OfferSummary(
            resource,
            offer.profile,
            offer.usable_mib,
            offer.compute_slices,
            offer.memory_slices,
            offer.bandwidth_bytes_s,
            offer.special,
            offer.shared,
            uniform=True,
            uncounted=not known,
            guardable=known and offer.labelled,
            nodes=offering if known else 0,
            offering=offering,
        )
    nodes = offering = 0
    usable_mib: set[int] = set()
    bandwidths: list[int] = []
    special = shared = uncounted = False
    labelled = True
    for offer, of_offer in every:
        offering |= of_offer
        special |= offer.special
        shared |= offer.shared
        if offer.usable_mib is None:
            uncounted = True
        else:
            nodes |= of_offer
            usable_mib.add(offer.usable_mib)
            labelled &= offer.labelled
        if offer.bandwidth_bytes_s is not None:
            bandwidths.append(offer.bandwidth_bytes_s)
    return OfferSummary(
        resource=resource,
        profile=every[0][0].profile,
        usable_mib=min(usable_mib, default=None),
        compute_slices=min([offer.compute_slices for offer, _ in every]),
        memory_slices=max([offer.memory_slices for offer, _ in every]),
        bandwidth_bytes_s=min(bandwidths) if len(bandwidths) == len(every) else None,
        special=special,
        shared=shared,
        uniform=len(usable_mib) <= 1,
        uncounted=uncounted,
        guardable=bool(usable_mib) and labelled,
        nodes=nodes,
        offering=offering,
    )


def smallest_first(
    groups: Mapping[str, Sequence[tuple[Offer, Nodes]]],
) -> tuple[OfferSummary, ...]:
    """The summary of each resource, in the order in which a pod would take them."""
    return tuple(sorted([summarize(name, every) for name, every in groups.items()], key=_order))


def _order(offer: OfferSummary) -> tuple[int, int, int, bool, str]:
    usable = offer.usable_mib if offer.usable_mib is not None else 1 << 40
    return (usable, offer.memory_slices, offer.compute_slices, offer.special, offer.resource)
