"""From nothing to a pod on a slice and back, by the chart and by the words of the tutorial."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.installed import Pod
from tests.controlplane.migfit import SYSTEM_NAMESPACE
from tests.controlplane.objects import fake_node, gpu_pod, wait_until
from tests.deploy.helm import find
from tests.deploy.manifests import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

TUTORIAL = ROOT / "docs" / "tutorial" / "first-slice.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NODE = "kind-control-plane"
ELSEWHERE = ("docker", "kind", "git", "cd")
"""Programs that make the cluster and the image, which are here already."""


class Reader:
    """Somebody who does what the tutorial says, in the order in which it says it."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane, self.folder = plane, folder
        self.pod: Pod | None = None
        (folder / "deploy").symlink_to(ROOT / "deploy")
        self.done: list[str] = []
        self.variables: dict[str, str] = {}

    def follow(self) -> None:
        for kind, block in BLOCK.findall(TUTORIAL.read_text()):
            if kind == "yaml":
                (self.folder / "asr.yaml").write_text(block)
            elif kind == "console":
                for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                    self._step(step)

    def _step(self, step: str) -> None:
        joined = re.sub(r" \|\n +", " | ", re.sub(r"\\\n *", "", step))
        command, _, shown = joined.partition("\n")
        if command.split()[0] in ELSEWHERE:
            return
        if assignment := re.fullmatch(r"(\w+)='(.*)'", command):
            self.variables[assignment[1]] = assignment[2]
            return
        self._before(command)
        if " logs " in command:
            self._logs()
        else:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=self.folder,
                env=self._environ(),
                capture_output=True,
                text=True,
                check=False,
                timeout=100,
            )
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
            assert shown.strip() in done.stderr + done.stdout, command
        self.done.append(command)
        self._after(command)

    def _environ(self) -> dict[str, str]:
        programs = self.folder / "bin"
        if not programs.exists():
            programs.mkdir()
            (programs / "helm").symlink_to(find("helm"))
            (programs / "kubectl").symlink_to(self.plane.program("kubectl"))
        path = f"{programs}{os.pathsep}{os.defpath}"
        ours = {"PATH": path, "KUBECONFIG": str(self.plane.kubeconfig), "HOME": str(self.folder)}
        return ours | self.variables

    def _before(self, command: str) -> None:
        """What the cluster does by itself between two commands."""
        if "rollout status" in command:
            self.pod = Pod(self.plane, self.folder)
            self.pod.start()
            self.pod.behind_the_service()
            status = {"observedGeneration": 1} | dict.fromkeys(
                ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 2
            )
            client = self.plane.client
            path = client.path("Deployment", "migfit", SYSTEM_NAMESPACE)
            ours = client.get("Deployment", "migfit", SYSTEM_NAMESPACE)
            client.request("PUT", f"{path}/status", ours | {"status": status})

    def _after(self, command: str) -> None:
        client = self.plane.client
        if "--dry-run=server" in command and self.pod is not None:
            assert self.pod.server.audit("default")[-1]["reason"] == "DryRun"
        if "config.mode=Enforce" in command:

            def enforced() -> bool:
                told = client.create(gpu_pod("probe", "default"), dry_run=True).warnings
                return not any("DryRun" in text for text in told) and self._mode() == "Enforce"

            wait_until(enforced, 20, "the change of the mode is in force")
        if command.startswith("kubectl apply -f asr.yaml") and "--dry-run" not in command:
            wait_until(
                lambda: client.get("Pod", "asr", "default")["spec"].get("nodeName"),
                20,
                "the pod is bound",
            )

    def _mode(self) -> str:
        assert self.pod is not None
        return str(self.pod.server.audit("default")[-1]["mode"])

    def _logs(self) -> None:
        assert self.pod is not None
        (line,) = [each for each in self.pod.server.audit("default") if each["pod"] == "asr"][-1:]
        assert line["reason"] == "DryRun"


@pytest.fixture
def reader(plane: ControlPlane, tmp_path: Path) -> Iterator[Reader]:
    somebody = Reader(plane, tmp_path)
    yield somebody
    if somebody.pod is not None:
        somebody.pod.stop()


def test_the_tutorial_leads_from_nothing_to_a_pod_on_a_slice_and_back(
    plane: ControlPlane, reader: Reader
) -> None:
    plane.client.create(fake_node(NODE, allocatable={}))
    plane.start_scheduler()

    reader.follow()

    text = " ".join(reader.done)
    for step in ("helm install", "--dry-run=server", "config.mode=Enforce", "helm uninstall"):
        assert step in text
    client = plane.client
    for kind in ("MutatingWebhookConfiguration", "ClusterRole", "ClusterRoleBinding"):
        assert client.items(kind, labelSelector="app.kubernetes.io/name=migfit") == []
    whole = client.create(gpu_pod("as-before", "default")).body
    assert whole["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert "annotations" not in whole["metadata"]
