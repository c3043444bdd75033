"""How smoothly the event loop of `migfit serve` runs while watches bring what happens."""

import itertools
import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from bench._client import Connection, Round, paced
from bench._figures import Measured
from bench._heartbeat import Beats, beating
from bench._requests import extender_args
from bench._serve import Cluster, await_ready, settings
from bench._servers import Pair, serving

STALL_S = 0.05
CALLS_PER_S = 20
PATH = "/scheduler/prioritize"
_SETTLED_S = 0.5
"""Until events come at the new pace."""


@dataclass(frozen=True, slots=True)
class Look:
    """One round at one pace of events."""

    beats: Beats
    calls: Round
    arrived_per_s: float
    cpu_share: float
    """Of one core."""
    after_silence_s: float
    """What the first call took after as long a time without any."""


@dataclass(frozen=True, slots=True)
class Watched:
    """All rounds at one pace."""

    looks: list[Look]

    @property
    def beats(self) -> list[tuple[float, float]]:
        """(late by the clock, processor time of the process meanwhile), in seconds."""
        return [
            beat
            for look in self.looks
            for beat in zip(look.beats.late_s, look.beats.busy_s, strict=True)
        ]

    @property
    def stalls(self) -> int:
        """Beats that our own computing kept for too long."""
        return sum(late > STALL_S and busy > STALL_S for late, busy in self.beats)

    @property
    def calls(self) -> Measured:
        """The calls of all rounds."""
        return Measured([look.calls for look in self.looks], 0.0)

    def as_row(self, pace: int) -> dict[str, Any]:
        """For people and for JSON."""
        busy_ms = sorted(1000 * busy for _, busy in self.beats)
        late = [late for late, _ in self.beats]
        pauses_ms = [1000 * pause for look in self.looks for _, pause in look.beats.collections]
        return {
            "events/s": pace,
            "arrived/s": round(statistics.median(look.arrived_per_s for look in self.looks)),
            "cpu": f"{statistics.median(look.cpu_share for look in self.looks):.0%}",
            "busy ms p99.9": round(busy_ms[len(busy_ms) * 999 // 1000], 1),
            "longest": round(busy_ms[-1], 1),
            "stalls": self.stalls,
            "late ms longest": round(1000 * max(late), 1),
            "late by others": sum(each > STALL_S for each in late) - self.stalls,
            "gc runs": len(pauses_ms),
            "longest gc ms": round(max(pauses_ms, default=0.0), 1),
            "prioritize p50 ms": round(self.calls.percentile_ms(50), 2),
            "p99 ms": round(self.calls.percentile_ms(99), 2),
            "after silence ms": round(1000 * max(look.after_silence_s for look in self.looks), 1),
        }


def measure_loop(
    nodes: int, paces: tuple[int, ...], alternations: int, for_s: float, found: Cluster, pair: Pair
) -> dict[int, Watched]:
    """Pace of events -> what was seen, in rounds that take turns."""
    ours, theirs = get_context("spawn").Pipe()
    seen = {pace: Watched([]) for pace in paces}
    with (
        settings(found.kubeconfig, pair) as given,
        serving(beating, given, theirs) as server,
        closing(Connection(server.port)) as to_us,
    ):
        await_ready(given.ops_port)
        body = extender_args(nodes)

        def look(pace: int) -> Look:
            found.turned.events_per_s.value = pace
            time.sleep(_SETTLED_S)  # the other process takes up its new pace
            ours.send("begin")
            ours.recv()
            sent, used_s = found.turned.sent.value, server.cpu_s()
            calls = paced([to_us], PATH, itertools.repeat(body), per_s=CALLS_PER_S, for_s=for_s)
            sent, used_s = found.turned.sent.value - sent, server.cpu_s() - used_s
            time.sleep(for_s)  # the silence that is measured
            asked_s = time.perf_counter()
            to_us.ask(PATH, body)
            after_s = time.perf_counter() - asked_s
            ours.send("end")
            return Look(
                beats=ours.recv(),
                calls=calls,
                arrived_per_s=sent / calls.elapsed_s,
                cpu_share=used_s / calls.elapsed_s,
                after_silence_s=after_s,
            )

        look(max(paces))
        for _ in range(alternations):
            for pace, watched in seen.items():
                watched.looks.append(look(pace))
        found.turned.events_per_s.value = 0.0
    return seen
