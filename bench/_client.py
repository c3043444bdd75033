"""A client that costs little: kept-alive blocking sockets and no HTTP library.

A round is always bounded in time, and everything goes to loopback.
"""

import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LOOPBACK = "127.0.0.1"
TIMEOUT_S = 30.0
_RECEIVE_BYTES = 1 << 16


class Connection:
    """One kept-alive connection on which requests take turns."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        plain = socket.create_connection((LOOPBACK, port), timeout=TIMEOUT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = plain if tls is None else tls.wrap_socket(plain, server_hostname=LOOPBACK)

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def send(self, path: str, body: bytes) -> None:
        """Begin a request."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nUser-Agent: Go-http-client/1.1\r\n"
            f"Content-Length: {len(body)}\r\nAccept: application/json, */*\r\n"
            "Content-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body)

    def receive(self) -> bytes:
        """The body of the answer.

        Raises:
            RuntimeError: the status is not 200.
        """
        data = self._more(b"")
        while (end := data.find(b"\r\n\r\n")) < 0:
            data = self._more(data)
        head = data[:end].lower()
        if not head.startswith(b"http/1.1 200 "):
            raise RuntimeError(f"answered {data[:200]!r}")
        length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        while len(data) < end + 4 + length:
            data = self._more(data)
        return data[end + 4 :]

    def _more(self, data: bytes) -> bytes:
        chunk = self._socket.recv(_RECEIVE_BYTES)
        if not chunk:
            raise RuntimeError("the server closed the connection")
        return data + chunk

    def ask(self, path: str, body: bytes) -> bytes:
        """One request, answered."""
        self.send(path, body)
        return self.receive()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


@dataclass(frozen=True, slots=True)
class Round:
    """What one round took."""

    latencies_s: Sequence[float]
    elapsed_s: float

    @property
    def per_s(self) -> float:
        """Requests per second."""
        return len(self.latencies_s) / self.elapsed_s


def one_by_one(connection: Connection, path: str, bodies: Iterator[bytes], for_s: float) -> Round:
    """Each request after the answer to the one before, as kube-scheduler asks an extender."""
    latencies_s = []
    begun_s = now_s = time.perf_counter()
    while now_s < begun_s + for_s:
        body = next(bodies)
        sent_s = time.perf_counter()
        connection.ask(path, body)
        now_s = time.perf_counter()
        latencies_s.append(now_s - sent_s)
    return Round(latencies_s, now_s - begun_s)


def saturating(
    connections: Sequence[Connection], path: str, bodies: Iterator[bytes], for_s: float
) -> Round:
    """One request under way on every connection all the time: the server never waits for us."""
    sent_s = {}
    for connection in connections:
        sent_s[connection] = time.perf_counter()
        connection.send(path, next(bodies))
    latencies_s = []
    begun_s = now_s = time.perf_counter()
    while now_s < begun_s + for_s:
        for connection in connections:
            connection.receive()
            now_s = time.perf_counter()
            latencies_s.append(now_s - sent_s[connection])
            sent_s[connection] = now_s
            connection.send(path, next(bodies))
    elapsed_s = now_s - begun_s
    for connection in connections:
        connection.receive()
    return Round(latencies_s, elapsed_s)


def paced(
    connections: Sequence[Connection],
    path: str,
    bodies: Iterator[bytes],
    *,
    per_s: float,
    for_s: float,
) -> Round:
    """So many requests a second whatever the server does, each timed from when it was due.

    A server that falls behind is given twice the time; what is not even sent then counts with the
    time by which it is late.
    """
    idle = deque(connections)
    due_s: dict[Connection, float] = {}
    latencies_s: list[float] = []
    total = int(per_s * for_s)
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ, connection)
        begun_s = time.perf_counter()
        sent = answered = 0
        while True:
            next_due_s, now_s = begun_s + sent / per_s, time.perf_counter()
            may_send = sent < total and bool(idle) and now_s < begun_s + 2 * for_s
            if not may_send and answered == sent:
                break
            if may_send and now_s >= next_due_s:
                connection = idle.popleft()
                due_s[connection] = next_due_s
                connection.send(path, next(bodies))
                sent += 1
                continue
            for key, _ in selector.select(next_due_s - now_s if may_send else None):
                connection = key.data
                connection.receive()
                latencies_s.append(time.perf_counter() - due_s[connection])
                idle.append(connection)
                answered += 1
        ended_s = time.perf_counter()
    latencies_s += [ended_s - begun_s - number / per_s for number in range(sent, total)]
    return Round(latencies_s, ended_s - begun_s)
