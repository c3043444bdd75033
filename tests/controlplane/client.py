"""A small client of a real API server: JSON in and out, with the headers a person would see."""

from __future__ import annotations

import http.client
import json
import re
import select
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, urlencode, urlsplit

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Mapping
    from email.message import Message

JSON: TypeAlias = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')


class ApiError(Exception):
    """The API server answered with a status of 400 or above."""

    def __init__(self, method: str, path: str, status: int, body: JSON) -> None:
        self.status = status
        self.reason = str(body.get("reason", ""))
        self.body = body
        super().__init__(f"{method} {path}: {status} {body.get('message', body)}")


@dataclass(frozen=True, slots=True)
class Reply:
    """What the API server answered."""

    status: int
    headers: Message
    body: JSON

    @property
    def warnings(self) -> list[str]:
        """The texts of its `Warning:` headers, which kubectl prints."""
        lines = self.headers.get_all("Warning") or []
        return [re.sub(r"\\(.)", r"\1", text) for line in lines for text in _WARNING.findall(line)]


class Client:
    """Calls one API server as one user, from any thread, on connections that are kept."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None, token: str = "") -> None:
        self.url = url
        self.tls = tls
        self._token = token
        self._kinds: dict[str, tuple[str, str, bool]] = {}
        # A handshake is most of what a call takes, of both sides. Those nobody uses just now:
        self._idle: list[http.client.HTTPConnection] = []
        weakref.finalize(self, _close, self._idle)

    def get(self, kind: str, name: str, namespace: str = "") -> JSON:
        """One object; ApiError with status 404 if there is none."""
        return self.request("GET", self.path(kind, name, namespace)).body

    def items(self, kind: str, namespace: str = "", **query: str) -> list[JSON]:
        """The objects of a kind, of all namespaces unless given; query: `labelSelector=` etc."""
        items = self.request("GET", self.path(kind, "", namespace), query=query).body["items"]
        return list(items)

    def create(self, manifest: JSON, *, dry_run: bool = False) -> Reply:
        """POSTs an object to where its kind and namespace say."""
        meta = manifest["metadata"]
        path = self.path(manifest["kind"], "", meta.get("namespace", ""))
        return self.request("POST", path, manifest, query=_dry_run(dry_run))

    def replace(self, manifest: JSON) -> Reply:
        """PUTs an object over the one of its name."""
        meta = manifest["metadata"]
        path = self.path(manifest["kind"], meta["name"], meta.get("namespace", ""))
        return self.request("PUT", path, manifest)

    def patch(
        self,
        kind: str,
        name: str,
        change: JSON | list[JSON],
        namespace: str = "",
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Reply:
        """A JSON patch if `change` is a list, else a merge patch."""
        path = self.path(kind, name, namespace) + (f"/{subresource}" if subresource else "")
        content_type = JSON_PATCH if isinstance(change, list) else MERGE_PATCH
        return self.request(
            "PATCH", path, change, query=_dry_run(dry_run), content_type=content_type
        )

    def delete(self, kind: str, name: str, namespace: str = "", *, dry_run: bool = False) -> Reply:
        """Deletes at once: without a kubelet nothing would ever end a grace period."""
        query = {"gracePeriodSeconds": "0", **_dry_run(dry_run)}
        return self.request("DELETE", self.path(kind, name, namespace), query=query)

    def delete_all(self, kind: str, namespace: str = "", **query: str) -> None:
        """Deletes every object of a kind at once; query: `labelSelector=` etc."""
        query |= {"gracePeriodSeconds": "0", "propagationPolicy": "Background"}
        self.request("DELETE", self.path(kind, "", namespace), query=query)

    def path(self, kind: str, name: str = "", namespace: str = "") -> str:
        """The path of an object or, without name, of a collection; kind: `Pod`, `Deployment` …"""
        if kind not in self._kinds:
            self._discover()
        prefix, plural, namespaced = self._kinds[kind]
        parts = [prefix, "namespaces", quote(namespace)] if namespaced and namespace else [prefix]
        return "/".join([*parts, plural, *([quote(name)] if name else [])])

    def request(
        self,
        method: str,
        path: str,
        body: JSON | list[JSON] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Reply:
        """One call; ApiError for a status of 400 or above, OSError if nothing answers."""
        headers = {
            "Accept": accept,
            "Content-Type": content_type,
            "User-Agent": "controlplane-test",
        }
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = self._connection()
        try:
            connection.request(
                method,
                f"{path}?{urlencode(query)}" if query else path,
                None if body is None else json.dumps(body).encode(),
                headers,
            )
            response = connection.getresponse()
            raw = response.read()
        except http.client.HTTPException as error:  # it ended in the middle of an answer
            connection.close()
            raise ConnectionError(f"{method} {self.url}{path}: {error!r}") from error
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        is_json = "json" in response.headers.get_content_type()
        answer: JSON = json.loads(raw) if is_json else {"message": raw.decode(errors="replace")}
        if response.status >= 400:
            raise ApiError(method, path, response.status, answer)
        return Reply(response.status, response.headers, answer)

    def _connection(self) -> http.client.HTTPConnection:
        """One that is open, or that opens itself; nobody else has it."""
        with suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if connection.sock is not None and not _has_ended(connection.sock):
                    return connection
                connection.close()
        address = urlsplit(self.url)
        host, port = address.hostname or "", address.port
        if self.tls is None:
            return http.client.HTTPConnection(host, port, timeout=30)
        return http.client.HTTPSConnection(host, port, timeout=30, context=self.tls)

    def _discover(self) -> None:
        """Learns the paths of all kinds; where two groups share a kind, the core's comes first."""
        for root in ("/api", "/apis"):
            for group in self.request("GET", root, accept=_DISCOVERY).body["items"]:
                for version in group["versions"]:
                    name = group["metadata"].get("name", "")
                    prefix = "/".join(part for part in (root, name, version["version"]) if part)
                    for resource in version.get("resources", ()):
                        self._kinds.setdefault(
                            resource["responseKind"]["kind"],
                            (prefix, resource["resource"], resource["scope"] == "Namespaced"),
                        )


def _has_ended(idle: socket.socket) -> bool:
    """Whether the server has closed it: it would say nothing else unasked."""
    poll = select.poll()
    poll.register(idle, select.POLLIN)
    return bool(poll.poll(0))


def _close(connections: list[http.client.HTTPConnection]) -> None:
    for connection in connections:
        connection.close()


def _dry_run(wanted: bool) -> dict[str, str]:
    return {"dryRun": "All"} if wanted else {}
