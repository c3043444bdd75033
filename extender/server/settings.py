"""What `migfit serve` was told on its command line."""

from dataclasses import dataclass
from pathlib import Path

BAD_INPUT = 2
UNREACHABLE = 3
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Flags of `migfit serve`; each also has a `MIGFIT_…` environment variable."""

    config: Path | None = None
    configmap: tuple[str, str] | None = None
    """Namespace and name, when the configuration is read from the API."""
    kubeconfig: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_secret: tuple[str, str] | None = None
    """Namespace and name of where a certificate of our own making is kept; None: as usual."""
    tls_names: tuple[str, ...] = ()
    """What that certificate is good for beside the names of the Service."""
    service: str = "migfit"
    webhook_configuration: str = "migfit"
    webhook_port: int = 8443
    extender_port: int = 8888
    """0 switches a part off; -1 takes any free port (for tests)."""
    ops_port: int = 9090
    bind: str = "0.0.0.0"  # noqa: S104  the API server reaches a pod by its address
    extender_bind: str = LOOPBACK
    """Plain HTTP to the kube-scheduler beside it; anywhere else only with the next one."""
    extender_client_ca: Path | None = None
    """Who signs the certificates of those who may call the extender, PEM; then it speaks HTTPS."""
    lame_duck_s: float = 5.0


class StartError(Exception):
    """The process cannot start: what, why, what to do; and the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
