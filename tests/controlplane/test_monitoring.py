"""The component for Prometheus, by the words of the page about it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest
import yaml

from docs._monitoring import COMPONENT
from tests.deploy.manifests import BASE, ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

PAGE = ROOT / "docs/how-to/monitor.md"


def test_the_component_adds_monitors_rules_and_dashboard_and_changes_nothing_else(
    plane: ControlPlane, tmp_path: Path
) -> None:
    _, named, labels = map(
        yaml.safe_load, re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    )
    assert named["components"] == [f"../migfit/{COMPONENT.relative_to(ROOT)}"]
    folder = tmp_path.resolve()
    kustomization = {
        "resources": [os.path.relpath(BASE, folder)],
        "components": [os.path.relpath(COMPONENT, folder)],
    }

    def rendered(**more: object) -> list[dict[str, object]]:
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({**kustomization, **more}))
        return list(yaml.safe_load_all(plane.kubectl("kustomize", str(folder)).stdout))

    without = rendered(components=[])
    added = [item for item in rendered() if item not in without]

    assert sorted(str(item["kind"]) for item in added) == [
        "ConfigMap",
        "PodMonitor",
        "PrometheusRule",
        "ServiceMonitor",
    ]
    pair = labels["labels"][0]["pairs"].items()
    for item in rendered(**labels):
        metadata = item["metadata"]
        assert isinstance(metadata, dict)
        assert pair <= metadata["labels"].items()
