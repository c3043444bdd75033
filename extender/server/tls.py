"""The webhook's certificate in the listener: replaced while it listens; and the one from files."""

import asyncio
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import structlog
from cryptography import x509

from extender.server.certificates import ends_s
from extender.server.settings import BAD_INPUT, Settings, StartError

log = structlog.get_logger(__name__)

POLL_S = 2.0


class Shown(Protocol):
    """A certificate that the webhook shows, wherever it comes from."""

    @property
    def context(self) -> ssl.SSLContext:
        """For the listener."""

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """The certificate and its key, PEM; the same object as long as they stay the same."""

    def left_s(self) -> float:
        """Seconds until the certificate expires; negative afterwards."""

    def unready(self) -> str | None:
        """Why nobody should call us, in one line; None if they may."""

    def follow(self) -> Coroutine[Any, Any, None]:
        """Keep it up to date. Runs until cancelled."""


class Live:
    """A server's context. What is loaded serves new handshakes; open connections are not touched.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        # What a listener is given cannot be exchanged, and it keeps one certificate for each type of
        # key: beside a new one of ECDSA it would go on showing the old one of RSA. So it has none of
        # its own, and hands each handshake, with a server's name or without, to that of the day.
        self.context = server_context()
        self.context.sni_callback = self._hand_over
        self._current = server_context()
        self.pair = b"", b""
        self._ends_s = float("nan")

    def load(self, cert: bytes, key: bytes) -> None:
        """Show this certificate from now on; PEM, with its chain if it has one.

        Raises:
            OSError: it cannot be used, or the key belongs to another; the old one stays.
        """
        context = server_context()
        load_pair(context, cert, key)
        try:
            ends = ends_s(x509.load_pem_x509_certificates(cert)[0])
        except ValueError as error:
            raise OSError(f"the certificate cannot be read: {error}") from None
        self._current = context
        self.pair = cert, key
        self._ends_s = ends

    def _hand_over(self, handshake: ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        handshake.context = self._current

    def left_s(self) -> float:
        """Seconds until what is loaded expires."""
        return self._ends_s - self._clock()

    def unready(self) -> str | None:
        """That it has expired."""
        if self.left_s() > 0:
            return None
        ended = datetime.fromtimestamp(self._ends_s, UTC).isoformat(timespec="seconds")
        return f"the webhook's certificate expired at {ended}"


class Certificate:
    """A key pair in files, loaded again when they change."""

    def __init__(self, cert: Path, key: Path, clock: Callable[[], float] = time.time) -> None:
        self._cert, self._key = cert, key
        self._live = Live(clock)
        self._seen = self._contents()
        self._refused = ""
        self._live.load(*self._seen)

    @property
    def context(self) -> ssl.SSLContext:
        """See `Shown`."""
        return self._live.context

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """See `Shown`."""
        return self._live.pair

    def left_s(self) -> float:
        """See `Shown`."""
        return self._live.left_s()

    def unready(self) -> str | None:
        """See `Shown`."""
        why = self._live.unready()
        return why and f"{why}; renew --tls-cert {self._cert}"

    def _contents(self) -> tuple[bytes, bytes]:
        return self._cert.read_bytes(), self._key.read_bytes()

    def reload(self) -> bool:
        """Load the files again if they changed and belong together; whether that was done."""
        try:
            contents = self._contents()
            if contents == self._seen:
                return False
            self._live.load(*contents)
        except OSError as error:
            if str(error) != self._refused:  # once, not every two seconds
                self._refused = str(error)
                log.warning("certificate not reloaded", cert=str(self._cert), error=str(error))
            return False
        self._seen, self._refused = contents, ""
        log.info("certificate reloaded", cert=str(self._cert))
        return True

    async def follow(self, poll_s: float = POLL_S) -> None:
        """Reload whenever the files change. Runs until cancelled."""
        while True:
            await asyncio.sleep(poll_s)
            self.reload()


def server_context() -> ssl.SSLContext:
    """A server's side that shows nothing yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def load_pair(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    """Load a pair; a key that is encrypted is refused, where OpenSSL would ask the terminal.

    Raises:
        OSError: it cannot be used.
    """
    with _file(cert) as cert_file, _file(key) as key_file:
        context.load_cert_chain(cert_file, key_file, password="")


@contextmanager
def _file(contents: bytes) -> Iterator[str]:
    """A path to that, as Python loads certificates from files only; on Linux in memory alone."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("migfit")
        with os.fdopen(number, "wb", buffering=0) as file:
            file.write(contents)
            yield f"/proc/self/fd/{number}"
    else:
        with tempfile.NamedTemporaryFile(buffering=0) as file:  # ours alone, mode 0600
            file.write(contents)
            yield file.name


def certificate(settings: Settings) -> Certificate:
    """The certificate in the files that the settings name.

    Raises:
        StartError: none is named, or it cannot be used.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        raise StartError(
            "a certificate for the webhook is two files: give --tls-cert FILE and --tls-key FILE, "
            "or neither, to have migfit make its own",
            BAD_INPUT,
        )
    if settings.tls_secret is not None:
        raise StartError(
            "--tls-cert and --tls-secret are both given; give the one that holds the certificate",
            BAD_INPUT,
        )
    try:
        return Certificate(settings.tls_cert, settings.tls_key)
    except OSError as error:
        raise StartError(
            f"--tls-cert {settings.tls_cert} with --tls-key {settings.tls_key}: {error}; "
            "give a certificate and the key that belongs to it, both PEM, unencrypted",
            BAD_INPUT,
        ) from None
