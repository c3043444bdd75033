"""The Pod Security Standard `restricted`, as a list of what breaks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.deploy.manifests import JSON

ALLOWED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(spec: JSON) -> Iterator[str]:
    """What of a pod breaks the Pod Security Standard `restricted`."""
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield field
    for volume in spec.get("volumes", ()):
        yield from sorted(volume.keys() - {"name"} - ALLOWED_VOLUMES)
    shared = spec.get("securityContext", {})
    if shared.get("sysctls"):
        yield "sysctls"
    for item in [*spec.get("initContainers", ()), *spec["containers"]]:
        own = item.get("securityContext", {})
        told = {**shared, **own}
        capabilities = own.get("capabilities", {})
        wrong = {
            "privileged": own.get("privileged", False),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation", True),
            "procMount": own.get("procMount", "Default") != "Default",
            "runAsNonRoot": told.get("runAsNonRoot") is not True,
            "runAsUser": told.get("runAsUser") == 0,
            "seccompProfile": told.get("seccompProfile", {}).get("type")
            not in ("RuntimeDefault", "Localhost"),
            "drop": "ALL" not in capabilities.get("drop", ()),
            "add": set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"},
            "hostPort": any(port.get("hostPort") for port in item.get("ports", ())),
        }
        yield from (field for field, is_wrong in wrong.items() if is_wrong)
