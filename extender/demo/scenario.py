"""A demo's script: nodes, pods, layouts to compare, price. Documented in docs/reference/scenario.md."""

from fractions import Fraction
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from extender.core.quantity import footprint_bytes

GpuLayout = Literal["whole"] | list[str]
"""`whole`, or the profiles on this GPU."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    pass


class Price(_Strict, frozen=True):
    """What a GPU costs."""

    gpu_hour: Annotated[float, Meta(ge=0)] = 2
    currency: str = "$"
    hours_a_month: Annotated[int, Meta(ge=1, le=744)] = 720

    @property
    def gpu_month(self) -> Fraction:
        """One GPU for one month, exactly as the decimal number says."""
        return Fraction(repr(self.gpu_hour)) * self.hours_a_month


class Node(_Strict, frozen=True):
    """A machine with GPUs of one product."""

    name: str
    product: str
    """A name of the catalogue (`A100-80GB`) or a GFD label (`NVIDIA-A100-SXM4-80GB`)."""
    gpus: Annotated[list[GpuLayout], Meta(min_length=1)]
    cpu: str = "64"
    memory: str = "512Gi"
    labels: dict[str, str] = {}
    taints: list[dict[str, str]] = []


class Pod(_Strict, frozen=True):
    """A pod, or several alike."""

    name: str
    footprint: str
    """GPU memory each GPU container really uses once the model is loaded."""
    title: str = ""
    """How the picture calls it; the name if not given."""
    count: Annotated[int, Meta(ge=1)] = 1
    order: int = 0
    """Lower ones are created first; equal ones as listed."""
    gpus: Annotated[int, Meta(ge=1)] = 1
    namespace: str = "default"
    annotations: dict[str, str] = {}
    labels: dict[str, str] = {}
    node_selector: dict[str, str] = {}
    tolerations: list[dict[str, str]] = []
    image: str = "registry.example/model:1"
    cpu: str = "1"
    memory: str = "4Gi"

    @property
    def footprint_bytes(self) -> int:
        """The footprint in bytes."""
        return footprint_bytes(self.footprint)


class Layout(_Strict, frozen=True):
    """How the GPUs are partitioned in one of the runs to compare."""

    name: str
    nodes: dict[str, list[GpuLayout]] = {}
    """Node -> one entry per GPU; nodes that are not named stay as they are."""


class Scenario(_Strict, frozen=True):
    """The whole script."""

    name: str
    nodes: Annotated[list[Node], Meta(min_length=1)]
    pods: Annotated[list[Pod], Meta(min_length=1)]
    title: str = ""
    layouts: list[Layout] = []
    """Runs with migfit, one after the other; none means one, on the nodes as they are."""
    price: Price = Price()
    config: dict[str, Any] = {}
    """Fields of the MigfitConfiguration that the server is started with."""

    def runs(self) -> list[tuple[str, list[Node]]]:
        """Name and nodes of every run with migfit."""
        if not self.layouts:
            return [("", self.nodes)]
        return [
            (
                layout.name,
                [
                    msgspec.structs.replace(node, gpus=layout.nodes.get(node.name, node.gpus))
                    for node in self.nodes
                ],
            )
            for layout in self.layouts
        ]
