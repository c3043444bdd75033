"""Kinds of others by their names alone, where the others are not: what such objects say is not judged."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.controlplane.objects import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.controlplane.client import JSON
    from tests.controlplane.plane import ControlPlane

CERT_MANAGER = ("cert-manager.io", ("Certificate", "Issuer"))
PROMETHEUS = ("monitoring.coreos.com", ("PodMonitor", "PrometheusRule", "ServiceMonitor"))


@contextmanager
def served(plane: ControlPlane, group: str, kinds: tuple[str, ...]) -> Iterator[None]:
    """The API server takes objects of these kinds, in version `v1`, until the end of this."""
    for kind in kinds:
        plane.client.create(_definition(group, kind))

    def known() -> bool:
        listed = plane.kubectl("api-resources", f"--api-group={group}").stdout
        return all(kind in listed for kind in kinds)

    wait_until(known, 30, f"the kinds of {group} are served")
    yield
    plane.client.delete_all("CustomResourceDefinition")
    wait_until(lambda: not plane.client.items("CustomResourceDefinition"), 30, "they are gone")


def _definition(group: str, kind: str) -> JSON:
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [version | {"schema": {"openAPIV3Schema": schema}}],
        },
    }
