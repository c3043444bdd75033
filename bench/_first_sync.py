"""What a first sync of `migfit serve` takes, against reading the same lists and forgetting them."""

import asyncio
import statistics
import time
from dataclasses import astuple, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench._serve import (
    POLL_S,
    READY_S,
    Cluster,
    await_ready,
    cluster,
    memory_mb,
    migfit_serve,
    settings,
)
from bench._servers import Pair
from extender.cli.serve import _event_loop
from extender.cluster.client import ApiClient, connect
from extender.cluster.machine import Pace, Resource
from extender.cluster.wire import page_decoder
from extender.server.serve import LIMITS, NAMESPACES, NODES, PODS, QUOTAS

TINY = (10, 100)
"""Nodes and pods of the cluster that shows what the process takes by itself."""
_SETTLED_S = 1.0
"""What is only needed while starting is given back meanwhile, and does not count as resident."""


@dataclass(frozen=True, slots=True)
class Synced:
    """One first sync."""

    start_s: float
    """From the start of the program to its first list request."""
    sync_s: float
    """From there until it is ready."""
    cpu_s: float
    """Processor time of the process in that time."""
    resident_mb: float
    peak_mb: float
    server_cpu_s: float
    """Processor time of the API server for it."""

    def as_row(self) -> dict[str, Any]:
        """For people and for JSON."""
        return {
            "start s": round(self.start_s, 2),
            "sync s": round(self.sync_s, 2),
            "cpu s": round(self.cpu_s, 2),
            "resident MB": round(self.resident_mb),
            "peak MB": round(self.peak_mb),
            "server cpu s": round(self.server_cpu_s, 2),
        }


def sync_ours(found: Cluster, pair: Pair) -> Synced:
    """A first sync of `migfit serve`."""
    found.turned.first_list_s.value = 0.0
    server_cpu_s = found.server.cpu_s()
    begun_s = time.monotonic()
    with settings(found.kubeconfig, pair) as given, migfit_serve(given) as ours:
        while not (first_s := float(found.turned.first_list_s.value)):
            if time.monotonic() > begun_s + READY_S:
                raise SystemExit("migfit serve asked for no list")
            time.sleep(POLL_S)  # a number in shared memory wakes nobody
        cpu_s = ours.cpu_s()
        ready_s = await_ready(given.ops_port)
        cpu_s = ours.cpu_s() - cpu_s
        time.sleep(_SETTLED_S)  # memory is given back without a word
        return Synced(
            start_s=first_s - begun_s,
            sync_s=ready_s - first_s,
            cpu_s=cpu_s,
            resident_mb=memory_mb(ours.pid, "VmRSS"),
            peak_mb=memory_mb(ours.pid, "VmHWM"),
            server_cpu_s=found.server.cpu_s() - server_cpu_s,
        )


def sync_bare(found: Cluster) -> tuple[float, float]:
    """Seconds, and seconds of processor time, to list, decode and forget all in a process."""
    context = get_context("spawn")
    took: Any = context.Array("d", 2)
    process = context.Process(target=_read_all, args=(found.kubeconfig, took))
    process.start()
    process.join()
    return took[0], took[1]


def _read_all(path: Path, took: Any) -> None:
    async def read() -> None:
        async with connect(path) as client:
            begun_s, used_s = time.monotonic(), time.process_time()
            kinds: tuple[Resource[Any], ...] = (NODES, PODS, NAMESPACES, QUOTAS, LIMITS)
            await asyncio.gather(*(_read(client, resource) for resource in kinds))
            took[:] = [time.monotonic() - begun_s, time.process_time() - used_s]

    with asyncio.Runner(loop_factory=_event_loop) as runner:
        runner.run(read())


async def _read(client: ApiClient, resource: Resource[Any]) -> None:
    decoder = page_decoder(resource.item)
    params = {"limit": str(Pace().page_items)}
    token = None
    while token != "":
        asked = params | ({"continue": token} if token else {})
        page = decoder.decode(await client.get(resource.path, asked))
        token = page.metadata.continue_token


def measure_sync(
    size: tuple[int, int], alternations: int, found: Cluster, pair: Pair
) -> tuple[list[dict[str, Any]], Synced]:
    """The rows, and the medians of ours."""
    with cluster(*TINY, pair) as tiny:
        by_itself = sync_ours(tiny, pair)
    bare: list[tuple[float, float]] = []
    ours: list[Synced] = []
    for number in range(alternations):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            if which == 0:
                ours.append(sync_ours(found, pair))
            else:
                bare.append(sync_bare(found))
    middle = Synced(*map(statistics.median, zip(*map(astuple, ours), strict=True)))
    pairs = list(zip(ours, bare, strict=True))
    ratio = statistics.median(one.sync_s / other for one, (other, _) in pairs)
    sync_s, cpu_s = map(statistics.median, zip(*bare, strict=True))
    blank = dict.fromkeys(middle.as_row(), "")
    read = {**blank, "sync s": round(sync_s, 2), "cpu s": round(cpu_s, 2)}
    return [
        _row("migfit serve", size, middle.as_row(), f"{ratio:.2f}"),
        _row("read and forget", size, read, ""),
        _row("migfit serve", TINY, by_itself.as_row(), ""),
    ], middle


def _row(program: str, size: tuple[int, int], took: dict[str, Any], ratio: str) -> dict[str, Any]:
    return {"program": program, "nodes": size[0], "pods": size[1], **took, "ratio": ratio}
