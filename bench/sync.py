"""How soon 5,000 nodes and 50,000 pods are known, in how much memory, and how smoothly from then on.

First sync: `migfit serve` as a process, over TLS, from a server whose pages are rendered beforehand;
from its first list request to /readyz. The baseline is the same client that lists the same pages,
decodes them into the same objects and forgets them: what reading alone costs.

Event loop: the same program with a heart that beats every millisecond, while the watches bring
1,000 events a second (85 % of pods, 15 % of nodes) and somebody asks for priorities of 5,000 nodes
20 times a second. A stall is a beat late by more than 50 ms while the process itself was computing
for as long; a beat that the rest of the machine made late is counted apart.
"""

import asyncio
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench._apiserver import Dials, dials, kubeconfig, serve_cluster
from bench._client import Connection, Round, paced
from bench._cluster import CONFIG
from bench._figures import FULL, Figure, Measured, options, report
from bench._heartbeat import Beats, beating
from bench._requests import extender_args
from bench._servers import LOOPBACK, Pair, Serving, certificate, free_port, serving
from extender.cluster.client import ApiClient, connect
from extender.cluster.machine import Pace, Resource
from extender.cluster.wire import page_decoder
from extender.server.serve import LIMITS, NAMESPACES, NODES, PODS, QUOTAS
from extender.server.settings import Settings

SYNC_TARGET_S = 5.0
MEMORY_TARGET_MB = 200.0
STALL_S = 0.05
EVENTS_PER_S = 1000
CALLS_PER_S = 20
_READY_S = 120.0
_POLL_S = 0.05
_MB = 1e6


@dataclass(frozen=True, slots=True)
class Size:
    """How large, and how long to look."""

    nodes: int
    pods: int
    alternations: int
    calls_s: float


LARGE = Size(5000, 50_000, 5, 20.0)
SMALL = Size(500, 5000, 1, 3.0)
TINY = (10, 100)
"""Nodes and pods of the cluster that shows what the process takes by itself."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running server of lists and watches, and the way there."""

    server: Serving
    kubeconfig: Path
    turned: Dials


@contextmanager
def cluster(nodes: int, pods: int, pair: Pair) -> Iterator[Cluster]:
    """A cluster of that size."""
    turned = dials()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(serve_cluster, nodes, pods, pair.cert, pair.key, turned) as server,
    ):
        yield Cluster(server, kubeconfig(Path(folder), server.port, pair), turned)


# --- first sync ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Synced:
    """What one first sync took."""

    sync_s: float
    start_s: float
    """From the start of the program to its first list request."""
    resident_mb: float
    peak_mb: float
    cpu_s: float
    """Of our process, from its first list request on."""
    server_cpu_s: float


def _settings(folder: Path, found: Cluster, pair: Pair) -> Settings:
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    return Settings(
        config=config,
        kubeconfig=found.kubeconfig,
        tls_cert=pair.cert,
        tls_key=pair.key,
        webhook_port=free_port(),
        extender_port=free_port(),
        ops_port=free_port(),
        bind=LOOPBACK,
        lame_duck_s=0.0,
    )


def _command(settings: Settings) -> list[str]:
    flags = {
        "config": settings.config,
        "kubeconfig": settings.kubeconfig,
        "tls-cert": settings.tls_cert,
        "tls-key": settings.tls_key,
        "webhook-port": settings.webhook_port,
        "extender-port": settings.extender_port,
        "ops-port": settings.ops_port,
        "bind": settings.bind,
        "lame-duck": 0,
    }
    given = itertools.chain.from_iterable((f"--{name}", str(flags[name])) for name in flags)
    return [sys.executable, "-m", "extender.cli", "serve", *given]


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _await_ready(port: int) -> float:
    deadline_s = time.monotonic() + _READY_S
    while not _ready(port):
        if time.monotonic() > deadline_s:
            raise SystemExit("migfit serve did not become ready")
        time.sleep(_POLL_S)
    return time.monotonic()


def _await_first_list(turned: Dials) -> float:
    deadline_s = time.monotonic() + _READY_S
    while not (first_s := float(turned.first_list_s.value)):
        if time.monotonic() > deadline_s:
            raise SystemExit("migfit serve did not ask for a list")
        time.sleep(_POLL_S)
    return first_s


def _memory_mb(pid: int, row: str) -> float:
    """`VmRSS` or `VmHWM`; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) * 1024 / _MB for line in lines if line.startswith(f"{row}:"))


def sync_ours(found: Cluster, pair: Pair) -> Synced:
    """A first sync of `migfit serve`."""
    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(Path(folder), found, pair)
        found.turned.first_list_s.value = 0.0
        used_s = found.server.cpu_s()
        begun_s = time.monotonic()
        with subprocess.Popen(
            _command(settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            ours = Serving(settings.extender_port, process.pid)
            try:
                first_s = _await_first_list(found.turned)
                cpu_s = ours.cpu_s()
                ready_s = _await_ready(settings.ops_port)
                cpu_s = ours.cpu_s() - cpu_s
                time.sleep(1.0)
                return Synced(
                    sync_s=ready_s - first_s,
                    start_s=first_s - begun_s,
                    resident_mb=_memory_mb(process.pid, "VmRSS"),
                    peak_mb=_memory_mb(process.pid, "VmHWM"),
                    cpu_s=cpu_s,
                    server_cpu_s=found.server.cpu_s() - used_s,
                )
            finally:
                process.kill()


def sync_bare(found: Cluster) -> float:
    """Seconds to list, decode and forget all of it, in a process of its own."""
    context = get_context("spawn")
    elapsed_s: Any = context.Value("d", 0.0)
    process = context.Process(target=_read_all, args=(found.kubeconfig, elapsed_s))
    process.start()
    process.join()
    return float(elapsed_s.value)


def _read_all(path: Path, elapsed_s: Any) -> None:
    async def read() -> None:
        async with connect(path) as client:
            begun_s = time.monotonic()
            kinds = (NODES, PODS, NAMESPACES, QUOTAS, LIMITS)
            await asyncio.gather(*(_read(client, resource) for resource in kinds))
            elapsed_s.value = time.monotonic() - begun_s

    asyncio.run(read())


async def _read(client: ApiClient, resource: Resource[Any]) -> None:
    decoder = page_decoder(resource.item)
    params = {"limit": str(Pace().page_items)}
    token = None
    while token != "":
        asked = params | ({"continue": token} if token else {})
        page = decoder.decode(await client.get(resource.path, asked))
        token = page.metadata.continue_token


def measure_sync(size: Size, found: Cluster, pair: Pair) -> tuple[list[dict[str, Any]], Synced]:
    """The rows, and the median sync with the least memory any of them needed at the end."""
    with cluster(*TINY, pair) as tiny:
        empty = sync_ours(tiny, pair)
    bare: list[float] = []
    ours: list[Synced] = []
    for number in range(size.alternations):
        for which in ("bare", "ours") if number % 2 == 0 else ("ours", "bare"):
            if which == "bare":
                bare.append(sync_bare(found))
            else:
                ours.append(sync_ours(found, pair))

    def median(name: str) -> float:
        values: list[float] = [getattr(one, name) for one in ours]
        return statistics.median(values)

    middle = Synced(
        *(median(name) for name in ("sync_s", "start_s", "resident_mb", "peak_mb", "server_cpu_s"))
    )
    ratio = statistics.median(one.sync_s / other for one, other in zip(ours, bare, strict=True))
    at = {"nodes": size.nodes, "pods": size.pods}
    return [
        _sync_row({**at, "program": "migfit serve"}, middle, f"{ratio:.2f}"),
        {
            **_sync_row({**at, "program": "read and forget"}, middle, ""),
            "sync s": round(statistics.median(bare), 2),
            **dict.fromkeys(("start s", "resident MB", "peak MB", "server cpu s"), ""),
        },
        _sync_row({"nodes": TINY[0], "pods": TINY[1], "program": "migfit serve"}, empty, ""),
    ], middle


def _sync_row(head: dict[str, Any], one: Synced, ratio: str) -> dict[str, Any]:
    return {
        **head,
        "start s": round(one.start_s, 2),
        "sync s": round(one.sync_s, 2),
        "resident MB": round(one.resident_mb),
        "peak MB": round(one.peak_mb),
        "server cpu s": round(one.server_cpu_s, 2),
        "ratio": ratio,
    }


# --- event loop ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen over the rounds at one pace of events."""

    beats: Beats
    calls: Measured
    events_per_s: float
    cpu_share: float
    """Of one core."""

    @property
    def stalls(self) -> int:
        """Beats that our own computing kept for too long."""
        return sum(
            late > STALL_S and busy > STALL_S
            for late, busy in zip(self.beats.late_s, self.beats.busy_s, strict=True)
        )

    @property
    def kept_by_others(self) -> int:
        """Beats that were as late for other reasons."""
        return sum(late > STALL_S for late in self.beats.late_s) - self.stalls

    def as_row(self, pace: int) -> dict[str, Any]:
        """For people and for JSON."""
        busy_ms = sorted(1000 * busy for busy in self.beats.busy_s)
        pauses_ms = [1000 * pause for _, pause in self.beats.collections]
        return {
            "events/s": pace,
            "arrived/s": round(self.events_per_s),
            "cpu of a core": f"{self.cpu_share:.0%}",
            "longest busy ms": round(busy_ms[-1], 1),
            "p99.9 busy ms": round(busy_ms[len(busy_ms) * 999 // 1000], 1),
            "longest late ms": round(1000 * max(self.beats.late_s), 1),
            "stalls": self.stalls,
            "late by others": self.kept_by_others,
            "gc runs": len(pauses_ms),
            "longest gc ms": round(max(pauses_ms, default=0.0), 1),
            "prioritize p50 ms": round(self.calls.percentile_ms(50), 2),
            "p99 ms": round(self.calls.percentile_ms(99), 2),
        }


def measure_loop(size: Size, found: Cluster, pair: Pair) -> dict[int, Watched]:
    """Pace of events -> what was seen."""
    ours, theirs = get_context("spawn").Pipe()
    seen: dict[int, list[tuple[Beats, Round, float, float]]] = {0: [], EVENTS_PER_S: []}
    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(Path(folder), found, pair)
        with (
            serving(beating, settings, theirs) as server,
            closing(Connection(server.port)) as to_us,
        ):
            _await_ready(settings.ops_port)
            body = extender_args(size.nodes)

            def look(pace: int, for_s: float) -> tuple[Beats, Round, float, float]:
                found.turned.events_per_s.value = pace
                time.sleep(0.5)
                ours.send("how is it")
                ours.recv()
                sent, used_s = found.turned.sent.value, server.cpu_s()
                calls = paced(
                    [to_us],
                    "/scheduler/prioritize",
                    itertools.repeat(body),
                    per_s=CALLS_PER_S,
                    for_s=for_s,
                )
                ours.send("how was it")
                sent, used_s = found.turned.sent.value - sent, server.cpu_s() - used_s
                return ours.recv(), calls, sent / calls.elapsed_s, used_s / calls.elapsed_s

            look(EVENTS_PER_S, 1.0)
            for _ in range(size.alternations):
                for pace, rounds in seen.items():
                    rounds.append(look(pace, size.calls_s))
            found.turned.events_per_s.value = 0.0
    return {pace: _together(rounds) for pace, rounds in seen.items()}


def _together(rounds: list[tuple[Beats, Round, float, float]]) -> Watched:
    beats = Beats()
    for noted, _, _, _ in rounds:
        beats.late_s += noted.late_s
        beats.busy_s += noted.busy_s
        beats.collections += noted.collections
    return Watched(
        beats,
        Measured([calls for _, calls, _, _ in rounds], 0.0),
        statistics.median(arrived for _, _, arrived, _ in rounds),
        statistics.median(share for _, _, _, share in rounds),
    )


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "")
    size = LARGE if given.effort is FULL else SMALL
    begun_s = time.monotonic()
    with certificate() as pair, cluster(size.nodes, size.pods, pair) as found:
        synced_rows, synced = measure_sync(size, found, pair)
        watched = measure_loop(size, found, pair)
    at = f"{size.nodes} nodes, {size.pods} pods"
    under = watched[EVENTS_PER_S]
    figures = [
        Figure(f"first sync, {at}", synced.sync_s, SYNC_TARGET_S, "s"),
        Figure(f"resident memory after it, {at}", synced.resident_mb, MEMORY_TARGET_MB, "MB"),
        Figure(f"stalls > 50 ms at {EVENTS_PER_S} events/s, {at}", under.stalls, 0, "stalls"),
    ]
    watched_rows = [seen.as_row(pace) for pace, seen in watched.items()]
    report("sync", synced_rows, figures, given, begun_s, also=[watched_rows])


if __name__ == "__main__":
    main()
