"""The node agent's manifests on a real control plane, and agents of nodes that are not there."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extender.agent.apiserver import ApiServer
from tests.controlplane.client import ApiError, Client
from tests.controlplane.objects import fake_node, wait_until
from tests.deploy.agent import component, in_component

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.controlplane.client import JSON
    from tests.controlplane.plane import ControlPlane

NAMESPACE = str(in_component("Namespace")["metadata"]["name"])
ACCOUNT = str(in_component("ServiceAccount")["metadata"]["name"])
ESTABLISHED = {"type": "Established", "status": "True"}


@dataclass(frozen=True, slots=True)
class NodeAgent:
    """What a pod of the DaemonSet has on its node: a token of its own."""

    node: str
    account: Path
    """Folder with token and ca.crt."""
    api: ApiServer
    client: Client
    """For calls that the agent itself does not make."""


class Installed:
    """The component's objects, as `kubectl apply` would make them.

    Args:
        plane: where.
        folder: for tokens.
        by: who makes them, if not this.
    """

    def __init__(
        self, plane: ControlPlane, folder: Path, by: Callable[[], object] | None = None
    ) -> None:
        self._plane, self._folder = plane, folder
        if by is None:
            for item in component():
                plane.client.create(item)
        else:
            by()
        wait_until(self._established, 15, "the kind GpuNode is served")

    def remove(self) -> None:
        """Take the kind away with all its objects; the API server does it piece by piece."""
        client = self._plane.client
        if client.items("CustomResourceDefinition"):
            client.delete_all("GpuNode")
        client.delete_all("CustomResourceDefinition")
        wait_until(lambda: not client.items("CustomResourceDefinition"), 15, "the kind is gone")

    def _established(self) -> bool:
        name = in_component("CustomResourceDefinition")["metadata"]["name"]
        found = self._plane.client.get("CustomResourceDefinition", name)
        conditions = found.get("status", {}).get("conditions", ())
        if not any(each.items() >= ESTABLISHED.items() for each in conditions):
            return False
        try:
            self._plane.client.items("GpuNode")
        except (KeyError, ApiError):  # not discovered yet, or not served yet
            return False
        return True

    def agent(self, node: str, manifest: JSON | None = None) -> NodeAgent:
        """The agent of a node, which is made if it is not there."""
        client = self._plane.client
        try:
            client.create(manifest or fake_node(node, allocatable={}))
        except ApiError as error:
            if error.status != 409:
                raise
        pod: JSON = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"agent-{node}", "namespace": NAMESPACE},
            "spec": {
                "serviceAccountName": ACCOUNT,
                "nodeName": node,
                "containers": [{"name": "agent", "image": "registry.invalid/migfit:0"}],
            },
        }
        made = client.create(pod).body
        token = self.token({"kind": "Pod", "name": pod["metadata"]["name"], "apiVersion": "v1"})
        assert made["spec"]["nodeName"] == node
        account = self._folder / f"account-{node}"
        account.mkdir()
        (account / "token").write_text(token)
        shutil.copy(self._plane.ca_file, account / "ca.crt")
        return NodeAgent(
            node,
            account,
            ApiServer(self._plane.url, node, account),
            self._plane.with_token(token),
        )

    def token(self, bound_to: JSON | None = None) -> str:
        """A token of the agents' account; bound to an object as the kubelet does it."""
        path = f"{self._plane.client.path('ServiceAccount', ACCOUNT, NAMESPACE)}/token"
        body: JSON = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"boundObjectRef": bound_to} if bound_to else {},
        }
        answer = self._plane.client.request("POST", path, body).body
        return str(answer["status"]["token"])

    def wait_for_policy(self, agent: NodeAgent) -> None:
        """Until the policy is in force: the API server takes a moment after it was made."""
        other = {"apiVersion": "migfit.io/v1alpha1", "kind": "GpuNode", "metadata": {"name": "x"}}

        def refused() -> bool:
            try:
                agent.client.create(other, dry_run=True)
            except ApiError as error:
                return "may write" in str(error)
            return False

        wait_until(refused, 15, "the policy is in force")
