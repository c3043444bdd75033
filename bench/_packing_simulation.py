"""Pods come, are placed or turned away, and leave: one cluster, one policy, one seed."""

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from bench._packing_clusters import Cluster, Scenario, build
from bench._packing_policies import POLICIES, Policy, View
from bench._packing_stream import CPU_ONLY, Arrival, stream

SAMPLED_EVERY = 2.0
"""Mean lifetimes between two snapshots for the re-pack bound."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What ran at one moment, and what was idle."""

    running: tuple[int, ...]
    """Pods of each kind."""
    idle_gpus: int
    idle_nodes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run, from the end of the warm-up to the horizon."""

    idle_gpus: float
    """Mean over time of GPUs without a pod."""
    idle_nodes: float
    """Mean over time of nodes without a pod that holds a GPU or a slice."""
    offered: tuple[int, ...]
    """Pods of each kind; pods without GPUs last."""
    accepted: tuple[int, ...]
    in_use: float
    """Mean over time of slices and GPUs in use."""
    samples: tuple[Sample, ...]


@dataclass(slots=True)
class _Tally:
    """Means over time, kept from event to event."""

    cluster: Cluster
    begin: float
    view: View
    pods_on: list[list[int]]
    """For each node, pods on each of its GPUs."""
    now: float = 0.0
    next_sample: float = 0.0
    idle_gpus: int = 0
    idle_nodes: int = 0
    running: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    samples: list[Sample] = field(default_factory=list)

    def until(self, at: float) -> None:
        """Let time pass, in which nothing changed."""
        lasted = at - max(self.now, self.begin)
        if lasted > 0:
            self.sums[0] += lasted * self.idle_gpus
            self.sums[1] += lasted * self.idle_nodes
            self.sums[2] += lasted * self.running
        while self.next_sample <= at:
            if self.next_sample >= self.begin:
                used = self.view.used
                running = tuple(map(sum, zip(*used, strict=True)))
                self.samples.append(Sample(running, self.idle_gpus, self.idle_nodes))
            self.next_sample += SAMPLED_EVERY
        self.now = at

    def change(self, node: int, gpu: int, kind: int, sign: int) -> None:
        """A pod with a slice or a GPU came (+1) or left (-1)."""
        self.view.used[node][kind] += sign
        self.view.pods[node] += sign
        self.pods_on[node][gpu] += sign
        self.running += sign
        boundary = int(sign > 0)  # one pod after coming, none after leaving
        self.idle_gpus -= sign * (self.pods_on[node][gpu] == boundary)
        self.idle_nodes -= sign * (self.view.pods[node] == boundary)


def simulate(
    scenario: Scenario, seed: int, policy: str | Callable[[View], Policy], cores_factor: int = 1
) -> Outcome:
    """One run. The same seed brings the same pods at the same times, whatever the policy.

    Args:
        scenario: cluster and load.
        seed: of names, arrivals and chance.
        policy: its name, or how to make it.
        cores_factor: by how much every node has more cores than the scenario says.
    """
    names = list(range(len(scenario.machines)))
    random.Random(f"{seed} names").shuffle(names)
    cluster = build(scenario, tuple(names))
    cores = [place.cores * cores_factor for place in cluster.places]
    resident = random.Random(f"{seed} resident")
    view = View(
        cluster,
        cores,
        [int(place.cores * scenario.resident * resident.random()) for place in cluster.places],
        [place.capacity for place in cluster.places],
        [[0] * len(cluster.kinds) for _ in cluster.places],
        [0] * len(cluster.places),
    )
    made = (POLICIES[policy] if isinstance(policy, str) else policy)(view)
    return _run(scenario, view, made, stream(scenario, seed), seed)


def _free(cluster: Cluster) -> list[list[list[int]]]:
    """For each node and kind the GPU of every free slice."""
    return [
        [
            [number for number, gpu in enumerate(place.gpus) for _ in range(gpu[kind])]
            for kind in range(len(cluster.kinds))
        ]
        for place in cluster.places
    ]


def _run(
    scenario: Scenario, view: View, policy: Policy, arrivals: Sequence[Arrival], seed: int
) -> Outcome:
    cluster = view.cluster
    chance = random.Random(f"{seed} device choice")
    free = _free(cluster)
    tally = _Tally(
        cluster,
        scenario.warm_up,
        view,
        [[0] * len(place.gpus) for place in cluster.places],
        idle_gpus=cluster.gpus,
        idle_nodes=len(cluster.places),
    )
    offered = [0] * (len(cluster.kinds) + 1)
    accepted = [0] * (len(cluster.kinds) + 1)
    leaving: list[tuple[float, int, int, int, int, int]] = []
    everywhere = range(len(cluster.places))
    total, used = view.cores, view.cores_used

    def leave_until(at: float) -> None:
        while leaving and leaving[0][0] <= at:
            gone, _, node, gpu, kind, cores = heapq.heappop(leaving)
            tally.until(gone)
            used[node] -= cores
            if kind != CPU_ONLY:
                tally.change(node, gpu, kind, -1)
                free[node][kind].append(gpu)
            policy.changed(node, kind, cores, -1)

    def has_room(kind: int, nodes: Sequence[int]) -> bool:
        return any(free[n][kind] for n in nodes)

    for number, (at, asked, cores, lifetime) in enumerate(arrivals):
        leave_until(at)
        tally.until(at)
        counts = at >= scenario.warm_up
        offered[asked] += counts
        gpu = -1
        nodes = [n for n in everywhere if used[n] + cores <= total[n]]
        kind = asked
        if kind != CPU_ONLY:
            kind = policy.pick(asked, cores, partial(has_room, nodes=nodes))
            nodes = [n for n in nodes if free[n][kind]]
        if not nodes:
            continue
        score = policy.plain if kind == CPU_ONLY else policy.points
        points = score(kind, cores, nodes)
        top = max(points)
        best = [n for n, p in zip(nodes, points, strict=True) if p == top]
        node = best[0] if len(best) == 1 else chance.choice(best)
        accepted[asked] += counts
        used[node] += cores
        if kind != CPU_ONLY:
            # The device plugin of today: any free slice of that name.
            slices = free[node][kind]
            position = chance.randrange(len(slices))
            slices[position], slices[-1] = slices[-1], slices[position]
            gpu = slices.pop()
            tally.change(node, gpu, kind, 1)
        policy.changed(node, kind, cores, 1)
        heapq.heappush(leaving, (at + lifetime, number, node, gpu, kind, cores))
    leave_until(scenario.horizon)
    tally.until(scenario.horizon)
    lasted = scenario.horizon - scenario.warm_up
    return Outcome(
        idle_gpus=tally.sums[0] / lasted,
        idle_nodes=tally.sums[1] / lasted,
        offered=tuple(offered),
        accepted=tuple(accepted),
        in_use=tally.sums[2] / lasted,
        samples=tuple(tally.samples),
    )
