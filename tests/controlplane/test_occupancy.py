"""With agents on three nodes: where the free slice sits decides, though node totals say otherwise."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from extender.agent.metrics import AgentMetrics
from extender.agent.nvml import Nvml
from extender.agent.sampler import Sampler
from extender.agent.writer import Pace, Writer
from tests.agent.fakes import SayingKubelet
from tests.agent.stub import A100, FakeGpu, partitioned
from tests.controlplane.agents import Installed
from tests.controlplane.migfit import GPU, Migfit, a100_labels
from tests.controlplane.objects import bound_node, fake_node, gpu_pod, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.agent.stub import Stub
    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

SMALL, LARGE = "nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb"
ALLOCATABLE = {SMALL: 6, LARGE: 2, GPU: 0}


def cards() -> list[FakeGpu]:
    """Two cards of a node: each one 3g and three 1g."""
    layout = [("3g.40gb", 4), ("1g.10gb", 0), ("1g.10gb", 1), ("1g.10gb", 2)]
    return [partitioned(A100, layout) for _ in range(2)]


@pytest.fixture
def installed(plane: ControlPlane, tmp_path: Path) -> Iterator[Installed]:
    made = Installed(plane, tmp_path)
    yield made
    made.remove()


class Cluster:
    """Nodes of which everything is known twice: by Kubernetes' totals, and by agents."""

    def __init__(
        self, plane: ControlPlane, namespace: str, installed: Installed, stub: Stub
    ) -> None:
        self.plane, self.namespace, self.installed, self.stub = plane, namespace, installed, stub

    def node(self, name: str, held: dict[int, list[int]], *, agent: bool = True) -> None:
        """A node with pods on these slices: card -> numbers in its layout."""
        gpus = cards()
        labels = {**a100_labels(memory_mib={"1g.10gb": 9728, "3g.40gb": 40192})}
        labels |= {"nvidia.com/gpu.count": "2"}
        manifest = fake_node(name, allocatable=ALLOCATABLE, labels=labels)
        self.plane.client.create(manifest)
        holders: dict[str, list[str]] = {}
        for card, numbers in held.items():
            for number in numbers:
                each = gpus[card].slices[number]
                pod = f"{name}-{card}-{number}"
                resource = f"nvidia.com/mig-{each.profile}"
                spec = {"nodeName": name}
                self.plane.client.create(
                    gpu_pod(pod, self.namespace, resources={resource: 1}, spec=spec)
                )
                holders[pod] = [each.uuid]
        if agent:
            self.tell(name, gpus, holders)

    def tell(self, name: str, gpus: list[FakeGpu], holders: dict[str, list[str]]) -> None:
        """What the node's agent makes of the stub of NVML, written as it does."""
        self.stub.set_up(*gpus)
        made = self.installed.agent(name)
        self.installed.wait_for_policy(made)

        async def once() -> None:
            sampler = Sampler(Nvml(), SayingKubelet(holders), version="0")
            await sampler.sample()
            await Writer(made.api, sampler, Pace(), AgentMetrics()).write_if_due()
            sampler.close()

        asyncio.run(once())


@pytest.fixture
def cluster(
    plane: ControlPlane,
    namespace: str,
    installed: Installed,
    stub: Stub,
) -> Cluster:
    return Cluster(plane, namespace, installed, stub)


def asks_for(resource: str, namespace: str, name: str = "asr") -> dict[str, Any]:
    return gpu_pod(name, namespace, resources={resource: 1})


@pytest.mark.parametrize("agents", [True, False], ids=["with-agents", "by-totals"])
def test_a_pod_goes_to_the_free_slice_on_a_used_gpu_though_totals_say_otherwise(
    cluster: Cluster, migfit: Migfit, *, agents: bool
) -> None:
    """A third node, idle, is never chosen. On the busier one the free 1g are all on the idle card."""
    cluster.node("gpu-busy", {0: [0, 1, 2, 3]}, agent=agents)
    cluster.node("gpu-right", {0: [0], 1: [0, 1]}, agent=agents)
    cluster.node("gpu-idle", {}, agent=agents)
    heard = 3 if agents else 0
    wait_until(lambda: migfit.metric("migfit_agents", state="heard") == heard, 20, "agents")
    wait_until(lambda: migfit.metric("migfit_synced") == 1, 20, "the lists are in")
    extender = migfit.extender
    extender["managedResources"] += [{"name": SMALL}]
    extender["weight"] = 100
    cluster.plane.start_scheduler([extender])

    cluster.plane.client.create(asks_for(SMALL, cluster.namespace))

    chosen = bound_node(cluster.plane.client, cluster.namespace, "asr")
    assert chosen == ("gpu-right" if agents else "gpu-busy")


def test_a_slice_that_is_allocatable_and_gone_is_not_promised(
    cluster: Cluster, migfit: Migfit
) -> None:
    """The card was cut anew; the kubelet still counts with the 3g of before."""
    client, namespace = cluster.plane.client, cluster.namespace
    asked = gpu_pod("llm", namespace, annotations={"migfit.io/gpu-memory": "30G"})
    cluster.node("gpu-a", {}, agent=False)

    def reason() -> str:
        warnings = client.create(asked, dry_run=True).warnings
        return warnings[0] if warnings else ""

    wait_until(lambda: "fits mig-3g.40gb" in reason(), 20, "the 3g is offered by the totals")
    cluster.tell("gpu-a", [partitioned(A100, [("1g.10gb", n) for n in range(7)])] * 1, {})

    wait_until(lambda: "fits" not in reason(), 20, lambda: f"it is no longer: {reason()}")
    client.delete("GpuNode", "gpu-a")
    wait_until(lambda: "fits mig-3g.40gb" in reason(), 20, "without an agent it is as before")


def test_usable_memory_is_what_nvml_says_and_not_the_label(
    cluster: Cluster, migfit: Migfit
) -> None:
    client, namespace = cluster.plane.client, cluster.namespace
    # Need 39,000 MiB: fits by the label (40192), and not by what the driver of this node leaves.
    asked = gpu_pod(
        "llm",
        namespace,
        annotations={"migfit.io/gpu-memory": "39000Mi", "migfit.io/headroom": "0"},
    )
    cluster.node("gpu-a", {}, agent=False)

    def warned() -> str:
        return " ".join(client.create(asked, dry_run=True).warnings)

    wait_until(lambda: "fits mig-3g.40gb" in warned(), 20, "it fits by the label")
    agent = cluster.installed.agent("gpu-a")
    cluster.installed.wait_for_policy(agent)
    sized = {"uuid": "MIG-1", "profile": "3g.40gb", "memoryMiB": 38000, "holders": []}
    status = {
        "heartbeatTime": "2999-01-01T00:00:00Z",
        "gpus": [{"index": 0, "health": "Healthy", "mig": True, "slices": [sized] * 2}],
    }
    asyncio.run(agent.api.write(status))

    wait_until(lambda: "fits" not in warned(), 20, lambda: f"it fits no longer: {warned()}")
