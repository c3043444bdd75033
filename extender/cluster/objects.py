"""Kubernetes objects as we decode them: only the fields we use.

msgspec passes over everything else without building it, which makes a 7 KB pod cost about 20 us and
3 KB (kubernetes_asyncio's models: 2 ms and 60 KB).
"""

from typing import Any

import msgspec


class Wire(msgspec.Struct, rename="camel", frozen=True, gc=False, omit_defaults=True):
    """Base of all: camelCase on the wire, unknown fields ignored."""


class OwnerReference(Wire, frozen=True):
    """Who made an object."""

    kind: str = ""
    name: str = ""
    controller: bool | None = None
    api_version: str = ""
    uid: str = ""


class Metadata(Wire, frozen=True):
    """The part of ObjectMeta we need of any object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None


class PodMetadata(Metadata, frozen=True):
    """The same, with our decision among the annotations, and what leads to the workload."""

    annotations: dict[str, str] | None = None
    generate_name: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    owner_references: list[OwnerReference] | None = None


Quantities = dict[str, str | int | float]
"""Strings once stored by an API server; people also write numbers into files."""


class TaintObject(Wire, frozen=True):
    """A taint of a node."""

    key: str
    effect: str
    value: str = ""


class NodeSpec(Wire, frozen=True):
    """Who may land on the node."""

    unschedulable: bool | None = None
    taints: list[TaintObject] | None = None


class NodeStatus(Wire, frozen=True):
    """What the node has to give."""

    allocatable: Quantities | None = None


class NodeObject(Wire, frozen=True):
    """A Node."""

    metadata: Metadata
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class Resources(Wire, frozen=True):
    """Requests and limits of a container."""

    limits: Quantities | None = None
    requests: Quantities | None = None


class ContainerObject(Wire, frozen=True):
    """A container, for what it holds; its image, by which rules may match."""

    name: str = ""
    image: str = ""
    resources: Resources | None = None
    restart_policy: str | None = None


class PodSpec(Wire, frozen=True):
    """Where a pod is or may go, and what it holds there."""

    containers: list[ContainerObject]
    init_containers: list[ContainerObject] | None = None
    node_name: str = ""
    node_selector: dict[str, str] | None = None
    affinity: dict[str, Any] | None = None
    tolerations: list[dict[str, Any]] | None = None
    priority: int | None = None
    overhead: Quantities | None = None
    resources: Resources | None = None
    scheduling_gates: list[dict[str, Any]] | None = None
    active_deadline_seconds: int | None = None
    priority_class_name: str = ""
    scheduler_name: str = ""
    resource_claims: list[dict[str, Any]] | None = None
    scheduling_group: dict[str, Any] | None = None
    workload_ref: dict[str, Any] | None = None


class PodStatus(Wire, frozen=True):
    """Whether the pod still holds what it asked for."""

    phase: str = ""


class PodObject(Wire, frozen=True):
    """A Pod."""

    metadata: PodMetadata
    spec: PodSpec
    status: PodStatus = PodStatus()


class NamespaceObject(Wire, frozen=True):
    """A Namespace."""

    metadata: Metadata


class ConfigMapObject(Wire, frozen=True):
    """A ConfigMap."""

    metadata: Metadata
    data: dict[str, str] | None = None


class ScopeSelectorExpression(Wire, frozen=True):
    """One test of a quota's scope selector."""

    scope_name: str
    operator: str
    values: list[str] | None = None


class ScopeSelector(Wire, frozen=True):
    """All of its tests must pass."""

    match_expressions: list[ScopeSelectorExpression] | None = None


class ResourceQuotaSpec(Wire, frozen=True):
    """What is limited, and for which pods."""

    hard: Quantities | None = None
    scopes: list[str] | None = None
    scope_selector: ScopeSelector | None = None


class ResourceQuotaObject(Wire, frozen=True):
    """A ResourceQuota. Its status lags behind, so usage is counted from the pods."""

    metadata: Metadata
    spec: ResourceQuotaSpec = ResourceQuotaSpec()


class LimitRangeItem(Wire, frozen=True):
    """Bounds for a kind of object."""

    type: str = ""
    min: Quantities | None = None
    max: Quantities | None = None
    max_limit_request_ratio: Quantities | None = None


class LimitRangeSpec(Wire, frozen=True):
    """All its bounds."""

    limits: list[LimitRangeItem] | None = None


class LimitRangeObject(Wire, frozen=True):
    """A LimitRange."""

    metadata: Metadata
    spec: LimitRangeSpec = LimitRangeSpec()


class HolderObject(Wire, frozen=True):
    """A pod that holds a device."""

    namespace: str = ""
    pod: str = ""
    containers: list[str] | None = None
    peak_mib: int | None = msgspec.field(default=None, name="peakMiB")
    preallocates: bool = False


class SliceObject(Wire, frozen=True):
    """A MIG device."""

    profile: str | None = None
    memory_mib: int | None = msgspec.field(default=None, name="memoryMiB")
    allocatable: bool | None = None
    holders: list[HolderObject] | None = None


class GpuObject(Wire, frozen=True):
    """A card."""

    mig: bool | None = None
    holders: list[HolderObject] | None = None
    slices: list[SliceObject] | None = None


class GpuNodeStatus(Wire, frozen=True):
    """What a node's agent tells. A field that is absent is not known."""

    heartbeat_time: str = ""
    gpus: list[GpuObject] | None = None


class GpuNodeObject(Wire, frozen=True):
    """A GpuNode, our own kind."""

    metadata: Metadata
    status: GpuNodeStatus = GpuNodeStatus()
