"""`consolidation.lambda`: a larger slice on a GPU in use rather than the first slice on an idle one.

Of the profiles that fit, the pod takes the one with the least memory slices + lambda x the chance
that its slice lands on an idle GPU, on the node the score would choose for it. So lambda is what
keeping a GPU idle is worth, in memory slices; up to 1 it changes nothing, because a larger profile
costs at least one slice more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb

from extender.core.capacity import Capacity, Usage
from extender.core.node import Node
from extender.core.occupancy import idle_share
from extender.core.pod import Ask
from extender.core.reach import Nodes
from extender.core.score import Members, Ranking

SPARE = Fraction(3, 10)
"""Share of a larger profile that must be free, so that none is taken from a pod that needs it."""


@dataclass(frozen=True, slots=True)
class Option:
    """One slice of a profile that fits, on any of these nodes."""

    resource: str
    memory_slices: int
    """0: not known, so it cannot be compared."""
    nodes: Nodes


@dataclass(frozen=True, slots=True)
class Placing:
    """Where the score would send a pod."""

    capacity: Capacity
    ranking: Ranking
    plain: Ask
    """The pod's cpu, memory and ephemeral storage."""
    workload: str = ""
    spread: bool = True

    def node(self, option: Option) -> Node | None:
        """The best node that has room for the pod with such a slice."""
        claim = {option.resource: 1}
        nodes = self.capacity.with_free(option.resource, option.nodes)
        room = _Room(self.capacity.index, nodes, self.capacity, claim, self.plain)
        best = self.ranking.scores(room, claim, self.workload, spread=self.spread)
        return self.capacity.index.get(best[0][0]) if best else None


@dataclass(frozen=True, slots=True)
class _Room(Members):
    """The nodes of a set on which a pod could start now."""

    capacity: Capacity
    claim: dict[str, int]
    plain: Ask

    def __contains__(self, name: object) -> bool:
        # No zero-argument super() in a class made anew for its slots.
        return Members.__contains__(self, name) and self.capacity.could_start(
            str(name), self.claim, self.plain
        )


def idle_chance(node: Node, usage: Usage, resource: str) -> float:
    """How likely a slice of this resource, picked by the device plugin, lies on an idle GPU.

    As the node's agent sees it; without one from the node's totals, as if each slice in use were any
    of its profile; if the layout is not known, as if each pod had picked a GPU by chance.
    """
    seen = None if node.occupancy is None else idle_share(node.occupancy, resource)
    if seen is not None:
        return seen
    pods = usage.gpu_pods
    if node.layout is None or pods <= 0:
        return (1 - 1 / node.gpu_count) ** max(0, pods)
    total = node.gpus.get(resource, 0)
    found = 0.0
    for cut in node.layout:
        n = dict(cut.slices).get(resource, 0)
        if n:
            chance = cut.gpus * n / total
            for name, there in cut.slices:
                mine = int(name == resource)
                others, of_gpu = node.gpus.get(name, 0) - mine, there - mine
                used = min(usage.gpus.get(name, 0), others)
                chance *= comb(others - of_gpu, used) / comb(others, used)
            found += chance
    return found


def spare(capacity: Capacity, option: Option, taken: int = 0) -> bool:
    """Whether enough of a profile is free that a pod may take it without needing it.

    Args:
        capacity: the cluster.
        option: the profile, on the nodes that are looked at.
        taken: slices that waiting pods and promises have a claim on.
    """
    total = capacity.total(option.resource, option.nodes)
    return capacity.free(option.resource, option.nodes) - taken >= SPARE * total


def prefer(
    options: Sequence[Option],
    weight: float,
    placing: Placing,
    eligible: Callable[[int], bool] = lambda _: True,
) -> int:
    """Which of the options to take, by position.

    Args:
        options: the first is what is taken without `consolidation.lambda`; it has room.
        weight: lambda.
        placing: where the score would send the pod.
        eligible: whether another option may be taken: it has room, and some to spare.
    """

    def cost(option: Option) -> float | None:
        node = placing.node(option)
        if node is None:
            return None
        usage = placing.capacity.usage(node.name)
        return option.memory_slices + weight * idle_chance(node, usage, option.resource)

    smallest = options[0].memory_slices
    chosen, least = 0, cost(options[0])
    if least is None or not smallest:
        return 0
    for position, option in enumerate(options):
        if smallest < option.memory_slices < least and eligible(position):
            found = cost(option)
            if found is not None and found < least:
                chosen, least = position, found
    return chosen
