"""What comes to a cluster: drawn before the run, so that every policy is asked the same."""

import math
import random
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from bench._packing_clusters import Cluster, Kind, Scenario, build

CPU_ONLY = -1
"""In place of a kind: a pod without a GPU."""

BURST = 10
"""Pods in a burst, on average; their number is geometric."""
DAY = 12.0
"""Period of the diurnal load, in mean lifetimes."""
SWING = 0.9
SIGMA = 1.8
"""Of the log-normal lifetimes."""
CPU_ONLY_CORES = range(1, 17)


class Arrival(NamedTuple):
    """A pod: when it comes, what it asks for, how long it stays if it is accepted."""

    at: float
    kind: int
    cores: int
    lifetime: float


@lru_cache(maxsize=1)
def stream(scenario: Scenario, seed: int) -> tuple[Arrival, ...]:
    """All arrivals up to the horizon, in order of time."""
    cluster = build(scenario, tuple(range(len(scenario.machines))))
    chance = random.Random(f"{seed} arrivals")
    found = [
        Arrival(
            at, kind, _cores(scenario, cluster.kinds[kind], chance), _lifetime(scenario, chance)
        )
        for at, kind in _gpu_pods(scenario, cluster, chance)
    ]
    if scenario.churn:
        cores = sum(place.cores for place in cluster.places)
        mean = sum(CPU_ONLY_CORES) / len(CPU_ONLY_CORES)
        found += [
            Arrival(at, CPU_ONLY, chance.choice(CPU_ONLY_CORES), chance.expovariate(1))
            for at in _times(scenario.churn * cores / mean, scenario.horizon, chance)
        ]
    return tuple(sorted(found))


def _times(rate: float, horizon: float, chance: random.Random) -> Iterator[float]:
    at = chance.expovariate(rate)
    while at < horizon:
        yield at
        at += chance.expovariate(rate)


def _gpu_pods(
    scenario: Scenario, cluster: Cluster, chance: random.Random
) -> Iterator[tuple[float, int]]:
    kinds = range(len(cluster.kinds))
    more = scenario.demand or (1.0,) * len(kinds)
    weights = [kind.total * factor for kind, factor in zip(cluster.kinds, more, strict=True)]
    rate = scenario.load * sum(weights)
    if scenario.arrivals == "bursts":
        for at in _times(rate / BURST, scenario.horizon, chance):
            (kind,) = chance.choices(kinds, weights)
            size = 1 + int(math.log(1 - chance.random()) / math.log(1 - 1 / BURST))
            for _ in range(size):
                yield at, kind
        return
    swing = SWING if scenario.arrivals == "diurnal" else 0.0
    for at in _times(rate * (1 + swing), scenario.horizon, chance):
        now = 1 + swing * math.sin(2 * math.pi * at / DAY)
        if chance.random() * (1 + swing) < now:
            yield at, chance.choices(kinds, weights)[0]


def _cores(scenario: Scenario, kind: Kind, chance: random.Random) -> int:
    if scenario.whole_cores and kind.memory_slices == 8:
        return scenario.whole_cores
    if scenario.cpu == "prop":
        return 2 * kind.memory_slices
    if scenario.cpu == "anti":
        return max(2, 8 // kind.memory_slices)
    return chance.choice((1, 2, 4, 8))


def _lifetime(scenario: Scenario, chance: random.Random) -> float:
    if scenario.lifetimes == "heavy":
        return chance.lognormvariate(-SIGMA * SIGMA / 2, SIGMA)
    return chance.expovariate(1)
