"""How fast pods are decided on: the production webhook against one that parses and always allows.

Both over TLS, on kept-alive connections, with a 4 KB pod in every review; every review is a pod of
its own, with what the API server writes into each, and is rewritten. "same": replicas of twenty templates
by turns, all with one selector; "different": each of a template never seen before, with another selector
or node affinity.
Throughput is measured with a request under way on each of eight connections, latency at 200 reviews a
second, from the moment each was due. What is promised to a pod ends within 10 ms, as when the watch
brings the pod; taking in the watch's events is not part of a review.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import orjson

from bench._client import Connection, Round, paced, saturating
from bench._figures import (
    Figure,
    Measured,
    Options,
    alternate,
    median_ratio,
    options,
    report,
)
from bench._requests import reviews_alike, reviews_apart
from bench._servers import Pair, Serving, bare_webhook, certificate, production_webhook, serving

PATH = "/mutate"
CONNECTIONS = 8
PACED_PER_S = 200
CASES: tuple[tuple[int, str, Iterator[bytes], float | None], ...] = (
    (10, "same", reviews_alike(), 0.5),
    (10, "different", reviews_apart(10), None),
    (5000, "same", reviews_alike(), None),
    (5000, "different", reviews_apart(5000), 0.35),
)
"""Nodes known, selectors, the reviews, and the throughput to reach as a share of the bare handler's."""
LATENCY_TARGET_MS = 5.0


def _connect(stack: ExitStack, server: Serving, pair: Pair) -> Sequence[Connection]:
    return [
        stack.enter_context(closing(Connection(server.port, pair.trust)))
        for _ in range(CONNECTIONS)
    ]


def _paced(
    server: Serving, connections: Sequence[Connection], bodies: Iterator[bytes], for_s: float
) -> Measured:
    used_s = server.cpu_s()
    found = paced(connections, PATH, bodies, per_s=PACED_PER_S, for_s=for_s)
    return Measured([found], server.cpu_s() - used_s)


def check(answer: bytes) -> None:
    """Figures of a webhook that rewrites nothing would say nothing."""
    response = orjson.loads(answer)["response"]
    if orjson.loads(response["auditAnnotations"]["decision"])["action"] != "rewritten":
        raise SystemExit(f"migfit did not rewrite the pod: {answer.decode()}")


def measure(
    nodes: int, bodies: Iterator[bytes], bare: Serving, pair: Pair, given: Options
) -> tuple[list[dict[str, Any]], float, float]:
    """The rows for one case, the ratio of throughputs, and p99 in ms when paced."""
    with ExitStack() as stack:
        ours = stack.enter_context(serving(production_webhook, nodes, pair.cert, pair.key))
        to_ours, to_bare = _connect(stack, ours, pair), _connect(stack, bare, pair)
        check(to_ours[0].ask(PATH, next(bodies)))

        def asking(connections: Sequence[Connection]) -> Callable[[float], Round]:
            return partial(saturating, connections, PATH, bodies)

        measured, floor = alternate((ours, asking(to_ours)), (bare, asking(to_bare)), given.effort)
        calm = _paced(ours, to_ours, bodies, given.effort.paced_s)
        calm_floor = _paced(bare, to_bare, bodies, given.effort.paced_s)
        check(to_ours[0].ask(PATH, next(bodies)))
    ratio = median_ratio(measured, floor, lambda one: one.per_s)
    pace = f"{PACED_PER_S}/s"
    rows: list[dict[str, Any]] = [
        {"load": load, "server": name, **found.as_row(), "ratio": shown}
        for load, name, found, shown in (
            ("all it takes", "migfit", measured, f"{ratio:.2f}"),
            ("all it takes", "bare", floor, ""),
            (pace, "migfit", calm, ""),
            (pace, "bare", calm_floor, ""),
        )
    ]
    return rows, ratio, calm.percentile_ms(99)


def main() -> None:
    """Measure every case and print."""
    given = options(__doc__ or "")
    begun_s = time.monotonic()
    rows: list[dict[str, Any]] = []
    figures = []
    with certificate() as pair, serving(bare_webhook, pair.cert, pair.key) as bare:
        for nodes, selectors, bodies, target in CASES:
            found, ratio, p99_ms = measure(nodes, bodies, bare, pair, given)
            rows += [{"nodes": nodes, "selectors": selectors, **row} for row in found]
            if target is None:
                continue
            at = f"admission, {nodes} nodes"
            what = f"{at}: reviews/s of the bare handler's"
            figures.append(Figure(what, ratio, target, at_least=True))
            what = f"{at}: p99 at {PACED_PER_S} reviews/s"
            figures.append(Figure(what, p99_ms, LATENCY_TARGET_MS, "ms"))
    report("admission", rows, figures, given, begun_s)


if __name__ == "__main__":
    main()
