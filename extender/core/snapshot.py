"""What one decision is made on: the cluster as known at one moment.

Nothing changes it while a decision runs, because decisions and watch events take turns on one event
loop and a decision never yields.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from extender.core.capacity import Capacity
from extender.core.decision import Promise
from extender.core.observed import NoPeaks, Peaks
from extender.core.quota import Namespace
from extender.core.reach import Nodes
from extender.core.score import Ranking


@dataclass(slots=True)
class Reservations:
    """Slices promised to pods that have not shown up in the watch yet, summed by where they may go."""

    by_place: dict[str, dict[Nodes, int]] = field(default_factory=dict)
    """Resource -> nodes -> count."""
    in_all: dict[str, int] = field(default_factory=dict)
    """Resource -> count."""

    def add(self, claims: Mapping[str, int], nodes: Nodes, sign: int) -> None:
        """Make (+1) or release (-1) a reservation."""
        for resource, count in claims.items():
            places = self.by_place.setdefault(resource, {})
            left = places.get(nodes, 0) + sign * count
            if left:
                places[nodes] = left
            else:
                places.pop(nodes, None)
            self.in_all[resource] = self.in_all.get(resource, 0) + sign * count
            if not places:
                del self.by_place[resource], self.in_all[resource]

    def anywhere(self, resource: str) -> int:
        """Units promised in all: no set of nodes can have more of them promised."""
        return self.in_all.get(resource, 0)

    def on(self, resource: str, nodes: Nodes) -> int:
        """Units promised to pods that may land on any of these nodes."""
        promised = 0
        for place, count in self.by_place.get(resource, {}).items():
            if place & nodes:
                promised += count
        return promised

    def copy(self) -> "Reservations":
        """Reservations of their own, the same for now."""
        by_place = {resource: dict(places) for resource, places in self.by_place.items()}
        return Reservations(by_place, dict(self.in_all))


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The cluster for one decision."""

    capacity: Capacity
    ranking: Ranking | None = None
    """The order of the nodes for each resource; None: no node is preferred."""
    pools: Capacity = field(default_factory=Capacity)
    """Nodes that do not exist yet (`pools` of the configuration), never with anything free."""
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    """By name; one not known yet counts as one without labels, quotas and pods."""
    reservations: Reservations = field(default_factory=Reservations)
    in_flight: Mapping[str, Promise] = field(default_factory=dict)
    """By id of the decision, whose pod has not shown up yet; counted in the tallies already."""
    held: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(namespace, `Kind/name`) of workloads held back -> seconds left."""
    observed: Peaks = field(default_factory=NoPeaks)
    """What pods of a workload were seen to use."""
    stale: bool = False
    """Not synced yet, or nothing heard for too long: nothing may be decided on it."""
    age_s: float = 0.0
    """Since the last event or bookmark."""
    scheduler_alive: bool = True
    """The Lease of `inject.schedulerName` is fresh."""
