"""A self-managed certificate in this process, before a real API server; rights and clocks as wanted."""

from __future__ import annotations

import asyncio
import base64
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from extender.cluster.client import connect
from extender.server.certificate_store import SecretStore, WebhookConfiguration
from extender.server.certificates import Issued, Schedule, read
from extender.server.self_managed import SelfManaged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.controlplane.client import JSON
    from tests.controlplane.plane import ControlPlane, User

SECRET = "migfit-webhook-tls"
CONFIGURATION = "migfit"
NAMES = ("127.0.0.1",)
NOW_S = 1_800_000_000.0
DAY_S = 86_400.0
SCHEDULE = Schedule()


class Clock:
    """The time by every clock of a test."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


class Kept:
    """What replicas share: a Secret and a webhook configuration, as the admin sees them."""

    def __init__(
        self, plane: ControlPlane, namespace: str, configuration: str = CONFIGURATION
    ) -> None:
        self.plane, self.namespace = plane, namespace
        self._configuration = configuration
        self.clock = Clock()

    @property
    def issued(self) -> Issued:
        """What the Secret holds."""
        return read({key: base64.b64decode(text) for key, text in self.secret()["data"].items()})

    def secret(self) -> JSON:
        return self.plane.client.get("Secret", SECRET, self.namespace)

    def delete_secret(self) -> None:
        self.plane.client.delete("Secret", SECRET, self.namespace)

    def configuration(self) -> JSON:
        return self.plane.client.get("MutatingWebhookConfiguration", self._configuration)

    def bundles(self) -> list[bytes]:
        """Whom each webhook trusts, PEM."""
        return bundles_of(self.configuration())

    def configure(self, *names: str, **meta: object) -> None:
        """Register webhooks that nothing calls."""
        self.plane.client.create(manifest(*names, **meta))

    @asynccontextmanager
    async def replica(
        self, user: User | None = None, schedule: Schedule = SCHEDULE
    ) -> AsyncIterator[SelfManaged]:
        """One of them, by the admin's rights unless given, by the clock of this object."""
        config = user.kubeconfig if user else self.plane.kubeconfig
        async with connect(config) as client:
            yield SelfManaged(
                SecretStore(client, self.namespace, SECRET),
                WebhookConfiguration(client, CONFIGURATION),
                NAMES,
                schedule,
                clock=self.clock,
                monotonic=self.clock,
            )


def bundles_of(configuration: JSON) -> list[bytes]:
    """Whom each webhook of a configuration trusts, PEM."""
    clients = (each["clientConfig"] for each in configuration["webhooks"])
    return [base64.b64decode(client.get("caBundle", "")) for client in clients]


def manifest(*names: str, **meta: object) -> JSON:
    """A webhook configuration whose webhooks match nothing."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": CONFIGURATION, **meta},
        "webhooks": [
            {
                "name": name,
                "clientConfig": {"url": "https://127.0.0.1:1/mutate"},
                "rules": [],
                "failurePolicy": "Ignore",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
            for name in names or ("pods.migfit.io", "bare-pods.migfit.io")
        ],
    }


async def shown(replica: SelfManaged) -> bytes:
    """The certificate that a new connection gets, DER."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=replica.context)
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    async with server:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        connection = writer.get_extra_info("ssl_object")
        writer.transport.abort()
    assert isinstance(connection, ssl.SSLObject)
    return connection.getpeercert(binary_form=True) or b""


def der(issued: Issued) -> bytes:
    """The leaf, to compare with what is shown."""
    return ssl.PEM_cert_to_DER_cert(issued.leaf.pem.decode())


async def until(true: Callable[[], bool]) -> None:
    """Let others run until that is so."""
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  what is waited for cannot tell us
            await asyncio.sleep(0.02)


def may(user: User, attributes: JSON) -> bool:
    """What `kubectl auth can-i` would say."""
    path = user.client.path("SelfSubjectAccessReview")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    return bool(user.client.request("POST", path, review).body["status"]["allowed"])
