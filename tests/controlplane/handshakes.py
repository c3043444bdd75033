"""Callers of the webhook who believe for a while longer what they read about whom to trust."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from tests.controlplane.keeping import bundles_of

if TYPE_CHECKING:
    from tests.controlplane.migfit import Migfit
    from tests.controlplane.plane import ControlPlane

CONFIGURATION = "migfit"
BEHIND_S = 0.5
"""How far an API server may be behind; less than settle_s."""


class Handshakes:
    """New connections to each replica by callers that are behind, while the `with` lasts."""

    def __init__(self, plane: ControlPlane, fleet: list[Migfit]) -> None:
        self._plane, self._ports = plane, [each.ports.webhook for each in fleet]
        self._stop = threading.Event()
        self._seen: list[tuple[float, bytes]] = []
        self.leaves: list[set[bytes]] = [set() for _ in fleet]
        self.bundles: list[bytes] = []
        self.done = 0
        self.failed: list[str] = []

    def __enter__(self) -> Self:
        self._look()
        self._pool = ThreadPoolExecutor(1)
        self._work = self._pool.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        self._work.result()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._look()
            for index, port in enumerate(self._ports):
                since_s = time.monotonic() - BEHIND_S
                self._seen = [each for each in self._seen if each[0] >= since_s] or self._seen[-1:]
                self._shake(index, port, self._seen[0][1])

    def _look(self) -> None:
        asked_s = time.monotonic()
        configuration = self._plane.client.get("MutatingWebhookConfiguration", CONFIGURATION)
        bundle = bundles_of(configuration)[0]
        self._seen.append((asked_s, bundle))
        if bundle not in self.bundles:
            self.bundles.append(bundle)

    def _shake(self, index: int, port: int, bundle: bytes) -> None:
        tls = ssl.create_default_context(cadata=bundle.decode())
        try:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
                tls.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
            ):
                self.leaves[index].add(connection.getpeercert(binary_form=True) or b"")
            self.done += 1
        except OSError as error:
            self.failed.append(f"{port}: {error}")
