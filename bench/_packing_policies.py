"""Who chooses the node: kube-scheduler's own scores, and an extender's on top of them.

Integers as in kube-scheduler: a resource's score is cut to 0 .. 100 and counts the pod that is being
placed; an extender's 0 .. 10 counts 10 x weight; the caller draws lots between equal totals.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from bench._packing_clusters import Cluster, Place
from bench._packing_stream import CPU_ONLY
from extender.core.capacity import Capacity, Holding
from extender.core.consolidate import Option, Placing, prefer, spare
from extender.core.layout import Cut
from extender.core.node import Node
from extender.core.pod import Ask
from extender.core.score import TOP_SCORE, Ranking

WEIGHT = 30
"""Of the extender, as in `deploy/scheduler`."""


@dataclass(slots=True)
class View:
    """A cluster as it is at one moment. Lists are by node, then by kind."""

    cluster: Cluster
    cores: list[int]
    cores_used: list[int]
    capacity: list[tuple[int, ...]]
    used: list[list[int]]
    pods: list[int]
    """Pods with a slice or a GPU."""


class Policy:
    """The default scheduler: LeastAllocated on cpu for every pod."""

    def __init__(self, view: View) -> None:
        self.view = view

    def points(self, kind: int, cores: int, nodes: Sequence[int]) -> list[int]:
        """Of each node, for a pod with a slice or a GPU."""
        return self.plain(kind, cores, nodes)

    def plain(self, _kind: int, cores: int, nodes: Sequence[int]) -> list[int]:
        """Of each node, for a pod without."""
        total, used = self.view.cores, self.view.cores_used
        return [100 * (total[n] - used[n] - cores) // total[n] for n in nodes]

    def pick(self, kind: int, _cores: int, _has_room: Callable[[int], bool]) -> int:
        """What a pod that would do with this kind, or a larger one, is given to ask for."""
        return kind

    def changed(self, node: int, kind: int, cores: int, sign: int) -> None:
        """A pod was placed (+1), or left (-1)."""


class MostAllocated(Policy):
    """NodeResourcesFit with MostAllocated; a profile the pod does not ask for is not looked at."""

    def __init__(self, view: View, *, cpu: bool, mig: bool, every_pod: bool = False) -> None:
        super().__init__(view)
        self.cpu, self.mig, self.every_pod = cpu, mig, every_pod

    def points(self, kind: int, cores: int, nodes: Sequence[int]) -> list[int]:
        view = self.view
        parts = int(self.cpu) + int(self.mig)
        found = []
        for n in nodes:
            score = 0
            if self.cpu:
                score = 100 * (view.cores_used[n] + cores) // view.cores[n]
            if self.mig:
                score += 100 * (view.used[n][kind] + 1) // view.capacity[n][kind]
            found.append(score // parts)
        return found

    def plain(self, kind: int, cores: int, nodes: Sequence[int]) -> list[int]:
        if not self.every_pod:
            return super().plain(kind, cores, nodes)
        total, used = self.view.cores, self.view.cores_used
        return [100 * (used[n] + cores) // total[n] for n in nodes]


class Extender(Policy):
    """The default scheduler with an extender for pods with a slice or a GPU."""

    weight = WEIGHT

    def points(self, kind: int, cores: int, nodes: Sequence[int]) -> list[int]:
        scores = self.scores(kind, nodes)
        default = self.plain(kind, cores, nodes)
        return [
            10 * self.weight * scores.get(n, 0) + points
            for n, points in zip(nodes, default, strict=True)
        ]

    def scores(self, kind: int, nodes: Sequence[int]) -> Mapping[int, int]:
        """0 to 10; a node left out has 0."""
        raise NotImplementedError


class Fill(Extender):
    """The share of the node's GPU memory that is held, over all profiles, on a scale of 0 to 10."""

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._slots = [kind.memory_slices for kind in view.cluster.kinds]
        self._total = [self._held(capacity) for capacity in view.capacity]

    def _held(self, counts: Sequence[int]) -> int:
        return sum(slots * count for slots, count in zip(self._slots, counts, strict=True))

    def scores(self, _kind: int, nodes: Sequence[int]) -> Mapping[int, int]:
        used = self.view.used
        return {n: round(TOP_SCORE * self._held(used[n]) / self._total[n]) for n in nodes}


class PodCount(Extender):
    """The node with the most pods that hold a slice or a GPU, by rank."""

    def scores(self, _kind: int, nodes: Sequence[int]) -> Mapping[int, int]:
        places, pods = self.view.cluster.places, self.view.pods
        order = sorted(nodes, key=lambda n: (-pods[n], len(places[n].gpus), places[n].name))
        return {n: TOP_SCORE - rank for rank, n in enumerate(order[:TOP_SCORE])}


class Ours(Extender):
    """The production score, fed as the watch feeds it.

    Every pod is a workload of its own here, so `spreadReplicas` has nothing to do and is left out.
    """

    def __init__(
        self, view: View, read: Callable[[Place], Node] = lambda place: place.node
    ) -> None:
        super().__init__(view)
        places, kinds = view.cluster.places, view.cluster.kinds
        self._names = [place.name for place in places]
        self._number = {name: n for n, name in enumerate(self._names)}
        self._resources = [kind.resource for kind in kinds]
        self._capacity = Capacity()
        self._ranking = Ranking(self._capacity)
        for place in places:
            self._capacity.put_node(read(place))

    def scores(self, kind: int, nodes: Sequence[int]) -> Mapping[int, int]:
        names = {self._names[n] for n in nodes}
        found = self._ranking.scores(names, (self._resources[kind],), spread=False)
        return {self._number[name]: score for name, score in found}

    def changed(self, node: int, kind: int, cores: int, sign: int) -> None:
        gpus = () if kind == CPU_ONLY else ((self._resources[kind], 1),)
        holding = Holding(self._names[node], Ask(cpu_milli=1000 * cores), gpus)
        if sign > 0:
            self._capacity.hold(holding)
        else:
            self._capacity.release(holding)


class Substituting(Ours):
    """The smallest slice that is free and large enough; with lambda, as the webhook would choose."""

    def __init__(self, view: View, weight: float) -> None:
        super().__init__(view)
        self._weight = weight

    def pick(self, kind: int, cores: int, has_room: Callable[[int], bool]) -> int:
        kinds, index = self.view.cluster.kinds, self._capacity.index
        larger = [
            k for k in range(len(kinds)) if kinds[k].memory_slices >= kinds[kind].memory_slices
        ]
        free = [k for k in sorted(larger, key=lambda k: kinds[k].memory_slices) if has_room(k)]
        if not free or not self._weight:
            return free[0] if free else kind
        options = [Option(kinds[k].resource, kinds[k].memory_slices, index.all) for k in free]
        placing = Placing(self._capacity, self._ranking, Ask(cpu_milli=1000 * cores), spread=False)
        position = prefer(
            options, self._weight, placing, lambda which: spare(self._capacity, options[which])
        )
        return free[position]


def told(place: Place, resources: Sequence[str]) -> Node:
    """The node with its layout as an agent on it would tell."""
    cuts = [
        Cut(1, tuple((r, n) for r, n in zip(resources, gpu, strict=True) if n))
        for gpu in place.gpus
    ]
    return replace(place.node, layout=tuple(cuts))


def _ours_told(view: View) -> Policy:
    resources = [kind.resource for kind in view.cluster.kinds]
    return Ours(view, lambda place: told(place, resources))


DEFAULT = "default"
STOCK = ("MA mig", "MA cpu+mig", "MA cpu, GPU pods", "MA cpu, all pods")
FILL = "fill 0-10"
POD_COUNT = "pod count"
OURS = "migfit"
OURS_TOLD = "migfit, layouts told"
OURS_BLIND = "migfit, layouts unknown"

POLICIES: Mapping[str, Callable[[View], Policy]] = {
    DEFAULT: Policy,
    STOCK[0]: lambda view: MostAllocated(view, cpu=False, mig=True),
    STOCK[1]: lambda view: MostAllocated(view, cpu=True, mig=True),
    STOCK[2]: lambda view: MostAllocated(view, cpu=True, mig=False),
    STOCK[3]: lambda view: MostAllocated(view, cpu=True, mig=False, every_pod=True),
    FILL: Fill,
    POD_COUNT: PodCount,
    OURS: Ours,
    OURS_TOLD: _ours_told,
    OURS_BLIND: lambda view: Ours(view, lambda place: replace(place.node, layout=None)),
}
