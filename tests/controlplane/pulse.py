"""Something changes all the time, in every kind of object that a decision needs."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Self

from extender.cluster.holds import CONFIG_MAP
from tests.controlplane.client import ApiError
from tests.controlplane.migfit import SYSTEM_NAMESPACE
from tests.controlplane.objects import new_namespace

if TYPE_CHECKING:
    from tests.controlplane.client import JSON
    from tests.controlplane.plane import ControlPlane

EVERY_S = 0.5
NAMESPACE = "pulse"


class Pulse:
    """An API server is otherwise silent for a minute where nothing happens: too long for a short test.

    An asynchronous context manager.
    """

    def __init__(self, plane: ControlPlane, node: str) -> None:
        self._client = plane.client
        self._objects = (
            ("Node", node, ""),
            ("Namespace", NAMESPACE, ""),
            ("ResourceQuota", NAMESPACE, NAMESPACE),
            ("LimitRange", NAMESPACE, NAMESPACE),
            ("Pod", NAMESPACE, NAMESPACE),
            ("ConfigMap", CONFIG_MAP, SYSTEM_NAMESPACE),
        )

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._create)
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Nothing changes any more."""
        self._running.cancel()
        await asyncio.wait([self._running])

    def _create(self) -> None:
        new_namespace(self._client, name=NAMESPACE)
        meta = {"name": NAMESPACE, "namespace": NAMESPACE}
        holds = {"name": CONFIG_MAP, "namespace": SYSTEM_NAMESPACE}
        self._client.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": holds})
        specs: dict[str, JSON] = {
            "ResourceQuota": {"hard": {"configmaps": "100"}},
            "LimitRange": {"limits": []},
            "Pod": {"containers": [{"name": "main", "image": "registry.invalid/none:1"}]},
        }
        for kind, spec in specs.items():
            self._client.create({"apiVersion": "v1", "kind": kind, "metadata": meta, "spec": spec})

    async def _run(self) -> None:
        for beat in count():
            change = {"metadata": {"annotations": {"beat": str(beat)}}}
            for kind, name, namespace in self._objects:
                with suppress(ApiError, OSError):
                    await asyncio.to_thread(self._client.patch, kind, name, change, namespace)
            await asyncio.sleep(EVERY_S)
