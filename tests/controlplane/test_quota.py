"""ResourceQuota on the real API server: a slice of ours counts as the GPU it stands for."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.client import ApiError
from tests.controlplane.migfit import GPU, a100_labels
from tests.controlplane.objects import fake_node, gpu_pod, new_namespace, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.controlplane.client import JSON
    from tests.controlplane.migfit import Migfit
    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

SLICE_2G = "nvidia.com/mig-2g.20gb"
SLICE_3G = "nvidia.com/mig-3g.40gb"
LIGHT = {"migfit.io/gpu-memory": "9.6G"}
HEAVY = {"migfit.io/gpu-memory": "73.2G"}


def quota(plane: ControlPlane, namespace: str, hard: Mapping[str, str], **spec: object) -> None:
    """Creates a quota and waits until its controller has counted for the first time."""
    manifest: JSON = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "team", "namespace": namespace},
        "spec": {"hard": dict(hard), **spec},
    }
    plane.client.create(manifest)

    def counted() -> bool:
        status = plane.client.get("ResourceQuota", "team", namespace)["status"]
        return dict(status.get("hard", {})) == dict(hard)

    wait_until(counted, 20, "the quota is counted")


def namespace_with(plane: ControlPlane, hard: Mapping[str, str], **spec: object) -> str:
    """A namespace of its own with a quota on it."""
    name = new_namespace(plane.client)
    quota(plane, name, hard, **spec)
    return name


def create(plane: ControlPlane, namespace: str, name: str, annotations: Mapping[str, str]) -> str:
    """What became of a pod: the resource it asks for, or status and message of the refusal."""
    pod = gpu_pod(name, namespace, annotations=annotations)
    try:
        body = plane.client.create(pod).body
    except ApiError as error:
        return f"{error.status}: {error.body['message']}"
    [asked] = body["spec"]["containers"][0]["resources"]["limits"]
    return str(asked)


@pytest.fixture
def cluster(plane: ControlPlane, migfit: Migfit) -> ControlPlane:
    """A node with plenty of both, and the controller that counts quotas."""
    resources = {GPU: 64, SLICE_2G: 64, SLICE_3G: 8}
    plane.client.create(fake_node("gpu-a", allocatable=resources, labels=a100_labels()))
    plane.start_controller_manager(["resourcequota-controller"])
    probe = gpu_pod("probe", "default", annotations=LIGHT)

    def known() -> bool:
        plane.client.create(probe, dry_run=True)
        return bool(migfit.audit("default")[-1]["candidates"])

    wait_until(known, 10, "the node is known")
    return plane


def test_two_gpus_worth_in_any_mixture_and_order_and_the_third_pod_is_refused(
    cluster: ControlPlane,
) -> None:
    for mixture in itertools.product((LIGHT, HEAVY), repeat=3):
        namespace = namespace_with(cluster, {f"requests.{GPU}": "2"})
        outcomes = [
            create(cluster, namespace, f"pod-{i}", annotations)
            for i, annotations in enumerate(mixture)
        ]
        expected = [SLICE_2G if annotations is LIGHT else GPU for annotations in mixture]
        assert outcomes[:2] == expected[:2]
        assert outcomes[2].startswith("403")
        assert (
            f"exceeded quota: team, requested: requests.{GPU}=1, "
            f"used: requests.{GPU}=2, limited: requests.{GPU}=2"
        ) in outcomes[2]


def test_without_us_the_same_pods_are_admitted_and_refused(
    cluster: ControlPlane, migfit: Migfit
) -> None:
    def admitted() -> list[bool]:
        namespace = namespace_with(cluster, {f"requests.{GPU}": "2"})
        outcomes = [create(cluster, namespace, f"pod-{i}", LIGHT) for i in range(4)]
        return ["exceeded quota" not in outcome for outcome in outcomes]

    with_us = admitted()
    migfit.stop()
    assert with_us == admitted() == [True, True, False, False]


def test_a_deleted_pod_gives_its_room_back(cluster: ControlPlane) -> None:
    namespace = namespace_with(cluster, {f"requests.{GPU}": "1"})
    assert create(cluster, namespace, "first", LIGHT) == SLICE_2G
    assert "exceeded quota" in create(cluster, namespace, "second", LIGHT)
    cluster.client.delete("Pod", "first", namespace)
    attempts = itertools.count()
    wait_until(
        lambda: create(cluster, namespace, f"third-{next(attempts)}", LIGHT) == SLICE_2G,
        20,
        "there is room again",
    )


def test_a_quota_of_zero_on_a_slice_turns_that_slice_down(cluster: ControlPlane) -> None:
    namespace = namespace_with(cluster, {f"requests.{SLICE_2G}": "0"})
    assert create(cluster, namespace, "larger", LIGHT) == SLICE_3G
    both = namespace_with(cluster, {f"requests.{SLICE_2G}": "0", f"requests.{SLICE_3G}": "0"})
    assert create(cluster, both, "whole", LIGHT) == GPU


def test_a_quota_counts_only_pods_in_its_scope(cluster: ControlPlane, migfit: Migfit) -> None:
    namespace = namespace_with(cluster, {f"requests.{GPU}": "1"}, scopes=["Terminating"])
    assert create(cluster, namespace, "outside-1", LIGHT) == SLICE_2G
    assert create(cluster, namespace, "outside-2", LIGHT) == SLICE_2G

    def inside(name: str) -> str:
        pod = gpu_pod(name, namespace, annotations=LIGHT, spec={"activeDeadlineSeconds": 600})
        try:
            body = cluster.client.create(pod).body
        except ApiError as error:
            return str(error.body["message"])
        [asked] = body["spec"]["containers"][0]["resources"]["limits"]
        return str(asked)

    assert inside("inside-1") == SLICE_2G
    assert "exceeded quota: team" in inside("inside-2")


def test_no_cpu_and_a_cpu_of_zero_are_best_effort_to_quotas(cluster: ControlPlane) -> None:
    namespace = namespace_with(cluster, {f"requests.{GPU}": "1"}, scopes=["NotBestEffort"])

    def made(name: str, cpu: str, annotations: Mapping[str, str]) -> str:
        pod = gpu_pod(name, namespace, resources={GPU: 1, "cpu": cpu}, annotations=annotations)
        try:
            body = cluster.client.create(pod).body
        except ApiError as error:
            return str(error.body["message"])
        limits = body["spec"]["containers"][0]["resources"]["limits"]
        return str(*limits.keys() - {"cpu"})

    assert [made("idle-1", "0", LIGHT), made("idle-2", "0", LIGHT)] == [SLICE_2G] * 2
    assert [made("idle-3", "0", HEAVY), made("idle-4", "0", HEAVY)] == [GPU] * 2  # its own word
    assert made("busy-1", "1", LIGHT) == SLICE_2G
    assert "exceeded quota: team" in made("busy-2", "1", LIGHT)


def test_with_quota_ignore_slices_are_free_of_the_gpu_quota(
    cluster: ControlPlane, migfit: Migfit
) -> None:
    before = migfit.audit()[-1]["configRevision"]
    migfit.configure(quota="Ignore")
    namespace = namespace_with(cluster, {f"requests.{GPU}": "1"})
    attempts = itertools.count()

    def in_force() -> bool:
        create(cluster, "default", f"probe-{next(attempts)}", LIGHT)
        return bool(migfit.audit("default")[-1]["configRevision"] != before)

    wait_until(in_force, 10, "the new configuration is in force")
    outcomes = [create(cluster, namespace, f"pod-{i}", LIGHT) for i in range(3)]
    assert outcomes == [SLICE_2G] * 3


def test_in_dry_run_nothing_is_denied(cluster: ControlPlane, migfit: Migfit) -> None:
    name = new_namespace(cluster.client, {"migfit.io/mode": "dry-run"})
    quota(cluster, name, {f"requests.{GPU}": "2"})

    def labelled() -> bool:
        cluster.client.create(gpu_pod("probe", name, annotations=LIGHT), dry_run=True)
        return bool(migfit.audit(name)[-1]["reason"] == "DryRun")

    wait_until(labelled, 10, "the namespace's label is known")
    outcomes = [create(cluster, name, f"pod-{i}", LIGHT) for i in range(3)]
    assert outcomes[:2] == [GPU, GPU]
    assert "exceeded quota: team" in outcomes[2]
    assert "migfit" not in outcomes[2], "quota admission itself refused it"
