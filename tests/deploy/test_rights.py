"""RBAC: the rights the code needs, and no other. That each is used: tests/controlplane."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from extender.cluster.watch import Resource
from extender.server import serve
from tests.deploy.chart import OVERLAYS, named, rendered
from tests.deploy.manifests import JSON, NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterable

READ = ("list", "watch")
VARIANTS: dict[str, JSON] = {"": {}, **OVERLAYS}

READING = {
    "ClusterRole/migfit": [
        "nodes,pods,namespaces,resourcequotas,limitranges: list,watch",
        "gpunodes.migfit.io: list,watch",
    ],
    "Role/migfit": [
        "configmaps/migfit-config: get,list,watch",
        "events.events.k8s.io: create",
    ],
}
RECONCILER = {
    "Role/migfit-reconciler": [
        "configmaps/migfit-holds: list,watch,create,patch",
        "leases.coordination.k8s.io/migfit-reconciler: get,create,patch",
    ],
    "ClusterRole/migfit-reconciler": ["events.events.k8s.io: create"],
    "ClusterRole/migfit-recreate": ["pods: delete"],
}
CERTIFICATE = {
    "Role/migfit-certificate": [
        "secrets/migfit-webhook-tls: get,create,patch",
    ],
    "ClusterRole/migfit-certificate": [
        "mutatingwebhookconfigurations.admissionregistration.k8s.io/migfit: get,patch",
    ],
}
LEASE = {
    "ClusterRole/migfit-lease": ["leases.coordination.k8s.io/migfit-scheduler: list"],
}
SCHEDULER = {
    "Role/migfit-scheduler-lease": [
        "leases.coordination.k8s.io/migfit-scheduler: get,update",
        "leases.coordination.k8s.io: create",
    ],
}
AGENT = {
    "ClusterRole/migfit-agent": [
        "gpunodes.migfit.io: get,create,patch",
        "gpunodes/status.migfit.io: patch",
    ],
}
"""A ValidatingAdmissionPolicy adds: of the agent's own node."""
KUBERNETES = {"ClusterRole/system:kube-scheduler", "ClusterRole/system:volume-scheduler"}
"""Kubernetes' own roles for any kube-scheduler, which it keeps up to date."""
RIGHTS = {
    "": READING | RECONCILER | CERTIFICATE,
    "cert-manager": READING | RECONCILER,
    "webhook-only": READING | RECONCILER | CERTIFICATE,
    "second-scheduler": READING | RECONCILER | CERTIFICATE | LEASE | SCHEDULER,
    "default-scheduler": READING
    | RECONCILER
    | CERTIFICATE
    | {"Role/migfit-extender-certificate": ["secrets/migfit-webhook-tls: get"]},
    "agent": READING | RECONCILER | CERTIFICATE | AGENT,
}
"""All rules there are, by variant; a change of one is a change here."""
HOLDERS = {
    "": {"migfit": {*READING, *RECONCILER, *CERTIFICATE}},
    "cert-manager": {"migfit": {*READING, *RECONCILER}},
    "webhook-only": {"migfit": {*READING, *RECONCILER, *CERTIFICATE}},
    "second-scheduler": {
        "migfit": {*READING, *RECONCILER, *CERTIFICATE, *LEASE},
        "migfit-scheduler": {*READING, *LEASE, *SCHEDULER, *KUBERNETES},
    },
    "default-scheduler": {
        "migfit": {*READING, *RECONCILER, *CERTIFICATE},
        "migfit-extender": {*READING, "Role/migfit-extender-certificate"},
    },
    "agent": {
        "migfit": {*READING, *RECONCILER, *CERTIFICATE},
        "migfit-agent": {*AGENT},
    },
}
"""ServiceAccount -> the roles bound to it."""
NAMESPACES = {"migfit-agent": "migfit-agent"}
"""ServiceAccount -> its namespace, where that is not the release's."""

variants = pytest.mark.parametrize("variant", VARIANTS)


def spelled(rule: JSON) -> str:
    """A rule on one line: `resource.group/name: verbs`."""
    groups = [f".{group}" if group else "" for group in rule["apiGroups"]]
    names = [f"/{name}" for name in rule.get("resourceNames", ())] or [""]
    whole = product(rule["resources"], groups, names)
    return f"{','.join(map(''.join, whole))}: {','.join(rule['verbs'])}"


def roles(items: Iterable[JSON]) -> list[JSON]:
    return [item for item in items if item["kind"] in ("Role", "ClusterRole")]


def full_name(item: JSON) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


@variants
def test_the_rules_are_these_and_no_others(variant: str) -> None:
    found = {
        full_name(each): list(map(spelled, each["rules"]))
        for each in roles(rendered(VARIANTS[variant]))
    }

    assert found == RIGHTS[variant]


@variants
def test_who_has_them_is_who_runs_and_nobody_else(variant: str) -> None:
    objects = rendered(VARIANTS[variant])
    bound: dict[str, set[str]] = {}
    for item in objects:
        if item["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        role = f"{item['roleRef']['kind']}/{item['roleRef']['name']}"
        for subject in item["subjects"]:
            assert subject["kind"] == "ServiceAccount"
            assert subject["namespace"] == NAMESPACES.get(subject["name"], NAMESPACE)
            bound.setdefault(subject["name"], set()).add(role)

    assert bound == HOLDERS[variant]
    accounts = {
        item["metadata"]["name"]: item for item in objects if item["kind"] == "ServiceAccount"
    }
    owners = [item for item in objects if item["kind"] in ("Deployment", "DaemonSet")]
    running = [item["spec"]["template"]["spec"] for item in owners]
    for item in (*owners, *accounts.values()):
        name = item["metadata"]["name"]
        assert item["metadata"]["namespace"] == NAMESPACES.get(name, NAMESPACE)
    assert accounts.keys() == bound.keys() == {spec["serviceAccountName"] for spec in running}
    assert {each["automountServiceAccountToken"] for each in accounts.values()} == {False}
    assert {spec["automountServiceAccountToken"] for spec in running} == {True}


@variants
def test_there_are_no_wildcards_no_secrets_cluster_wide_and_no_ways_to_more_rights(
    variant: str,
) -> None:
    for role in roles(rendered(VARIANTS[variant])):
        for rule in role["rules"]:
            for words in (rule["apiGroups"], rule["resources"], rule["verbs"]):
                assert not any("*" in word for word in words)
            assert {"escalate", "bind", "impersonate"}.isdisjoint(rule["verbs"])
            if "secrets" in rule["resources"]:
                assert role["kind"] == "Role"
                assert rule["resourceNames"]


def collection(path: str) -> tuple[str, str]:
    """API group and resource of `/api/v1/nodes` or `/apis/migfit.io/v1alpha1/gpunodes`."""
    *prefix, resource = path.strip("/").split("/")
    return ("" if prefix[0] == "api" else prefix[1], resource)


def test_cluster_wide_it_may_read_what_it_follows_and_nothing_more() -> None:
    followed = [value for value in vars(serve).values() if isinstance(value, Resource)]
    assert len(followed) >= 3

    needed = {(*collection(each.path), verb) for each, verb in product(followed, READ)}

    granted = {
        right
        for rule in named(rendered())["ClusterRole", "migfit"]["rules"]
        for right in product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }
    assert granted == needed


def test_a_scheduler_of_the_admins_own_is_looked_for_by_its_lease() -> None:
    objects = named(rendered({"config": {"inject": {"schedulerName": "bin-packer"}}}))

    (rule,) = objects["ClusterRole", "migfit-lease"]["rules"]
    assert spelled(rule) == "leases.coordination.k8s.io/bin-packer: list"
