"""What the node agent costs a node: memory and processor, with 8 GPUs cut into 7 slices each.

`migfit agent` as a process, with its own defaults: a look every 5 s, a write at most every 10 s. NVML is
the stub of the tests, which answers at once: what NVIDIA's driver itself takes for a call is not in
these figures. The kubelet is Google's gRPC server on a unix socket, with 110 pods of which 56 hold a
slice; memory in use changes every second, so that there is always something to write. The API server is a
few lines that take every write. The baseline is a process that has loaded the same libraries and does
nothing.
"""

import asyncio
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

from aiohttp import web

from bench._figures import FULL, Figure, options, report
from bench._serve import memory_mb
from bench._servers import LOOPBACK, Pair, Serving, certificate
from tests.agent.podresources import FakeKubelet, pod
from tests.agent.stub import A100, FakeGpu, Stub, build, partitioned

GPUS, SLICES, PODS = 8, 7, 110
NOTHING = (
    "import time, aiohttp.web, grpclib.client, pynvml, prometheus_client, structlog, click, yaml,"
    "google.protobuf.message; time.sleep(3600)"
)


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "")
    seconds = 60.0 if given.effort is FULL else 12.0
    begun_s = time.monotonic()
    with ExitStack() as stack:
        pair = stack.enter_context(certificate())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port, writes = stack.enter_context(_api_server(pair))
        environ = _environ(folder, pair, port)
        cards = [partitioned(A100, [("1g.10gb", n) for n in range(SLICES)]) for _ in range(GPUS)]
        stub = Stub(folder / "hardware")
        stub.set_up(*cards)
        kubelet = stack.enter_context(FakeKubelet(folder / "kubelet.sock", _pods(cards)))
        flags = ["--service-account", str(folder), "--pod-resources", str(kubelet.socket)]
        agent = ["-m", "extender.cli", "agent", *flags, "--ops-port", "0"]
        ours = stack.enter_context(_process(agent, environ))
        bare = stack.enter_context(_process(["-c", NOTHING], environ))
        _wait(lambda: writes[0] > 0)
        rows, rng = [], Random(1)
        started_s, cpu_s, written = time.monotonic(), ours.cpu_s(), writes[0]
        while (lasted_s := time.monotonic() - started_s) < seconds:
            time.sleep(1)  # use changes once a second, as on a node
            for card in cards:
                card.slices = [replace(s, used_mib=rng.randrange(9000)) for s in card.slices]
            stub.set_up(*cards)
        percent = 100 * (ours.cpu_s() - cpu_s) / lasted_s
        resident, of_bare = memory_mb(ours.pid, "VmRSS"), memory_mb(bare.pid, "VmRSS")
        rows.append(
            {
                "resident MB": round(resident, 1),
                "libraries alone MB": round(of_bare, 1),
                "ratio": round(resident / of_bare, 2),
                "CPU %": round(percent, 2),
                "writes/min": round(60 * (writes[0] - written) / lasted_s, 1),
            }
        )
    at = f"{GPUS} GPUs x {SLICES} slices"
    figures = [
        Figure(f"resident memory, {at}", resident, 70.0, "MB"),
        Figure(f"processor, {at}", percent, 1.0, "% of a core"),
    ]
    report("agent", rows, figures, given, begun_s)


def _pods(cards: list[FakeGpu]) -> list[object]:
    held = [each.uuid for card in cards for each in card.slices]
    made = [pod(f"asr-{n}", {"nvidia.com/mig-1g.10gb": [uuid]}) for n, uuid in enumerate(held)]
    return [*made, *(pod(f"web-{n}", {}) for n in range(PODS - len(made)))]


def _environ(folder: Path, pair: Pair, port: int) -> dict[str, str]:
    (folder / "token").write_text("token")
    (folder / "ca.crt").write_bytes(pair.authority.read_bytes())
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(build(folder).parent),
        "NVML_STUB_FILE": str(folder / "hardware"),
        "KUBERNETES_SERVICE_HOST": LOOPBACK,
        "KUBERNETES_SERVICE_PORT": str(port),
        "MIGFIT_NODE_NAME": "gpu-a",
    }


@contextmanager
def _api_server(pair: Pair) -> Iterator[tuple[int, list[int]]]:
    """Takes every write on a thread of its own; the port, and how many there were."""
    writes, ports, ready = [0], [0], threading.Event()
    loop = asyncio.new_event_loop()

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        writes[0] += request.method == "PATCH"
        return web.json_response({}, status=200 if request.method == "PATCH" else 404)

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(pair.cert, pair.key)
        await web.TCPSite(runner, LOOPBACK, 0, ssl_context=tls).start()
        ports[0] = runner.addresses[0][1]
        ready.set()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve())
        loop.run_forever()

    threading.Thread(target=run, daemon=True).start()
    ready.wait()
    yield ports[0], writes
    loop.call_soon_threadsafe(loop.stop)


@contextmanager
def _process(arguments: list[str], environ: dict[str, str]) -> Iterator[Serving]:
    started = subprocess.Popen([sys.executable, *arguments], env=environ)
    try:
        yield Serving(0, started.pid)
    finally:
        started.terminate()
        started.wait(10)


def _wait(until: Callable[[], bool]) -> None:
    while not until():
        time.sleep(0.1)  # writes are counted on a thread of their own


if __name__ == "__main__":
    main()
