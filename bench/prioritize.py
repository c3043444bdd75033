"""How fast nodes are ranked: the production extender against a handler that only parses and answers.

Both read and parse the same ExtenderArgs (NodeNames and a 4 KB pod) and answer a body of the same
size; requests go one after the other over one kept-alive connection, as kube-scheduler sends them.
"""

import itertools
import time
from contextlib import closing
from typing import Any

from bench._client import Connection, Round, one_by_one
from bench._figures import Figure, Options, alternate, median_ratio, options, p50_s, report
from bench._requests import extender_args
from bench._servers import bare_extender, production_extender, serving

PATH = "/scheduler/prioritize"
SIZES = (100, 1000, 5000)
TARGETS = {5000: 2.2}


def measure(nodes: int, given: Options) -> tuple[list[dict[str, Any]], float]:
    """The two rows for one size of cluster, and the ratio of the median latencies."""
    body = extender_args(nodes)
    with serving(production_extender, nodes) as ours, closing(Connection(ours.port)) as to_ours:
        answer = to_ours.ask(PATH, body)
        with (
            serving(bare_extender, answer) as bare,
            closing(Connection(bare.port)) as to_bare,
        ):

            def ask(connection: Connection, for_s: float) -> Round:
                return one_by_one(connection, PATH, itertools.repeat(body), for_s)

            measured, floor = alternate(
                (ours, lambda for_s: ask(to_ours, for_s)),
                (bare, lambda for_s: ask(to_bare, for_s)),
                given.effort,
            )
    ratio = median_ratio(measured, floor, p50_s)
    size = {"bytes in": len(body), "bytes out": len(answer)}
    return [
        {"nodes": nodes, "server": "migfit", **measured.as_row(), **size, "ratio": f"{ratio:.2f}"},
        {"nodes": nodes, "server": "bare", **floor.as_row(), **size, "ratio": ""},
    ], ratio


def main() -> None:
    """Measure every size and print."""
    given = options(__doc__ or "")
    begun_s = time.monotonic()
    rows: list[dict[str, Any]] = []
    figures = []
    for nodes in SIZES:
        found, ratio = measure(nodes, given)
        rows += found
        if nodes in TARGETS:
            what = f"prioritize, {nodes} node names: p50 / p50 of the bare handler"
            figures.append(Figure(what, ratio, TARGETS[nodes]))
    report("prioritize", rows, figures, given, begun_s)


if __name__ == "__main__":
    main()
