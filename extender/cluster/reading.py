"""From Kubernetes objects to what the core counts with: nodes, holdings, demands."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from extender.cluster.objects import (
    ContainerObject,
    NodeObject,
    PodObject,
    Quantities,
    Resources,
)
from extender.core.capacity import Demand, Holding
from extender.core.catalogue import is_mig_resource
from extender.core.node import Node, Taint, build_node
from extender.core.pod import Ask, ContainerKind, total, workload_of
from extender.core.policy import Policy, Pool
from extender.core.quantity import QuantityError, milli, whole

ENDED = frozenset({"Failed", "Succeeded"})
"""Phases in which a pod holds nothing any more."""

_signature = msgspec.json.Encoder(order="deterministic")


def _amount(quantities: Quantities | None, name: str) -> int:
    value = quantities.get(name) if quantities is not None else None
    if value is None:
        return 0
    try:
        return milli(value) if name == "cpu" else whole(value)
    except QuantityError:
        return 0


def _taints(taints: Iterable[Mapping[str, str]]) -> tuple[Taint, ...]:
    return tuple(
        Taint(taint.get("key", ""), taint.get("value", ""), taint.get("effect", ""))
        for taint in taints
        if taint.get("effect") != "PreferNoSchedule"
    )


def read_node(item: NodeObject, policy: Policy) -> Node:
    """A node as the decision sees it."""
    allocatable = item.status.allocatable or {}
    gpus = {
        name: _amount(allocatable, name)
        for name in allocatable
        if name == policy.gpu_resource or is_mig_resource(name)
    }
    return build_node(
        item.metadata.name,
        labels=item.metadata.labels or {},
        gpus=gpus,
        overrides=policy.usable_mib,
        taints=_taints(msgspec.to_builtins(item.spec.taints or [])),
        cordoned=bool(item.spec.unschedulable),
        plain=(
            _amount(allocatable, "cpu"),
            _amount(allocatable, "memory"),
            _amount(allocatable, "ephemeral-storage"),
            _amount(allocatable, "pods"),
        ),
    )


def read_pool(pool: Pool, policy: Policy) -> Node:
    """One node such as the pool would make."""
    return build_node(
        pool.name,
        labels=pool.labels,
        gpus=pool.slices,
        overrides=policy.usable_mib,
        taints=_taints(pool.taints),
    )


def _containers(item: PodObject) -> list[tuple[ContainerKind, ContainerObject]]:
    listed = [
        (
            ContainerKind.SIDECAR if c.restart_policy == "Always" else ContainerKind.INIT,
            c,
        )
        for c in item.spec.init_containers or ()
    ]
    return listed + [(ContainerKind.REGULAR, c) for c in item.spec.containers]


def _asked(resources: Resources | None, name: str) -> int:
    if resources is None:
        return 0
    if resources.requests is not None and name in resources.requests:
        return _amount(resources.requests, name)
    return _amount(resources.limits, name)


def _plain(item: PodObject, held: Sequence[tuple[ContainerKind, ContainerObject]]) -> Ask:
    amounts = []
    for name in ("cpu", "memory", "ephemeral-storage"):
        amount = _asked(item.spec.resources, name)
        if not amount:
            amount = total([(kind, _asked(c.resources, name)) for kind, c in held])
        amounts.append(amount + _amount(item.spec.overhead, name))
    return Ask(*amounts)


def _gpus(
    held: Sequence[tuple[ContainerKind, ContainerObject]], gpu_resource: str
) -> tuple[tuple[str, int], ...]:
    names = {
        name
        for _, c in held
        if c.resources is not None
        for name in {**(c.resources.limits or {}), **(c.resources.requests or {})}
        if name == gpu_resource or is_mig_resource(name)
    }
    counted = ((name, total([(k, _asked(c.resources, name)) for k, c in held])) for name in names)
    return tuple(sorted((name, count) for name, count in counted if count > 0))


def workload_name(item: PodObject) -> str:
    """`namespace/Kind/name` of what a person deployed."""
    meta = item.metadata
    controller = next((o for o in meta.owner_references or () if o.controller), None)
    workload = workload_of(
        controller.kind if controller is not None else "",
        controller.name if controller is not None else "",
        (meta.labels or {}).get("pod-template-hash", ""),
        meta.name or meta.generate_name,
    )
    return f"{meta.namespace}/{workload}"


def read_pod(item: PodObject, policy: Policy) -> Holding | Demand | None:
    """What a pod holds on its node, or what it waits for; None if it counts for nothing.

    A pod behind a scheduling gate competes for nothing yet.
    """
    if item.status.phase in ENDED:
        return None
    held = _containers(item)
    gpus = _gpus(held, policy.gpu_resource)
    spec = item.spec
    if spec.node_name:
        workload = workload_name(item) if gpus else ""
        return Holding(spec.node_name, _plain(item, held), gpus, workload)
    if not gpus or spec.scheduling_gates:
        return None
    where = {
        "nodeSelector": spec.node_selector,
        "affinity": spec.affinity,
        "tolerations": spec.tolerations,
    }
    return Demand(where, _signature.encode(where).decode(), gpus, spec.priority or 0)
