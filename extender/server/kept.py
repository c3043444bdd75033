"""The certificate that the webhook's replicas keep in their Secret: shown by an extender, never written.

So an extender by itself needs the right to read that one Secret, and none to the webhook configuration.
"""

import asyncio
from ssl import SSLContext

import structlog

from extender.cluster.client import ApiClient
from extender.cluster.errors import ApiError, ClusterError
from extender.server.certificate_store import SecretStore
from extender.server.certificates import Schedule, read
from extender.server.self_managed import FINAL, RETRY_S, START_ATTEMPTS, secret_of
from extender.server.settings import BAD_INPUT, UNREACHABLE, Settings, StartError
from extender.server.tls import Live

log = structlog.get_logger(__name__)


class NothingKeptError(Exception):
    """The Secret is not there, or holds no certificate."""


class Kept:
    """See `tls.Shown`.

    Args:
        secret: where others keep it.
        poll_s: how often to look.
    """

    def __init__(self, secret: SecretStore, poll_s: float) -> None:
        self._secret, self._poll_s = secret, poll_s
        self._live = Live()
        self._trouble = ""

    @property
    def context(self) -> SSLContext:
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
        return why and "; ".join(filter(None, (why, self._trouble)))

    async def first(self) -> None:
        """Get a certificate to start with. The webhook may still be making it.

        Raises:
            StartError: there is none to be had.
        """
        for left in reversed(range(START_ATTEMPTS)):
            try:
                return await self.look()
            except (ClusterError, NothingKeptError, OSError) as error:
                message = f"--tls-secret {self._secret}: {error}"
                if isinstance(error, ApiError) and error.status in FINAL:
                    advice = "grant us to get it, or give --tls-cert FILE and --tls-key FILE"
                    raise StartError(f"{message}; {advice}", BAD_INPUT) from None
                if not left:
                    advice = "is there a webhook that keeps it?"
                    raise StartError(f"{message}; {advice}", UNREACHABLE) from None
                log.info("certificate cannot be read yet", error=str(error))
                await asyncio.sleep(RETRY_S)
        return None

    async def follow(self) -> None:
        """See `Shown`."""
        while True:
            await asyncio.sleep(self._poll_s)
            trouble = ""
            try:
                await self.look()
            except (ClusterError, NothingKeptError, OSError) as error:
                trouble = f"Secret {self._secret}: {error}"
            if trouble and trouble != self._trouble:  # once, not every ten seconds
                log.warning("certificate not looked after", error=trouble)
            self._trouble = trouble

    async def look(self) -> None:
        """Show what is there; what cannot be used leaves what is shown as it is.

        Raises:
            ClusterError: the Secret cannot be read.
            NothingKeptError: it holds no certificate.
            OSError: OpenSSL does not take it.
        """
        stored = await self._secret.read()
        if stored is None:
            raise NothingKeptError("it is not there")
        try:
            leaf = read(stored.data).leaf
        except ValueError as error:
            raise NothingKeptError(str(error)) from None
        if (leaf.pem, leaf.key_pem) != self.pair:
            self._live.load(leaf.pem, leaf.key_pem)
            log.info("certificate loaded", left_s=round(self.left_s()))


def kept(settings: Settings, client: ApiClient, schedule: Schedule) -> Kept:
    """What the settings ask for.

    Raises:
        StartError: there is no namespace to look in.
    """
    return Kept(SecretStore(client, *secret_of(settings, client)), schedule.poll_s)
