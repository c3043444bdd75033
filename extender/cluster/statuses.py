"""How rewritten pods are doing, as the kubelet and their controllers tell."""

from datetime import datetime
from typing import Any

from extender.cluster.objects import PodMetadata, PodObject, PodStatus, Wire
from extender.cluster.reading import containers_of, devices
from extender.core.catalogue import is_mig_resource
from extender.core.finding import Controller, Whose
from extender.core.pod import ContainerKind, workload_of


class Terminated(Wire, frozen=True):
    """How a container ended."""

    finished_at: datetime | None = None


class ContainerState(Wire, frozen=True):
    """One of these is set."""

    waiting: dict[str, Any] | None = None
    running: dict[str, Any] | None = None
    terminated: Terminated | None = None


class ContainerStatus(Wire, frozen=True):
    """What the kubelet says of a container."""

    name: str = ""
    restart_count: int = 0
    state: ContainerState | None = None
    last_state: ContainerState | None = None


class Condition(Wire, frozen=True):
    """One condition of a pod."""

    type: str = ""
    status: str = ""


class RewrittenStatus(PodStatus, frozen=True):
    """How the pod is doing."""

    start_time: datetime | None = None
    conditions: list[Condition] | None = None
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None


class RewrittenPod(PodObject, frozen=True):
    """A Pod that carries `migfit.io/rewritten`."""

    status: RewrittenStatus = RewrittenStatus()


def _with_slices(item: RewrittenPod) -> dict[str, ContainerKind]:
    """The containers that hold a slice."""
    return {
        container.name: kind
        for kind, container in containers_of(item)
        if container.resources is not None
        and any(map(is_mig_resource, container.resources.limits or ()))
    }


def slices(item: RewrittenPod) -> tuple[tuple[str, int], ...]:
    """MIG resource, count: what the pod asks of a node."""
    return tuple((name, count) for name, count in devices(item) if is_mig_resource(name))


def statuses(item: RewrittenPod) -> list[tuple[ContainerKind, ContainerStatus]]:
    """Of the containers that hold a slice: what others do is not our doing."""
    status, held = item.status, _with_slices(item)
    told = (*(status.init_container_statuses or ()), *(status.container_statuses or ()))
    return [(held[each.name], each) for each in told if each.name in held]


def stopped(kind: ContainerKind, status: ContainerStatus) -> bool:
    """Whether a container has restarted before and does not run now."""
    state = status.state or ContainerState()
    if not status.restart_count or state.running is not None:
        return False
    return state.terminated is None or kind is not ContainerKind.INIT


def _ends(item: RewrittenPod) -> list[datetime]:
    return [
        state.terminated.finished_at
        for _, status in statuses(item)
        for state in (status.state, status.last_state)
        if state is not None
        and state.terminated is not None
        and state.terminated.finished_at is not None
    ]


def span_s(item: RewrittenPod) -> float | None:
    """From the start of the pod to the last end of a container; by the clock of one node."""
    start, ends = item.status.start_time, _ends(item)
    return (max(ends) - start).total_seconds() if start is not None and ends else None


def ended_s(item: RewrittenPod) -> float:
    """When a failed pod ended, or at the earliest; seconds since the epoch."""
    known = [*_ends(item), *([item.status.start_time] if item.status.start_time else [])]
    return max((time.timestamp() for time in known), default=0.0)


def disrupted(item: RewrittenPod) -> bool:
    """Ended by the cluster: preempted, evicted, its node drained or shut down."""
    return any(
        each.type == "DisruptionTarget" and each.status == "True"
        for each in item.status.conditions or ()
    )


def whose(meta: PodMetadata) -> Whose:
    """A pod, and who made it."""
    owner = next((each for each in meta.owner_references or () if each.controller), None)
    controller = Controller()
    if owner is not None:
        controller = Controller(owner.api_version, owner.kind, owner.name, owner.uid)
    template_hash = (meta.labels or {}).get("pod-template-hash", "")
    workload = workload_of(controller.kind, controller.name, template_hash, meta.name)
    return Whose(meta.namespace, meta.name, meta.uid, workload, controller)
