"""Our view of the cluster against a fresh list of the real one, through everything that happens."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from extender.cluster.watch import Pace
from tests.controlplane.client import ApiError
from tests.controlplane.followed import Noted, becomes_equal, following
from tests.controlplane.migfit import GPU, a100_labels
from tests.controlplane.objects import fake_node, gpu_pod, new_namespace

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.controlplane.client import Client
    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

SLICE = "nvidia.com/mig-2g.20gb"
PACE = Pace(backoff_cap_s=1.0)


class Happenings:
    """Random changes of a small cluster; each may fail because its object is not there."""

    def __init__(self, client: Client, namespace: str, rng: random.Random) -> None:
        self._client, self._namespace, self._rng = client, namespace, rng

    def happen(self, times: int) -> None:
        """So many of them."""
        for _ in range(times):
            action: Callable[[], None] = self._rng.choice(
                (self._add_node, self._change_node, self._drop_node)
                + (self._add_pod, self._bind_pod, self._end_pod, self._drop_pod) * 2
            )
            try:
                action()
            except ApiError as error:
                if error.status not in (404, 409, 422):
                    raise

    def _node(self) -> str:
        return f"node-{self._rng.randrange(4)}"

    def _pod(self) -> str:
        return f"pod-{self._rng.randrange(12)}"

    def _add_node(self) -> None:
        resources = {GPU: self._rng.randrange(3), SLICE: self._rng.randrange(8)}
        self._client.create(fake_node(self._node(), allocatable=resources, labels=a100_labels()))

    def _change_node(self) -> None:
        change = self._rng.choice(
            (
                {"spec": {"unschedulable": self._rng.random() < 0.5}},
                {"metadata": {"labels": {"zone": self._rng.choice("abc")}}},
                {"metadata": {"labels": {"nvidia.com/mig.config.state": "pending"}}},
                {"metadata": {"labels": {"nvidia.com/mig.config.state": "success"}}},
                {"spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}},
            )
        )
        self._client.patch("Node", self._node(), change)

    def _drop_node(self) -> None:
        self._client.delete("Node", self._node())

    def _add_pod(self) -> None:
        resource = self._rng.choice((GPU, SLICE, "cpu"))
        pod = gpu_pod(self._pod(), self._namespace, resources={resource: 1})
        self._client.create(pod)

    def _bind_pod(self) -> None:
        name = self._pod()
        target = {"apiVersion": "v1", "kind": "Node", "name": self._node()}
        path = f"{self._client.path('Pod', name, self._namespace)}/binding"
        meta = {"name": name, "namespace": self._namespace}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": meta, "target": target}
        self._client.request("POST", path, binding)

    def _end_pod(self) -> None:
        phase = self._rng.choice(("Running", "Succeeded", "Failed"))
        change = {"status": {"phase": phase}}
        self._client.patch("Pod", self._pod(), change, self._namespace, subresource="status")

    def _drop_pod(self) -> None:
        self._client.delete("Pod", self._pod(), self._namespace)


async def test_the_view_stays_equal_through_changes_and_a_forced_410(plane: ControlPlane) -> None:
    meter = Noted()
    namespace = new_namespace(plane.client)
    happenings = Happenings(plane.client, namespace, random.Random(7))
    async with following(plane.kubeconfig, meter, PACE) as state:
        for _ in range(5):
            await asyncio.to_thread(happenings.happen, 30)
            await becomes_equal(plane, state)
        assert "410" not in meter.causes

        await asyncio.to_thread(happenings.happen, 20)
        await asyncio.to_thread(plane.forget_history)
        await asyncio.to_thread(happenings.happen, 20)
        await becomes_equal(plane, state, 40.0)
        assert "410" in meter.causes, "the server has really forgotten what came before"
        assert len(state.capacity.index) > 0
