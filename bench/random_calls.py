"""A million calls made by throwing dice: no exception, no failed decision, and no memory that grows.

The production handlers (review, filter, prioritize), on a cluster of 500 nodes, are called in turn with
requests of which a few members are something else, or some bytes. For every fifty of these calls one
goes over sockets to a `migfit serve`, by turns to its three ports. Memory is resident memory in 10^6
bytes, first looked at after a tenth of the calls, when caches are warm. The same seed makes the same
calls.
"""

import argparse
import http.client
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from itertools import cycle, islice
from typing import Any

import orjson

from bench._abuse import resident_mb
from bench._cluster import fill
from bench._figures import FULL, QUICK, Figure, Options, report
from bench._random_calls import questions, reviews
from bench._serve import await_ready, cluster, migfit_serve, settings
from bench._servers import LOOPBACK, Pair, certificate
from extender.admission.envelope import BadReview
from extender.admission.review import Reviewer
from extender.cluster.state import State
from extender.core.policy import Policy
from extender.core.reason import Reason
from extender.scheduling.verbs import BadArgs, Scheduling

CALLS = 1_000_000
PER_SOCKET_CALL = 50
MOST_GROWTH_MB = 8.0
"""What the allocator may hold more of than after a tenth of the calls."""

Handle = Callable[[bytes], str]


def handlers() -> dict[str, Handle]:
    """The pure handlers by name; each says what it made of a body."""
    state = State(Policy(), time.monotonic)
    fill(state, 500)
    reviewer = Reviewer(
        snapshot=state.snapshot,
        policy=lambda: state.policy,
        reserve=state.reserve,
        clock=time.monotonic,
    )
    scheduling = Scheduling(
        capacity=lambda: state.capacity,
        ranking=lambda: state.ranking,
        policy=lambda: state.policy,
    )

    def review(body: bytes) -> str:
        reviewed = reviewer.review(body)
        state.in_flight.end(reviewed.decision.id)  # its pod turns up
        failed = reviewed.decision.reason is Reason.INTERNAL_ERROR
        return "failed decision" if failed else str(reviewed.decision.action)

    def asked(verb: Callable[[bytes], bytes]) -> Handle:
        return lambda body: "answered" if orjson.loads(verb(body)) is not None else "nothing"

    return {
        "review": review,
        "filter": asked(scheduling.filter),
        "prioritize": asked(scheduling.prioritize),
    }


def outcome(handle: Handle, body: bytes) -> str:
    """What became of one call."""
    try:
        return handle(body)
    except (BadReview, BadArgs) as refused:
        return "refused" if len(str(refused).splitlines()) == 1 else "refused at length"
    except Exception as error:  # noqa: BLE001  what is looked for
        return f"exception {type(error).__name__}"


def call(seed: int, count: int) -> tuple[dict[str, Counter[str]], float, float]:
    """Outcomes by handler, and memory after a tenth and at the end."""
    handle = handlers()
    asking = {"review": reviews(seed), "filter": questions(seed), "prioritize": questions(seed + 1)}
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in handle}
    early_mb = 0.0
    for number, name in enumerate(islice(cycle(handle), count)):
        outcomes[name][outcome(handle[name], asking[name]())] += 1
        if number == count // 10:
            early_mb = resident_mb(os.getpid())
    return outcomes, early_mb, resident_mb(os.getpid())


PATHS = {
    "webhook": ("/mutate",),
    "extender": ("/scheduler/filter", "/scheduler/prioritize"),
    "ops": ("/healthz", "/readyz", "/metrics", "/nowhere"),
}


def connect(name: str, port: int, pair: Pair) -> http.client.HTTPConnection:
    """A connection that is kept alive."""
    if name == "webhook":
        return http.client.HTTPSConnection(LOOPBACK, port, context=pair.trust, timeout=30)
    return http.client.HTTPConnection(LOOPBACK, port, timeout=30)


def over_sockets(seed: int, count: int, pair: Pair) -> tuple[Counter[str], float, float]:
    """Statuses by port, and memory of the process after a tenth and at the end."""
    outcomes: Counter[str] = Counter()
    early_mb = 0.0
    asking: dict[str, Callable[[], bytes]] = {
        "webhook": reviews(seed),
        "extender": questions(seed),
        "ops": bytes,
    }
    with cluster(50, 500, pair) as about, settings(about.kubeconfig, pair) as told:
        ports = {"webhook": told.webhook_port, "extender": told.extender_port, "ops": told.ops_port}
        with migfit_serve(told) as process, ExitStack() as stack:
            await_ready(told.ops_port)
            lines = {
                name: stack.enter_context(closing(connect(name, port, pair)))
                for name, port in ports.items()
            }
            paths = {name: cycle(each) for name, each in PATHS.items()}
            for number, name in enumerate(islice(cycle(lines), count)):
                method = "GET" if name == "ops" else "POST"
                lines[name].request(method, next(paths[name]), asking[name]())
                answer = lines[name].getresponse()
                answer.read()
                outcomes[f"{name} {answer.status}"] += 1
                if number == count // 10:
                    early_mb = resident_mb(process.pid)
            return outcomes, early_mb, resident_mb(process.pid)


def main() -> None:
    """Call and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the calls")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calls", type=int, default=0, help=f"instead of {CALLS}")
    told = parser.parse_args()
    given = Options(QUICK if told.quick else FULL, told.json)
    count = told.calls or (CALLS // 100 if told.quick else CALLS)
    begun_s = time.monotonic()
    outcomes, early_mb, late_mb = call(told.seed, count)
    spent_s = time.monotonic() - begun_s
    with certificate() as pair:
        statuses, early_served_mb, late_served_mb = over_sockets(
            told.seed, count // PER_SOCKET_CALL, pair
        )
    rows: list[dict[str, Any]] = [
        {"handler": name, "calls": found.total(), "outcomes": _told(found)}
        for name, found in outcomes.items()
    ]
    rows.append(
        {"handler": "sockets", "calls": statuses.total(), "outcomes": _told(statuses)},
    )
    bad = sum(
        many
        for found in outcomes.values()
        for what, many in found.items()
        if what.startswith(("exception", "failed", "refused at", "nothing"))
    )
    bad += sum(many for what, many in statuses.items() if what.split()[1] >= "500")
    figures = [
        Figure(f"bad outcomes of {count} calls, seed {told.seed}", bad, 0, ""),
        Figure("growth of the handlers", late_mb - early_mb, MOST_GROWTH_MB, "MB"),
        Figure("growth of the process", late_served_mb - early_served_mb, MOST_GROWTH_MB, "MB"),
    ]
    also = [[{"calls/s": round(count / spent_s), "handlers MB": round(late_mb)}]]
    report("random_calls", rows, figures, given, begun_s, also=also)


def _told(found: Counter[str]) -> str:
    return ", ".join(f"{what}: {many}" for what, many in sorted(found.items()))


if __name__ == "__main__":
    main()
