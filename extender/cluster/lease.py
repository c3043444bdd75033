"""Whether the scheduler that rewritten pods are handed to is alive, by its leader's Lease."""

import asyncio
from collections.abc import Callable
from typing import NoReturn

import msgspec
import structlog

from extender.cluster.client import ApiClient
from extender.cluster.errors import ClusterError

log = structlog.get_logger(__name__)

FRESH_S = 15.0
"""A leader renews every few seconds, and loses its Lease after 15 (kube-scheduler's default)."""
POLL_S = 3.0
PATH = "/apis/coordination.k8s.io/v1/leases"


class _Spec(msgspec.Struct, rename="camel"):
    renew_time: str | None = None


class _Lease(msgspec.Struct):
    spec: _Spec


class _Leases(msgspec.Struct):
    items: list[_Lease]


_leases = msgspec.json.Decoder(_Leases)


class SchedulerLease:
    """Looks for renewals of the Leases that bear the scheduler's name, in any namespace.

    Freshness is when we saw a renewal, not the time written in it: clocks differ.

    Args:
        client: an entered one.
        name: the scheduler's name now; empty for none.
        clock: seconds, monotonic.
    """

    def __init__(
        self, client: ApiClient, name: Callable[[], str], clock: Callable[[], float]
    ) -> None:
        self._client, self._name, self._clock = client, name, clock
        self._renewals: set[str] = set()
        self._renewed_at_s: float | None = None
        self._asked_for = ""
        self._said = ""

    @property
    def alive(self) -> bool:
        """Whether a renewal was seen within `FRESH_S`."""
        if self._renewed_at_s is None or self._asked_for != self._name():
            return False
        return self._clock() - self._renewed_at_s <= FRESH_S

    async def follow(self) -> NoReturn:
        """Look every `POLL_S` while a name is set. Runs until cancelled."""
        while True:
            if self._name():
                await self.look()
            await asyncio.sleep(POLL_S)

    async def look(self) -> None:
        """Ask once. What fails is said once, and means: not alive."""
        name = self._name()
        if name != self._asked_for:
            self._asked_for, self._renewals, self._renewed_at_s = name, set(), None
        try:
            body = await self._client.get(PATH, {"fieldSelector": f"metadata.name={name}"})
            found = _leases.decode(body)
        except (ClusterError, msgspec.MsgspecError) as error:
            if str(error) != self._said:
                self._said = str(error)
                log.warning("lease of the scheduler cannot be read", name=name, error=self._said)
            return
        renewals = {each.spec.renew_time for each in found.items if each.spec.renew_time}
        if renewals - self._renewals and self._renewals:
            self._renewed_at_s = self._clock()
        self._renewals = renewals
