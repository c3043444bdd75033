"""The production server as a process: started, watched, listened to, stopped by its handle."""

import asyncio
import contextlib
import os
import socket
import sys
from collections import deque
from pathlib import Path
from typing import Any, Self

import aiohttp
import orjson

from extender.demo.certificate import Certificate

START_S = 60.0
"""How long the server may take until it is ready."""
AUDIT_S = 5.0
"""How long an audit line may come after the reply it tells of."""
_POLL_S = 0.05
_LINE = 8 << 20


class ServerFailedError(Exception):
    """The server did not start, or ended while it was needed. One line."""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listened on a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


class Server:
    """`migfit serve` on loopback, for as long as its `async with`.

    Args:
        config: file with the MigfitConfiguration.
        certificate: what the webhook shows.
        command: what to run instead of `python -m extender.cli serve`.
    """

    def __init__(
        self, config: Path, certificate: Certificate, *, command: tuple[str, ...] = ()
    ) -> None:
        self.webhook_port, self.extender_port, self.ops_port = free_ports(3)
        self._config = config
        self._certificate = certificate
        self._command = command or (sys.executable, "-m", "extender.cli", "serve")
        self._stderr: deque[str] = deque(maxlen=50)
        self._audit: dict[str, dict[str, Any]] = {}
        self._news = asyncio.Condition()
        self._ended = False
        self._readers: list[asyncio.Task[None]] = []

    @property
    def webhook_url(self) -> str:
        """Where the API server sends reviews."""
        return f"https://127.0.0.1:{self.webhook_port}/mutate"

    @property
    def extender_url(self) -> str:
        """What kube-scheduler has as `urlPrefix`."""
        return f"http://127.0.0.1:{self.extender_port}/scheduler"

    @property
    def pid(self) -> int:
        """Of the process, once started."""
        return self._process.pid

    async def start(self, kubeconfig: Path) -> Self:
        """Start the server and wait until it is ready.

        Raises:
            ServerFailedError: it ended, or was not ready in time; with its last line on stderr.
        """
        flags: dict[str, object] = {
            "--config": self._config,
            "--kubeconfig": kubeconfig,
            "--tls-cert": self._certificate.cert,
            "--tls-key": self._certificate.key,
            "--webhook-port": self.webhook_port,
            "--extender-port": self.extender_port,
            "--ops-port": self.ops_port,
            "--bind": "127.0.0.1",
        }
        words = [str(word) for flag in flags.items() for word in flag]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=_environment(),
                limit=_LINE,
            )
        except OSError as error:
            raise ServerFailedError(f"the server did not start: {error}") from error
        self._readers = [
            asyncio.create_task(self._read_audit(), name="audit"),
            asyncio.create_task(self._read_stderr(), name="stderr"),
        ]
        try:
            async with asyncio.timeout(START_S):
                await self._ready()
        except TimeoutError:
            await self.stop()
            raise self._failure(f"the server was not ready after {START_S:.0f} s") from None
        except BaseException:
            await self.stop()
            raise
        return self

    async def _ready(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    url = f"http://127.0.0.1:{self.ops_port}/readyz"
                    async with session.get(url) as response:
                        if response.status == 200:  # noqa: PLR2004  ready
                            return
                if self._ended or self._process.returncode is not None:
                    code = await self._process.wait()
                    await asyncio.gather(*self._readers)
                    raise self._failure(f"the server did not start (exit {code})")
                await asyncio.sleep(_POLL_S)

    async def decision(self, uid: str) -> dict[str, Any]:
        """The audit line of one review. Each can be had once.

        Raises:
            ServerFailedError: it did not come.
        """
        try:
            async with asyncio.timeout(AUDIT_S), self._news:
                await self._news.wait_for(lambda: uid in self._audit or self._ended)
        except TimeoutError:
            raise self._failure(f"the server wrote no audit line for review {uid}") from None
        if uid not in self._audit:
            raise self._failure("the server ended")
        return self._audit.pop(uid)

    async def stop(self) -> None:
        """End the process at once: it keeps no state, and nobody waits for an answer."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()
        await asyncio.gather(*self._readers)

    async def _read_audit(self) -> None:
        async for line in _lines(self._process.stdout):
            with contextlib.suppress(orjson.JSONDecodeError):
                entry = orjson.loads(line)
                if isinstance(entry, dict) and entry.get("event") == "admission":
                    async with self._news:
                        self._audit[str(entry.get("id"))] = entry
                        self._news.notify_all()
        async with self._news:
            self._ended = True
            self._news.notify_all()

    async def _read_stderr(self) -> None:
        async for line in _lines(self._process.stderr):
            if shown := _plain(line):
                self._stderr.append(shown)

    def _failure(self, what: str) -> ServerFailedError:
        return ServerFailedError(f"{what}: {self._stderr[-1]}" if self._stderr else what)


async def _lines(stream: asyncio.StreamReader | None) -> Any:
    while stream is not None and (line := await stream.readline()):
        yield line


def _plain(line: bytes) -> str:
    """A line of a log as text that cannot do anything to a terminal."""
    text = line.decode("utf-8", "replace").strip()
    return "".join(c if c.isprintable() else " " for c in text)


def _environment() -> dict[str, str]:
    """Ours, without settings meant for a real server, and without a proxy on loopback."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MIGFIT_")}
    for name in ("no_proxy", "NO_PROXY"):
        kept[name] = ",".join(filter(None, [kept.get(name, ""), "127.0.0.1", "localhost"]))
    return {**kept, "NO_COLOR": "1"}
