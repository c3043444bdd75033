"""Nodes: strategy, capacity, reconfiguration, labels against the catalogue, sharing, drivers."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from extender.core.catalogue import Product, is_mig_resource, product_of, profile_name
from extender.core.doctor import drivers
from extender.core.doctor.evidence import JSON, Evidence, name_of
from extender.core.doctor.finding import Finding, Id
from extender.core.node import (
    CONFIG_STATE_LABEL,
    GKE_PARTITION_LABEL,
    MEMORY_LABEL,
    PRODUCT_LABEL,
    STRATEGY_LABEL,
    TOLERANCE,
    is_mixed,
    is_reconfiguring,
    memory_label,
)
from extender.core.pod import labels, mapping, objects, text
from extender.core.policy import Policy
from extender.core.quantity import QuantityError, whole

STUCK_AFTER_S = 20 * 60
"""mig-manager waits up to 5 minutes for each of its clients to go, and a node may boot again."""
CAPABLE_LABEL = "nvidia.com/mig.capable"

Told = tuple[Id, str]
"""A finding on one node: its id, and one line that may be the same for others."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A node, read once."""

    raw: JSON
    labels: dict[str, str]
    allocatable: dict[str, int]
    """GPU and MIG resources."""
    capacity: dict[str, int]
    product: Product | None

    @property
    def slices(self) -> dict[str, int]:
        """MIG resources above 0."""
        return {n: c for n, c in self.allocatable.items() if is_mig_resource(n) and c > 0}

    def number(self, label: str) -> int | None:
        """The value of a label that should be a number."""
        value = self.labels.get(label, "")
        return int(value[:9]) if value.isascii() and value.isdigit() else None


def check(evidence: Evidence) -> Iterator[Finding]:
    """Everything about nodes. Those of which the same can be said are told together."""
    if not evidence.knows("nodes"):
        return
    gpu_nodes = [seen for node in evidence.nodes if (seen := _seen(node, evidence)) is not None]
    if not gpu_nodes:
        what = f"No node has {evidence.gpu_resource} or a MIG resource."
        yield Finding(Id.NO_GPU_NODES, ("nodes",), what)
        return
    if not any(is_mixed(seen.labels) and _partitioned(seen) for seen in gpu_nodes):
        what = f"Of {len(gpu_nodes)} GPU nodes none has slices under MIG strategy mixed."
        yield Finding(Id.NO_MIXED_NODES, ("nodes",), what)
    together: dict[Told, list[str]] = defaultdict(list)
    for seen in gpu_nodes:
        for told in _node(seen, evidence):
            together[told].append(f"node {name_of(seen.raw)}")
    for (kind, what), names in together.items():
        yield Finding(kind, tuple(sorted(names)), what)


def seen_slices(evidence: Evidence) -> set[str]:
    """The MIG resources that nodes have or had, whoever may use them."""
    found: set[str] = set()
    for node in evidence.nodes:
        seen = _seen(node, evidence)
        if seen is not None and is_mixed(seen.labels):
            found.update(name for name in {**seen.slices, **seen.capacity} if is_mig_resource(name))
    return found


def _partitioned(seen: Seen) -> bool:
    """Whether there are slices, or there will be again once the layout has been changed."""
    return bool(seen.slices) or any(is_mig_resource(n) and c > 0 for n, c in seen.capacity.items())


def _seen(node: JSON, evidence: Evidence) -> Seen | None:
    """The node, if it has anything to do with GPUs."""
    has = dict(labels(node))
    status = mapping(node.get("status"))
    allocatable, capacity = (
        _counts(mapping(status.get(part)), evidence.gpu_resource)
        for part in ("allocatable", "capacity")
    )
    if not (any(allocatable.values()) or any(capacity.values()) or PRODUCT_LABEL in has):
        return None
    seen = Seen(node, has, allocatable, capacity, None)
    product = product_of(has.get(PRODUCT_LABEL, ""), seen.number(MEMORY_LABEL))
    return Seen(node, has, allocatable, capacity, product)


def _counts(quantities: JSON, gpu_resource: str) -> dict[str, int]:
    return {
        name: _count(value)
        for name, value in quantities.items()
        if name in {gpu_resource, f"{gpu_resource}.shared"} or is_mig_resource(name)
    }


def _count(value: object) -> int:
    try:
        return whole(value)
    except QuantityError:
        return 0


def _node(seen: Seen, evidence: Evidence) -> Iterator[Told]:
    yield from _strategy(seen)
    yield from _reconfiguration(seen, evidence.now_s)
    yield from _labels(seen, evidence.policy or Policy())
    if not is_reconfiguring(seen.labels):
        yield from _stale(seen)
    yield from _shared(seen)
    yield from _driver(seen, evidence.gpu_resource)


def _strategy(seen: Seen) -> Iterator[Told]:
    strategy = seen.labels.get(STRATEGY_LABEL)
    if seen.labels.get(PRODUCT_LABEL, "").endswith("-MIG-INVALID"):
        yield Id.STRATEGY_INVALID, "The layout does not fit MIG strategy single."
    elif strategy == "single" or seen.labels.get(GKE_PARTITION_LABEL):
        by = STRATEGY_LABEL if strategy == "single" else GKE_PARTITION_LABEL
        yield Id.STRATEGY_SINGLE, f"MIG strategy single, by label {by}."
    elif strategy is None and seen.slices:
        yield Id.STRATEGY_UNLABELLED, f"It has slices, and no label {STRATEGY_LABEL}."
    elif strategy == "none" or (strategy is None and seen.labels.get(CAPABLE_LABEL) == "true"):
        yield Id.STRATEGY_NONE, "MIG strategy none on cards that could be partitioned."


def _reconfiguration(seen: Seen, now_s: float) -> Iterator[Told]:
    state = seen.labels.get(CONFIG_STATE_LABEL)
    wanted = seen.labels.get("nvidia.com/mig.config", "a layout")
    since_s = _labelled_s(seen.raw, CONFIG_STATE_LABEL)
    for_s = None if since_s is None else max(0.0, now_s - since_s)
    age = "for an unknown time" if for_s is None else f"for {for_s / 60:.0f} minutes"
    if state == "failed":
        yield Id.RECONFIGURATION_FAILED, f"The change to {wanted} has been failed {age}."
    elif is_reconfiguring(seen.labels):
        stuck = for_s is not None and for_s >= STUCK_AFTER_S
        kind = Id.RECONFIGURATION_STUCK if stuck else Id.RECONFIGURING
        yield kind, f"The change to {wanted} has been {state} {age}."


def _labelled_s(node: JSON, label: str) -> float | None:
    """When whoever owns a label last wrote, by the API server's records (managedFields)."""
    times = [
        parsed
        for entry in objects(mapping(node.get("metadata")).get("managedFields"))
        if f"f:{label}"
        in mapping(mapping(mapping(entry.get("fieldsV1")).get("f:metadata")).get("f:labels"))
        and (parsed := seconds(text(entry.get("time")))) is not None
    ]
    return max(times, default=None)


def seconds(timestamp: str) -> float | None:
    """RFC 3339 -> seconds since the epoch; None if it is no such time."""
    try:
        parsed = datetime.fromisoformat(timestamp)
        return parsed.timestamp() if parsed.tzinfo is not None else None
    except (OverflowError, ValueError):
        return None


def _labels(seen: Seen, policy: Policy) -> Iterator[Told]:
    label = seen.labels.get(PRODUCT_LABEL)
    if label is None:
        if seen.slices:
            yield Id.LABELS_MISSING, f"It has slices, and no label {PRODUCT_LABEL}."
        return
    if seen.product is None and seen.slices:
        yield Id.PRODUCT_UNKNOWN, f"{label} is not in the catalogue, or its memory is another's."
    given = policy.usable_mib.get(label, {})
    for resource in sorted(seen.slices):
        profile = profile_name(resource)
        reported = seen.labels.get(memory_label(resource))
        if reported is None or profile in given:
            continue
        value = seen.number(memory_label(resource)) or 0
        known = seen.product.profile(profile) if seen.product is not None else None
        confirmed = known.memory_mib if known is not None and known.confirmed else None
        off = confirmed is not None and abs(value - confirmed) > TOLERANCE * confirmed
        if value <= 0 or off:
            against = f"; the catalogue has {confirmed}" if confirmed is not None else ""
            what = f"{label} {profile}: the label says {reported:.20} MiB{against}."
            yield Id.MEMORY_OFF_CATALOGUE, what


def _stale(seen: Seen) -> Iterator[Told]:
    for resource, allocatable in sorted(seen.allocatable.items()):
        capacity = seen.capacity.get(resource, 0)
        if allocatable == 0 and capacity > 0:
            yield Id.CAPACITY_STALE, f"{resource}: capacity {capacity}, allocatable 0."
        elif is_mig_resource(resource) and allocatable and PRODUCT_LABEL in seen.labels:
            if _is_shared(seen, resource):
                continue
            counted = seen.number(f"{resource}.count") or 0
            if counted != allocatable:
                said = f"label says {counted}" if counted else "no label counts them"
                yield Id.CAPACITY_STALE, f"{resource}: allocatable {allocatable}, {said}."


def _is_shared(seen: Seen, resource: str) -> bool:
    sharing = seen.labels.get(f"{resource}.sharing-strategy", "none")
    replicas = seen.number(f"{resource}.replicas") or 1
    return replicas > 1 or sharing not in {"none", ""} or resource.endswith(".shared")


def _shared(seen: Seen) -> Iterator[Told]:
    for resource in sorted(seen.slices):
        if _is_shared(seen, resource):
            yield Id.SLICES_SHARED, f"{resource} is shared by several pods."


def _driver(seen: Seen, gpu_resource: str) -> Iterator[Told]:
    driver = drivers.driver_of(seen.labels)
    if not seen.slices or not driver:
        return
    spelled, least = drivers.spelled(driver), drivers.least_for(seen.product)
    if drivers.too_old(driver, least):
        what = f"Driver {spelled}; MIG needs {drivers.spelled(least)}."
        yield Id.DRIVER_TOO_OLD, what
    fault = drivers.mixing_fault(driver)
    if fault is not None and seen.allocatable.get(gpu_resource, 0) > 0:
        what = (
            f"Driver {spelled}: pods stay Pending on nodes with slices and whole GPUs, until "
            f"{fault.remedy}."
        )
        yield Id.DRIVER_FAULT, what
    if drivers.by_cdmm(driver, seen.labels.get(PRODUCT_LABEL, "")):
        yield Id.DRIVER_CDMM, f"Driver {spelled} on a Grace host."
