"""A cluster's DNS and kube-proxy: names of Services lead to sockets that are really there."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

    Address = tuple[str, int]


def routed(monkeypatch: pytest.MonkeyPatch, routes: Mapping[Address, Address]) -> list[str]:
    """Whoever connects to the name and port of a Service gets to an address behind it.

    Other names of Services are unknown, everything else is resolved as ever.

    Returns:
        The names that are asked for, as they come.
    """
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *args: Any, **flags: Any) -> Any:
        asked.append(host)
        if (host, port) in routes:
            return resolve(*routes[host, port], *args, **flags)
        if host.endswith(".svc"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, port, *args, **flags)

    resolve = _RESOLVE
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


_RESOLVE = socket.getaddrinfo
