"""How soon 5,000 nodes and 50,000 pods are known, in how much memory, and how smoothly from then on.

First sync: `migfit serve` as a process, over TLS, from a server whose pages are rendered beforehand
(nodes of 16 KB, pods of 7 KB, three of ten with a GPU or a slice); from its first list request to
/readyz. The baseline is the same client that lists the same pages, decodes them into the same objects
and forgets them: what reading alone costs.

Event loop: the same program with a heart that beats every millisecond, while the watches bring 1,000
events a second (85 % of pods, 15 % of nodes) and somebody asks for priorities of all nodes 20 times a
second, then for as long not at all. A stall is a beat that is late by more than 50 ms while the process
itself was computing for as long; one that was late because others had the processor is counted apart.
"""

import time
from dataclasses import dataclass

from bench._figures import Figure, options, report
from bench._first_sync import measure_sync
from bench._serve import cluster
from bench._servers import certificate
from bench._stalls import measure_loop

EVENTS_PER_S = 1000


@dataclass(frozen=True, slots=True)
class Size:
    """How large, and how long to look."""

    nodes: int
    pods: int
    alternations: int
    round_s: float


LARGE = Size(5000, 50_000, 5, 10.0)
SMALL = Size(500, 5000, 1, 3.0)


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "")
    size = SMALL if given.quick else LARGE
    turns = given.turns or size.alternations
    begun_s = time.monotonic()
    with certificate() as pair, cluster(size.nodes, size.pods, pair) as found:
        rows, synced = measure_sync((size.nodes, size.pods), turns, found, pair)
        watched = measure_loop(size.nodes, (0, EVENTS_PER_S), turns, size.round_s, found, pair)
    at = f"{size.nodes} nodes, {size.pods} pods"
    stalls = watched[EVENTS_PER_S].stalls
    figures = [
        Figure(f"first sync, {at}", synced.sync_s, 5.0, "s"),
        Figure(f"resident memory after it, {at}", synced.resident_mb, 200.0, "MB"),
        Figure(f"stalls > 50 ms at {EVENTS_PER_S} events/s, {at}", stalls, 0, "stalls"),
    ]
    by_pace = [seen.as_row(pace) for pace, seen in watched.items()]
    report("sync", rows, figures, given, begun_s, also=[by_pace])


if __name__ == "__main__":
    main()
