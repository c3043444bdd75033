"""The webhook configuration: whom it may bother, and what happens when nobody answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from extender.config.types import Namespaces
from extender.core.policy import Policy
from extender.core.rewrite import REWRITTEN_LABEL
from extender.server.settings import Settings
from tests.deploy.chart import KUSTOMIZE, kustomized, named
from tests.deploy.manifests import JSON, NAMESPACE, one, served_by
from tests.deploy.routes import webhook_paths

OPERATIONS = {"pods.migfit.io": "CREATE", "updates.pods.migfit.io": "UPDATE"}

both = pytest.mark.parametrize("name", OPERATIONS)


def webhook(name: str = "pods.migfit.io") -> JSON:
    (found,) = [e for e in one("MutatingWebhookConfiguration")["webhooks"] if e["name"] == name]
    return dict(found)


def conditions(name: str) -> dict[str, str]:
    """Expressions by name."""
    return {each["name"]: each["expression"] for each in webhook(name)["matchConditions"]}


@both
def test_pods_are_taken_also_while_nobody_answers_and_soon(name: str) -> None:
    assert webhook(name)["failurePolicy"] == "Ignore"
    assert webhook(name)["timeoutSeconds"] == 3


@both
def test_a_dry_run_of_the_api_server_is_reviewed_too(name: str) -> None:
    assert webhook(name)["sideEffects"] == "None"


@both
def test_it_is_asked_again_when_others_change_the_pod_after_it(name: str) -> None:
    assert webhook(name)["reinvocationPolicy"] == "IfNeeded"


def test_they_are_about_pods_one_about_their_creation_and_one_about_updates() -> None:
    configured = one("MutatingWebhookConfiguration")["webhooks"]
    assert [each["name"] for each in configured] == list(OPERATIONS)
    for each in configured:
        assert each["matchPolicy"] == "Equivalent"
        assert each["admissionReviewVersions"] == ["v1"]
        assert each["rules"] == [
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": [OPERATIONS[each["name"]]],
                "resources": ["pods"],
                "scope": "Namespaced",
            }
        ]


@both
def test_what_the_cluster_and_migfit_itself_need_to_start_is_left_out_and_what_is_excluded(
    name: str,
) -> None:
    (expression,) = webhook(name)["namespaceSelector"]["matchExpressions"]

    assert expression == {
        "key": "kubernetes.io/metadata.name",
        "operator": "NotIn",
        "values": ["kube-system", NAMESPACE, "gpu-operator", "nvidia-gpu-operator"],
    }
    assert set(Namespaces().exclude) < set(expression["values"])
    assert "objectSelector" not in webhook(name)  # tenants set labels as they like


def test_updates_come_only_of_pods_we_rewrote_whose_gpu_came_back() -> None:
    found = conditions("updates.pods.migfit.io")

    assert list(found) == ["is-a-pod-we-rewrote", "had-no-gpu", "asks-for-a-gpu"]
    assert REWRITTEN_LABEL in found["is-a-pod-we-rewrote"]
    assert found["had-no-gpu"].startswith("!(oldObject.")
    assert found["asks-for-a-gpu"] == conditions("pods.migfit.io")["asks-for-a-gpu"]


@both
def test_the_api_server_sorts_out_pods_by_the_configurations_gpu_resource(name: str) -> None:
    resources = set(re.findall(r"'([^']+)' in", " ".join(conditions(name).values())))

    assert resources - {REWRITTEN_LABEL} == {Policy().gpu_resource}


@both
def test_the_conditions_ask_for_every_optional_field_before_they_read_it(name: str) -> None:
    for expression in conditions(name).values():
        read = set(re.findall(r"\b(?:object|oldObject|c)(?:\.[a-zA-Z]+)+", expression))
        asked = set(re.findall(r"has\(([^)]+)\)", expression))

        # The only one that a pod must have.
        optional = read - {"object.spec.containers", "oldObject.spec.containers"}
        assert optional - {"object.spec", "oldObject.spec"} == asked
        assert asked


@both
def test_the_service_is_reached_at_a_path_that_is_served(name: str) -> None:
    target, service = webhook(name)["clientConfig"]["service"], one("Service")

    assert (target["namespace"], target["name"]) == (
        service["metadata"]["namespace"],
        service["metadata"]["name"],
    )
    assert target["path"] in webhook_paths()
    assert target["port"] in [
        port["port"] for port in service["spec"]["ports"] if port["name"] == "webhook"
    ]


def test_nobody_who_applies_the_manifests_takes_away_whom_the_api_server_trusts() -> None:
    assert "caBundle" not in webhook()["clientConfig"]
    assert "annotations" not in one("MutatingWebhookConfiguration")["metadata"]


# --- with cert-manager ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def overlay() -> dict[tuple[str, str], JSON]:
    return named(kustomized(KUSTOMIZE / "overlays/cert-manager"))


def test_the_certificate_is_for_the_name_the_api_server_asks_for(
    overlay: dict[tuple[str, str], JSON],
) -> None:
    target = webhook()["clientConfig"]["service"]
    certificate = overlay["Certificate", "migfit"]["spec"]

    assert f"{target['name']}.{target['namespace']}.svc" in certificate["dnsNames"]
    assert "server auth" in certificate["usages"]


def test_the_api_server_trusts_the_authority_that_signs_the_certificate(
    overlay: dict[tuple[str, str], JSON],
) -> None:
    certificate, authority = overlay["Certificate", "migfit"], overlay["Certificate", "migfit-ca"]
    issuer = overlay["Issuer", certificate["spec"]["issuerRef"]["name"]]
    configuration = overlay["MutatingWebhookConfiguration", "migfit"]

    assert issuer["spec"]["ca"]["secretName"] == authority["spec"]["secretName"]
    assert authority["spec"]["isCA"] is True
    assert overlay["Issuer", authority["spec"]["issuerRef"]["name"]]["spec"] == {"selfSigned": {}}
    assert configuration["metadata"]["annotations"] == {
        "cert-manager.io/inject-ca-from": "migfit-system/migfit"
    }
    # It is cert-manager's to fill in; an apply of the manifests must not empty it again.
    assert "caBundle" not in configuration["webhooks"][0]["clientConfig"]


def test_the_pods_mount_the_certificate_and_show_it(overlay: dict[tuple[str, str], JSON]) -> None:
    spec = overlay["Deployment", "migfit"]["spec"]["template"]["spec"]
    (container,), (volume,) = spec["containers"], spec["volumes"]
    (mount,) = container["volumeMounts"]
    told = served_by(container["args"])

    assert mount["name"] == volume["name"]
    assert mount["readOnly"] is True
    assert "subPath" not in mount  # such a mount never sees a renewed certificate
    assert (
        volume["secret"]["secretName"] == (overlay["Certificate", "migfit"]["spec"]["secretName"])
    )
    assert told == Settings(
        configmap=("migfit-system", "migfit-config"),
        extender_port=0,
        tls_cert=Path(mount["mountPath"], "tls.crt"),
        tls_key=Path(mount["mountPath"], "tls.key"),
    )
