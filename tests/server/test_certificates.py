from __future__ import annotations

import ssl
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import given, settings
from hypothesis import strategies as st

from extender.server.certificates import (
    AUTHORITY_KEY,
    BUNDLE,
    KEYS,
    LEAF,
    LEAF_KEY,
    MOST_OLD,
    Issued,
    Pair,
    Schedule,
    authorities,
    begin,
    due_s,
    ends_s,
    read,
    renewed,
    service_names,
    succeeded,
)
from extender.server.tls import Live

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0
NAMES = service_names("migfit", "migfit-system")
SCHEDULE = Schedule()


@cache
def fresh() -> Issued:
    return begin(NAMES, NOW_S, SCHEDULE)


def trusts(bundle: bytes, leaf: x509.Certificate, now_s: float, name: str = NAMES[-1]) -> bool:
    """Whether a caller that trusts the bundle takes the leaf at that time, for that name."""
    roots = x509.load_pem_x509_certificates(bundle)
    policy = PolicyBuilder().store(Store(roots)).time(datetime.fromtimestamp(now_s, UTC))
    try:
        policy.build_server_verifier(x509.DNSName(name)).verify(leaf, [])
    except VerificationError:
        return False
    return True


@cache
def trusts_once(bundle: bytes, leaf: x509.Certificate) -> bool:
    return trusts(bundle, leaf, leaf.not_valid_after_utc.timestamp() - 1)


def step(issued: Issued, now_s: float, *, settled: bool = True) -> Issued:
    return renewed(issued, NAMES, now_s, SCHEDULE, settled=settled)


# --- what is made --------------------------------------------------------------------------------


def test_whoever_trusts_the_bundle_takes_the_leaf_for_every_name_of_the_service() -> None:
    for name in NAMES:
        assert trusts(fresh().bundle, fresh().leaf.certificate, NOW_S, name)
    assert not trusts(fresh().bundle, fresh().leaf.certificate, NOW_S, "other.migfit-system.svc")


def test_keys_are_ecdsa_p256_and_none_is_used_twice() -> None:
    pairs = [each for made in (fresh(), begin(NAMES, NOW_S, SCHEDULE)) for each in both(made)]

    assert {pair.key.curve.name for pair in pairs} == {"secp256r1"}
    assert len({pair.key_pem for pair in pairs}) == len(pairs)


def both(issued: Issued) -> tuple[Pair, Pair]:
    return issued.leaf, issued.authority


def test_addresses_are_names_too() -> None:
    leaf = begin(("127.0.0.1", "::1", "Host.Example"), NOW_S, SCHEDULE).leaf.certificate
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert sorted(map(str, names.get_values_for_type(x509.IPAddress))) == ["127.0.0.1", "::1"]
    assert names.get_values_for_type(x509.DNSName) == ["host.example"]


def test_a_clock_two_hours_behind_takes_a_new_certificate() -> None:
    assert trusts(fresh().bundle, fresh().leaf.certificate, NOW_S - 2 * 3600)


def test_openssl_loads_what_is_made() -> None:
    live = Live(lambda: NOW_S)

    live.load(fresh().leaf.pem, fresh().leaf.key_pem)

    assert live.left_s() == SCHEDULE.leaf_s
    ssl.create_default_context(cadata=fresh().bundle.decode())


@pytest.mark.parametrize(
    "wrong", [{"leaf_s": 300 * DAY_S}, {"backdate_s": 50 * DAY_S}, {"settle_s": 30 * DAY_S}]
)
def test_a_schedule_by_which_a_leaf_could_not_be_renewed_in_time_is_refused(
    wrong: dict[str, float],
) -> None:
    with pytest.raises(ValueError, match="leaf_s is at most a third"):
        Schedule(**wrong)


# --- what is stored ------------------------------------------------------------------------------


def test_what_is_stored_reads_back_the_same() -> None:
    issued = succeeded(fresh(), NOW_S, SCHEDULE)

    again = read(issued.data())

    assert again.data() == issued.data()
    assert again.old == (fresh().authority.certificate,)
    assert again.pending


def test_the_secret_has_the_keys_that_its_type_asks_for() -> None:
    assert {"tls.crt", "tls.key"} < set(fresh().data()) == set(KEYS)


def encrypted() -> bytes:
    return fresh().leaf.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def rsa_key() -> bytes:
    return rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        *((key, b"", f"{key} missing") for key in KEYS),
        (LEAF, b"-----BEGIN", f"{LEAF} is no certificate"),
        (LEAF_KEY, b"no key", f"{LEAF_KEY} is no key"),
        (BUNDLE, b"\xff\x00", f"{BUNDLE} is no certificate"),
        (LEAF_KEY, fresh().authority.key_pem, f"{LEAF_KEY} belongs to another"),
        (AUTHORITY_KEY, fresh().leaf.key_pem, f"{AUTHORITY_KEY} belongs to another"),
        (LEAF_KEY, encrypted(), f"{LEAF_KEY} is encrypted"),
        (AUTHORITY_KEY, rsa_key(), f"{AUTHORITY_KEY} is no ECDSA key"),
    ],
)
def test_a_secret_that_cannot_be_used_says_what_is_wrong(key: str, value: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read({**fresh().data(), key: value})


def test_a_leaf_that_nobody_trusted_has_signed_is_refused() -> None:
    other = begin(NAMES, NOW_S, SCHEDULE).authority
    mixed = replace(fresh(), authority=other)

    with pytest.raises(ValueError, match="signed by nobody"):
        read(mixed.data())


@given(st.dictionaries(st.sampled_from(KEYS), st.binary(max_size=50)))
def test_no_bytes_in_a_secret_are_worse_than_a_value_error(junk: dict[str, bytes]) -> None:
    try:
        found = read({**fresh().data(), **junk})
    except ValueError:
        assert junk
    else:
        assert found.data() == fresh().data()


@given(st.binary(max_size=200))
def test_a_bundle_that_cannot_be_read_is_an_empty_one(junk: bytes) -> None:
    assert authorities(junk) == ()


def test_a_bundle_is_read_in_its_order() -> None:
    issued = succeeded(fresh(), NOW_S, SCHEDULE)

    assert authorities(issued.bundle) == (issued.authority.certificate, *issued.old)


# --- when something is due -----------------------------------------------------------------------


@given(st.floats(0, 60 * DAY_S - 3600))
def test_nothing_is_done_before_two_thirds_of_the_leafs_life(age_s: float) -> None:
    assert step(fresh(), NOW_S + age_s) is fresh()


@given(st.floats(60 * DAY_S, 400 * DAY_S), st.booleans())
def test_after_two_thirds_the_leaf_is_renewed_by_the_same_authority(
    age_s: float, settled: bool
) -> None:
    after = step(fresh(), NOW_S + age_s, settled=settled)

    assert after.leaf != fresh().leaf
    assert (after.authority, after.old) == (fresh().authority, ())
    assert trusts(fresh().bundle, after.leaf.certificate, NOW_S + age_s)


def test_an_authority_is_replaced_at_two_thirds_of_its_life_too() -> None:
    due = due_s(fresh().authority.certificate)
    assert due == pytest.approx(NOW_S + 2 / 3 * SCHEDULE.authority_s, abs=3600)

    after = step(fresh(), due)

    assert after.authority != fresh().authority
    assert after.old == (fresh().authority.certificate,)
    assert after.leaf is fresh().leaf


def test_a_leaf_by_a_new_authority_waits_until_that_is_trusted() -> None:
    due = due_s(fresh().authority.certificate)
    current = replace(fresh(), leaf=step(fresh(), due - 10 * DAY_S).leaf)
    new = step(current, due)

    assert step(new, due + DAY_S, settled=False) is new
    switched = step(new, due + DAY_S, settled=True)

    assert new.pending
    assert not switched.pending
    assert switched.bundle == new.bundle
    assert trusts(switched.authority.pem, switched.leaf.certificate, due + DAY_S)


def test_an_expired_leaf_waits_for_nobody() -> None:
    new = succeeded(fresh(), NOW_S, SCHEDULE)

    assert not step(new, ends_s(new.leaf.certificate), settled=False).pending


@given(st.floats(0, 40 * DAY_S))
def test_an_old_authority_is_dropped_once_every_replica_must_have_the_new_leaf(
    age_s: float,
) -> None:
    switched = step(succeeded(fresh(), NOW_S, SCHEDULE), NOW_S)
    assert switched.old

    after = step(switched, NOW_S + age_s)

    assert bool(after.old) == (age_s < SCHEDULE.retire_s)
    assert after.leaf is switched.leaf


def test_authorities_that_follow_each_other_too_fast_do_not_push_out_the_one_in_use() -> None:
    issued = fresh()
    for _ in range(3 * MOST_OLD):
        issued = succeeded(issued, NOW_S, SCHEDULE)

    assert len(issued.old) == MOST_OLD
    assert trusts(issued.bundle, issued.leaf.certificate, NOW_S)
    read(issued.data())


def test_a_first_certificate_goes_on_trusting_who_was_trusted_before() -> None:
    elsewhere = begin(NAMES, NOW_S, SCHEDULE)

    issued = begin(NAMES, NOW_S, SCHEDULE, [elsewhere.authority.certificate] * 9)

    assert trusts(issued.bundle, elsewhere.leaf.certificate, NOW_S)
    assert len(issued.old) == MOST_OLD


def test_replicas_that_want_different_names_end_with_all_of_them() -> None:
    renamed = service_names("renamed", "migfit-system")

    after = renewed(fresh(), renamed, NOW_S, SCHEDULE, settled=True)

    for name in (*NAMES, *renamed):
        assert trusts(after.bundle, after.leaf.certificate, NOW_S, name)
    assert step(after, NOW_S) is after
    assert renewed(after, renamed, NOW_S, SCHEDULE, settled=True) is after


def test_a_name_that_nobody_wants_any_more_goes_with_the_next_leaf() -> None:
    both_names = renewed(fresh(), ("renamed.a.svc",), NOW_S, SCHEDULE, settled=True)

    after = step(both_names, NOW_S + 70 * DAY_S)

    assert not trusts(after.bundle, after.leaf.certificate, NOW_S + 70 * DAY_S, "renamed.a.svc")


def test_a_leaf_without_names_gets_them() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    authority = fresh().authority
    bare = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.certificate.subject)
        .not_valid_before(fresh().leaf.certificate.not_valid_before_utc)
        .not_valid_after(fresh().leaf.certificate.not_valid_after_utc)
        .serial_number(1)
        .public_key(key.public_key())
        .sign(authority.key, hashes.SHA256())
    )

    after = step(replace(fresh(), leaf=Pair(bare, key)), NOW_S)

    assert trusts(after.bundle, after.leaf.certificate, NOW_S)


# --- the whole life ------------------------------------------------------------------------------

SHORT = Schedule(authority_s=3000, leaf_s=900, backdate_s=60, settle_s=120, retire_s=180)
POLL_S = 100.0


@dataclass
class World:
    """A Secret, what three replicas show, and API servers that may be settle_s / 2 behind."""

    secret: Issued
    now_s: float = NOW_S

    def __post_init__(self) -> None:
        self.shown = [self.secret] * 3
        self.published = [(NOW_S, self.secret.bundle)]
        self.trusted = self.secret.authority.pem, NOW_S
        self.looked_s = [NOW_S] * 3

    def look(self, replica: int) -> None:
        """What `SelfManaged` does in one round."""
        pem = self.secret.authority.pem
        if pem not in self.published[-1][1] or pem != self.trusted[0]:
            self.trusted = pem, self.now_s
        settled = self.now_s - self.trusted[1] >= SHORT.settle_s
        self.secret = renewed(self.secret, NAMES, self.now_s, SHORT, settled=settled)
        self.shown[replica] = self.secret
        self.looked_s[replica] = self.now_s
        if self.published[-1][1] != self.secret.bundle:
            self.published.append((self.now_s, self.secret.bundle))

    def bundles(self) -> set[bytes]:
        """Every bundle that some API server may have by now."""
        late_s = max(self.now_s - SHORT.settle_s / 2, NOW_S)
        current = max(i for i, (at_s, _) in enumerate(self.published) if at_s <= late_s)
        return {bundle for _, bundle in self.published[current:]}


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(1, 60), st.integers(0, 2), st.sampled_from([False, False, True])),
        min_size=30,
        max_size=100,
    )
)
def test_no_replica_ever_shows_a_leaf_that_an_api_server_does_not_trust(
    events: list[tuple[float, int, bool]],
) -> None:
    world = World(begin(NAMES, NOW_S, SHORT))
    deleted_s = NOW_S
    for wait_s, replica, deletes in events:
        world.now_s += wait_s
        if deletes and world.now_s > deleted_s + 5 * SHORT.settle_s:
            deleted_s = world.now_s  # this replica is the first to see that the Secret is gone
            world.secret = succeeded(world.shown[replica], world.now_s, SHORT)
        world.look(replica)
        for each, looked_s in enumerate(world.looked_s):
            if world.now_s - looked_s > POLL_S - 60:
                world.look(each)
        for bundle in world.bundles():
            for shown in {issued.leaf.certificate for issued in world.shown}:
                assert world.now_s < ends_s(shown)
                assert trusts_once(bundle, shown), world.now_s - NOW_S


def test_in_two_lives_of_an_authority_everything_is_replaced_and_nothing_piles_up() -> None:
    issued = begin(NAMES, NOW_S, SHORT)
    leaves, signers, most = set(), set(), 0
    for elapsed_s in range(0, 5000, 10):
        issued = renewed(issued, NAMES, NOW_S + elapsed_s, SHORT, settled=True)
        leaves.add(issued.leaf.certificate)
        signers.add(issued.authority.certificate)
        most = max(most, len(issued.old))
        assert ends_s(issued.leaf.certificate) > NOW_S + elapsed_s
    assert len(signers) == 3
    assert 8 <= len(leaves) <= 12
    assert most == 1
