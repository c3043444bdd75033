"""Many pods at once: promises in flight keep slices from being given twice."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from extender.config import load
from tests.controlplane.migfit import CONFIG, GPU, SYSTEM_NAMESPACE, Migfit, a100_labels
from tests.controlplane.objects import fake_node, gpu_pod, new_namespace, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

    from tests.controlplane.client import JSON
    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

SLICE = "nvidia.com/mig-2g.20gb"
IN_FLIGHT = 16
"""Requests at once."""
LIGHT = {"migfit.io/gpu-memory": "9.6G"}


def asked(pod: JSON) -> str:
    """The one device resource of the pod."""
    [resource] = pod["spec"]["containers"][0]["resources"]["limits"]
    return str(resource)


def known(plane: ControlPlane, migfit: Migfit, slices: int) -> None:
    """Wait until the server knows of so many free slices."""

    def seen() -> bool:
        plane.client.create(gpu_pod("probe", "default", annotations=LIGHT), dry_run=True)
        return [c["free"] for c in migfit.audit("default")[-1]["candidates"]] == [slices]

    wait_until(seen, 10, f"{slices} free slices are known")


def test_fifty_pods_at_once_take_exactly_the_ten_free_slices_and_none_is_left_pending(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    for name, resources in {
        "sliced-1": {SLICE: 6},
        "sliced-2": {SLICE: 4},
        "whole-1": {GPU: 24},
        "whole-2": {GPU: 16},
    }.items():
        plane.client.create(fake_node(name, allocatable=resources, labels=a100_labels()))
    known(plane, migfit, 10)
    plane.start_scheduler([migfit.extender])
    pods = [gpu_pod(f"pod-{i}", namespace, annotations=LIGHT) for i in range(50)]
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        created = [reply.body for reply in pool.map(plane.client.create, pods)]

    assert sorted(map(asked, created)) == [GPU] * 40 + [SLICE] * 10

    def all_bound() -> bool:
        listed = plane.client.items("Pod", namespace)
        return len(listed) == 50 and all(pod["spec"].get("nodeName") for pod in listed)

    wait_until(all_bound, 30, "every pod is bound")


def only_in(*namespaces: str) -> JSON:
    """A namespaceSelector for these namespaces."""
    name = "kubernetes.io/metadata.name"
    return {"matchExpressions": [{"key": name, "operator": "In", "values": list(namespaces)}]}


def test_two_servers_are_off_by_no_more_than_what_is_in_flight(
    plane: ControlPlane, namespace: str, migfit: Migfit, authority: trustme.CA, tmp_path: Path
) -> None:
    account = plane.service_account(SYSTEM_NAMESPACE, "migfit").kubeconfig
    other = Migfit(plane, tmp_path, authority, name="other", kubeconfig=account)
    other_namespace = new_namespace(plane.client)
    plane.client.create(fake_node("sliced", allocatable={SLICE: 10}, labels=a100_labels()))
    plane.client.create(fake_node("whole", allocatable={GPU: 40}, labels=a100_labels()))
    known(plane, migfit, 10)
    plane.client.delete("MutatingWebhookConfiguration", "migfit")
    other.start()
    try:
        # The probe of `register` goes to the system namespace, which both look after.
        other.register(namespaceSelector=only_in(other_namespace, SYSTEM_NAMESPACE))
        migfit.register(namespaceSelector=only_in(namespace, SYSTEM_NAMESPACE))
        pods = [
            gpu_pod(f"pod-{i}", (namespace, other_namespace)[i % 2], annotations=LIGHT)
            for i in range(50)
        ]
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            created = [reply.body for reply in pool.map(plane.client.create, pods)]
        reviewed = len(migfit.audit(namespace)), len(other.audit(other_namespace))
    finally:
        other.kill()
    assert reviewed == (25, 25)
    rewritten = sum(asked(pod) == SLICE for pod in created)
    assert 10 <= rewritten <= 10 + IN_FLIGHT


def test_a_pod_that_somebody_after_us_refuses_gives_its_slice_back(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    short = {**CONFIG, "reservationTtl": "2s"}
    migfit.configure_text(json.dumps(short))
    plane.client.create(fake_node("gpu-a", allocatable={SLICE: 1}, labels=a100_labels()))
    plane.client.create(fake_node("gpu-b", allocatable={GPU: 4}, labels=a100_labels()))
    known(plane, migfit, 1)

    def in_force() -> bool:
        plane.client.create(gpu_pod("probe", namespace), dry_run=True)
        return bool(migfit.audit(namespace)[-1]["configRevision"] == revision)

    revision = load(json.dumps(short)).revision
    wait_until(in_force, 10, "the shorter promise is in force")
    refused = gpu_pod("refused", namespace, annotations=LIGHT)
    # Quota admission comes last: it refuses what we have already decided on.
    plane.client.create(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "no-pods", "namespace": namespace},
            "spec": {"hard": {"pods": "0"}},
        }
    )
    plane.start_controller_manager(["resourcequota-controller"])

    def forbidden() -> bool:
        before = len(migfit.audit(namespace))
        status = plane.kubectl(
            "-n", namespace, "create", "-f", "-", stdin=json.dumps(refused), check=False
        )
        assert len(migfit.audit(namespace)) == before + 1
        return "exceeded quota: no-pods" in status.stderr

    wait_until(forbidden, 20, "the quota is counted and refuses the pod")
    assert migfit.audit(namespace)[-1]["reason"] in ("Fits", "NoFreeSlice")
    plane.client.delete("ResourceQuota", "no-pods", namespace)

    def served() -> bool:
        reply = plane.client.create(gpu_pod("served", namespace, annotations=LIGHT), dry_run=True)
        return asked(reply.body) == SLICE

    wait_until(served, 10, "the slice is given again after the promise ran out")
