"""What an extender costs the real kube-scheduler, and what happens when the extender fails.

etcd, kube-apiserver and kube-scheduler as built by `make controlplane`; fake nodes with 24 slices each;
pods that ask for one, 4 KB, as the webhook leaves them. They are created before the scheduler starts,
so that nothing but scheduling is measured: pods/s from the first bound to the last. Then pods come at
40 a second, each timed from its creation until a watch shows it bound. The scheduler is configured as
the sample under deploy/scheduler says, but for the verbs and the address; the do-nothing extender is
an aiohttp handler that parses, passes every node and prefers none.

Faults: the extender is stopped (SIGSTOP), or killed, when half of the pods are bound; or it answers
garbage from the start.
"""

import math
import statistics
import tempfile
import time
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
    hung_s: float
    """0: no faults."""


LARGE = (Size(100, 2000, 5, 5.0, 0.0), Size(1000, 2000, 5, 5.0, 15.0))
SMALL = (Size(100, 200, 1, 1.0, 3.0),)


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
            figures += ratios
            if size.hung_s:
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

    def of_baseline(name: str) -> str:
        kind, _, verbs = name.partition(": ")
        return f"{ratio(name, f'do nothing: {verbs}'):.2f}" if kind == "migfit" else ""

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
            "of do nothing": of_baseline(name),
        }
        for name in backlogs
    ]
    at = f"{size.nodes} nodes, {size.pods} pods"
    prioritize, both = "migfit: prioritize", "migfit: filter, prioritize"
    figures = [
        *(
            Figure(f"{name}, {at}: pods/s of do nothing", float(of_baseline(name)), 0.9, "x", True)
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
    """A row for each thing that can go wrong."""
    ours = Contender("migfit", BOTH, production.start)
    babbling = Contender("garbage", BOTH, process_of(garbage))
    cases: list[tuple[str, Contender, Act | None]] = [
        (f"stopped half-way for {size.hung_s:g} s", ours, stop_for(size.hung_s)),
        ("killed half-way", ours, kill),
        ("answers garbage", babbling, None),
    ]
    rows = []
    for what, contender, act in cases:
        backlog, _ = rounds.backlog(contender, 0.0, act)
        rows.append({"fault": what, "nodes": size.nodes, **_fault_row(backlog, size.pods)})
    return rows


def _fault_row(backlog: Backlog, pods: int) -> dict[str, Any]:
    first_s, last_s = backlog.at_s[0], backlog.at_s[-1]
    begun_s = first_s if math.isinf(backlog.acted_s) else backlog.acted_s
    until_s = min(backlog.mended_s, last_s)
    # What had a node already is still being bound for a moment.
    settled_s = begun_s + (_UNDER_WAY_S if until_s - begun_s > 2 * _UNDER_WAY_S else 0.0)
    before = backlog.between(first_s, begun_s) if begun_s > first_s else math.nan
    mended = backlog.mended_s < last_s
    back_s = next((at for at in backlog.at_s if at > until_s), until_s) - until_s
    return {
        "bound": f"{len(backlog.at_s)}/{pods}",
        "before/s": _shown(before),
        "during/s": _shown(backlog.between(settled_s, until_s)),
        "for s": _shown(until_s - begun_s),
        "after/s": _shown(backlog.between(until_s, last_s) if mended else math.nan),
        "first after s": _shown(back_s if mended else math.nan),
        "longest gap s": _shown(backlog.longest_gap_s(begun_s)),
    }


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"


if __name__ == "__main__":
    main()
