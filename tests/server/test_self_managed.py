"""What a replica makes of a Secret; the rest is in tests/controlplane/test_certificates.py."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from extender.server.certificate_store import SecretStore, Stored, WebhookConfiguration
from extender.server.certificates import Issued, Pair, Schedule, begin, due_s
from extender.server.self_managed import SelfManaged

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0
NAMES = ("localhost",)
SCHEDULE = Schedule()


class Secret:
    """The Secret, which somebody else may write, too; and no webhook configuration."""

    def __init__(self) -> None:
        self.data: Mapping[str, bytes] = {}
        self.version = 0

    async def read(self) -> Stored | None:
        return Stored(str(self.version), True, self.data) if self.version else None

    async def create(self, data: Mapping[str, bytes]) -> str:
        return self.put(data)

    async def replace(self, data: Mapping[str, bytes], version: str) -> str:
        assert version == str(self.version)
        return self.put(data)

    def put(self, data: Mapping[str, bytes]) -> str:
        """Write it."""
        self.data, self.version = data, self.version + 1
        return str(self.version)


class Unregistered:
    """A webhook configuration that is not there."""

    async def read(self) -> None:
        return None


def weak(issued: Issued) -> Issued:
    """With a leaf by a key so short that OpenSSL does not load it."""
    key, leaf = ec.generate_private_key(ec.SECP192R1()), issued.leaf.certificate
    builder = x509.CertificateBuilder(
        issuer_name=leaf.issuer,
        subject_name=leaf.subject,
        public_key=key.public_key(),
        serial_number=leaf.serial_number,
        not_valid_before=leaf.not_valid_before_utc,
        not_valid_after=leaf.not_valid_after_utc,
        extensions=list(leaf.extensions),
    )
    return replace(issued, leaf=Pair(builder.sign(issued.authority.key, hashes.SHA256()), key))


async def test_a_pair_that_openssl_refuses_is_refused_at_every_look_and_not_written_over() -> None:
    secret, now_s = Secret(), [NOW_S]
    shown = SelfManaged(
        cast("SecretStore", secret),
        cast("WebhookConfiguration", Unregistered()),
        NAMES,
        SCHEDULE,
        clock=lambda: now_s[0],
        monotonic=lambda: now_s[0],
    )
    await shown.look()
    ours = shown.pair
    left_s = shown.left_s()

    now_s[0] += left_s - DAY_S  # ours has long been due
    given = weak(begin(NAMES, now_s[0], SCHEDULE))
    secret.put(given.data())
    for _ in range(2):
        with pytest.raises(OSError, match="key too small"):
            await shown.look()

    assert now_s[0] < due_s(given.leaf.certificate)
    assert secret.data == given.data()
    assert shown.pair is ours
