"""What our ServiceAccount cannot do to pods, tried with its token, also with every right there is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.client import ApiError
from tests.controlplane.migfit import SYSTEM_NAMESPACE
from tests.controlplane.objects import gpu_pod, new_namespace, wait_until
from tests.deploy.manifests import BASE, documents

if TYPE_CHECKING:
    from tests.controlplane.client import JSON, Client
    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

REWRITTEN = {"migfit.io/rewritten": "true"}
SLICE = {"nvidia.com/mig-2g.20gb": 1}
REPLICA_SET = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": True}


def pod(
    name: str, namespace: str, owner: JSON | None, labels: dict[str, str] | None = None
) -> JSON:
    """A pod with a slice and one owner; rewritten by us unless other labels are given."""
    marks = REWRITTEN if labels is None else labels
    made = gpu_pod(name, namespace, resources=SLICE, labels=marks)
    if owner is not None:
        made["metadata"]["ownerReferences"] = [{"name": "x", "uid": "5", **owner}]
    return made


def refused(client: Client, name: str, namespace: str) -> str:
    """Why a dry run of a deletion is refused; empty if it is not."""
    try:
        client.delete("Pod", name, namespace, dry_run=True)
    except ApiError as error:
        return str(error) if error.status == 403 else ""
    return ""


@pytest.fixture
def account(plane: ControlPlane) -> Client:
    """Calls with the token of our ServiceAccount, which by RBAC may do anything."""
    new_namespace(plane.client, name=SYSTEM_NAMESPACE)
    for file in ("rbac.yaml", "reconciler.yaml"):
        for item in documents(BASE / file):
            plane.client.create(item)
    user = plane.service_account(SYSTEM_NAMESPACE, "migfit")
    plane.client.create(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "everything"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "cluster-admin",
            },
            "subjects": [
                {"kind": "ServiceAccount", "name": "migfit", "namespace": SYSTEM_NAMESPACE}
            ],
        }
    )
    plane.client.create(pod("probe", SYSTEM_NAMESPACE, None))
    wait_until(
        lambda: "migfit deletes only" in refused(user.client, "probe", SYSTEM_NAMESPACE),
        20,
        "rights and policy are known",
    )
    return user.client


def test_it_may_delete_a_rewritten_pod_of_a_replica_set_or_a_stateful_set(
    plane: ControlPlane, account: Client, namespace: str
) -> None:
    for name, kind in (("a", "ReplicaSet"), ("b", "StatefulSet")):
        plane.client.create(pod(name, namespace, {**REPLICA_SET, "kind": kind}))

        account.delete("Pod", name, namespace)

    assert plane.client.items("Pod", namespace) == []


@pytest.mark.parametrize(
    ("owner", "labels"),
    [
        pytest.param(REPLICA_SET, {}, id="not rewritten"),
        pytest.param(REPLICA_SET, {"app": "asr"}, id="other labels"),
        pytest.param(None, None, id="bare"),
        pytest.param({**REPLICA_SET, "apiVersion": "batch/v1", "kind": "Job"}, None, id="of a Job"),
        pytest.param({**REPLICA_SET, "kind": "DaemonSet"}, None, id="of a DaemonSet"),
        pytest.param({**REPLICA_SET, "controller": False}, None, id="of no controller"),
        pytest.param(
            {**REPLICA_SET, "apiVersion": "example.com/v1"}, None, id="of a namesake of ours"
        ),
    ],
)
def test_it_may_delete_no_other_pod_whatever_rights_it_has(
    plane: ControlPlane,
    account: Client,
    namespace: str,
    owner: JSON | None,
    labels: dict[str, str] | None,
) -> None:
    plane.client.create(pod("other", namespace, owner, labels))

    assert "migfit deletes" in refused(account, "other", namespace)
    with pytest.raises(ApiError, match="migfit deletes"):
        account.delete_all("Pod", namespace)

    assert len(plane.client.items("Pod", namespace)) == 1


def test_it_may_evict_no_pod_whatever_rights_it_has(
    plane: ControlPlane, account: Client, namespace: str
) -> None:
    plane.client.create(pod("rewritten", namespace, REPLICA_SET))
    path = f"{account.path('Pod', 'rewritten', namespace)}/eviction"
    meta = {"name": "rewritten", "namespace": namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}

    with pytest.raises(ApiError, match="migfit evicts no pod") as raised:
        account.request("POST", path, eviction)

    assert raised.value.status == 403
    assert len(plane.client.items("Pod", namespace)) == 1


def test_without_those_rights_it_may_neither_evict_nor_delete_collections_or_anything_else(
    plane: ControlPlane, account: Client, namespace: str
) -> None:
    plane.client.delete("ClusterRoleBinding", "everything")
    plane.client.create(pod("rewritten", namespace, REPLICA_SET))
    one = account.path("Pod", "rewritten", namespace)
    eviction: JSON = {"apiVersion": "policy/v1", "kind": "Eviction"}
    eviction["metadata"] = {"name": "rewritten", "namespace": namespace}
    deployments = f"/apis/apps/v1/namespaces/{namespace}/deployments/any"
    lease = "/apis/coordination.k8s.io/v1/namespaces/migfit-system/leases/migfit-reconciler"
    holds = "/api/v1/namespaces/migfit-system/configmaps/migfit-holds"

    def forbidden(method: str, path: str, body: JSON | None = None) -> bool:
        try:
            account.request(method, path, body)
        except ApiError as error:
            return error.status == 403 and "cannot" in str(error)
        return False

    gone = partial(forbidden, "DELETE", holds)
    wait_until(gone, 10, "the rights are taken away")
    assert forbidden("POST", f"{one}/eviction", eviction)
    for path in (one.rpartition("/")[0], deployments, lease, holds, "/api/v1/nodes/any"):
        assert forbidden("DELETE", path)
    account.delete("Pod", "rewritten", namespace)
