"""Which Service a webhook configuration names, what stands there, and which Secret it is from."""

from __future__ import annotations

import base64
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from aiohttp import web

from extender.cluster.called import Called, certificate, secret_of, service_of
from extender.cluster.client import connect
from extender.cluster.examine import scheduler_configurations
from extender.cluster.questions import Questions
from tests.cluster.apiserver import kubeconfig, serving
from tests.cluster.service import routed
from tests.deploy.manifests import SCHEDULERS, one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from extender.core.doctor.evidence import Certificate
    from tests.build import JSON

NAME = "migfit.migfit-system.svc"
OURS, OTHER = trustme.CA(), trustme.CA()


def deployment(*args: str, volumes: list[JSON] | None = None) -> JSON:
    spec = {"containers": [{"name": "migfit", "args": ["serve", *args]}], "volumes": volumes}
    return {"spec": {"template": {"spec": spec}}}


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ({}, "migfit-webhook-tls"),
        (deployment(), "migfit-webhook-tls"),
        (deployment("--tls-secret=migfit-system/mine"), "mine"),
        (deployment(volumes=[{"secret": {"secretName": "migfit-tls"}}]), "migfit-tls"),
        (deployment(volumes=[{"emptyDir": {}}]), "migfit-webhook-tls"),
    ],
    ids=["no deployment", "as it comes", "by flag", "mounted", "another volume"],
)
def test_the_secret_is_that_which_the_deployment_names(found: JSON, name: str) -> None:
    assert secret_of(found) == name


def test_the_service_is_that_of_the_manifests() -> None:
    expected = Called("migfit", "migfit-system", 443)

    assert service_of(one("MutatingWebhookConfiguration")) == expected
    assert expected.server_name == "migfit.migfit-system.svc"


@pytest.mark.parametrize("webhook", [None, {}, {"webhooks": [{"clientConfig": {"url": "u"}}]}])
def test_without_a_service_there_is_none(webhook: JSON | None) -> None:
    assert service_of(webhook) is None


def test_among_texts_only_configurations_of_schedulers_are_taken() -> None:
    sample = (SCHEDULERS / "second-scheduler.yaml").read_text()

    found = scheduler_configurations(["a: [", sample, "kind: ConfigMap", 7, None, "- x"])

    assert [each["kind"] for each in found] == ["KubeSchedulerConfiguration"]


# --- from within a cluster -----------------------------------------------------------------------


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def trusting(authority: trustme.CA) -> JSON:
    """The webhook configuration with that caBundle."""
    bundle = encoded(authority.cert_pem.bytes())
    service = {"name": "migfit", "namespace": "migfit-system", "path": "/mutate", "port": 443}
    return {"webhooks": [{"clientConfig": {"service": service, "caBundle": bundle}}]}


def shows(authority: trustme.CA) -> ssl.SSLContext:
    """A server's side, with a certificate by that authority."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(tls)
    return tls


async def with_secret(request: web.BaseRequest) -> web.StreamResponse:
    """An API server that knows the Secret and nothing else."""
    if not request.path.endswith("/secrets/migfit-webhook-tls"):
        return web.Response(status=404)
    (chain,) = OURS.issue_cert(NAME).cert_chain_pems
    return web.json_response({"data": {"tls.crt": encoded(chain.bytes())}})


async def nothing(_: web.BaseRequest) -> web.StreamResponse:
    """What the webhook's port answers to whoever only shakes hands."""
    return web.Response()


@pytest.fixture
def seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Awaitable[Certificate | None]]:
    """What is found of a certificate, asked in a pod or outside of the cluster."""
    OURS.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    (tmp_path / "token").write_text("token")
    (tmp_path / "namespace").write_text("default")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")

    async def look(hook: JSON, *, pod: bool = True) -> Certificate | None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        OURS.issue_cert("127.0.0.1").configure_cert(tls)
        async with serving(with_secret, tls) as url:
            monkeypatch.setenv("KUBERNETES_SERVICE_PORT", url.rpartition(":")[2])
            cluster: JSON = {"certificate-authority": str(tmp_path / "ca.crt")}
            file = None if pod else kubeconfig(tmp_path, url, cluster=cluster)
            async with connect(file, service_account=tmp_path) as client:
                ask = Questions(client, "migfit-system")
                found, missing = await certificate(ask, hook, 0.0)
                assert (missing, ask.unread) == ("", {})
                return found

    return look


async def test_in_a_pod_it_is_what_the_service_shows_and_judged_by_that(
    seen: Callable[..., Awaitable[Certificate | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(nothing, shows(OTHER)) as url:
        routed(monkeypatch, {(NAME, 443): ("127.0.0.1", int(url.rpartition(":")[2]))})

        stranger, known = await seen(trusting(OURS)), await seen(trusting(OTHER))

    assert stranger is not None
    assert stranger.where == "Service migfit-system/migfit"
    assert "issuer" in stranger.distrust or "signed" in stranger.distrust
    assert known is not None
    assert known.distrust == ""


async def test_in_a_pod_that_cannot_reach_the_service_it_is_what_the_secret_holds(
    seen: Callable[..., Awaitable[Certificate | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        for routes in ({}, {(NAME, 443): ("127.0.0.1", taken.getsockname()[1])}):
            routed(monkeypatch, routes)

            found = await seen(trusting(OURS))

            assert found is not None
            assert found.where == "Secret migfit-webhook-tls"


async def test_in_a_pod_a_service_that_speaks_no_tls_leaves_it_to_the_secret(
    seen: Callable[..., Awaitable[Certificate | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(nothing) as url:
        routed(monkeypatch, {(NAME, 443): ("127.0.0.1", int(url.rpartition(":")[2]))})

        found = await seen(trusting(OURS))

    assert found is not None
    assert found.where == "Secret migfit-webhook-tls"


async def test_outside_of_the_cluster_the_name_is_somebody_elses_and_is_not_called(
    seen: Callable[..., Awaitable[Certificate | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(nothing, shows(OTHER)) as url:
        asked = routed(monkeypatch, {(NAME, 443): ("127.0.0.1", int(url.rpartition(":")[2]))})

        found = await seen(trusting(OTHER), pod=False)

    assert found is not None
    assert found.where == "Secret migfit-webhook-tls"
    assert NAME not in asked
