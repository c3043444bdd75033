"""`migfit agent` as a process, on the stub of NVML."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import pytest

from tests.agent.podresources import FakeKubelet, pod
from tests.agent.stub import A100, FakeGpu, Stub, partitioned
from tests.controlplane.plane import free_port
from tests.controlplane.program import Program

if TYPE_CHECKING:
    from pathlib import Path


AGENT = (sys.executable, "-m", "extender.cli", "agent")


def environ(library: Path | None, folder: Path) -> dict[str, str]:
    """Of a process that finds the stub, if there is one, and no cluster."""
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("KUBERNETES_")},
        "LD_LIBRARY_PATH": "" if library is None else str(library.parent),
        "NVML_STUB_FILE": str(folder / "hardware"),
    }


def run(library: Path | None, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*AGENT, *args],
        env=environ(library, folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_once_prints_every_gpu_with_its_slices_and_holders_and_writes_nothing(
    stub_library: Path,
    tmp_path: Path,
) -> None:
    whole, cut = FakeGpu(), partitioned(A100, [("3g.40gb", 0), ("1g.10gb+me", 6)])
    Stub(tmp_path / "hardware").set_up(whole, cut)
    socket = tmp_path / "kubelet.sock"
    held = pod("asr-0", {"nvidia.com/mig-3g.40gb": [cut.slices[0].uuid]})
    with FakeKubelet(socket, [held]):
        done = run(stub_library, tmp_path, "--once", "-o", "json", "--pod-resources", str(socket))
        table = run(stub_library, tmp_path, "--once", "--pod-resources", str(socket))

    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["driverVersion"] == "580.95.05"
    assert found["summary"]["slices"] == "1/2"
    assert [gpu["uuid"] for gpu in found["gpus"]] == [whole.uuid, cut.uuid]
    assert [(s["profile"], s["start"], s["size"]) for s in found["gpus"][1]["slices"]] == [
        ("3g.40gb", 0, 4),
        ("1g.10gb+me", 6, 1),
    ]
    assert "3g.40gb at 0" in table.stdout
    assert "ml/asr-0" in table.stdout


def test_once_on_a_node_without_nvml_says_so_and_is_a_finding(tmp_path: Path) -> None:
    done = run(None, tmp_path, "--once", "--pod-resources", str(tmp_path / "none.sock"))

    assert done.returncode == 1
    assert "NVML: NVML Shared Library Not Found" in done.stdout
    assert "nobody listens there" in done.stdout
    assert done.stderr == ""


def test_outside_of_a_cluster_there_is_nowhere_to_write(tmp_path: Path) -> None:
    done = run(None, tmp_path)

    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.endswith("this is no pod of a cluster, so there is nowhere to write; use --once")


def test_a_driver_that_hangs_holds_up_no_end(stub_library: Path, tmp_path: Path) -> None:
    Stub(tmp_path / "hardware").set_up(options=["hang nvmlDeviceGetCount_v2"])
    port = free_port()
    cluster = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    flags = ("--bind", "127.0.0.1", "--ops-port", str(port))
    started = Program(
        "agent", [*AGENT, *flags], tmp_path, env=environ(stub_library, tmp_path) | cluster
    )

    def answers() -> bool:
        """Which it does not before it has begun to read."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
                return bool(answer.status == 200)
        except URLError:
            return False

    started.wait_ready(answers)

    assert started.stop(grace_s=25) == 0, started.tail()


@pytest.mark.parametrize("port", ["65536", "tcp://10.0.0.7:9091"])
def test_a_port_that_is_none_is_wrong_use(tmp_path: Path, port: str) -> None:
    done = run(None, tmp_path, "--ops-port", port)

    assert done.returncode == 2
    assert "--ops-port" in done.stderr


def test_the_agent_loads_neither_a_kubernetes_client_nor_what_else_it_does_not_need() -> None:
    code = (
        "import sys, extender.cli.agent;"
        "print([m for m in ('kubernetes_asyncio', 'grpc', 'cryptography', 'numpy')"
        " if m in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.strip() == "[]"
