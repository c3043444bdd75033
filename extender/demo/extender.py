"""kube-scheduler's side of an extender: `filter` and `prioritize` in its wire form, ignorable."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
import orjson

TIMEOUT_S = 5
"""kube-scheduler's `DefaultExtenderTimeout`."""
PREFIX = "nvidia.com/"
"""Pods that ask for a resource under this are sent to the extender: `managedResources`."""

_FAILURES = (aiohttp.ClientError, TimeoutError, ValueError)
"""Ignorable: after one of these the scheduler goes on by itself."""


class _FilterResult(msgspec.Struct):
    NodeNames: list[str] | None = None
    FailedNodes: dict[str, str] = {}
    FailedAndUnresolvableNodes: dict[str, str] = {}
    Error: str = ""


class _HostPriority(msgspec.Struct):
    Host: str
    Score: int


@dataclass(slots=True)
class Extender:
    """An extender over HTTP, as the scheduler's configuration names it.

    Args:
        session: for the connections.
        url: `http://127.0.0.1:PORT/scheduler`.
        weight: what one point of its 0..10 is multiplied by, times ten.
    """

    session: aiohttp.ClientSession
    url: str
    weight: int = 30
    errors: list[str] = field(default_factory=list)
    """Calls that failed; the scheduler went on without them."""

    async def filter(
        self, pod: Mapping[str, Any], nodes: Sequence[str]
    ) -> tuple[list[str], dict[str, str]]:
        """The nodes that remain, and why each of the others does not."""
        try:
            result = _filtered(await self._call("filter", pod, nodes), nodes)
        except _FAILURES as error:
            self.errors.append(f"filter: {str(error) or type(error).__name__}")
            return list(nodes), {}
        return result.NodeNames or [], {**result.FailedNodes, **result.FailedAndUnresolvableNodes}

    async def prioritize(self, pod: Mapping[str, Any], nodes: Sequence[str]) -> dict[str, int]:
        """Points per node, on the scale of the scheduler's own plugins; nodes left out have 0."""
        try:
            answer = await self._call("prioritize", pod, nodes)
            scores = msgspec.json.decode(answer, type=list[_HostPriority])
        except _FAILURES as error:
            self.errors.append(f"prioritize: {str(error) or type(error).__name__}")
            return {}
        return {entry.Host: entry.Score * self.weight * 10 for entry in scores}

    async def _call(self, verb: str, pod: Mapping[str, Any], nodes: Sequence[str]) -> bytes:
        plain = {key: value for key, value in pod.items() if key not in ("kind", "apiVersion")}
        async with (
            asyncio.timeout(TIMEOUT_S),
            self.session.post(
                f"{self.url}/{verb}",
                data=orjson.dumps({"Pod": plain, "Nodes": None, "NodeNames": list(nodes)}),
                headers={"Content-Type": "application/json"},
            ) as response,
        ):
            body = await response.read()
            if response.status != 200:  # noqa: PLR2004  the only status that counts as an answer
                raise ValueError(f"status {response.status}")
            return body


def _filtered(body: bytes, nodes: Sequence[str]) -> _FilterResult:
    result = msgspec.json.decode(body, type=_FilterResult)
    if result.Error:
        raise ValueError(result.Error)
    if strangers := set(result.NodeNames or ()) - set(nodes):
        raise ValueError(f"{strangers.pop()} was not among the nodes")
    return result
