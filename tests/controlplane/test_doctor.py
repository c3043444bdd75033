"""The doctor on a real API server: nothing where all is well, and each finding when it is made true."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trustme
from click.testing import CliRunner, Result

from docs._doctor import READS
from extender.cli import main
from extender.cluster.examine import examine
from extender.core.doctor.diagnose import diagnose
from extender.core.doctor.finding import Id
from tests.build import GPU, changed, mig, without
from tests.controlplane.doctored import (
    CONFIG_MAP,
    ENDPOINTS,
    LEASE,
    NAMESPACE,
    NODE,
    PLUGIN,
    SAMPLE,
    SECRET,
    WEBHOOK,
    Cluster,
    config,
    encoded,
    endpoints,
    installation,
    lease,
    node,
    plugin,
    replica,
    sample,
    secret,
    webhook,
)
from tests.controlplane.migfit import SYSTEM_NAMESPACE
from tests.controlplane.objects import gpu_pod, new_namespace, wait_until
from tests.core.doctor.test_diagnose import PRODUCT, STATE, STRATEGY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.controlplane.client import JSON
    from tests.controlplane.doctored import Key, Objects
    from tests.controlplane.migfit import Migfit
    from tests.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(400)]

NOT_BY_OBJECTS = {
    Id.KUBERNETES_TOO_OLD: "there is one API server",
    Id.CLOCK_SKEWED: "tested below",
    Id.UNREADABLE: "tested below",
    Id.PODS_UNDECIDED: "tested below",
}


def hook(**fields: object) -> JSON:
    made = webhook()
    made["webhooks"][0] |= fields
    return made


def labelled(labels: Mapping[str, str | None], **changes: object) -> JSON:
    return node(labels=labels, **changes)  # type: ignore[arg-type]


def renamed(item: JSON, name: str) -> JSON:
    return changed(item, "metadata", "labels", "kubernetes.io/hostname", to=name)


def driver(major: str, minor: str, revision: str) -> dict[str, str | None]:
    parts = {"major": major, "minor": minor, "revision": revision}
    return {f"nvidia.com/cuda.driver-version.{part}": value for part, value in parts.items()}


def stuck() -> JSON:
    """A node whose state mig-manager wrote half an hour ago."""
    made = labelled({STATE: "pending"})
    then = (datetime.now(UTC) - timedelta(minutes=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
    made["metadata"]["managedFields"] = [
        {
            "manager": "mig-manager",
            "operation": "Update",
            "apiVersion": "v1",
            "time": then,
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {"f:labels": {f"f:{STATE}": {}}}},
        }
    ]
    return made


ELSEWHERE: Key = ("Node", "", "gpu-b")
SECOND: Key = ("Pod", SYSTEM_NAMESPACE, "migfit-2")
SINGLE = {STRATEGY: "single"}
GRACE = {PRODUCT: "NVIDIA-GH200-480GB", "nvidia.com/gpu.memory": "97871"}
OTHER_RESOURCE = [{"name": "other", "expression": "'example.com/gpu' == object.kind"}]

CASES: dict[Id, Callable[[], dict[Key, JSON | None]]] = {
    Id.WEBHOOK_MISSING: lambda: {WEBHOOK: None},
    Id.WEBHOOK_UNTRUSTED: lambda: {SECRET: secret(authority=trustme.CA())},
    Id.WEBHOOK_WITHOUT_ENDPOINTS: lambda: {ENDPOINTS: endpoints(ready=False)},
    Id.CERTIFICATE_MISSING: lambda: {SECRET: None},
    Id.CERTIFICATE_EXPIRED: lambda: {SECRET: secret(days=-1)},
    Id.CERTIFICATE_ENDING: lambda: {SECRET: secret(days=10)},
    Id.WEBHOOK_PATH: lambda: {WEBHOOK: changed(
        webhook(), "webhooks", 0, "clientConfig", "service", "path", to="/pods"
    )},
    Id.WEBHOOK_OPERATIONS: lambda: {WEBHOOK: changed(
        webhook(), "webhooks", 0, "rules", 0, "operations", to=["CREATE", "DELETE"]
    )},
    Id.WEBHOOK_UPDATES_MISSING: lambda: {WEBHOOK: without(webhook(), "webhooks", 1)},
    Id.WEBHOOK_FAILS_CLOSED: lambda: {WEBHOOK: hook(failurePolicy="Fail")},
    Id.WEBHOOK_TIMEOUT: lambda: {WEBHOOK: hook(timeoutSeconds=30)},
    Id.WEBHOOK_NOT_REINVOKED: lambda: {WEBHOOK: hook(reinvocationPolicy="Never")},
    Id.WEBHOOK_UNCONDITIONAL: lambda: {WEBHOOK: hook(matchConditions=[])},
    Id.WEBHOOK_GPU_RESOURCE: lambda: {WEBHOOK: hook(matchConditions=OTHER_RESOURCE)},
    Id.WEBHOOK_NAMESPACES: lambda: {WEBHOOK: hook(namespaceSelector={})},
    Id.CONFIG_MISSING: lambda: {CONFIG_MAP: None},
    Id.CONFIG_REFUSED: lambda: {CONFIG_MAP: config(headroom="-1")},
    Id.MODE_DRY_RUN: lambda: {CONFIG_MAP: config(mode="DryRun")},
    Id.MODE_DISABLED: lambda: {CONFIG_MAP: config(mode="Disabled")},
    Id.NO_GPU_NODES: lambda: {NODE: None},
    Id.NO_MIXED_NODES: lambda: {NODE: node(slices={})},
    Id.STRATEGY_SINGLE: lambda: {ELSEWHERE: labelled(SINGLE, slices={})},
    Id.STRATEGY_NONE: lambda: {ELSEWHERE: labelled({STRATEGY: None}, slices={})},
    Id.STRATEGY_UNLABELLED: lambda: {NODE: labelled({STRATEGY: None})},
    Id.STRATEGY_INVALID: lambda: {
        ELSEWHERE: labelled({PRODUCT: "NVIDIA-H200-MIG-INVALID"}, slices={}, whole=0)
    },
    Id.LABELS_MISSING: lambda: {NODE: labelled({PRODUCT: None})},
    Id.CAPACITY_STALE: lambda: {
        NODE: changed(node(), "status", "allocatable", mig("2g.20gb"), to="0")
    },
    Id.RECONFIGURING: lambda: {NODE: labelled({STATE: "pending"})},
    Id.RECONFIGURATION_STUCK: lambda: {NODE: stuck()},
    Id.RECONFIGURATION_FAILED: lambda: {NODE: labelled({STATE: "failed"})},
    Id.MEMORY_OFF_CATALOGUE: lambda: {NODE: labelled({f"{mig('2g.20gb')}.memory": "16384"})},
    Id.PRODUCT_UNKNOWN: lambda: {NODE: node(product="NVIDIA-X900")},  # type: ignore[arg-type]
    Id.SLICES_SHARED: lambda: {NODE: labelled({f"{mig('2g.20gb')}.sharing-strategy": "time-slicing"})},
    Id.DRIVER_TOO_OLD: lambda: {NODE: labelled(driver("440", "33", "01"))},
    Id.DRIVER_FAULT: lambda: {NODE: labelled(driver("570", "133", "20"))},
    Id.DRIVER_CDMM: lambda: {
        NODE: labelled(GRACE, product="NVIDIA-GH200-480GB", slices={"1g.12gb": 2})
    },
    Id.PLUGIN_STRATEGY: lambda: {PLUGIN: plugin(MIG_STRATEGY="none")},
    Id.PLUGIN_PROFILES: lambda: {
        PLUGIN: plugin(image="nvcr.io/nvidia/k8s-device-plugin:v0.17.4"),
        NODE: labelled({"nvidia.com/mig-1g.24gb.gfx.count": "1"}),
    },
    Id.PLUGIN_POLICY: lambda: {PLUGIN: plugin(SHARED_DEVICES_ALLOCATION_POLICY="packed")},
    Id.EXTENDER_MISSING: lambda: {SAMPLE: sample(urlPrefix="http://127.0.0.1:9999/other")},
    Id.EXTENDER_SETTINGS: lambda: {SAMPLE: sample(nodeCacheCapable=False)},
    Id.MANAGED_RESOURCES: lambda: {SAMPLE: sample(managedResources=[{"name": GPU}])},
    Id.SLICES_UNCOUNTED: lambda: {SAMPLE: sample(managedResources=[
        {"name": name, "ignoredByScheduler": name != GPU}
        for name in (GPU, mig("1g.10gb"), mig("2g.20gb"))
    ])},
    Id.SCHEDULER_LEASE_MISSING: lambda: {LEASE: None},
    Id.SCHEDULER_LEASE_OLD: lambda: {LEASE: lease(age_s=90)},
    Id.VERSIONS_UNEQUAL: lambda: {SECOND: replica("ghcr.io/migfit/migfit:0.0.9")},
}  # fmt: skip
"""What to change of the installation; None takes an object away."""


def doctor(kubeconfig: Path, *words: str) -> Result:
    flags = ["--kubeconfig", str(kubeconfig), "-o", "json", *words]
    return CliRunner().invoke(main, ["doctor", *flags], catch_exceptions=False)


def told(result: Result) -> set[str]:
    return {finding["id"] for finding in json.loads(result.stdout)}


@pytest.fixture
def cluster(plane: ControlPlane) -> Iterator[Cluster]:
    """A healthy installation."""
    for name in (SYSTEM_NAMESPACE, NAMESPACE):
        new_namespace(plane.client, name=name)
    made = Cluster(plane.client)
    made.be(installation())
    yield made
    made.be({})


@pytest.mark.long
def test_each_finding_is_told_when_it_is_true_and_none_when_all_is_well(
    plane: ControlPlane, cluster: Cluster
) -> None:
    assert set(CASES) | set(NOT_BY_OBJECTS) == set(Id)
    well = doctor(plane.kubeconfig)
    assert (well.exit_code, json.loads(well.stdout)) == (0, [])

    otherwise: dict[Id, tuple[int, set[str]]] = {}
    expected: dict[Id, tuple[int, set[str]]] = {}
    for kind, change in CASES.items():
        cluster.be(applied(change()))
        result = doctor(plane.kubeconfig)
        otherwise[kind] = (result.exit_code, told(result))
        expected[kind] = (int(kind.entry.severity != "info"), {str(kind)})

    assert otherwise == expected
    cluster.be(applied({}))
    assert doctor(plane.kubeconfig).exit_code == 0


def applied(change: dict[Key, JSON | None]) -> Objects:
    """The installation with that change, its Lease just renewed."""
    wanted = {**installation(), **change}
    merged: Objects = {}
    for key, item in wanted.items():
        if item is None:
            continue
        made = renamed(item, "gpu-b") if key == ELSEWHERE else item
        if key == SAMPLE:
            made = {"metadata": {"labels": {"app.kubernetes.io/name": "migfit"}}, **item}
        merged[key] = made
    return merged


def test_a_pod_made_after_the_installation_without_a_decision_is_told(
    plane: ControlPlane, cluster: Cluster
) -> None:
    made = plane.client.get(*(WEBHOOK[0], WEBHOOK[2]))["metadata"]["creationTimestamp"]
    settled_s = datetime.fromisoformat(made).timestamp() + 7
    wait_until(lambda: time.time() > settled_s, 30, "the webhook counts as known everywhere")

    plane.client.create(gpu_pod("missed", NAMESPACE))
    result = doctor(plane.kubeconfig)

    assert result.exit_code == 0
    [finding] = json.loads(result.stdout)
    assert (finding["id"], finding["objects"]) == ("PodsUndecided", [f"pod {NAMESPACE}/missed"])


def test_a_clock_that_is_off_is_told(plane: ControlPlane, cluster: Cluster) -> None:
    ask = partial(examine, plane.kubeconfig, SYSTEM_NAMESPACE, "migfit", None)

    found = diagnose(asyncio.run(ask(clock=lambda: time.time() + 60)))

    [skew] = found
    assert skew.id is Id.CLOCK_SKEWED
    assert "s ahead of the API server's" in skew.what


def test_somebody_without_rights_is_told_what_he_may_not_read_and_nothing_else(
    plane: ControlPlane, cluster: Cluster
) -> None:
    nobody = plane.user("nobody")

    result = doctor(nobody.kubeconfig)

    assert result.exit_code == 1
    assert told(result) == {Id.UNREADABLE}
    unread = [finding["objects"][0] for finding in json.loads(result.stdout)]
    assert unread == sorted(
        ["configmaps", "configuration", "daemonsets", "namespaces", "nodes", "pods", "webhook"]
    )
    assert all("nobody" in finding["what"] for finding in json.loads(result.stdout))


def test_the_rights_that_the_page_names_are_all_it_needs(
    plane: ControlPlane, cluster: Cluster
) -> None:
    rules = [
        {"apiGroups": [group], "resources": [plural], "verbs": verbs.split(", ")}
        for resources, verbs, _ in READS
        for plural, _, group in (resource.partition(".") for resource in resources.split(", "))
    ]
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "examine"}}
    plane.client.create({**rbac, "kind": "ClusterRole", "rules": rules})
    group = {"apiGroup": "rbac.authorization.k8s.io"}
    plane.client.create(
        {
            **rbac,
            "kind": "ClusterRoleBinding",
            "roleRef": {**group, "kind": "ClusterRole", "name": "examine"},
            "subjects": [{**group, "kind": "User", "name": "examiner"}],
        }
    )
    examiner = plane.user("examiner")

    # The API server reads its roles a moment after they are made.
    wait_until(lambda: not told(doctor(examiner.kubeconfig)), 20, "everything can be read")

    assert doctor(examiner.kubeconfig).exit_code == 0


def test_a_server_that_can_be_reached_is_asked_for_the_certificate_it_shows(
    plane: ControlPlane, migfit: Migfit
) -> None:
    before = told(doctor(plane.kubeconfig))
    stranger = encoded(trustme.CA().cert_pem.bytes())
    change = [{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": stranger}]

    plane.client.patch("MutatingWebhookConfiguration", "migfit", change)
    after = told(doctor(plane.kubeconfig))

    assert after - before == {Id.WEBHOOK_UNTRUSTED}
    assert Id.CERTIFICATE_MISSING not in before
