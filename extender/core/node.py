"""A node as the decision sees it: what it offers, to whom, and how sure we are of it.

Label names and their meaning: GPU Feature Discovery and the device plugin of NVIDIA
(`internal/lm` and `internal/rm`), mig-manager for `mig.config.state`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from extender.core.catalogue import (
    Product,
    is_mig_resource,
    product_of,
    profile_name,
    shape,
)
from extender.core.layout import NodeLayout, node_layout
from extender.core.occupancy import Occupancy, existing

PRODUCT_LABEL = "nvidia.com/gpu.product"
MEMORY_LABEL = "nvidia.com/gpu.memory"
COUNT_LABEL = "nvidia.com/gpu.count"
REPLICAS_LABEL = "nvidia.com/gpu.replicas"
STRATEGY_LABEL = "nvidia.com/mig.strategy"
CONFIG_STATE_LABEL = "nvidia.com/mig.config.state"
GKE_PARTITION_LABEL = "cloud.google.com/gke-gpu-partition-size"

POOL_LABELS = (
    "karpenter.sh/nodepool",
    "cloud.google.com/gke-nodepool",
    "eks.amazonaws.com/nodegroup",
    "kubernetes.azure.com/agentpool",
)
"""A node that carries one of these belongs to a group that can grow."""

TOLERANCE = 0.15
"""How far a label may be off a confirmed value of the catalogue before we call it wrong."""


def memory_label(resource: str) -> str:
    """The node label with the usable MiB of one slice: `nvidia.com/mig-2g.20gb.memory`."""
    return f"{resource}.memory"


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint that keeps pods away. `PreferNoSchedule` is no such taint and is not kept."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What one node says of one MIG resource. Equal offers of many nodes are one entry."""

    resource: str
    profile: str
    usable_mib: int | None
    """None: unknown, so this node is not counted for the name."""
    compute_slices: int
    memory_slices: int
    bandwidth_bytes_s: int | None
    """None: the product is not in the catalogue."""
    special: bool
    """A `+me`, `+gfx`, `-me` … variant: taken on explicit request only."""
    shared: bool
    """Several pods on one slice (time-slicing): no memory is guaranteed to anybody."""
    labelled: bool
    """The node's memory label says as much or more, so kube-scheduler can be asked to check it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node: identity, who may land on it, what it has."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...] = ()
    cordoned: bool = False
    cpu_milli: int = 0
    memory_bytes: int = 0
    ephemeral_bytes: int = 0
    pods: int = 0
    others: Mapping[str, int] = field(default_factory=dict)
    """Devices of other kinds and huge pages -> allocatable, of those above 0."""
    gpus: Mapping[str, int] = field(default_factory=dict)
    """GPU and MIG resource name -> allocatable, of those above 0."""
    product: Product | None = None
    offers: Mapping[str, Offer] = field(default_factory=dict)
    """MIG resource -> what is said of it; empty unless the node takes part (`mixed`)."""
    reconfiguring: bool = False
    gpu_count: int = 1
    """Cards in the node, partitioned or not; 1 if the node does not say."""
    layout: NodeLayout | None = None
    """Which slices sit on one GPU together; None where the totals do not tell."""
    occupancy: Occupancy | None = None
    """What the node's agent sees; None without one, or when it has not been heard for long."""

    @property
    def autoscaled(self) -> bool:
        """Whether the node belongs to a group that can grow."""
        return any(label in self.labels for label in POOL_LABELS)


def _integer(value: str | None) -> int | None:
    try:
        return int(value) if value is not None else None
    except ValueError:
        return None


def is_mixed(labels: Mapping[str, str]) -> bool:
    """Whether MIG resources of a node may be handed out by name.

    A node without a strategy label is judged by what it has allocatable. Under `single` the GPU
    resource *is* a slice already, and GKE's partition label says the same.
    """
    if labels.get(GKE_PARTITION_LABEL):
        return False
    return labels.get(STRATEGY_LABEL, "mixed") == "mixed"


def is_reconfiguring(labels: Mapping[str, str]) -> bool:
    """Whether mig-manager is changing the layout of the node at this moment."""
    return labels.get(CONFIG_STATE_LABEL) in {"pending", "rebooting"}


def usable_mib(
    resource: str,
    labels: Mapping[str, str],
    product: Product | None,
    overrides: Mapping[str, Mapping[str, int]],
    seen: Occupancy | None = None,
) -> int | None:
    """MiB of one slice on this node: the admin's word, NVML's, the node's label, the catalogue's.

    None when the label is 0, no number, or more than `TOLERANCE` off a confirmed value.
    """
    profile_text = profile_name(resource)
    given = overrides.get(labels.get(PRODUCT_LABEL, ""), {}).get(profile_text)
    if given is not None:
        return given
    measured = None if seen is None else dict(seen.usable_mib).get(resource)
    if measured is not None:
        return measured
    known = product.profile(profile_text) if product is not None else None
    confirmed = known.memory_mib if known is not None and known.confirmed else None
    fallback = known.fallback_mib if known is not None else None
    label = labels.get(memory_label(resource))
    if label is None:
        return fallback
    reported = _integer(label)
    if reported is None or reported <= 0:
        return None
    if confirmed is not None and abs(reported - confirmed) > TOLERANCE * confirmed:
        return None
    return reported


def offer_of(
    resource: str,
    labels: Mapping[str, str],
    product: Product | None,
    overrides: Mapping[str, Mapping[str, int]],
    seen: Occupancy | None = None,
) -> Offer:
    """What a node with these labels says of a MIG resource it has allocatable."""
    name = profile_name(resource)
    known = product.profile(name) if product is not None else None
    guessed = shape(name)
    replicas = _integer(labels.get(f"{resource}.replicas")) or 0
    sharing = labels.get(f"{resource}.sharing-strategy", "none")
    usable = usable_mib(resource, labels, product, overrides, seen)
    return Offer(
        resource=resource,
        profile=name,
        usable_mib=usable,
        compute_slices=known.compute_slices
        if known
        else (guessed.compute_slices if guessed else 0),
        memory_slices=known.memory_slices if known else 0,
        bandwidth_bytes_s=product.bandwidth_of(name) if product is not None and known else None,
        special=known.special if known else bool(guessed and guessed.suffix),
        shared=replicas > 1 or sharing not in {"none", ""} or resource.endswith(".shared"),
        labelled=(_integer(labels.get(memory_label(resource))) or 0) >= (usable or 1),
    )


def build_node(  # noqa: PLR0913  one for each thing Kubernetes says of a node
    name: str,
    *,
    labels: Mapping[str, str],
    gpus: Mapping[str, int],
    overrides: Mapping[str, Mapping[str, int]],
    taints: tuple[Taint, ...] = (),
    cordoned: bool = False,
    plain: tuple[int, int, int, int] = (0, 0, 0, 0),
    others: Mapping[str, int] | None = None,
    seen: Occupancy | None = None,
) -> Node:
    """A node from what Kubernetes says of it.

    Args:
        name: the node's name.
        labels: the node's labels.
        gpus: GPU and MIG resources it has allocatable.
        overrides: usable MiB by product label and profile, from the configuration.
        taints: taints with effect NoSchedule or NoExecute.
        cordoned: `spec.unschedulable`.
        plain: allocatable cpu in milli, memory and ephemeral storage in bytes, pod slots.
        others: devices of other kinds and huge pages it has allocatable.
        seen: what its agent sees.
    """
    there = {r: _there(r, count, labels, seen) for r, count in gpus.items()}
    present = {resource: count for resource, count in there.items() if count > 0}
    product = product_of(labels.get(PRODUCT_LABEL, ""), _integer(labels.get(MEMORY_LABEL)))
    reconfiguring = is_reconfiguring(labels)
    offers: dict[str, Offer] = {}
    if is_mixed(labels) and not reconfiguring:
        for resource in present:
            if is_mig_resource(resource):
                offers[resource] = offer_of(resource, labels, product, overrides, seen)
    gpu_count = max(1, _integer(labels.get(COUNT_LABEL)) or 1)
    shares = max(1, _integer(labels.get(REPLICAS_LABEL)) or 1)
    return Node(
        name=name,
        labels=labels,
        taints=taints,
        cordoned=cordoned,
        cpu_milli=plain[0],
        memory_bytes=plain[1],
        ephemeral_bytes=plain[2],
        pods=plain[3],
        others=others or {},
        gpus=present,
        product=product,
        offers=offers,
        reconfiguring=reconfiguring,
        gpu_count=gpu_count,
        layout=node_layout(product, present, gpu_count, shares),
        occupancy=seen,
    )


def _there(resource: str, count: int, labels: Mapping[str, str], seen: Occupancy | None) -> int:
    """Units of a resource, without slices that are allocatable and gone."""
    shares = _integer(labels.get(f"{resource}.replicas")) or 1
    if not is_mig_resource(resource) or resource.endswith(".shared") or shares > 1:
        return count
    return existing(resource, count, seen)
