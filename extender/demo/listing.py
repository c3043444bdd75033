"""List and watch: pages of one version, and the stream of what happens after it."""

import asyncio
import itertools
import time
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from extender.demo.refusal import Refused
from extender.demo.selectors import Predicate, selection
from extender.demo.store import Event, Object, Resource, Store, Verb, Watch

KINDS = {
    "nodes": "Node",
    "pods": "Pod",
    "namespaces": "Namespace",
    "resourcequotas": "ResourceQuota",
    "limitranges": "LimitRange",
    "configmaps": "ConfigMap",
    "events": "Event",
    "leases": "Lease",
    "services": "Service",
    "deployments": "Deployment",
    "replicasets": "ReplicaSet",
    "statefulsets": "StatefulSet",
    "daemonsets": "DaemonSet",
    "jobs": "Job",
    "cronjobs": "CronJob",
    "mutatingwebhookconfigurations": "MutatingWebhookConfiguration",
    "validatingwebhookconfigurations": "ValidatingWebhookConfiguration",
}

PAGES_KEPT = 64
"""Unfinished lists remembered; a `continue` of an older one gets a 410."""
WATCH_S = 3600.0
"""How long a watch lives unless it says so itself."""


def kind_of(resource: Resource) -> str:
    """`Pod` for pods; empty for what we do not know."""
    return KINDS.get(resource.plural, "")


class Lister:
    """Answers list and watch requests from a store.

    Args:
        store: the objects.
        bookmark_s: how often an idle watch that asked for bookmarks gets one.
    """

    def __init__(self, store: Store, *, bookmark_s: float = 10.0) -> None:
        self._store = store
        self._bookmark_s = bookmark_s
        self._pages: dict[str, tuple[int, list[Object]]] = {}
        self._tokens = itertools.count(1)

    def page(self, resource: Resource, namespace: str, query: Mapping[str, str]) -> dict[str, Any]:
        """One page: `limit` objects, or all, and the token for the rest.

        Raises:
            Refused: 400, a query that does not parse; 410, a token that is no longer known.
        """
        select = _selection(query)
        limit = _whole(query, "limit", 0)
        if token := query.get("continue", ""):
            if token not in self._pages:
                raise Refused(410, "Expired", "The provided continue parameter is too old")
            version, left = self._pages[token]
        else:
            version = self._store.version
            left = [item for item in self._store.objects(resource, namespace) if select(item)]
        meta: dict[str, Any] = {"resourceVersion": str(version)}
        if limit and len(left) > limit:
            meta["continue"] = self._remember(version, left[limit:])
            meta["remainingItemCount"] = len(left) - limit
            left = left[:limit]
        return {
            "kind": f"{kind_of(resource)}List",
            "apiVersion": resource.api_version,
            "metadata": meta,
            "items": [_without_type(item) for item in left],
        }

    def _remember(self, version: int, rest: list[Object]) -> str:
        token = f"page-{next(self._tokens)}"
        self._pages[token] = (version, rest)
        if len(self._pages) > PAGES_KEPT:
            del self._pages[next(iter(self._pages))]
        return token

    async def stream(
        self, request: web.Request, resource: Resource, namespace: str
    ) -> web.StreamResponse:
        """Send events until the client leaves, the time is over or the store closes the watch."""
        query = request.query
        select = _selection(query)
        since = _whole(query, "resourceVersion", 0)
        deadline = time.monotonic() + (_whole(query, "timeoutSeconds", 0) or WATCH_S)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            watch = self._store.watch(resource, since or None)
        except Refused as gone:  # the watch cache answers 200 and says it in the stream
            await response.write(_line("ERROR", gone.status()))
            return response
        try:
            bookmarks = query.get("allowWatchBookmarks") in ("true", "1")
            while (left := deadline - time.monotonic()) > 0:
                line = await self._next_line(
                    watch, resource, namespace, select, min(left, self._bookmark_s)
                )
                if line is None:
                    break
                if line or bookmarks:
                    await response.write(line or self._bookmark(resource))
        finally:
            watch.close()
        return response

    async def _next_line(
        self, watch: Watch, resource: Resource, namespace: str, select: Predicate, wait_s: float
    ) -> bytes | None:
        """The next event as a line; empty when nothing happened, None at the end."""
        deadline = time.monotonic() + wait_s
        while (left := deadline - time.monotonic()) > 0:
            try:
                event = await asyncio.wait_for(watch.next(), left)
            except TimeoutError:
                break
            if event is None:
                return None
            if namespace and event.object["metadata"].get("namespace") != namespace:
                continue
            if seen := seen_through(event, select):
                return _line(seen, {**_typed(resource), **event.object})
        return b""

    def _bookmark(self, resource: Resource) -> bytes:
        meta = {"resourceVersion": str(self._store.version), "creationTimestamp": None}
        return _line("BOOKMARK", {**_typed(resource), "metadata": meta})


def seen_through(event: Event, select: Predicate) -> Verb | None:
    """How an event looks to a watch with a selector: objects come into sight and leave it."""
    was = event.before is not None and select(event.before)
    is_now = event.verb is not Verb.DELETED and select(event.object)
    if was and is_now:
        return Verb.MODIFIED
    if is_now:
        return Verb.ADDED
    return Verb.DELETED if was else None


def _selection(query: Mapping[str, str]) -> Predicate:
    return selection(query.get("fieldSelector", ""), query.get("labelSelector", ""))


def _whole(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()):
        raise Refused.bad_request(f"{name}={text!r}: must be a whole number")
    return int(text)


def _typed(resource: Resource) -> dict[str, str]:
    return {"kind": kind_of(resource), "apiVersion": resource.api_version}


def _without_type(item: Object) -> dict[str, Any]:
    """Items of a typed list carry no kind of their own."""
    return {key: value for key, value in item.items() if key not in ("kind", "apiVersion")}


def _line(verb: str, item: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"type": verb, "object": item}) + b"\n"
