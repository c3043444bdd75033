"""How fast nodes are ranked: the production extender against a handler that only parses and answers.

Both read and parse the same ExtenderArgs (NodeNames and a 4 KB pod) and answer a body of the same
size; requests go one after the other over one kept-alive connection, as kube-scheduler sends them.
"""

import itertools
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import orjson

from bench._client import Connection, Round, one_by_one
from bench._cluster import node_name
from bench._figures import Figure, Options, alternate, median_ratio, options, p50_s, report
from bench._requests import extender_args
from bench._servers import Serving, bare_extender, production_extender, serving

PATH = "/scheduler/prioritize"
SIZES = (100, 1000, 5000)
TARGETS = {5000: 2.2}


ANSWER = orjson.dumps([{"Host": node_name(number), "Score": 10 - number} for number in range(10)])
"""As large as ours, since all names are of one length."""


def measure(nodes: int, bare: Serving, given: Options) -> tuple[list[dict[str, Any]], float]:
    """The two rows for one size of cluster, and the ratio of the median latencies."""
    body = extender_args(nodes)

    def asking(connection: Connection) -> Callable[[float], Round]:
        return partial(one_by_one, connection, PATH, itertools.repeat(body))

    with (
        serving(production_extender, nodes) as ours,
        closing(Connection(ours.port)) as to_ours,
        closing(Connection(bare.port)) as to_bare,
    ):
        answer = to_ours.ask(PATH, body)
        if len(answer) != len(ANSWER):
            raise SystemExit(f"migfit ranked other than ten nodes: {answer.decode()}")
        measured, floor = alternate((ours, asking(to_ours)), (bare, asking(to_bare)), given.effort)
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
    with serving(bare_extender, ANSWER) as bare:
        for nodes in SIZES:
            found, ratio = measure(nodes, bare, given)
            rows += found
            if nodes in TARGETS:
                what = f"prioritize, {nodes} node names: p50 / p50 of the bare handler"
                figures.append(Figure(what, ratio, TARGETS[nodes]))
    report("prioritize", rows, figures, given, begun_s)


if __name__ == "__main__":
    main()
