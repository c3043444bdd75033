"""How fast filter and prioritize answer: the production extender against a bare handler.

Both read and parse the same ExtenderArgs (NodeNames and a 4 KB pod) and answer a body of the same
size; requests go one after the other over one kept-alive connection, as kube-scheduler sends them.
How it is under a stream of watch events, bench/sync.py measures.
"""

import itertools
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import Any

import orjson

from bench._client import Connection, Round, one_by_one
from bench._figures import Figure, Options, alternate, median_ratio, options, p50_s, report
from bench._requests import extender_args
from bench._servers import bare_extender, production_extender, serving

SIZES = (100, 1000, 5000)
PATHS = {verb: f"/scheduler/{verb}" for verb in ("prioritize", "filter")}
TARGETS = {("prioritize", 5000): 2.2}


def measure(nodes: int, given: Options) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Two rows for each verb with one size of cluster, and the ratio of the median latencies."""
    body = extender_args(nodes)
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    with serving(production_extender, nodes) as ours, closing(Connection(ours.port)) as to_ours:
        answers = {verb: to_ours.ask(path, body) for verb, path in PATHS.items()}
        check(answers, nodes)
        alike = {PATHS[verb]: answer for verb, answer in answers.items()}
        with serving(bare_extender, alike) as bare, closing(Connection(bare.port)) as to_bare:
            for verb, answer in answers.items():

                def asking(connection: Connection, path: str) -> Callable[[float], Round]:
                    return partial(one_by_one, connection, path, itertools.repeat(body))

                measured, floor = alternate(
                    (ours, asking(to_ours, PATHS[verb])),
                    (bare, asking(to_bare, PATHS[verb])),
                    given.effort,
                )
                ratios[verb] = median_ratio(measured, floor, p50_s)
                size = {"bytes in": len(body), "bytes out": len(answer)}
                shown = {"migfit": (measured, f"{ratios[verb]:.2f}"), "bare": (floor, "")}
                rows += [
                    {"verb": verb, "nodes": nodes, "server": name}
                    | {**found.as_row(), **size, "ratio": ratio}
                    for name, (found, ratio) in shown.items()
                ]
    return rows, ratios


def check(answers: Mapping[str, bytes], nodes: int) -> None:
    """That what is measured is the work that was meant.

    Raises:
        SystemExit: another answer came.
    """
    if len(orjson.loads(answers["prioritize"])) != min(10, nodes):
        raise SystemExit(f"migfit ranked other than ten nodes: {answers['prioritize'].decode()}")
    if len(orjson.loads(answers["filter"])["NodeNames"]) != nodes:
        raise SystemExit("migfit turned nodes down")


def main() -> None:
    """Measure every size and print."""
    given = options(__doc__ or "")
    begun_s = time.monotonic()
    rows: list[dict[str, Any]] = []
    figures = []
    for nodes in SIZES:
        found, ratios = measure(nodes, given)
        rows += found
        for verb, ratio in ratios.items():
            if target := TARGETS.get((verb, nodes)):
                what = f"{verb}, {nodes} node names: p50 / p50 of the bare handler"
                figures.append(Figure(what, ratio, target))
    report("prioritize", rows, figures, given, begun_s)


if __name__ == "__main__":
    main()
