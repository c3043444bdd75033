"""The base as a whole: complete, valid, and of one piece."""

from __future__ import annotations

import kubernetes_validate
import pytest

from tests.deploy.chart import FOREIGN, KUSTOMIZE, OVERLAYS, kustomized
from tests.deploy.manifests import BASE, JSON, base, documents, one, pod_template, project

OLDEST = "1.30"
"""The first release in which matchConditions of webhooks can be relied on."""
NEWEST = "1.37"


def label(item: JSON) -> str:
    return f"{item['kind']}-{item['metadata']['name']}"


def test_the_base_lists_each_of_its_files_once() -> None:
    (kustomization,) = documents(BASE / "kustomization.yaml")

    listed = sorted(kustomization["resources"])

    assert listed == sorted({file.name for file in BASE.iterdir()} - {"kustomization.yaml"})


def test_the_kinds_are_what_an_admin_expects_and_the_namespace_comes_first() -> None:
    kinds = [item["kind"] for item in base()]

    assert kinds[0] == "Namespace"
    assert sorted(kinds[1:]) == [
        *["ClusterRole"] * 4,
        *["ClusterRoleBinding"] * 4,
        "ConfigMap",
        "Deployment",
        "MutatingWebhookConfiguration",
        "NetworkPolicy",
        "PodDisruptionBudget",
        *["Role"] * 3,
        *["RoleBinding"] * 3,
        "Service",
        "ServiceAccount",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ValidatingAdmissionPolicyBinding",
    ]


@pytest.mark.parametrize("release", [OLDEST, NEWEST])
@pytest.mark.parametrize("item", base(), ids=label)
def test_each_object_is_valid_to_the_letter(item: JSON, release: str) -> None:
    assert kubernetes_validate.validate(item, release, strict=True) == release


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_object_of_an_overlay_is_valid_to_the_letter(overlay: str) -> None:
    for item in kustomized(KUSTOMIZE / "overlays" / overlay):
        if item["apiVersion"] not in FOREIGN:
            assert kubernetes_validate.validate(item, NEWEST, strict=True) == NEWEST
        else:
            assert overlay == "cert-manager"


@pytest.mark.parametrize("item", base(), ids=label)
def test_each_object_is_named_and_labelled_as_ours(item: JSON) -> None:
    meta = item["metadata"]

    assert meta["name"].startswith("migfit")
    assert (
        meta["labels"].items()
        >= {
            "app.kubernetes.io/name": "migfit",
            "app.kubernetes.io/instance": "migfit",
        }.items()
    )
    cluster_wide = (
        "Namespace",
        "ClusterRole",
        "ClusterRoleBinding",
        "MutatingWebhookConfiguration",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    )
    if item["kind"] in cluster_wide:
        assert "namespace" not in meta
    else:
        assert meta["namespace"] == one("Namespace")["metadata"]["name"] == "migfit-system"


def test_every_selector_picks_the_pods_of_the_deployment_and_nothing_less() -> None:
    deployment, labels = one("Deployment")["spec"], pod_template()["metadata"]["labels"]
    (spread,) = pod_template()["spec"]["topologySpreadConstraints"]

    selected = deployment["selector"]["matchLabels"]

    assert selected == one("Service")["spec"]["selector"]
    assert selected == one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
    assert selected == spread["labelSelector"]["matchLabels"]
    assert selected.items() <= labels.items()
    assert selected["app.kubernetes.io/component"] == "webhook"


def test_the_version_is_the_projects_wherever_it_stands() -> None:
    version = project()["version"]

    for meta in (one("Deployment")["metadata"], pod_template()["metadata"]):
        assert meta["labels"]["app.kubernetes.io/version"] == version
    (container,) = pod_template()["spec"]["containers"]
    assert container["image"] == f"ghcr.io/migfit/migfit:{version}"


def test_the_namespace_lets_in_restricted_pods_only() -> None:
    labels = one("Namespace")["metadata"]["labels"]

    levels = {k: v for k, v in labels.items() if k.startswith("pod-security.kubernetes.io/")}

    assert set(levels.values()) == {"restricted"}
    assert "pod-security.kubernetes.io/enforce" in levels
