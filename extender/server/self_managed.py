"""The webhook's certificate, made by us: kept in a Secret that all replicas share, and trusted in time.

Every replica looks every few seconds, shows what it finds, and does the one step that is due; of
several at once the first wins. There is no leader to wait for.
"""

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus
from ssl import SSLContext

import structlog

from extender.cluster.client import ApiClient
from extender.cluster.errors import ApiError, ClusterError
from extender.server.certificate_store import (
    ChangedError,
    SecretStore,
    Stored,
    Trusted,
    WebhookConfiguration,
)
from extender.server.certificates import (
    Issued,
    Schedule,
    authorities,
    begin,
    read,
    renewed,
    service_names,
    succeeded,
)
from extender.server.settings import BAD_INPUT, UNREACHABLE, Settings, StartError
from extender.server.tls import Live

log = structlog.get_logger(__name__)

SECRET = "migfit-webhook-tls"  # noqa: S105  a name
RETRY_S = 1.0
START_ATTEMPTS = 10
_ROUNDS = 10
"""How often in a row others may be faster than we, before we wait for the next look."""
FINAL = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})
"""Answers that do not get better by asking again."""


class NotOursError(Exception):
    """The Secret holds something that we have not put there."""


class SelfManaged:
    """A certificate of our own making; see `tls.Shown`.

    Args:
        secret: where it is kept.
        webhooks: where the API server reads whom to trust.
        names: host names and addresses that it must be good for.
        schedule: lives and waits.
        clock: seconds since the epoch.
        monotonic: seconds, for waits.
    """

    def __init__(
        self,
        secret: SecretStore,
        webhooks: WebhookConfiguration,
        names: tuple[str, ...],
        schedule: Schedule,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._secret, self._webhooks = secret, webhooks
        self._names, self._schedule = names, schedule
        self._clock, self._monotonic = clock, monotonic
        self._live = Live(clock)
        self._issued: Issued | None = None
        self._version = ""
        self._trusted_since: tuple[bytes, float] | None = None
        self._was_trusted = False
        self._troubles: dict[str, str] = {}

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
        """See `Shown`. Once trusted we stay so: an API server that is away must not stop us."""
        why = self._live.unready()
        if why is None and not self._was_trusted:
            why = f"webhook configuration {self._webhooks} does not trust our certificate yet"
        if why is None:
            return None
        return "; ".join((why, *self._troubles.values()))

    async def first(self) -> None:
        """Get a certificate to start with. The API server may still be starting.

        Raises:
            StartError: there is none to be had.
        """
        for left in reversed(range(START_ATTEMPTS)):
            try:
                return await self.look()
            except (NotOursError, OSError) as error:
                raise StartError(f"--tls-secret {self._secret}: {error}", BAD_INPUT) from None
            except ClusterError as error:
                if isinstance(error, ApiError) and error.status in FINAL:
                    message = (
                        f"--tls-secret {self._secret}: {error}; grant us to get, create and patch "
                        "it, or give --tls-cert FILE and --tls-key FILE"
                    )
                    raise StartError(message, BAD_INPUT) from None
                if not left:
                    message = f"--tls-secret {self._secret}: {error}; is the API server up?"
                    raise StartError(message, UNREACHABLE) from None
                log.info("certificate cannot be read yet", error=str(error))
                await asyncio.sleep(RETRY_S)
        return None

    async def follow(self) -> None:
        """See `Shown`."""
        while True:
            await asyncio.sleep(self._schedule.poll_s)
            try:
                await self.look()
            except (ClusterError, NotOursError, OSError) as error:
                self._tell(f"Secret {self._secret}", str(error))
            else:
                self._tell(f"Secret {self._secret}", "")

    async def look(self) -> None:
        """See what is there, do what is due, show the result.

        Raises:
            ClusterError: of the Secret. Trouble with the webhook configuration is only told.
            NotOursError: the Secret is somebody else's.
            OSError: OpenSSL does not take what the Secret holds.
        """
        for _ in range(_ROUNDS):
            try:
                return await self._round()
            except ChangedError:
                await asyncio.sleep(0)
        log.info("others keep changing the certificate; looking again later")
        return None

    async def _round(self) -> None:
        # Before the Secret: see WebhookConfiguration.write.
        trusted, known = await self._trust()
        issued, version = await self._stored(await self._secret.read(), trusted)
        settled = known and self._settled(issued, trusted)
        wanted = renewed(issued, self._names, self._clock(), self._schedule, settled=settled)
        if wanted is not issued:
            version = await self._secret.replace(wanted.data(), version)
            log.info("certificate renewed", **_told(issued, wanted))
        self._use(wanted, version)
        if known:
            await self._publish(trusted, wanted)

    # --- the Secret ------------------------------------------------------------------------------

    async def _stored(self, stored: Stored | None, trusted: Trusted | None) -> tuple[Issued, str]:
        """What the Secret holds, and its version; if that is nothing usable, something new is put there."""
        if stored is None:
            new = self._anew(trusted)
            version = await self._secret.create(new.data())
            log.info("certificate made", secret=str(self._secret))
            return new, version
        if not stored.ours:
            message = "it holds what migfit has not put there; name another Secret, or delete it"
            raise NotOursError(message)
        if self._issued is not None and stored.version == self._version:
            return self._issued, stored.version
        try:
            found = read(stored.data)
        except ValueError as error:
            new = self._anew(trusted)
            version = await self._secret.replace(new.data(), stored.version)
            log.warning("certificate made anew", secret=str(self._secret), because=str(error))
            return new, version
        return found, stored.version

    def _anew(self, trusted: Trusted | None) -> Issued:
        """A new authority. What we show stays until that is trusted, if we show something."""
        now_s = self._clock()
        if self._issued is not None:
            return succeeded(self._issued, now_s, self._schedule)
        # Another replica may show a certificate from elsewhere: files, or a Secret now gone.
        bundles = () if trusted is None else trusted.bundles
        old = dict.fromkeys(each for bundle in bundles for each in authorities(bundle))
        return begin(self._names, now_s, self._schedule, tuple(old))

    def _use(self, issued: Issued, version: str) -> None:
        if self._issued is None or issued.leaf.certificate != self._issued.leaf.certificate:
            self._live.load(issued.leaf.pem, issued.leaf.key_pem)
            log.info("certificate loaded", left_s=round(self._live.left_s()))
        self._issued, self._version = issued, version

    # --- the webhook configuration ---------------------------------------------------------------

    async def _trust(self) -> tuple[Trusted | None, bool]:
        """Whom the API server trusts, if anybody calls us at all; and whether that is known."""
        try:
            trusted = await self._webhooks.read()
        except ClusterError as error:
            self._tell(f"webhook configuration {self._webhooks}", str(error))
            return None, False
        return trusted, True

    def _settled(self, issued: Issued, trusted: Trusted | None) -> bool:
        """Whether the authority has been trusted for long enough, by every look since."""
        now_s = self._monotonic()
        pem = issued.authority.pem
        if trusted is not None and not all(pem in bundle for bundle in trusted.bundles):
            self._trusted_since = None
            return False
        if self._trusted_since is None or self._trusted_since[0] != pem:
            self._trusted_since = pem, now_s
        return now_s - self._trusted_since[1] >= self._schedule.settle_s

    async def _publish(self, trusted: Trusted | None, issued: Issued) -> None:
        trouble = ""
        if trusted is not None and any(each != issued.bundle for each in trusted.bundles):
            if trusted.injected:
                trouble = (
                    "cert-manager fills in its caBundle; take that annotation off, "
                    "or give --tls-cert FILE and --tls-key FILE"
                )
            else:
                try:
                    await self._webhooks.write(trusted, issued.bundle)
                except ClusterError as error:
                    trouble = str(error)
                else:
                    log.info("caBundle written", configuration=str(self._webhooks))
        self._was_trusted = self._was_trusted or not trouble
        self._tell(f"webhook configuration {self._webhooks}", trouble)

    def _tell(self, what: str, trouble: str) -> None:
        """Log a trouble when it begins; an empty one ends it."""
        if not trouble:
            self._troubles.pop(what, None)
        elif self._troubles.get(what) != (said := f"{what}: {trouble}"):
            self._troubles[what] = said
            log.warning("certificate not looked after", what=what, error=trouble)


def _told(before: Issued, after: Issued) -> dict[str, bool]:
    """What was renewed, for the log."""
    return {
        "authority": before.authority is not after.authority,
        "leaf": before.leaf is not after.leaf,
        "retired": len(after.old) < len(before.old),
    }


def secret_of(settings: Settings, client: ApiClient) -> tuple[str, str]:
    """Namespace and name of the Secret: of `--tls-secret`, else ours, else of `--configmap`.

    Raises:
        StartError: there is no such namespace.
    """
    namespace, name = settings.tls_secret or (
        client.namespace or (settings.configmap or ("", ""))[0],
        SECRET,
    )
    if not namespace:
        raise StartError(
            "no certificate for the webhook, and no namespace to keep one in: give --tls-secret "
            "NAMESPACE/NAME, or --tls-cert FILE and --tls-key FILE, or switch the webhook off with "
            "--webhook-port 0",
            BAD_INPUT,
        )
    return namespace, name


def self_managed(settings: Settings, client: ApiClient, schedule: Schedule) -> SelfManaged:
    """What the settings ask for.

    Raises:
        StartError: there is no namespace to keep it in.
    """
    namespace, name = secret_of(settings, client)
    return SelfManaged(
        SecretStore(client, namespace, name),
        WebhookConfiguration(client, settings.webhook_configuration),
        (*service_names(settings.service, namespace), *settings.tls_names),
        schedule,
    )
