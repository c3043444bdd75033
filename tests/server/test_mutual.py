"""The extender beyond loopback: HTTPS, to callers with a certificate by the right authority."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from structlog.testing import capture_logs

from extender.server.listen import listening
from extender.server.mutual import Mutual
from extender.server.tls import Certificate
from tests.server.conftest import Start
from tests.server.serving import HOST, Pair, Wire
from tests.server.test_tls import ECDSA, RSA, serial, shown

CLOSED = (ssl.SSLError, ConnectionError, AssertionError)
"""How a refusal shows: by TLS 1.3 a client hears of it when it first reads."""

Caller = Callable[[trustme.CA | None], ssl.SSLContext]


@pytest.fixture(scope="session")
def schedulers() -> trustme.CA:
    """Who signs the certificates of schedulers."""
    return trustme.CA()


@pytest.fixture(scope="session")
def others() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def caller(authority: trustme.CA) -> Caller:
    """The client's side, with a certificate by that authority or none."""

    def made(signer: trustme.CA | None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        if signer is not None:
            signer.issue_cert("kube-scheduler").configure_cert(context)
        return context

    return made


@pytest.fixture
def client_ca(tmp_path: Path, schedulers: trustme.CA) -> Path:
    file = tmp_path / "clients.crt"
    schedulers.cert_pem.write_to_path(file)
    return file


@pytest.fixture
def live(pair: Pair) -> Certificate:
    return Certificate(pair.cert, pair.key)


@pytest.fixture
def asking(live: Certificate, client_ca: Path) -> Mutual:
    return Mutual(live, client_ca)


@pytest.fixture
async def port(asking: Mutual) -> AsyncIterator[int]:
    """A listener that answers `ok` to those it lets in."""

    async def ok(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application()
    app.router.add_get("/", ok)
    async with listening(app, HOST, 0, tls=asking.context, drain_s=0.1) as taken:
        yield taken


def _answered(port: int, tls: ssl.SSLContext) -> bool:
    try:
        with Wire(port, tls) as wire:
            return wire.ask("GET", "/").status == 200
    except CLOSED:
        return False


def damaged(file: Path, damage: str) -> None:
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "no PEM": b"\xffhello\n"}[damage])


async def answered(port: int, tls: ssl.SSLContext) -> bool:
    return await asyncio.to_thread(_answered, port, tls)


async def test_a_caller_with_the_right_certificate_is_answered_and_nobody_else(
    port: int, caller: Caller, schedulers: trustme.CA, others: trustme.CA, authority: trustme.CA
) -> None:
    assert await answered(port, caller(schedulers))

    assert not await answered(port, caller(None))
    assert not await answered(port, caller(others))
    assert not await answered(
        port, caller(authority)
    )  # who signs for servers, signs not for callers


async def test_who_is_put_into_the_file_may_call_and_who_is_taken_out_may_not(
    port: int,
    asking: Mutual,
    client_ca: Path,
    caller: Caller,
    schedulers: trustme.CA,
    others: trustme.CA,
) -> None:
    others.cert_pem.write_to_path(client_ca, append=True)
    assert asking.reload()
    assert await answered(port, caller(schedulers))
    assert await answered(port, caller(others))

    open_one = await asyncio.to_thread(Wire, port, caller(schedulers))
    assert (await asyncio.to_thread(open_one.ask, "GET", "/")).status == 200
    others.cert_pem.write_to_path(client_ca)
    assert asking.reload()
    assert not asking.reload()  # nothing new

    assert await answered(port, caller(others))
    assert not await answered(port, caller(schedulers))
    with open_one:
        assert (await asyncio.to_thread(open_one.ask, "GET", "/")).status == 200


async def test_a_session_cannot_be_taken_up_again_without_a_certificate(
    port: int, caller: Caller, schedulers: trustme.CA
) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        tls = caller(schedulers)
        tls.minimum_version = tls.maximum_version = version
        with await asyncio.to_thread(Wire, port, tls) as wire:
            await asyncio.to_thread(wire.ask, "GET", "/")
            assert isinstance(wire.socket, ssl.SSLSocket)
            session = wire.socket.session

        assert session is None or not session.has_ticket


@pytest.mark.parametrize("kind", [ECDSA, RSA])
async def test_it_shows_the_webhooks_certificate_also_when_that_is_renewed(
    port: int,
    live: Certificate,
    pair: Pair,
    caller: Caller,
    schedulers: trustme.CA,
    kind: trustme.KeyType,
) -> None:
    async def seen() -> int:
        with await asyncio.to_thread(Wire, port, caller(schedulers)) as wire:
            return shown(wire)

    first = serial(pair)
    assert await seen() == first

    pair.issue(kind)
    assert live.reload()

    assert await seen() == serial(pair) != first


@pytest.mark.parametrize("damage", ["gone", "empty", "no PEM"])
async def test_a_file_that_cannot_be_used_leaves_who_may_call_as_it_was(
    port: int,
    asking: Mutual,
    client_ca: Path,
    caller: Caller,
    schedulers: trustme.CA,
    damage: str,
) -> None:
    damaged(client_ca, damage)

    with capture_logs() as logs:
        assert not asking.reload()
        assert not asking.reload()

    assert [log["event"] for log in logs] == ["client CA not reloaded"]
    assert await answered(port, caller(schedulers))


# --- the process ---------------------------------------------------------------------------------


def test_beyond_loopback_the_extender_asks_for_a_certificate_and_the_webhook_does_not(
    start: Start, client_ca: Path, caller: Caller, schedulers: trustme.CA
) -> None:
    serving = start("--extender-bind", "0.0.0.0", "--extender-client-ca", client_ca)
    port = serving.port("extender")

    with Wire(port, caller(schedulers)) as wire:
        assert wire.ask("POST", "/scheduler/filter", b"{}").status == 400  # read, and no arguments
    with pytest.raises(CLOSED), Wire(port, caller(None)) as wire:
        wire.ask("POST", "/scheduler/filter", b"{}")
    with pytest.raises(AssertionError), Wire(port) as wire:
        wire.ask("POST", "/scheduler/filter", b"{}")
    assert serving.ask("webhook", "GET", "/").status == 404


def test_without_a_webhook_it_shows_the_same_certificate(
    start: Start, client_ca: Path, caller: Caller, schedulers: trustme.CA, pair: Pair
) -> None:
    serving = start("--webhook-port", 0, "--extender-client-ca", client_ca)

    with Wire(serving.port("extender"), caller(schedulers)) as wire:
        assert shown(wire) == serial(pair)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--extender-bind", "0.0.0.0"), "give --extender-client-ca FILE"),
        (("--extender-bind", "::"), "give --extender-client-ca FILE"),
        (("--extender-client-ca", "nowhere.crt"), "give certificates of authorities in PEM"),
    ],
)
def test_what_would_leave_the_extender_open_to_anybody_does_not_start(
    start: Start, flags: tuple[str, ...], told: str
) -> None:
    serving = start(*flags)

    assert serving.ended() == 2

    (line,) = serving.tracebacks()  # what is no JSON
    assert told in line["exception"]
