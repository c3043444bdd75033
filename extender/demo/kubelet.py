"""Which piece of which GPU each bound pod holds: kubelet and device plugin, in a few lines.

A pod gets the first free piece of what it asks for. The real device plugin chooses among equal
slices arbitrarily; neither the scheduler nor we can tell it which.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from extender.core.pod import containers, extended_ask
from extender.demo.hardware import Gpu
from extender.demo.store import NODES, PODS, Event, Key, Verb, key_of


class Spot(NamedTuple):
    """One piece of one GPU, by position."""

    node: str
    gpu: int
    piece: int


class Kubelets:
    """The kubelets of all nodes. Listens to the store.

    Args:
        gpus: every GPU of the cluster.
    """

    def __init__(self, gpus: Iterable[Gpu]) -> None:
        self.gpus = tuple(gpus)
        self.held: dict[Spot, Key] = {}
        """Piece -> the pod that holds it."""

    def take(self, event: Event) -> None:
        """Give a pod its pieces when it is bound, take them back when it is gone."""
        if event.resource == NODES and event.verb is Verb.DELETED:
            gone = event.object["metadata"]["name"]
            self.held = {spot: pod for spot, pod in self.held.items() if spot.node != gone}
        if event.resource != PODS:
            return
        key = key_of(event.object)
        running = event.verb is not Verb.DELETED and not _ended(event.object)
        if not running:
            self.held = {spot: pod for spot, pod in self.held.items() if pod != key}
        elif event.object["spec"].get("nodeName") and key not in self.held.values():
            self._allocate(key, event.object)

    def _allocate(self, key: Key, pod: Mapping[str, Any]) -> None:
        node = pod["spec"]["nodeName"]
        listed = containers(pod)
        left: dict[str, int] = {}
        for gpu in self.gpus:
            if gpu.node != node:
                continue
            for position, piece in enumerate(gpu.pieces):
                wanted = left.setdefault(piece.resource, extended_ask(listed, piece.resource))
                spot = Spot(node, gpu.index, position)
                if wanted > 0 and spot not in self.held:
                    self.held[spot] = key
                    left[piece.resource] = wanted - 1


def _ended(pod: Mapping[str, Any]) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
