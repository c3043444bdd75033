"""The extender's side of mutual TLS: who may call it, and what it shows them."""

import asyncio
import ipaddress
import ssl
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.serialization import Encoding

from extender.server.certificates import authorities
from extender.server.settings import BAD_INPUT, Settings, StartError
from extender.server.tls import POLL_S, Shown, load_pair, server_context

log = structlog.get_logger(__name__)


class Mutual:
    """Shows the webhook's certificate to callers with a certificate by an authority in a file.

    The file is read again when it changes: who is taken out of it gets no new connection. Open ones
    stay. A change that cannot be read changes nothing.

    Args:
        shown: the certificate to show.
        client_ca: the authorities, PEM.

    Raises:
        OSError: the file cannot be read, or holds no certificate.
    """

    def __init__(self, shown: Shown, client_ca: Path) -> None:
        self._shown, self._file = shown, client_ca
        self._pair = shown.pair
        self._trusted = self._read()
        self._current = self._made()
        self._refused = ""
        # What a listener is given cannot be exchanged, and authorities can only be added to it. So
        # it has none of its own, and hands each handshake to the context of the day.
        self.context = server_context()
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.sni_callback = self._hand_over
        # A session taken up again would not be asked for its certificate a second time.
        self.context.options |= ssl.OP_NO_TICKET
        self.context.num_tickets = 0
        load_pair(self.context, *self._pair)

    def _hand_over(self, handshake: ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        if self._shown.pair is not self._pair:
            self._pair = self._shown.pair
            self._current = self._made()
        handshake.context = self._current

    def _made(self) -> ssl.SSLContext:
        context = server_context()
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self._trusted)
        load_pair(context, *self._pair)
        return context

    def _read(self) -> str:
        found = authorities(self._file.read_bytes())
        if not found:
            raise OSError("it holds no certificate")
        return "".join(each.public_bytes(Encoding.PEM).decode() for each in found)

    def reload(self) -> bool:
        """Read the file again if it has changed and can be read; whether that was done."""
        try:
            trusted = self._read()
        except OSError as error:
            if str(error) != self._refused:  # once, not every two seconds
                self._refused = str(error)
                log.warning("client CA not reloaded", file=str(self._file), error=str(error))
            return False
        self._refused = ""
        if trusted == self._trusted:
            return False
        self._trusted = trusted
        self._current = self._made()
        log.info("client CA reloaded", file=str(self._file))
        return True

    async def follow(self, poll_s: float = POLL_S) -> None:
        """Reload whenever the file changes. Runs until cancelled."""
        while True:
            await asyncio.sleep(poll_s)
            self.reload()


def wants_mutual(settings: Settings) -> bool:
    """Whether the extender is to speak TLS.

    Raises:
        StartError: it is to listen where others can reach it, and nothing says who may call.
    """
    if not settings.extender_port:
        return False
    if settings.extender_client_ca is None and not _is_loopback(settings.extender_bind):
        raise StartError(
            f"--extender-bind {settings.extender_bind}: beyond this machine's loopback callers need "
            "a certificate; give --extender-client-ca FILE, the authority of kube-scheduler's",
            BAD_INPUT,
        )
    return settings.extender_client_ca is not None


def mutual(settings: Settings, shown: Shown) -> Mutual:
    """What the settings ask for.

    Raises:
        StartError: the file cannot be used.
    """
    assert settings.extender_client_ca is not None  # noqa: S101  see `wants_mutual`
    try:
        return Mutual(shown, settings.extender_client_ca)
    except OSError as error:
        message = (
            f"--extender-client-ca {settings.extender_client_ca}: {error}; "
            "give certificates of authorities in PEM"
        )
        raise StartError(message, BAD_INPUT) from None


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
