"""`migfit serve` as people start it, on free ports of loopback, fed by a cluster of any size."""

import itertools
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench._apiserver import Dials, dials, kubeconfig, serve_cluster
from bench._cluster import CONFIG
from bench._servers import LOOPBACK, Pair, Serving, free_port, serving
from extender.server.settings import Settings

READY_S = 120.0
POLL_S = 0.05
"""Between two looks at a process that can only be asked."""


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


@contextmanager
def settings(kubeconfig: Path, pair: Pair) -> Iterator[Settings]:
    """Settings of a `migfit serve` for that cluster."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.yaml")
        config.write_text(CONFIG)
        yield Settings(
            config=config,
            kubeconfig=kubeconfig,
            tls_cert=pair.cert,
            tls_key=pair.key,
            webhook_port=free_port(),
            extender_port=free_port(),
            ops_port=free_port(),
            bind=LOOPBACK,
            lame_duck_s=0.0,
        )


@contextmanager
def migfit_serve(given: Settings, stdout: int = subprocess.DEVNULL) -> Iterator[Serving]:
    """The process, just started; `Serving.port` is the extender's. Nobody reads its stdout."""
    flags = {
        "config": given.config,
        "kubeconfig": given.kubeconfig,
        "tls-cert": given.tls_cert,
        "tls-key": given.tls_key,
        "webhook-port": given.webhook_port,
        "extender-port": given.extender_port,
        "ops-port": given.ops_port,
        "bind": given.bind,
        "lame-duck": given.lame_duck_s,
    }
    words = itertools.chain.from_iterable((f"--{name}", str(flags[name])) for name in flags)
    with subprocess.Popen(
        [sys.executable, "-m", "extender.cli", "serve", *words],
        stdout=stdout,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield Serving(given.extender_port, process.pid)
        finally:
            process.kill()


def await_ready(ops_port: int) -> float:
    """`time.monotonic()` when /readyz says so."""
    deadline_s = time.monotonic() + READY_S
    while not _ready(ops_port):
        if time.monotonic() > deadline_s:
            raise SystemExit("migfit serve did not become ready")
        time.sleep(POLL_S)  # it can only be asked again
    return time.monotonic()


def _ready(ops_port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{ops_port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def memory_mb(pid: int | str, row: str) -> float:
    """`VmRSS` or `VmHWM` in 10^6 bytes; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{row}:"))
