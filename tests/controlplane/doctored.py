"""An installation in a real API server that nothing is wrong with, and how to make it otherwise."""

from __future__ import annotations

import base64
import copy
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

import trustme
import yaml

from tests.controlplane.migfit import CONFIG, SYSTEM_NAMESPACE
from tests.controlplane.objects import gpu_pod
from tests.core.doctor import healthy
from tests.deploy.manifests import SCHEDULERS, one

if TYPE_CHECKING:
    from tests.controlplane.client import JSON, Client

Key: TypeAlias = tuple[str, str, str]
"""Kind, namespace, name."""
Objects: TypeAlias = "dict[Key, JSON]"

NAMESPACE = "speech"
SCHEDULER = "migfit-scheduler"
NOW = datetime.now(UTC)
AUTHORITY = trustme.CA()
WEBHOOK: Key = ("MutatingWebhookConfiguration", "", "migfit")
CONFIG_MAP: Key = ("ConfigMap", SYSTEM_NAMESPACE, "migfit-config")
SECRET: Key = ("Secret", SYSTEM_NAMESPACE, "migfit-webhook-tls")
SAMPLE: Key = ("ConfigMap", SYSTEM_NAMESPACE, SCHEDULER)
ENDPOINTS: Key = ("EndpointSlice", SYSTEM_NAMESPACE, "migfit-1")
LEASE: Key = ("Lease", SYSTEM_NAMESPACE, SCHEDULER)
NODE: Key = ("Node", "", "gpu-a")
REPLICA: Key = ("Pod", SYSTEM_NAMESPACE, "migfit-1")
PLUGIN: Key = ("DaemonSet", "default", "nvidia-device-plugin")
POD: Key = ("Pod", NAMESPACE, "asr")
LABELLED = {"app.kubernetes.io/name": "migfit"}


def encoded(data: bytes) -> str:
    """As Secrets and webhook configurations hold it."""
    return base64.b64encode(data).decode()


def secret(days: float = 60.0, authority: trustme.CA = AUTHORITY) -> JSON:
    """The certificate, with so many days left of 90."""
    end = NOW + timedelta(days=days)
    issued = authority.issue_cert(
        f"migfit.{SYSTEM_NAMESPACE}.svc", not_before=end - timedelta(days=90), not_after=end
    )
    (chain,) = issued.cert_chain_pems
    return {
        "type": "kubernetes.io/tls",
        "data": {
            "tls.crt": encoded(chain.bytes()),
            "tls.key": encoded(issued.private_key_pem.bytes()),
        },
    }


def webhook() -> JSON:
    """The configuration we ship, trusting our authority."""
    made = copy.deepcopy(one("MutatingWebhookConfiguration"))
    for entry in made["webhooks"]:
        entry["clientConfig"]["caBundle"] = encoded(AUTHORITY.cert_pem.bytes())
    return {"webhooks": made["webhooks"]}


def config(**fields: object) -> JSON:
    """The ConfigMap."""
    text = {**CONFIG, "inject": {"schedulerName": SCHEDULER}, **fields}
    return {"data": {"config.yaml": json.dumps(text)}}


def sample(**extender: object) -> JSON:
    """The ConfigMap of the second scheduler."""
    made = yaml.safe_load((SCHEDULERS / "second-scheduler.yaml").read_text())
    made["extenders"][0] |= extender
    return {"data": {"config.yaml": yaml.safe_dump(made)}}


def node(**changes: JSON) -> JSON:
    """The node of the pure tests; `labels` adds to or, by None, takes from its own."""
    return healthy.node(**changes)  # type: ignore[arg-type]


def lease(age_s: float = 0.0) -> JSON:
    """Renewed so long ago."""
    renewed = datetime.now(UTC) - timedelta(seconds=age_s)
    return {"spec": {"renewTime": renewed.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}}


def replica(image: str = healthy.IMAGE) -> JSON:
    """A pod of migfit."""
    container = {"name": "migfit", "image": image, "args": ["serve"]}
    return {"metadata": {"labels": LABELLED}, "spec": {"containers": [container]}}


def endpoints(*, ready: bool = True) -> JSON:
    """Who stands behind the Service."""
    return {
        "metadata": {"labels": {"kubernetes.io/service-name": "migfit"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["192.0.2.7"], "conditions": {"ready": ready}}],
        "ports": [{"name": "webhook", "port": 8443}],
    }


def plugin(**changes: str) -> JSON:
    """NVIDIA's device plugin."""
    spec = healthy.plugin(**changes)["spec"]
    labels = {"app": "nvidia-device-plugin"}
    spec["selector"] = {"matchLabels": labels}
    spec["template"]["metadata"] = {"labels": labels}
    return {"spec": spec}


def installation() -> Objects:
    """Everything, and all of it well."""
    return {
        CONFIG_MAP: config(),
        SAMPLE: {"metadata": {"labels": LABELLED}, **sample()},
        SECRET: secret(),
        ENDPOINTS: endpoints(),
        LEASE: lease(),
        NODE: node(),
        REPLICA: replica(),
        PLUGIN: plugin(),
        WEBHOOK: webhook(),
        POD: gpu_pod("asr", NAMESPACE, annotations={"migfit.io/decision": "{}"}),
    }


class Cluster:
    """Makes the API server hold just these objects, of those that it was ever told to hold."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._held: Objects = {}

    def be(self, wanted: Objects) -> None:
        """Delete what is too much or otherwise, then create what lacks."""
        for key in [key for key, item in self._held.items() if wanted.get(key) != item]:
            self._client.delete(key[0], key[2], key[1])
            del self._held[key]
        for key, item in wanted.items():
            if key not in self._held:
                self._create(key, item)
                self._held[key] = item

    def _create(self, key: Key, item: JSON) -> None:
        kind, namespace, name = key
        version = {
            "DaemonSet": "apps/v1",
            "EndpointSlice": "discovery.k8s.io/v1",
            "Lease": "coordination.k8s.io/v1",
            "MutatingWebhookConfiguration": "admissionregistration.k8s.io/v1",
        }.get(kind, "v1")
        meta = {**item.get("metadata", {}), "name": name}
        for own in ("uid", "creationTimestamp"):
            meta.pop(own, None)
        if namespace:
            meta["namespace"] = namespace
        records = meta.pop("managedFields", None)
        self._client.create({**item, "apiVersion": version, "kind": kind, "metadata": meta})
        if records:  # the API server keeps its own when an object is made, not when it is changed
            change = {"metadata": {"managedFields": records}}
            self._client.patch(kind, name, change, namespace)
