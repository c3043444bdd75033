"""How full the nodes are, kept incrementally, and the questions a decision asks of it.

Slices, free and in all, are kept as bit planes: plane b of a resource holds the nodes whose count has
bit b set. The sum over any set of nodes is then a handful of population counts, whatever the size of
the cluster, and exact.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from extender.core.node import Node, Offer
from extender.core.offers import OfferSummary, smallest_first
from extender.core.pod import Ask
from extender.core.reach import NodeIndex, Nodes

MOST_REMEMBERED = 256
"""Sets of nodes whose offers are remembered: most pods reach the same nodes as some pod before."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one pod takes from the node it is bound to."""

    node: str
    plain: Ask
    gpus: tuple[tuple[str, int], ...] = ()
    """GPU and MIG resource name, count; empty for pods without GPUs."""
    workload: str = ""
    """`namespace/Kind/name`, for pods with GPUs."""


@dataclass(slots=True)
class Usage:
    """What is taken on one node."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    ephemeral_bytes: int = 0
    pods: int = 0
    gpus: dict[str, int] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    gpu_pods: int = 0
    """Pods that hold a GPU or a slice."""

    def add(self, holding: Holding, sign: int) -> None:
        """Take (+1) or give back (-1) what a pod holds."""
        self.cpu_milli += sign * holding.plain.cpu_milli
        self.memory_bytes += sign * holding.plain.memory_bytes
        self.ephemeral_bytes += sign * holding.plain.ephemeral_bytes
        self.pods += sign
        for resource, amount in holding.plain.others:
            _count(self.others, resource, sign * amount)
        if holding.gpus:
            self.gpu_pods += sign
            for resource, count in holding.gpus:
                _count(self.gpus, resource, sign * count)


def _count(table: dict[Any, int], key: object, by: int) -> None:
    left = table.get(key, 0) + by
    if left:
        table[key] = left
    else:
        table.pop(key, None)


@dataclass(frozen=True, slots=True)
class Demand:
    """A pod that waits for a node and competes for the same slices."""

    spec: Mapping[str, Any]
    """`nodeSelector`, `affinity`, `tolerations` of the pod."""
    signature: str
    """Equal for pods with equal spec as above."""
    gpus: tuple[tuple[str, int], ...]
    priority: int


@dataclass(slots=True)
class _Queue:
    """Waiting pods with the same reach."""

    spec: Mapping[str, Any]
    asked: dict[tuple[str, int], int] = field(default_factory=dict)
    """(resource, priority) -> count."""
    nodes: Nodes = 0
    version: int = -1


class Capacity:
    """Nodes with their usage, and pods that wait. Every change costs what it touches."""

    def __init__(self) -> None:
        self.index = NodeIndex()
        self.offers: dict[str, dict[Offer, Nodes]] = {}
        """MIG resource -> what is said of it -> nodes that say so."""
        self.present: dict[str, Nodes] = {}
        """GPU or MIG resource -> nodes that have it allocatable."""
        self.where: dict[str, dict[str, int]] = {}
        """Workload -> node -> its pods there, of pods with GPUs."""
        self.touched: Callable[[str], None] = lambda _node: None
        """Called with the name of a node that changed, or whose usage changed."""
        self._usage: list[Usage] = []
        self._orphans: dict[str, Usage] = {}
        """Usage on nodes not seen yet: pods may arrive before their node."""
        self._planes: dict[str, list[Nodes]] = {}
        """Of what is free."""
        self._totals: dict[str, list[Nodes]] = {}
        """Of what is allocatable."""
        self._queues: dict[str, _Queue] = {}
        self._offered: dict[Nodes, tuple[OfferSummary, ...]] = {}
        self._offered_version = 0

    # --- changes ---------------------------------------------------------------------------------

    def put_node(self, node: Node) -> None:
        """Add a node or take its newer version."""
        old = self.index.get(node.name)
        if old is not None:
            self._forget(self.index.slot_of[node.name], old)
        slot = self.index.put(node)
        if slot == len(self._usage):
            self._usage.append(Usage())
        if old is None:
            self._usage[slot] = self._orphans.pop(node.name, Usage())
        bit = 1 << slot
        for offer in node.offers.values():
            by_offer = self.offers.setdefault(offer.resource, {})
            by_offer[offer] = by_offer.get(offer, 0) | bit
        for resource, count in node.gpus.items():
            self.present[resource] = self.present.get(resource, 0) | bit
            _put(self._totals.setdefault(resource, []), bit, count)
            self._refresh(slot, node, resource)
        self.touched(node.name)

    def drop_node(self, name: str) -> None:
        """Forget a node; what its pods hold is kept in case it returns."""
        node = self.index.get(name)
        if node is None:
            return
        slot = self.index.slot_of[name]
        self._forget(slot, node)
        self.index.drop(name)
        usage, self._usage[slot] = self._usage[slot], Usage()
        if usage.pods:
            self._orphans[name] = usage
        self.touched(name)

    def _forget(self, slot: int, node: Node) -> None:
        bit = 1 << slot
        for offer in node.offers.values():
            by_offer = self.offers[offer.resource]
            by_offer[offer] &= ~bit
            if not by_offer[offer]:
                del by_offer[offer]
            if not by_offer:
                del self.offers[offer.resource]
        for resource in node.gpus:
            self.present[resource] &= ~bit
            if not self.present[resource]:
                del self.present[resource]
            _put(self._totals[resource], bit, 0)
            _put(self._planes[resource], bit, 0)

    def hold(self, holding: Holding) -> None:
        """A pod was bound to a node."""
        self._change(holding, 1)

    def release(self, holding: Holding) -> None:
        """A bound pod ended or went away."""
        self._change(holding, -1)

    def _change(self, holding: Holding, sign: int) -> None:
        if holding.gpus:
            nodes = self.where.setdefault(holding.workload, {})
            _count(nodes, holding.node, sign)
            if not nodes:
                del self.where[holding.workload]
        slot = self.index.slot_of.get(holding.node)
        if slot is None:
            usage = self._orphans.setdefault(holding.node, Usage())
            usage.add(holding, sign)
            if not usage.pods:
                del self._orphans[holding.node]
            return
        self._usage[slot].add(holding, sign)
        node = self.index.nodes[slot]
        for resource, _count_of_pod in holding.gpus:
            if node is not None and resource in node.gpus:
                self._refresh(slot, node, resource)
        if holding.gpus:
            self.touched(holding.node)

    def _refresh(self, slot: int, node: Node, resource: str) -> None:
        free = max(0, node.gpus[resource] - self._usage[slot].gpus.get(resource, 0))
        _put(self._planes.setdefault(resource, []), 1 << slot, free)

    def wait(self, demand: Demand) -> None:
        """A pod waits for a node."""
        queue = self._queues.setdefault(demand.signature, _Queue(demand.spec))
        for resource, count in demand.gpus:
            _count(queue.asked, (resource, demand.priority), count)

    def stop_waiting(self, demand: Demand) -> None:
        """A waiting pod was bound, or went away."""
        queue = self._queues[demand.signature]
        for resource, count in demand.gpus:
            _count(queue.asked, (resource, demand.priority), -count)
        if not queue.asked:
            del self._queues[demand.signature]

    # --- questions -------------------------------------------------------------------------------

    def usage(self, name: str) -> Usage:
        """What is taken on a node, known or not."""
        slot = self.index.slot_of.get(name)
        return self._orphans.get(name, Usage()) if slot is None else self._usage[slot]

    def groups(self, nodes: Nodes) -> dict[str, list[tuple[Offer, Nodes]]]:
        """MIG resource -> what some of these nodes say of it, and which of them do."""
        found = {}
        for resource, by_offer in self.offers.items():
            here = [(o, met) for o, every in by_offer.items() if (met := every & nodes)]
            if here:
                found[resource] = here
        return found

    def offered(self, nodes: Nodes) -> tuple[OfferSummary, ...]:
        """What these nodes offer, smallest first."""
        if self._offered_version != self.index.version:
            self._offered_version = self.index.version
            self._offered.clear()
        found = self._offered.get(nodes)
        if found is None:
            if len(self._offered) >= MOST_REMEMBERED:
                self._offered.clear()
            found = self._offered[nodes] = smallest_first(self.groups(nodes))
        return found

    def free(self, resource: str, nodes: Nodes) -> int:
        """Free units of a resource on a set of nodes, summed."""
        return _sum(self._planes.get(resource, ()), nodes)

    def total(self, resource: str, nodes: Nodes) -> int:
        """Allocatable units of a resource on a set of nodes, summed."""
        return _sum(self._totals.get(resource, ()), nodes)

    def with_free(self, resource: str, nodes: Nodes) -> Nodes:
        """Those of the nodes that have at least one unit free."""
        found = 0
        for plane in self._planes.get(resource, ()):
            found |= plane
        return found & nodes

    def waiting(self, resource: str, nodes: Nodes, priority: int) -> int:
        """Units that waiting pods of equal or higher priority, which reach these nodes, ask for."""
        asked = 0
        for queue in self._queues.values():
            of_queue = 0
            for (name, of_pod), count in queue.asked.items():
                if name == resource and of_pod >= priority:
                    of_queue += count
            if of_queue:
                if queue.version != self.index.version:
                    queue.nodes = self.index.reach(queue.spec)
                    queue.version = self.index.version
                if queue.nodes & nodes:
                    asked += of_queue
        return asked

    def room(
        self, ask: Mapping[str, int], plain: Ask, nodes: Nodes, taken: Mapping[str, int]
    ) -> bool:
        """Whether a pod could start now on one of these nodes.

        At least one node must have all of it free, cpu, memory, storage and a pod slot included,
        and over all such nodes more must be free than others (`taken`) have a claim on.

        Args:
            ask: GPU and MIG resource -> count the pod needs on its node.
            plain: the pod's cpu, memory and ephemeral storage.
            nodes: where it may land.
            taken: resource -> units claimed by others already.
        """
        for resource in ask:
            nodes = self.with_free(resource, nodes)
        missing: dict[str, int] = {}
        for resource, count in ask.items():
            missing[resource] = count + taken.get(resource, 0)
            if self.free(resource, nodes) < missing[resource]:
                return False
        for some in self._emptiest_first(next(iter(ask), ""), nodes):
            left = some
            while left:  # as `slots` gives them; this is asked of every pod
                lowest = left & -left
                left ^= lowest
                slot = lowest.bit_length() - 1
                node, usage = self.index.nodes[slot], self._usage[slot]
                if node is None or not _fits(node, usage, ask, plain):
                    continue
                enough = True
                for resource in ask:
                    missing[resource] -= node.gpus[resource] - usage.gpus.get(resource, 0)
                    enough = enough and missing[resource] <= 0
                if enough:
                    return True
        return False

    def _emptiest_first(self, resource: str, nodes: Nodes) -> Iterator[Nodes]:
        """The nodes, parted by how much of a resource they have free, to a power of two; most first.

        So that few of them need be looked at until there is enough.
        """
        for plane in reversed(self._planes.get(resource, ())):
            if some := nodes & plane:
                yield some
                nodes ^= some
        if nodes:
            yield nodes

    def could_start(self, name: str, ask: Mapping[str, int], plain: Ask) -> bool:
        """Whether a pod could start now on the node of that name."""
        node = self.index.get(name)
        return node is not None and _fits(node, self.usage(name), ask, plain)

    def could_hold(self, ask: Mapping[str, int], plain: Ask, nodes: Nodes) -> bool:
        """Whether a pod could start on one of these nodes, were that node empty."""
        for resource in ask:
            nodes &= self.present.get(resource, 0)
        return any(_fits(node, _EMPTY, ask, plain) for node in self.index.members(nodes))

    def too_small(self, resources: Iterable[str], need_mib: int) -> Nodes:
        """Nodes that offer all of these MIG resources, each with less usable memory than needed."""
        found = self.index.all
        for resource in resources:
            small = 0
            for offer, nodes in self.offers.get(resource, {}).items():
                if offer.usable_mib is not None and offer.usable_mib < need_mib:
                    small |= nodes
            found &= small
        return found


def _put(planes: list[Nodes], bit: Nodes, count: int) -> None:
    """Write one node's count into bit planes."""
    while len(planes) < count.bit_length():
        planes.append(0)
    for b, plane in enumerate(planes):
        planes[b] = plane | bit if count >> b & 1 else plane & ~bit


def _sum(planes: Iterable[Nodes], nodes: Nodes) -> int:
    found = 0
    for b, plane in enumerate(planes):
        found += (plane & nodes).bit_count() << b
    return found


_EMPTY = Usage()


def _fits(node: Node, usage: Usage, ask: Mapping[str, int], plain: Ask) -> bool:
    """kube-scheduler's NodeResourcesFit on one node: what is not asked for is not looked at."""
    if (
        usage.pods >= node.pods
        or (plain.cpu_milli and usage.cpu_milli + plain.cpu_milli > node.cpu_milli)
        or (plain.memory_bytes and usage.memory_bytes + plain.memory_bytes > node.memory_bytes)
        or (
            plain.ephemeral_bytes
            and usage.ephemeral_bytes + plain.ephemeral_bytes > node.ephemeral_bytes
        )
    ):
        return False
    for resource, count in ask.items():
        if usage.gpus.get(resource, 0) + count > node.gpus.get(resource, 0):
            return False
    for resource, amount in plain.others:
        if usage.others.get(resource, 0) + amount > node.others.get(resource, 0):
            return False
    return True
