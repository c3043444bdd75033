"""What a node's agent sees of each GPU: which slices there are, and which are held.

Labels and allocatable give totals; with these, nothing has to be guessed about who sits where. `None`
is what the agent does not know, and then the totals serve as they would without an agent.
"""

from collections.abc import Mapping
from dataclasses import dataclass

Counts = tuple[tuple[str, int], ...]
"""(MIG resource, number), by name."""


@dataclass(frozen=True, slots=True)
class SeenGpu:
    """One card."""

    pods: int
    """Pods that hold it, or a slice of it."""
    free: Counts = ()
    """Slices of it that nobody holds and that the kubelet could give."""


@dataclass(frozen=True, slots=True)
class Occupancy:
    """The cards of one node."""

    gpus: tuple[SeenGpu, ...] | None = None
    """None: of some slice it is not known whether a pod holds it."""
    held: Counts = ()
    """Slices that pods held when this was seen."""
    slices: Counts | None = None
    """All slices that the kubelet could give, held or not; None: some card could not be read."""
    usable_mib: Counts = ()
    """The least usable memory of a slice, where NVML tells it of every one of that name."""


def existing(resource: str, allocatable: int, seen: Occupancy | None) -> int:
    """How many slices there really are of those a node says it has.

    After a change of layout the old names stay in the node's status until its device plugin and its
    kubelet have been restarted; nobody can start on those.
    """
    if seen is None or seen.slices is None:
        return allocatable
    return min(allocatable, dict(seen.slices).get(resource, 0))


def gpu_costs(seen: Occupancy, used: Mapping[str, int]) -> dict[str, float]:
    """How much longer the GPU that one more pod lands on stays in use for it, in mean lifetimes.

    The device plugin takes any free slice of the name, so this is the mean over those. Pods bound since
    the agent last looked are taken to be on any free slice of their resource.

    Args:
        seen: the cards.
        used: GPU and MIG resource -> units that bound pods hold now.

    Returns:
        MIG resource with a free slice -> cost, 1 on an idle GPU.
    """
    if seen.gpus is None:
        return {}
    free: dict[str, int] = {}
    for gpu in seen.gpus:
        for resource, count in gpu.free:
            free[resource] = free.get(resource, 0) + count
    held = dict(seen.held)
    late = {r: min(n, max(0, used.get(r, 0) - held.get(r, 0))) for r, n in free.items()}
    costs: dict[str, float] = {}
    for resource, total in free.items():
        cost = 0.0
        for gpu in seen.gpus:
            mine = dict(gpu.free)
            if resource in mine:
                others = gpu.pods + sum(_late(r, n, resource, late, free) for r, n in gpu.free)
                cost += mine[resource] / total / (1 + others)
        costs[resource] = cost
    return costs


def _late(
    resource: str, here: int, wanted: str, late: Mapping[str, int], free: Mapping[str, int]
) -> float:
    """Pods of a resource, not seen yet, that one of so many free slices on one GPU may hold."""
    if resource != wanted:
        return late[resource] * here / free[resource]
    if free[resource] == 1:
        return 0.0
    return min(late[resource], free[resource] - 1) * (here - 1) / (free[resource] - 1)


def idle_share(seen: Occupancy, resource: str) -> float | None:
    """Of the free slices of a name, the share that sits on GPUs that nobody uses."""
    if seen.gpus is None:
        return None
    free = [(gpu.pods, dict(gpu.free).get(resource, 0)) for gpu in seen.gpus]
    total = sum(count for _, count in free)
    return sum(count for pods, count in free if not pods) / total if total else None
