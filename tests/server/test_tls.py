"""The webhook's certificate from files: renewed under a live listener, never spoiled."""

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from structlog.testing import capture_logs

from extender.server.listen import listening
from extender.server.settings import BAD_INPUT, Settings, StartError
from extender.server.tls import Certificate, certificate
from tests.server.serving import HOST, Pair, Wire

ECDSA, RSA = trustme.KeyType.ECDSA, trustme.KeyType.RSA


def serial(pair: Pair) -> int:
    """Of the certificate in the file."""
    return x509.load_pem_x509_certificate(pair.cert.read_bytes()).serial_number


def shown(wire: Wire) -> int:
    """The serial number of the certificate that a connection was shown."""
    assert isinstance(wire.socket, ssl.SSLSocket)
    der = wire.socket.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def shake(*sides: ssl.SSLObject) -> None:
    """A handshake of these two."""
    for _ in range(4):
        for side in sides:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()


@pytest.fixture
def live(pair: Pair) -> Certificate:
    return Certificate(pair.cert, pair.key)


@pytest.fixture
async def port(live: Certificate) -> AsyncIterator[int]:
    """A live listener that shows it and answers `ok`."""

    async def ok(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application()
    app.router.add_get("/", ok)
    async with listening(app, HOST, 0, tls=live.context, drain_s=0.1) as taken:
        yield taken


def connect(port: int, pair: Pair) -> Wire:
    return Wire(port, pair.tls)


async def dial(port: int, pair: Pair) -> Wire:
    return await asyncio.to_thread(connect, port, pair)


async def ask(wire: Wire) -> int:
    return (await asyncio.to_thread(wire.ask, "GET", "/")).status


async def test_a_renewed_certificate_serves_new_connections_and_drops_no_open_one(
    port: int, live: Certificate, pair: Pair
) -> None:
    first = serial(pair)
    with await dial(port, pair) as before:
        assert (shown(before), await ask(before)) == (first, 200)

        pair.issue()
        assert live.reload()

        with await dial(port, pair) as after:
            assert (shown(after), await ask(after)) == (serial(pair), 200)
        assert serial(pair) != first
        assert await ask(before) == 200


async def test_a_key_that_does_not_belong_to_it_is_refused_and_the_old_pair_serves_on(
    port: int, live: Certificate, pair: Pair, authority: trustme.CA
) -> None:
    first = serial(pair)
    good_key = pair.key.read_bytes()
    authority.issue_cert("localhost").private_key_pem.write_to_path(pair.key)

    with capture_logs() as logs:
        assert not live.reload()
        assert not live.reload()

    assert [log["event"] for log in logs] == ["certificate not reloaded"]
    with await dial(port, pair) as wire:
        assert (shown(wire), await ask(wire)) == (first, 200)
    pair.key.write_bytes(good_key)
    assert not live.reload()
    pair.issue()
    assert live.reload()
    with await dial(port, pair) as wire:
        assert shown(wire) == serial(pair) != first


@pytest.mark.parametrize("damage", ["gone", "empty", "no PEM", "half"])
async def test_files_that_cannot_be_used_leave_the_old_pair_in_place(
    port: int, live: Certificate, pair: Pair, damage: str
) -> None:
    first = serial(pair)
    whole = pair.cert.read_bytes()
    if damage == "gone":
        pair.cert.unlink()
    else:
        broken = {"empty": b"", "no PEM": b"hello\n", "half": whole[: len(whole) // 2]}
        pair.cert.write_bytes(broken[damage])

    assert not live.reload()

    with await dial(port, pair) as wire:
        assert (shown(wire), await ask(wire)) == (first, 200)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kinds", [(ECDSA, RSA), (RSA, ECDSA)], ids=["to RSA", "to ECDSA"])
@pytest.mark.parametrize("name", ["localhost", HOST])  # an address is told to no server
async def test_a_renewed_certificate_is_shown_whatever_the_type_of_its_key(
    tmp_path: Path,
    authority: trustme.CA,
    version: ssl.TLSVersion,
    kinds: tuple[trustme.KeyType, trustme.KeyType],
    name: str,
) -> None:
    pair = Pair(tmp_path / "pair", authority)
    pair.issue(kinds[0])
    live = Certificate(pair.cert, pair.key)
    pair.tls.minimum_version = pair.tls.maximum_version = version

    def seen() -> int:
        here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = pair.tls.wrap_bio(there, here, server_hostname=name)
        shake(client, live.context.wrap_bio(here, there, server_side=True))
        der = client.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number

    first = serial(pair)
    assert seen() == first

    pair.issue(kinds[1])
    assert live.reload()

    assert seen() == serial(pair) != first


def test_unchanged_files_are_not_loaded_again(live: Certificate, pair: Pair) -> None:
    pair.cert.touch()

    assert not live.reload()


async def test_it_follows_the_links_of_a_mounted_secret(
    tmp_path: Path, authority: trustme.CA
) -> None:
    """The kubelet swaps a folder: `tls.crt -> ..data/tls.crt`, `..data -> ..2026_11_23`."""
    old, new = Pair(tmp_path / "old", authority), Pair(tmp_path / "new", authority)
    data = tmp_path / "..data"
    data.symlink_to(old.cert.parent)
    live = Certificate(data / "tls.crt", data / "tls.key")
    following = asyncio.create_task(live.follow(poll_s=0.01))

    swapped = tmp_path / "..data_tmp"
    swapped.symlink_to(new.cert.parent)
    with capture_logs() as logs:
        swapped.rename(data)
        async with asyncio.timeout(20):
            while not logs:  # noqa: ASYNC110  no event to wait for
                await asyncio.sleep(0.01)

    assert [log["event"] for log in logs] == ["certificate reloaded"]
    following.cancel()


async def test_older_versions_of_tls_are_not_spoken(port: int, pair: Pair) -> None:
    old = ssl.create_default_context()
    pair.authority.configure_trust(old)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")

    with pytest.raises(ssl.SSLError):
        await asyncio.to_thread(Wire, port, old)


# --- at the start --------------------------------------------------------------------------------


def refusal(cert: Path | None, key: Path | None) -> str:
    with pytest.raises(StartError) as refused:
        certificate(Settings(tls_cert=cert, tls_key=key))
    assert refused.value.code == BAD_INPUT
    message = str(refused.value)
    assert message.splitlines() == [message]
    return message


@pytest.mark.parametrize("missing", ["cert", "key"])
def test_half_a_pair_is_refused(pair: Pair, missing: str) -> None:
    message = refusal(
        None if missing == "cert" else pair.cert, None if missing == "key" else pair.key
    )

    assert "--tls-cert" in message
    assert "--tls-key" in message


def test_a_file_that_is_not_there_is_named(pair: Pair) -> None:
    assert "nowhere.crt" in refusal(pair.cert.with_name("nowhere.crt"), pair.key)


def test_a_key_of_another_certificate_is_refused(pair: Pair, authority: trustme.CA) -> None:
    authority.issue_cert("localhost").private_key_pem.write_to_path(pair.key)

    assert "the key that belongs to it" in refusal(pair.cert, pair.key)


def test_certificate_and_key_in_each_others_place_are_refused(pair: Pair) -> None:
    refusal(pair.key, pair.cert)


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(pair: Pair) -> None:
    key = load_pem_private_key(pair.key.read_bytes(), password=None)
    secret = BestAvailableEncryption(b"secret")
    pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))

    assert "unencrypted" in refusal(pair.cert, pair.key)


def test_a_chain_is_served_whole(tmp_path: Path) -> None:
    root = trustme.CA()
    pair = Pair(tmp_path / "chain", root)
    issued = root.create_child_ca().issue_cert("localhost")
    issued.private_key_pem.write_to_path(pair.key)
    for number, pem in enumerate(issued.cert_chain_pems):
        pem.write_to_path(pair.cert, append=number > 0)

    live = Certificate(pair.cert, pair.key)

    client, server = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = live.context.wrap_bio(server, client, server_side=True)
    here = pair.tls.wrap_bio(client, server, server_hostname="localhost")
    shake(here, there)
    assert here.version() == "TLSv1.3"
    shutil.rmtree(tmp_path / "chain")
