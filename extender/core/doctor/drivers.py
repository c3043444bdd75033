"""Drivers and MIG: which one a product needs, and which are known to be at fault."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from extender.core.catalogue import Product

Driver = tuple[int, ...]
"""Major, minor, revision, as far as the node says."""

_VERSION = "nvidia.com/cuda.driver-version"
_OLD_VERSION = "nvidia.com/cuda.driver"

LEAST: Mapping[str, Driver] = {
    "A100-40GB": (450,),
    "A100-80GB": (450,),
    "A30-24GB": (460,),
    "H100-80GB": (525, 85, 12),
    "H100-94GB": (525, 85, 12),
    "H200-141GB": (550, 90, 7),
    "B200-180GB": (570, 133, 20),
    "GB200-186GB": (570, 133, 20),
    "GB200-189GB": (570, 133, 20),
    "B300-269GB": (580, 82, 7),
    "RTX-PRO-6000-Blackwell-96GB": (575, 51, 3),
}
"""Product of the catalogue -> the first driver with MIG for it (NVIDIA, MIG User Guide, Supported GPUs)."""


class Fault(NamedTuple):
    """Drivers that are at fault on nodes with both slices and whole GPUs."""

    since: Driver
    before: Driver
    """The first one without the fault, of that branch or at all."""
    remedy: str


MIXING = (
    Fault((570, 124), (570, 172, 8), "570.172.08"),
    Fault((575,), (576,), "580.65.06"),
)
"""Pods stay Pending for ever on such nodes (NVIDIA/gpu-operator #1361; release notes of 25.3.2)."""

CDMM_SINCE: Driver = (580, 65, 6)
GRACE = re.compile(r"(?:NVIDIA-)?G[HB][23]00\b")
"""On Grace hosts the driver manages GPU memory by CDMM by default since then, which was documented as
not compatible with MIG (NVIDIA, GPU Operator, release notes)."""


def driver_of(labels: Mapping[str, str]) -> Driver:
    """The driver that GPU Feature Discovery found; empty if the node does not say.

    Labels `nvidia.com/cuda.driver-version.{major,minor,revision}`, older ones
    `nvidia.com/cuda.driver.{major,minor,rev}`.
    """
    for prefix, parts in (
        (_VERSION, ("major", "minor", "revision")),
        (_OLD_VERSION, ("major", "minor", "rev")),
    ):
        found: list[int] = []
        for part in parts:
            value = labels.get(f"{prefix}.{part}", "")
            if not (value.isascii() and value.isdigit()):
                break
            found.append(int(value[:6]))
        if found:
            return tuple(found)
    return ()


def least_for(product: Product | None) -> Driver:
    """The first driver with MIG for a product; empty if it is not known."""
    return LEAST.get(product.name, ()) if product is not None else ()


def too_old(driver: Driver, least: Driver) -> bool:
    """Whether a driver is older, as far as the node says which one it has."""
    return bool(driver) and driver < least[: len(driver)]


def mixing_fault(driver: Driver) -> Fault | None:
    """What is wrong with a driver on a node with both slices and whole GPUs."""
    return next((fault for fault in MIXING if fault.since <= driver < fault.before), None)


def by_cdmm(driver: Driver, product_label: str) -> bool:
    """Whether the driver manages GPU memory by CDMM unless told otherwise."""
    return driver >= CDMM_SINCE and GRACE.match(product_label) is not None


def spelled(driver: Driver) -> str:
    """As NVIDIA writes it: `570.133.20`, `580.65.06`."""
    return ".".join([str(driver[0]), *(f"{part:02}" for part in driver[1:])])
