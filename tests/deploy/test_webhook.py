"""The webhook configuration: whom it may bother, and what happens when nobody answers."""

from __future__ import annotations

import re

from extender.core.policy import Policy
from tests.deploy.manifests import JSON, one
from tests.deploy.routes import webhook_paths


def webhook() -> JSON:
    (only,) = one("MutatingWebhookConfiguration")["webhooks"]
    return dict(only)


def test_pods_are_created_also_while_nobody_answers_and_soon() -> None:
    assert webhook()["failurePolicy"] == "Ignore"
    assert webhook()["timeoutSeconds"] == 3


def test_a_dry_run_of_the_api_server_is_reviewed_too() -> None:
    assert webhook()["sideEffects"] == "None"


def test_it_is_asked_again_when_others_change_the_pod_after_it() -> None:
    assert webhook()["reinvocationPolicy"] == "IfNeeded"


def test_it_is_about_the_creation_of_pods_and_nothing_else() -> None:
    assert webhook()["name"] == "pods.migfit.io"
    assert webhook()["matchPolicy"] == "Equivalent"
    assert webhook()["admissionReviewVersions"] == ["v1"]
    assert webhook()["rules"] == [
        {
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "operations": ["CREATE"],
            "resources": ["pods"],
            "scope": "Namespaced",
        }
    ]


def test_what_the_cluster_and_migfit_itself_need_to_start_is_left_out() -> None:
    assert webhook()["namespaceSelector"]["matchExpressions"] == [
        {
            "key": "kubernetes.io/metadata.name",
            "operator": "NotIn",
            "values": ["kube-system", one("Namespace")["metadata"]["name"]],
        }
    ]
    assert "objectSelector" not in webhook()  # tenants set labels as they like


def test_the_api_server_sorts_out_pods_by_the_configurations_gpu_resource() -> None:
    (condition,) = webhook()["matchConditions"]

    resources = set(re.findall(r"'([^']+)' in", condition["expression"]))

    assert resources == {Policy().gpu_resource}


def test_the_condition_asks_for_every_optional_field_before_it_reads_it() -> None:
    (condition,) = webhook()["matchConditions"]
    expression = condition["expression"]

    read = set(re.findall(r"\b(?:object|c)(?:\.[a-zA-Z]+)+", expression))
    asked = set(re.findall(r"has\(([^)]+)\)", expression))

    optional = read - {"object.spec.containers"}  # the only one a pod must have
    assert optional == asked
    assert asked == {
        "object.spec.initContainers",
        "c.resources",
        "c.resources.limits",
        "c.resources.requests",
    }


def test_the_service_is_reached_at_a_path_that_is_served() -> None:
    target, service = webhook()["clientConfig"]["service"], one("Service")

    assert (target["namespace"], target["name"]) == (
        service["metadata"]["namespace"],
        service["metadata"]["name"],
    )
    assert target["path"] in webhook_paths()
    assert target["port"] in [
        port["port"] for port in service["spec"]["ports"] if port["name"] == "webhook"
    ]


def test_the_certificate_is_for_the_name_the_api_server_asks_for() -> None:
    target = webhook()["clientConfig"]["service"]
    certificate = one("Certificate", "migfit")

    assert f"{target['name']}.{target['namespace']}.svc" in certificate["spec"]["dnsNames"]
    assert "server auth" in certificate["spec"]["usages"]


def test_the_api_server_trusts_the_authority_that_signs_the_certificate() -> None:
    certificate, authority = one("Certificate", "migfit"), one("Certificate", "migfit-ca")
    annotations = one("MutatingWebhookConfiguration")["metadata"]["annotations"]
    issuer = one("Issuer", certificate["spec"]["issuerRef"]["name"])

    assert issuer["spec"]["ca"]["secretName"] == authority["spec"]["secretName"]
    assert authority["spec"]["isCA"] is True
    assert one("Issuer", authority["spec"]["issuerRef"]["name"])["spec"] == {"selfSigned": {}}
    assert annotations == {"cert-manager.io/inject-ca-from": "migfit-system/migfit"}
    # It is cert-manager's to fill in; an apply of the manifests must not empty it again.
    assert "caBundle" not in webhook()["clientConfig"]
