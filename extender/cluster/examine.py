"""Asks a cluster once for everything the doctor looks at. What it may not read, it says."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

from extender.cluster import called
from extender.cluster.access import SERVICE_ACCOUNT
from extender.cluster.client import ApiClient, connect
from extender.cluster.questions import Questions
from extender.config import ConfigError, load
from extender.config.document import read
from extender.core.doctor.evidence import JSON, Evidence, name_of, namespace_of
from extender.core.doctor.plugin import is_plugin
from extender.core.pod import containers, mapping, objects, text
from extender.core.policy import Policy

CONFIG_MAP = "migfit-config"

_WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"


async def examine(
    kubeconfig: Path | None,
    namespace: str,
    webhook: str,
    configurations: Mapping[str, JSON] | None,
    *,
    clock: Callable[[], float] = time.time,
    service_account: Path = SERVICE_ACCOUNT,
) -> Evidence:
    """What can be found in a cluster now.

    Args:
        kubeconfig: the way to it; None: in-cluster, else the default one.
        namespace: migfit's own.
        webhook: name of the MutatingWebhookConfiguration.
        configurations: of schedulers, by where they were found; None: look into our ConfigMaps.
        clock: seconds since the epoch.
        service_account: folder by which a pod knows that it is one.

    Raises:
        ClusterError: it is out of reach.
    """
    async with connect(kubeconfig, service_account=service_account) as client:
        kubernetes = await client.server_version()
        skew_s = await _skew_s(client, clock)
        now_s = clock() - skew_s
        ask = Questions(client, namespace)
        matters = partial(_matters, namespace)
        nodes, pods, namespaces, plugins, hook, config = await asyncio.gather(
            ask.attempt("nodes", ask.every("/api/v1/nodes", lean=_lean), ()),
            ask.attempt("pods", ask.every("/api/v1/pods", matters), ()),
            ask.attempt("namespaces", ask.every("/api/v1/namespaces"), ()),
            ask.attempt("daemonsets", ask.every("/apis/apps/v1/daemonsets", is_plugin), ()),
            ask.attempt("webhook", ask.get(f"{_WEBHOOKS}/{webhook}"), None),
            ask.attempt("configuration", ask.get(ask.path("configmaps", CONFIG_MAP)), None),
        )
        said = mapping((config or {}).get("data")).get("config.yaml")
        policy, problems = _policy(said, namespace)
        certificate, missing = await called.certificate(ask, hook, now_s)
        return Evidence(
            namespace=namespace,
            now_s=now_s,
            skew_s=skew_s,
            kubernetes=kubernetes,
            webhook=hook,
            certificate=certificate,
            certificate_missing=missing,
            endpoints=await called.endpoints(ask, hook),
            config=f"ConfigMap {namespace}/{CONFIG_MAP}" if said is not None else None,
            policy=policy,
            problems=problems,
            scheduler_configurations=await _configurations(ask, namespace)
            if configurations is None
            else configurations,
            nodes=nodes,
            pods=pods,
            namespaces=namespaces,
            leases=await _leases(ask, policy),
            plugins=plugins,
            unread=ask.unread,
        )


async def _skew_s(client: ApiClient, clock: Callable[[], float]) -> float:
    """How far our clock is ahead of the API server's; 0 if it does not say."""
    before_s = clock()
    async with client.stream("/version") as answer:
        said = answer.headers.get("Date", "")
    try:
        # The header drops what is below a second.
        date_s = parsedate_to_datetime(said).timestamp() + 0.5
    except (TypeError, ValueError):
        return 0.0
    return (before_s + clock()) / 2 - date_s


async def _configurations(ask: Questions, namespace: str) -> dict[str, JSON]:
    """Configurations of schedulers in ConfigMaps of ours."""
    selector = {"labelSelector": "app.kubernetes.io/name=migfit"}
    listed = ask.every(ask.path("configmaps", ""), params=selector)
    return {
        f"ConfigMap {namespace}/{name_of(item)}": found
        for item in await ask.attempt("configmaps", listed, ())
        for found in scheduler_configurations(mapping(item.get("data")).values())
    }


async def _leases(ask: Questions, policy: Policy | None) -> tuple[JSON, ...]:
    name = policy.inject.scheduler_name if policy is not None else ""
    if not name:
        return ()
    selector = {"fieldSelector": f"metadata.name={name}"}
    listed = ask.every("/apis/coordination.k8s.io/v1/leases", params=selector)
    return await ask.attempt("leases", listed, ())


def scheduler_configurations(texts: Iterable[object]) -> list[JSON]:
    """Those of the texts that are a KubeSchedulerConfiguration, parsed."""
    found: list[JSON] = []
    for each in texts:
        try:
            value = mapping(read(text(each)).value)
        except ConfigError:
            continue
        if value.get("kind") == "KubeSchedulerConfiguration":
            found.append(value)
    return found


def _policy(said: object, namespace: str) -> tuple[Policy | None, tuple[str, ...]]:
    if not isinstance(said, str):
        return None, ()
    try:
        return load(said, own_namespace=namespace), ()
    except ConfigError as error:
        return None, tuple(map(str, error.problems))


def _matters(namespace: str, pod: JSON) -> bool:
    """Whether a pod asks for any device, or is of migfit's own namespace."""
    return namespace_of(pod) == namespace or any(
        "/" in name for c in containers(pod) for name in (*c.limits, *c.requests)
    )


def _lean(node: JSON) -> JSON:
    """A node without images, conditions and most of its records, which are the bulk of it."""
    meta, status = mapping(node.get("metadata")), mapping(node.get("status"))
    records = [
        each
        for each in objects(meta.get("managedFields"))
        if "f:labels" in mapping(mapping(each.get("fieldsV1")).get("f:metadata"))
    ]
    kept = {part: meta.get(part) for part in ("name", "labels")}
    return {
        "metadata": {**kept, "managedFields": records},
        "status": {part: status.get(part) for part in ("allocatable", "capacity")},
    }
