"""A real control plane to be measured: no audit, no limits on requests, and clients that cost little."""

import http.client
import json
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import msgspec
import orjson

from bench._cluster import JSON
from tests.controlplane.build import MissingError, find
from tests.controlplane.plane import ControlPlane
from tests.controlplane.program import Program

CREATORS = 8
"""Connections on which objects are created at the same time."""
_NO_AUDIT = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "None"}]}


@contextmanager
def control_plane() -> Iterator[ControlPlane]:
    """An etcd and a kube-apiserver with nothing in them.

    Raises:
        SystemExit: no control plane is built.
    """
    try:
        binaries = find()
    except MissingError as error:
        raise SystemExit(str(error)) from None
    with tempfile.TemporaryDirectory() as folder:
        audit = Path(folder, "no-audit.json")
        audit.write_text(json.dumps(_NO_AUDIT))
        flags = [
            f"--audit-policy-file={audit}",
            "--enable-priority-and-fairness=false",
            "--max-requests-inflight=0",
            "--max-mutating-requests-inflight=0",
            "--delete-collection-workers=8",
        ]
        run = Path(folder, "run")
        run.mkdir()
        with ControlPlane(binaries, run, flags=flags) as plane:
            yield plane


def start_scheduler(
    plane: ControlPlane, extenders: Sequence[JSON], profiles: Sequence[JSON] | None = None
) -> Program:
    """The default scheduler; looks at every node, and its own client does not hold it back."""
    user = plane.user("system:kube-scheduler")
    connection = {"kubeconfig": str(user.kubeconfig), "qps": 10_000, "burst": 20_000}
    return plane.start_scheduler(
        extenders,
        profiles=profiles,
        settings={"clientConnection": connection, "percentageOfNodesToScore": 100},
    )


def _connect(plane: ControlPlane) -> http.client.HTTPSConnection:
    config = json.loads(plane.kubeconfig.read_text())
    user = config["users"][0]["user"]
    tls = ssl.create_default_context(cafile=str(plane.ca_file))
    tls.load_cert_chain(user["client-certificate"], user["client-key"])
    address = urlsplit(plane.url)
    return http.client.HTTPSConnection(
        address.hostname or "", address.port, timeout=60, context=tls
    )


class Creator:
    """Creates and deletes objects on kept-alive connections, several at a time; close it."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._idle: SimpleQueue[http.client.HTTPSConnection] = SimpleQueue()

    def close(self) -> None:
        """Hang up."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait().close()

    def create_all(self, path: str, manifests: Sequence[JSON]) -> None:
        """POST all of them to that path."""
        with ThreadPoolExecutor(CREATORS) as pool:
            for _ in pool.map(lambda manifest: self.create(path, manifest), manifests):
                pass

    def create(self, path: str, manifest: JSON) -> None:
        """POST one.

        Raises:
            RuntimeError: the API server refuses.
        """
        self._request("POST", path, orjson.dumps(manifest))

    def delete(self, path: str) -> None:
        """DELETE one, at once.

        Raises:
            RuntimeError: the API server refuses.
        """
        self._request("DELETE", f"{path}?gracePeriodSeconds=0", None)

    def _request(self, method: str, path: str, body: bytes | None) -> None:
        try:
            connection = self._idle.get_nowait()
        except Empty:
            connection = _connect(self._plane)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        told = answer.read()
        self._idle.put(connection)
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {told[:300]!r}")


class _Meta(msgspec.Struct):
    name: str = ""
    version: str = msgspec.field(default="", name="resourceVersion")


class _Spec(msgspec.Struct):
    node: str = msgspec.field(default="", name="nodeName")


class _Pod(msgspec.Struct):
    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)


class _Event(msgspec.Struct):
    type: str
    object: _Pod


_events = msgspec.json.Decoder(_Event)


class Bindings:
    """When each pod of a namespace was bound, and where to, as a watch tells."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.at_s: dict[str, float] = {}
        """Pod -> `time.perf_counter()` of the moment we saw it bound."""
        self.node: dict[str, str] = {}
        self._changed = threading.Condition()
        self._plane = plane
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._version = ""
        self._closed = False
        self._open()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _open(self) -> None:
        query = f"watch=true&fieldSelector=spec.nodeName!=&resourceVersion={self._version}"
        with self._changed:
            if not self._closed:
                self._connection = _connect(self._plane)
                self._connection.request("GET", f"{self._pods}?{query}")
                self._answer = self._connection.getresponse()

    def _follow(self) -> None:
        while not self._closed:
            begun = b""
            with suppress(OSError, http.client.HTTPException):  # hung up by `close`
                # Not by lines: a line ends early between two chunks.
                while chunk := self._answer.read1(1 << 16):
                    now_s = time.perf_counter()
                    *lines, begun = (begun + chunk).split(b"\n")
                    self._seen([_events.decode(line) for line in lines], now_s)
            if not self._closed:  # the API server hangs up on those it finds slow
                self._answer.close()
                self._connection.close()
                self._open()

    def _seen(self, events: Sequence[_Event], now_s: float) -> None:
        with self._changed:
            for event in events:
                name = event.object.metadata.name
                self._version = event.object.metadata.version if event.type != "ERROR" else ""
                if event.type == "ADDED" and name not in self.at_s:
                    self.at_s[name] = now_s
                    self.node[name] = event.object.spec.node
            self._changed.notify_all()

    def wait(self, enough: Callable[[dict[str, float]], Any], timeout_s: float) -> bool:
        """Wait until the bindings are enough; whether they were in time."""
        with self._changed:
            return bool(self._changed.wait_for(lambda: enough(self.at_s), timeout_s))

    def close(self) -> None:
        """Watch no longer."""
        with self._changed:
            self._closed = True
            # Only this wakes the thread: what it reads from cannot be closed under it.
            if self._connection.sock is not None:
                self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._answer.close()
        self._connection.close()
