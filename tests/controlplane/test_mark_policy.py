"""The label migfit.io/rewritten under its policy, tried by admins and tenants; and forged at creation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.controlplane.client import ApiError
from tests.controlplane.migfit import GPU, Migfit, a100_labels
from tests.controlplane.objects import fake_node, gpu_pod, wait_until
from tests.deploy.manifests import BASE, one

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.controlplane.client import JSON, Client
    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

MARK = "migfit.io/rewritten"
SLICE = "nvidia.com/mig-2g.20gb"
LIGHT = {"migfit.io/gpu-memory": "9.6G"}
MESSAGE = one("ValidatingAdmissionPolicy", "migfit-mark")["spec"]["validations"][0]["message"]


def labelled(label: str | None) -> JSON:
    """A merge patch that sets the mark, or takes it off."""
    return {"metadata": {"labels": {MARK: label}}}


@pytest.fixture
def policy(plane: ControlPlane) -> None:
    """The policy of the base, in force."""
    told = plane.kubectl("apply", "-f", str(BASE / "policy-mark.yaml"))
    assert told.stderr == ""
    plane.client.create(gpu_pod("probe", "default", resources={}, labels={MARK: "true"}))

    def in_force() -> bool:
        try:
            plane.client.patch("Pod", "probe", labelled(None), "default", dry_run=True)
        except ApiError as error:
            return MESSAGE in str(error)
        return False

    wait_until(in_force, 15, "the policy is in force")


@pytest.fixture
def tenant(plane: ControlPlane, namespace: str) -> Client:
    """Somebody with every right to the pods of the namespace, and to their status."""
    user = plane.user("tenant")
    api = "rbac.authorization.k8s.io"
    meta = {"name": "tenant", "namespace": namespace}
    rules = [{"apiGroups": [""], "resources": ["pods", "pods/status"], "verbs": ["*"]}]
    role: JSON = {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": meta}
    plane.client.create({**role, "rules": rules})
    plane.client.create(
        {
            **role,
            "kind": "RoleBinding",
            "roleRef": {"apiGroup": api, "kind": "Role", "name": "tenant"},
            "subjects": [{"kind": "User", "name": "tenant", "apiGroup": api}],
        }
    )

    def may() -> bool:
        try:
            return user.client.items("Pod", namespace) == []
        except ApiError:
            return False

    wait_until(may, 10, "the tenant has rights")
    return user.client


def refused(client: Client, name: str, change: JSON, namespace: str, subresource: str = "") -> str:
    """Why the change was not taken."""
    with pytest.raises(ApiError) as error:
        client.patch("Pod", name, change, namespace, subresource=subresource)
    assert error.value.status == 403
    return str(error.value)


@pytest.mark.parametrize("who", ["admin", "tenant"])
@pytest.mark.parametrize("subresource", ["", "status"])
@pytest.mark.usefixtures("policy")
def test_nobody_changes_removes_or_adds_the_mark_of_a_pod_that_exists(
    plane: ControlPlane, namespace: str, tenant: Client, who: str, subresource: str
) -> None:
    client = plane.client if who == "admin" else tenant
    plane.client.create(gpu_pod("ours", namespace, resources={SLICE: 1}, labels={MARK: "true"}))
    plane.client.create(gpu_pod("other", namespace, resources={SLICE: 1}))

    for name, label in (("ours", None), ("ours", "false"), ("ours", ""), ("other", "true")):
        told = refused(client, name, labelled(label), namespace, subresource)
        assert MESSAGE in told

    def mark(name: str) -> object:
        return plane.client.get("Pod", name, namespace)["metadata"].get("labels", {}).get(MARK)

    assert (mark("ours"), mark("other")) == ("true", None)


@pytest.mark.usefixtures("policy")
def test_a_replace_that_drops_the_mark_is_refused_too(
    plane: ControlPlane, namespace: str, tenant: Client
) -> None:
    made = tenant.create(gpu_pod("ours", namespace, resources={SLICE: 1}, labels={MARK: "true"}))
    pod = made.body
    del pod["metadata"]["labels"][MARK]

    with pytest.raises(ApiError, match="cannot be added, changed or removed"):
        tenant.replace(pod)


@pytest.mark.usefixtures("policy")
@pytest.mark.parametrize("labels", [{}, {MARK: "true"}, {MARK: "nonsense"}])
def test_whatever_else_is_done_to_a_pod_the_policy_lets_it_pass(
    plane: ControlPlane, namespace: str, tenant: Client, labels: Mapping[str, str]
) -> None:
    tenant.create(gpu_pod("pod", namespace, resources={}, labels=labels))
    change = {"metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}}}

    tenant.patch("Pod", "pod", change, namespace)
    tenant.patch("Pod", "pod", {"status": {"message": "c"}}, namespace, subresource="status")
    tenant.patch("Pod", "pod", {"metadata": {"labels": {"team": None}}}, namespace)
    plane.client.create(fake_node("gpu-a", allocatable={}))
    target = {"apiVersion": "v1", "kind": "Node", "name": "gpu-a"}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "pod"}, "target": target}
    path = plane.client.path("Pod", "pod", namespace)
    plane.client.request("POST", f"{path}/binding", binding)
    probe = {"name": "look", "image": "registry.invalid/tools:1"}
    ephemeral = {"spec": {"ephemeralContainers": [probe]}}
    plane.client.patch("Pod", "pod", ephemeral, namespace, subresource="ephemeralcontainers")
    tenant.delete("Pod", "pod", namespace)


# --- forged at creation --------------------------------------------------------------------------


@pytest.fixture
def cluster(plane: ControlPlane, migfit: Migfit) -> ControlPlane:
    """Slices and whole GPUs, known to the server."""
    resources = {GPU: 8, SLICE: 8}
    plane.client.create(fake_node("gpu-a", allocatable=resources, labels=a100_labels()))
    plane.start_controller_manager(["resourcequota-controller"])

    def known() -> bool:
        plane.client.create(gpu_pod("probe", "default", annotations=LIGHT), dry_run=True)
        return bool(migfit.audit("default")[-1]["candidates"])

    wait_until(known, 10, "the node is known")
    return plane


def admitted(plane: ControlPlane, namespace: str, name: str, **fields: JSON) -> str:
    """The resource the pod asks for, or `refused`."""
    try:
        body = plane.client.create(gpu_pod(name, namespace, **fields)).body
    except ApiError as error:
        return "refused" if "exceeded quota" in str(error) else str(error)
    [asked] = body["spec"]["containers"][0]["resources"]["limits"]
    return str(asked)


def test_a_mark_forged_at_creation_gains_nothing_and_costs_its_author_quota(
    cluster: ControlPlane, namespace: str
) -> None:
    hard = {f"requests.{GPU}": "2"}
    meta = {"name": "team", "namespace": namespace}
    quota: JSON = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta}
    cluster.client.create({**quota, "spec": {"hard": hard}})

    def counted() -> bool:
        found = cluster.client.get("ResourceQuota", "team", namespace)
        return bool(found.get("status", {}).get("hard") == hard)

    wait_until(counted, 20, "the quota is counted")
    forged: JSON = {"labels": {MARK: "true"}, "resources": {SLICE: 1}}

    honest = admitted(cluster, namespace, "by-name", resources={SLICE: 1})  # never counts
    assert honest == SLICE
    assert (
        admitted(cluster, namespace, "forged", **forged) == SLICE
    )  # counts as one GPU from now on
    wrong = {"labels": {MARK: "false"}, "annotations": LIGHT}
    assert admitted(cluster, namespace, "first", **wrong) == SLICE  # rewritten: marked all the same
    assert cluster.client.get("Pod", "first", namespace)["metadata"]["labels"][MARK] == "true"
    assert admitted(cluster, namespace, "second", annotations=LIGHT) == "refused"

    elsewhere = "default"
    assert admitted(cluster, elsewhere, "neighbour", annotations=LIGHT) == SLICE
