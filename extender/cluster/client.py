"""Raw requests to the API server: bytes in, bytes out. The caller decodes only what it needs."""

import asyncio
import re
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from extender.cluster.access import SERVICE_ACCOUNT, Access, log_in
from extender.cluster.errors import Unreachable, Unreadable, cut, refusal

Params = Mapping[str, str]

_CONNECT_S = 10.0
_ANSWER_S = 60.0
_REFUSAL_BYTES = 64 * 1024
_LINE_BYTES = 16 * 1024 * 1024
_READ_BUFFER_BYTES = 1024 * 1024
_TLS_OBJECT = re.compile(r" ssl:(default|True|<[^>]*>)")  # in aiohttp's messages: noise
_NO_TOTAL = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)


class Stream:
    """The lines of an answer that does not end soon. Iterate over it once.

    A line of any length up to `line_bytes` is one `bytes` without its newline. The iteration ends
    where the server ends the answer between two lines.

    Attributes:
        status: HTTP status, 2xx.
        headers: of the answer, case-insensitive.

    Raises, while iterating:
        Unreachable: the connection broke, or the answer ended inside a line.
        Unreadable: a line is longer than `line_bytes`.
    """

    def __init__(self, response: aiohttp.ClientResponse, what: str, line_bytes: int) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._content = response.content
        self._what = what
        self._line_bytes = line_bytes
        self._lines: deque[bytes] = deque()
        self._begun: list[bytes] = []
        self._begun_bytes = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._lines:
            with _translated(self._what):
                chunk = await self._content.readany()
            if not chunk:
                if self._begun:
                    raise Unreachable(f"{self._what}: the answer ended inside a line")
                raise StopAsyncIteration
            self._split(chunk)
        return self._lines.popleft()

    def _split(self, chunk: bytes) -> None:
        head, *rest = chunk.split(b"\n")
        self._begin(head)
        if rest:
            self._lines.append(b"".join(self._begun))
            self._lines.extend(rest[:-1])
            self._begun, self._begun_bytes = [], 0
            self._begin(rest[-1])

    def _begin(self, piece: bytes) -> None:
        if piece:
            self._begun.append(piece)
            self._begun_bytes += len(piece)
            if self._begun_bytes > self._line_bytes:
                raise Unreadable(f"{self._what}: a line of more than {self._line_bytes} bytes")


class _Version(msgspec.Struct, rename="camel"):
    git_version: str


class ApiClient:
    """A connection to one API server: `async with connect(None) as client:`.

    Every method raises `ApiError` for an answer outside 2xx and `Unreachable` for none; nothing of
    aiohttp comes through. Redirects are not followed: our credentials are for this server.
    """

    def __init__(self, login: Callable[[], Awaitable[Access]]) -> None:
        self._login = login

    async def __aenter__(self) -> Self:
        self._access = await self._login()
        headers = {"Accept": "application/json", "User-Agent": "migfit"}
        if self._access.in_cluster:
            headers["Accept-Encoding"] = "identity"  # gzip costs both sides more than the network
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, socket_factory=_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            read_bufsize=_READ_BUFFER_BYTES,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    @property
    def server(self) -> str:
        """URL of the API server."""
        return self._access.url

    @property
    def namespace(self) -> str | None:
        """Namespace of the pod we run in; None outside a cluster."""
        return self._access.namespace

    async def server_version(self) -> str:
        """As the server spells it: `v1.37.0`.

        Raises:
            Unreadable: what answers there is no API server.
        """
        try:
            return msgspec.json.decode(await self.get("/version"), type=_Version).git_version
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"{self.server}/version: this is no API server") from error

    async def get(self, path: str, params: Params | None = None) -> bytes:
        """Body of a GET, whole, within 60 s."""
        return await self.request("GET", path, params=params)

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content_type: str = "application/json",
        params: Params | None = None,
    ) -> bytes:
        """Body of the answer to that, whole, within 60 s."""
        what = f"{method} {path}"
        headers = {} if body is None else {"Content-Type": content_type}
        send = partial(self._session.request, method, self.server + path, params=params, data=body)
        try:
            async with asyncio.timeout(_ANSWER_S), self._answer(what, send, headers) as response:
                with _translated(what):
                    return await response.read()
        except TimeoutError as error:
            raise Unreachable(f"{what}: no answer within {_ANSWER_S:.0f} s") from error

    @asynccontextmanager
    async def stream(
        self, path: str, params: Params | None = None, *, line_bytes: int = _LINE_BYTES
    ) -> AsyncIterator[Stream]:
        """The lines of a GET that may last for hours (a watch).

        The answer must begin within 60 s; how long a silence after that is too long only the caller
        knows (`asyncio.timeout`).
        """
        what = f"GET {path}"
        send = partial(self._session.get, self.server + path, params=params)
        async with self._answer(what, send, {}) as response:
            yield Stream(response, what, line_bytes)

    @asynccontextmanager
    async def _answer(
        self,
        what: str,
        send: Callable[..., Awaitable[aiohttp.ClientResponse]],
        headers: dict[str, str],
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        response = await self._begin(what, send, headers)
        try:
            if response.status == HTTPStatus.UNAUTHORIZED and await self._access.renew():
                response.close()
                response = await self._begin(what, send, headers)
            if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
                raise await _refused(what, response)
            yield response
        finally:
            # A body read to its end has already given its connection back; any other is cut.
            response.close()

    async def _begin(
        self,
        what: str,
        send: Callable[..., Awaitable[aiohttp.ClientResponse]],
        headers: dict[str, str],
    ) -> aiohttp.ClientResponse:
        proof = await self._access.authorization()
        with _translated(what):
            async with asyncio.timeout(_ANSWER_S):
                return await send(
                    headers=headers | ({"Authorization": proof} if proof else {}),
                    timeout=_NO_TOTAL,
                    allow_redirects=False,
                    ssl=self._access.tls or True,
                    proxy=self._access.proxy,
                    server_hostname=self._access.server_name,
                )


def connect(kubeconfig: Path | None, *, service_account: Path = SERVICE_ACCOUNT) -> ApiClient:
    """A client that logs in when entered, as `log_in` says; entering raises `KubeconfigError`."""
    return ApiClient(partial(log_in, kubeconfig, service_account))


async def _refused(what: str, response: aiohttp.ClientResponse) -> Exception:
    body = b""
    with suppress(Unreachable), _translated(what):  # the status is worth more than the text
        async with asyncio.timeout(_CONNECT_S):
            while len(body) < _REFUSAL_BYTES and (piece := await response.content.readany()):
                body += piece
    phrase = response.reason or ""
    return refusal(response.status, phrase, body, response.headers.get("Retry-After"))


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turns what aiohttp and the sockets raise into `Unreachable`."""
    try:
        yield
    except TimeoutError as error:
        raise Unreachable(f"{what}: no answer in time") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        said = cut(_TLS_OBJECT.sub("", str(error))) or type(error).__name__
        raise Unreachable(f"{what}: {said}") from error


def _socket(address: tuple[int, int, int, str, object]) -> socket.socket:
    """A socket that finds out within a minute that the other side has gone without a word."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        with suppress(AttributeError, OSError):  # not on every platform
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made
