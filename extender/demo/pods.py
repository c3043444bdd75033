"""What the API server makes of a Pod beside its defaults: validation, identity."""

import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from extender.core.pod import mapping, objects
from extender.demo.refusal import Refused
from extender.demo.store import generated_name

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_COUNT = re.compile(r"[0-9]+")


def validate(pod: Mapping[str, Any]) -> None:
    """Refuse what the real API server would refuse about names, containers and GPUs.

    Raises:
        Refused: 422.
    """
    name = str(mapping(pod.get("metadata")).get("name", ""))
    if not _NAME.fullmatch(name):
        raise Refused.invalid("Pod", name, "metadata.name: must be a lowercase RFC 1123 subdomain")
    containers = objects(mapping(pod.get("spec")).get("containers"))
    if not containers:
        raise Refused.invalid("Pod", name, "spec.containers: Required value")
    for container in (*objects(mapping(pod["spec"]).get("initContainers")), *containers):
        _validate_resources(name, container)


def _validate_resources(pod_name: str, container: Mapping[str, Any]) -> None:
    resources = mapping(container.get("resources"))
    limits, requests = mapping(resources.get("limits")), mapping(resources.get("requests"))
    for resource in {*limits, *requests}:
        if "/" not in resource:
            continue
        where = f"spec.containers[{container.get('name')}].resources"
        if resource not in limits:
            problem = f"{where}.limits: Limit must be set for non overcommitable resources"
        elif limits[resource] != requests.get(resource):
            problem = f"{where}.requests: must be equal to {resource} limit of {limits[resource]}"
        elif not _COUNT.fullmatch(limits[resource]):
            problem = f"{where}.limits[{resource}]: must be an integer"
        else:
            continue
        raise Refused.invalid("Pod", pod_name, problem)


def identified(item: Mapping[str, Any], namespace: str) -> dict[str, Any]:
    """The object with name, namespace, uid and creation time, as it is stored."""
    meta = dict(mapping(item.get("metadata")))
    if not meta.get("name") and meta.get("generateName"):
        meta["name"] = generated_name(str(meta["generateName"]))
    if namespace:
        meta["namespace"] = namespace
    meta["uid"] = str(uuid.uuid4())
    meta["creationTimestamp"] = now()
    return {**item, "metadata": meta}


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
