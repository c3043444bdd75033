"""`migfit agent`."""

import asyncio
import logging
import signal
import socket
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from extender.agent.apiserver import SERVICE_ACCOUNT, ApiServer, in_cluster_url
from extender.agent.kubelet import SOCKET, Kubelet
from extender.agent.metrics import AgentMetrics
from extender.agent.nvml import Nvml
from extender.agent.operations import listening, operations_app
from extender.agent.sampler import Sampler
from extender.agent.status import health
from extender.agent.writer import Pace, Writer, run
from extender.cli.output import BAD_INPUT, FINDING, columns, emit, fail, output_option
from extender.server.logs import configure


def _env(name: str) -> str:
    return f"MIGFIT_{name}"


@click.command()
@click.option(
    "--node-name",
    default="",
    envvar=_env("NODE_NAME"),
    show_envvar=True,
    help="Name of the node, and of the GpuNode to write.  [default: the host's name]",
)
@click.option(
    "--pod-resources",
    type=click.Path(path_type=Path, dir_okay=False),
    default=SOCKET,
    show_default=True,
    envvar=_env("POD_RESOURCES"),
    show_envvar=True,
    help="Socket of the kubelet's pod-resources API.",
)
@click.option(
    "--service-account",
    type=click.Path(path_type=Path, file_okay=False),
    default=SERVICE_ACCOUNT,
    show_default=True,
    envvar=_env("SERVICE_ACCOUNT"),
    show_envvar=True,
    help="Folder with the token and the ca.crt to write with.",
)
@click.option(
    "--sample",
    "sample_s",
    type=click.FloatRange(0.1, 60),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    envvar=_env("SAMPLE"),
    show_envvar=True,
    help="From one look at the GPUs to the next.",
)
@click.option(
    "--heartbeat",
    "heartbeat_s",
    type=click.FloatRange(1, 60),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    envvar=_env("HEARTBEAT"),
    show_envvar=True,
    help="Write at least so often, also if nothing has changed; what is new, at most every 10 s "
    "or as often as this.",
)
@click.option(
    "--ops-port",
    type=click.IntRange(-1, 65535),
    default=9091,
    show_default=True,
    envvar=_env("OPS_PORT"),
    show_envvar=True,
    help="HTTP port of /healthz and /metrics. 0 switches it off, -1 takes any free port.",
)
@click.option(
    "--bind",
    default="0.0.0.0",  # noqa: S104  a pod is reached by its address
    show_default=True,
    envvar=_env("BIND"),
    show_envvar=True,
    help="Address of that port.",
)
@click.option("--once", is_flag=True, help="Print what is found, write nothing, and end.")
@output_option
@click.option(
    "--debug",
    is_flag=True,
    envvar=_env("DEBUG"),
    show_envvar=True,
    help="Log more.",
)
def agent(
    node_name: str,
    pod_resources: Path,
    service_account: Path,
    sample_s: float,
    heartbeat_s: float,
    ops_port: int,
    bind: str,
    output: str,
    *,
    once: bool,
    debug: bool,
) -> None:
    """Tell what the GPUs of this node hold and use, in the node's GpuNode.

    Reads NVML and the kubelet, and changes no setting of any GPU. With --once the exit code is 1 if
    the GPUs cannot be read.
    """
    configure(level=logging.DEBUG if debug else logging.ERROR if once else logging.INFO)
    metrics = AgentMetrics()
    kubelet = Kubelet(pod_resources)
    booted_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    sampler = Sampler(
        Nvml(), kubelet, version=version("migfit"), metrics=metrics, booted_s=booted_s
    )
    if once:
        asyncio.run(_once(sampler, kubelet))
        emit(sampler.latest, output, lambda: _table(sampler.latest))
        sys.exit(0 if "gpus" in sampler.latest else FINDING)
    url = in_cluster_url()
    if url is None:
        fail("this is no pod of a cluster, so there is nowhere to write; use --once", BAD_INPUT)
    node = node_name or socket.gethostname()
    pace = Pace(sample_s=sample_s, heartbeat_s=heartbeat_s, write_s=min(10.0, heartbeat_s))
    writer = Writer(ApiServer(url, node, service_account), sampler, pace, metrics)
    try:
        asyncio.run(_run(sampler, writer, pace, metrics, bind, ops_port))
    except OSError as error:
        fail(f"--ops-port {ops_port}: cannot listen on {bind}: {error.strerror}; choose another")
    finally:
        sampler.close()


async def _once(sampler: Sampler, kubelet: Kubelet) -> None:
    await sampler.sample()
    sampler.close()
    kubelet.close()


async def _run(
    sampler: Sampler, writer: Writer, pace: Pace, metrics: AgentMetrics, bind: str, ops_port: int
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if not ops_port:
        await run(sampler, writer, pace, stop)
        return
    app = operations_app(metrics.registry, lambda: time.monotonic() - sampler.sampled_at_s)
    async with listening(app, bind, max(0, ops_port)):
        await run(sampler, writer, pace, stop)


def _table(found: dict[str, Any]) -> str:
    """Cards and their slices, one a line, as `kubectl` would print them."""
    rows: list[list[object]] = []
    for gpu in found.get("gpus", ()):
        name = f"{gpu['index']} {gpu.get('product', '')}".strip()
        rows.append([name, "", gpu.get("memoryMiB"), *_use(gpu), health(gpu)])
        for each in gpu.get("slices", ()):
            start = each.get("start", "?")
            rows.append(
                [
                    "",
                    f"{each.get('profile', '?')} at {start}",
                    each.get("memoryMiB"),
                    *_use(each),
                    health(each),
                ]
            )
    lines = [columns(["GPU", "SLICE", "MIB", "USED", "HELD BY", "HEALTH"], rows)]
    lines += [
        f"{each['type']}: {each['message']}"
        for each in found["conditions"]
        if each["status"] != "True"
    ]
    return "\n".join(lines)


def _use(device: dict[str, Any]) -> list[object]:
    if "holders" not in device:
        return [device.get("usedMiB"), "" if device.get("mig") else "?"]
    pods = [f"{each['namespace']}/{each['pod']}" for each in device["holders"]]
    return [device.get("usedMiB"), ", ".join(pods)]
