"""Where the API server is and who we are there: read by kubernetes_asyncio, kept fresh by us."""

import asyncio
import math
import os
import ssl
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from kubernetes_asyncio.client import Configuration
from kubernetes_asyncio.config import load_incluster_config, load_kube_config

from extender.cluster.errors import KubeconfigError, cut

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_RELOAD_EVERY_S = 60.0
_RELOAD_AGAIN_AFTER_S = 10.0
_RELOAD_TIMEOUT_S = 60.0

log = structlog.get_logger(__name__)


class Access:
    """The way to one API server.

    Attributes:
        url: of the API server, without a trailing slash.
        tls: context for https, None for http. Another object once a certificate file has changed:
            connections are pooled by it, so the next request makes a new handshake.
        server_name: the name expected in the server's certificate, if not the URL's.
        proxy: URL of an HTTP proxy to go through.
        in_cluster: we run in a pod of that cluster.
        namespace: of our pod, if we are one.
    """

    def __init__(
        self,
        configuration: Configuration,
        load: Callable[[bool], Awaitable[None]],
        *,
        reload_every_s: float = _RELOAD_EVERY_S,
        namespace: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what has just been loaded.

        Args:
            configuration: filled by the library; read again after each `load`.
            load: fills it anew; True discards credentials that have not run out yet.
            reload_every_s: age at which files and plugins are asked again; inf: only after a 401.
            namespace: of our pod, None outside a cluster.
            clock: seconds, monotonic.
        """
        self.url = str(configuration.host).rstrip("/")
        self.in_cluster = namespace is not None
        self.namespace = namespace
        self._tls_files = _tls_files(configuration)
        self.tls = _tls(configuration) if self.url.startswith("https:") else None
        self.server_name: str | None = configuration.tls_server_name or None
        self.proxy: str | None = configuration.proxy or None
        if self.proxy is None and not self.in_cluster:
            # A Service address is always direct; NO_PROXY often names it by a CIDR, which urllib
            # does not understand.
            self.proxy = _proxy_of_environment(self.url)
        self._configuration = configuration
        self._load = load
        self._reload_every_s = reload_every_s
        self._clock = clock
        self._loaded_at = self._tried_at = clock()
        self._lock = asyncio.Lock()

    async def authorization(self) -> str | None:
        """Value of the next request's `Authorization` header; None: a certificate, or nothing.

        Credentials older than a minute are read again first. If that fails, the old ones serve.
        """
        if self._clock() - self._loaded_at >= self._reload_every_s:
            await self.renew(force=False)
        value = self._configuration.api_key.get("BearerToken")
        return value.strip() if value else None

    async def renew(self, *, force: bool = True) -> bool:
        """Read credentials again, at most every 10 s. Whether that worked, so a retry makes sense.

        Args:
            force: also those that by their own date are still good (the server has said 401).
        """
        seen = self._loaded_at
        async with self._lock:
            if self._loaded_at != seen:
                return True  # somebody else did it while we waited
            if self._clock() - self._tried_at < _RELOAD_AGAIN_AFTER_S:
                return False
            self._tried_at = self._clock()
            try:
                async with asyncio.timeout(_RELOAD_TIMEOUT_S):
                    await self._load(force)
                if self.tls is not None and self._tls_files != _tls_files(self._configuration):
                    self.tls = _tls(self._configuration)
                    self._tls_files = _tls_files(self._configuration)
            except Exception as error:  # noqa: BLE001  plugins, OIDC and files raise anything
                log.warning("credentials-not-renewed", error=_said(error), server=self.url)
                return False
            self._loaded_at = self._clock()
            return True


async def log_in(kubeconfig: Path | None, service_account: Path = SERVICE_ACCOUNT) -> Access:
    """Find the cluster: the file given, else the one our pod runs in, else the default kubeconfig.

    Args:
        kubeconfig: a file, or None.
        service_account: folder with `token`, `ca.crt` and `namespace`, mounted into every pod.

    Raises:
        KubeconfigError: none there, or unusable. The message says which and what to do.
    """
    if kubeconfig is None and _in_pod(service_account):
        return await _log_in_as_pod(service_account)
    return await _log_in_with_file(_existing(kubeconfig))


async def _log_in_as_pod(service_account: Path) -> Access:
    configuration = Configuration()
    token, ca = service_account / "token", service_account / "ca.crt"

    async def load(_force: bool) -> None:
        load_incluster_config(  # type: ignore[no-untyped-call]
            configuration,
            try_refresh_token=False,  # we do, and survive a failure
            token_filename=str(token),
            cert_filename=str(ca),
        )

    try:
        await load(True)
        namespace = (service_account / "namespace").read_text().strip()
        return Access(configuration, load, namespace=namespace)
    except Exception as error:
        raise KubeconfigError(f"service account {service_account}: {_said(error)}") from error


async def _log_in_with_file(files: str) -> Access:
    configuration = Configuration()
    try:
        # persist_config would write refreshed tokens back, and fails in the library.
        loader = await load_kube_config(
            files, client_configuration=configuration, persist_config=False
        )
        user = loader._user  # noqa: SLF001  as the library's own refresh_token() does
        plugin = user is not None and "exec" in user

        async def load(force: bool) -> None:
            if force and hasattr(loader, "exec_plugin_expiry"):
                del loader.exec_plugin_expiry
            await loader.load_and_set(configuration)

        # A plugin that names no expiry is asked again only after a 401, as by kubectl.
        once = plugin and not hasattr(loader, "exec_plugin_expiry")
        return Access(configuration, load, reload_every_s=math.inf if once else _RELOAD_EVERY_S)
    except Exception as error:
        raise KubeconfigError(f"kubeconfig {files}: {_said(error)}") from error


def _existing(kubeconfig: Path | None) -> str:
    files = str(kubeconfig or os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    if not any(Path(file).expanduser().is_file() for file in files.split(os.pathsep)):
        hint = "" if kubeconfig else ", and this is no pod; name one with --kubeconfig"
        raise KubeconfigError(f"kubeconfig {files}: no such file{hint}")
    return files


def _in_pod(service_account: Path) -> bool:
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (service_account / "token").is_file()


def _tls(configuration: Configuration) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    # Python 3.13 made it default; many cluster CAs lack the key identifiers it asks for, and Go
    # does not ask.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context


def _tls_files(configuration: Configuration) -> list[tuple[str, int, int]]:
    """What changes when one of the certificate files is another, or another text."""
    paths = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    found = [(path, Path(path).stat()) for path in paths if path]
    return [(path, stat.st_mtime_ns, stat.st_size) for path, stat in found]


def _proxy_of_environment(url: str) -> str | None:
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {cut(str(error))}"
