"""Complete, valid objects as Kubernetes sends them; a test changes only the field it is about."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec
import orjson

from extender.cluster.objects import (
    LimitRangeObject,
    NamespaceObject,
    NodeObject,
    PodObject,
    ResourceQuotaObject,
)
from extender.cluster.state import State
from extender.core.catalogue import product_of, resource_name
from extender.core.decide import decide
from extender.core.decision import Decision, Verdict
from extender.core.policy import Policy

JSON = dict[str, Any]
T = TypeVar("T")

GPU = "nvidia.com/gpu"
UID = "705ab4f5-6393-11e8-b7cc-42010a800002"


def mig(profile: str) -> str:
    """The MIG resource of a profile, as `mig("2g.20gb")`."""
    return resource_name(profile)


# --- objects -------------------------------------------------------------------------------------


def container(name: str = "asr", gpu: object = "1", **fields: Any) -> JSON:
    """A container after API defaulting: what stands in limits stands in requests too."""
    resources = {"cpu": "2", "memory": "8Gi", GPU: gpu}
    if gpu is None:
        del resources[GPU]
    return {
        "name": name,
        "image": "registry.example.com/asr/server:1.4",
        "args": ["--port", "8000"],
        "env": [{"name": "LOG_LEVEL", "value": "info"}],
        "resources": {"limits": resources, "requests": dict(resources)},
        **fields,
    }


def pod(*containers: JSON, footprint: object = "9.6G", **spec: Any) -> JSON:
    """A pod of the Deployment `asr` in the namespace `speech`, as it reaches admission.

    Its need is 10987 MiB: 9.6 GB and 20 %.
    """
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "asr-5d4f8c7b9d-",
            "namespace": "speech",
            "labels": {"app": "asr", "pod-template-hash": "5d4f8c7b9d"},
            "annotations": {} if footprint is None else {"migfit.io/gpu-memory": footprint},
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": "asr-5d4f8c7b9d",
                    "uid": "0c2a3d54-6393-11e8-b7cc-42010a800002",
                    "controller": True,
                }
            ],
        },
        "spec": {
            "containers": list(containers) or [container()],
            "restartPolicy": "Always",
            "schedulerName": "default-scheduler",
            "priority": 0,
            "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
            **spec,
        },
    }


SLICES: Mapping[str, int] = {"1g.10gb": 2, "2g.20gb": 3, "3g.40gb": 2}


def node(
    name: str = "gpu-a",
    *,
    slices: Mapping[str, int] = SLICES,
    whole: int = 2,
    product: str = "NVIDIA-A100-SXM4-80GB",
    labels: Mapping[str, str | None] | None = None,
    **spec: Any,
) -> JSON:
    """A node with A100s of 80 GB, some of them partitioned; a label given as None is left out."""
    known = product_of(product)
    allocatable: JSON = {"cpu": "96", "memory": "1000Gi", "ephemeral-storage": "1Ti", "pods": "110"}
    if whole:
        allocatable[GPU] = str(whole)
    said: dict[str, str | None] = {
        "kubernetes.io/hostname": name,
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.memory": str(81920 if known is None else known.nominal_gb * 1024),
        "nvidia.com/gpu.count": "4",
        "nvidia.com/mig.strategy": "mixed",
        "nvidia.com/mig.config.state": "success",
    }
    for profile, count in slices.items():
        allocatable[mig(profile)] = str(count)
        row = None if known is None else known.profile(profile)
        if row is not None and row.memory_mib is not None:
            said[f"{mig(profile)}.memory"] = str(row.memory_mib)
    said |= labels or {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "uid": f"uid-of-{name}",
            "labels": {key: value for key, value in said.items() if value is not None},
        },
        "spec": dict(spec),
        "status": {"allocatable": allocatable},
    }


def bound(name: str, on: str, asked: Mapping[str, int], **spec: Any) -> JSON:
    """A pod that runs on a node and holds what it asked for."""
    quantities = {resource: str(count) for resource, count in asked.items()}
    resources = {"limits": quantities, "requests": quantities}
    held = pod({"name": "main", "resources": resources}, nodeName=on, **spec)
    held["metadata"] |= {"name": name, "uid": f"uid-of-{name}"}
    held["status"] = {"phase": "Running"}
    return held


def waiting(name: str, asked: Mapping[str, int], **spec: Any) -> JSON:
    """A pod that waits for a node."""
    held = bound(name, "", asked, **spec)
    held["status"] = {"phase": "Pending"}
    return held


def namespace(name: str = "speech", **labels: str) -> JSON:
    """A namespace; `mode="ignore"` is its label `migfit.io/mode`."""
    named = {f"migfit.io/{key}": value for key, value in labels.items()}
    return {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, **named}}}


def request(tree: JSON, **fields: Any) -> JSON:
    """An AdmissionReview for the creation of a pod."""
    return {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": UID,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "speech",
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": tree,
            "oldObject": None,
            "dryRun": False,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
            **fields,
        },
    }


def review(tree: JSON, **fields: Any) -> bytes:
    """The same as the API server sends it."""
    return orjson.dumps(request(tree, **fields))


# --- changes -------------------------------------------------------------------------------------


def changed(tree: T, *path: str | int, to: object) -> T:
    """A copy of an object with one member set; maps missing on the way are made."""
    copied = copy.deepcopy(tree)
    at: Any = copied
    for member in path[:-1]:
        at = at.setdefault(member, {}) if isinstance(member, str) else at[member]
    at[path[-1]] = to
    return copied


def without(tree: T, *path: str | int) -> T:
    """A copy of an object with one member taken out."""
    copied = copy.deepcopy(tree)
    at: Any = copied
    for member in path[:-1]:
        at = at[member]
    del at[path[-1]]
    return copied


def annotated(tree: JSON, **annotations: object) -> JSON:
    """A copy of a pod with annotations of ours: `min_compute="3"` is `migfit.io/min-compute`."""
    for key, value in annotations.items():
        path = ("metadata", "annotations", f"migfit.io/{key.replace('_', '-')}")
        tree = changed(tree, *path, to=value)
    return tree


# --- the cluster ---------------------------------------------------------------------------------


class Clock:
    """Time that stands still until it is set."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def state(
    *nodes: JSON,
    pods: Iterable[JSON] = (),
    namespaces: Iterable[JSON] = (),
    quotas: Iterable[JSON] = (),
    limits: Iterable[JSON] = (),
    policy: Policy | None = None,
) -> State:
    """The state of a cluster that has just been listed; without nodes given, of one node."""
    found = State(policy or Policy(), Clock())
    found.fill(
        nodes=msgspec.convert(nodes or (node(),), list[NodeObject], strict=False),
        pods=msgspec.convert(list(pods), list[PodObject]),
        namespaces=msgspec.convert(list(namespaces), list[NamespaceObject]),
        quotas=msgspec.convert(list(quotas), list[ResourceQuotaObject]),
        limits=msgspec.convert(list(limits), list[LimitRangeObject]),
    )
    return found


def decided(
    tree: JSON,
    *nodes: JSON,
    policy: Policy | None = None,
    pods: Iterable[JSON] = (),
    namespaces: Iterable[JSON] = (),
    limits: Iterable[JSON] = (),
) -> Decision:
    """The decision on a pod in a cluster that has just been listed."""
    cluster = state(*nodes, pods=pods, namespaces=namespaces, limits=limits, policy=policy)
    return decide(tree, cluster.snapshot(), cluster.policy, request_id=UID)


def chosen(decision: Decision) -> dict[str, str | None]:
    """Container -> profile it was given; None for one left as it is."""
    return {c.name: c.to and c.to.removeprefix("nvidia.com/mig-") for c in decision.changes}


def verdicts(decision: Decision) -> dict[str, Verdict]:
    """Profile -> what was found of it."""
    return {c.resource.removeprefix("nvidia.com/mig-"): c.verdict for c in decision.candidates}


def full(*profiles: str, on: str = "gpu-a") -> list[JSON]:
    """Pods that hold every slice of these profiles on one node."""
    return [bound(f"{p}-{n}", on, {mig(p): 1}) for p in profiles for n in range(SLICES[p])]


def holders(count: int, resource: str = GPU, on: str = "gpu-a") -> list[JSON]:
    """Pods that hold one GPU or slice each."""
    return [bound(f"holder-{n}", on, {resource: 1}) for n in range(count)]
