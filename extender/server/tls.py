"""The webhook's certificate, from files, and loaded again when they change."""

import asyncio
import ssl
from pathlib import Path

import structlog

from extender.server.settings import BAD_INPUT, Settings, StartError

log = structlog.get_logger(__name__)

POLL_S = 2.0


class Certificate:
    """A key pair in files. Renewed files serve new handshakes; open connections are not touched."""

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert, self._key = cert, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._seen = self._contents()
        self._refused = ""
        _load(self.context, cert, key)

    def _contents(self) -> tuple[bytes, bytes]:
        return self._cert.read_bytes(), self._key.read_bytes()

    def reload(self) -> bool:
        """Load the files again if they changed and belong together; whether that was done."""
        try:
            contents = self._contents()
            if contents == self._seen:
                return False
            # A throw-away context first: a key that does not match must not spoil the live one.
            _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self._cert, self._key)
            _load(self.context, self._cert, self._key)
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


def _load(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Load a pair; a key that is encrypted is refused, where OpenSSL would ask the terminal."""
    context.load_cert_chain(cert, key, password="")


def certificate(settings: Settings) -> Certificate:
    """The certificate the settings name.

    Raises:
        StartError: none is named, or it cannot be used.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        raise StartError(
            "no certificate for the webhook: give --tls-cert FILE and --tls-key FILE, "
            "or switch the webhook off with --webhook-port 0",
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
