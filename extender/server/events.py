"""Kubernetes Events: what an admin sees in `kubectl describe` and `kubectl events`."""

import asyncio
import json
import socket
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import structlog

from extender.cluster.client import ApiClient
from extender.cluster.errors import ApiError, ClusterError
from extender.server.metrics import Metrics

log = structlog.get_logger(__name__)

CONTROLLER = "migfit.io/serve"
MOST_NOTE_CHARACTERS = 1000
"""The API takes 1 KiB."""
LONGEST_NAME = 150
"""Of the object, in the name of the Event, which has 253 characters in all."""
MOST_AT_ONCE = 200


class Events:
    """Writes Events without anybody waiting for them; a failure is logged, counted, and that is all."""

    def __init__(self, client: ApiClient, metrics: Metrics) -> None:
        self._client, self._metrics = client, metrics
        self._writing: set[asyncio.Task[None]] = set()

    def warn(
        self, regarding: dict[str, str], version: str, reason: str, note: str, action: str = "Load"
    ) -> None:
        """Write a warning about an object, once for each version of it, by whichever replica.

        Args:
            regarding: apiVersion, kind, namespace, name and uid of the object.
            version: its resourceVersion, or whatever else tells this occasion from others.
            reason: PascalCase.
            note: for people; cut to what the API takes.
            action: what we were about, PascalCase.
        """
        if len(self._writing) >= MOST_AT_ONCE:
            self._give_up(reason, "too many are waiting")
            return
        task = asyncio.create_task(self._write(_event(regarding, version, reason, note, action)))
        self._writing.add(task)
        self._metrics.events_waiting.inc()
        task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        self._metrics.events_waiting.dec()

    def _give_up(self, reason: str, error: str) -> None:
        self._metrics.events_dropped.inc()
        log.warning("event not written", reason=reason, error=error)

    async def _write(self, event: dict[str, Any]) -> None:
        path = f"/apis/events.k8s.io/v1/namespaces/{event['metadata']['namespace']}/events"
        try:
            await self._client.request("POST", path, json.dumps(event).encode())
        except ApiError as error:
            if error.status != HTTPStatus.CONFLICT:  # another replica has said it
                self._give_up(event["reason"], str(error))
        except ClusterError as error:
            self._give_up(event["reason"], str(error))


def _event(
    regarding: dict[str, str], version: str, reason: str, note: str, action: str
) -> dict[str, Any]:
    name = f"{regarding['name'][:LONGEST_NAME].rstrip('.-')}.{reason.lower()}.{version}"
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": regarding["namespace"]},
        "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "reportingController": CONTROLLER,
        "reportingInstance": socket.gethostname()[:128],
        "action": action,
        "reason": reason,
        "type": "Warning",
        "regarding": regarding,
        "note": note
        if len(note) <= MOST_NOTE_CHARACTERS
        else note[: MOST_NOTE_CHARACTERS - 1] + "…",
    }
