"""What pods of a workload were seen to use: a hint beside what is declared, and if so configured more.

It never lowers a footprint: what was not used yesterday may be needed tomorrow. And what a program
reserves ahead says nothing about its need.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from extender.core.quantity import MIB

MARGIN = (5, 4)
"""A raised footprint is the observed peak times this: 1.25."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The most that a container was seen to use of a device, over all pods of its workload."""

    mib: int
    pods: int
    """How many were seen."""
    preallocates: bool = False
    """One of them holds near a fixed share of its device: this is no need."""

    def footprint_bytes(self) -> int | None:
        """What a declared footprint is raised to; None if nothing follows from it."""
        if self.preallocates:
            return None
        numerator, denominator = MARGIN
        return -(-self.mib * MIB * numerator // denominator)


class Peaks(Protocol):
    """Where observed peaks are looked up."""

    def of(self, workload: str) -> Mapping[str, Peak]:
        """Container -> peak, for a workload `namespace/Kind/name`."""


class NoPeaks:
    """Without agents nothing is observed."""

    def of(self, workload: str) -> Mapping[str, Peak]:  # noqa: ARG002  of no workload
        """Nothing."""
        return {}
