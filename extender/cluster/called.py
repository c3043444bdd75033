"""Whom the API server calls by a webhook configuration: who stands there, and what they show."""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from extender.cluster.questions import Questions
from extender.cluster.shown import shown_at, stored
from extender.core.doctor.evidence import JSON, Certificate
from extender.core.pod import containers, mapping, objects, text

DEPLOYMENT = "migfit"
SECRET = "migfit-webhook-tls"  # noqa: S105  a name
"""Where a certificate is kept that migfit makes itself, unless the Deployment says otherwise."""

_HTTPS_PORT = 443


@dataclass(frozen=True, slots=True)
class Called:
    """A Service that a webhook configuration names."""

    name: str
    namespace: str
    port: int

    @property
    def server_name(self) -> str:
        """What the API server expects in the certificate."""
        return f"{self.name}.{self.namespace}.svc"


async def endpoints(questions: Questions, webhook: JSON | None) -> int | None:
    """How many ready addresses stand behind the Service; None: not known, or there is no Service."""
    service = service_of(webhook)
    if service is None:
        return None
    path = questions.path("endpointslices", "", service.namespace, "apis/discovery.k8s.io/v1")
    selector = {"labelSelector": f"kubernetes.io/service-name={service.name}"}
    found = await questions.attempt("endpointslices", questions.every(path, params=selector), None)
    if found is None:
        return None
    return sum(
        mapping(each.get("conditions")).get("ready", True) is not False
        for item in found
        for each in objects(item.get("endpoints"))
    )


async def certificate(
    questions: Questions, webhook: JSON | None, now_s: float
) -> tuple[Certificate | None, str]:
    """What the API server is shown, if that can be seen from here; else what is in the Secret.

    Returns:
        The certificate, if it is known; where there should be one and is none.
    """
    entries = objects((webhook or {}).get("webhooks"))
    bundles = list(dict.fromkeys(map(_bundle, entries)))
    for entry in entries:
        if (address := _address(entry)) is not None:
            host, port = address
            return await shown_at(f"URL https://{host}:{port}", host, port, host, bundles), ""
    service = service_of(webhook)
    if service is None:
        return None, ""
    if questions.client.namespace is not None:  # in a pod: elsewhere the name is somebody else's
        where = f"Service {service.namespace}/{service.name}"
        name = service.server_name
        found = await shown_at(where, name, service.port, name, bundles)
        if found is not None:
            return found, ""
    answer = _stored(questions, service.server_name, bundles, now_s)
    return await questions.attempt("secret", answer, (None, ""))


async def _stored(
    questions: Questions, server_name: str, bundles: Iterable[bytes], now_s: float
) -> tuple[Certificate | None, str]:
    path = questions.path("deployments", DEPLOYMENT, "", "apis/apps/v1")
    name = secret_of(await questions.get(path) or {})
    secret = await questions.get(questions.path("secrets", name))
    chain = _unpacked(text(mapping((secret or {}).get("data")).get("tls.crt")))
    where = f"Secret {name}"
    found = stored(where, chain, server_name, bundles, now_s)
    return found, "" if found is not None else where


def service_of(webhook: JSON | None) -> Called | None:
    """The Service of the first entry that has one."""
    for entry in objects((webhook or {}).get("webhooks")):
        service = mapping(mapping(entry.get("clientConfig")).get("service"))
        if service:
            port = service.get("port")
            return Called(
                text(service.get("name")),
                text(service.get("namespace")),
                port if isinstance(port, int) else _HTTPS_PORT,
            )
    return None


def secret_of(deployment: JSON) -> str:
    """The Secret that a Deployment mounts its certificate from, or keeps it in."""
    template = mapping(mapping(deployment.get("spec")).get("template"))
    for volume in objects(mapping(template.get("spec")).get("volumes")):
        if name := text(mapping(volume.get("secret")).get("secretName")):
            return name
    flag = "--tls-secret="
    for container in containers(template):
        args = container.raw.get("args")
        for word in args if isinstance(args, list) else ():
            if text(word).startswith(flag):
                return text(word).removeprefix(flag).rpartition("/")[2]
    return SECRET


def _address(entry: JSON) -> tuple[str, int] | None:
    """Host and port of an entry that has a URL."""
    try:
        url = urlsplit(text(mapping(entry.get("clientConfig")).get("url")))
        port = url.port or _HTTPS_PORT
    except ValueError:  # the API server takes port 99999 too
        return None
    return (url.hostname, port) if url.hostname else None


def _bundle(entry: JSON) -> bytes:
    return _unpacked(text(mapping(entry.get("clientConfig")).get("caBundle")))


def _unpacked(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return b""
