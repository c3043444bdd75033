"""A Lease of our own: of several replicas one does what only one may do.

As client-go's leader election: whoever holds the Lease renews it; whoever wants it waits until it was
not renewed for as long as it lasts, by the waiting one's own clock. Every write names the version it
was made on, so of two at once one is refused.
"""

import asyncio
import json
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus

import msgspec
import structlog

from extender.cluster.client import ApiClient
from extender.cluster.errors import ApiError, ClusterError, Unreadable

log = structlog.get_logger(__name__)

LEASE = "migfit-reconciler"
LASTS_S = 15.0
GIVE_UP_S = 10.0
"""A holder that has not renewed for so long stops acting, before another may begin."""
RETRY_S = 2.0
MARK = "migfit.io/judged-until"
"""Annotation of the Lease: what one holder leaves to the next."""


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str
    creation_timestamp: str = ""
    annotations: dict[str, str] | None = None


class _Spec(msgspec.Struct, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None


class _Lease(msgspec.Struct):
    metadata: _Meta
    spec: _Spec


_decoder = msgspec.json.Decoder(_Lease)


class Leadership:
    """Whether we hold the Lease; `follow` tries to get and keep it.

    Args:
        client: an entered one.
        namespace: of the Lease.
        identity: ours; another in every process.
        clock: seconds, monotonic.
        wall: seconds since the epoch, for the times that people read in the Lease.
    """

    def __init__(
        self,
        client: ApiClient,
        namespace: str,
        *,
        identity: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{LEASE}"
        self.identity = identity or f"{socket.gethostname()[:64]}-{secrets.token_hex(4)}"
        self._clock, self._wall = clock, wall
        self._renewed_at_s: float | None = None
        self._seen: tuple[str, float] | None = None
        """Version of somebody else's Lease, and when we saw it first."""
        self._ours: _Lease | None = None
        self._said = ""
        self.mark = ""
        """Written with the next renewal; what was found when the Lease was taken."""
        self.since = ""
        """When the Lease was made, RFC 3339 by the API server's clock; empty until we held it."""

    @property
    def held(self) -> bool:
        """Whether we may act: nobody else can hold the Lease now."""
        return self._renewed_at_s is not None and self._clock() - self._renewed_at_s < GIVE_UP_S

    async def follow(self) -> None:
        """Try every `RETRY_S`, until cancelled; then let another have it at once."""
        try:
            while True:
                try:
                    async with asyncio.timeout(GIVE_UP_S):
                        await self.look()
                    self._said = ""
                except (ClusterError, TimeoutError) as error:
                    self._say(str(error) or f"no answer within {GIVE_UP_S:g} s")
                await asyncio.sleep(RETRY_S)
        finally:
            with suppress(ClusterError, TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self.release()

    def _say(self, error: str) -> None:
        """Warn of a trouble once, until all is well again."""
        if error != self._said:
            self._said = error
            remedy = "grant us get, create and patch on that Lease" if error[:3] == "403" else None
            log.warning("lease not kept", lease=self._path, error=error, remedy=remedy)

    async def look(self) -> None:
        """One step: renew, wait, or take.

        Raises:
            ClusterError: the Lease cannot be read or written.
        """
        if self._ours is not None:
            await self._write(self._ours, self.identity)
            return
        lease = await self._read()
        if lease is None:
            await self._create()
            return
        holder = lease.spec.holder_identity
        version = lease.metadata.resource_version
        now_s = self._clock()
        if holder and holder != self.identity:
            if self._seen is None or self._seen[0] != version:
                self._seen = version, now_s
            lasts_s = min(float(lease.spec.lease_duration_seconds or LASTS_S), 4 * LASTS_S)
            if now_s - self._seen[1] < lasts_s:
                return
        self.mark = (lease.metadata.annotations or {}).get(MARK, "")
        await self._write(lease, self.identity)

    async def release(self) -> None:
        """Let another take the Lease without a wait.

        Raises:
            ClusterError: the Lease cannot be written.
        """
        if self._ours is not None:
            self._renewed_at_s = None
            await self._write(self._ours, "")

    async def _read(self) -> _Lease | None:
        try:
            return self._decoded(await self._client.get(self._path))
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def _create(self) -> None:
        """By server-side apply, which needs rights to this one name only; as for our Secret."""
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": LEASE},
            "spec": self._spec(self.identity, 0),
        }
        params = {"fieldManager": self.identity}
        await self._send(body, "application/apply-patch+yaml", params, self.identity)

    async def _write(self, lease: _Lease, holder: str) -> None:
        transitions = lease.spec.lease_transitions or 0
        if holder and lease.spec.holder_identity != holder:
            transitions += 1
        body: dict[str, object] = {
            "metadata": {
                "resourceVersion": lease.metadata.resource_version,
                "annotations": {MARK: self.mark or None},
            },
            "spec": self._spec(holder, transitions),
        }
        await self._send(body, "application/merge-patch+json", {"fieldManager": "migfit"}, holder)

    def _spec(self, holder: str, transitions: int) -> dict[str, object]:
        return {
            "holderIdentity": holder,
            "leaseDurationSeconds": int(LASTS_S),
            "leaseTransitions": transitions,
            "renewTime": datetime.fromtimestamp(self._wall(), UTC).strftime(
                "%Y-%m-%dT%H:%M:%S.%fZ"
            ),
        }

    async def _send(
        self, body: object, content_type: str, params: dict[str, str], holder: str
    ) -> None:
        begun_s = self._clock()
        try:
            answer = await self._client.request(
                "PATCH", self._path, json.dumps(body).encode(), content_type, params
            )
        except ApiError as error:
            if error.status not in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
                raise
            # Another was faster, or the Lease is gone: look again.
            self._renewed_at_s = self._ours = self._seen = None
            return
        if not holder:
            self._ours = None
            return
        self._ours = self._decoded(answer)
        if self._renewed_at_s is None:
            self.since = self._ours.metadata.creation_timestamp
            log.info("lease taken", lease=self._path, identity=self.identity)
        self._renewed_at_s = begun_s

    def _decoded(self, body: bytes) -> _Lease:
        try:
            return _decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Unreadable(f"{self._path}: this is no Lease") from None
