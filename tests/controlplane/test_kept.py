"""The webhook's certificate, shown by an extender that may only read it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from extender.cluster.client import connect
from extender.server.certificate_store import SecretStore
from extender.server.kept import Kept, NothingKeptError
from extender.server.settings import BAD_INPUT, UNREACHABLE, StartError
from tests.controlplane.keeping import DAY_S, SECRET, der, shown, until
from tests.controlplane.keeping import Kept as Keeping
from tests.controlplane.test_certificate_rights import granted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.controlplane.plane import ControlPlane, User

pytestmark = pytest.mark.controlplane


@pytest.fixture
def keeping(plane: ControlPlane, namespace: str) -> Keeping:
    """Empty."""
    return Keeping(plane, namespace)


@pytest.fixture
def reader(keeping: Keeping) -> User:
    """Who may get the Secret, and nothing else."""
    return granted(keeping, frozenset({("secrets", "get")}))


@asynccontextmanager
async def reading(keeping: Keeping, user: User, poll_s: float = 3600) -> AsyncIterator[Kept]:
    async with connect(user.kubeconfig) as client:
        yield Kept(SecretStore(client, keeping.namespace, SECRET), poll_s)


async def test_it_shows_what_the_webhook_keeps_and_what_it_renews(
    keeping: Keeping, reader: User
) -> None:
    keeping.configure()
    async with keeping.replica() as webhook, reading(keeping, reader, 0.01) as extender:
        await webhook.first()
        await extender.first()
        first = keeping.issued
        assert await shown_by(extender) == der(first)
        following = asyncio.create_task(extender.follow())

        keeping.clock.now_s += 70 * DAY_S
        await webhook.look()

        pair = keeping.issued.leaf.pem, keeping.issued.leaf.key_pem
        await until(lambda: extender.pair == pair)
        following.cancel()
        assert await shown_by(extender) == der(keeping.issued) != der(first)


async def shown_by(extender: Kept) -> bytes:
    return await shown(extender)  # type: ignore[arg-type]  # has a context, which is all that counts


async def test_it_waits_for_the_webhook_and_says_so_in_the_end(
    keeping: Keeping, reader: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extender.server.kept.RETRY_S", 0.01)
    async with reading(keeping, reader) as extender:
        with pytest.raises(StartError, match="it is not there; is there a webhook") as raised:
            await extender.first()

    assert raised.value.code == UNREACHABLE


async def test_the_right_that_is_missing_is_named(keeping: Keeping) -> None:
    nobody = granted(keeping, frozenset())
    async with reading(keeping, nobody) as extender:
        with pytest.raises(StartError, match='cannot get resource "secrets"') as raised:
            await extender.first()

    assert raised.value.code == BAD_INPUT
    assert "grant us to get it" in str(raised.value)


@pytest.mark.parametrize("key", ["tls.crt", "tls.key"])
async def test_what_somebody_spoiled_is_not_shown(keeping: Keeping, reader: User, key: str) -> None:
    keeping.configure()
    async with keeping.replica() as webhook, reading(keeping, reader) as extender:
        await webhook.first()
        await extender.first()
        before = extender.pair
        spoiled = {"data": {key: "c3BvaWxlZA=="}}
        keeping.plane.client.patch("Secret", SECRET, spoiled, keeping.namespace)

        with pytest.raises(NothingKeptError):
            await extender.look()

        assert extender.pair == before
