"""Clients nobody wants: malformed requests, connections left half open, huge bodies, crowds.

Each attack is a coroutine that says what became of what it sent. While one runs, a `Pulse` asks for
/healthz on a connection of its own, as the kubelet does.
"""

import asyncio
import http.client
import random
import ssl
import threading
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson

LOOPBACK = "127.0.0.1"
HUNG_S = 20.0
"""Longer than anything that a port waits for."""
APART_S = 0.01
"""Between two pieces, so that they are read as two."""
AT_ONCE = 50
"""Clients that send malformed requests side by side."""
SHAKING = 200
"""Handshakes of a crowd side by side: one client has one core for all of them."""
PATHS = {"webhook": "/mutate", "extender": "/scheduler/prioritize", "ops": "/healthz"}
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """A running `migfit serve`."""

    pid: int
    ports: Mapping[str, int]
    """By name: webhook, extender, ops."""
    tls: ssl.SSLContext
    """Trusts the webhook."""
    review: bytes
    """An AdmissionReview that it answers."""

    def trust(self, name: str) -> ssl.SSLContext | None:
        """For a connection to that port."""
        return self.tls if name == "webhook" else None


def request(method: str, path: str, body: bytes = b"", *fields: str) -> bytes:
    """A request, with more header fields."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(body)}",
        *fields,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def exchange(target: Target, name: str, *pieces: bytes) -> str:
    """What comes of these bytes on a connection of their own: a status, `closed` or `hung`."""
    try:
        async with asyncio.timeout(HUNG_S):
            reader, writer = await asyncio.open_connection(
                LOOPBACK, target.ports[name], ssl=target.trust(name)
            )
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(APART_S)
                head = await reader.readline()
            finally:
                writer.transport.abort()
            return head.split()[1].decode() if head.startswith(b"HTTP/1.") else "closed"
    except TimeoutError:
        return "hung"
    except OSError:
        return "closed"


# --- malformed requests --------------------------------------------------------------------------


def malformed(dice: random.Random, name: str, review: bytes) -> bytes:
    """A request that nobody in his right mind sends, complete as far as it can be."""
    path = PATHS[name]
    at = dice.randrange(1, len(review))
    kinds: list[Callable[[], bytes]] = [
        lambda: dice.randbytes(dice.randrange(1, 300)) + b"\r\n\r\n",
        lambda: request("POST", path, dice.randbytes(dice.randrange(300))),
        lambda: request("POST", path, review[:at]),
        lambda: request("POST", path, review[:at] + b"\xff" + review[at + 1 :]),
        lambda: request("POST", path, b"[" * dice.randrange(2000, 100_000)),
        lambda: request("POST", path, b'{"a":' * 5000 + b"1" + b"}" * 5000),
        lambda: request("POST", path, zlib.compress(review), "Content-Encoding: deflate"),
        lambda: request("POST", path, orjson.dumps({"kind": "AdmissionReview", "Pod": [None]})),
        lambda: request("BREW", path) + request("GET", "/../" * 100),
        lambda: request("GET", path, b"", "X: " + "x" * 100_000),
        lambda: request("GET", path, b"", *["X: x"] * 1000),
        lambda: request("POST", path, b"x", "Transfer-Encoding: chunked") + b"zz\r\n",
        lambda: request("POST", path, b"", "Content-Length: -1"),
        lambda: request("POST", path, b"", "Expect: x").replace(b"t: x", b"t: \xff"),
    ]
    return dice.choice(kinds)()


async def storm(target: Target, name: str, count: int, seed: int = 1) -> Counter[str]:
    """So many malformed requests; outcomes."""
    dice = random.Random(seed)
    bodies = iter(
        [malformed(dice, name, target.review) for _ in range(min(count, 1000))]
        * (count // 1000 + 1)
    )
    outcomes: Counter[str] = Counter()
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            outcomes[await exchange(target, name, next(bodies))] += 1

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return outcomes


# --- half-open connections -----------------------------------------------------------------------

HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""How a ClientHello begins."""


async def half_open(target: Target, name: str, count: int, for_s: float) -> Counter[str]:
    """So many connections that say nothing, or begin and never end; held for a while.

    Meanwhile good requests are sent one after the other, and it is their outcomes that count.
    """
    trust = target.trust(name)
    beginnings = [b"", HELLO if trust else b"POST /", b"GET / HTTP/1.1\r\nHost: a\r\nX-Half: "]

    async def open_one(number: int) -> asyncio.StreamWriter | None:
        beginning = beginnings[number % len(beginnings)]
        through = trust if beginning.startswith(b"GET") else None
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(HUNG_S):
                _, writer = await asyncio.open_connection(LOOPBACK, target.ports[name], ssl=through)
                writer.write(beginning)
                return writer
        return None

    begun_s = time.monotonic()
    opening = [asyncio.create_task(open_one(number)) for number in range(count)]
    outcomes: Counter[str] = Counter()
    while time.monotonic() < begun_s + for_s or not all(task.done() for task in opening):
        outcomes[await exchange(target, name, good(target, name))] += 1
        await asyncio.sleep(0.02)
    for task in opening:
        if (writer := await task) is not None:
            writer.transport.abort()
    return outcomes


def good(target: Target, name: str) -> bytes:
    """A request that is answered with 200."""
    if name == "webhook":
        return request("POST", "/mutate", target.review)
    if name == "extender":
        return request("POST", PATHS[name], b'{"Pod":{},"NodeNames":["a"]}')
    return request("GET", "/readyz")


# --- huge bodies and crowds ----------------------------------------------------------------------


async def huge(target: Target, name: str, count: int, mib: int = 50) -> Counter[str]:
    """So many bodies of that size, four at a time, honest about their length or in chunks."""
    path, piece = PATHS[name], b" " * MIB
    outcomes: Counter[str] = Counter()
    left = iter(range(count))

    async def send(chunked: bool) -> str:
        try:
            async with asyncio.timeout(HUNG_S):
                reader, writer = await asyncio.open_connection(
                    LOOPBACK, target.ports[name], ssl=target.trust(name)
                )
                length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {mib * MIB}"
                head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n"
                try:
                    writer.write(head.encode())
                    with suppress(
                        OSError
                    ):  # refused before it was sent: what matters is the answer
                        for _ in range(mib):
                            writer.write(b"%x\r\n%s\r\n" % (MIB, piece) if chunked else piece)
                            await writer.drain()
                        writer.write(b"0\r\n\r\n" if chunked else b"")
                    line = await reader.readline()
                finally:
                    writer.transport.abort()
                return line.split()[1].decode() if line.startswith(b"HTTP/1.") else "closed"
        except TimeoutError:
            return "hung"
        except OSError:
            return "closed"

    async def client() -> None:
        for number in left:
            outcomes[await send(number % 2 == 0)] += 1

    await asyncio.gather(*(client() for _ in range(4)))
    return outcomes


async def unfinished(target: Target, name: str, count: int, mib: int = 7) -> Counter[str]:
    """So many bodies of which the last MiB does not come.

    While they are sent, and a little longer, good requests are sent one after the other, each body
    after its head, as Go does with a larger one, and it is their outcomes that count.
    """
    head = f"POST {PATHS[name]} HTTP/1.1\r\nHost: a\r\nContent-Length: {(mib + 1) * MIB}\r\n\r\n"

    async def send_one() -> asyncio.StreamWriter | None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(HUNG_S):
                _, writer = await asyncio.open_connection(
                    LOOPBACK, target.ports[name], ssl=target.trust(name)
                )
                writer.write(head.encode())
                for _ in range(mib):
                    writer.write(b" " * MIB)
                    await writer.drain()
                return writer
        return None

    sending = [asyncio.create_task(send_one()) for _ in range(count)]
    asked = good(target, name)
    body_at = asked.index(b"\r\n\r\n") + 4
    outcomes: Counter[str] = Counter()
    more = 5
    while more or not all(task.done() for task in sending):
        more -= all(task.done() for task in sending)
        outcomes[await exchange(target, name, asked[:body_at], asked[body_at:])] += 1
    for task in sending:
        if (writer := await task) is not None:
            writer.transport.abort()
    return outcomes


async def dense(target: Target, name: str, count: int, mib: int = 7) -> Counter[str]:
    """So many bodies of JSON that takes thirty times its size when it is read, four at a time."""
    body = b'{"Pod":{"a":[' + b"{}," * (mib * MIB // 3) + b"0]}}"
    data = request("POST", PATHS[name], body)
    outcomes: Counter[str] = Counter()
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            outcomes[await exchange(target, name, data)] += 1

    await asyncio.gather(*(client() for _ in range(4)))
    return outcomes


async def crowd(target: Target, count: int) -> Counter[str]:
    """So many reviews, each on a connection of its own, all at the same time."""
    data = request("POST", "/mutate", target.review)
    shaking = asyncio.Semaphore(SHAKING)
    asked = [exchange_patiently(target, data, shaking) for _ in range(count)]
    return Counter(await asyncio.gather(*asked))


async def exchange_patiently(target: Target, data: bytes, shaking: asyncio.Semaphore) -> str:
    """As `exchange`, but for as long as it takes: in a crowd the client is what is slow."""
    try:
        async with asyncio.timeout(300):
            async with shaking:
                reader, writer = await asyncio.open_connection(
                    LOOPBACK, target.ports["webhook"], ssl=target.tls
                )
            try:
                writer.write(data)
                head = await reader.readline()
            finally:
                writer.transport.abort()
            return head.split()[1].decode() if head.startswith(b"HTTP/1.") else "closed"
    except TimeoutError:
        return "hung"
    except OSError:
        return "closed"


# --- looking on ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Pulse:
    """How soon /healthz answered, each time on a new connection."""

    latencies_s: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def worst_ms(self) -> float:
        """The longest that it took."""
        return 1000 * max(self.latencies_s, default=0.0)


@contextmanager
def pulse(target: Target, every_s: float = 0.05) -> Iterator[Pulse]:
    """Ask all the time, from a thread."""
    found, stop = Pulse(), threading.Event()

    def ask() -> None:
        last = False
        while not last:
            last = stop.wait(every_s)  # asked once more when it is over, however soon that was
            begun_s = time.perf_counter()
            connection = http.client.HTTPConnection(LOOPBACK, target.ports["ops"], timeout=HUNG_S)
            try:
                connection.request("GET", "/healthz")
                found.failed += connection.getresponse().status != 200
            except OSError:
                found.failed += 1
            finally:
                connection.close()
            found.latencies_s.append(time.perf_counter() - begun_s)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def resident_mb(pid: int) -> float:
    """In 10^6 bytes."""
    return _status_mb(pid, "VmRSS")


def peak_mb(pid: int) -> float:
    """The most since `forget_peak`."""
    return _status_mb(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Begin to look for the peak anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status_mb(pid: int, row: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{row}:"))


Attack = Callable[[], Awaitable[Counter[str]]]


@dataclass(frozen=True, slots=True)
class Survived:
    """What an attack came to."""

    outcomes: Counter[str]
    before_mb: float
    peak_mb: float
    after_mb: float
    pulse: Pulse


def survive(target: Target, attack: Attack) -> Survived:
    """Run an attack, and look on."""
    before_mb = resident_mb(target.pid)
    forget_peak(target.pid)

    async def run() -> Counter[str]:
        return await attack()

    with pulse(target) as found:
        outcomes = asyncio.run(run())
    return Survived(outcomes, before_mb, peak_mb(target.pid), resident_mb(target.pid), found)
