"""The component for Prometheus, by the words of the page about it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest
import yaml

from docs._monitoring import COMPONENT
from tests.controlplane.foreign import PROMETHEUS, served
from tests.controlplane.installed import Release
from tests.deploy.chart import MONITORING, named, rendered
from tests.deploy.manifests import BASE, NAMESPACE, ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

PAGE = ROOT / "docs/how-to/monitor.md"


def test_the_component_adds_monitors_rules_and_dashboard_and_changes_nothing_else(
    plane: ControlPlane, tmp_path: Path
) -> None:
    _, component, labels, agents, _ = map(
        yaml.safe_load, re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    )
    assert component["components"] == [f"../migfit/{COMPONENT.relative_to(ROOT)}"]
    folder = tmp_path.resolve()
    kustomization = {
        "resources": [os.path.relpath(BASE, folder)],
        "components": [os.path.relpath(COMPONENT, folder)],
    }

    def made(**more: object) -> list[dict[str, object]]:
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({**kustomization, **more}))
        return list(yaml.safe_load_all(plane.kubectl("kustomize", str(folder)).stdout))

    without = made(components=[])
    added = [item for item in made() if item not in without]

    assert sorted(str(item["kind"]) for item in added) == [
        "ConfigMap",
        "PodMonitor",
        "PrometheusRule",
        "ServiceMonitor",
    ]
    (monitor,) = [item for item in made(**agents) if item["kind"] == "PodMonitor"]
    chart = named(rendered(MONITORING | {"agent": {"enabled": True}}))
    assert monitor["spec"] == chart["PodMonitor", "migfit"]["spec"]
    pair = labels["labels"][0]["pairs"].items()
    for item in made(**labels):
        metadata = item["metadata"]
        assert isinstance(metadata, dict)
        assert pair <= metadata["labels"].items()


def test_by_helm_they_are_taken_where_the_operators_kinds_are(plane: ControlPlane) -> None:
    group, kinds = PROMETHEUS
    with served(plane, group, kinds):
        Release(plane).install(MONITORING)

        for kind in kinds:
            made = plane.kubectl("-n", NAMESPACE, "get", kind, "-o", "name").stdout
            assert made.endswith(f".{group}/migfit\n")
    assert plane.client.get("ConfigMap", "migfit-dashboard", NAMESPACE)


def test_by_helm_they_are_refused_where_they_are_not_and_the_page_has_the_words(
    plane: ControlPlane,
) -> None:
    with pytest.raises(AssertionError) as refused:
        Release(plane).install(MONITORING)

    (words,) = re.findall(r"is refused \(`([^`]+)`\)", PAGE.read_text())
    assert words in str(refused.value)
    assert plane.client.items("Deployment") == []
