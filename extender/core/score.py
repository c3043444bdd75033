"""Which node a GPU pod should go to: the one that stays in use anyway.

The order is by pods with GPUs already on the node, over all profiles and whole GPUs: packing by that
count frees nearly as many GPUs as knowing every layout, and it is not misled by pods without GPUs, as
packing by cpu is. Only the order counts: the best node gets 10, the next 9, and so on, because on an
absolute scale of 0 to 10 most nodes tie at light load and the default plugins, which spread, decide.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Container, Iterable
from itertools import islice

from extender.core.capacity import Capacity
from extender.core.node import Node
from extender.core.reach import Nodes

TOP_SCORE = 10
"""The largest score an extender may give (`extenderv1.MaxExtenderPriority`)."""

Key = tuple[int, int, str]
"""(-pods with GPUs, GPUs of the node, name): less is better, and no two nodes are equal."""


def _key(capacity: Capacity, node: Node) -> Key:
    return (-capacity.usage(node.name).gpu_pods, node.gpu_count, node.name)


def best_used(capacity: Capacity, resources: Iterable[str], nodes: Nodes) -> list[str]:
    """The best of these nodes, best first, that are in use and have some of each resource free.

    For pods that no extender will be asked about.
    """
    for resource in resources:
        nodes = capacity.with_free(resource, nodes)
    keys = (_key(capacity, node) for node in capacity.index.members(nodes))
    return [name for pods, _, name in heapq.nsmallest(TOP_SCORE, keys) if pods]


class Ranking:
    """The order of all nodes, kept up to date by the changes to a `Capacity`.

    A call walks along the order until it has met ten of the nodes it was given.
    """

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._keys: dict[str, Key] = {}
        self._order: list[Key] = []
        self._touched: set[str] = set()
        capacity.touched = self._touched.add

    def _sorted(self) -> list[Key]:
        """All keys, best first, after what has changed since the last call."""
        for name in self._touched:
            old = self._keys.pop(name, None)
            if old is not None:
                del self._order[bisect_left(self._order, old)]
            node = self._capacity.index.get(name)
            if node is not None:
                self._keys[name] = key = _key(self._capacity, node)
                insort(self._order, key)
        self._touched.clear()
        return self._order

    def scores(
        self, names: Container[str], workload: str = "", *, spread: bool = True
    ) -> list[tuple[str, int]]:
        """The best of the names with their scores, best first; the rest score 0.

        Args:
            names: candidate nodes, best given as a set; unknown ones score 0.
            workload: `namespace/Kind/name` of the pod.
            spread: among used nodes, those without a pod of the same workload come first:
                packing must not put all replicas of a service on one card.
        """
        siblings = self._capacity.where.get(workload, {}) if spread else {}
        known = (key for key in self._sorted() if key[2] in names)
        best = list(islice(known, TOP_SCORE + len(siblings)))
        if siblings:
            best.sort(key=lambda key: (not key[0], key[2] in siblings and key[0] < 0, key))
        return [(key[2], TOP_SCORE - rank) for rank, key in enumerate(best[:TOP_SCORE])]
