"""From rounds to figures: medians of alternations, a table, JSON or a page, and what is reached."""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench._client import Round
from bench._pages import fill_in, table
from bench._servers import Serving, loop_name

WARM_UP_S = 0.3
PAGE = "performance.md"
LOAD_BEFORE = os.getloadavg()[0]
"""Processes that wanted a core in the minute before the benchmark: what others do to the figures."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure."""

    alternations: int
    round_s: float
    paced_s: float


FULL = Effort(alternations=21, round_s=0.2, paced_s=10.0)
QUICK = Effort(alternations=3, round_s=0.1, paced_s=0.5)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said."""

    effort: Effort
    as_json: bool
    quick: bool = False
    write: Path | None = None
    """Folder of the page that gets the figures."""
    turns: int | None = None
    """How often each contender has its turn, in place of what the benchmark thinks enough."""


def options(description: str) -> Options:
    """Read the command line of a benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="measure for seconds, coarsely")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help=f"{PAGE} and results there")
    parser.add_argument("--turns", type=int, metavar="N", help="how often each has its turn")
    given = parser.parse_args()
    effort = QUICK if given.quick else FULL
    if given.turns:
        effort = replace(effort, alternations=given.turns)
    return Options(effort, given.json, given.quick, given.write, given.turns)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that has a target."""

    what: str
    value: float
    target: float
    unit: str = "x"
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the target is met."""
        return self.value >= self.target if self.at_least else self.value <= self.target

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "value": round(self.value, 3), "reached": self.reached}

    def as_row(self) -> dict[str, Any]:
        """For people."""
        sign = ">=" if self.at_least else "<="
        return {
            "figure": self.what,
            "value": f"{self.value:.2f} {self.unit}",
            "target": f"{sign} {self.target:g} {self.unit}",
            "": "reached" if self.reached else "not reached",
        }


@dataclass(frozen=True, slots=True)
class Measured:
    """The rounds of one server."""

    rounds: Sequence[Round]
    cpu_s: float

    def percentile_ms(self, percent: float) -> float:
        """Latency over all rounds."""
        latencies_s = sorted(latency for one in self.rounds for latency in one.latencies_s)
        rank = math.ceil(percent / 100 * len(latencies_s)) - 1
        return 1000 * latencies_s[max(0, rank)]

    @property
    def per_s(self) -> float:
        """Requests per second in the median round."""
        return statistics.median(one.per_s for one in self.rounds)

    @property
    def cpu_us(self) -> float:
        """Processor time of the server for one request, in microseconds."""
        return 1e6 * self.cpu_s / sum(len(one.latencies_s) for one in self.rounds)

    def as_row(self) -> dict[str, Any]:
        """The columns every benchmark shows of a server."""
        return {
            "p50 ms": round(self.percentile_ms(50), 3),
            "p99 ms": round(self.percentile_ms(99), 3),
            "requests/s": round(self.per_s),
            "cpu us": round(self.cpu_us),
        }


Contender = tuple[Serving, Callable[[float], Round]]
"""A server, and how to put a round of so many seconds to it."""


def alternate(ours: Contender, bare: Contender, effort: Effort) -> tuple[Measured, Measured]:
    """A round for one, a round for the other, and again: what disturbs one disturbs both.

    A machine that others share is never the same for long, so only the ratio within a pair of
    neighbouring rounds means anything, and of the pairs the median.
    """
    contenders = (ours, bare)
    for _, ask in contenders:
        ask(WARM_UP_S)
    begun_s = [server.cpu_s() for server, _ in contenders]
    rounds: tuple[list[Round], list[Round]] = ([], [])
    for number in range(effort.alternations):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            rounds[which].append(contenders[which][1](effort.round_s))
    used_s = [
        server.cpu_s() - begun for (server, _), begun in zip(contenders, begun_s, strict=True)
    ]
    return Measured(rounds[0], used_s[0]), Measured(rounds[1], used_s[1])


def median_ratio(ours: Measured, bare: Measured, of: Callable[[Round], float]) -> float:
    """The median over the alternations of ours / bare."""
    pairs = zip(ours.rounds, bare.rounds, strict=True)
    return statistics.median(of(one) / of(other) for one, other in pairs)


def p50_s(one: Round) -> float:
    """The median latency of a round."""
    return statistics.median(one.latencies_s)


def report(
    benchmark: str,
    rows: Sequence[Mapping[str, Any]],
    figures: Sequence[Figure],
    given: Options,
    begun_s: float,
    *,
    also: Sequence[Sequence[Mapping[str, Any]]] = (),
) -> None:
    """Print what was measured: `rows` are a table, each of `also` a further one."""
    found: dict[str, Any] = {
        "benchmark": benchmark,
        "command": " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": {
            "cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "load before": round(LOAD_BEFORE, 1),
            "python": platform.python_version(),
            "loop": loop_name(),
            "seconds": round(time.monotonic() - begun_s),
        },
        "rows": rows,
        "figures": [figure.as_json() for figure in figures],
        "also": also,
    }
    if given.write:
        write(found, given.write)
    if given.as_json:
        print(json.dumps(found, indent=1))
        return
    machine = found["machine"]
    reached = [figure.as_row() for figure in figures]
    print(", ".join(f"{key}: {value}" for key, value in machine.items()), end="\n\n")
    print(*(_table(each) for each in (rows, *also, reached) if each), sep="\n\n")


def kept(benchmark: str) -> str:
    """The file beside the page that holds its figures."""
    return f"performance-{benchmark}.json"


def write(found: Mapping[str, Any], folder: Path) -> None:
    """Keep the results and fill in the page."""
    name, page = str(found["benchmark"]), folder / PAGE
    (folder / kept(name)).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = fill_in(page.read_text(encoding="utf-8"), {name: markdown(found)})
    page.write_text(text, encoding="utf-8")


def markdown(found: Mapping[str, Any]) -> str:
    """What was measured, as the page shows it."""
    machine = found["machine"]
    made = (
        f"Made by `{found['command']}` in {machine['seconds']} s on {machine['cores']} cores; "
        f"load average before it {machine['load before']}.\n\n"
    )
    tables = [_in_markdown(rows) for rows in (found["rows"], *found["also"]) if rows]
    reached = [
        {
            "figure": each["what"],
            "measured": f"{each['value']:g} {each['unit']}",
            "aim": f"{'≥' if each['at_least'] else '≤'} {each['target']:g} {each['unit']}",
            "": "reached" if each["reached"] else "**not reached**",
        }
        for each in found["figures"]
    ]
    return made + "\n".join([*tables, _in_markdown(reached)])


def _in_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    return table(list(rows[0]), [[str(value) for value in row.values()] for row in rows])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    shown = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if position == 0 else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    )
