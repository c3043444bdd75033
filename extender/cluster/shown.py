"""The certificate that the API server is shown, and whether it can trust it: asked for as it asks."""

import asyncio
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from extender.core.doctor.evidence import Certificate

CONNECT_S = 3.0
_EXPIRED = 10
"""OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED."""
_LONGEST_CHAIN = 5
_NOBODY = "it is empty"


async def shown_at(
    where: str, host: str, port: int, server_name: str, bundles: Iterable[bytes]
) -> Certificate | None:
    """What a server shows, judged by each caBundle as the API server would: name, chain, dates.

    Args:
        where: what findings call it.
        host: to connect to.
        port: of TCP.
        server_name: that the certificate must be good for.
        bundles: PEM.

    Returns:
        None if no TLS server can be reached there from here.
    """
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE  # only to see it: nothing is sent
    try:
        leaf = x509.load_der_x509_certificate(await _shake(host, port, server_name, anybody))
        distrust = [await _tried(host, port, server_name, bundle, leaf) for bundle in bundles]
    except (OSError, TimeoutError, ValueError):
        return None
    return _certificate(where, leaf, distrust)


async def _shake(host: str, port: int, server_name: str, context: ssl.SSLContext) -> bytes:
    """The certificate of whoever answers, DER."""
    async with asyncio.timeout(CONNECT_S):
        _, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=server_name
        )
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    return bytes(shown or b"")


async def _tried(
    host: str, port: int, server_name: str, bundle: bytes, leaf: x509.Certificate
) -> str:
    """Why a handshake with that trust fails; empty if it does not, or only because of the dates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=bundle.decode("ascii"))
    except (ssl.SSLError, ValueError):
        return "it holds no certificate" if bundle else _NOBODY
    try:
        await _shake(host, port, server_name, context)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED and leaf.not_valid_after_utc < datetime.now(UTC):
            return ""  # a finding of its own
        return error.verify_message.rstrip(".")
    return ""


def stored(
    where: str, chain: bytes, server_name: str, bundles: Iterable[bytes], now_s: float
) -> Certificate | None:
    """The same of a certificate in a Secret, which whoever mounts it shows.

    Args:
        where: what findings call it.
        chain: PEM, the server's own certificate first.
        server_name: that it must be good for.
        bundles: PEM.
        now_s: seconds since the epoch.

    Returns:
        None if there is no certificate in it.
    """
    try:
        leaf, *others = x509.load_pem_x509_certificates(chain)
    except ValueError:
        return None
    distrust = [_judged(leaf, others, server_name, bundle, now_s) for bundle in bundles]
    return _certificate(where, leaf, distrust)


def _judged(
    leaf: x509.Certificate,
    others: list[x509.Certificate],
    server_name: str,
    bundle: bytes,
    now_s: float,
) -> str:
    try:
        trusted = x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return "it holds no certificate" if bundle else _NOBODY
    if server_name not in _names(leaf):
        return f"the certificate is not good for {server_name}"
    current = leaf
    for _ in range(_LONGEST_CHAIN):
        if current in trusted:
            return ""
        if signer := _signer(current, trusted):
            ended = signer.not_valid_after_utc.timestamp() < now_s
            return "the authority that signed it has ended" if ended else ""
        above = _signer(current, others)
        if above is None:
            break
        current = above
    return "none of its authorities has signed it"


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    ]


def _signer(
    certificate: x509.Certificate, among: Iterable[x509.Certificate]
) -> x509.Certificate | None:
    for each in among:
        try:
            certificate.verify_directly_issued_by(each)
        except (InvalidSignature, TypeError, ValueError):
            continue
        return each
    return None


def _certificate(where: str, leaf: x509.Certificate, distrust: list[str]) -> Certificate:
    return Certificate(
        where,
        leaf.not_valid_before_utc.timestamp(),
        leaf.not_valid_after_utc.timestamp(),
        next(filter(None, distrust), ""),
    )
