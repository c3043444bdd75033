"""Who was given which device, as the kubelet tells it. Values only."""

from dataclasses import dataclass, field
from enum import StrEnum

RESOURCES = "nvidia.com/"
"""Prefix of the resources that NVIDIA's device plugin and Google's own serve."""
DRA_DRIVER = "gpu.nvidia.com"
"""Driver of claims (Dynamic Resource Allocation) for NVIDIA's GPUs."""


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """A container that was given a device."""

    namespace: str
    pod: str
    container: str


@dataclass(frozen=True, slots=True)
class Assigned:
    """One device of one container. The same device may be given to several."""

    holder: Holder
    device: str
    """The id as the device plugin made it up; see `devices.py`."""


@dataclass(frozen=True, slots=True)
class Assignments:
    """All GPU devices that pods of the node hold."""

    assigned: tuple[Assigned, ...] = ()
    claims: int = 0
    """Devices held by claims: the kubelet gives no id for those, so nobody can say which GPU it is."""
    allocatable: frozenset[str] | None = None
    """Every device id that the kubelet could give, held or not; None: it does not say."""


class Silence(StrEnum):
    """Why the kubelet does not tell who holds what."""

    NO_SOCKET = "NoSocket"
    TOO_OLD = "TooOld"
    TOO_SLOW = "TooSlow"
    REFUSED = "Refused"


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing is known of holders: not that there are none."""

    reason: Silence
    message: str = field(compare=False)
