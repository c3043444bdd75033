"""The component of the node agent, read as it is."""

from __future__ import annotations

from functools import cache

from tests.deploy.manifests import JSON, ROOT, documents

AGENT = ROOT / "deploy" / "kustomize" / "components" / "agent"
OVERLAY = ROOT / "deploy" / "kustomize" / "overlays" / "agent"


@cache
def component() -> tuple[JSON, ...]:
    """The objects of the component, in the order in which it lists them."""
    (kustomization,) = documents(AGENT / "kustomization.yaml")
    return tuple(item for name in kustomization["resources"] for item in documents(AGENT / name))


def in_component(kind: str) -> JSON:
    """The only object of that kind in the component."""
    (found,) = [item for item in component() if item["kind"] == kind]
    return found
