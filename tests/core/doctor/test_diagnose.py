"""Each finding made true alone in an installation that nothing else is wrong with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extender.core.catalogue import PRODUCTS
from extender.core.doctor.diagnose import diagnose
from extender.core.doctor.finding import ENTRIES, Finding, Id, Severity
from tests.build import GPU, changed, mig, without
from tests.core.doctor.healthy import (
    DAY_S,
    INSTALLED,
    LABELS_OF_PRODUCTS,
    LATER,
    certificate,
    config,
    evidence,
    ids,
    lease,
    node,
    own_pod,
    plain_node,
    plugin,
    pod,
    scheduler,
    webhook,
)
from tests.draw import grown

if TYPE_CHECKING:
    from collections.abc import Callable

    from extender.core.doctor.evidence import Evidence
    from tests.build import JSON
    from tests.draw import Dice

STATE = "nvidia.com/mig.config.state"
STRATEGY = "nvidia.com/mig.strategy"
PRODUCT = "nvidia.com/gpu.product"


def hook(*path: str | int, to: object) -> Evidence:
    """One member of the first webhook changed."""
    return evidence(webhook=changed(webhook(), "webhooks", 0, *path, to=to))


def labelled(label: str, value: str | None, **changes: Any) -> Evidence:
    return evidence(nodes=(node(labels={label: value}, **changes),))


def extender(**fields: object) -> Evidence:
    """The scheduler's configuration with other settings of the extender."""
    made = scheduler()
    made["extenders"][0] |= fields
    return evidence(scheduler_configurations={"stdin": made})


def reconfigured(state: str, at: str) -> Evidence:
    """A node whose state was last written at that time, with all its slices gone."""
    made = node(labels={STATE: state})
    made["metadata"]["managedFields"] = [
        {"manager": "kubelet", "time": LATER, "fieldsV1": {"f:status": {}}},
        {"manager": "gfd", "time": INSTALLED, "fieldsV1": {"f:metadata": {"f:labels": {}}}},
        {
            "manager": "mig-manager",
            "time": at,
            "fieldsV1": {"f:metadata": {"f:labels": {f"f:{STATE}": {}}}},
        },
    ]
    made["status"]["allocatable"] |= {GPU: "0", mig("1g.10gb"): "0", mig("2g.20gb"): "0"}
    return evidence(nodes=(made,))


def allocatable(resource: str, amount: str) -> Evidence:
    return evidence(nodes=(changed(node(), "status", "allocatable", resource, to=amount),))


def driver(version: str, product: str = "A100-80GB", **changes: Any) -> Evidence:
    parts = zip(("major", "minor", "revision"), version.split("."), strict=True)
    labels = {f"nvidia.com/cuda.driver-version.{part}": value for part, value in parts}
    return evidence(nodes=(node(product=product, labels=labels, **changes),))


def of_grace() -> Evidence:
    labels = {PRODUCT: "NVIDIA-GH200-480GB", "nvidia.com/gpu.memory": "97871"}
    return evidence(
        nodes=(node(product="NVIDIA-GH200-480GB", slices={"1g.12gb": 2}, labels=labels),)
    )


CASES: dict[Id, Callable[[], Evidence]] = {
    Id.WEBHOOK_MISSING: lambda: evidence(webhook=None),
    Id.WEBHOOK_UNTRUSTED: lambda: evidence(certificate=certificate(distrust="it is empty")),
    Id.WEBHOOK_WITHOUT_ENDPOINTS: lambda: evidence(endpoints=0),
    Id.CERTIFICATE_MISSING: lambda: evidence(certificate=None, certificate_missing="Secret a/b"),
    Id.CERTIFICATE_EXPIRED: lambda: evidence(certificate=certificate(left_s=-1)),
    Id.CERTIFICATE_ENDING: lambda: evidence(certificate=certificate(left_s=17.9 * DAY_S)),
    Id.WEBHOOK_PATH: lambda: hook("clientConfig", "service", "path", to="/mutate-pods"),
    Id.WEBHOOK_OPERATIONS: lambda: hook("rules", 0, "operations", to=["CREATE", "DELETE"]),
    Id.WEBHOOK_UPDATES_MISSING: lambda: evidence(webhook=without(webhook(), "webhooks", 1)),
    Id.WEBHOOK_FAILS_CLOSED: lambda: hook("failurePolicy", to="Fail"),
    Id.WEBHOOK_TIMEOUT: lambda: hook("timeoutSeconds", to=10),
    Id.WEBHOOK_NOT_REINVOKED: lambda: hook("reinvocationPolicy", to="Never"),
    Id.WEBHOOK_UNCONDITIONAL: lambda: hook("matchConditions", to=[]),
    Id.WEBHOOK_GPU_RESOURCE: lambda: hook(
        "matchConditions", to=[{"name": "a", "expression": "'example.com/gpu' in object.spec"}]
    ),
    Id.WEBHOOK_NAMESPACES: lambda: hook("namespaceSelector", to={}),
    Id.CONFIG_MISSING: lambda: evidence(config=None, policy=None),
    Id.CONFIG_REFUSED: lambda: evidence(policy=None, problems=("mode: no such mode",)),
    Id.MODE_DRY_RUN: lambda: evidence(
        policy=config(mode="DryRun", inject={"schedulerName": "migfit-scheduler"})
    ),
    Id.MODE_DISABLED: lambda: evidence(policy=config(mode="Disabled")),
    Id.NO_GPU_NODES: lambda: evidence(nodes=(plain_node(),)),
    Id.NO_MIXED_NODES: lambda: evidence(nodes=(node(slices={}),)),
    Id.STRATEGY_SINGLE: lambda: evidence(
        nodes=(node(), node("gpu-b", slices={}, labels={STRATEGY: "single"}))
    ),
    Id.STRATEGY_NONE: lambda: evidence(
        nodes=(node(), node("gpu-b", slices={}, labels={STRATEGY: None}))
    ),
    Id.STRATEGY_UNLABELLED: lambda: labelled(STRATEGY, None),
    Id.STRATEGY_INVALID: lambda: evidence(
        nodes=(
            node(),
            node("gpu-b", slices={}, whole=0, labels={PRODUCT: "NVIDIA-H200-MIG-INVALID"}),
        )
    ),
    Id.LABELS_MISSING: lambda: labelled(PRODUCT, None),
    Id.CAPACITY_STALE: lambda: labelled(f"{mig('2g.20gb')}.count", None),
    Id.RECONFIGURING: lambda: reconfigured("pending", "2027-01-15T07:45:00Z"),
    Id.RECONFIGURATION_STUCK: lambda: reconfigured("rebooting", "2027-01-15T07:39:00Z"),
    Id.RECONFIGURATION_FAILED: lambda: labelled(STATE, "failed"),
    Id.MEMORY_OFF_CATALOGUE: lambda: labelled(f"{mig('2g.20gb')}.memory", "16000"),
    Id.PRODUCT_UNKNOWN: lambda: evidence(nodes=(node(product="NVIDIA-X900"),)),
    Id.SLICES_SHARED: lambda: labelled(f"{mig('2g.20gb')}.replicas", "4"),
    Id.DRIVER_TOO_OLD: lambda: driver("525.85.05", "H100-80GB"),
    Id.DRIVER_FAULT: lambda: driver("570.158.01"),
    Id.DRIVER_CDMM: of_grace,
    Id.PLUGIN_STRATEGY: lambda: evidence(plugins=(plugin(MIG_STRATEGY="single"),)),
    Id.PLUGIN_PROFILES: lambda: evidence(
        plugins=(plugin("registry.local:5000/k8s-device-plugin:v0.19.2"),),
        nodes=(node(labels={"nvidia.com/mig-1g.24gb.me.all.count": "1"}),),
    ),
    Id.PLUGIN_POLICY: lambda: evidence(
        plugins=(plugin(SHARED_DEVICES_ALLOCATION_POLICY="packed"),)
    ),
    Id.EXTENDER_MISSING: lambda: extender(urlPrefix="http://127.0.0.1:9999/other"),
    Id.EXTENDER_SETTINGS: lambda: extender(ignorable=False),
    Id.MANAGED_RESOURCES: lambda: extender(managedResources=[{"name": GPU}]),
    Id.SLICES_UNCOUNTED: lambda: extender(
        managedResources=[
            {"name": GPU},
            {"name": mig("1g.10gb"), "ignoredByScheduler": True},
            {"name": mig("2g.20gb")},
        ]
    ),
    Id.SCHEDULER_LEASE_MISSING: lambda: evidence(leases=()),
    Id.SCHEDULER_LEASE_OLD: lambda: evidence(leases=(lease("2027-01-15T07:58:59Z"),)),
    Id.KUBERNETES_TOO_OLD: lambda: evidence(kubernetes="v1.29.14-gke.100"),
    Id.VERSIONS_UNEQUAL: lambda: evidence(
        pods=(own_pod("migfit-1"), own_pod("migfit-2", "ghcr.io/migfit/migfit:0.2.0"))
    ),
    Id.CLOCK_SKEWED: lambda: evidence(skew_s=-11.0),
    Id.PODS_UNDECIDED: lambda: evidence(pods=(pod("asr", annotations={}),)),
    Id.UNREADABLE: lambda: evidence(nodes=(), unread={"nodes": "403 Forbidden: no"}),
}


def test_every_finding_has_a_case_here_and_words_of_its_own() -> None:
    assert set(CASES) == set(Id) == set(ENTRIES)
    remedies = [entry.remedy for entry in ENTRIES.values() if entry.remedy != "Nothing."]
    assert all(text.endswith(".") for entry in ENTRIES.values() for text in entry[1:])
    assert len(set(remedies)) >= len(remedies) - 3  # the certificate's two, the samples' two


def test_nothing_is_found_where_all_is_well() -> None:
    assert ids(evidence()) == []


@pytest.mark.parametrize("kind", list(Id))
def test_it_is_found_when_it_is_so_and_nothing_else(kind: Id) -> None:
    found = diagnose(CASES[kind]())

    assert {finding.id for finding in found} == {kind}
    for finding in found:
        fields = finding.fields()
        assert fields["objects"]
        assert all(fields["objects"])
        assert finding.what.endswith(".")
        assert "\n" not in "".join(map(str, fields.values()))


# --- healthy clusters ----------------------------------------------------------------------------


def some_node(dice: Dice, number: int) -> JSON:
    name = dice.choice(list(LABELS_OF_PRODUCTS))
    plain = [profile.name for profile in PRODUCTS[name].profiles if not profile.special]
    slices = {profile: dice.randint(1, 7) for profile in dice.some(plain, 1, 3)}
    return node(f"gpu-{number}", name, slices, whole=dice.randint(0, 8))


def some_healthy_cluster(dice: Dice) -> Evidence:
    made = [some_node(dice, number) for number in range(dice.randint(1, 5))]
    pods = [pod(f"asr-{number}") for number in range(dice.randint(0, 3))]
    own = [own_pod(f"migfit-{number}") for number in range(dice.randint(1, 3))]
    left_s = dice.uniform(18.1, 90) * DAY_S
    return evidence(
        nodes=(*made, *([plain_node()] if dice.rarely(2) else [])),
        pods=(*pods, *own),
        certificate=certificate(left_s),
        skew_s=dice.uniform(-10, 10),
        kubernetes=f"v1.{dice.randint(30, 40)}.{dice.randint(0, 9)}",
        endpoints=dice.choice([None, 1, 2, 3]),
        plugins=(plugin(),) * dice.randint(0, 2),
    )


@given(grown(some_healthy_cluster))
@settings(max_examples=60, deadline=None)
def test_nothing_is_found_in_any_healthy_cluster(found: Evidence) -> None:
    assert [finding.what for finding in diagnose(found)] == []


# --- whatever the API server sends ---------------------------------------------------------------

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def places(tree: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths to every member of an object."""
    if isinstance(tree, dict):
        inner = [place for key, each in tree.items() for place in places(each, (*path, key))]
    elif isinstance(tree, list):
        inner = [place for key, each in enumerate(tree) for place in places(each, (*path, key))]
    else:
        inner = []
    return [*([path] if path else []), *inner]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_stands_anywhere_it_answers(data: st.DataObject) -> None:
    whole: dict[str, Any] = {
        "webhook": webhook(),
        "nodes": [node()],
        "pods": [own_pod("migfit-1"), pod("asr", annotations={})],
        "leases": [lease()],
        "plugins": [plugin()],
        "scheduler": scheduler(),
    }
    whole["scheduler"]["extenders"][0]["managedResources"] = [{"name": GPU}]
    path = data.draw(st.sampled_from([place for place in places(whole) if len(place) > 1]))
    broken = changed(whole, *path, to=data.draw(ANYTHING))

    def objects(key: str) -> tuple[Any, ...]:
        return tuple(each for each in broken[key] if isinstance(each, dict))

    found = diagnose(
        evidence(
            webhook=broken["webhook"],
            nodes=objects("nodes"),
            pods=objects("pods"),
            leases=objects("leases"),
            plugins=objects("plugins"),
            scheduler_configurations={"stdin": broken["scheduler"]},
        )
    )

    assert all(isinstance(finding, Finding) for finding in found)
    json.dumps([finding.fields() for finding in found])


def test_the_worst_comes_first() -> None:
    found = diagnose(
        evidence(endpoints=0, skew_s=60.0, policy=config(mode="DryRun"), leases=(lease(),))
    )

    assert [finding.id.entry.severity for finding in found] == list(Severity)


def test_what_could_not_be_read_is_told_and_nothing_is_concluded_from_it() -> None:
    unread = dict.fromkeys(
        ["nodes", "pods", "namespaces", "daemonsets", "webhook", "configuration", "leases"], "no"
    )

    found = diagnose(
        evidence(
            webhook=None, config=None, policy=None, nodes=(), pods=(), namespaces=(), leases=(),
            plugins=(), certificate=None, endpoints=None, unread=unread,
        )
    )  # fmt: skip

    assert [finding.id for finding in found] == [Id.UNREADABLE] * len(unread)


def without_rules() -> JSON:
    return without(webhook(), "webhooks", 0, "rules")


@pytest.mark.parametrize(
    "found",
    [
        hook("rules", 0, "operations", to=["UPDATE"]),
        hook("rules", 0, "operations", to=["CREATE", "CONNECT"]),
        hook("rules", 0, "resources", to=["pods", "pods/status"]),
        evidence(webhook=without_rules()),
    ],
    ids=["updates only", "more", "subresources", "no rules"],
)
def test_operations_and_resources_other_than_those_served_are_found(found: Evidence) -> None:
    assert ids(found) == [Id.WEBHOOK_OPERATIONS]
