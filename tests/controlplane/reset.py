"""Brings a control plane back to how it started, so that tests can share one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.controlplane.client import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.controlplane.client import Client

# Admission first: it could refuse the rest.
CLUSTER_WIDE = (
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingAdmissionPolicy",
    "Node",
)
RBAC = ("ClusterRoleBinding", "ClusterRole")
NAMESPACED = (
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "ControllerRevision",
    "CronJob",
    "Job",
    "ReplicaSet",
    "Pod",
    "PodDisruptionBudget",
    "ResourceQuota",
    "LimitRange",
    "ConfigMap",
    "Secret",
    "ServiceAccount",
    "Event",
    "Lease",
    "Service",
    "EndpointSlice",
    "NetworkPolicy",
    "RoleBinding",
    "Role",
)
OWN_NAMESPACES = ("kube-system", "kube-public", "kube-node-lease")


def reset(client: Client) -> None:
    """Removes what tests leave: nodes, pods and their owners, namespaces, webhooks, RBAC.

    Nothing else may be writing: stop schedulers and controllers first.
    """
    for kind in CLUSTER_WIDE:
        client.delete_all(kind)
    for kind in RBAC:
        client.delete_all(kind, labelSelector="kubernetes.io/bootstrapping!=rbac-defaults")
    for kind in NAMESPACED:
        _empty(client, kind)
    for namespace in client.items("Namespace"):
        name = namespace["metadata"]["name"]
        if name not in (*OWN_NAMESPACES, "default"):
            _remove(client, name)


def _empty(client: Client, kind: str) -> None:
    namespaces = set()
    for item in client.items(kind):
        meta = item["metadata"]
        if meta["namespace"] in OWN_NAMESPACES:
            continue
        namespaces.add(meta["namespace"])
        # Pods of Jobs wait for a controller that has been stopped.
        if meta.get("finalizers"):
            with _perhaps_gone():
                change = {"metadata": {"finalizers": None}}
                client.patch(kind, meta["name"], change, meta["namespace"])
    for namespace in namespaces:
        while not _emptied(client, kind, namespace):
            pass


def _emptied(client: Client, kind: str, namespace: str) -> bool:
    """Whether all could be deleted in the time that one request has: thousands of pods cannot."""
    try:
        client.delete_all(kind, namespace)
    except TimeoutError:
        return False
    return True


def _remove(client: Client, namespace: str) -> None:
    with _perhaps_gone():
        client.delete("Namespace", namespace)
        # No controller finalizes it: done here, as nothing is left to wait for.
        ending = client.get("Namespace", namespace)
        ending["spec"]["finalizers"] = []
        client.request("PUT", f"{client.path('Namespace', namespace)}/finalize", ending)


@contextmanager
def _perhaps_gone() -> Iterator[None]:
    try:
        yield
    except ApiError as error:
        if error.status != 404:
            raise
