"""What the order of nodes is worth: idle GPUs and nodes under kube-scheduler's own scores and ours.

An event simulator of invented clusters, with the production score: pods with slices and whole GPUs come
and go, in most scenarios among pods without GPUs. Every policy is asked the same, with the same seeds.
Without options the smaller set of scenarios is run, ten seeds each.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench._packing_earlier import AGAINST, EARLIER, reproduced
from bench._packing_pages import (
    SHOWN,
    accepted,
    bars,
    beside_earlier,
    churn,
    idle,
    layouts,
)
from bench._packing_runs import BUSY, WRONG, Task, checks, chosen, row, run_all, shortened
from bench._pages import fill_in

SEEDS = tuple(range(816_301, 816_311))
"""Used for nothing before the figures in the documentation were made with them."""
QUICK_SEEDS = (1, 2, 3)
QUICK = ("U1 .30", "U2 .30", "U3 .30", "U1 .30 churn 20%", "U4 .30", "U5 .30")

PAGE = "consolidation.md"
RESULTS = "consolidation.json"
BARS = "idle-gpus.svg"
CHURN = "idle-gpus-by-cpu-load.svg"


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run everything."""
    begun_s = time.monotonic()
    scenarios = chosen(every=given.all)
    seeds: Sequence[int] = range(*given.seeds) if given.seeds else SEEDS
    busy = BUSY
    if given.only:
        scenarios = [s for s in chosen(every=True) if s.name == given.only]
    if given.quick:
        seeds = QUICK_SEEDS
        scenarios = [shortened(s, 24.0, 6.0) for s in scenarios if s.name in QUICK]
        busy = shortened(busy, 16.0, 6.0)
    tasks = [Task(scenario, seed) for scenario in scenarios for seed in seeds]

    def told(done: int) -> None:
        if sys.stderr.isatty():
            spent = time.monotonic() - begun_s
            end = "\n" if done == len(tasks) else ""
            sys.stderr.write(f"\r{done} of {len(tasks)} runs, {spent:.0f} s {end}")

    found = run_all(tasks, given.processes, told, given.resume)
    sizes = {s.name: sum(len(m.layouts) for m in s.machines) for s in scenarios}
    rows = [{**row(name, runs), "gpus": sizes[name]} for name, runs in found.items()]
    return {
        "benchmark": "packing",
        "machine": {
            "cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "python": platform.python_version(),
            "seconds": round(time.monotonic() - begun_s),
        },
        "command": " ".join(["python", "bench/packing.py", *sys.argv[1:]]),
        "seeds": list(seeds),
        "rows": rows,
        "checks": [] if given.only else checks(seeds, busy),
        "figures": figures(rows),
    }


def figures(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was to be reached."""
    losses = [
        row["scenario"]
        for row in rows
        if row["idle GPUs"]["minus"]["best stock"]["verdict"] == "loss"
    ]
    beyond = sum(row["beyond bound"] for row in rows)
    found = [
        _figure("scenarios with fewer idle GPUs than the best stock configuration", losses),
        _figure("snapshots with more idle than the re-pack bound", [str(beyond)] if beyond else []),
    ]
    for other in AGAINST:
        wins = [row for row in rows if _won_earlier(row["scenario"], other)]
        missed = [row["scenario"] for row in wins if not _again(row, other)]
        what = f"wins over {other} of the earlier simulator not met again, of {len(wins)}"
        found.append(_figure(what, missed))
    return found


def _figure(what: str, against: Sequence[str]) -> dict[str, Any]:
    return {
        "figure": what,
        "value": ", ".join(against) or "none",
        "target": "none",
        "": "not reached" if against else "reached",
    }


def _won_earlier(scenario: str, other: str) -> bool:
    mean, half = EARLIER[scenario].minus(other)
    return mean > 0 and mean >= half


def _again(row: Mapping[str, Any], other: str) -> bool:
    """Whether it is won again, by as much; by more is no miss."""
    mean, half = EARLIER[row["scenario"]].minus(other)
    now = row["idle GPUs"]["minus"][other]
    met = now["mean"] > mean or reproduced(now["mean"], now["half_width"], mean, half)
    return met and now["verdict"] != "loss"


def tell(found: Mapping[str, Any]) -> None:
    """Print the tables for people."""
    machine = {**found["machine"], "seeds": f"{found['seeds'][0]} to {found['seeds'][-1]}"}
    print(", ".join(f"{key}: {value}" for key, value in machine.items()), end="\n\n")
    for what, digits in (("idle GPUs", 1), ("idle nodes", 2)):
        print(_table([_shown(row, what, digits) for row in found["rows"]]), end="\n\n")
    print(*map(_table, filter(None, (found["checks"], found["figures"]))), sep="\n\n")


def _shown(row: Mapping[str, Any], what: str, digits: int) -> dict[str, str]:
    cells = row[what]
    best = cells["minus"]["best stock"]
    shown = {what: row["scenario"]}
    shown |= {policy: f"{cells['mean'][policy]:.{digits}f}" for policy in SHOWN}
    shown["minus best stock"] = (
        f"{best['mean']:+.{digits}f} ± {best['half_width']:.{digits}f} {best['verdict']}"
    )
    shown["bound"] = f"{cells['re-pack bound']:.{digits}f}"
    return shown


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def parts(found: Mapping[str, Any]) -> dict[str, str]:
    """The generated parts of the page."""
    rows = found["rows"]
    wide = [
        f"| {line['check']} | {line['expected']} | {line['found']} |\n" for line in found["checks"]
    ]
    machine, seeds = found["machine"], found["seeds"]
    return {
        "machine": f"Made by `{found['command']}` in {machine['seconds'] // 60} minutes on "
        f"{machine['cores']} cores; seeds {seeds[0]} to {seeds[-1]}.\n",
        "idle GPUs": idle(rows, "idle GPUs", 1),
        "idle nodes": idle(rows, "idle nodes", 2),
        "layouts": layouts(rows),
        "accepted": accepted(rows),
        "earlier": beside_earlier(rows),
        "checks": "| check | expected | found |\n| --- | ---: | ---: |\n" + "".join(wide),
    }


def write(found: Mapping[str, Any], folder: Path) -> None:
    """Keep the results, draw the pictures, fill in the page."""
    (folder / RESULTS).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    smaller = {scenario.name for scenario in chosen(every=False)}
    shown = [row for row in found["rows"] if row["scenario"] in smaller]
    (folder / BARS).write_text(bars(shown), encoding="utf-8")
    (folder / CHURN).write_text(churn(found["rows"]), encoding="utf-8")
    page = folder / PAGE
    page.write_text(fill_in(page.read_text(encoding="utf-8"), parts(found)), encoding="utf-8")


def main() -> None:
    """Measure, or take what was measured before, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="some scenarios, short, three seeds")
    parser.add_argument(
        "--all", action="store_true", help="every scenario; takes an hour on one core"
    )
    parser.add_argument("--only", metavar="SCENARIO", help="this one, and no checks")
    parser.add_argument(
        "--seeds", type=int, nargs=2, metavar=("FIRST", "END"), help="others; END is not run"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--processes", type=int, default=2, help="how many at once; 2 by default")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="FILE",
        help="keep each run there, and go on from what it has",
    )
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="earlier", help="run nothing; take FILE"
    )
    parser.add_argument(
        "--write", type=Path, metavar="FOLDER", help="page, pictures and results there"
    )
    given = parser.parse_args()
    if given.write and (given.only or given.seeds):
        parser.error("the page is of every scenario and of the seeds that are fixed")
    if given.earlier:
        found = json.loads(given.earlier.read_text("utf-8"))
        found["figures"] = figures(found["rows"])
    else:
        found = measure(given)
    if given.write:
        write(found, given.write)
    if given.json:
        print(json.dumps(found, indent=1))
    else:
        tell(found)
    wrong = [check["check"] for check in found["checks"] if check[""] == WRONG]
    if wrong or sum(row["beyond bound"] for row in found["rows"]):
        sys.exit("something is counted wrong: " + ("; ".join(wrong) or "more idle than the bound"))


if __name__ == "__main__":
    main()
