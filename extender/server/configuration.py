"""Where the configuration comes from, and how it is replaced while we run."""

import asyncio
import hashlib
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from extender.cluster.client import ApiClient
from extender.cluster.errors import ApiError, ClusterError, Unreadable
from extender.cluster.objects import ConfigMapObject
from extender.cluster.watch import Resource, follow
from extender.config import ConfigError, Current
from extender.core.policy import Policy
from extender.server.events import Events
from extender.server.metrics import Metrics
from extender.server.settings import BAD_INPUT, UNREACHABLE, StartError

log = structlog.get_logger(__name__)

KEY = "config.yaml"
POLL_S = 2.0
"""How often a file is looked at; the kubelet takes a minute to update a mounted ConfigMap anyway."""
RETRY_S = 1.0
_START_ATTEMPTS = 10
_FINAL = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})
"""Answers that do not get better by asking again."""

Apply = Callable[[Policy], None]


class Source(Protocol):
    """A place a configuration is read from."""

    async def first(self) -> Current:
        """The configuration to start with; a bad one ends the process."""

    async def follow(self, current: Current, apply: Apply) -> None:
        """Offer every later version to `current`, and `apply` what is taken into force."""


def offer(current: Current, text: str | bytes, apply: Apply) -> ConfigError | None:
    """Take a new version into force, or keep the old one and say why."""
    before = current.policy
    error = current.offer(text)
    if error is not None:
        log.error(
            "configuration refused, the last good one stays in force",
            revision=current.revision,
            problems=str(error).splitlines(),
        )
    elif current.policy is not before:
        apply(current.policy)
        log.info("configuration changed", revision=current.revision)
    return error


class FileSource:
    """`--config FILE`: a file, for instance of a mounted ConfigMap."""

    def __init__(self, path: Path, own_namespace: str, *, poll_s: float = POLL_S) -> None:
        self._path = path
        self._own_namespace = own_namespace
        self._poll_s = poll_s
        self._seen = b""

    def _read(self) -> bytes | None:
        """The text if it is new."""
        text = self._path.read_bytes()
        digest = hashlib.sha256(text).digest()
        if digest == self._seen:
            return None
        self._seen = digest
        return text

    async def first(self) -> Current:
        """See `Source`."""
        try:
            text = self._read() or b""
        except OSError as error:
            message = f"--config {self._path}: {error.strerror}; give a file that can be read"
            raise StartError(message, BAD_INPUT) from None
        return _start(text, self._own_namespace, f"--config {self._path}")

    async def follow(self, current: Current, apply: Apply) -> None:
        """See `Source`."""
        lost = False
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                text = self._read()
            except OSError as error:
                if not lost:  # once, not every two seconds
                    log.warning("configuration cannot be read", error=str(error))
                lost = True
                continue
            lost = False
            if text is not None:
                offer(current, text, apply)


class ConfigMapSource:
    """`--configmap NAMESPACE/NAME`: read and watched through the API."""

    def __init__(
        self,
        client: ApiClient,
        namespace: str,
        name: str,
        own_namespace: str,
        metrics: Metrics,
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        self._client = client
        self._name = f"{namespace}/{name}"
        self._path = f"/api/v1/namespaces/{namespace}/configmaps"
        self._object = name
        self._own_namespace = own_namespace
        self._metrics = metrics
        self._retry_s = retry_s

    async def first(self) -> Current:
        """See `Source`. The API server may still be starting, so it is asked for a while."""
        for _ in range(_START_ATTEMPTS - 1):
            try:
                return await self._ask()
            except ClusterError as error:
                log.info("configuration cannot be read yet", error=str(error))
                await asyncio.sleep(self._retry_s)
        try:
            return await self._ask()
        except ClusterError as error:
            message = f"--configmap {self._name}: {error}; is the API server up?"
            raise StartError(message, UNREACHABLE) from None

    async def _ask(self) -> Current:
        path = f"{self._path}/{self._object}"
        try:
            item = msgspec.json.decode(await self._client.get(path), type=ConfigMapObject)
        except ApiError as error:
            if error.status not in _FINAL:
                raise
            message = f"--configmap {self._name}: {error}; create it, or grant us to read it"
            raise StartError(message, BAD_INPUT) from None
        except (msgspec.MsgspecError, RecursionError):
            raise Unreadable(f"GET {path}: the answer is no ConfigMap") from None
        if KEY not in (item.data or {}):
            message = f"--configmap {self._name}: it has no key {KEY}; put the configuration there"
            raise StartError(message, BAD_INPUT)
        return _start(_text(item), self._own_namespace, f"--configmap {self._name}")

    async def follow(self, current: Current, apply: Apply) -> None:
        """See `Source`."""
        resource = Resource(
            "configmaps",
            self._path,
            ConfigMapObject,
            {"fieldSelector": f"metadata.name={self._object}"},
        )
        sink = _ConfigMapSink(current, apply, Events(self._client, self._metrics))
        await follow(self._client, resource, sink, meter=self._metrics)


class _ConfigMapSink:
    """Offers every version of the ConfigMap; its deletion changes nothing."""

    def __init__(self, current: Current, apply: Apply, events: Events) -> None:
        self._current, self._apply, self._events = current, apply, events
        self._seen = ""

    def listing(self) -> None:
        """Nothing to do."""

    def upsert(self, item: ConfigMapObject) -> None:
        """A version of the ConfigMap; a relist brings the same one again."""
        meta = item.metadata
        if meta.resource_version and meta.resource_version == self._seen:
            return
        self._seen = meta.resource_version
        error = offer(self._current, _text(item), self._apply)
        if error is not None:
            regarding = {"apiVersion": "v1", "kind": "ConfigMap", "name": meta.name}
            regarding |= {"namespace": meta.namespace, "uid": meta.uid}
            note = f"refused, the last good one stays in force: {error}"
            self._events.warn(regarding, meta.resource_version, "ConfigurationRefused", note)

    def remove(self, item: ConfigMapObject) -> None:
        """The last good configuration stays."""
        log.warning("configuration was deleted; the last good one stays", name=item.metadata.name)

    def listed(self) -> None:
        """Nothing to do."""

    def heard(self, now_s: float) -> None:
        """Nothing to do."""


def _text(item: ConfigMapObject) -> str:
    return (item.data or {}).get(KEY, "")


def _start(text: str | bytes, own_namespace: str, where: str) -> Current:
    try:
        return Current(text, own_namespace=own_namespace)
    except ConfigError as error:
        raise StartError(f"{where}: {error}", BAD_INPUT) from None
