"""Workloads with a GPU pod, and the kubelet's part of their lives."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tests.controlplane.client import ApiError
from tests.controlplane.objects import gpu_pod, wait_until

if TYPE_CHECKING:
    from tests.controlplane.client import JSON, Client

CONTROLLERS = (
    "deployment-controller",
    "replicaset-controller",
    "statefulset-controller",
    "job-controller",
)
API = {"Deployment": "apps/v1", "StatefulSet": "apps/v1", "Job": "batch/v1"}


def workload(kind: str, name: str, namespace: str, **spec: object) -> JSON:
    """A Deployment, StatefulSet or Job of one pod that needs a slice of 2g.20gb."""
    pod = gpu_pod(name, namespace, annotations={"migfit.io/gpu-memory": "9.6G"})
    labels = {"app": name}
    template: JSON = {
        "metadata": {"labels": labels, "annotations": pod["metadata"]["annotations"]},
        "spec": dict(pod["spec"]),
    }
    if kind == "Job":
        template["spec"]["restartPolicy"] = "Never"
        whole: JSON = {"template": template, **spec}
    else:
        whole = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template, **spec}
    if kind == "StatefulSet":
        whole["serviceName"] = name
    return {
        "apiVersion": API[kind],
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": whole,
    }


class Pods:
    """The pods of a namespace, and a kubelet for them that does only what a test says."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client, self.namespace = client, namespace

    def of(self, app: str) -> list[JSON]:
        """Pods of a workload, or the bare one of that name, that are not being deleted.

        Those that are have ended by now: the kubelet says so.
        """
        found = []
        for pod in self._client.items("Pod", self.namespace):
            meta = pod["metadata"]
            if meta.get("deletionTimestamp"):
                self._gone(meta["name"])
            elif app in (meta["name"], meta.get("labels", {}).get("app")):
                found.append(pod)
        return found

    def _gone(self, name: str) -> None:
        try:
            self._client.delete("Pod", name, self.namespace)
        except ApiError as error:
            if error.status != 404:
                raise

    def one(self, app: str, *, on: str = "", bound: bool = False) -> JSON:
        """Waits for a pod of the workload that asks for `on` and may have to be bound."""

        def found() -> JSON:
            for pod in self.of(app):
                if (not on or on in asked(pod)) and (pod["spec"].get("nodeName") or not bound):
                    return pod
            return {}

        def why() -> str:
            seen = [(asked(pod), pod["spec"].get("nodeName")) for pod in self.of(app)]
            return f"a pod of {app} asks for {on or 'anything'}; there are {seen}"

        return wait_until(found, 60, why)

    def crash(self, pod: JSON, restarts: int) -> None:
        """The container has restarted so often, and waits for its next start."""
        ended = {"exitCode": 1, "reason": "Error", "startedAt": now(), "finishedAt": now()}
        waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
        last = {"terminated": ended}
        self._status(pod, "Running", restartCount=restarts, state=waiting, lastState=last)

    def run(self, pod: JSON, restarts: int = 0) -> None:
        """The container runs."""
        running = {"running": {"startedAt": now()}}
        self._status(pod, "Running", restartCount=restarts, state=running, ready=True)

    def fail(self, pod: JSON) -> None:
        """The container has ended, and is not started again."""
        ended = {"exitCode": 1, "reason": "Error", "startedAt": now(), "finishedAt": now()}
        self._status(pod, "Failed", restartCount=0, state={"terminated": ended})

    def _status(self, pod: JSON, phase: str, **fields: object) -> None:
        container: JSON = {"name": "main", "image": "x", "imageID": "x", "ready": False, **fields}
        status = {
            "phase": phase,
            "startTime": pod["metadata"]["creationTimestamp"],
            "containerStatuses": [container],
        }
        name = pod["metadata"]["name"]
        change = {"status": status}
        self._client.patch("Pod", name, change, self.namespace, subresource="status")


def asked(pod: JSON) -> dict[str, str]:
    """The limits of its container."""
    limits: dict[str, str] = pod["spec"]["containers"][0]["resources"]["limits"]
    return limits


def now() -> str:
    """The time as the kubelet writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
