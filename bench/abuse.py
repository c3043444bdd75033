"""What `migfit serve` stands: its memory, and how soon it says that it is alive, under abuse.

A process of its own knows 500 nodes and 5,000 pods. Each attack comes from this one: 10,000 malformed
requests a port, 1,000 half-open connections a port with good requests beside them, bodies of 50 MB,
large ones without an end, 10,000 reviews of which 200 are in their handshake at any time, and a minute
with a stdout that nobody reads at 200 reviews a second.
Memory is resident memory in 10^6 bytes. /healthz is asked 20 times a second on new connections; client
and server share the machine, so its latency is an upper bound.
"""

import subprocess
import time
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench._abuse import (
    Attack,
    Survived,
    Target,
    crowd,
    dense,
    half_open,
    huge,
    storm,
    survive,
    unfinished,
)
from bench._client import Connection
from bench._figures import FULL, Figure, Options, options, report
from bench._requests import gpu_pod, review
from bench._serve import await_ready, cluster, migfit_serve, settings
from bench._servers import certificate
from extender.server.audit import QUEUE_BYTES, QUEUE_LINES

PORTS = ("webhook", "extender", "ops")
MOST_MB = {"webhook": 400.0, "ops": 400.0, "extender": 537.0}
"""The Deployment gives 537, which are 512 MiB, to the first two. The extender is reached on loopback
only, by a scheduler that may send whole nodes."""
ANSWER_MS = 1000.0
REVIEWS_PER_S = 200


def attacks(target: Target, given: Options) -> list[tuple[str, str, Attack]]:
    """What is done, to which port, how."""
    full = given.effort is FULL
    many, open_, large, crowded = (10_000, 1000, 8, 10_000) if full else (200, 600, 2, 300)
    stuck = 100 if full else 12
    hold_s = 10.0 if full else 2.0
    return [
        *((f"{many} malformed", name, partial(storm, target, name, many)) for name in PORTS),
        *(
            (f"{open_} half open", name, partial(half_open, target, name, open_, hold_s))
            for name in PORTS
        ),
        *((f"{large} of 50 MB", name, partial(huge, target, name, large)) for name in PORTS),
        *((f"{large} dense of 7 MB", n, partial(dense, target, n, large)) for n in PORTS[:2]),
        *(
            (f"{stuck} of 7 MB without an end", name, partial(unfinished, target, name, stuck))
            for name in PORTS[:2]
        ),
        (f"{crowded} at once", "webhook", partial(crowd, target, crowded)),
    ]


def row(what: str, name: str, found: Survived) -> dict[str, Any]:
    """For people."""
    outcomes = ", ".join(f"{k}: {n}" for k, n in sorted(found.outcomes.items()))
    return {
        "attack": what,
        "port": name,
        "before MB": round(found.before_mb),
        "peak MB": round(found.peak_mb),
        "after MB": round(found.after_mb),
        "/healthz worst ms": round(found.pulse.worst_ms),
        "outcomes": outcomes,
    }


@dataclass(frozen=True, slots=True)
class Deaf:
    """What came of reviews while nobody read stdout."""

    lasted_s: float
    asked: int
    latencies_s: list[float]
    dropped: float

    def row(self) -> dict[str, Any]:
        """For people."""
        answered = len(self.latencies_s)
        return {
            "stdout blocked for s": round(self.lasted_s),
            "reviews answered": answered,
            "lines dropped": round(self.dropped),
            "p99 ms": round(1000 * sorted(self.latencies_s)[int(0.99 * answered)], 1),
        }


def deaf(target: Target, ops_port: int, for_s: float) -> Deaf:
    """Send reviews at their pace while nobody reads stdout: more than may wait for it."""
    latencies_s: list[float] = []
    asked = round(for_s * REVIEWS_PER_S)
    # For lack of time they are so large that their bytes are too many before their lines are.
    body_bytes = 0 if asked > QUEUE_LINES else 2 * QUEUE_BYTES // asked
    pod = gpu_pod()
    pod["metadata"]["annotations"]["example.com/note"] = "x" * body_bytes
    begun_s = time.perf_counter()
    with closing(Connection(target.ports["webhook"], target.tls)) as connection:
        for number in range(asked):
            # Reviews come at their pace, however long each takes.
            time.sleep(max(0.0, begun_s + number / REVIEWS_PER_S - time.perf_counter()))
            sent_s = time.perf_counter()
            try:
                connection.ask("/mutate", review(pod))
            except (OSError, RuntimeError):
                break
            latencies_s.append(time.perf_counter() - sent_s)
    lasted_s = time.perf_counter() - begun_s
    return Deaf(lasted_s, asked, latencies_s, metric(ops_port, "migfit_audit_dropped_total"))


def metric(ops_port: int, name: str) -> float:
    """The value of a metric without labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{ops_port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def main() -> None:
    """Attack and print."""
    given = options(__doc__ or "")
    begun_s = time.monotonic()
    size = (500, 5000) if given.effort is FULL else (50, 500)
    found: list[tuple[str, str, Survived]] = []
    with certificate() as pair, cluster(*size, pair) as about:
        with settings(about.kubeconfig, pair) as told, migfit_serve(told) as process:
            await_ready(told.ops_port)
            target = Target(
                process.pid,
                {
                    "webhook": told.webhook_port,
                    "extender": told.extender_port,
                    "ops": told.ops_port,
                },
                pair.trust,
                review(gpu_pod()),
            )
            for what, name, attack in attacks(target, given):
                found.append((what, name, survive(target, attack)))
        with (
            settings(about.kubeconfig, pair) as told,
            migfit_serve(told, stdout=subprocess.PIPE) as process,
        ):
            await_ready(told.ops_port)
            target = Target(process.pid, {"webhook": told.webhook_port}, pair.trust, b"")
            quiet = deaf(target, told.ops_port, 60.0 if given.effort is FULL else 2.0)
    hung = sum(each.outcomes["hung"] for _, _, each in found)
    figures = [
        *(
            Figure(
                f"most memory, {port}", max(f.peak_mb for _, p, f in found if p == port), most, "MB"
            )
            for port, most in MOST_MB.items()
        ),
        Figure(
            "/healthz, worst", max(each.pulse.worst_ms for _, _, each in found), ANSWER_MS, "ms"
        ),
        Figure("/healthz not answered", sum(each.pulse.failed for _, _, each in found), 0, ""),
        Figure("requests neither answered nor closed", hung, 0, ""),
        Figure("reviews lost while stdout is blocked", quiet.asked - len(quiet.latencies_s), 0, ""),
        Figure("audit lines given up by then, and counted", quiet.dropped, 1, "", at_least=True),
    ]
    report("abuse", [row(*each) for each in found], figures, given, begun_s, also=[[quiet.row()]])


if __name__ == "__main__":
    main()
