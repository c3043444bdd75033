"""The plane itself: what the other tests of this folder take for granted."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.client import ApiError
from tests.controlplane.objects import bound_node, fake_node, gpu_pod, new_namespace, wait_until
from tests.controlplane.plane import ControlPlane
from tests.controlplane.reset import reset

if TYPE_CHECKING:
    from pathlib import Path

    from tests.controlplane.build import Binaries
    from tests.controlplane.conftest import StartPlane
    from tests.controlplane.program import Program

pytestmark = pytest.mark.controlplane

DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "asr"}},
        "template": {
            "metadata": {"labels": {"app": "asr"}},
            "spec": {"containers": [{"name": "main", "image": "registry.invalid/asr:1"}]},
        },
    },
}


def test_the_server_tells_the_release_of_its_binary(
    plane: ControlPlane, binaries: Binaries
) -> None:
    binary = str(binaries.path("kube-apiserver"))
    name, release = subprocess.check_output([binary, "--version"], text=True).split()

    assert re.fullmatch(r"Kubernetes v1\.\d+\.\d+", f"{name} {release}")
    assert plane.client.request("GET", "/version").body["gitVersion"] == release


def test_a_gpu_pod_is_bound_to_the_only_node_that_has_a_gpu(
    plane: ControlPlane, namespace: str, scheduler: Program
) -> None:
    plane.client.create(fake_node("without", allocatable={}))
    plane.client.create(fake_node("with", allocatable={"nvidia.com/gpu": 1}))

    plane.client.create(gpu_pod("asr", namespace))

    assert bound_node(plane.client, namespace, "asr") == "with"


def test_a_pod_that_fits_nowhere_stays_pending_and_the_wait_tells_why(
    plane: ControlPlane, namespace: str, scheduler: Program
) -> None:
    plane.client.create(fake_node("without", allocatable={}))

    plane.client.create(gpu_pod("asr", namespace))

    with pytest.raises(AssertionError, match=r"1 Insufficient nvidia\.com/gpu"):
        bound_node(plane.client, namespace, "asr", timeout_s=2)


def test_a_scheduler_of_another_name_binds_the_pods_that_name_it(
    plane: ControlPlane, namespace: str
) -> None:
    plane.client.create(fake_node("node", allocatable={"nvidia.com/gpu": 2}))
    plane.start_scheduler(name="packing")

    plane.client.create(gpu_pod("ours", namespace, spec={"schedulerName": "packing"}))
    plane.client.create(gpu_pod("other", namespace))

    assert bound_node(plane.client, namespace, "ours") == "node"
    assert "nodeName" not in plane.client.get("Pod", "other", namespace)["spec"]


def test_an_unknown_user_is_refused_until_rbac_lets_them(
    plane: ControlPlane, namespace: str
) -> None:
    eve = plane.user("eve", ["auditors"])
    with pytest.raises(ApiError, match="pods is forbidden") as refused:
        eve.client.items("Pod", namespace)
    assert refused.value.status == 403

    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "auditor", "namespace": namespace},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "auditors", "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "auditor"},
        "subjects": [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "auditors"}
        ],
    }
    plane.client.create(role)
    plane.client.create(binding)

    def may_list() -> bool:
        try:
            return eve.client.items("Pod", namespace) == []
        except ApiError:
            return False

    wait_until(may_list, 5, "a member of the group may list pods")


def test_a_service_account_is_known_by_its_token(plane: ControlPlane, namespace: str) -> None:
    meta = {"name": "agent", "namespace": namespace}
    plane.client.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})

    agent = plane.service_account(namespace, "agent")

    told = plane.kubectl("auth", "whoami", "-o", "json", user=agent).stdout
    assert json.loads(told)["status"]["userInfo"]["username"] == agent.name


def test_kubectl_creates_what_it_is_given_and_prints_the_warnings(
    plane: ControlPlane, namespace: str
) -> None:
    pod = gpu_pod("asr", namespace, spec={"nodeSelector": {"beta.kubernetes.io/arch": "amd64"}})

    done = plane.kubectl("create", "-f", "-", stdin=json.dumps(pod))

    assert done.stdout == "pod/asr created\n"
    assert done.stderr.startswith("Warning: spec.nodeSelector[beta.kubernetes.io/arch]: deprecated")
    assert plane.client.get("Pod", "asr", namespace)["spec"]["nodeSelector"]


def test_a_reply_carries_the_warnings_and_a_dry_run_creates_nothing(
    plane: ControlPlane, namespace: str
) -> None:
    pod = gpu_pod("asr", namespace, spec={"nodeSelector": {"beta.kubernetes.io/arch": "amd64"}})

    reply = plane.client.create(pod, dry_run=True)

    assert reply.warnings[0].startswith("spec.nodeSelector[beta.kubernetes.io/arch]: deprecated")
    assert plane.client.items("Pod", namespace) == []


def test_the_audit_log_has_each_pod_with_its_body(plane: ControlPlane, namespace: str) -> None:
    plane.client.create(gpu_pod("asr", namespace))

    (event,) = wait_until(
        lambda: plane.audit_events("create", resource="pods", namespace=namespace),
        5,
        "the creation is in the audit log",
    )

    assert event["requestObject"]["metadata"]["name"] == "asr"
    assert event["user"]["username"] == "admin"


def test_pods_outlive_the_history(plane: ControlPlane, namespace: str) -> None:
    before = plane.client.create(gpu_pod("first", namespace)).body["metadata"]["resourceVersion"]
    plane.client.create(gpu_pod("second", namespace))
    pods = plane.client.path("Pod", namespace=namespace)
    first_page = plane.client.request("GET", pods, query={"limit": "1"}).body["metadata"]
    plane.client.create(gpu_pod("third", namespace))

    plane.forget_history()

    assert len(plane.client.items("Pod", namespace)) == 3
    query = {"watch": "1", "resourceVersion": before, "timeoutSeconds": "1"}
    event = plane.client.request("GET", pods, query=query).body
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    with pytest.raises(ApiError, match="continue parameter is too old") as expired:
        plane.client.items("Pod", namespace, limit="1", **{"continue": first_page["continue"]})
    assert expired.value.status == 410


def test_a_crash_of_the_api_server_is_a_refused_connection_and_loses_nothing(
    plane: ControlPlane, namespace: str
) -> None:
    plane.client.create(gpu_pod("asr", namespace))

    with plane.without_apiserver(grace_s=0), pytest.raises(ConnectionRefusedError):
        plane.client.get("Pod", "asr", namespace)

    assert plane.client.get("Pod", "asr", namespace)["metadata"]["name"] == "asr"


def test_controllers_make_the_pods_of_a_deployment(plane: ControlPlane, namespace: str) -> None:
    plane.start_controller_manager(["deployment-controller", "replicaset-controller"])

    plane.client.create(DEPLOYMENT | {"metadata": {"name": "asr", "namespace": namespace}})

    wait_until(lambda: len(plane.client.items("Pod", namespace)) == 2, 20, "two pods are made")


def test_a_plane_with_another_admission_plugin_runs_beside_the_first(
    plane: ControlPlane, start_plane: StartPlane
) -> None:
    other = start_plane(enable_admission=("ExtendedResourceToleration",))

    def tolerated(which: ControlPlane) -> list[str]:
        pod = gpu_pod("asr", new_namespace(which.client))
        spec = which.client.create(pod).body["spec"]
        return [toleration["key"] for toleration in spec["tolerations"]]

    assert "nvidia.com/gpu" in tolerated(other)
    assert "nvidia.com/gpu" not in tolerated(plane)


def test_a_reset_leaves_nothing_of_a_test(plane: ControlPlane, namespace: str) -> None:
    pod = gpu_pod("held", namespace)
    pod["metadata"]["finalizers"] = ["migfit.io/test"]
    plane.client.create(pod)
    plane.client.create(fake_node("node", allocatable={}))
    webhook = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "refuses-all"},
        "webhooks": [],
    }
    plane.client.create(webhook)
    plane.client.delete("Pod", "held", namespace)

    reset(plane.client)

    assert plane.client.items("Pod") == []
    assert plane.client.items("Node") == []
    assert plane.client.items("MutatingWebhookConfiguration") == []
    assert namespace not in [item["metadata"]["name"] for item in plane.client.items("Namespace")]


def test_a_plane_that_cannot_start_shows_the_servers_own_words(
    binaries: Binaries, tmp_path: Path
) -> None:
    plane = ControlPlane(binaries, tmp_path, flags=["--no-such-flag"])

    with pytest.raises(Exception, match="unknown flag: --no-such-flag"), plane:
        pytest.fail("it started")

    assert not (tmp_path / "etcd").exists()
