"""Whether the simulator is right: idle GPUs under the real kube-scheduler, with the same pods.

60 fake nodes of 8 GPUs. The simulator of bench/packing.py keeps the time and the load; for each pod the
real scheduler is asked, with its default configuration, with MostAllocated on cpu and the names of
the MIG resources, and with migfit as the sample under deploy/scheduler has it. Which GPU of the node a
slice comes from is drawn, as a device plugin would. Beside each the simulator's own answer to the
same pods.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench._packing_bound import mean_and_half_width
from bench._packing_clusters import Scenario, build
from bench._packing_policies import DEFAULT, OURS, POLICIES, WEIGHT, Extender, Policy, View
from bench._packing_real import MA_CPU_MIG, REAL, scheduling
from bench._packing_scenarios import u1
from bench._packing_simulation import Outcome, simulate
from bench._pages import fill_in, table
from bench._plane import control_plane
from bench._scheduling import Production
from tests.controlplane.plane import ControlPlane

SEEDS = (611_401, 611_402, 611_403)
"""Used for nothing before the figures in the documentation were made with them."""
SCENARIOS = (
    Scenario(name="U1 .30", machines=u1(each=15), load=0.30, horizon=6.0, warm_up=3.0),
    Scenario(
        name="U1 .30 churn 20%",
        machines=u1(each=15),
        load=0.30,
        churn=0.20,
        horizon=5.0,
        warm_up=3.0,
    ),
)
QUICK = (replace(SCENARIOS[0], machines=u1(each=2, gpus=2), horizon=3.0, warm_up=1.0),)
WEIGHTS = (1, 2, 5, 12, 30)
"""Of the extender, on a cluster of 12 nodes."""
WEIGHED = Scenario(name="U1 .30", machines=u1(), load=0.30, horizon=8.0, warm_up=3.0)
WITHIN = 0.10
"""How far the real scheduler's idle GPUs may be from the simulator's."""
PAGE = "consolidation.md"
RESULTS = "consolidation-real.json"


@dataclass(frozen=True, slots=True)
class Pair:
    """The same pods, placed by the real scheduler and by the simulator."""

    real: Outcome
    simulated: Outcome


def run(
    plane: ControlPlane,
    production: Production,
    scenario: Scenario,
    seed: int,
    policy: str,
    weight: int = WEIGHT,
) -> Pair:
    """One scenario and seed under one policy."""
    kinds = build(scenario, tuple(range(len(scenario.machines)))).kinds
    resources = [kind.resource for kind in kinds]

    def simulated(view: View) -> Policy:
        made = POLICIES[policy](view)
        if isinstance(made, Extender):
            made.weight = weight
        return made

    with scheduling(plane, production, policy, resources, weight) as begin:
        return Pair(simulate(scenario, seed, begin), simulate(scenario, seed, simulated))


def weigh(
    plane: ControlPlane, production: Production, scenario: Scenario, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """A row for each weight of the extender."""
    made = []
    for weight in WEIGHTS:
        pairs = [run(plane, production, scenario, seed, OURS, weight) for seed in seeds]
        made.append(
            {
                "weight": weight,
                "idle GPUs": round(statistics.fmean(p.real.idle_gpus for p in pairs), 1),
                "simulated": round(statistics.fmean(p.simulated.idle_gpus for p in pairs), 1),
                "idle nodes": round(statistics.fmean(p.real.idle_nodes for p in pairs), 2),
            }
        )
        sys.stderr.write(f"weight {weight}: {made[-1]['idle GPUs']} idle GPUs\n")
    return made


def rows(scenario: str, found: Mapping[str, Sequence[Pair]]) -> list[dict[str, Any]]:
    """A row for each policy."""
    made = []
    for policy, pairs in found.items():
        real = [pair.real.idle_gpus for pair in pairs]
        simulated = [pair.simulated.idle_gpus for pair in pairs]
        made.append(
            {
                "scenario": scenario,
                "policy": policy,
                "idle GPUs": round(statistics.fmean(real), 1),
                "simulated": round(statistics.fmean(simulated), 1),
                "real / simulated": round(statistics.fmean(real) / statistics.fmean(simulated), 3),
                "idle nodes": round(statistics.fmean(p.real.idle_nodes for p in pairs), 2),
                "nodes simulated": round(
                    statistics.fmean(p.simulated.idle_nodes for p in pairs), 2
                ),
                "pods": sum(sum(pair.real.accepted) for pair in pairs),
            }
        )
    return made


def differences(scenario: str, found: Mapping[str, Sequence[Pair]]) -> list[dict[str, Any]]:
    """Ours minus each other policy, seed by seed: really, and simulated."""
    made = []
    for other in (DEFAULT, MA_CPU_MIG):
        pairs = list(zip(found[OURS], found[other], strict=True))
        real = [ours.real.idle_gpus - its.real.idle_gpus for ours, its in pairs]
        simulated = [ours.simulated.idle_gpus - its.simulated.idle_gpus for ours, its in pairs]
        mean, half = mean_and_half_width(real)
        by_simulator, its_half = mean_and_half_width(simulated)
        made.append(
            {
                "scenario": scenario,
                "migfit minus": other,
                "really": [mean, half],
                "simulated": [by_simulator, its_half],
                "same sign": (mean > 0) == (by_simulator > 0),
            }
        )
    return made


def figures(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was to be reached."""
    far = [
        f"{row['scenario']}, {row['policy']}: {row['real / simulated']:.2f}"
        for row in found["rows"]
        if abs(row["real / simulated"] - 1) > WITHIN
    ]
    against = [
        f"{row['scenario']}, minus {row['migfit minus']}"
        for row in found["differences"]
        if not row["same sign"]
    ]
    texts = {
        f"idle GPUs more than {WITHIN:.0%} from the simulator's": far,
        "differences of another sign than the simulator's": against,
    }
    return [
        {
            "figure": what,
            "value": "; ".join(which) or "none",
            "target": "none",
            "": "not reached" if which else "reached",
        }
        for what, which in texts.items()
    ]


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run everything."""
    scenarios: Sequence[Scenario] = SCENARIOS if given.all else SCENARIOS[:1]
    seeds: Sequence[int] = SEEDS
    weighed = WEIGHED
    if given.quick:
        scenarios, seeds, weighed = QUICK, (1, 2), QUICK[0]
    begun_s = time.monotonic()
    found: dict[str, Any] = {"benchmark": "packing_real", "rows": [], "differences": []}
    with control_plane() as plane, tempfile.TemporaryDirectory() as folder:
        production = Production(plane, Path(folder))
        for scenario in scenarios:
            pairs: dict[str, list[Pair]] = {policy: [] for policy in REAL}
            for seed in seeds:
                for policy, of_policy in pairs.items():
                    of_policy.append(run(plane, production, scenario, seed, policy))
                    sys.stderr.write(
                        f"{scenario.name}, seed {seed}, {policy}: "
                        f"{of_policy[-1].real.idle_gpus:.1f} idle GPUs, "
                        f"{of_policy[-1].simulated.idle_gpus:.1f} simulated, "
                        f"{time.monotonic() - begun_s:.0f} s\n"
                    )
            found["rows"] += rows(scenario.name, pairs)
            found["differences"] += differences(scenario.name, pairs)
        found["weights"] = weigh(plane, production, weighed, seeds)
    return found | {
        "command": " ".join(["python", "bench/packing_real.py", *sys.argv[1:]]),
        "seeds": list(seeds),
        "nodes": len(scenarios[0].machines),
        "gpus": sum(len(machine.layouts) for machine in scenarios[0].machines),
        "load average": [round(load, 1) for load in os.getloadavg()],
        "seconds": round(time.monotonic() - begun_s),
        "figures": figures(found),
    }


def parts(found: Mapping[str, Any]) -> dict[str, str]:
    """The generated part of the page."""
    head = [
        "scenario", "policy", "idle GPUs", "simulated", "real / simulated", "idle nodes", "simulated",
        "pods after warm-up",
    ]  # fmt: skip
    body = [[str(value) for value in row.values()] for row in found["rows"]]
    signs = [
        [
            row["scenario"],
            f"minus {row['migfit minus']}",
            *(f"{row[key][0]:+.1f} ± {row[key][1]:.1f}" for key in ("really", "simulated")),
        ]
        for row in found["differences"]
    ]
    made = (
        f"Made by `{found['command']}` in {found['seconds'] // 60 + 1} minutes; {found['nodes']} nodes, "
        f"{found['gpus']} GPUs, {len(found['seeds'])} seeds; load average at the end "
        f"{found['load average'][0]}.\n\n"
    )
    ours = table(["scenario", "migfit", "really", "simulated"], signs)
    weights = [[str(value) for value in row.values()] for row in found["weights"]]
    return {
        "real": made + table(head, body) + "\n" + ours,
        "weight": table(["weight", "idle GPUs of 96", "simulated", "idle nodes of 12"], weights),
    }


def tell(found: Mapping[str, Any]) -> None:
    """Print the tables for people."""
    print(*parts(found).values(), sep="\n")
    for figure in found["figures"]:
        print(f"{figure['figure']}: {figure['value']} ({figure['']})")


def main() -> None:
    """Measure, or take what was measured before, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="eight small nodes, two seeds, short")
    parser.add_argument("--all", action="store_true", help="also with pods that ask for cpu only")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
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
    if given.json:
        print(json.dumps(found, indent=1))
    else:
        tell(found)


if __name__ == "__main__":
    main()
