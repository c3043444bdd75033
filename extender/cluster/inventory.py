"""The cluster at one moment, from a file or asked for once: for `explain` and reports."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from extender.cluster.client import ApiClient, Params, connect
from extender.cluster.errors import ApiError, Unreadable
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
from extender.cluster.wire import UNDECODABLE, page_decoder
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

_PAGE = page_decoder(dict[str, Any])


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
    try:
        return [
            {**item, "kind": kind} async for page in pages(client, PATHS[kind]) for item in page
        ]
    except ApiError as error:
        if kind in OPTIONAL and error.status in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}:
            return []
        raise


async def pages(
    client: ApiClient, path: str, params: Params | None = None
) -> AsyncIterator[list[dict[str, Any]]]:
    """The objects of a collection, a few hundred at a time.

    Raises:
        ClusterError: the API server says no, or nothing, or what it says is no list.
    """
    token = ""
    while True:
        more = {"continue": token} if token else {}
        body = await client.get(path, {**(params or {}), "limit": str(PAGE_ITEMS), **more})
        try:
            page = _PAGE.decode(body)
        except UNDECODABLE as error:
            raise Unreadable(f"GET {path}: this is not what the API server sends") from error
        yield page.items or []
        token = page.metadata.continue_token
        if not token:
            return
