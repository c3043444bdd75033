"""The chart: the same objects as kustomize makes, under the names and with the fields users expect."""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import yaml

from extender.config import load
from tests.deploy.chart import CHART, KUSTOMIZE, MONITORING, OVERLAYS, kustomized, named, rendered
from tests.deploy.manifests import BASE, JSON, NAMESPACE, base

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

HELM_ONLY = {
    "app.kubernetes.io/managed-by",
    "helm.sh/chart",
    "helm.sh/resource-policy",
    "checksum/configuration",
}


def comparable(items: Iterable[JSON]) -> dict[tuple[str, str], JSON]:
    """Without the marks that Helm leaves; configurations as they are understood."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            kept = {key: plain(item) for key, item in value.items() if key not in HELM_ONLY}
            return {key: item for key, item in kept.items() if item != {}}
        return [plain(item) for item in value] if isinstance(value, list) else value

    found = named(deepcopy(list(items)))
    data = found["ConfigMap", "migfit-config"]["data"]
    data["config.yaml"] = replace(load(data["config.yaml"]), revision="")
    found.pop(("Namespace", NAMESPACE), None)  # helm makes it itself
    return {key: plain(item) for key, item in found.items()}  # type: ignore[misc]


def same(ours: Iterable[JSON], theirs: Iterable[JSON]) -> None:
    """One by one, so that a failure shows the one object."""
    made, wanted = comparable(ours), comparable(theirs)
    assert made.keys() == wanted.keys()
    for key, item in made.items():
        assert item == wanted[key]


def test_by_default_it_is_what_the_base_is_but_for_the_namespace_that_helm_makes() -> None:
    same(rendered(), base())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_with_the_values_of_an_overlay_it_is_what_the_overlay_is(overlay: str) -> None:
    same(rendered(OVERLAYS[overlay]), kustomized(KUSTOMIZE / "overlays" / overlay))


def test_with_the_switches_of_monitoring_it_is_the_base_and_that_component(tmp_path: Path) -> None:
    folder = tmp_path.resolve()  # kustomize takes no path that leads through a link
    kustomization = {
        "resources": [os.path.relpath(BASE, folder)],
        "components": [os.path.relpath(KUSTOMIZE / "components/monitoring", folder)],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))

    same(rendered(MONITORING), kustomized(folder))


@pytest.mark.parametrize(
    ("switch", "kinds"),
    [
        ({"metrics": {"serviceMonitor": {"enabled": True}}}, ["PodMonitor", "ServiceMonitor"]),
        ({"metrics": {"prometheusRule": {"enabled": True}}}, ["PrometheusRule"]),
        ({"dashboard": {"enabled": True}}, ["ConfigMap"]),
    ],
)
def test_each_switch_of_monitoring_adds_what_it_is_about(switch: JSON, kinds: list[str]) -> None:
    without, more = named(rendered()), named(rendered(switch))

    assert sorted(kind for kind, _ in more.keys() - without.keys()) == kinds
    assert {key: more[key] for key in without} == without


def test_monitors_and_rules_bear_the_labels_by_which_they_are_selected() -> None:
    metrics = {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"team": "gpu"}},
    }

    objects = named(rendered({"metrics": metrics}))

    for kind in ("ServiceMonitor", "PodMonitor"):
        assert objects[kind, "migfit"]["metadata"]["labels"]["release"] == "prometheus"
    assert objects["PrometheusRule", "migfit"]["metadata"]["labels"]["team"] == "gpu"


def agents(**values: object) -> dict[tuple[str, str], JSON]:
    """What is installed with agents, by kind and name."""
    return named(rendered({"agent": {"enabled": True, **values}}))


def test_agents_are_monitored_in_the_namespace_that_they_have_of_their_own() -> None:
    objects = named(rendered(MONITORING | {"agent": {"enabled": True}}))

    monitor, template = (
        objects["PodMonitor", "migfit"]["spec"],
        objects["DaemonSet", "migfit-agent"],
    )
    assert monitor["namespaceSelector"]["matchNames"] == [NAMESPACE, "migfit-agent"]
    labels = template["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert template["metadata"]["namespace"] == "migfit-agent"


def test_the_kind_of_the_agents_is_upgraded_with_the_release_and_outlives_it() -> None:
    kind = agents()["CustomResourceDefinition", "gpunodes.migfit.io"]["metadata"]

    assert kind["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert not (CHART / "crds").exists()  # which Helm never upgrades


def test_an_agent_can_do_with_less() -> None:
    lesser = agents(createNamespace=False, runtimeClassName="", sysAdmin=False)

    assert agents().keys() - lesser.keys() == {("Namespace", "migfit-agent")}
    spec = lesser["DaemonSet", "migfit-agent"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert "runtimeClassName" not in spec
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert "NVIDIA_MIG_MONITOR_DEVICES" not in {each["name"] for each in container["env"]}


def test_there_are_values_for_every_overlay_and_every_component() -> None:
    assert {folder.name for folder in (KUSTOMIZE / "overlays").iterdir()} == {*OVERLAYS}
    components = {folder.name for folder in (KUSTOMIZE / "components").iterdir()}
    assert components == {*OVERLAYS, "monitoring"}
