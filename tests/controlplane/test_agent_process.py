"""`migfit agent` as a process: the real pynvml on the stub, a gRPC kubelet, the real API server."""

from __future__ import annotations

import os
import sys
import urllib.request
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.agent.podresources import FakeKubelet, pod
from tests.agent.stub import A100, FakeGpu, FakeSlice, Stub, partitioned
from tests.controlplane.agents import Installed
from tests.controlplane.client import ApiError
from tests.controlplane.objects import wait_until
from tests.controlplane.plane import free_port
from tests.controlplane.program import Program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.controlplane.client import JSON
    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

NODE = "gpu-a"


class Agent:
    """The process and everything around it."""

    def __init__(self, plane: ControlPlane, folder: Path, library: Path) -> None:
        self.plane, self._folder = plane, folder
        self.installed = Installed(plane, folder)
        self._account = self.installed.agent(NODE).account
        self.stub = Stub(folder / "hardware")
        self.kubelet = FakeKubelet(folder / "kubelet.sock")
        self.ops = f"http://127.0.0.1:{free_port()}"
        api = urlsplit(plane.url)
        self._environ = {
            **os.environ,
            "LD_LIBRARY_PATH": str(library.parent),
            "NVML_STUB_FILE": str(self.stub.path),
            "KUBERNETES_SERVICE_HOST": str(api.hostname),
            "KUBERNETES_SERVICE_PORT": str(api.port),
            "MIGFIT_NODE_NAME": NODE,
        }
        self.program: Program | None = None

    def start(self) -> None:
        """Begin to sample five times a second, and to write once a second at the most."""
        self.program = Program(
            "agent",
            [
                *(sys.executable, "-m", "extender.cli", "agent"),
                *("--service-account", str(self._account)),
                *("--pod-resources", str(self.kubelet.socket)),
                *("--sample", "0.2", "--heartbeat", "1", "--bind", "127.0.0.1"),
                *("--ops-port", self.ops.rpartition(":")[2]),
            ],
            self._folder,
            env=self._environ,
        )

    def kill(self) -> None:
        if self.program is not None:
            self.program.kill()

    def status(self) -> JSON:
        """What the object tells; empty if there is none."""
        try:
            found: JSON = self.plane.client.get("GpuNode", NODE).get("status", {})
        except ApiError:
            return {}
        return found

    def until(self, what: str, **summary: Any) -> JSON:
        """Wait until the summary says so."""

        def told() -> JSON:
            found = self.status()
            return found if found.get("summary", {}).items() >= summary.items() else {}

        return wait_until(told, 30, lambda: f"{what}; it says {self.status()}")

    def holder(self) -> JSON:
        """The one holder of the first card."""
        [held] = self.status()["gpus"][0]["holders"]
        return dict(held)


@pytest.fixture
def agent(
    plane: ControlPlane,
    tmp_path: Path,
    stub_library: Path,
) -> Iterator[Agent]:
    made = Agent(plane, tmp_path, stub_library)
    with made.kubelet:
        yield made
        made.kill()
    made.installed.remove()


def test_it_tells_what_is_there_and_what_becomes_of_it(agent: Agent) -> None:
    whole, cut = FakeGpu(processes_mib=(9600,)), partitioned(A100, [("3g.40gb", 0)])
    agent.stub.set_up(whole, cut)
    agent.kubelet.pods = [pod("asr-0", {"nvidia.com/gpu": [whole.uuid]})]
    agent.start()

    agent.until("a slice is free, and a card hollow", slices="0/1", hollow=1)
    assert agent.holder()["peakMiB"] == 9604
    cut = replace(cut, slices=[FakeSlice("2g.20gb", 0), FakeSlice("2g.20gb", 2)])
    agent.stub.set_up(whole, cut)
    agent.kubelet.pods.append(pod("llm-0", {"nvidia.com/mig-2g.20gb": [cut.slices[1].uuid]}))
    told = agent.until("the card is cut anew", slices="1/2")
    assert [each["profile"] for each in told["gpus"][1]["slices"]] == ["2g.20gb"] * 2
    agent.stub.set_up(replace(whole, xids=((13,), (48,))), cut)
    wait_until(
        lambda: [gpu["health"] for gpu in agent.status()["gpus"]] == ["XidError", "Healthy"],
        30,
        "an XID makes its card ill",
    )

    with urllib.request.urlopen(f"{agent.ops}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'migfit_agent_slices{profile="2g.20gb",state="used"} 1.0' in text
    [peak] = [line for line in text.splitlines() if 'pod="asr-0",preallocates' in line]
    assert float(peak.rpartition(" ")[2]) == 9604 * 1024 * 1024
    assert agent.program is not None
    assert agent.program.stop() == 0


def test_killed_and_started_again_it_has_lost_nothing_but_pods_it_no_longer_sees(
    agent: Agent,
) -> None:
    whole, cut = FakeGpu(processes_mib=(9600,)), partitioned(A100, [("3g.40gb", 0)])
    agent.stub.set_up(whole, cut)
    agent.kubelet.pods = [
        pod("asr-0", {"nvidia.com/gpu": [whole.uuid]}),
        pod("llm-0", {"nvidia.com/mig-3g.40gb": [cut.slices[0].uuid]}),
    ]
    agent.start()
    agent.until("both pods", slices="1/1", hollow=1)
    before = agent.holder()
    agent.kill()
    agent.stub.set_up(replace(whole, processes_mib=()), cut)
    agent.kubelet.pods.pop()

    agent.start()

    agent.until("one pod is gone", slices="0/1", hollow=1)
    assert agent.holder() == before
    assert before["peakMiB"] == 9604


def test_it_goes_on_while_the_api_server_the_kubelet_or_the_driver_are_away(agent: Agent) -> None:
    whole = FakeGpu(processes_mib=(500,))
    agent.stub.set_up(whole)
    agent.kubelet.pods = [pod("asr-0", {"nvidia.com/gpu": [whole.uuid]})]
    agent.start()
    agent.until("a hollow card", gpus=1, hollow=1)

    agent.stub.set_up(options=["init 9", "epoch 1"])
    assert agent.until("no driver", slices="?").get("gpus") is None
    agent.stub.set_up(whole, options=["epoch 2"])
    agent.until("the driver is back", gpus=1, hollow=1)

    with agent.plane.without_apiserver():
        agent.stub.set_up(whole, FakeGpu(), options=["epoch 2"])
    agent.until("what happened meanwhile", gpus=2)

    agent.kubelet.__exit__()
    wait_until(lambda: "holders" not in agent.status()["gpus"][0], 30, "holders are unknown")
    agent.kubelet.__enter__()
    wait_until(lambda: "holders" in agent.status()["gpus"][0], 30, "holders are known again")
    assert agent.holder()["peakMiB"] == 504
    with urllib.request.urlopen(f"{agent.ops}/healthz", timeout=10) as answer:
        assert answer.read() == b"ok\n"
