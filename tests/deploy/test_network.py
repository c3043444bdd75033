"""NetworkPolicies: who may open connections to which port, and nobody to any other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.deploy.chart import named, rendered

if TYPE_CHECKING:
    from tests.deploy.manifests import JSON

PACKINGS = ("None", "WebhookOnly", "SecondScheduler", "DefaultScheduler")
ASKED = ("webhook", "extender")
"""Ports that the control plane calls; what is left are those that are read."""


def policies(**values: object) -> dict[str, JSON]:
    """By the component whose pods they select."""
    objects = named(rendered(values)).items()
    found = [item["spec"] for (kind, _), item in objects if kind == "NetworkPolicy"]
    return {
        spec["podSelector"]["matchLabels"]["app.kubernetes.io/component"]: spec for spec in found
    }


def let_in(spec: JSON) -> dict[str, list[JSON] | None]:
    """Port -> from where; None is from anywhere."""
    return {port["port"]: rule.get("from") for rule in spec["ingress"] for port in rule["ports"]}


@pytest.mark.parametrize("packing", PACKINGS)
def test_each_deployment_lets_in_whoever_asks_its_named_ports_and_nobody_else(packing: str) -> None:
    objects = named(rendered({"packing": packing}))

    found = policies(packing=packing)

    deployments = [item for (kind, _), item in objects.items() if kind == "Deployment"]
    assert len(found) == len(deployments)
    for deployment in deployments:
        template = deployment["spec"]["template"]
        spec = found[template["metadata"]["labels"]["app.kubernetes.io/component"]]
        assert spec["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        assert spec["policyTypes"] == ["Ingress"]
        ports = {
            port["name"]
            for each in template["spec"]["containers"]
            for port in each.get("ports", ())
        }
        assert set(let_in(spec)) <= ports
        assert "ops" in let_in(spec)
        assert set(let_in(spec).values()) == {None}


def test_who_may_call_and_who_may_read_can_be_narrowed_each_by_itself() -> None:
    network = {"callers": ["10.0.0.0/24", "fd00::/64"], "scrapers": ["monitoring"]}

    for packing in PACKINGS:
        for spec in policies(packing=packing, networkPolicy=network).values():
            for port, source in let_in(spec).items():
                assert source is not None
                if port in ASKED:
                    assert [each["ipBlock"]["cidr"] for each in source] == network["callers"]
                else:
                    (only,) = source
                    (expression,) = only["namespaceSelector"]["matchExpressions"]
                    assert expression["values"] == network["scrapers"]
    assert policies(networkPolicy={"enabled": False}) == {}
