"""The cluster as we know it: watch events in, snapshots out.

Everything here runs on one event loop and is changed in place; a snapshot is a view, valid until the
next event. Bound pods are kept as what they hold, waiting ones as what they ask for.
"""

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import msgspec
from cachetools import TLRUCache

from extender.cluster.objects import NamespaceObject, NodeObject, PodObject
from extender.cluster.reading import read_node, read_pod, read_pool
from extender.core.capacity import Capacity, Demand, Holding
from extender.core.decision import Decision
from extender.core.policy import Policy
from extender.core.rewrite import DECISION_ANNOTATION
from extender.core.score import Ranking
from extender.core.snapshot import Reservations, Snapshot

T = TypeVar("T")

MOST_RESERVATIONS = 10_000
"""More in flight than this, and the oldest are given up: pods are then packed a little too densely
for a moment, which costs a pending pod, not memory without bound."""


class Held(Generic[T]):
    """The objects of one kind: a `Sink` for a watch.

    Args:
        put: called with every object that is new or changed.
        drop: called with the key of every object that is gone.
        key: what tells two objects of the kind apart.
    """

    def __init__(
        self, put: Callable[[T], None], drop: Callable[[str], None], key: Callable[[T], str]
    ) -> None:
        self._put, self._drop, self._key = put, drop, key
        self._keys: set[str] = set()
        self._unseen: set[str] = set()
        self.synced = False
        """A full list has arrived at least once."""
        self.heard_at_s: float | None = None

    def listing(self) -> None:
        """A full list begins; a list that broke off half-way is forgotten."""
        self._unseen = set(self._keys)

    def upsert(self, item: T) -> None:
        """An object is there, in this version."""
        key = self._key(item)
        self._keys.add(key)
        self._unseen.discard(key)
        self._put(item)

    def remove(self, item: T) -> None:
        """An object is gone."""
        self._forget(self._key(item))

    def _forget(self, key: str) -> None:
        if key in self._keys:
            self._keys.remove(key)
            self._drop(key)

    def listed(self) -> None:
        """The list is complete: what it did not name is gone."""
        for key in self._unseen:
            self._forget(key)
        self._unseen = set()
        self.synced = True

    def heard(self, now_s: float) -> None:
        """An event or a bookmark arrived."""
        self.heard_at_s = now_s


class _Mark(msgspec.Struct):
    """Of our annotation on a pod, what ends a reservation."""

    id: str = ""


_marks = msgspec.json.Decoder(_Mark)


class State:
    """Nodes, pods and namespaces; what is promised to pods on their way; the ranking of nodes."""

    def __init__(self, policy: Policy, clock: Callable[[], float]) -> None:
        self.policy = policy
        self._clock = clock
        self._now_s = clock()
        """Time as the reservations see it: it stands still but in `_expire`, so that none of them
        ends unnoticed inside the cache."""
        self.capacity = Capacity()
        self.ranking = Ranking(self.capacity)
        self.pools = Capacity()
        self.nodes: Held[NodeObject] = Held(
            self._put_node, self._drop_node, lambda item: item.metadata.name
        )
        self.pods: Held[PodObject] = Held(
            self._put_pod, self._drop_pod, lambda item: item.metadata.uid
        )
        self.namespaces: Held[NamespaceObject] = Held(
            self._put_namespace, self._drop_namespace, lambda item: item.metadata.name
        )
        self._node_objects: dict[str, NodeObject] = {}
        self._pods: dict[str, Holding | Demand] = {}
        self._namespaces: dict[str, dict[str, str]] = {}
        self._reservations = Reservations()
        self._in_flight: TLRUCache[str, Decision] = TLRUCache(
            MOST_RESERVATIONS, ttu=self._until, timer=lambda: self._now_s
        )
        self._set_pools()

    # --- configuration ---------------------------------------------------------------------------

    def set_policy(self, policy: Policy) -> None:
        """A new configuration: what was read under the old one is read again."""
        old, self.policy = self.policy, policy
        self._set_pools()
        if (policy.gpu_resource, policy.usable_mib) != (old.gpu_resource, old.usable_mib):
            for item in self._node_objects.values():
                self.capacity.put_node(read_node(item, policy))

    def _set_pools(self) -> None:
        self.pools = Capacity()
        for pool in self.policy.pools:
            self.pools.put_node(read_pool(pool, self.policy))

    # --- events ----------------------------------------------------------------------------------

    def _put_node(self, item: NodeObject) -> None:
        self._node_objects[item.metadata.name] = item
        node = read_node(item, self.policy)
        if node != self.capacity.index.get(node.name):
            self.capacity.put_node(node)

    def _drop_node(self, name: str) -> None:
        del self._node_objects[name]
        self.capacity.drop_node(name)

    def _put_pod(self, item: PodObject) -> None:
        uid = item.metadata.uid
        if len(self._in_flight):
            self._arrived(item)
        record = read_pod(item, self.policy)
        old = self._pods.get(uid)
        if record == old:
            return
        self._release(old)
        if record is None:
            self._pods.pop(uid, None)
            return
        self._pods[uid] = record
        if isinstance(record, Holding):
            self.capacity.hold(record)
        else:
            self.capacity.wait(record)

    def _drop_pod(self, uid: str) -> None:
        self._release(self._pods.pop(uid, None))

    def _release(self, record: Holding | Demand | None) -> None:
        if isinstance(record, Holding):
            self.capacity.release(record)
        elif record is not None:
            self.capacity.stop_waiting(record)

    def _put_namespace(self, item: NamespaceObject) -> None:
        self._namespaces[item.metadata.name] = item.metadata.labels or {}

    def _drop_namespace(self, name: str) -> None:
        del self._namespaces[name]

    # --- reservations ----------------------------------------------------------------------------

    def _until(self, _key: str, _decision: Decision, now_s: float) -> float:
        return now_s + self.policy.reservation_ttl_s

    def reserve(self, decision: Decision) -> None:
        """Keep what a decision promised, until the pod shows up in the watch or the time is out."""
        if not decision.claims or not decision.id:
            return
        self._expire()
        if len(self._in_flight) >= MOST_RESERVATIONS:
            _, oldest = self._in_flight.popitem()
            self._reservations.add(oldest.claims, oldest.nodes, -1)
        self._give_up(decision.id)
        self._in_flight[decision.id] = decision
        self._reservations.add(decision.claims, decision.nodes, 1)

    def _expire(self) -> None:
        self._now_s = self._clock()
        for _, decision in self._in_flight.expire():
            self._reservations.add(decision.claims, decision.nodes, -1)

    def _give_up(self, request_id: str) -> None:
        decision = self._in_flight.pop(request_id, None)
        if decision is not None:
            self._reservations.add(decision.claims, decision.nodes, -1)

    def _arrived(self, item: PodObject) -> None:
        mark = (item.metadata.annotations or {}).get(DECISION_ANNOTATION)
        if mark is not None:
            try:
                self._give_up(_marks.decode(mark).id)
            except (msgspec.MsgspecError, RecursionError):
                return  # somebody else's text; the reservation ends by time

    # --- snapshots -------------------------------------------------------------------------------

    @property
    def sources(self) -> tuple[Held[Any], ...]:
        """What a decision needs to have seen."""
        return (self.nodes, self.pods, self.namespaces)

    @property
    def synced(self) -> bool:
        """Every list has arrived once."""
        return all(source.synced for source in self.sources)

    def age_s(self) -> float:
        """Since the source that is silent longest was last heard of; 0 before it ever was."""
        heard = [source.heard_at_s for source in self.sources if source.heard_at_s is not None]
        return max(0.0, self._clock() - min(heard)) if heard else 0.0

    def snapshot(self) -> Snapshot:
        """The cluster for one decision, to be made before anything else happens."""
        self._expire()
        age_s = self.age_s()
        return Snapshot(
            capacity=self.capacity,
            pools=self.pools,
            namespaces=self._namespaces,
            reservations=self._reservations,
            stale=not self.synced or age_s > self.policy.stale_after_s,
            age_s=age_s,
        )

    def fill(
        self,
        *,
        nodes: Iterable[NodeObject] = (),
        pods: Iterable[PodObject] = (),
        namespaces: Iterable[NamespaceObject] = (),
    ) -> None:
        """Take a complete list of everything, as from a file; what it does not name is gone."""
        for source, items in (
            (self.nodes, nodes),
            (self.pods, pods),
            (self.namespaces, namespaces),
        ):
            _replace(source, items, self._clock())


def _replace(source: Held[Any], items: Iterable[Any], now_s: float) -> None:
    source.listing()
    for item in items:
        source.upsert(item)
    source.listed()
    source.heard(now_s)
