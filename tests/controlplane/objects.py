"""Fake nodes and pods for a real API server, and waiting for what becomes of them."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tests.controlplane.client import JSON, Client

T = TypeVar("T")

POLL_S = 0.05
# Without `pods` nothing fits on a node; the rest is plenty, so that GPUs decide.
ROOM = {"cpu": "128", "memory": "1Ti", "ephemeral-storage": "4Ti", "pods": "250"}


def fake_node(
    name: str,
    *,
    allocatable: Mapping[str, int | str],
    labels: Mapping[str, str] | None = None,
    taints: Iterable[JSON] = (),
) -> JSON:
    """A ready node without a kubelet; `allocatable` adds to and overrides `ROOM`."""
    resources = ROOM | {resource: str(amount) for resource, amount in allocatable.items()}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
        "spec": {"taints": list(taints)},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def gpu_pod(
    name: str,
    namespace: str,
    *,
    resources: Mapping[str, int | str] | None = None,
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    spec: Mapping[str, object] | None = None,
) -> JSON:
    """A pod of one container with the limits `resources` (one `nvidia.com/gpu` unless given).

    `spec` adds to the pod's spec: nodeSelector, tolerations, schedulerName.
    """
    limits = {"nvidia.com/gpu": "1"} if resources is None else resources
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": dict(labels or {}),
            "annotations": dict(annotations or {}),
        },
        "spec": {
            "containers": [
                {
                    "name": "main",
                    "image": "registry.invalid/model:1",
                    "resources": {
                        "limits": {resource: str(amount) for resource, amount in limits.items()}
                    },
                }
            ],
            **(spec or {}),
        },
    }


def wait_until(predicate: Callable[[], T], timeout_s: float, what: str | Callable[[], str]) -> T:
    """Polls until `predicate()` is true, gives its value; AssertionError with `what` if never."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := predicate()):
        if time.monotonic() > deadline_s:
            told = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {timeout_s:g} s: {told}")
        time.sleep(POLL_S)
    return value


def new_namespace(
    client: Client, labels: Mapping[str, str] | None = None, *, name: str = ""
) -> str:
    """Creates a namespace, with a name of its own unless one is given."""
    name = name or f"test-{uuid.uuid4().hex[:8]}"
    meta = {"name": name, "labels": dict(labels or {})}
    client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    return name


def bound_node(client: Client, namespace: str, name: str, timeout_s: float = 20.0) -> str:
    """Waits until the scheduler has bound the pod and gives the node; tells why it did not."""

    def node() -> str:
        return str(client.get("Pod", name, namespace)["spec"].get("nodeName", ""))

    def why() -> str:
        status = client.get("Pod", name, namespace)["status"]
        conditions = status.get("conditions", ())
        told = "; ".join(condition.get("message", "") for condition in conditions)
        return f"pod {namespace}/{name} is bound to a node ({told or 'no scheduler has seen it'})"

    return wait_until(node, timeout_s, why)
