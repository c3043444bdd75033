"""The GpuNode on the real API server: written by agents, each its own, and printed by kubectl."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from extender.agent.apiserver import ApiServer, ApiServerError
from extender.agent.hardware import Gpu, Hardware, Health, Slice, Xid
from extender.agent.metrics import AgentMetrics
from extender.agent.sampler import Sampler
from extender.agent.writer import Pace, Writer
from tests.agent.fakes import SayingKubelet
from tests.controlplane.agents import ACCOUNT, Installed
from tests.controlplane.client import MERGE_PATCH, ApiError
from tests.deploy.agent import OVERLAY, component, in_component
from tests.deploy.manifests import base

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

CUT = Gpu(
    index=1,
    uuid="GPU-1",
    product="NVIDIA A100-SXM4-80GB",
    memory_mib=81920,
    mig=True,
    watched=True,
    slices=(
        Slice(
            uuid="MIG-1",
            gpu_instance=2,
            profile="3g.40gb",
            start=0,
            size=4,
            memory_mib=40192,
            used_mib=31_000,
        ),
        Slice(uuid="MIG-2", profile="1g.10gb+me", start=6, size=1, memory_mib=9728, used_mib=13),
    ),
)
WHOLE = Gpu(index=0, uuid="GPU-0", product=CUT.product, memory_mib=81920, mig=False, used_mib=9600)
LOST = Gpu(index=2, uuid="GPU-2", health=Health.LOST, slices=None)


class Still:
    """Hardware that stays as it is, but for one XID again and again."""

    def __init__(self, *gpus: Gpu) -> None:
        xids = (Xid(94, "GPU-1", 2),)
        self.hardware = Hardware(gpus=gpus, driver="580.95.05", xids=xids)

    def read(self) -> Hardware:
        return self.hardware

    def close(self) -> None: ...


@pytest.fixture
def installed(plane: ControlPlane, tmp_path: Path) -> Iterator[Installed]:
    made = Installed(plane, tmp_path)
    yield made
    made.remove()


async def written(api: ApiServer, *gpus: Gpu, holders: dict[str, list[str]]) -> dict[str, Any]:
    """What an agent with this hardware writes after three samples."""
    sampler = Sampler(Still(*gpus), SayingKubelet(holders), version="0.1.0", nvml_s=30)
    writer = Writer(api, sampler, Pace(), AgentMetrics())
    for _ in range(3):
        await sampler.sample()
    await writer.write_if_due()
    sampler.close()
    return sampler.latest


async def test_an_agent_makes_its_object_and_the_api_server_keeps_every_field_of_it(
    plane: ControlPlane, installed: Installed
) -> None:
    agent = installed.agent("gpu-a")
    installed.wait_for_policy(agent)

    told = await written(agent.api, WHOLE, CUT, LOST, holders={"asr": ["GPU-0"], "llm": ["MIG-1"]})

    kept = plane.client.get("GpuNode", "gpu-a")
    assert told["gpus"][1]["health"] == "XidError"
    assert [each["code"] for each in told["gpus"][1]["slices"][0]["xids"]] == [94]
    assert kept["status"] == told  # a field that the schema does not know would have been dropped
    assert await agent.api.read() == kept


async def test_what_an_agent_no_longer_knows_is_no_longer_told(
    plane: ControlPlane, installed: Installed
) -> None:
    agent = installed.agent("gpu-a")
    installed.wait_for_policy(agent)
    await written(agent.api, WHOLE, CUT, holders={"asr": ["GPU-0"]})

    told = await written(agent.api, WHOLE, LOST, holders={})

    kept = plane.client.get("GpuNode", "gpu-a")["status"]
    assert kept == told
    assert "slicesTotal" not in kept["summary"]


async def test_kubectl_prints_gpus_mig_slices_hollow_and_when_it_was_last_heard(
    plane: ControlPlane, installed: Installed
) -> None:
    agent = installed.agent("gpu-a")
    installed.wait_for_policy(agent)
    told = await written(agent.api, WHOLE, CUT, holders={"asr": ["GPU-0"], "llm": ["MIG-1"]})
    await agent.api.write({**told, "heartbeatTime": "2020-01-01T00:00:00Z"})

    head, line = plane.kubectl("get", "gpunodes").stdout.splitlines()

    assert head.split() == ["NAME", "GPUS", "MIG", "SLICES", "HOLLOW", "HEARD", "AGE"]
    heard = line.split()[5]
    assert line.split()[:5] == ["gpu-a", "2", "1", "1/2", "1"]
    assert heard.endswith("y") or "y" in heard  # years: this agent is gone, and it shows
    wide = plane.kubectl("get", "gn", "-o", "wide").stdout
    assert "580.95.05" in wide
    assert "heartbeatTime" in plane.kubectl("explain", "gpunodes.status").stdout


async def test_an_agent_may_write_the_object_of_its_own_node_and_no_other(
    plane: ControlPlane, installed: Installed
) -> None:
    mine, other = installed.agent("gpu-a"), installed.agent("gpu-b")
    installed.wait_for_policy(mine)
    told = await written(mine.api, WHOLE, holders={})
    await written(other.api, WHOLE, CUT, holders={})
    before = plane.client.get("GpuNode", "gpu-b")

    forged = ApiServer(plane.url, "gpu-b", mine.account)
    with pytest.raises(ApiServerError, match="agent on node gpu-a may write gpunodes/gpu-a and no"):
        await forged.write(told)
    unborn = ApiServer(plane.url, "gpu-c", mine.account)
    with pytest.raises(ApiServerError, match="may write gpunodes/gpu-a and no other"):
        await unborn.write(told)
    path = plane.client.path("GpuNode", "gpu-b")
    calls: tuple[Callable[[], object], ...] = (
        lambda: mine.client.request("DELETE", path),
        lambda: mine.client.request("PUT", path, before),
        lambda: mine.client.request("PUT", f"{path}/status", before),
        lambda: mine.client.request("PATCH", path, {"metadata": {}}, content_type=MERGE_PATCH),
    )
    for call in calls:
        with pytest.raises(ApiError) as refused:
            call()
        assert refused.value.status == 403

    assert plane.client.get("GpuNode", "gpu-b") == before
    assert [each["metadata"]["name"] for each in plane.client.items("GpuNode")] == [
        "gpu-a",
        "gpu-b",
    ]


async def test_a_token_that_is_bound_to_no_pod_of_a_node_writes_nothing(
    plane: ControlPlane, installed: Installed
) -> None:
    agent = installed.agent("gpu-a")
    installed.wait_for_policy(agent)
    (agent.account / "token").write_text(installed.token())  # read anew on each call

    with pytest.raises(ApiServerError, match="the agent's token names no node"):
        await agent.api.write({"heartbeatTime": "2026-01-01T00:00:00Z"})

    assert plane.client.items("GpuNode") == []


async def test_an_agent_has_no_other_rights(plane: ControlPlane, installed: Installed) -> None:
    agent = installed.agent("gpu-a")
    installed.wait_for_policy(agent)
    client: Callable[..., Any] = agent.client.request

    for kind in ("Node", "Pod", "Secret", "GpuNode"):
        with pytest.raises(ApiError) as refused:
            client("GET", plane.client.path(kind))
        assert refused.value.status == 403, kind


async def test_what_is_in_the_way_of_a_write_is_named(plane: ControlPlane, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(plane.ca_file.read_bytes())
    (tmp_path / "token").write_text("none")
    with pytest.raises(ApiServerError, match="401"):
        await ApiServer(plane.url, "gpu-a", tmp_path).write({})
    with pytest.raises(ApiServerError, match="Cannot connect"):
        await ApiServer("https://127.0.0.1:1", "gpu-a", tmp_path).read()
    (tmp_path / "token").unlink()
    with pytest.raises(ApiServerError, match="No such file"):
        await ApiServer(plane.url, "gpu-a", tmp_path).read()


async def test_a_kind_that_is_not_there_is_named(installed: Installed) -> None:
    agent = installed.agent("gpu-a")
    installed.wait_for_policy(agent)
    installed.remove()
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        try:
            await agent.api.write({"heartbeatTime": "2026-01-01T00:00:00Z"})
        except ApiServerError as error:
            if "apply its CustomResourceDefinition" in str(error):
                return
    pytest.fail("the kind is gone, and nobody says so")


def test_the_overlay_is_the_base_and_the_component(plane: ControlPlane) -> None:
    made = list(yaml.safe_load_all(plane.kubectl("kustomize", str(OVERLAY)).stdout))

    def names(items: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
        return sorted((each["kind"], each["metadata"]["name"]) for each in items)

    assert names(made) == names([*base(), *component()])


def test_the_account_of_the_policy_is_the_one_the_agents_run_as() -> None:
    pod = in_component("DaemonSet")["spec"]["template"]["spec"]
    [condition] = in_component("ValidatingAdmissionPolicy")["spec"]["matchConditions"]

    assert pod["serviceAccountName"] == ACCOUNT
    assert f'endsWith(":{ACCOUNT}")' in condition["expression"]
