"""What `consolidation.lambda` does to a cluster: idle GPUs won, large pods turned away for it.

The simulator of `bench/packing.py`; pods take any slice that is large enough, chosen by the production
code: the smallest one free, or with lambda a larger one where that keeps a GPU idle.
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench._packing_bound import mean_and_half_width
from bench._packing_clusters import ALL_1G, ALL_2G, ALL_3G, BALANCED, ONE_7G, Scenario, build
from bench._packing_policies import Substituting
from bench._packing_runs import shortened
from bench._packing_scenarios import alike, u1, u3
from bench._packing_simulation import Outcome, simulate
from bench._pages import fill_in, table

SEEDS = tuple(range(845_201, 845_211))
"""Used for nothing before the figures in the documentation were made with them."""
QUICK_SEEDS = (1, 2, 3)
WEIGHTS = (0.0, 1.0, 2.0, 3.0, 4.0, 8.0)
SMALL = (2.0, 0.6, 0.6, 0.6)
"""Twice as many of the smallest, fewer of the others."""

LADDER = (
    *alike((BALANCED,), 7, 256),
    *alike((ALL_1G, ALL_2G, ALL_3G), 1, 256),
    *alike((ONE_7G,), 2, 256),
)
"""Seven balanced nodes, one each of 1g, 2g and 3g, two with their GPUs in one slice each."""

SCENARIOS = (
    Scenario(name="ladder .30", machines=LADDER, load=0.30),
    Scenario(name="ladder .50", machines=LADDER, load=0.50),
    Scenario(name="ladder .50, small pods", machines=LADDER, load=0.50, demand=SMALL),
    Scenario(name="ladder .70", machines=LADDER, load=0.70),
    Scenario(name="ladder .70, small pods", machines=LADDER, load=0.70, demand=SMALL),
    Scenario(name="ladder .85", machines=LADDER, load=0.85),
    Scenario(name="U3 .30", machines=u3(), load=0.30),
    Scenario(name="U1 .30", machines=u1(), load=0.30),
)
PAGE = "consolidation.md"
RESULTS = "consolidation-lambda.json"


@dataclass(frozen=True, slots=True)
class Task:
    """One scenario and seed, under every lambda."""

    scenario: Scenario
    seed: int


def run(task: Task) -> tuple[str, int, list[tuple[float, float, float]]]:
    """For every lambda idle GPUs, percent of all pods accepted, percent of the largest kind."""
    scenario = task.scenario
    kinds = build(scenario, tuple(range(len(scenario.machines)))).kinds
    largest = max(range(len(kinds)), key=lambda k: kinds[k].memory_slices)
    found = []
    for weight in WEIGHTS:
        outcome = simulate(scenario, task.seed, partial(Substituting, weight=weight))
        found.append((outcome.idle_gpus, _percent(outcome), _percent(outcome, largest)))
    return scenario.name, task.seed, found


def _percent(outcome: Outcome, kind: int | None = None) -> float:
    if kind is not None:
        return 100 * outcome.accepted[kind] / max(1, outcome.offered[kind])
    return 100 * sum(outcome.accepted[:-1]) / sum(outcome.offered[:-1])


def row(name: str, seeds: Sequence[Sequence[tuple[float, float, float]]]) -> dict[str, Any]:
    """One scenario: lambda 0 as it is, the others as differences to it, paired by seed."""
    measures = ("idle GPUs", "accepted %", "accepted % of the largest")
    found: dict[str, Any] = {"scenario": name, "lambda 0": {}}
    for number, what in enumerate(measures):
        found["lambda 0"][what] = sum(seed[0][number] for seed in seeds) / len(seeds)
    for position, weight in enumerate(WEIGHTS[1:], start=1):
        found[f"lambda {weight:g}"] = {
            what: mean_and_half_width([s[position][number] - s[0][number] for s in seeds])
            for number, what in enumerate(measures)
        }
    return found


def _cell(found: Mapping[str, Any]) -> str:
    idle, largest = found["idle GPUs"], found["accepted % of the largest"]
    return f"{idle[0]:+.1f} ± {idle[1]:.1f} / {largest[0]:+.1f} ± {largest[1]:.1f}"


def lines(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and body of the table."""
    head = ["scenario", "idle GPUs at 0", *(f"lambda {w:g}" for w in WEIGHTS[1:])]
    body = [
        [
            each["scenario"],
            f"{each['lambda 0']['idle GPUs']:.1f}",
            *(_cell(each[f"lambda {w:g}"]) for w in WEIGHTS[1:]),
        ]
        for each in rows
    ]
    return head, body


def parts(found: Mapping[str, Any]) -> dict[str, str]:
    """The generated part of the page."""
    seeds = found["seeds"]
    made = f"Made by `{found['command']}`; seeds {seeds[0]} to {seeds[-1]}.\n\n"
    return {"lambda": made + table(*lines(found["rows"]))}


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run everything."""
    scenarios: Sequence[Scenario] = SCENARIOS
    seeds: Sequence[int] = SEEDS
    if given.quick:
        scenarios = [shortened(scenario, 20.0, 5.0) for scenario in SCENARIOS[:2]]
        seeds = QUICK_SEEDS
    found: dict[str, dict[int, list[tuple[float, float, float]]]] = {s.name: {} for s in scenarios}
    tasks = [Task(scenario, seed) for scenario in scenarios for seed in seeds]
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for name, seed, runs in pool.imap_unordered(run, tasks):
            found[name][seed] = runs
    return {
        "benchmark": "consolidation",
        "command": " ".join(["python", "bench/consolidation.py", *sys.argv[1:]]),
        "seeds": list(seeds),
        "rows": [row(name, [runs for _, runs in sorted(s.items())]) for name, s in found.items()],
    }


def main() -> None:
    """Measure, or take what was measured before, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two scenarios, short, three seeds")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--processes", type=int, default=2, help="how many at once; 2 by default")
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="earlier", help="run nothing; take FILE"
    )
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="page and results there")
    given = parser.parse_args()
    found = json.loads(given.earlier.read_text("utf-8")) if given.earlier else measure(given)
    if given.write:
        kept, page = given.write / RESULTS, given.write / PAGE
        kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        page.write_text(fill_in(page.read_text("utf-8"), parts(found)), encoding="utf-8")
    print(json.dumps(found, indent=1) if given.json else table(*lines(found["rows"])))


if __name__ == "__main__":
    main()
