"""Which node a GPU pod should go to: the one that stays in use anyway.

The order is by pods with GPUs already on the node, over all profiles and whole GPUs: packing by that
count frees nearly as many GPUs as knowing every layout, and it is not misled by pods without GPUs, as
packing by cpu is. Only the order counts: the best node gets 10, the next 9, and so on, because on an
absolute scale of 0 to 10 most nodes tie at light load and the default plugins, which spread, decide.
"""

import heapq
from collections.abc import Sequence

from extender.core.capacity import Capacity

TOP_SCORE = 10
"""The largest score an extender may give (`extenderv1.MaxExtenderPriority`)."""

Key = tuple[int, int, str]
"""(-pods with GPUs, GPUs of the node, name): less is better, and no two nodes are equal."""


class Ranking:
    """The order of all nodes, kept up to date by the changes to a `Capacity`.

    A call looks up one key per name and sorts the best ten out of them.
    """

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._keys: dict[str, Key] = {}
        capacity.touched = self._touched

    def _touched(self, name: str) -> None:
        node = self._capacity.index.get(name)
        if node is None:
            self._keys.pop(name, None)
        else:
            self._keys[name] = (-self._capacity.usage(name).gpu_pods, node.gpu_count, name)

    def scores(
        self, names: Sequence[str], workload: str = "", *, spread: bool = True
    ) -> list[tuple[str, int]]:
        """The best of the names with their scores, best first; the rest score 0.

        Args:
            names: candidate nodes; unknown ones score 0.
            workload: `namespace/Kind/name` of the pod.
            spread: among used nodes, those without a pod of the same workload come first:
                packing must not put all replicas of a service on one card.
        """
        keys = self._keys
        known = [keys[name] for name in names if name in keys]
        siblings = self._capacity.where.get(workload, {}) if spread else {}
        best = heapq.nsmallest(TOP_SCORE + len(siblings), known)
        if siblings:
            best.sort(key=lambda key: (not key[0], key[2] in siblings and key[0] < 0, key))
        return [(key[2], TOP_SCORE - rank) for rank, key in enumerate(best[:TOP_SCORE])]
