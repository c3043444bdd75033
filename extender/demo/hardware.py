"""The GPUs of a scenario, what is cut out of each, and the Node objects that tell of them.

Labels are those of GPU Feature Discovery, allocatable is that of the device plugin, both with
strategy `mixed`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from extender.core.catalogue import PRODUCTS, Product, place, product_of, resource_name, shape

GPU_RESOURCE = "nvidia.com/gpu"
WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Piece:
    """What one pod can hold of a GPU: a slice, or the whole card."""

    profile: str
    """`2g.20gb`, or `whole`."""
    start: int
    """Its first memory slice."""
    slices: int
    """How many memory slices."""
    nominal_gb: int
    """The size in its name, decimal GB as people buy them; usable memory is a little less."""

    @property
    def resource(self) -> str:
        """What a pod asks for to get it."""
        return GPU_RESOURCE if self.profile == WHOLE else resource_name(self.profile)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card and its pieces, by position."""

    node: str
    index: int
    product: Product
    pieces: tuple[Piece, ...]

    @property
    def whole(self) -> bool:
        """Whether the card is not partitioned."""
        return len(self.pieces) == 1 and self.pieces[0].profile == WHOLE


def product_named(name: str) -> Product | None:
    """The product of a catalogue name or a GFD label; None if it is none, or not clear which."""
    return PRODUCTS.get(name) or product_of(name)


def product_label(name: str) -> str:
    """What GFD would write as `nvidia.com/gpu.product`; a label stays as it is."""
    product = PRODUCTS.get(name)
    if product is None:
        return name
    return "NVIDIA-" + product.labels[0].replace("*", "")


def cut(node: str, index: int, product: Product, layout: str | Sequence[str]) -> Gpu:
    """A GPU with the profiles at a legal placement.

    Args:
        node: name of its node.
        index: of the GPU in the node.
        product: what it is.
        layout: `whole`, or profile names.

    Raises:
        ValueError: no placement holds them all.
    """
    if isinstance(layout, str):
        pieces = [Piece(WHOLE, 0, product.memory_slices, product.nominal_gb)]
    else:
        placed = place(product, Counter(layout))
        if placed is None:
            raise ValueError(f"{' + '.join(layout)} do not fit on one {product.name}")
        pieces = [_slice(product, name, start) for name, start in placed.placements]
    return Gpu(node, index, product, tuple(pieces))


def _slice(product: Product, name: str, start: int) -> Piece:
    profile, says = product.profile(name), shape(name)
    if profile is None or says is None:
        raise ValueError(f"{name} is no profile of {product.name}")
    return Piece(name, start, profile.memory_slices, says.nominal_gb)


def allocatable(gpus: Sequence[Gpu]) -> dict[str, int]:
    """GPU and MIG resource -> how many the device plugin offers on a node with these GPUs."""
    return dict(Counter(piece.resource for gpu in gpus for piece in gpu.pieces))


def gpu_labels(gpus: Sequence[Gpu], label: str) -> dict[str, str]:
    """What GFD writes on a node with these GPUs.

    Args:
        gpus: the GPUs of one node, at least one, all of one product.
        label: `nvidia.com/gpu.product`.
    """
    product = gpus[0].product
    labels = {
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": label,
        "nvidia.com/gpu.memory": str(product.nominal_gb * 1024),
        "nvidia.com/gpu.count": str(len(gpus)),
        "nvidia.com/gpu.replicas": "1" if any(gpu.whole for gpu in gpus) else "0",
        "nvidia.com/gpu.sharing-strategy": "none",
        "nvidia.com/mig.capable": "true",
        "nvidia.com/mig.strategy": "mixed",
        "nvidia.com/mig.config.state": "success",
    }
    slices = Counter(p.profile for gpu in gpus for p in gpu.pieces if p.profile != WHOLE)
    for name, count in slices.items():
        profile, key = product.profile(name), resource_name(name)
        if profile is None:
            continue
        labels |= {
            f"{key}.count": str(count),
            f"{key}.product": f"{label}-MIG-{name.replace('+', '.')}",
            f"{key}.replicas": "1",
            f"{key}.sharing-strategy": "none",
            f"{key}.slices.gi": str(profile.compute_slices),
            f"{key}.slices.ci": str(profile.compute_slices),
        }
        if profile.memory_mib is not None:
            labels[f"{key}.memory"] = str(profile.memory_mib)
        if profile.multiprocessors is not None:
            labels[f"{key}.multiprocessors"] = str(profile.multiprocessors)
    return labels


def node_object(
    name: str,
    gpus: Sequence[Gpu],
    label: str,
    *,
    plain: Mapping[str, str],
    labels: Mapping[str, str],
    taints: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """The Node as kubelet, device plugin and GFD would write it together.

    Args:
        name: of the node.
        gpus: its GPUs.
        label: `nvidia.com/gpu.product`.
        plain: allocatable cpu, memory, …
        labels: more labels; they win.
        taints: the node's taints.
    """
    resources = {
        "pods": "110",
        "ephemeral-storage": "1Ti",
        **plain,
        **{resource: str(count) for resource, count in allocatable(gpus).items()},
    }
    spec = {"taints": [dict(taint) for taint in taints]} if taints else {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, **gpu_labels(gpus, label), **labels},
        },
        "spec": spec,
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
