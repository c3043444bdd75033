"""The servers under measurement, each a process of its own on loopback.

Ours is the production `Server` with everything it runs, on a state that was filled instead of watched.
The bare ones are what any aiohttp handler costs: read the body, parse it, answer.
"""

import asyncio
import gc
import logging
import multiprocessing
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import trustme
from aiohttp import web

from bench._cluster import CONFIG, fill
from extender.cli.serve import _event_loop
from extender.cluster.state import State
from extender.config.load import load
from extender.server.listen import listening
from extender.server.logs import configure
from extender.server.metrics import Metrics
from extender.server.routes import LARGEST_ARGS_BYTES
from extender.server.serve import Server
from extender.server.settings import Settings
from extender.server.tls import Certificate

LOOPBACK = "127.0.0.1"
START_S = 60.0
ARRIVAL_S = 0.01
"""How often the pods whose reviews were answered since turn up: a watch is about as quick."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate for loopback: files for the servers, trust for the client."""

    cert: Path
    key: Path
    trust: ssl.SSLContext
    authority: Path
    """Who signed it, for clients in other processes."""


@contextmanager
def certificate() -> Iterator[Pair]:
    """A certificate, for as long as the `with`."""
    authority = trustme.CA()
    issued = authority.issue_cert(LOOPBACK)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with tempfile.TemporaryDirectory() as folder:
        cert, key, trusted = (Path(folder, name) for name in ("tls.crt", "tls.key", "ca.crt"))
        pair = Pair(cert, key, trust, trusted)
        authority.cert_pem.write_to_path(str(trusted))
        for blob in issued.cert_chain_pems:
            pair.cert.write_bytes(blob.bytes())
        issued.private_key_pem.write_to_path(str(pair.key))
        yield pair


@dataclass(frozen=True, slots=True)
class Serving:
    """A running server."""

    port: int
    pid: int

    def cpu_s(self) -> float:
        """Processor time it has used, where the system tells; else 0."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text("ascii")
        except OSError:
            return 0.0
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        return int(free.getsockname()[1])


@contextmanager
def serving(serve: Callable[..., None], *args: Any) -> Iterator[Serving]:
    """Run `serve(port, *args)` in a process, for as long as the `with`.

    Raises:
        RuntimeError: it ended, or did not listen in time.
    """
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(port, *args), daemon=True
    )
    process.start()
    try:
        _await_listening(process, port)
        yield Serving(port, process.pid or 0)
    finally:
        process.kill()
        process.join()


def _await_listening(process: Any, port: int) -> None:
    deadline = time.monotonic() + START_S
    while process.is_alive() and time.monotonic() < deadline:
        try:
            socket.create_connection((LOOPBACK, port), timeout=1.0).close()
        except OSError:
            time.sleep(0.02)  # a port that nobody listens on yet can only be asked again
        else:
            return
    raise RuntimeError(f"the server under measurement did not listen on port {port}")


# --- ours ----------------------------------------------------------------------------------------


def production_extender(port: int, nodes: int, changing: int = 0) -> None:
    """`migfit serve` with the extender alone, knowing that many nodes; GPUs of some are cut anew."""
    _production(Settings(webhook_port=0, extender_port=port, ops_port=0), nodes, changing)


def production_webhook(port: int, nodes: int, cert: Path, key: Path) -> None:
    """`migfit serve` with the webhook alone, knowing that many nodes."""
    settings = Settings(
        webhook_port=port,
        extender_port=0,
        ops_port=0,
        bind=LOOPBACK,
        tls_cert=cert,
        tls_key=key,
    )
    _production(settings, nodes)


def _production(settings: Settings, nodes: int, changing: int = 0) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # audit lines are written, and read by nobody
    configure(level=logging.WARNING)
    with asyncio.Runner(loop_factory=_event_loop) as runner:
        runner.run(_serve_production(settings, nodes, changing))


async def _serve_production(settings: Settings, nodes: int, changing: int) -> None:
    server = Server(settings, Metrics(), load(CONFIG))
    fill(server.state, nodes, changing)
    server.also(_arrivals(server.state))
    await server.run(asyncio.Event(), asyncio.Event())


async def _arrivals(state: State) -> None:
    """The pods of answered reviews turn up in the watch, which ends their reservations.

    Without it every review would leave a reservation behind for its whole time to live, as if each
    pod were refused by someone after us. What else the watch's events cost is not part of a review.
    """
    while True:
        await asyncio.sleep(ARRIVAL_S)
        for decision in state.in_flight:
            state.in_flight.end(decision.id)


# --- the baselines -------------------------------------------------------------------------------


def bare_extender(port: int, answers: Mapping[str, bytes]) -> None:
    """Parses the body and answers the same bytes every time, at each path its own."""

    async def handle(request: web.Request) -> web.Response:
        orjson.loads(await request.read())
        return web.Response(body=answers[request.path], content_type="application/json")

    _bare(port, answers, handle)


def bare_webhook(port: int, cert: Path, key: Path) -> None:
    """Parses the review and allows the pod."""

    async def handle(request: web.Request) -> web.Response:
        review = orjson.loads(await request.read())
        answer = {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": {"uid": review["request"]["uid"], "allowed": True},
        }
        return web.Response(body=orjson.dumps(answer), content_type="application/json")

    _bare(port, ["/mutate"], handle, Certificate(cert, key).context)


def _bare(
    port: int,
    paths: Iterable[str],
    handle: Callable[[web.Request], Any],
    tls: ssl.SSLContext | None = None,
) -> None:
    app = web.Application(client_max_size=LARGEST_ARGS_BYTES)
    for path in paths:
        app.router.add_post(path, handle)
    serve_app(port, app, tls)


def serve_app(port: int, app: web.Application, tls: ssl.SSLContext | None = None) -> None:
    """Serve an app as ours are served, until killed."""

    async def serve() -> None:
        gc.collect()
        gc.freeze()
        async with listening(app, LOOPBACK, port, tls=tls):
            await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=_event_loop) as runner:
        runner.run(serve())


def loop_name() -> str:
    """Which event loop all of them run on: `uvloop` where it is installed."""
    loop = _event_loop()
    loop.close()
    return type(loop).__module__.partition(".")[0]
