"""Which Service a webhook configuration names, and which Secret its certificate is in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from extender.cluster.called import Called, secret_of, service_of
from extender.cluster.examine import scheduler_configurations
from tests.deploy.manifests import SCHEDULERS, one

if TYPE_CHECKING:
    from tests.build import JSON


def deployment(*args: str, volumes: list[JSON] | None = None) -> JSON:
    spec = {"containers": [{"name": "migfit", "args": ["serve", *args]}], "volumes": volumes}
    return {"spec": {"template": {"spec": spec}}}


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ({}, "migfit-webhook-tls"),
        (deployment(), "migfit-webhook-tls"),
        (deployment("--tls-secret=migfit-system/mine"), "mine"),
        (deployment(volumes=[{"secret": {"secretName": "migfit-tls"}}]), "migfit-tls"),
        (deployment(volumes=[{"emptyDir": {}}]), "migfit-webhook-tls"),
    ],
    ids=["no deployment", "as it comes", "by flag", "mounted", "another volume"],
)
def test_the_secret_is_that_which_the_deployment_names(found: JSON, name: str) -> None:
    assert secret_of(found) == name


def test_the_service_is_that_of_the_manifests() -> None:
    expected = Called("migfit", "migfit-system", 443)

    assert service_of(one("MutatingWebhookConfiguration")) == expected
    assert expected.server_name == "migfit.migfit-system.svc"


@pytest.mark.parametrize("webhook", [None, {}, {"webhooks": [{"clientConfig": {"url": "u"}}]}])
def test_without_a_service_there_is_none(webhook: JSON | None) -> None:
    assert service_of(webhook) is None


def test_among_texts_only_configurations_of_schedulers_are_taken() -> None:
    sample = (SCHEDULERS / "second-scheduler.yaml").read_text()

    found = scheduler_configurations(["a: [", sample, "kind: ConfigMap", 7, None, "- x"])

    assert [each["kind"] for each in found] == ["KubeSchedulerConfiguration"]
