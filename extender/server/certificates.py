"""Certificates as values: an authority, a leaf signed by it, and what is due next.

No I/O; the time is an argument, in seconds since the epoch. Keys are ECDSA P-256.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S

RENEW_AT = 2 / 3
"""The part of its life after which a certificate is replaced."""
MOST_OLD = 4
"""Former authorities that stay trusted, at most: a bundle must not grow without end."""

LEAF, LEAF_KEY = "tls.crt", "tls.key"
BUNDLE, AUTHORITY_KEY = "ca.crt", "ca.key"
KEYS = (LEAF, LEAF_KEY, BUNDLE, AUTHORITY_KEY)
"""Keys of the Secret; the first two are those of the type kubernetes.io/tls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long certificates live, and how long the steps between them wait, in seconds."""

    authority_s: float = 730 * _DAY_S
    leaf_s: float = 90 * _DAY_S
    backdate_s: float = 2 * _HOUR_S
    """Certificates are valid from so long ago, for clocks that are behind ours."""
    settle_s: float = 300.0
    """A new authority must have been trusted for so long before a leaf signed by it is shown: every
    API server has to see the change."""
    retire_s: float = _DAY_S
    """The old one stays trusted for so long after that: every replica has to show the new leaf."""
    poll_s: float = 10.0
    """How often a replica looks."""

    def __post_init__(self) -> None:
        # Or a leaf would be cut short by the end of its authority, be due when it is made, or expire
        # while it waits for a new authority to be trusted.
        last = 1 - RENEW_AT
        if (
            self.leaf_s > self.authority_s * last
            or self.backdate_s > self.leaf_s / 2
            or self.settle_s + 2 * self.poll_s > self.leaf_s * last
        ):
            raise ValueError(
                "leaf_s is at most a third of authority_s, settle_s and two looks a third of leaf_s, "
                "backdate_s half of leaf_s"
            )


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key; equal if the certificates are."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return _pem(self.certificate)

    @property
    def key_pem(self) -> bytes:
        """The key, PKCS #8, unencrypted."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


@dataclass(frozen=True, slots=True)
class Issued:
    """All there is at one time: what is shown, what signs next, and who is trusted.

    Attributes:
        leaf: what the webhook shows; signed by the authority, or yet by an old one.
        authority: signs the next leaf.
        old: former authorities that stay trusted, newest first; their keys are gone.
    """

    leaf: Pair
    authority: Pair
    old: tuple[x509.Certificate, ...] = ()

    @property
    def bundle(self) -> bytes:
        """PEM of everybody to be trusted."""
        return b"".join(map(_pem, (self.authority.certificate, *self.old)))

    @property
    def pending(self) -> bool:
        """Whether the authority is new, and the leaf yet an old one's."""
        return not _signed(self.leaf.certificate, self.authority.certificate)

    def data(self) -> dict[str, bytes]:
        """As a Secret holds it."""
        values = (self.leaf.pem, self.leaf.key_pem, self.bundle, self.authority.key_pem)
        return dict(zip(KEYS, values, strict=True))


def read(data: Mapping[str, bytes]) -> Issued:
    """What a Secret holds.

    Raises:
        ValueError: something is missing, cannot be read, or does not belong to the rest.
    """
    if missing := [key for key in KEYS if not data.get(key)]:
        raise ValueError(f"{', '.join(missing)} missing")
    (leaf, *_), (authority, *old) = (_loaded(data, key) for key in (LEAF, BUNDLE))
    issued = Issued(_pair(leaf, data, LEAF_KEY), _pair(authority, data, AUTHORITY_KEY), tuple(old))
    if not any(_signed(issued.leaf.certificate, each) for each in (authority, *old)):
        raise ValueError(f"{LEAF} is signed by nobody in {BUNDLE}")
    return issued


def authorities(bundle: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates in a PEM bundle; none if it cannot be read."""
    try:
        return tuple(x509.load_pem_x509_certificates(bundle))
    except ValueError:
        return ()


def _loaded(data: Mapping[str, bytes], what: str) -> tuple[x509.Certificate, ...]:
    if found := authorities(data[what]):
        return found
    raise ValueError(f"{what} is no certificate in PEM")


def _pair(certificate: x509.Certificate, data: Mapping[str, bytes], what: str) -> Pair:
    try:
        key = serialization.load_pem_private_key(data[what], password=None)
    except TypeError:  # cryptography's way to say that it is encrypted
        raise ValueError(f"{what} is encrypted") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{what} is no key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{what} is no ECDSA key")  # noqa: TRY004  a value out of a Secret
    if key.public_key() != certificate.public_key():
        raise ValueError(f"{what} belongs to another certificate")
    return Pair(certificate, key)


# --- what is due ---------------------------------------------------------------------------------


def begin(
    names: Sequence[str],
    now_s: float,
    schedule: Schedule,
    old: Sequence[x509.Certificate] = (),
) -> Issued:
    """A new authority and a leaf by it, for these host names and addresses.

    Args:
        names: what the leaf must be good for.
        now_s: since the epoch.
        schedule: lives and waits.
        old: who is trusted already, by whom others may yet show a leaf.
    """
    authority = _new_authority(now_s, schedule)
    leaf = _new_leaf(authority, _general(names), now_s, schedule)
    return Issued(leaf, authority, tuple(old[:MOST_OLD]))


def succeeded(issued: Issued, now_s: float, schedule: Schedule) -> Issued:
    """With a new authority, beside the old ones: one of those signed the leaf, which stays."""
    old = [issued.authority.certificate, *issued.old]
    # Whoever signed the leaf comes first, not to fall out at the end: it may be an older one if
    # authorities followed each other faster than they settled.
    old.sort(key=lambda each: not _signed(issued.leaf.certificate, each))
    return Issued(issued.leaf, _new_authority(now_s, schedule), tuple(old[:MOST_OLD]))


def renewed(
    issued: Issued, names: Sequence[str], now_s: float, schedule: Schedule, *, settled: bool
) -> Issued:
    """The next step that is due; the same object if none is.

    One step at a time, each to be stored before the next: new authority, trusted beside the old one
    → after `settle_s` a leaf by it → after `retire_s` the old one is dropped.

    Args:
        issued: what is stored.
        names: host names and addresses that the leaf must be good for.
        now_s: since the epoch.
        schedule: lives and waits.
        settled: whether callers have trusted the authority for `settle_s`.
    """
    leaf = issued.leaf.certificate
    expired = now_s >= ends_s(leaf)
    if issued.pending and not (settled or expired):
        return issued
    if issued.pending:
        return _with_leaf(issued, _general(names), now_s, schedule)
    if now_s >= due_s(issued.authority.certificate):
        return succeeded(issued, now_s, schedule)
    wanted = _general(names)
    has = _names(leaf)
    if not has.issuperset(wanted):
        # During a rollout that renames something the others want their names, too: all stay, or
        # old and new replicas would take turns.
        return _with_leaf(issued, wanted | has, now_s, schedule)
    if now_s >= due_s(leaf):
        return _with_leaf(issued, wanted, now_s, schedule)
    if issued.old and now_s >= _begins_s(leaf) + schedule.backdate_s + schedule.retire_s:
        return replace(issued, old=())
    return issued


def due_s(certificate: x509.Certificate) -> float:
    """When two thirds of its life are over, since the epoch."""
    begins_s = _begins_s(certificate)
    return begins_s + RENEW_AT * (ends_s(certificate) - begins_s)


def ends_s(certificate: x509.Certificate) -> float:
    """When it expires, since the epoch."""
    return certificate.not_valid_after_utc.timestamp()


def _begins_s(certificate: x509.Certificate) -> float:
    return certificate.not_valid_before_utc.timestamp()


def service_names(service: str, namespace: str) -> tuple[str, ...]:
    """How a Service is called; the API server asks for the last one."""
    return service, f"{service}.{namespace}", f"{service}.{namespace}.svc"


# --- making them ---------------------------------------------------------------------------------


def _new_authority(now_s: float, schedule: Schedule) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    name = _common_name(f"migfit webhook CA {serial % 2**32:08x}")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(now_s, now_s + schedule.authority_s, schedule)
        .serial_number(serial)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(certificate, key)


def _new_leaf(
    authority: Pair, names: frozenset[x509.GeneralName], now_s: float, schedule: Schedule
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.SubjectKeyIdentifier.from_public_key(authority.key.public_key())
    until_s = min(now_s + schedule.leaf_s, ends_s(authority.certificate))
    certificate = (
        _builder(now_s, until_s, schedule)
        .serial_number(x509.random_serial_number())
        .subject_name(_common_name("migfit webhook"))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(sorted(names, key=repr)), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False
        )
        .sign(authority.key, hashes.SHA256())
    )
    return Pair(certificate, key)


def _with_leaf(
    issued: Issued, names: frozenset[x509.GeneralName], now_s: float, schedule: Schedule
) -> Issued:
    return replace(issued, leaf=_new_leaf(issued.authority, names, now_s, schedule))


def _builder(now_s: float, until_s: float, schedule: Schedule) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .not_valid_before(datetime.fromtimestamp(int(now_s - schedule.backdate_s), UTC))
        .not_valid_after(datetime.fromtimestamp(int(until_s), UTC))
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(names: Iterable[str]) -> frozenset[x509.GeneralName]:
    return frozenset(map(_general_name, names))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name.lower())


def _names(leaf: x509.Certificate) -> frozenset[x509.GeneralName]:
    try:
        return frozenset(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return frozenset()


def _signed(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
