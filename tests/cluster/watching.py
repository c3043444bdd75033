"""A smallest object, a sink that remembers, and a machine to try, for the tests of watching."""

import json
from random import Random
from typing import Any

import msgspec

from extender.cluster.machine import Action, Machine, Pace, Watch
from extender.cluster.watch import Resource


class ThingMetadata(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class Thing(msgspec.Struct):
    metadata: ThingMetadata
    size: int = 0


PACE = Pace()
THINGS = Resource("things", "/apis/example.io/v1/things", Thing, {"labelSelector": "a=b"})


def thing(name: str, version: int, **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "n", "resourceVersion": str(version)}
    return {"kind": "Thing", "metadata": metadata, **more}


def event(kind: str, item: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode()


def bookmark(version: int) -> bytes:
    return event("BOOKMARK", {"kind": "Thing", "metadata": {"resourceVersion": str(version)}})


def error(code: int, **more: Any) -> bytes:
    return event("ERROR", {"kind": "Status", "metadata": {}, "code": code, **more})


def page(version: int, items: list[dict[str, Any]], token: str = "") -> bytes:
    metadata = {"resourceVersion": str(version)} | ({"continue": token} if token else {})
    return json.dumps({"kind": "ThingList", "metadata": metadata, "items": items}).encode()


class Mirror:
    """A sink that holds name -> version, and refuses things of size 13."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.lists = 0
        self.heard_at_s: list[float] = []
        self._listed: set[str] = set()

    def listing(self) -> None:
        self._listed = set()

    def upsert(self, item: Thing) -> None:
        if item.size == 13:
            raise LookupError("a poisonous thing")
        self.held[item.metadata.name] = item.metadata.resource_version
        self._listed.add(item.metadata.name)

    def remove(self, item: Thing) -> None:
        self.held.pop(item.metadata.name, None)

    def listed(self) -> None:
        self.lists += 1
        self.held = {name: self.held[name] for name in self.held if name in self._listed}

    def heard(self, now_s: float) -> None:
        self.heard_at_s.append(now_s)


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Bench:
    """A machine, its sink and its clock."""

    def __init__(self, seed: int = 1) -> None:
        self.clock = Clock()
        self.mirror = Mirror()
        self.machine: Machine[Thing] = Machine(
            THINGS, self.mirror, clock=self.clock, rng=Random(seed), pace=PACE
        )
        self.machine.begin()

    def page(self, body: bytes) -> Action:
        opened = self.machine.open_page(body)
        for item in opened.items or ():
            self.machine.take(item)
        return self.machine.close_page(opened)

    def watching(self, version: int = 5) -> "Bench":
        """List one thing at that version and open the watch."""
        assert isinstance(self.page(page(version, [thing("a", 3)])), Watch)
        self.machine.opened()
        return self

    def later(self, seconds: float) -> "Bench":
        self.clock.now_s += seconds
        return self
