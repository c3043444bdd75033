"""What else changes pods on a real API server, and must not be tripped over."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from tests.controlplane.client import ApiError
from tests.controlplane.installed import chart_account
from tests.controlplane.migfit import GPU, SYSTEM_NAMESPACE, Migfit, a100_labels
from tests.controlplane.objects import bound_node, fake_node, gpu_pod, new_namespace, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

    from tests.controlplane.client import JSON
    from tests.controlplane.conftest import StartPlane
    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

SLICE = "nvidia.com/mig-2g.20gb"
LIGHT = {"migfit.io/gpu-memory": "9.6G"}


def sliced_node(plane: ControlPlane, migfit: Migfit, taints: tuple[JSON, ...] = ()) -> None:
    """A node with whole GPUs and slices, known to the server."""
    resources = {GPU: 4, SLICE: 4}
    plane.client.create(
        fake_node("gpu-a", allocatable=resources, labels=a100_labels(), taints=taints)
    )

    def seen() -> bool:
        tolerant = {"tolerations": [{"operator": "Exists"}]}
        probe = gpu_pod("probe", "default", annotations=LIGHT, spec=tolerant)
        plane.client.create(probe, dry_run=True)
        return any(line["candidates"] for line in migfit.audit("default"))

    wait_until(seen, 10, "the node is known")


def limits(pod: JSON) -> Any:
    """Limits of the first container."""
    return pod["spec"]["containers"][0]["resources"]["limits"]


def test_a_limit_range_that_puts_the_gpu_back_does_not_make_the_pod_ask_for_both(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    sliced_node(plane, migfit)
    plane.client.create(
        {
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": {"name": "gpu-by-default", "namespace": namespace},
            "spec": {
                "limits": [
                    {"type": "Container", "default": {GPU: "1"}, "defaultRequest": {GPU: "1"}}
                ]
            },
        }
    )

    def defaulted() -> bool:
        bare = plane.client.create(gpu_pod("bare", namespace, resources={}), dry_run=True)
        return GPU in limits(bare.body)

    wait_until(defaulted, 10, "the LimitRange is in force")
    pod = plane.client.create(gpu_pod("asr", namespace, annotations=LIGHT)).body
    assert limits(pod) == {SLICE: "1"}
    assert pod["spec"]["containers"][0]["resources"]["requests"] == {SLICE: "1"}


@pytest.mark.parametrize("kind", ["Container", "Pod"])
def test_a_limit_range_that_bounds_gpus_would_refuse_a_slice_so_the_pod_is_left(
    plane: ControlPlane, namespace: str, migfit: Migfit, kind: str
) -> None:
    sliced_node(plane, migfit)
    plane.client.create(
        {
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": {"name": "at-most-one", "namespace": namespace},
            "spec": {"limits": [{"type": kind, "max": {GPU: "1"}}]},
        }
    )
    refused: list[str] = []

    def in_force() -> bool:
        try:
            plane.client.create(gpu_pod("two", namespace, resources={GPU: 2}), dry_run=True)
        except ApiError as error:
            refused.append(str(error.body["message"]))
        plane.client.create(gpu_pod("asr", namespace, annotations=LIGHT), dry_run=True)
        return bool(refused) and migfit.audit(namespace)[-1]["reason"] == "LimitRange"

    wait_until(in_force, 10, "the LimitRange is in force")
    pod = plane.client.create(gpu_pod("asr", namespace, annotations=LIGHT)).body
    assert limits(pod) == {GPU: "1"}


def test_an_amount_that_the_api_server_refuses_is_not_made_into_one_that_it_takes(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    sliced_node(plane, migfit)
    for limit, request in (("500m", "500m"), ("1500m", "1500m"), ("-1", "-1"), ("1", "2")):
        pod = gpu_pod("odd", namespace, annotations=LIGHT)
        resources = {"limits": {GPU: limit}, "requests": {GPU: request}}
        pod["spec"]["containers"][0]["resources"] = resources
        with pytest.raises(ApiError) as refused:
            plane.client.create(pod)
        assert refused.value.status == 422, (limit, request)


def test_with_extended_resource_toleration_rewritten_pods_still_land_on_tainted_nodes(
    start_plane: StartPlane, authority: trustme.CA, tmp_path: Path
) -> None:
    plane = start_plane(enable_admission=("ExtendedResourceToleration",))
    migfit = Migfit(plane, tmp_path, authority, kubeconfig=chart_account(plane).kubeconfig)
    namespace = new_namespace(plane.client)
    migfit.configure()
    migfit.start()
    try:
        migfit.register()
        taint = {"key": GPU, "effect": "NoSchedule", "value": "present"}
        sliced_node(plane, migfit, (taint,))
        plane.start_scheduler([migfit.extender])
        pod = plane.client.create(gpu_pod("asr", namespace, annotations=LIGHT)).body
        assert limits(pod) == {SLICE: "1"}
        assert bound_node(plane.client, namespace, "asr") == "gpu-a"
    finally:
        migfit.kill()


class Meddler(BaseHTTPRequestHandler):
    """A webhook that gives every first container the GPU resource, whatever it asks for."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = "/spec/containers/0/resources"
        patch = [
            {"op": "add", "path": f"{path}/{part}/nvidia.com~1gpu", "value": "1"}
            for part in ("limits", "requests")
        ]
        response = {
            "uid": review["request"]["uid"],
            "allowed": True,
            "patchType": "JSONPatch",
            "patch": base64.b64encode(json.dumps(patch).encode()).decode(),
        }
        body = json.dumps({**review, "request": None, "response": response}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the test looks at the pod."""


@pytest.fixture
def later_webhook(plane: ControlPlane, migfit: Migfit, authority: trustme.CA) -> Iterator[None]:
    """A webhook that comes after ours, by its name."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Meddler)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    migfit.register(
        configuration="zz-meddler",
        clientConfig={
            "url": f"https://127.0.0.1:{server.server_port}/",
            "caBundle": base64.b64encode(authority.cert_pem.bytes()).decode(),
        },
        reinvocationPolicy="Never",
        matchConditions=[],
    )
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("later_webhook")
def test_a_webhook_after_ours_that_puts_the_gpu_back_gets_it_removed_again(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    sliced_node(plane, migfit)
    pod = plane.client.create(gpu_pod("asr", namespace, annotations=LIGHT)).body
    assert limits(pod) == {SLICE: "1"}
    last = migfit.audit(namespace)[-1]
    assert last["reason"] == "AlreadyMig"
    assert "removed again" in last["message"]


def test_memory_too_small_on_one_node_is_kept_away_by_the_filter(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    """The name promises 20 GB on both nodes; one of them has less, and the pod never lands there."""
    roomy = a100_labels()
    tight = a100_labels(memory_mib={"2g.20gb": 17500})
    plane.client.create(fake_node("roomy", allocatable={SLICE: 2}, labels=roomy))
    plane.client.create(fake_node("tight", allocatable={SLICE: 2}, labels=tight))
    selected = {"nodeSelector": {"kubernetes.io/hostname": "roomy"}}

    def seen() -> bool:
        plane.client.create(gpu_pod("probe", "default", annotations=LIGHT), dry_run=True)
        return [c["free"] for c in migfit.audit("default")[-1]["candidates"]] == [4]

    wait_until(seen, 10, "both nodes are known")
    plane.start_scheduler([migfit.extender])
    need_19g = {"migfit.io/gpu-memory": "15500Mi"}
    anywhere = plane.client.create(gpu_pod("anywhere", namespace, annotations=need_19g)).body
    assert limits(anywhere) == {GPU: "1"}, "the name guarantees only the least of both"
    picked = plane.client.create(
        gpu_pod("picked", namespace, annotations=need_19g, spec=selected)
    ).body
    assert limits(picked) == {SLICE: "1"}
    assert bound_node(plane.client, namespace, "picked") == "roomy"


def test_a_node_under_reconfiguration_is_turned_down_with_a_reason_people_see(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    sliced_node(plane, migfit)
    pod = plane.client.create(gpu_pod("asr", namespace, annotations=LIGHT)).body
    assert limits(pod) == {SLICE: "1"}
    busy = {"metadata": {"labels": {"nvidia.com/mig.config.state": "pending"}}}
    plane.client.patch("Node", "gpu-a", busy)
    migfit.wait_until_none_offers()
    plane.start_scheduler([migfit.extender])

    def told() -> str:
        conditions = plane.client.get("Pod", "asr", namespace)["status"].get("conditions", ())
        return " ".join(condition.get("message", "") for condition in conditions)

    wait_until(lambda: "GPU layout is being changed" in told(), 20, told)
    done = {"metadata": {"labels": {"nvidia.com/mig.config.state": "success"}}}
    plane.client.patch("Node", "gpu-a", done)
    assert bound_node(plane.client, namespace, "asr") == "gpu-a"


def test_rewritten_pods_are_handed_to_a_second_scheduler_only_while_it_lives(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    name = "migfit-scheduler"
    migfit.configure(inject={"schedulerName": name})
    sliced_node(plane, migfit)

    def scheduler_of(pod: str, *, dry_run: bool = True) -> str:
        manifest = gpu_pod(pod, namespace, annotations=LIGHT)
        return str(plane.client.create(manifest, dry_run=dry_run).body["spec"]["schedulerName"])

    assert scheduler_of("nobody-there") == "default-scheduler"
    elect = {
        "leaderElect": True,
        "resourceLock": "leases",
        "resourceNamespace": SYSTEM_NAMESPACE,
        "resourceName": name,
    }
    lock = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "second-scheduler-lock"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "cluster-admin",
        },
        "subjects": [{"kind": "User", "name": "system:kube-scheduler"}],
    }
    plane.client.create(lock)
    plane.start_scheduler([migfit.extender], name=name, settings={"leaderElection": elect})
    wait_until(lambda: scheduler_of("probe") == name, 30, "the Lease is seen to be renewed")
    assert scheduler_of("asr", dry_run=False) == name
    assert bound_node(plane.client, namespace, "asr") == "gpu-a"
