"""The cluster at one moment, from a file or asked for once: for `explain` and reports."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from extender.cluster.client import ApiClient, connect
from extender.cluster.errors import ApiError
from extender.cluster.gpu_nodes import newest_heartbeat_s
from extender.cluster.objects import (
    GpuNodeObject,
    LimitRangeObject,
    NamespaceObject,
    NodeObject,
    PodObject,
    ResourceQuotaObject,
)
from extender.cluster.state import State
from extender.core.policy import Policy

KINDS: Mapping[str, type[Any]] = {
    "Node": NodeObject,
    "Pod": PodObject,
    "Namespace": NamespaceObject,
    "ResourceQuota": ResourceQuotaObject,
    "LimitRange": LimitRangeObject,
    "GpuNode": GpuNodeObject,
}
PATHS = {
    "Node": "/api/v1/nodes",
    "Pod": "/api/v1/pods",
    "Namespace": "/api/v1/namespaces",
    "ResourceQuota": "/api/v1/resourcequotas",
    "LimitRange": "/api/v1/limitranges",
    "GpuNode": "/apis/migfit.io/v1alpha1/gpunodes",
}
OPTIONAL = frozenset({"GpuNode"})
"""Kinds that a cluster may not have, or not show to everybody."""
PAGE_ITEMS = 500


def inventory(
    items: Iterable[Mapping[str, Any]], policy: Policy, clock: Callable[[], float]
) -> State:
    """A state filled from plain objects; Lists are looked into, other kinds passed over.

    Raises:
        msgspec.ValidationError: an object of a kind we read has another shape.
    """
    found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for item in _flat(items):
        kind = str(item.get("kind"))
        if kind in KINDS:
            found[kind].append(msgspec.convert(item, KINDS[kind]))
    # Of a list that was kept, the time is that of its newest heartbeat.
    now_s = newest_heartbeat_s(found["GpuNode"])
    state = State(policy, clock, lambda: now_s)
    state.fill(
        nodes=found["Node"],
        pods=found["Pod"],
        namespaces=found["Namespace"],
        quotas=found["ResourceQuota"],
        limits=found["LimitRange"],
        gpu_nodes=found["GpuNode"],
    )
    return state


def _flat(items: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    for item in items:
        if str(item.get("kind")).endswith("List"):
            yield from _flat(item.get("items") or ())
        else:
            yield item


async def ask(kubeconfig: Path | None) -> list[dict[str, Any]]:
    """Every object of the kinds we read, as the API server has them now.

    Raises:
        ClusterError: it cannot be asked.
    """
    async with connect(kubeconfig) as client:
        lists = await asyncio.gather(*(_list(client, kind) for kind in KINDS))
    return [item for items in lists for item in items]


async def _list(client: ApiClient, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    token = ""
    while True:
        params = {"limit": str(PAGE_ITEMS), **({"continue": token} if token else {})}
        try:
            page = msgspec.json.decode(await client.get(PATHS[kind], params))
        except ApiError as error:
            if kind in OPTIONAL and error.status in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}:
                return []
            raise
        found += [{**item, "kind": kind} for item in page.get("items") or ()]
        token = page["metadata"].get("continue", "")
        if not token:
            return found
