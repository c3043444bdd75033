"""After helm uninstall: pods are created as before, and of ours there is only what the page names."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.installed import Pod, Release
from tests.controlplane.migfit import GPU, SYSTEM_NAMESPACE, a100_labels
from tests.controlplane.objects import fake_node, gpu_pod, new_namespace
from tests.controlplane.test_packing import NEED, SECOND, SLICE, start_second
from tests.deploy.manifests import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

PAGE = ROOT / "docs" / "how-to" / "remove.md"
OF_THIS_TEST = {"APIService", "EndpointSlice", "Event", "Namespace"}
"""What the API server makes of a kind, what stands for controllers that are not there, what goes by
itself, and where it was installed."""


def of_ours(plane: ControlPlane) -> set[str]:
    """`Kind name` of everything in the cluster that bears our name or label."""
    kinds = plane.kubectl("api-resources", "--verbs=list", "--output=name").stdout.split()
    listed = ",".join(kind for kind in kinds if kind != "componentstatuses")
    told = json.loads(plane.kubectl("get", listed, "-A", "-o", "json").stdout)
    return {
        f"{item['kind']} {item['metadata']['name']}"
        for item in told["items"]
        if item["kind"] not in OF_THIS_TEST
        and (
            "migfit" in item["metadata"]["name"]
            or item["metadata"].get("labels", {}).get("app.kubernetes.io/name") == "migfit"
        )
    }


def told_to_stay() -> set[str]:
    """`Kind name` of what the page says is left."""
    row = r"^\| (\w+) `([\w.-]+)`[^|]*\| (?:migfit's namespace|cluster)"
    named = re.findall(row, PAGE.read_text(), re.MULTILINE)
    return {f"{kind} {name}" for kind, name in named}


def test_pods_are_created_as_before_and_nothing_is_left_but_what_the_page_names(
    plane: ControlPlane, tmp_path: Path
) -> None:
    assert of_ours(plane) == set()
    release = Release(plane)
    plane.client.create(fake_node("gpu-a", allocatable={GPU: 1, SLICE: 2}, labels=a100_labels()))
    release.install({"packing": "SecondScheduler", "config": {"mode": "Enforce"}})
    webhook, extender = Pod(plane, tmp_path), Pod(plane, tmp_path, SECOND)
    webhook.start()
    webhook.behind_the_service()
    extender.start()
    start_second(plane, extender, "second")
    namespace = new_namespace(plane.client)
    rewritten = plane.client.create(gpu_pod("one", namespace, annotations=NEED)).body
    assert rewritten["spec"]["containers"][0]["resources"]["limits"] == {SLICE: "1"}
    assert len(of_ours(plane)) > 20

    release.uninstall()

    # The processes are still there, as pods are for a while: nobody asks them.
    whole = plane.client.create(gpu_pod("two", namespace, annotations=NEED)).body
    assert whole["spec"]["containers"][0]["resources"]["limits"] == {GPU: "1"}
    assert whole["spec"]["schedulerName"] == "default-scheduler"
    assert whole["metadata"]["annotations"] == NEED
    assert plane.client.get("Pod", "one", namespace)["spec"] == rewritten["spec"]
    webhook.stop()
    extender.stop()
    plane.stop_components()
    assert of_ours(plane) <= told_to_stay()
    assert f"Secret {SYSTEM_NAMESPACE}" not in of_ours(plane)
    assert {"Secret migfit-webhook-tls", "Lease migfit-scheduler"} <= of_ours(plane)
