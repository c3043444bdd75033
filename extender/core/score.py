"""Which node a GPU pod should go to: the one where it keeps the least from falling idle.

The score is the *drain cost*: how much longer the node, and the GPU the pod lands on, will stay in
use because of the pod. With lifetimes that do not know their age, k pods are gone after
1 + 1/2 + ... + 1/k mean lifetimes, so one more keeps the place in use 1/(k + 1) longer. Pods without
GPUs do not count: they are what misleads packing by cpu.

Only the order counts: the best node gets 10, the next 9, and so on, because on an absolute scale of
0 to 10 most nodes tie at light load and the default plugins, which spread, decide.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice

from extender.core.capacity import Capacity, Usage
from extender.core.catalogue import is_mig_resource
from extender.core.node import Node
from extender.core.occupancy import gpu_costs
from extender.core.reach import NodeIndex, Nodes

TOP_SCORE = 10
"""The largest score an extender may give (`extenderv1.MaxExtenderPriority`)."""

IDLE = 2.0
"""The drain cost on an idle node: one mean lifetime for the node, one for the GPU. None is higher."""

DIGITS = 9
"""Costs that agree so far are equal: what is left is rounding, and must not decide."""

BATCH = 64
"""So many nodes may wait to be put in order again: a millisecond, the most a question pays for others."""

Size = tuple[int, int]
"""(GPUs of the node, minus the slices and whole GPUs it offers). Among idle nodes, which all cost the same,
the one is opened that has fewer GPUs; and of as many GPUs the one that more pods can follow to, before
the next must be opened."""

Key = tuple[float, Size, str]
"""(drain cost, size, name): less is better, and no two nodes are equal."""


def drain_costs(node: Node, usage: Usage) -> dict[str, float]:
    """The drain cost of one more pod, by the GPU or MIG resource it asks for; in mean lifetimes.

    The device plugin picks the slice, so the cost of the GPU is the mean over those that offer the
    resource. How many pods a GPU holds is estimated from the node's totals, as if each slice in use
    were any of its profile; if the layout is not known, as if all pods were spread evenly. A whole GPU
    is shared with nobody.
    """
    pods = usage.gpu_pods
    if pods <= 0:
        return dict.fromkeys(node.gpus, IDLE)
    of_node = 1 / (1 + pods)
    if node.layout is None:
        of_slice = 1 / (1 + pods / node.gpu_count)
        # Of a whole GPU nobody else is on the card, whatever the layout.
        costs = {r: of_slice if is_mig_resource(r) else 1.0 for r in node.gpus}
        return {r: round(of_node + of_gpu, DIGITS) for r, of_gpu in costs.items()}
    in_use = {
        resource: min(1.0, usage.gpus.get(resource, 0) / total)
        for resource, total in node.gpus.items()
    }
    held = [(cut, sum(n * in_use.get(name, 0) for name, n in cut.slices)) for cut in node.layout]
    costs = {}
    for resource, total in node.gpus.items():
        used = in_use[resource]
        # Of the other slices of the same profile, when one of them is free for this pod.
        used_beside = min(1.0, used * total / (total - 1)) if total > 1 else 0.0
        of_gpu = 0.0
        for cut, pods_there in held:
            for name, n in cut.slices:
                if name == resource:
                    others = pods_there - n * used + (n - 1) * used_beside
                    of_gpu += cut.gpus * n / total / (1 + others)
        costs[resource] = round(of_node + of_gpu, DIGITS)
    return costs


def seen_costs(node: Node, usage: Usage) -> dict[str, float]:
    """The same without guessing, for the resources of which the node's agent sees a free slice."""
    if node.occupancy is None or usage.gpu_pods <= 0:
        return {}
    of_node = 1 / (1 + usage.gpu_pods)
    of_gpu = gpu_costs(node.occupancy, usage.gpus)
    return {r: round(of_node + cost, DIGITS) for r, cost in of_gpu.items() if r in node.gpus}


@dataclass(frozen=True, slots=True)
class Members:
    """A set of nodes, to be asked for names."""

    index: NodeIndex
    nodes: Nodes

    def __contains__(self, name: object) -> bool:
        slot = self.index.slot_of.get(name)  # type: ignore[call-overload]
        return slot is not None and bool(self.nodes >> slot & 1)


class Ranking:
    """The order of the nodes for each resource, kept up to date by the changes to a `Capacity`.

    A change costs what it changes on the one node. It is paid by the next question, or by the change
    that makes the batch full: were it always the question, one after a long silence would be slow.
    A call walks along the order of its resource until it has met ten of the nodes it was given; for as
    many steps as it was given names, then it looks at these.
    """

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._keys: dict[str, dict[str, Key]] = {}
        """Node -> resource it has -> its key there."""
        self._orders: dict[str, list[Key]] = {}
        """Resource -> keys of all nodes that have it, best first."""
        self._touched = set(capacity.index.slot_of)
        capacity.touched = self._touch

    def _touch(self, name: str) -> None:
        """A node has changed."""
        self._touched.add(name)
        if len(self._touched) >= BATCH:
            self._refresh()

    def _refresh(self) -> None:
        """Take in what has changed since the last time."""
        gone: dict[str, list[Key]] = {}
        come: dict[str, list[Key]] = {}
        for name in self._touched:
            node = self._capacity.index.get(name)
            new: dict[str, Key] = {}
            if node is not None:
                usage = self._capacity.usage(name)
                costs = drain_costs(node, usage) | seen_costs(node, usage)
                size = node.gpu_count, -sum(node.gpus.values())
                new = {r: (cost, size, name) for r, cost in costs.items()}
            old = self._keys.pop(name, {})
            if new:
                self._keys[name] = new
            for resource, key in old.items():
                if new.get(resource) != key:
                    gone.setdefault(resource, []).append(key)
            for resource, key in new.items():
                if old.get(resource) != key:
                    come.setdefault(resource, []).append(key)
        self._touched.clear()
        for resource in gone.keys() | come.keys():
            order = self._orders.setdefault(resource, [])
            _reorder(order, gone.get(resource, []), come.get(resource, []))
            if not order:
                del self._orders[resource]

    def _best(self, resources: Collection[str], names: Container[str], most: int) -> list[Key]:
        """Keys of the best of these nodes that have all these resources, best first.

        For a pod with several resources costs are added up: each slice holds up a GPU of its own.
        """
        self._refresh()
        if len(resources) != 1:
            return heapq.nsmallest(most, self._summed(resources, names))
        (resource,) = resources
        order = self._orders.get(resource, [])
        if not isinstance(names, AbstractSet):
            return list(islice((key for key in order if key[2] in names), most))
        walked = islice(order, len(names))
        best = list(islice((key for key in walked if key[2] in names), most))
        if len(best) == most or len(names) >= len(order):
            return best
        there = [self._keys[name] for name in names if name in self._keys]
        return heapq.nsmallest(most, [keys[resource] for keys in there if resource in keys])

    def _summed(self, resources: Collection[str], names: Container[str]) -> Iterator[Key]:
        if not resources:
            return
        fewest = min((self._orders.get(resource, []) for resource in resources), key=len)
        if isinstance(names, AbstractSet) and len(names) < len(fewest):
            there: Iterable[str] = names
        else:
            there = (name for _, _, name in fewest if name in names)
        for name in there:
            keys = self._keys.get(name, {})
            if all(resource in keys for resource in resources):
                every = [keys[resource] for resource in resources]
                yield round(sum(cost for cost, _, _ in every), DIGITS), every[0][1], name

    def _in_use(self, name: str) -> bool:
        return self._capacity.usage(name).gpu_pods > 0

    def scores(
        self,
        names: Container[str],
        resources: Collection[str],
        workload: str = "",
        *,
        spread: bool = True,
    ) -> list[tuple[str, int]]:
        """The best of the names with their scores, best first; the rest score 0.

        Args:
            names: candidate nodes, best given as a set; those without the resources score 0.
            resources: GPU and MIG resources the pod asks for.
            workload: `namespace/Kind/name` of the pod.
            spread: among used nodes, those without a pod of the same workload come first:
                packing must not put all replicas of a service on one card.
        """
        siblings = self._capacity.where.get(workload, {}) if spread else {}
        best = self._best(resources, names, TOP_SCORE + len(siblings))
        if siblings:
            in_use = {name for _, _, name in best if self._in_use(name)}
            best.sort(key=lambda k: (k[2] not in in_use, k[2] in siblings and k[2] in in_use, k))
        return [(key[2], TOP_SCORE - rank) for rank, key in enumerate(best[:TOP_SCORE])]

    def best_used(self, resources: Collection[str], nodes: Nodes) -> list[str]:
        """The best of these nodes, best first, that are in use and have some of each resource free.

        For pods that no extender will be asked about.
        """
        for resource in resources:
            nodes = self._capacity.with_free(resource, nodes)
        best = self._best(resources, Members(self._capacity.index, nodes), TOP_SCORE)
        return [name for _, _, name in best if self._in_use(name)]


def _reorder(order: list[Key], gone: Sequence[Key], come: Sequence[Key]) -> None:
    """Take keys out of an order and put others in: one by one if they are few, else all at once."""
    if 8 * (len(gone) + len(come)) < len(order):
        for key in gone:
            del order[bisect_left(order, key)]
        for key in come:
            insort(order, key)
        return
    dropped = set(gone)
    order[:] = sorted([*(key for key in order if key not in dropped), *come])
