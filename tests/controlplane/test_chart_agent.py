"""The node agent out of the chart: installed, upgraded and taken away again by helm."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from extender.agent.apiserver import ApiServer, ApiServerError
from tests.controlplane.agents import NAMESPACE, Installed
from tests.controlplane.client import ApiError
from tests.controlplane.installed import Release
from tests.controlplane.objects import fake_node, wait_until
from tests.controlplane.test_remove import PAGE, of_ours, told_to_stay
from tests.deploy.chart import CHART

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

WITH_AGENT = {"agent": {"enabled": True, "runtimeClassName": ""}}
"""There is no container runtime here whose class could be asked for."""
KIND = "gpunodes.migfit.io"
HEARD = {"heartbeatTime": "2026-01-01T00:00:00Z"}
GPU_NODE = {"nvidia.com/gpu.present": "true"}


@pytest.fixture
def release(plane: ControlPlane, tmp_path: Path) -> Iterator[Release]:
    made = Release(plane)
    yield made
    # The kind is no affair of the plane's reset.
    if plane.client.items("CustomResourceDefinition"):
        Installed(plane, tmp_path, by=lambda: None).remove()


def installed(plane: ControlPlane, folder: Path, release: Release) -> Installed:
    return Installed(plane, folder, by=lambda: release.install(WITH_AGENT))


def pods(plane: ControlPlane) -> list[Any]:
    return plane.client.items("Pod", NAMESPACE)


def test_agents_start_on_gpu_nodes_and_pass_the_api_servers_pod_security(
    plane: ControlPlane, release: Release
) -> None:
    release.install(WITH_AGENT)
    for name, labels in (
        ("gpu-a", GPU_NODE),
        ("gpu-b", GPU_NODE | {"nvidia.com/gpu.deploy.device-plugin": "paused-for-mig-change"}),
        ("cpu", {}),
    ):
        plane.client.create(fake_node(name, allocatable={}, labels=labels))

    plane.start_controller_manager(["daemonset-controller"])

    wait_until(lambda: pods(plane), 30, "the DaemonSet has made a pod")
    (pod,) = pods(plane)
    (term,) = pod["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    assert term["matchFields"][0]["values"] == ["gpu-a"]


async def test_an_agent_writes_the_object_of_its_node_and_no_other(
    plane: ControlPlane, release: Release, tmp_path: Path
) -> None:
    made = installed(plane, tmp_path, release)
    agent = made.agent("gpu-a")
    made.wait_for_policy(agent)

    await agent.api.write(HEARD)

    assert plane.client.get("GpuNode", "gpu-a")["status"] == HEARD
    with pytest.raises(ApiServerError, match="may write gpunodes/gpu-a and no other"):
        await ApiServer(plane.url, "gpu-b", agent.account).write(HEARD)


async def test_an_upgrade_of_the_release_upgrades_the_kind(
    plane: ControlPlane, release: Release, tmp_path: Path
) -> None:
    older = tmp_path / "chart"
    shutil.copytree(CHART, older)
    file = older / "files" / "gpunodes.yaml"
    definition = yaml.safe_load(file.read_text())
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    del schema["status"]["properties"]["goneDevices"]
    file.write_text(yaml.safe_dump(definition))
    made = Installed(plane, tmp_path, by=lambda: release.install(WITH_AGENT, older))
    agent = made.agent("gpu-a")
    made.wait_for_policy(agent)
    told = {**HEARD, "goneDevices": ["MIG-1"]}
    with pytest.raises(ApiServerError, match="goneDevices: field not declared in schema"):
        await agent.api.write(told)

    release.upgrade(WITH_AGENT)

    deadline_s = time.monotonic() + 30
    while True:
        try:
            await agent.api.write(told)
            break
        except ApiServerError:  # the API server takes a moment to serve the new schema
            assert time.monotonic() < deadline_s, "the new field is still refused"
    assert plane.client.get("GpuNode", "gpu-a")["status"] == told


async def test_what_agents_told_outlives_the_release_and_the_next_one_takes_it_over(
    plane: ControlPlane, release: Release, tmp_path: Path
) -> None:
    made = installed(plane, tmp_path, release)
    agent = made.agent("gpu-a")
    made.wait_for_policy(agent)
    await agent.api.write(HEARD)
    before = plane.client.get("GpuNode", "gpu-a")

    release.upgrade({"agent": {"enabled": False}})

    assert plane.client.items("DaemonSet") == []
    assert plane.client.get("GpuNode", "gpu-a") == before
    release.uninstall()
    assert plane.client.get("GpuNode", "gpu-a") == before
    assert of_ours(plane) == {f"CustomResourceDefinition {KIND}"} <= told_to_stay()
    assert f"`kubectl delete crd {KIND}`" in PAGE.read_text()

    # What controllers do that are not here: the namespace is empty and goes.
    finish(plane, NAMESPACE)
    release.install(WITH_AGENT)

    assert plane.client.get("GpuNode", "gpu-a") == before
    assert len(plane.client.items("DaemonSet")) == 1


def finish(plane: ControlPlane, namespace: str) -> None:
    """Take away a namespace that is being deleted, with all that is in it."""
    client = plane.client
    for kind in ("Pod", "ServiceAccount"):
        client.delete_all(kind, namespace)
    ending = client.get("Namespace", namespace)
    assert ending["metadata"]["deletionTimestamp"]
    ending["spec"]["finalizers"] = []
    client.request("PUT", f"{client.path('Namespace', namespace)}/finalize", ending)

    def gone() -> bool:
        try:
            client.get("Namespace", namespace)
        except ApiError as error:
            return error.status == 404
        return False

    wait_until(gone, 20, f"{namespace} is gone")
