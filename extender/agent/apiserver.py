"""The node's `GpuNode` on the API server, by plain HTTPS.

A client library would take more memory than everything else in the agent. Calls are seconds apart, so
each makes a connection of its own, with the token and the CA as they are in their files just then.
"""

import os
import ssl
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API_VERSION = "migfit.io/v1alpha1"
KIND = "GpuNode"
PATH = f"/apis/{API_VERSION}/gpunodes"
FIELD_MANAGER = "migfit-agent"
TIMEOUT_S = 10.0
APPLY = "application/apply-patch+yaml"  # JSON is YAML


class ApiServerError(Exception):
    """A call came to nothing: what, and why, in one line."""


class ApiServer:
    """One node's object.

    Args:
        url: `https://host:port`.
        node: name of the node, and of its object.
        account: folder with `token` and `ca.crt`, as mounted into every pod.
    """

    def __init__(self, url: str, node: str, account: Path = SERVICE_ACCOUNT) -> None:
        self._url = url
        self._node = node
        self._account = account
        self._path = f"{PATH}/{quote(node)}"

    async def read(self) -> dict[str, Any] | None:
        """The object; None if there is none yet.

        Raises:
            ApiServerError: that cannot be known.
        """
        status, body = await self._call("GET", self._path)
        if status == HTTPStatus.NOT_FOUND:
            return None
        found = self._decoded(status, body, "read")
        return found if isinstance(found, dict) else None

    async def write(self, status: dict[str, Any]) -> None:
        """Make this the object's status; make the object if it is not there.

        Raises:
            ApiServerError: it was not written.
        """
        answer, body = await self._apply("/status", {"status": status})
        if answer == HTTPStatus.NOT_FOUND:
            self._decoded(*await self._apply("", {}), "create")
            answer, body = await self._apply("/status", {"status": status})
        self._decoded(answer, body, "write")

    async def _apply(self, subresource: str, fields: dict[str, Any]) -> tuple[int, bytes]:
        named = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": self._node}}
        query = f"?fieldManager={FIELD_MANAGER}&force=true"
        return await self._call("PATCH", f"{self._path}{subresource}{query}", {**named, **fields})

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, bytes]:
        try:
            token = (self._account / "token").read_text(encoding="utf-8").strip()
            tls = ssl.create_default_context(cafile=self._account / "ca.crt")
            # Python 3.13 made it default; many cluster CAs lack the key identifiers it asks for.
            tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
            timeout = aiohttp.ClientTimeout(TIMEOUT_S)
            headers = {"Authorization": f"Bearer {token}", "Content-Type": APPLY}
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(
                    method,
                    self._url + path,
                    headers=headers,
                    data=None if body is None else msgspec.json.encode(body),
                    ssl=tls,
                ) as response,
            ):
                return response.status, await response.read()
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise ApiServerError(f"{self._url}: {why}") from error

    def _decoded(self, status: int, body: bytes, verb: str) -> Any:
        try:
            found = msgspec.json.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            found = {}
        if status < HTTPStatus.BAD_REQUEST:
            return found
        told = str(found.get("message", "")) if isinstance(found, dict) else ""
        why = " ".join(told.split())[:300] or HTTPStatus(status).phrase
        if status == HTTPStatus.NOT_FOUND:
            why = "the kind GpuNode is not there; apply its CustomResourceDefinition"
        raise ApiServerError(f"cannot {verb} gpunodes/{self._node}: {status}: {why}")


def in_cluster_url() -> str | None:
    """Where the API server is, as every pod is told by its environment; None outside of a pod."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        return None
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"  # IPv6
