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
        self.context.load_cert_chain(cert, key)

    def _contents(self) -> tuple[bytes, bytes]:
        return self._cert.read_bytes(), self._key.read_bytes()

    def reload(self) -> bool:
        """Load the files again if they changed and belong together; whether that was done."""
        try:
            contents = self._contents()
            if contents == self._seen:
                return False
            # A throw-away context first: a key that does not match must not spoil the live one.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._cert, self._key)
            self.context.load_cert_chain(self._cert, self._key)
        except (OSError, ssl.SSLError) as error:
            log.warning("certificate not reloaded", cert=str(self._cert), error=str(error))
            return False
        self._seen = contents
        log.info("certificate reloaded", cert=str(self._cert))
        return True

    async def follow(self) -> None:
        """Reload whenever the files change. Runs until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            self.reload()


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
    except (OSError, ssl.SSLError) as error:
        raise StartError(
            f"certificate {settings.tls_cert} with key {settings.tls_key} cannot be used: {error}",
            BAD_INPUT,
        ) from None
