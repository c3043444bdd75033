"""Steps 4 and 5: what would hold a pod on the nodes it can reach, fullness apart.

That changes with the pod, the configuration and the nodes, and not with every pod that comes or goes; so
whoever decides on many pods of one template may make this once for all of them: see `Shortlist.holds`.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from extender.core import pod as podlib
from extender.core.capacity import Capacity
from extender.core.catalogue import ALL_RESOURCES
from extender.core.decision import Change, Verdict
from extender.core.footprint import Footprint, Want
from extender.core.node import memory_label
from extender.core.offers import OfferSummary, smallest_first
from extender.core.policy import Policy
from extender.core.reach import Nodes
from extender.core.rewrite import added_selector
from extender.core.snapshot import Snapshot
from extender.core.subject import Subject

LISTED = frozenset(ALL_RESOURCES)

MOST_COMBINATIONS = 1024
"""Pods whose containers want different profiles: how many combinations are tried at the most."""
MOST_CONTAINERS_LOOKED_AT = 16 * MOST_COMBINATIONS
"""Over all these combinations: a pod may have as many containers as its author likes."""


class Choice(NamedTuple):
    """A slice for every GPU container of a pod, and what follows for the pod."""

    picks: tuple[OfferSummary, ...]
    """One per GPU container, in their order."""
    claims: Mapping[str, int]
    """MIG resource -> count the pod will ask of its node."""
    guards: tuple[tuple[str, int], ...]
    """(node label, MiB) that kube-scheduler shall check, where we cannot be sure of every node."""
    nodes: Nodes
    """Where it may land then."""
    changes: tuple[Change, ...]
    """One per GPU container."""
    need_mib: int | None
    """Of the hungriest container."""
    pick: OfferSummary
    """What that one gets."""


class Shortlist:
    """What would hold a pod, on nodes and pools as they are when it is made.

    Args:
        subject: the pod.
        wanted: what its GPU containers want, one each.
        snapshot: the cluster; its nodes are looked at, not what is free on them.
        policy: the configuration.
    """

    def __init__(
        self, subject: Subject, wanted: Sequence[Footprint], snapshot: Snapshot, policy: Policy
    ) -> None:
        self._subject, self.wanted, self._policy = subject, wanted, policy
        self._capacity, self._pools = snapshot.capacity, snapshot.pools
        self._made_of = self._capacity.index.version, self._pools.index.version
        self.pooled = self._reach(self._pools) if self._pools.offers else 0
        """Where the pod may land among nodes that do not exist yet."""
        self._nodes = self._reach(self._capacity)
        self._distinct = sorted({f.want for f in wanted}, key=_hunger)
        """Least hungry first: the order of containers decides nothing."""
        self.offered = self._offered()
        """What these nodes offer, smallest first."""
        self.verdicts: Sequence[Verdict] = ()
        """On each of these offers, fullness apart."""
        self.misfit: Want | None = None
        """The hungriest of its wants that nothing would do for, if there is one."""
        self._fitting = self._fit()
        self.first = next(self._choices(), None) if self._fitting else None
        """What the pod is to get if that is free."""

    def holds(self, snapshot: Snapshot) -> bool:
        """Whether one made on this snapshot would be the same, because no node has changed since."""
        return (
            snapshot.capacity is self._capacity
            and snapshot.pools is self._pools
            and self._made_of == (self._capacity.index.version, self._pools.index.version)
        )

    def larger(self) -> Iterator[Choice]:
        """What to try after `first`, in that order."""
        yield from itertools.islice(self._choices(), 1, None)

    def _reach(self, capacity: Capacity) -> Nodes:
        """Where the pod may land as it will be after injection."""
        inject = self._policy.inject
        return capacity.index.reach(
            self._subject.spec,
            selector=added_selector(self._subject.spec, inject),
            tolerations=inject.tolerations,
        )

    # --- which offers would do -------------------------------------------------------------------

    def _offered(self) -> Sequence[OfferSummary]:
        if not self.pooled:
            return self._capacity.offered(self._nodes)
        grouped = self._capacity.groups(self._nodes)
        for resource, there in self._pools.groups(self.pooled).items():
            # Nodes of a pool do not exist yet: they say what fits, and have nothing free.
            grouped.setdefault(resource, []).extend([(offer, 0) for offer, _ in there])
        return smallest_first(grouped)

    def _fit(self) -> Sequence[Sequence[OfferSummary]]:
        """For each want the offers that would do, or nothing; the verdict on each offer is kept."""
        fitting = []
        verdicts: list[Verdict] = []
        for want in reversed(self._distinct):
            found = [self._objection(want, offer) or Verdict.FITS for offer in self.offered]
            # What fits one container is a candidate.
            verdicts = [
                verdict if before is not Verdict.FITS else before
                for before, verdict in zip(verdicts or found, found, strict=True)
            ]
            admitted = [
                offer
                for offer, verdict in zip(self.offered, found, strict=True)
                if verdict is Verdict.FITS
            ]
            fitting.append(admitted)
            if not admitted:
                self.misfit = want
                break
        self.verdicts = verdicts
        return fitting[::-1] if self.misfit is None else ()

    def _objection(self, want: Want, offer: OfferSummary) -> Verdict | None:
        if want.profile is not None and offer.profile != want.profile:
            return Verdict.NOT_ASKED_FOR
        if offer.shared:
            return Verdict.SHARED
        if offer.special and want.profile is None and not self._policy.allow_special_profiles:
            return Verdict.SPECIAL
        if want.need_mib is not None:
            if offer.usable_mib is None or (offer.uncounted and not offer.guardable):
                return Verdict.MEMORY_UNKNOWN
            if offer.usable_mib < want.need_mib:
                return Verdict.TOO_SMALL
        if offer.compute_slices < want.min_compute:
            return Verdict.TOO_LITTLE_COMPUTE
        if (offer.bandwidth_bytes_s or 0) < want.min_bandwidth_bytes_s:
            return Verdict.TOO_LITTLE_BANDWIDTH
        limited = self._subject.home.limits
        if limited and any(limits.most.get(offer.resource, 1) < 1 for limits in limited):
            return Verdict.LIMIT_RANGE  # asked last: but for the LimitRange it would do
        return None

    # --- which of them for which container -------------------------------------------------------

    def _choices(self) -> Iterator[Choice]:
        """One offer for each want, in order of the memory the pod would take from its node.

        Of equals, those come first that give less to the less hungry. Of very many combinations
        only those of the smallest few offers each are tried.
        """
        if len(self._fitting) == 1:  # by far the most frequent
            return map(self._choice, zip(self._fitting[0]))
        most = min(MOST_COMBINATIONS, MOST_CONTAINERS_LOOKED_AT // len(self._subject.containers))
        of_each = max(1, int(most ** (1 / len(self._fitting))))
        combinations = itertools.product(*[offers[:of_each] for offers in self._fitting])
        return map(self._choice, sorted(combinations, key=self._taken_mib))

    def _picks(self, combination: Sequence[OfferSummary]) -> tuple[OfferSummary, ...]:
        """What each GPU container gets."""
        pick_of = dict(zip(self._distinct, combination, strict=True))
        return tuple([pick_of[footprint.want] for footprint in self.wanted])

    def _taken_mib(self, combination: Sequence[OfferSummary]) -> int:
        usable = {pick.resource: pick.usable_mib or 0 for pick in combination}
        claims = self._claims(self._picks(combination))
        return sum(usable[resource] * count for resource, count in claims.items())

    def _choice(self, combination: Sequence[OfferSummary]) -> Choice:
        pick_of = dict(zip(self._distinct, combination, strict=True))
        nodes = self._nodes
        for want, pick in pick_of.items():
            nodes &= pick.offering if want.need_mib is None else pick.nodes
        picks = self._picks(combination)
        hungriest, pick = max(
            zip(self.wanted, picks, strict=True),
            key=lambda held: (held[0].want.need_mib or 0, held[1].usable_mib or 0),
        )
        return Choice(
            picks=picks,
            claims=self._claims(picks),
            guards=self._guards(pick_of),
            nodes=nodes,
            changes=changes(self.wanted, self._policy, [pick.resource for pick in picks]),
            need_mib=hungriest.want.need_mib,
            pick=pick,
        )

    def _claims(self, picks: Sequence[OfferSummary]) -> dict[str, int]:
        """What the pod would ask of its node."""
        if len(picks) == 1:  # by far the most frequent
            return {picks[0].resource: 1}
        to = {
            footprint.container.pointer: pick.resource
            for footprint, pick in zip(self.wanted, picks, strict=True)
        }
        return {
            resource: podlib.total(
                [(c.kind, int(to.get(c.pointer) == resource)) for c in self._subject.containers]
            )
            for resource in sorted(set(to.values()))
        }

    def _guards(self, pick_of: Mapping[Want, OfferSummary]) -> tuple[tuple[str, int], ...]:
        least: dict[str, int] = {}
        for want, pick in pick_of.items():
            # kube-scheduler asks our filter only about names that its configuration lists: ours does.
            filtered = self._policy.filter and pick.resource in LISTED
            unsure = pick.uncounted or not pick.uniform or not filtered
            if unsure and pick.guardable and want.need_mib is not None:
                label = memory_label(pick.resource)
                least[label] = max(least.get(label, 0), want.need_mib - 1)
        return tuple(sorted(least.items()))


def changes(
    wanted: Sequence[Footprint], policy: Policy, resources: Sequence[str | None]
) -> tuple[Change, ...]:
    """What becomes of each GPU container that gets the resource at its place; with None it is left."""
    return tuple(
        [
            Change(
                name=footprint.container.name,
                pointer=footprint.container.pointer,
                resource=policy.gpu_resource,
                to=resource,
                footprint_bytes=footprint.footprint_bytes,
                footprint_source=footprint.source,
                need_mib=footprint.want.need_mib,
            )
            for footprint, resource in zip(wanted, resources, strict=True)
        ]
    )


def _hunger(want: Want) -> tuple[int, int, int, str]:
    need = want.need_mib or 0
    return (need, want.min_compute, want.min_bandwidth_bytes_s, want.profile or "")
