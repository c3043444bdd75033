"""The cluster as we know it: watch events in, snapshots out.

Everything here runs on one event loop and is changed in place; a snapshot is a view, valid until the
next event. Bound pods are kept as what they hold, waiting ones as what they ask for; of pods without
GPUs nothing else is kept.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec

from extender.cluster.given_back import GivenBack
from extender.cluster.gpu_nodes import GpuNodes
from extender.cluster.held import Held
from extender.cluster.in_flight import InFlight
from extender.cluster.objects import (
    GpuNodeObject,
    LimitRangeObject,
    NamespaceObject,
    NodeObject,
    PodObject,
    ResourceQuotaObject,
)
from extender.cluster.reading import (
    Counted,
    asks_for_devices,
    lean_node,
    read_node,
    read_pod,
    read_pool,
    read_share,
)
from extender.cluster.seen_pods import SeenPods
from extender.cluster.tenants import Tenants
from extender.core.capacity import Capacity, Demand, Holding
from extender.core.decision import Decision, Promise
from extender.core.policy import Policy
from extender.core.score import Ranking
from extender.core.snapshot import Reservations, Snapshot

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(PodObject).decode


class DevicePods(Protocol):
    """Somebody who wants to know which pods with devices there are."""

    def seen(self, uid: str, item: PodObject) -> None:
        """This is how the pod is now; it may be the same as before."""

    def gone(self, uid: str) -> None:
        """The pod has ended or is gone."""


class Source(Protocol):
    """Something that a watch keeps up to date."""

    synced: bool
    """A full list has arrived at least once."""
    heard_at_s: float | None
    """When the API server was last heard, by the clock of the state."""


class State:
    """Nodes, pods and namespaces; what is promised to pods on their way; the ranking of nodes."""

    def __init__(
        self,
        policy: Policy,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.policy = policy
        self._clock = clock
        self.capacity = Capacity()
        self.ranking = Ranking(self.capacity)
        self.scheduler_alive: Callable[[], bool] = lambda: True
        """Whether the scheduler of `inject.schedulerName` has renewed its Lease lately."""
        self.held: Mapping[tuple[str, str], float] = {}
        """Workloads held back; see `Snapshot`."""
        self.holds: Source | None = None
        """What keeps `held` up to date, if anything does. While it is silent nothing is decided: a
        workload that was held back since must not get a slice. But we are `synced` without it, and say
        so in every answer."""
        self.device_pods: DevicePods | None = None
        """Is told of pods with devices, if set."""
        self.pools = Capacity()
        self.tenants = Tenants(policy)
        self.nodes: Held[NodeObject] = Held(
            self._put_node, self._drop_node, lambda item: item.metadata.name
        )
        self.pods: Held[PodObject] = Held(self._put_pod, self._drop_pod, _pod_key)
        self.seen_pods = SeenPods()
        self.gpu_nodes = GpuNodes(self._seen_anew, self.seen_pods, clock, wall)
        self._node_objects: dict[str, NodeObject] = {}
        self._device_pods: dict[str, bytes] = {}
        """Pods with any device, by uid, packed: read again when the GPU resource changes."""
        self._pods: dict[str, Holding | Demand] = {}
        self._counted: dict[str, tuple[str, Counted]] = {}
        """uid -> namespace, and how the pod counts there."""
        self._given_back = GivenBack()
        self._reservations = Reservations()
        self.in_flight = InFlight(lambda: self.policy.reservation_ttl_s, clock, self._unreserve)
        tenants = self.tenants
        self._sources: tuple[Held[Any], ...] = (
            self.nodes,
            self.pods,
            tenants.namespaces,
            tenants.quotas,
            tenants.limits,
        )
        """What a decision needs to have seen."""
        self._set_pools()

    # --- configuration ---------------------------------------------------------------------------

    def set_policy(self, policy: Policy) -> None:
        """A new configuration: what was read under the old one is read again."""
        old, self.policy = self.policy, policy
        self._set_pools()
        if (policy.gpu_resource, policy.usable_mib) == (old.gpu_resource, old.usable_mib):
            return
        for node in list(self._node_objects.values()):
            self._read_node(node)
        if policy.gpu_resource == old.gpu_resource:
            return
        self.tenants.set_policy(policy)
        for packed in list(self._device_pods.values()):
            self._put_pod(_unpack(packed))

    def _set_pools(self) -> None:
        self.pools = Capacity()
        for pool in self.policy.pools:
            self.pools.put_node(read_pool(pool, self.policy))

    # --- events ----------------------------------------------------------------------------------

    def _put_node(self, item: NodeObject) -> None:
        old = self._node_objects.get(item.metadata.name)
        if old is not None and (
            old.metadata.labels == (item.metadata.labels or {})
            and old.status.allocatable == (item.status.allocatable or {})
            and old.spec == item.spec
        ):
            return  # a node says every few minutes that it is still as it was
        lean = lean_node(item)
        self._node_objects[lean.metadata.name] = lean
        self._read_node(lean)

    def _read_node(self, item: NodeObject) -> None:
        node = read_node(item, self.policy, self.gpu_nodes.seen(item.metadata.name))
        if node != self.capacity.index.get(node.name):
            self.capacity.put_node(node)

    def _seen_anew(self, name: str) -> None:
        """A node's agent tells something else, or fell silent."""
        if (node := self._node_objects.get(name)) is not None:
            self._read_node(node)

    def _drop_node(self, name: str) -> None:
        del self._node_objects[name]
        self.capacity.drop_node(name)

    def _put_pod(self, item: PodObject) -> None:
        uid = _pod_key(item)
        self.in_flight.arrived(item)
        if asks_for_devices(item):
            self._device_pods[uid] = _pack(item)
            counted = read_share(item, self.policy)
            self._count(uid, item.metadata.namespace, counted)
            if counted is not None and counted[0].rewritten and item.spec.node_name:
                self._given_back.put(uid, item.spec.node_name, counted[1])
            else:
                self._given_back.drop(uid)
            if self.device_pods is not None:
                self.device_pods.seen(uid, item)
        record = read_pod(item, self.policy)
        if isinstance(record, Holding) and record.gpus:
            meta = item.metadata
            self.seen_pods.put(uid, record.workload, meta.namespace, meta.name)
        else:
            self.seen_pods.drop(uid)
        self._record(uid, record)

    def _drop_pod(self, uid: str) -> None:
        if self._device_pods.pop(uid, None) is not None and self.device_pods is not None:
            self.device_pods.gone(uid)
        self._given_back.drop(uid)
        self._count(uid, "", None)
        self.seen_pods.drop(uid)
        self._record(uid, None)

    def _record(self, uid: str, record: Holding | Demand | None) -> None:
        old = self._pods.get(uid)
        if record == old:
            return
        if isinstance(old, Holding):
            self.capacity.release(old)
        elif old is not None:
            self.capacity.stop_waiting(old)
        if record is None:
            del self._pods[uid]
            return
        self._pods[uid] = record
        if isinstance(record, Holding):
            self.capacity.hold(record)
        else:
            self.capacity.wait(record)

    def _count(self, uid: str, namespace: str, counted: Counted | None) -> None:
        if (old := self._counted.pop(uid, None)) is not None:
            self.tenants.count(*old, -1)
        if counted is not None:
            self._counted[uid] = (namespace, counted)
            self.tenants.count(namespace, counted, 1)

    # --- reservations ----------------------------------------------------------------------------

    def reserve(self, decision: Decision) -> None:
        """Keep what a decision promised, until the pod shows up in the watch or the time is out."""
        if decision.claims and decision.id:
            promise = decision.promise
            self.in_flight.add(promise)
            self._reserve(promise, 1)

    def _unreserve(self, promise: Promise) -> None:
        self._reserve(promise, -1)

    def _reserve(self, promise: Promise, sign: int) -> None:
        claims = tuple(promise.claims.items())
        self._reservations.add(promise.claims, promise.nodes, sign)
        self.tenants.count(promise.namespace, (promise.share, claims), sign)

    # --- snapshots -------------------------------------------------------------------------------

    @property
    def synced(self) -> bool:
        """Every list has arrived once."""
        return all(source.synced for source in self._sources)

    def age_s(self) -> float:
        """Since the source that is silent longest was last heard of; 0 before it ever was."""
        sources = self._sources if self.holds is None else (*self._sources, self.holds)
        heard = [at_s for source in sources if (at_s := source.heard_at_s) is not None]
        return max(0.0, self._clock() - min(heard)) if heard else 0.0

    def given_back_bytes(self) -> int:
        """GPU memory that rewritten pods do not hold, against a whole card each."""
        return self._given_back.total_bytes(self.capacity.index.get, self.policy.usable_mib)

    def snapshot(self) -> Snapshot:
        """The cluster for one decision, to be made before anything else happens."""
        self.in_flight.expire()
        age_s = self.age_s()
        listed = self.synced and (self.holds is None or self.holds.synced)
        return Snapshot(
            capacity=self.capacity,
            ranking=self.ranking,
            pools=self.pools,
            namespaces=self.tenants.by_name,
            reservations=self._reservations,
            in_flight=self.in_flight.by_id,
            held=self.held,
            scheduler_alive=self.scheduler_alive(),
            observed=self.seen_pods,
            stale=not listed or age_s > self.policy.stale_after_s,
            age_s=age_s,
        )

    def fill(
        self,
        *,
        nodes: Iterable[NodeObject] = (),
        pods: Iterable[PodObject] = (),
        namespaces: Iterable[NamespaceObject] = (),
        quotas: Iterable[ResourceQuotaObject] = (),
        limits: Iterable[LimitRangeObject] = (),
        gpu_nodes: Iterable[GpuNodeObject] = (),
    ) -> None:
        """Take a complete list of everything, as from a file; what it does not name is gone."""
        now_s = self._clock()
        self.nodes.fill(nodes, now_s)
        self.pods.fill(pods, now_s)
        self.tenants.namespaces.fill(namespaces, now_s)
        self.tenants.quotas.fill(quotas, now_s)
        self.tenants.limits.fill(limits, now_s)
        self.gpu_nodes.held.fill(gpu_nodes, now_s)


def _pod_key(item: PodObject) -> str:
    """The uid; pods in files that people write have none."""
    return item.metadata.uid or f"{item.metadata.namespace}/{item.metadata.name}"
