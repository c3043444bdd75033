"""Rewritten pods as the API server sends them, and time that stands still until it is moved."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from extender.cluster.rewritten import Rewritten
from extender.cluster.statuses import RewrittenPod
from extender.core.policy import Backoff, Policy, WhenFull
from tests.build import JSON, Clock, container, mig, node, pod, state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from extender.cluster.rewritten import Trouble
    from extender.core.snapshot import Snapshot

SLICE = mig("2g.20gb")
EPOCH_S = 1_800_000_000.0
BEGAN_S = 1000.0
"""What `Clock` begins with."""

OWNERS: Mapping[str, JSON] = {
    "Deployment": {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "asr-5d4f8c7b9d"},
    "StatefulSet": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "asr"},
    "Job": {"apiVersion": "batch/v1", "kind": "Job", "name": "asr"},
    "Workflow": {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "asr"},
    "DaemonSet": {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "asr"},
}


def at(age_s: float) -> str:
    """A time of the cluster's, so long after the tests began."""
    return datetime.fromtimestamp(EPOCH_S + age_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def status(restarts: int = 0, *, running: bool = True, ended_s: float = 0.0) -> JSON:
    """What the kubelet says of a container that has restarted so often."""
    state_: JSON = {"running": {}} if running else {"waiting": {"reason": "CrashLoopBackOff"}}
    found: JSON = {"name": "asr", "restartCount": restarts, "state": state_}
    if restarts:
        found["lastState"] = {"terminated": {"exitCode": 1, "finishedAt": at(ended_s)}}
    return found


def rewritten(name: str = "asr-1", owner: str = "Deployment", **change: Any) -> JSON:
    """A pod on a slice, bound and running; `change` replaces members of its status."""
    held = container()
    held["resources"] = {"limits": {SLICE: "1"}, "requests": {SLICE: "1"}}
    tree = pod(held, nodeName="gpu-a")
    meta = tree["metadata"]
    meta |= {"name": name, "uid": f"uid-of-{name}", "resourceVersion": "7"}
    meta["labels"]["migfit.io/rewritten"] = "true"
    meta["creationTimestamp"] = at(0)
    if owner == "Pod":
        del meta["ownerReferences"]
    else:
        meta["ownerReferences"] = [{**OWNERS[owner], "uid": "5", "controller": True}]
    tree["status"] = {
        "phase": "Running",
        "startTime": at(0),
        "containerStatuses": [status()],
        **change,
    }
    return tree


def waiting(name: str = "asr-1", owner: str = "Deployment") -> JSON:
    """The same without a node."""
    tree = rewritten(name, owner, phase="Pending", containerStatuses=None, startTime=None)
    del tree["spec"]["nodeName"]
    return tree


def failed(name: str = "asr-1", owner: str = "Job", ended_s: float = 0.0, **change: Any) -> JSON:
    """The same after its container has ended for good."""
    ended = {"name": "asr", "state": {"terminated": {"exitCode": 1, "finishedAt": at(ended_s)}}}
    return rewritten(name, owner, phase="Failed", containerStatuses=[ended], **change)


class World:
    """The watched pods of a cluster with `whole` free GPUs and `slices` free slices."""

    def __init__(self, *, whole: int = 1, slices: int = 0, **backoff: Any) -> None:
        self.clock = Clock()
        self.policy = Policy(when_full=(WhenFull.WAIT,), backoff=Backoff(**backoff))
        self.rewritten = Rewritten(self.clock, self.wall)
        self.rewritten.pods.fill([], self.clock())
        self.offer(whole, slices)

    def offer(self, whole: int, slices: int) -> None:
        """Let so many GPUs and slices be free from now on."""
        self.cluster = state(node(whole=whole, slices={"2g.20gb": slices}), policy=self.policy)

    def wall(self) -> float:
        """The time of day."""
        return EPOCH_S + self.clock.now_s - BEGAN_S

    def pass_s(self, seconds: float) -> None:
        """Time goes on."""
        self.clock.now_s += seconds

    def see(self, tree: JSON) -> None:
        """The watch tells of a pod."""
        self.rewritten.pods.upsert(msgspec.convert(tree, RewrittenPod))

    def lose(self, tree: JSON) -> None:
        """The watch tells that a pod is gone."""
        self.rewritten.pods.remove(msgspec.convert(tree, RewrittenPod))

    @property
    def snapshot(self) -> Snapshot:
        return self.cluster.snapshot()

    def troubles(self) -> list[Trouble]:
        for watched in self.rewritten.to_look_at():
            self.rewritten.look(watched, self.snapshot, self.policy)
        return self.rewritten.troubles(self.policy)

    def causes(self) -> dict[str, str]:
        """Pod -> why its workload is to be held back."""
        return {t.watched.pod.name: str(t.cause) for t in self.troubles()}

    def stuck(self) -> set[str]:
        """Pods that were blamed and do not run now."""
        self.troubles()
        return {watched.pod.name for watched in self.rewritten.stuck()}

    def unmet(self) -> dict[str, tuple[str, ...]]:
        """Pod -> the profiles it waits for."""
        self.troubles()
        return {w.pod.name: w.profiles for w in self.rewritten.unmet()}
