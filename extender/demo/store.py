"""The objects of the embedded cluster: what etcd and the watch cache do, without disk or socket."""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from extender.demo.refusal import Refused

Object = Mapping[str, Any]
"""A Kubernetes object as JSON. Stored ones are never changed, only replaced."""

Key = tuple[str, str]
"""(namespace, name); the namespace is empty for what has none."""


class Resource(NamedTuple):
    """One collection of the API: `("v1", "pods")`."""

    api_version: str
    plural: str


PODS = Resource("v1", "pods")
NODES = Resource("v1", "nodes")
NAMESPACES = Resource("v1", "namespaces")


class Verb(StrEnum):
    """What happened to an object, in the watch's words."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Event:
    """One change, at the resource version of its object."""

    verb: Verb
    resource: Resource
    object: Object
    before: Object | None
    """The object as it was; None for one that is new."""
    version: int


Listener = Callable[[Event], None]


class Watch:
    """The changes of one resource, in order and without gaps, until closed."""

    def __init__(self, store: "Store", resource: Resource, backlog: Iterable[Event]) -> None:
        self._store = store
        self._resource = resource
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        for event in backlog:
            self._queue.put_nowait(event)

    def offer(self, event: Event) -> None:
        """Take an event of the store; those of other resources are passed over."""
        if event.resource == self._resource:
            self._queue.put_nowait(event)

    async def next(self) -> Event | None:
        """The next event; None once the watch is closed."""
        return await self._queue.get()

    def close(self) -> None:
        """End the watch, after the events it has."""
        self._store.unsubscribe(self.offer)
        self._queue.put_nowait(None)


class Store:
    """Objects by resource and key, one version counter over all, and a bounded history.

    Args:
        history: how many events are kept for watches that start in the past.
    """

    def __init__(self, *, history: int = 10_000) -> None:
        self.version = 1
        self._objects: dict[Resource, dict[Key, Object]] = {}
        self._history: deque[Event] = deque()
        self._longest = history
        self._compacted = 0
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        """Call the listener with every event from now on, before the change is answered."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Stop calling it."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def objects(self, resource: Resource, namespace: str = "") -> list[Object]:
        """All objects of a resource, or those of one namespace, by key."""
        held = self._objects.get(resource, {})
        return [held[key] for key in sorted(held) if not namespace or key[0] == namespace]

    def get(self, resource: Resource, key: Key) -> Object:
        """One object.

        Raises:
            Refused: 404.
        """
        found = self._objects.get(resource, {}).get(key)
        if found is None:
            raise Refused.not_found(resource.plural, key[1])
        return found

    def create(self, resource: Resource, item: Object) -> Object:
        """Add an object that carries its name, and its namespace if it has one.

        Raises:
            Refused: 409, there is one of that name.
        """
        key = key_of(item)
        if key in self._objects.get(resource, {}):
            raise Refused.already_exists(resource.plural, key[1])
        return self._publish(Verb.ADDED, resource, key, item, None)

    def replace(self, resource: Resource, key: Key, item: Object) -> Object:
        """Put a new version in place of the object; uid and creation time stay.

        Raises:
            Refused: 404; or 409, the item names a version that is not the present one.
        """
        before = self.get(resource, key)
        was, now = before["metadata"], item.get("metadata", {})
        asked = now.get("resourceVersion")
        if asked and asked != was["resourceVersion"]:
            raise Refused.conflict(resource.plural, key[1])
        fixed = {k: was[k] for k in ("name", "namespace", "uid", "creationTimestamp") if k in was}
        merged = {**item, "metadata": {**now, **fixed}}
        if {**merged, "metadata": {**merged["metadata"], "resourceVersion": ""}} == {
            **before,
            "metadata": {**was, "resourceVersion": ""},
        }:
            return before  # as the API server: no change, no event
        return self._publish(Verb.MODIFIED, resource, key, merged, before)

    def delete(self, resource: Resource, key: Key, *, uid: str = "", version: str = "") -> Object:
        """Take an object away; its last state, at the version of its deletion.

        Raises:
            Refused: 404; or 409, uid or version are given and are not its own.
        """
        before = self.get(resource, key)
        meta = before["metadata"]
        if (uid and uid != meta["uid"]) or (version and version != meta["resourceVersion"]):
            raise Refused.conflict(resource.plural, key[1])
        return self._publish(Verb.DELETED, resource, key, before, before)

    def watch(self, resource: Resource, since: int | None = None) -> Watch:
        """Changes after version `since`; without it, first the present objects as added.

        Raises:
            Refused: 410, what happened after `since` is no longer known.
        """
        if since is None:
            backlog = [
                Event(Verb.ADDED, resource, item, None, int(item["metadata"]["resourceVersion"]))
                for item in self.objects(resource)
            ]
        elif since < self._compacted:
            raise Refused.expired(since, self._compacted)
        else:
            backlog = [e for e in self._history if e.version > since and e.resource == resource]
        watch = Watch(self, resource, backlog)
        self.subscribe(watch.offer)
        return watch

    def compact(self) -> None:
        """Forget the history: every watch that starts before now gets a 410."""
        self._history.clear()
        self._compacted = self.version

    def _publish(
        self, verb: Verb, resource: Resource, key: Key, item: Object, before: Object | None
    ) -> Object:
        self.version += 1
        meta = {**item["metadata"], "resourceVersion": str(self.version)}
        stored = {**item, "metadata": meta}
        held = self._objects.setdefault(resource, {})
        if verb is Verb.DELETED:
            del held[key]
        else:
            held[key] = stored
        event = Event(verb, resource, stored, before, self.version)
        self._history.append(event)
        if len(self._history) > self._longest:
            self._compacted = self._history.popleft().version
        for listener in tuple(self._listeners):
            listener(event)
        return stored


def key_of(item: Object) -> Key:
    """Namespace and name of an object."""
    meta = item["metadata"]
    return meta.get("namespace", ""), meta["name"]


def generated_name(prefix: str) -> str:
    """What the API server makes of `generateName`: five letters that spell no word."""
    return prefix + "".join(secrets.choice("bcdfghjklmnpqrstvwxz2456789") for _ in range(5))
