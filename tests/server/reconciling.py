"""The reconciler in this process before an API server for a few objects, and time that is moved."""

from __future__ import annotations

import asyncio
import copy
import json
import math
from typing import TYPE_CHECKING, Any

import msgspec

from extender.cluster.errors import ApiError
from extender.cluster.holds import CONFIG_MAP
from extender.cluster.objects import ConfigMapObject
from extender.cluster.statuses import RewrittenPod
from extender.core.policy import Backoff, Policy, WhenFull
from extender.server.metrics import Metrics
from extender.server.reconciler import Reconciler
from tests.build import Clock, node, state
from tests.cluster.rewritten_pods import BEGAN_S, EPOCH_S, rewritten, status
from tests.cluster.shelf import Shelf

if TYPE_CHECKING:
    from tests.build import JSON

HOLDS = f"/api/v1/namespaces/ours/configmaps/{CONFIG_MAP}"
WINDOW_S = 600.0
WAIT = (WhenFull.WAIT,)


class World:
    """A cluster, and a replica that may be replaced by another."""

    def __init__(self, **policy: Any) -> None:
        self.backoff = Backoff(window_s=WINDOW_S, hold_s=3600.0, pending_s=60.0)
        fixed = {"backoff": self.backoff, "revision": "0123456789ab", **policy}
        self.policy = Policy(when_full=WAIT, **fixed)
        self.clock, self.shelf = Clock(), Shelf()
        self.ahead_s = 0.0
        """By how much somebody has stepped the time of day."""
        self.pods: dict[str, JSON] = {}
        self.lines: list[JSON] = []
        self.start()

    def wall(self) -> float:
        """The time of day."""
        return EPOCH_S + self.clock.now_s - BEGAN_S + self.ahead_s

    def start(self) -> None:
        """A new process: it has to learn everything anew."""
        self.cluster = state(node(whole=9, slices={}), policy=self.policy)
        self.metrics = Metrics()
        self.replica = Reconciler(
            self.shelf.client,
            "ours",
            self.cluster,
            self.metrics,
            lambda fields: self.lines.append(json.loads(json.dumps(fields))),
            clock=self.clock,
            wall=self.wall,
        )
        self.replica.rewritten.pods.fill(
            [msgspec.convert(each, RewrittenPod) for each in self.pods.values()], 0.0
        )
        self.replica.holds.listing()
        self.watch_holds()
        self.replica.holds.listed()

    def watch_holds(self) -> None:
        """The watch tells of the ConfigMap as it is now."""
        known = self.shelf.objects.get(HOLDS)
        if known is not None:
            known["metadata"]["name"] = CONFIG_MAP
            self.replica.holds.upsert(msgspec.convert(known, ConfigMapObject))

    def lift(self, entry: str) -> None:
        """Somebody removes an entry of the holds."""
        self.shelf.change(HOLDS, {"data": {entry: None}})
        self.watch_holds()

    def refuse_to_delete(self, status_: int, name: str = "", times: float = math.inf) -> list[str]:
        """Let deletions, of this pod if one is named, be answered by that; what was tried."""
        tried: list[str] = []

        def refuse(method: str, path: str, _body: bytes) -> None:
            if method == "DELETE" and path.endswith(name) and len(tried) < times:
                tried.append(path)
                raise ApiError(status_)

        self.shelf.before = refuse
        return tried

    def see(self, tree: JSON) -> None:
        """A pod is there, in this state."""
        name = tree["metadata"]["name"]
        version = int(self.pods.get(name, tree)["metadata"]["resourceVersion"]) + 1
        tree = copy.deepcopy(tree)
        tree["metadata"]["resourceVersion"] = str(version)
        self.pods[name] = tree
        self.replica.rewritten.pods.upsert(msgspec.convert(tree, RewrittenPod))

    def lose(self, name: str) -> None:
        """A pod is gone."""
        tree = msgspec.convert(self.pods.pop(name), RewrittenPod)
        self.replica.rewritten.pods.remove(tree)

    async def rounds(self, count: int, every_s: float = 1.0) -> None:
        """So many rounds, with the Lease renewed in between."""
        for _ in range(count):
            self.clock.now_s += every_s
            await self.replica.leadership.look()
            await self.replica.round()
            await asyncio.sleep(0)

    @property
    def held(self) -> dict[str, str]:
        """Workload -> cause, of the holds that are written."""
        data = self.shelf.objects.get(HOLDS, {}).get("data", {})
        found = [json.loads(value) for value in data.values()]
        return {f"{each['kind']}/{each['name']}": each["cause"] for each in found}

    @property
    def deleted(self) -> list[str]:
        """Names of the pods deleted."""
        return [path.rpartition("/")[2] for path, _ in self.shelf.deletions]

    def counted(self, name: str, **labels: str) -> float:
        """A sample, 0 if there is none."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def crashed(restarts: int = 3, name: str = "asr-1", owner: str = "Deployment") -> JSON:
    statuses = [status(restarts, running=False, ended_s=60)]
    return rewritten(name, owner, containerStatuses=statuses)
