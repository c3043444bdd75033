"""Pods that were rewritten and do not get going, on the real control plane; the kubelet is played."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.migfit import GPU, SYSTEM_NAMESPACE, Migfit, a100_labels
from tests.controlplane.objects import bound_node, fake_node, gpu_pod, new_namespace, wait_until
from tests.controlplane.workloads import CONTROLLERS, Pods, asked, workload
from tests.deploy.manifests import BASE, documents

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

    from tests.controlplane.client import JSON
    from tests.controlplane.plane import ControlPlane, User

pytestmark = [pytest.mark.controlplane, pytest.mark.reliability]

SLICE = "nvidia.com/mig-2g.20gb"
BACKOFF = {"restarts": 3, "window": "10m", "hold": "1h", "pending": "2s", "action": "Recreate"}
NEED = {"migfit.io/gpu-memory": "9.6G"}


class Cluster:
    """The server with the rights that the manifests give it, and what it found so far."""

    def __init__(self, plane: ControlPlane, server: Migfit, account: User, pods: Pods) -> None:
        self.plane, self.server, self.account, self.pods = plane, server, account, pods
        self.client, self.namespace = plane.client, pods.namespace

    def findings(self, event: str, name: str = "") -> list[JSON]:
        """Audit lines of the reconciler about a workload, oldest first."""
        assert self.server.program is not None
        lines = self.server.program.log.read_text().rpartition("\n")[0].splitlines()
        found = [json.loads(line) for line in lines if line.startswith('{"time":')]
        return [
            line
            for line in found
            if line["event"] == event and name in ("", line["workload"]["name"])
        ]

    def held(self, name: str) -> JSON:
        """Wait for the hold on a workload, and give its entry."""

        def entry() -> JSON:
            for item in self.client.items("ConfigMap", SYSTEM_NAMESPACE):
                if item["metadata"]["name"] == "migfit-holds":
                    for value in item.get("data", {}).values():
                        found: JSON = json.loads(value)
                        if found["name"] == name:
                            return found
            return {}

        return wait_until(entry, 30, f"{name} is held back")

    def take_all_slices(self) -> None:
        """Somebody holds every slice of the node, by name."""
        holds = {SLICE: 8}
        self.client.create(gpu_pod("greedy", self.namespace, resources=holds))
        bound_node(self.client, self.namespace, "greedy")

    def missed(self) -> list[str]:
        """Names of the pods told as missed, of all processes so far."""
        return [line["pod"] for line in self.findings("missed")]

    def deleted_by_us(self) -> list[str]:
        """Names of the pods that our account has asked to delete or evict."""
        asked_for = {"resource": "pods", "namespace": self.namespace}
        events = [
            event
            for verb in ("delete", "deletecollection", "create")
            for event in self.plane.audit_events(verb, **asked_for)
        ]
        mine = [e for e in events if e["user"]["username"] == self.account.name]
        return [event["objectRef"]["name"] for event in mine]

    def sees_events(self, reason: str, kind: str, count: int) -> None:
        """So many Events of that reason are written about objects of that kind."""

        def written() -> bool:
            found = self.client.items("Event", self.namespace)
            ours = [item for item in found if item["reason"] == reason]
            return [regarding(item)["kind"] for item in ours].count(kind) == count

        wait_until(written, 10, f"{count} Events {reason} about objects of kind {kind}")

    def decision(self, pod: JSON) -> JSON:
        """What the pod says was decided on it."""
        told: JSON = json.loads(pod["metadata"]["annotations"]["migfit.io/decision"])
        return told


def regarding(event: JSON) -> JSON:
    """The object of an Event, in whichever of its two forms it is read."""
    found: JSON = event.get("involvedObject") or event["regarding"]
    return found


def granted(plane: ControlPlane) -> User:
    """The account, with the rights and fences of the manifests and no others."""
    for file in ("rbac.yaml", "reconciler.yaml"):
        for item in documents(BASE / file):
            plane.client.create(item)
    account = plane.service_account(SYSTEM_NAMESPACE, "migfit")

    def known() -> bool:
        path = account.client.path("SelfSubjectAccessReview")
        attributes = {"verb": "delete", "resource": "pods", "namespace": "default"}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        return bool(account.client.request("POST", path, review).body["status"]["allowed"])

    wait_until(known, 10, "the rights of the account are known")
    return account


@pytest.fixture
def cluster(
    plane: ControlPlane, namespace: str, authority: trustme.CA, tmp_path: Path
) -> Iterator[Cluster]:
    """A node with slices and whole GPUs, schedulers and controllers, and the server."""
    new_namespace(plane.client, name=SYSTEM_NAMESPACE)
    account = granted(plane)
    plane.client.create(fake_node("gpu-a", allocatable={GPU: 8, SLICE: 8}, labels=a100_labels()))
    plane.start_scheduler()
    plane.start_controller_manager(CONTROLLERS)
    server = Migfit(plane, tmp_path, authority, kubeconfig=account.kubeconfig)
    server.configure(backoff=BACKOFF)
    server.start()
    server.register()
    yield Cluster(plane, server, account, Pods(plane.client, namespace))
    server.kill()


def test_workloads_whose_rewritten_pods_crash_loop_run_whole_again_without_anybodys_hand(
    cluster: Cluster,
) -> None:
    kinds = {"asr": "Deployment", "llm": "StatefulSet"}
    for name, kind in kinds.items():
        cluster.client.create(workload(kind, name, cluster.namespace))
    first = {name: cluster.pods.one(name, on=SLICE, bound=True) for name in kinds}

    for pod in first.values():
        for restarts in (1, 2, 3):
            cluster.pods.crash(pod, restarts)

    for name, kind in kinds.items():
        whole = cluster.pods.one(name, on=GPU, bound=True)
        assert cluster.decision(whole)["reason"] == "BackedOff"
        hold = cluster.held(name)
        assert (hold["kind"], hold["cause"]) == (kind, "Crashes")
        held, deleted = cluster.findings("held", name)
        assert (held["deleted"], deleted["deleted"]) == (False, True)
        assert held["workload"] == {"kind": kind, "name": name}
        cluster.sees_events("BackedOff", kind, 2)
        told = cluster.plane.kubectl("events", "--for", f"{kind}/{name}", "-n", cluster.namespace)
        assert "runs whole until" in told.stdout
        assert "deleted, to come back whole" in told.stdout
    assert sorted(cluster.deleted_by_us()) == sorted(p["metadata"]["name"] for p in first.values())
    assert cluster.server.metric("migfit_holds_total", cause="Crashes") == 2
    assert cluster.server.metric("migfit_pods_deleted_total") == 2
    assert cluster.server.metric("migfit_held_workloads") == 2


def test_workloads_that_get_no_slice_though_whole_gpus_are_free_run_whole_again(
    cluster: Cluster,
) -> None:
    kinds = {"asr": "Deployment", "llm": "StatefulSet"}
    cluster.server.configure(backoff=BACKOFF, whenFull=["Wait"])
    cluster.take_all_slices()
    for name, kind in kinds.items():
        cluster.client.create(workload(kind, name, cluster.namespace))
    waiting = {name: cluster.pods.one(name, on=SLICE) for name in kinds}

    for name in kinds:
        whole = cluster.pods.one(name, on=GPU, bound=True)
        assert cluster.decision(whole)["reason"] == "BackedOff"
        assert cluster.held(name)["cause"] == "Pends"
        (unmet,) = cluster.findings("unmet", name)
        assert unmet["profiles"] == ["2g.20gb"]
    names = sorted(pod["metadata"]["name"] for pod in waiting.values())
    assert sorted(cluster.deleted_by_us()) == names
    cluster.sees_events("Waits", "Pod", 2)


def test_the_retry_of_a_job_comes_back_whole_and_nothing_is_deleted(cluster: Cluster) -> None:
    cluster.client.create(workload("Job", "train", cluster.namespace, backoffLimit=1))
    first = cluster.pods.one("train", on=SLICE, bound=True)

    cluster.pods.fail(first)

    retry = cluster.pods.one("train", on=GPU, bound=True)
    assert cluster.decision(retry)["reason"] == "BackedOff"
    assert cluster.held("train")["cause"] == "Fails"
    assert cluster.deleted_by_us() == []
    cluster.sees_events("BackedOff", "Job", 1)


def test_pending_pods_of_jobs_of_other_owners_and_bare_ones_are_only_reported(
    cluster: Cluster,
) -> None:
    cluster.server.configure(backoff=BACKOFF, whenFull=["Wait"])
    cluster.take_all_slices()
    cluster.client.create(workload("Job", "train", cluster.namespace))
    cluster.client.create(gpu_pod("bare", cluster.namespace, annotations=NEED))
    owned = gpu_pod("step", cluster.namespace, annotations=NEED)
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "flow"}
    owned["metadata"]["ownerReferences"] = [{**owner, "uid": "5", "controller": True}]
    cluster.client.create(owned)
    names = ("train", "bare", "step")
    before = {name: cluster.pods.one(name, on=SLICE)["metadata"]["uid"] for name in names}

    for name in ("train", "bare", "flow"):
        assert cluster.held(name)["cause"] == "Pends"
    # One that is recreated, and so waits for as long as any would have to.
    cluster.client.create(workload("Deployment", "asr", cluster.namespace))
    cluster.pods.one("asr", on=GPU, bound=True)

    assert {name: cluster.pods.one(name)["metadata"]["uid"] for name in names} == before
    assert {line["workload"]["kind"] for line in cluster.findings("held")} == {
        "Deployment",
        "Job",
        "Pod",
        "Workflow",
    }
    assert len(cluster.deleted_by_us()) == 1


def test_with_the_action_report_a_workload_is_held_back_and_its_pods_are_left_alone(
    cluster: Cluster,
) -> None:
    cluster.server.configure(backoff={**BACKOFF, "action": "Report"})
    cluster.client.create(workload("Deployment", "asr", cluster.namespace))
    first = cluster.pods.one("asr", on=SLICE, bound=True)
    cluster.pods.crash(first, 3)
    cluster.held("asr")

    cluster.client.patch("Deployment", "asr", {"spec": {"replicas": 2}}, cluster.namespace)
    cluster.pods.one("asr", on=GPU, bound=True)

    assert first["metadata"]["uid"] in {p["metadata"]["uid"] for p in cluster.pods.of("asr")}
    assert [line["deleted"] for line in cluster.findings("held")] == [False]
    assert cluster.deleted_by_us() == []


def test_a_hold_outlives_our_restart_and_ends_when_somebody_removes_its_entry(
    cluster: Cluster,
) -> None:
    cluster.client.create(workload("Job", "train", cluster.namespace, backoffLimit=6))
    cluster.pods.fail(cluster.pods.one("train", on=SLICE, bound=True))
    cluster.held("train")

    template = workload("Job", "train", cluster.namespace)["spec"]["template"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "train", "uid": "5"}
    meta: JSON = {"name": "train-next", "namespace": cluster.namespace}
    meta |= {**template["metadata"], "ownerReferences": [{**owner, "controller": True}]}
    following = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": meta}

    cluster.server.kill()
    cluster.server.start()
    first = cluster.client.create(following, dry_run=True).body

    assert cluster.decision(first)["reason"] == "BackedOff"
    lift = [{"op": "remove", "path": f"/data/{cluster.namespace}.Job.train"}]
    cluster.client.patch("ConfigMap", "migfit-holds", lift, SYSTEM_NAMESPACE)

    def rewritten() -> bool:
        return SLICE in asked(cluster.client.create(following, dry_run=True).body)

    wait_until(rewritten, 20, "the hold is lifted")


def test_while_the_holds_cannot_be_read_pods_are_left_whole_and_the_server_says_why(
    cluster: Cluster,
) -> None:
    asks = gpu_pod("asks", cluster.namespace, annotations=NEED)
    rights = cluster.client.get("Role", "migfit-reconciler", SYSTEM_NAMESPACE)["rules"]
    fewer = [rule for rule in rights if rule["resources"] != ["configmaps"]]
    assert len(fewer) == len(rights) - 1
    change = {"rules": fewer}
    cluster.client.patch("Role", "migfit-reconciler", change, SYSTEM_NAMESPACE)
    cluster.server.stop()

    cluster.server.start()
    left = cluster.client.create(asks, dry_run=True).body

    assert GPU in asked(left)
    assert cluster.decision(left)["reason"] == "StaleState"
    assert cluster.server.program is not None
    assert "list and watch on configmaps in namespace" in cluster.server.program.log.read_text()
    cluster.client.patch("Role", "migfit-reconciler", {"rules": rights}, SYSTEM_NAMESPACE)

    def rewritten() -> bool:
        return SLICE in asked(cluster.client.create(asks, dry_run=True).body)

    wait_until(rewritten, 30, "the holds are read")


def test_a_pod_created_while_the_server_was_down_is_reported_as_missed_and_no_other(
    cluster: Cluster,
) -> None:
    cluster.client.create(gpu_pod("decided", cluster.namespace, annotations=NEED))
    cluster.server.stop()
    cluster.client.create(gpu_pod("missed", cluster.namespace, annotations=NEED))
    ours = gpu_pod("ignored", cluster.namespace, labels={"migfit.io/mode": "ignore"})
    cluster.client.create(ours)

    cluster.server.start()
    wait_until(cluster.missed, 60, "the missed pod is told")
    assert cluster.server.metric("migfit_missed_total") == 1
    cluster.server.stop()
    cluster.client.create(gpu_pod("second", cluster.namespace, annotations=NEED))
    cluster.server.start()
    wait_until(lambda: "second" in cluster.missed(), 60, "the second one is told")

    assert set(cluster.missed()) == {"missed", "second"}
    cluster.sees_events("Missed", "Pod", 2)


def test_of_two_replicas_one_reconciles_and_when_it_is_killed_the_other_takes_over(
    cluster: Cluster, authority: trustme.CA, tmp_path: Path
) -> None:
    second = Migfit(
        cluster.plane, tmp_path, authority, "second", kubeconfig=cluster.account.kubeconfig
    )
    leads = "migfit_reconciler_leader"
    wait_until(lambda: cluster.server.metric(leads) == 1, 20, "the first one leads")
    try:
        second.start()
        cluster.client.create(workload("Deployment", "asr", cluster.namespace))
        first = cluster.pods.one("asr", on=SLICE, bound=True)
        assert second.metric(leads) == 0

        cluster.server.kill()
        cluster.pods.crash(first, 3)

        cluster.pods.one("asr", on=GPU, bound=True)
        assert second.metric(leads) == 1
        assert second.metric("migfit_pods_deleted_total") == 1
        assert cluster.deleted_by_us() == [first["metadata"]["name"]]
    finally:
        second.kill()
