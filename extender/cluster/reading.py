"""From Kubernetes objects to what the core counts with: nodes, holdings, demands."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Protocol, TypeVar

import msgspec

from extender.cluster.objects import (
    ContainerObject,
    LimitRangeObject,
    Metadata,
    NodeObject,
    NodeStatus,
    PodObject,
    Quantities,
    ResourceQuotaObject,
    Resources,
)
from extender.core.capacity import Demand, Holding
from extender.core.catalogue import is_mig_resource
from extender.core.node import Node, Taint, build_node
from extender.core.occupancy import Occupancy
from extender.core.pod import Ask, ContainerKind, is_other, total, workload_of
from extender.core.policy import Policy, Pool
from extender.core.quantity import QuantityError, milli, whole
from extender.core.quota import (
    REQUESTS,
    Limits,
    Quota,
    Scope,
    ScopeTest,
    Share,
    best_effort,
    cross_namespace,
)
from extender.core.rewrite import REWRITTEN_LABEL

ENDED = frozenset({"Failed", "Succeeded"})
"""Phases in which a pod holds nothing any more."""

Counted = tuple[Share, tuple[tuple[str, int], ...]]
"""How a pod counts against quotas: in what company, and GPU or MIG resources with counts."""

_signature = msgspec.json.Encoder(order="deterministic")
_REGULAR = ContainerKind.REGULAR
_NONE: Quantities = {}
_PLAIN = frozenset({"cpu", "memory", "ephemeral-storage"})
H = TypeVar("H", bound=Hashable)


class _Same(Protocol):
    def __call__(self, value: H, /) -> H: ...


_same: _Same = lru_cache(maxsize=1 << 15)(lambda value: value)
"""The one copy of a value: names, labels and asks repeat on thousands of objects."""


def _amount(quantities: Quantities | None, name: str) -> int:
    return _parsed(name, quantities.get(name)) if quantities is not None else 0


def _parsed(name: str, value: object) -> int:
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


def lean_node(item: NodeObject) -> NodeObject:
    """What `read_node` reads of a node, in less memory: thousands of them share their strings."""
    labels = item.metadata.labels or {}
    allocatable = item.status.allocatable or {}
    return NodeObject(
        Metadata(
            name=_same(item.metadata.name),
            labels={_same(key): _same(value) for key, value in labels.items()},
        ),
        item.spec,
        NodeStatus({_same(name): _same(amount) for name, amount in allocatable.items()}),
    )


def read_node(item: NodeObject, policy: Policy, seen: Occupancy | None = None) -> Node:
    """A node as the decision sees it, with what its agent sees."""
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
        others={
            name: amount
            for name in allocatable
            if is_other(name, policy.gpu_resource) and (amount := _amount(allocatable, name)) > 0
        },
        seen=seen,
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


def containers_of(item: PodObject) -> list[tuple[ContainerKind, ContainerObject]]:
    """Init containers and sidecars, then regular ones, in the order of the pod."""
    regular = [(_REGULAR, c) for c in item.spec.containers]
    if not item.spec.init_containers:
        return regular
    initial = [
        (
            ContainerKind.SIDECAR if c.restart_policy == "Always" else ContainerKind.INIT,
            c,
        )
        for c in item.spec.init_containers
    ]
    return initial + regular


def _asked(resources: Resources | None, name: str) -> int:
    if resources is None:
        return 0
    if resources.requests is not None and name in resources.requests:
        return _amount(resources.requests, name)
    return _amount(resources.limits, name)


@lru_cache(maxsize=1 << 12)
def _ask(cpu: str | float | None, memory: str | float | None, storage: str | float | None) -> Ask:
    """One object for each set of amounts: pods of a kind all ask for the same."""
    return Ask(
        max(0, _parsed("cpu", cpu)),
        max(0, _parsed("memory", memory)),
        max(0, _parsed("ephemeral-storage", storage)),
    )


def _ask_of(resources: Resources | None) -> Ask:
    if resources is None:
        return _ask(None, None, None)
    requests, limits = resources.requests or _NONE, resources.limits or _NONE
    return _ask(
        requests.get("cpu", limits.get("cpu")),
        requests.get("memory", limits.get("memory")),
        requests.get("ephemeral-storage", limits.get("ephemeral-storage")),
    )


def _plain(item: PodObject, held: Sequence[tuple[ContainerKind, ContainerObject]]) -> Ask:
    asks = [(kind, _ask_of(c.resources)) for kind, c in held]
    if len(asks) == 1 and item.spec.resources is None and item.spec.overhead is None:
        return asks[0][1]
    of_pod, over = _ask_of(item.spec.resources), _ask_of(Resources(requests=item.spec.overhead))
    return _same(
        Ask(
            (of_pod.cpu_milli or total([(kind, ask.cpu_milli) for kind, ask in asks]))
            + over.cpu_milli,
            (of_pod.memory_bytes or total([(kind, ask.memory_bytes) for kind, ask in asks]))
            + over.memory_bytes,
            (of_pod.ephemeral_bytes or total([(kind, ask.ephemeral_bytes) for kind, ask in asks]))
            + over.ephemeral_bytes,
        )
    )


def _devices(
    held: Sequence[tuple[ContainerKind, ContainerObject]],
) -> tuple[tuple[str, int], ...]:
    """Everything the pod asks for but cpu, memory and storage: names with counts, sorted."""
    names = {
        name
        for _, c in held
        if c.resources is not None
        for part in (c.resources.limits, c.resources.requests)
        for name in part or ()
        if name not in _PLAIN
    }
    if not names:
        return ()
    counted = ((name, total([(k, _asked(c.resources, name)) for k, c in held])) for name in names)
    return _same(tuple(sorted((name, count) for name, count in counted if count > 0)))


@lru_cache(maxsize=1 << 12)
def _sorted_out(
    devices: tuple[tuple[str, int], ...], gpu_resource: str
) -> tuple[tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]]:
    """GPU and MIG resources, and what else the node must have."""
    return (
        tuple(one for one in devices if _is_gpu(one[0], gpu_resource)),
        tuple(one for one in devices if is_other(one[0], gpu_resource)),
    )


def devices(item: PodObject) -> tuple[tuple[str, int], ...]:
    """Everything the pod asks for but cpu, memory and storage: names with counts, sorted."""
    return _devices(containers_of(item))


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


def asks_for_devices(item: PodObject) -> bool:
    """Whether the pod asks for any resource of a vendor, GPUs or others."""
    for container in (*item.spec.containers, *(item.spec.init_containers or ())):
        if (resources := container.resources) is not None:
            for part in (resources.limits, resources.requests):
                for name in part or ():
                    if "/" in name:
                        return True
    return False


def read_share(item: PodObject, policy: Policy) -> Counted | None:
    """How a pod with GPUs counts against quotas, wherever it is; None for one that does not."""
    if item.status.phase in ENDED:
        return None
    held = containers_of(item)
    gpus, _ = _sorted_out(_devices(held), policy.gpu_resource)
    if not gpus:
        return None
    resources = [item.spec.resources, *(c.resources for _, c in held)]
    asked = [p for r in resources if r is not None for p in (r.limits, r.requests) if p is not None]
    spec = item.spec
    share = _share(
        terminating=spec.active_deadline_seconds is not None,
        best_effort=best_effort(asked),
        priority_class=spec.priority_class_name,
        elsewhere=spec.affinity is not None and cross_namespace(spec.affinity),
        rewritten=(item.metadata.labels or {}).get(REWRITTEN_LABEL) == "true",
    )
    return share, gpus


@lru_cache(maxsize=1 << 12)
def _share(
    *, terminating: bool, best_effort: bool, priority_class: str, elsewhere: bool, rewritten: bool
) -> Share:
    return Share(Scope(terminating, best_effort, priority_class, elsewhere), rewritten)


def read_quota(item: ResourceQuotaObject, policy: Policy) -> Quota:
    """A quota's word on GPU and MIG resources; `hard` is empty if it has none."""
    hard = item.spec.hard or {}
    names = (key.removeprefix(REQUESTS) for key in hard if key.startswith(REQUESTS))
    selector = item.spec.scope_selector
    selected = (selector.match_expressions or ()) if selector is not None else ()
    tests = [
        *(ScopeTest(name) for name in item.spec.scopes or ()),
        *(ScopeTest(e.scope_name, e.operator, tuple(e.values or ())) for e in selected),
    ]
    return Quota(
        item.metadata.name,
        {n: _amount(hard, REQUESTS + n) for n in names if _is_gpu(n, policy.gpu_resource)},
        tuple(tests),
    )


def read_limits(item: LimitRangeObject, policy: Policy) -> Limits:
    """A LimitRange's word on GPU and MIG resources, for containers and for pods.

    Every kind of bound, the upper ones too, refuses what does not ask for the resource at all ("No
    limit is specified", `plugin/pkg/admission/limitranger`).
    """
    demanded: set[str] = set()
    most: dict[str, int] = {}
    for limit in item.spec.limits or ():
        if limit.type not in {"Container", "Pod"}:
            continue
        for bound in (limit.min, limit.max, limit.max_limit_request_ratio):
            demanded.update({policy.gpu_resource} & (bound or {}).keys())
        for name in filter(is_mig_resource, limit.max or ()):
            count = _amount(limit.max, name)
            most[name] = min(most.get(name, count), count)
    return Limits(item.metadata.name, frozenset(demanded), most)


def _is_gpu(name: str, gpu_resource: str) -> bool:
    return name == gpu_resource or is_mig_resource(name)


def read_pod(item: PodObject, policy: Policy) -> Holding | Demand | None:
    """What a pod holds on its node, or what it waits for; None if it counts for nothing.

    A pod behind a scheduling gate competes for nothing yet, one that is being deleted no more.
    """
    if item.status.phase in ENDED:
        return None
    held = containers_of(item)
    gpus, others = _sorted_out(_devices(held), policy.gpu_resource)
    spec = item.spec
    if spec.node_name:
        workload = _same(workload_name(item)) if gpus else ""
        plain = _plain(item, held)
        if others:
            plain = _same(replace(plain, others=others))
        return Holding(_same(spec.node_name), plain, gpus, workload)
    if not gpus or spec.scheduling_gates or item.metadata.deletion_timestamp:
        return None
    where = {
        "nodeSelector": spec.node_selector,
        "affinity": spec.affinity,
        "tolerations": spec.tolerations,
    }
    return Demand(where, _signature.encode(where).decode(), gpus, spec.priority or 0)
