"""What NVML says of a node at one moment, as values. `None` anywhere means: not known."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Health(StrEnum):
    """How a GPU is, as far as it answers."""

    HEALTHY = "Healthy"
    LOST = "Lost"
    """It has fallen off the bus (XID 79) or is otherwise out of reach until the node restarts."""
    RESET_REQUIRED = "ResetRequired"
    UNREADABLE = "Unreadable"
    """It answers with another error."""
    XID_ERROR = "XidError"
    """It answers, and the driver has told of an XID that is no program's own fault; see `faults.py`."""


@dataclass(frozen=True, slots=True)
class Xid:
    """An error that the driver has told of: https://docs.nvidia.com/deploy/xid-errors/."""

    code: int
    gpu: str
    """uuid of the card."""
    gpu_instance: int | None = None
    """None: it is of the whole card, or that is not told."""
    compute_instance: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One MIG device. Its uuid is its identity: never used again, unlike ids, slots and handles."""

    uuid: str
    gpu_instance: int | None = None
    compute_instance: int | None = None
    profile: str | None = None
    """As NVML spells it: `1g.10gb+me`; `1c.3g.40gb` for a part of an instance."""
    start: int | None = None
    """First memory slice. NVML tells it to the privileged only."""
    size: int | None = None
    """Memory slices it spans."""
    memory_mib: int | None = None
    """Usable memory."""
    used_mib: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One card."""

    index: int
    minor: int | None = None
    """Number of its device file, `/dev/nvidia0`. Not always the index."""
    uuid: str | None = None
    product: str | None = None
    """As NVML names it: `NVIDIA A100-SXM4-80GB`."""
    memory_mib: int | None = None
    mig: bool | None = None
    """Whether it is in MIG mode; False also for cards that cannot be partitioned."""
    used_mib: int | None = None
    """None in MIG mode: there the slices tell."""
    health: Health = Health.HEALTHY
    slices: tuple[Slice, ...] | None = ()
    """In order of their first memory slice; None: not all of them could be read."""
    watched: bool = False
    """Whether its driver tells of XIDs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The GPUs of the node."""

    gpus: tuple[Gpu, ...] | None = None
    driver: str | None = None
    problem: str = ""
    """Why nothing is known of the GPUs, in one line."""
    xids: tuple[Xid, ...] = ()
    """What has happened since the last reading."""
    reloaded: bool = False
    """The driver was loaded anew since the last reading: what was wrong before is over."""


class Reader(Protocol):
    """Where the agent learns of the hardware. It only reads, and it never raises."""

    def read(self) -> Hardware:
        """Everything, now. May take as long as the driver does."""

    def close(self) -> None:
        """Let the driver go."""
