"""What the API server makes of a Pod before admission, as far as a decision can tell."""

from collections.abc import Mapping
from typing import Any

from extender.core.pod import Pod, mapping, objects


def defaulted(pod: Pod) -> dict[str, Any]:
    """The pod as a webhook would see it: limits copied into missing requests, a scheduler named.

    The pod given is not changed. Runs before admission and again after every webhook's patch.
    """
    spec = dict(mapping(pod.get("spec")))
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    for group in ("initContainers", "containers"):
        if group in spec:
            spec[group] = [_with_requests(container) for container in objects(spec[group])]
    return {**pod, "apiVersion": "v1", "kind": "Pod", "spec": spec}


def _with_requests(container: Mapping[str, Any]) -> dict[str, Any]:
    resources = dict(mapping(container.get("resources")))
    limits = _as_text(resources.get("limits"))
    requests = {**limits, **_as_text(resources.get("requests"))}
    if limits:
        resources["limits"] = limits
    if requests:
        resources["requests"] = requests
    return {**container, "resources": resources}


def _as_text(quantities: object) -> dict[str, str]:
    """Quantities as the API server stores them: `1` becomes `"1"`."""
    return {name: str(quantity) for name, quantity in mapping(quantities).items()}
