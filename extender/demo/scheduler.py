"""kube-scheduler in small: filter, extender, score, bind, one pod at a time.

Filters: node selector, required node affinity, taints, cordon (`extender.core.reach`) and
NodeResourcesFit. Scores: the extender's, and LeastAllocated over cpu and memory behind it. Ties go
to the first name, where the real one draws lots, so that a demo comes out the same every time.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from extender.core.node import Taint, build_node
from extender.core.pod import containers, extended_ask, mapping, objects, plain_ask, text
from extender.core.quantity import milli, whole
from extender.core.reach import NodeIndex, slots
from extender.demo.extender import PREFIX, Extender
from extender.demo.hardware import GPU_RESOURCE
from extender.demo.refusal import Refused
from extender.demo.store import NODES, PODS, Event, Key, Object, Store, Verb, key_of

NAME = "default-scheduler"
_UNASKED = {"cpu": 100, "memory": 200 << 20}
"""What LeastAllocated counts for a pod that asks for nothing (`GetNonzeroRequests`)."""

Bind = Callable[[Key, str], object]


def asked(pod: Mapping[str, Any]) -> Counter[str]:
    """What a pod takes of a node: cpu in milli, bytes, counts, and one pod slot."""
    listed = containers(pod)
    plain = plain_ask(pod, listed, GPU_RESOURCE)
    amounts = Counter(
        {
            "cpu": plain.cpu_milli,
            "memory": plain.memory_bytes,
            "ephemeral-storage": plain.ephemeral_bytes,
            "pods": 1,
        }
    )
    for name in {name for c in listed for name in (*c.limits, *c.requests) if "/" in name}:
        amounts[name] = extended_ask(listed, name)
    return amounts


def offered(node: Object) -> Counter[str]:
    """What a node has allocatable, in the same units."""
    resources = mapping(mapping(node.get("status")).get("allocatable"))
    return Counter({n: milli(q) if n == "cpu" else whole(q) for n, q in resources.items()})


def least_allocated(wanted: Mapping[str, int], used: Counter[str], room: Counter[str]) -> int:
    """0..100, more for emptier nodes (plugin NodeResourcesFit, strategy LeastAllocated)."""
    total = 0
    for name, unasked in _UNASKED.items():
        after = used[name] + (wanted.get(name) or unasked)
        if room[name]:
            total += max(0, (room[name] - after) * 100 // room[name])
    return total // len(_UNASKED)


class Scheduler:
    """Binds pending pods of `default-scheduler`. Listens to the store.

    Args:
        store: where nodes and pods are.
        bind: puts a pod on a node.
    """

    def __init__(self, store: Store, bind: Bind) -> None:
        self.extender: Extender | None = None
        """Asked about every pod with a GPU; None: there is none."""
        self._store = store
        self._bind = bind
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def take(self, event: Event) -> None:
        """Look again when a pod comes or goes, or a node changes."""
        if event.resource == NODES or (event.resource == PODS and event.verb is not Verb.MODIFIED):
            self._wake.set()
            self._idle.clear()

    async def settled(self) -> None:
        """Wait until every pending pod has been tried since the last change."""
        await self._idle.wait()

    async def run(self) -> None:
        """Schedule until cancelled, oldest pod first."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                pending = [pod for pod in self._store.objects(PODS) if _pending(pod)]
                for pod in sorted(pending, key=lambda p: int(p["metadata"]["resourceVersion"])):
                    await self._try(pod)
                if not self._wake.is_set():
                    self._idle.set()
        finally:
            self._idle.set()  # whoever waits for us must not wait for ever

    async def _try(self, pod: Object) -> None:
        node, why = await self._choose(pod)
        try:
            if node:
                self._bind(key_of(pod), node)
            else:
                condition = {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": why,
                }
                status = {**pod["status"], "conditions": [condition]}
                self._store.replace(PODS, key_of(pod), {**pod, "status": status})
        except Refused:
            return  # deleted or changed meanwhile; its event woke us already

    async def _choose(self, pod: Object) -> tuple[str, str]:
        """The best node, or why there is none."""
        nodes = {node["metadata"]["name"]: node for node in self._store.objects(NODES)}
        used = self._used()
        reachable = self._reachable(pod, nodes)
        failed: Counter[str] = Counter()
        if strange := len(nodes) - len(reachable):
            failed["node(s) didn't match the pod's selector, affinity or tolerations"] = strange
        wanted, fitting = asked(pod), []
        for name in reachable:
            room = offered(nodes[name])
            short = [
                "Too many pods" if r == "pods" else f"Insufficient {r}"
                for r, amount in wanted.items()
                if amount and used[name][r] + amount > room[r]
            ]
            failed.update(short)
            if not short:
                fitting.append(name)
        scores: Mapping[str, int] = {}
        if self.extender and fitting and any(r.startswith(PREFIX) for r in wanted):
            fitting, refused = await self.extender.filter(pod, fitting)
            failed.update(refused.values())
            if len(fitting) > 1:
                scores = await self.extender.prioritize(pod, fitting)
        if not fitting:
            reasons = ", ".join(sorted(f"{count} {reason}" for reason, count in failed.items()))
            return "", f"0/{len(nodes)} nodes are available: {reasons}."

        def points(name: str) -> int:
            own = least_allocated(wanted, used[name], offered(nodes[name]))
            return scores.get(name, 0) + own

        return max(sorted(fitting), key=points), ""

    def _used(self) -> dict[str, Counter[str]]:
        """Node -> what its pods take."""
        used: dict[str, Counter[str]] = {
            node["metadata"]["name"]: Counter() for node in self._store.objects(NODES)
        }
        for pod in self._store.objects(PODS):
            node = pod["spec"].get("nodeName")
            if node in used and pod["status"].get("phase") not in ("Succeeded", "Failed"):
                used[node].update(asked(pod))
        return used

    def _reachable(self, pod: Object, nodes: Mapping[str, Object]) -> list[str]:
        index = NodeIndex()
        for name, node in nodes.items():
            spec = mapping(node.get("spec"))
            index.put(
                build_node(
                    name,
                    labels=mapping(node["metadata"].get("labels")),
                    gpus={},
                    overrides={},
                    taints=tuple(
                        Taint(text(t.get("key")), text(t.get("value")), text(t.get("effect")))
                        for t in objects(spec.get("taints"))
                        if t.get("effect") != "PreferNoSchedule"
                    ),
                    cordoned=spec.get("unschedulable") is True,
                )
            )
        found = (index.nodes[slot] for slot in slots(index.reach(pod["spec"])))
        return [node.name for node in found if node]


def _pending(pod: Object) -> bool:
    spec = pod["spec"]
    return (
        not spec.get("nodeName")
        and spec.get("schedulerName") == NAME
        and pod["status"].get("phase") == "Pending"
        and not spec.get("schedulingGates")
    )
