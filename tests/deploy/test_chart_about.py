"""What the chart says about itself, as Artifact Hub and Helm read it, and what it tells at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import yaml

from docs._chart import newest_changes
from tests.deploy.chart import CHART, helm, notes
from tests.deploy.manifests import JSON, ROOT, documents, project
from tests.deploy.test_kustomize import OLDEST

if TYPE_CHECKING:
    from pathlib import Path

CATEGORIES = {
    "ai-machine-learning",
    "database",
    "integration-delivery",
    "monitoring-logging",
    "networking",
    "security",
    "storage",
    "streaming-messaging",
    "skip-prediction",
}
HUB = "artifacthub.io/"


@pytest.fixture(scope="module")
def about() -> JSON:
    (only,) = documents(CHART / "Chart.yaml")
    return only


def hub(about: JSON, name: str) -> object:
    return yaml.safe_load(about["annotations"][f"{HUB}{name}"])


def test_the_chart_is_of_the_projects_version_and_says_for_which_kubernetes(about: JSON) -> None:
    assert about["apiVersion"] == "v2"
    assert about["type"] == "application"
    assert about["version"] == about["appVersion"] == project()["version"]
    assert about["kubeVersion"] == f">={OLDEST}.0-0"  # -0: those of vendors too, as 1.33.5-gke.1


def test_it_says_where_it_comes_from_and_who_looks_after_it(about: JSON) -> None:
    urls = project()["urls"]

    assert about["home"] == urls["Source"]
    assert about["sources"] == [urls["Source"]]
    assert about["maintainers"]
    assert len(about["keywords"]) >= 3
    icon = urlsplit(about["icon"]).path.split("/main/")[1]
    assert (ROOT / icon).read_text().startswith("<svg ")


def test_artifact_hub_finds_all_that_it_shows(about: JSON) -> None:
    assert {key.removeprefix(HUB) for key in about["annotations"]} == {
        "license",
        "category",
        "prerelease",
        "containsSecurityUpdates",
        "changes",
        "images",
        "links",
        "recommendations",
    }
    assert hub(about, "license") == project()["license"]
    assert hub(about, "category") in CATEGORIES
    assert isinstance(hub(about, "prerelease"), bool)
    assert isinstance(hub(about, "containsSecurityUpdates"), bool)
    assert hub(about, "images") == [
        {
            "name": "migfit",
            "image": f"ghcr.io/migfit/migfit:{project()['version']}",
            "platforms": ["linux/amd64", "linux/arm64"],
        }
    ]


def test_the_changes_are_those_of_the_changelog(about: JSON) -> None:
    changes = hub(about, "changes")

    assert isinstance(changes, list)
    assert [(each["kind"], each["description"]) for each in changes] == newest_changes()
    assert changes
    kinds = {"added", "changed", "deprecated", "removed", "fixed", "security"}
    assert {each["kind"] for each in changes} <= kinds


def test_helm_has_nothing_to_complain_about() -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in helm("lint", "--strict", CHART)


# --- notes ---------------------------------------------------------------------------------------


def warnings(folder: Path, values: JSON) -> list[str]:
    told = notes(folder, values).splitlines()
    return [line for line in told if line.startswith("WARNING: ")]


def test_a_first_installation_is_told_that_it_only_looks_and_what_to_look_at_next(
    tmp_path: Path,
) -> None:
    told = notes(tmp_path)

    assert "mode DryRun" in told
    assert "kubectl -n migfit-system rollout status deployment/migfit" in told
    assert "--dry-run=server" in told
    assert "--set config.mode=Enforce" in told


@pytest.mark.parametrize("values", [{"firstSteps": False}, {"config": {"mode": "Enforce"}}])
def test_who_enforces_is_told_so(tmp_path: Path, values: JSON) -> None:
    told = notes(tmp_path, values)

    assert "mode Enforce" in told
    assert "DryRun" not in told


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        ({"replicas": 1}, "one replica"),
        ({"podDisruptionBudget": False}, "no PodDisruptionBudget"),
        ({"packing": "None"}, "webhook only"),
        ({"packing": "WebhookOnly"}, "webhook only"),
        (
            {"packing": "SecondScheduler", "scheduler": {"replicas": 1}},
            "one replica of the scheduler",
        ),
        (
            {"packing": "DefaultScheduler", "extender": {"replicas": 1}},
            "one replica of the extender",
        ),
    ],
)
def test_it_warns_of_what_is_less_than_it_could_be(
    tmp_path: Path, values: JSON, warned: str
) -> None:
    found = warnings(tmp_path, {"packing": "SecondScheduler"} | values)

    (line,) = found
    assert line.startswith(f"WARNING: {warned}.")


@pytest.mark.parametrize("packing", ["SecondScheduler", "DefaultScheduler"])
def test_it_does_not_warn_for_nothing_and_says_what_is_left_to_do(
    tmp_path: Path, packing: str
) -> None:
    assert warnings(tmp_path, {"packing": packing}) == []
    wanted = {
        "SecondScheduler": "get lease migfit-scheduler",
        "DefaultScheduler": "kube-scheduler\\.yaml",
    }
    assert wanted[packing] in notes(tmp_path, {"packing": packing})


@pytest.mark.parametrize("made_by_us", [True, False])
def test_who_has_agents_is_told_where_to_look_and_what_they_need(
    tmp_path: Path, *, made_by_us: bool
) -> None:
    told = notes(tmp_path, {"agent": {"enabled": True, "createNamespace": made_by_us}})

    assert "kubectl get gpunodes" in told
    assert "RuntimeClass nvidia" in told
    assert ("pod-security.kubernetes.io/enforce=privileged" in told) is not made_by_us
    assert "gpunodes" not in notes(tmp_path / "without")
