"""An API server that is not the limit: lists rendered beforehand, watch events at a given pace.

A process of its own with a thread for each connection, which writes bytes and computes nothing.
"""

import json
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bench._cluster import JSON, NAMESPACE
from bench._inventory import node_events, node_json, pages, pod_events, pod_json
from bench._servers import LOOPBACK, Pair

PODS_OF_EVENTS = 0.85
"""The rest are of nodes."""
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@dataclass(frozen=True, slots=True)
class Dials:
    """What the benchmark tells the server while it runs, and reads from it; numbers in `value`.

    Attributes:
        events_per_s: over all watches.
        first_list_s: `time.monotonic()` of the first list request since this was set to 0.
        sent: events so far.
    """

    events_per_s: Any
    first_list_s: Any
    sent: Any


def dials() -> Dials:
    """Dials for one server."""
    shared = get_context("spawn").Value
    return Dials(shared("d", 0.0), shared("d", 0.0), shared("d", 0.0))


def kubeconfig(folder: Path, port: int, pair: Pair) -> Path:
    """A kubeconfig (JSON is YAML) that leads to the server."""
    cluster = {"server": f"https://{LOOPBACK}:{port}", "certificate-authority": str(pair.authority)}
    document = {
        "current-context": "bench",
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "clusters": [{"name": "bench", "cluster": cluster}],
        "users": [{"name": "bench", "user": {"token": "bench"}}],
    }
    file = folder / "kubeconfig"
    file.write_text(json.dumps(document))
    return file


@dataclass(frozen=True, slots=True)
class _Collection:
    pages: Sequence[bytes]
    events: Sequence[bytes] = ()
    share: float = 0.0
    """Of all events."""


def _collections(nodes: int, pods: int) -> Mapping[str, _Collection]:
    namespace: JSON = {"metadata": {"name": NAMESPACE, "uid": "n", "resourceVersion": "1"}}
    return {
        "nodes": _Collection(
            pages("Node", (node_json(number) for number in range(nodes))),
            node_events(nodes),
            1 - PODS_OF_EVENTS,
        ),
        "pods": _Collection(
            pages("Pod", (pod_json(number, nodes) for number in range(pods))),
            pod_events(pods, nodes),
            PODS_OF_EVENTS,
        ),
        "namespaces": _Collection(pages("Namespace", iter([json.dumps(namespace).encode()]))),
        "resourcequotas": _Collection(pages("ResourceQuota", iter(()))),
        "limitranges": _Collection(pages("LimitRange", iter(()))),
    }


def serve_cluster(port: int, nodes: int, pods: int, cert: Path, key: Path, turned: Dials) -> None:
    """Serve until killed."""
    collections = _collections(nodes, pods)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    with socket.create_server((LOOPBACK, port), backlog=64) as listener:
        while True:
            accepted, _ = listener.accept()
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(accepted, tls, collections, turned)
            threading.Thread(target=connection.serve, daemon=True).start()


class _Connection:
    """One client, until it hangs up."""

    def __init__(
        self,
        accepted: socket.socket,
        tls: ssl.SSLContext,
        collections: Mapping[str, _Collection],
        turned: Dials,
    ) -> None:
        self._accepted = accepted
        self._tls = tls
        self._collections = collections
        self._dials = turned

    def serve(self) -> None:
        # Whoever only looks whether we listen speaks no TLS.
        with suppress(OSError), self._tls.wrap_socket(self._accepted, server_side=True) as made:
            self._socket = made
            for target in self._targets():
                self._answer(target)

    def _targets(self) -> Iterator[str]:
        data = b""
        while True:
            while (end := data.find(b"\r\n\r\n")) < 0:
                chunk = self._socket.recv(1 << 16)
                if not chunk:
                    return
                data += chunk
            yield data[:end].split(b" ", 2)[1].decode()
            data = data[end + 4 :]

    def _answer(self, target: str) -> None:
        url = urlsplit(target)
        asked = parse_qs(url.query)
        collection = self._collections.get(url.path.rpartition("/")[2])
        if collection is None:  # a kind that not every cluster has
            self._socket.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        if "watch" in asked:
            self._socket.sendall(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            self._watch(collection)
            return
        if not self._dials.first_list_s.value:
            self._dials.first_list_s.value = time.monotonic()
        page = collection.pages[int(asked.get("continue", ["0"])[0])]
        self._socket.sendall(_HEAD + b"Content-Length: %d\r\n\r\n" % len(page))
        self._socket.sendall(page)

    def _watch(self, collection: _Collection) -> None:
        if not collection.share:
            threading.Event().wait()
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            number = 0
            due_s = time.monotonic()
            while not selector.select(max(0.0, due_s - time.monotonic())):  # it hangs up: readable
                rate = self._dials.events_per_s.value * collection.share
                now_s = time.monotonic()
                if not rate:
                    due_s = now_s + 0.05
                    continue
                event = collection.events[number % len(collection.events)]
                self._socket.sendall(b"%x\r\n%b\r\n" % (len(event), event))
                number += 1
                with self._dials.sent.get_lock():
                    self._dials.sent.value += 1
                due_s = max(due_s + 1 / rate, now_s - 1.0)
