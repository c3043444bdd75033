"""How fast filter and prioritize answer: the production extender against a bare handler.

Both read and parse the same ExtenderArgs (NodeNames and a 4 KB pod) and answer a body of the same
size; requests go one after the other over one kept-alive connection, as kube-scheduler sends them.
Alone the extender knows its nodes and hears of nothing; under events it is `migfit serve` as people
start it, and follows a server of watches that sends 1,000 a second (85 % of pods, 15 % of nodes), which
takes some of the processor from both. "A tenth turned down": GPUs of as many nodes are being cut anew.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from bench._client import Connection, one_by_one
from bench._figures import (
    Contender,
    Figure,
    Options,
    alternate,
    median_ratio,
    options,
    p50_s,
    report,
)
from bench._requests import extender_args
from bench._serve import await_ready, cluster, migfit_serve, settings
from bench._servers import Pair, Serving, bare_extender, certificate, production_extender, serving

TOP = 10
PODS_PER_NODE = 10


@dataclass(frozen=True, slots=True)
class Case:
    """One question, and who is asked."""

    verb: str
    names: int
    """Nodes asked about."""
    known: int
    """Nodes of the cluster."""
    events_per_s: int = 0
    turned_down: int = 0
    """Of the nodes asked about, by filter."""
    target: float | None = None
    """The most that the median latency may be, as a multiple of the bare handler's."""

    @property
    def path(self) -> str:
        """Where it is asked."""
        return f"/scheduler/{self.verb}"


CASES = (
    *(Case(verb, size, size) for size in (100, 1000) for verb in ("prioritize", "filter")),
    Case("prioritize", 5000, 5000, target=2.2),
    Case("filter", 5000, 5000),
    Case("filter", 5000, 5000, turned_down=500),
    *(Case(verb, 100, 5000) for verb in ("prioritize", "filter")),
    *(
        Case(verb, size, size, events_per_s=1000)
        for size in (100, 1000, 5000)
        for verb in ("prioritize", "filter")
    ),
)


@contextmanager
def asked(case: Case, pair: Pair) -> Iterator[Serving]:
    """The production server of a case."""
    if not case.events_per_s:
        with serving(production_extender, case.known, case.turned_down) as found:
            yield found
        return
    with (
        cluster(case.known, PODS_PER_NODE * case.known, pair) as about,
        settings(about.kubeconfig, pair) as told,
        migfit_serve(told) as found,
    ):
        await_ready(told.ops_port)
        about.turned.events_per_s.value = case.events_per_s
        yield found


def measure(case: Case, pair: Pair, given: Options) -> tuple[list[dict[str, Any]], float]:
    """A row for each server, and the ratio of the median latencies."""
    body = extender_args(case.names)
    with asked(case, pair) as ours, closing(Connection(ours.port)) as to_ours:
        answer = to_ours.ask(case.path, body)
        check(case, answer)
        with (
            serving(bare_extender, {case.path: answer}) as bare,
            closing(Connection(bare.port)) as to_bare,
        ):

            def contender(server: Serving, connection: Connection) -> Contender:
                return server, partial(one_by_one, connection, case.path, itertools.repeat(body))

            measured, floor = alternate(
                contender(ours, to_ours), contender(bare, to_bare), given.effort
            )
    ratio = median_ratio(measured, floor, p50_s)
    what = f"{case.verb}, a tenth turned down" if case.turned_down else case.verb
    about = {"verb": what, "names": case.names, "known": case.known, "events/s": case.events_per_s}
    size = {"bytes in": len(body), "bytes out": len(answer)}
    return [
        {**about, "server": name, **found.as_row(), **size, "ratio": shown}
        for name, found, shown in (("migfit", measured, f"{ratio:.2f}"), ("bare", floor, ""))
    ], ratio


def check(case: Case, answer: bytes) -> None:
    """That what is measured is the work that was meant.

    Raises:
        SystemExit: another answer came.
    """
    found = orjson.loads(answer)
    if case.verb == "prioritize" and len(found) != min(TOP, case.names):
        raise SystemExit(f"migfit ranked other than ten nodes: {answer.decode()}")
    if case.verb == "filter" and len(found["NodeNames"]) != case.names - case.turned_down:
        raise SystemExit(f"migfit passed {len(found['NodeNames'])} of {case.names} nodes")


def growth(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a thousand more names cost, and what a cluster fifty times as large does not."""
    p50_us = {
        (row["verb"], row["names"], row["known"]): 1000 * row["p50 ms"]
        for row in rows
        if row["server"] == "migfit" and not row["events/s"]
    }
    needed = ((5000, 5000), (1000, 1000), (100, 100), (100, 5000))
    found = []
    for verb in ("prioritize", "filter"):
        if all((verb, *size) in p50_us for size in needed):
            most, fewer, few, few_of_many = (p50_us[verb, *size] for size in needed)
            each = {"us per 1,000 names more": (most - fewer) / 4}
            each |= {"us for 100 names of 100": few, "us for 100 names of 5,000": few_of_many}
            found.append({"verb": verb, **{what: round(us) for what, us in each.items()}})
    return found


def main() -> None:
    """Measure every case and print."""
    given = options(__doc__ or "")
    begun_s = time.monotonic()
    rows: list[dict[str, Any]] = []
    figures = []
    with certificate() as pair:
        for case in CASES:
            found, ratio = measure(case, pair, given)
            rows += found
            if case.target is not None:
                what = f"{case.verb}, {case.names} node names: p50 / p50 of the bare handler"
                figures.append(Figure(what, ratio, case.target))
    report("prioritize", rows, figures, given, begun_s, also=[growth(rows)])


if __name__ == "__main__":
    main()
