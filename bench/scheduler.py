"""What an extender costs the real kube-scheduler, and what happens when the extender fails.

etcd, kube-apiserver and kube-scheduler as built by `make controlplane`; fake nodes with 24 slices each;
pods that ask for one, 4 KB, as the webhook leaves them. They are created before the scheduler starts,
so that nothing but scheduling is measured: pods/s from the first bound to the last. Then pods come at
40 a second, each timed from its creation until a watch shows it bound. The scheduler is configured as
the sample under deploy/scheduler says, but for the verbs and the address; the do-nothing extender is
an aiohttp handler that parses, passes every node and prefers none.

Faults: the extender is stopped (SIGSTOP), or killed, when half of the pods are bound; or it answers
garbage from the start. What is left then is held against a round without a fault, and one without an
extender, of the same turn.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench._extenders import do_nothing, garbage
from bench._figures import Figure, options, report
from bench._plane import Creator, control_plane
from bench._scheduling import (
    Act,
    Backlog,
    Contender,
    Production,
    Rounds,
    fill_nodes,
    kill,
    nobody,
    process_of,
    stop_for,
)

ONE, BOTH = ("prioritize",), ("filter", "prioritize")
WITHOUT = "no extender"
_UNDER_WAY_S = 3.0


@dataclass(frozen=True, slots=True)
class Size:
    """How large, how often, how long."""

    nodes: int
    pods: int
    rounds: int
    paced_s: float
    hung_s: float = 0.0
    fault_rounds: int = 0
    aimed_at: bool = True
    """Whether its ratios are among the figures to reach."""


LARGE = (
    Size(100, 2000, 5, 5.0, aimed_at=False),
    Size(1000, 2000, 5, 5.0, hung_s=15.0, fault_rounds=3),
)
SMALL = (Size(100, 200, 1, 1.0, hung_s=3.0, fault_rounds=1),)


def contenders(production: Production) -> list[Contender]:
    """Whom to hold against whom: each after its baseline."""
    nothing = process_of(do_nothing)
    return [
        Contender(WITHOUT, (), nobody),
        Contender("do nothing: prioritize", ONE, nothing),
        Contender("migfit: prioritize", ONE, production.start),
        Contender("do nothing: filter, prioritize", BOTH, nothing),
        Contender("migfit: filter, prioritize", BOTH, production.start),
    ]


def main() -> None:
    """Measure every size and print."""
    given = options(__doc__ or "")
    begun_s = time.monotonic()
    rows: list[dict[str, Any]] = []
    faults: list[dict[str, Any]] = []
    figures: list[Figure] = []
    with (
        control_plane() as plane,
        tempfile.TemporaryDirectory() as folder,
        closing(Creator(plane)) as creator,
    ):
        production = Production(plane, Path(folder))
        for size in SMALL if given.quick else LARGE:
            fill_nodes(plane, creator, size.nodes)
            rounds = Rounds(plane, creator, size.pods)
            turns = given.turns or size.rounds
            found, ratios = measure(rounds, production, replace(size, rounds=turns))
            rows += found
            figures += ratios if size.aimed_at else []
            faults += measure_faults(rounds, production, size)
    report("scheduler", rows, figures, given, begun_s, also=[faults])


def measure(
    rounds: Rounds, production: Production, size: Size
) -> tuple[list[dict[str, Any]], list[Figure]]:
    """A row for each contender, and the ratios, of rounds that take turns."""
    every = contenders(production)
    backlogs: dict[str, list[Backlog]] = {one.name: [] for one in every}
    waits_s: dict[str, list[float]] = {one.name: [] for one in every}
    for number in range(size.rounds):
        for one in every if number % 2 == 0 else reversed(every):
            backlog, waited_s = rounds.backlog(one, size.paced_s)
            backlogs[one.name].append(backlog)
            waits_s[one.name] += waited_s

    def ratio(ours: str, other: str) -> float:
        pairs = zip(backlogs[ours], backlogs[other], strict=True)
        return statistics.median(one.per_s / another.per_s for one, another in pairs)

    def of_baseline(name: str) -> float:
        return ratio(name, name.replace("migfit", "do nothing"))

    rows: list[dict[str, Any]] = [
        {
            "extender": name,
            "nodes": size.nodes,
            "pods": size.pods,
            "pods/s": round(statistics.median(one.per_s for one in backlogs[name]), 1),
            "cycle ms": round(statistics.median(one.cycle_ms for one in backlogs[name]), 2),
            "bound after ms p50": round(_percentile_ms(waits_s[name], 50), 1),
            "p99": round(_percentile_ms(waits_s[name], 99), 1),
            "of no extender": f"{ratio(name, WITHOUT):.2f}" if name != WITHOUT else "",
            "of do nothing": f"{of_baseline(name):.2f}" if name.startswith("migfit") else "",
        }
        for name in backlogs
    ]
    at = f"{size.nodes} nodes, {size.pods} pods"
    prioritize, both = "migfit: prioritize", "migfit: filter, prioritize"
    figures = [
        *(
            Figure(f"{name}, {at}: pods/s of do nothing", of_baseline(name), 0.9, "x", True)
            for name in (prioritize, both)
        ),
        Figure(
            f"{prioritize}, {at}: pods/s of no extender",
            ratio(prioritize, WITHOUT),
            0.7,
            at_least=True,
        ),
    ]
    return rows, figures


def _percentile_ms(values_s: list[float], percent: float) -> float:
    ordered = sorted(values_s)
    return 1000 * ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def measure_faults(rounds: Rounds, production: Production, size: Size) -> list[dict[str, Any]]:
    """A row for each thing that can go wrong; medians over the turns."""
    without = Contender(WITHOUT, (), nobody)
    ours = Contender("migfit", BOTH, production.start)
    babbling = Contender("garbage", BOTH, process_of(garbage))
    cases: list[tuple[str, Contender, Act | None]] = [
        ("none", ours, None),
        (f"stopped half-way for {size.hung_s:g} s", ours, stop_for(size.hung_s)),
        ("killed half-way", ours, kill),
        ("answers garbage", babbling, None),
    ]
    seen: dict[str, list[Fault]] = {what: [] for what, _, _ in cases}
    plain_per_s: list[float] = []
    for _ in range(size.fault_rounds):
        plain_per_s.append(rounds.backlog(without, 0.0)[0].per_s)
        for what, contender, act in cases:
            seen[what].append(fault_of(rounds.backlog(contender, 0.0, act)[0]))
    undisturbed = [fault.during_per_s for fault in seen["none"]]
    return [
        {
            "fault": what,
            "nodes": size.nodes,
            "bound": f"{min(each.bound for each in turns)}/{size.pods}",
            **{name: _median(turns, field) for name, field in _SHOWN.items()},
            "of migfit": _share(turns, undisturbed),
            "of no extender": _share(turns, plain_per_s),
        }
        for what, turns in seen.items()
        if turns
    ]


@dataclass(frozen=True, slots=True)
class Fault:
    """What came of a round in which something went wrong; `nan` where there is nothing to tell."""

    bound: int
    before_per_s: float
    during_per_s: float
    lasted_s: float
    after_per_s: float
    first_after_s: float
    longest_gap_s: float


_SHOWN = {
    "before/s": "before_per_s",
    "during/s": "during_per_s",
    "for s": "lasted_s",
    "after/s": "after_per_s",
    "first after s": "first_after_s",
    "longest gap s": "longest_gap_s",
}


def fault_of(backlog: Backlog) -> Fault:
    """Look at a round from its fault on, which may be its begin."""
    first_s, last_s = backlog.at_s[0], backlog.at_s[-1]
    begun_s = first_s if math.isinf(backlog.acted_s) else backlog.acted_s
    until_s = min(backlog.mended_s, last_s)
    # What had a node already is still being bound for a moment.
    settled_s = begun_s + (_UNDER_WAY_S if until_s - begun_s > 2 * _UNDER_WAY_S else 0.0)
    mended = backlog.mended_s < last_s
    back_s = next((at for at in backlog.at_s if at > until_s), until_s) - until_s
    return Fault(
        bound=len(backlog.at_s),
        before_per_s=backlog.between(first_s, begun_s) if begun_s > first_s else math.nan,
        during_per_s=backlog.between(settled_s, until_s),
        lasted_s=until_s - begun_s,
        after_per_s=backlog.between(until_s, last_s) if mended else math.nan,
        first_after_s=back_s if mended else math.nan,
        longest_gap_s=backlog.longest_gap_s(begun_s),
    )


def _median(turns: Sequence[Fault], field: str) -> str:
    value = statistics.median(getattr(each, field) for each in turns)
    return "" if math.isnan(value) else f"{value:.1f}"


def _share(turns: Sequence[Fault], whole_per_s: Sequence[float]) -> str:
    pairs = zip(turns, whole_per_s, strict=True)
    return f"{statistics.median(each.during_per_s / whole for each, whole in pairs):.2f}"


if __name__ == "__main__":
    main()
