"""The certificate over real TLS and out of a Secret: who trusts it, and why not."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trustme

from extender.cluster.shown import shown_at, stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from extender.core.doctor.evidence import Certificate

NAME = "migfit.migfit-system.svc"
NOW = datetime.now(UTC).replace(microsecond=0)
CA = trustme.CA()
OTHER = trustme.CA()
BETWEEN = CA.create_child_ca()
BUNDLE, OTHERS = CA.cert_pem.bytes(), OTHER.cert_pem.bytes()


def leaf(authority: trustme.CA = CA, name: str = NAME, days: float = 30) -> trustme.LeafCert:
    """A certificate that ends in so many days."""
    end = NOW + timedelta(days=days)
    return authority.issue_cert(name, not_before=NOW - timedelta(days=60), not_after=end)


def chain(certificate: trustme.LeafCert) -> bytes:
    return b"".join(pem.bytes() for pem in certificate.cert_chain_pems)


@asynccontextmanager
async def serving(certificate: trustme.LeafCert) -> AsyncIterator[int]:
    """Port of a TLS server that shows it."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(tls)

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def looked_at(certificate: trustme.LeafCert, *bundles: bytes) -> Certificate | None:
    async with serving(certificate) as port:
        return await shown_at("it", "127.0.0.1", port, NAME, bundles)


def in_a_secret(certificate: trustme.LeafCert, *bundles: bytes) -> Certificate | None:
    return stored("it", chain(certificate), NAME, bundles, NOW.timestamp())


CASES = [
    (leaf(), [BUNDLE], ""),
    (leaf(), [OTHERS + BUNDLE], ""),
    (leaf(BETWEEN), [BUNDLE], ""),
    (leaf(), [OTHERS], "issuer|signed"),
    (leaf(), [BUNDLE, OTHERS], "issuer|signed"),
    (leaf(name="migfit.elsewhere.svc"), [BUNDLE], "migfit.migfit-system.svc"),
    (leaf(), [b""], "empty"),
    (leaf(), [b"no certificate"], "holds no certificate"),
    (leaf(days=-1), [BUNDLE], ""),
]
IDS = [
    "trusted",
    "two-authorities",
    "chain",
    "stranger",
    "one-of-two",
    "name",
    "empty",
    "nonsense",
    "expired",
]


@pytest.mark.parametrize(("certificate", "bundles", "why"), CASES, ids=IDS)
async def test_it_is_judged_as_the_api_server_judges_it(
    certificate: trustme.LeafCert, bundles: list[bytes], why: str
) -> None:
    for found in (await looked_at(certificate, *bundles), in_a_secret(certificate, *bundles)):
        assert found is not None
        assert found.where == "it"
        assert (
            found.ends_s
            == found.begins_s + ((30 if found.ends_s > NOW.timestamp() else -1) + 60) * 86_400
        )
        if why:
            assert any(word in found.distrust for word in why.split("|"))
        else:
            assert found.distrust == ""


async def test_where_nobody_answers_or_nobody_speaks_tls_nothing_is_known() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert await shown_at("it", "127.0.0.1", port, NAME, [BUNDLE]) is None

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await shown_at("it", "127.0.0.1", port, NAME, [BUNDLE]) is None


@pytest.mark.parametrize("text", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_secret_without_a_certificate_holds_none(text: bytes) -> None:
    assert stored("it", text, NAME, [BUNDLE], NOW.timestamp()) is None


def test_an_authority_that_has_ended_vouches_for_nobody() -> None:
    after = datetime(9000, 1, 1, tzinfo=UTC).timestamp()

    found = stored("it", chain(leaf()), NAME, [BUNDLE], after)

    assert found is not None
    assert "has ended" in found.distrust
