"""Keep a sink equal to what the API server holds, for as long as the process lives."""

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus
from random import Random, SystemRandom
from typing import Generic, NoReturn, Protocol

import structlog

from extender.cluster.client import ApiClient
from extender.cluster.errors import ApiError, ClusterError, Silent, Unreadable
from extender.cluster.machine import (
    Action,
    List,
    Machine,
    Object,
    Pace,
    Resource,
    Sink,
    T,
    Wait,
    Watch,
)

__all__ = ["Meter", "Object", "Pace", "Resource", "Sink", "Unmetered", "follow"]

log = structlog.get_logger(__name__)


class Meter(Protocol):
    """Counts what happens, per resource name."""

    def listed(self, resource: str, items: int, duration_s: float) -> None:
        """A full list is through."""

    def event(self, resource: str) -> None:
        """A line of a watch was taken in."""

    def trouble(self, resource: str, cause: str) -> None:
        """Something failed: an HTTP status, `unreachable`, `unreadable`, or `closed` too early."""


class Unmetered:
    """The meter of those who do not count."""

    def listed(self, resource: str, items: int, duration_s: float) -> None:
        """Nothing."""

    def event(self, resource: str) -> None:
        """Nothing."""

    def trouble(self, resource: str, cause: str) -> None:
        """Nothing."""


async def follow(
    client: ApiClient,
    resource: Resource[T],
    sink: Sink[T],
    *,
    clock: Callable[[], float] = time.monotonic,
    rng: Random | None = None,
    pace: Pace | None = None,
    meter: Meter | None = None,
) -> NoReturn:
    """Feed the sink until cancelled. Nothing the server sends or fails to send ends this.

    Args:
        client: an entered one.
        resource: what to follow.
        sink: gets every object, then every change; see `Sink`.
        clock: seconds, monotonic; what `Sink.heard` is told.
        rng: for jitter.
        pace: limits and waits.
        meter: counts.
    """
    pace = pace or Pace()
    machine = Machine(resource, sink, clock=clock, rng=rng or SystemRandom(), pace=pace)
    follower = _Follower(client, resource, machine, pace, meter or Unmetered())
    action = machine.begin()
    while True:
        action = await follower.do(action)


class _Follower(Generic[T]):
    """Carries out what the machine says, and says in the log what happens."""

    def __init__(
        self,
        client: ApiClient,
        resource: Resource[T],
        machine: Machine[T],
        pace: Pace,
        meter: Meter,
    ) -> None:
        self._client = client
        self._resource = resource
        self._machine = machine
        self._pace = pace
        self._meter = meter
        self._log = log.bind(resource=resource.name)
        self._said: set[str] = set()
        self._list_began_s = 0.0
        self._list_items = 0
        self._yield_at_s = 0.0

    async def do(self, action: Action) -> Action:
        if isinstance(action, Wait):
            await asyncio.sleep(action.seconds)
            return action.then
        try:
            if isinstance(action, List):
                return await self._list(action)
            return await self._watch(action)
        except ClusterError as error:
            return self._failed("list" if isinstance(action, List) else "watch", error)

    async def _list(self, action: List) -> Action:
        now_s = asyncio.get_running_loop().time
        if not action.continue_token:
            self._list_began_s, self._list_items = now_s(), 0
        params = {**self._resource.params, "limit": str(self._pace.page_items)}
        if action.continue_token:
            params["continue"] = action.continue_token
        page = self._machine.open_page(await self._client.get(self._resource.path, params))
        for item in page.items or ():
            self._machine.take(item)
            await self._breathe()
        self._list_items += len(page.items or ())
        after = self._machine.close_page(page)
        if isinstance(after, Watch):
            lasted_s = now_s() - self._list_began_s
            self._meter.listed(self._resource.name, self._list_items, lasted_s)
            self._log.info("listed", items=self._list_items, duration_s=round(lasted_s, 3))
        return after

    async def _watch(self, action: Watch) -> Action:
        now_s = asyncio.get_running_loop().time
        machine = self._machine
        params = {
            **self._resource.params,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": action.resource_version,
            "timeoutSeconds": str(action.timeout_s),
        }
        async with self._client.stream(self._resource.path, params) as lines:
            machine.opened()
            try:
                async with asyncio.timeout(machine.silence_s) as silence:
                    async for line in lines:
                        machine.line(line)
                        silence.reschedule(now_s() + machine.silence_s)
                        self._meter.event(self._resource.name)
                        self._well()
                        await self._breathe()
            except TimeoutError as error:
                raise Silent(f"silent for {machine.silence_s:g} s") from error
        after = machine.closed()
        if isinstance(after, Wait):
            self._trouble("watch", "closed", "the server ended the watch too early", after)
        self._well()
        return after

    async def _breathe(self) -> None:
        """Let other tasks run if we have not for a slice: answers to pods come before events."""
        now_s = asyncio.get_running_loop().time
        if now_s() >= self._yield_at_s:
            await asyncio.sleep(0)
            self._yield_at_s = now_s() + self._pace.slice_s

    def _failed(self, what: str, error: ClusterError) -> Action:
        after = self._machine.failed(error)
        if self._machine.absent(error):
            self._log.debug("kind-absent", retry_s=after.seconds if isinstance(after, Wait) else 0)
        elif isinstance(error, ApiError):
            if error.status == HTTPStatus.GONE and not isinstance(after, Wait):
                self._log.info("relisting", why=str(error))
                self._meter.trouble(self._resource.name, "410")
            else:
                self._trouble(what, str(error.status), str(error), after)
        else:
            cause = "unreadable" if isinstance(error, Unreadable) else "unreachable"
            self._trouble(what, cause, str(error), after)
        return after

    def _trouble(self, what: str, cause: str, error: str, after: Action) -> None:
        """Warn, but of each cause only once until all is well again."""
        self._meter.trouble(self._resource.name, cause)
        again = cause in self._said
        self._said.add(cause)
        retry_s = round(after.seconds, 1) if isinstance(after, Wait) else 0
        say = self._log.debug if again else self._log.warning
        said = {"cause": cause, "error": error, "retry_s": retry_s}
        if remedy := _REMEDIES.get(cause):
            said["remedy"] = remedy.format(rights=rights(self._resource.path))
        say(f"{what}-failed", **said)

    def _well(self) -> None:
        if self._said and self._machine.healthy:
            self._log.info("watch-restored", after=sorted(self._said))
            self._said.clear()


_REMEDIES = {
    "401": "the API server does not know us: renew the token or client certificate",
    "403": "grant our account {rights}",
}


def rights(path: str) -> str:
    """The RBAC rights that following a collection takes: `list and watch on pods cluster-wide`."""
    root, *parts = path.strip("/").split("/")
    group = "" if root == "api" else f".{parts.pop(0)}"
    match parts[1:]:
        case ["namespaces", namespace, plural]:
            where = f"in namespace {namespace}"
        case [plural]:
            where = "cluster-wide"
        case _:
            return f"list and watch on {path}"
    return f"list and watch on {plural}{group} {where}"
