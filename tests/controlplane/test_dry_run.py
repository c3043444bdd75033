"""Whatever we make of a pod, the real API server takes it wherever it takes the pod without us.

Every pod is sent by a server-side dry run twice: as it is, and with the label that has us leave it.
"""

from __future__ import annotations

import copy
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.build import annotated, changed
from tests.controlplane.client import ApiError
from tests.controlplane.installed import chart_account
from tests.controlplane.migfit import GPU, Migfit, a100_labels
from tests.controlplane.objects import fake_node, new_namespace, wait_until
from tests.draw import Dice, some_expression, some_pod, some_term, some_toleration
from tests.wild.gallery import CONFIGURATION, Expectation, nodes, wild_pods

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import TypeAlias

    import trustme

    from tests.controlplane.client import JSON
    from tests.controlplane.plane import ControlPlane

    Serve: TypeAlias = Callable[..., Migfit]

pytestmark = pytest.mark.controlplane

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
OURS = re.compile(r"migfit\.io/(decision|need|rewritten)")
GUARD = re.compile(r"(nvidia\.com/mig-.+)\.memory")
IGNORED = "ignored-"


@pytest.fixture
def serve(plane: ControlPlane, authority: trustme.CA, tmp_path: Path) -> Iterator[Serve]:
    """Starts the server with a configuration when the nodes are there: it never saw another."""
    server = Migfit(plane, tmp_path, authority, kubeconfig=chart_account(plane).kubeconfig)

    def start(configuration: str, *flags: str) -> Migfit:
        server.configure_text(configuration)
        server.start(flags=flags)
        server.register()
        return server

    yield start
    server.kill()


@pytest.fixture
def _runtime_class(plane: ControlPlane) -> Iterator[None]:
    """What `runtimeClassName: nvidia` refers to."""
    kind = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass"}
    plane.client.create({**kind, "metadata": {"name": "nvidia"}, "handler": "nvidia"})
    yield
    plane.client.delete("RuntimeClass", "nvidia")


# --- sending a pod, and taking back what we say we did ---------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the API server makes of a pod: the pod it would store, or the status of its refusal."""

    pod: JSON
    stored: JSON | int
    ignored: JSON | int
    """The same with the label by which we ignore a pod; label and our mark taken off again."""

    @property
    def name(self) -> str:
        """As in the audit log."""
        meta = self.pod["metadata"]
        return str(meta.get("name") or meta["generateName"])

    @property
    def pair(self) -> tuple[JSON, JSON]:
        """Stored and ignored; neither was refused."""
        assert isinstance(self.stored, dict), (self.stored, self.ignored, self.pod)
        assert isinstance(self.ignored, dict), (self.ignored, self.pod)
        return self.stored, self.ignored


def sent(plane: ControlPlane, pod: JSON) -> Outcome:
    """Sends a pod twice, as it is and to be ignored."""
    twin = copy.deepcopy(pod)
    meta = twin["metadata"]
    mode = meta.setdefault("labels", {}).get("migfit.io/mode")
    meta["labels"]["migfit.io/mode"] = "ignore"
    meta.pop("name", None)
    meta["generateName"] = IGNORED
    ignored = tried(plane, twin)
    if isinstance(ignored, dict):
        meta = ignored["metadata"]
        del meta["labels"]["migfit.io/mode"]
        if mode is not None:
            meta["labels"]["migfit.io/mode"] = mode
        meta.get("annotations", {}).pop("migfit.io/decision", None)
    return Outcome(pod, tried(plane, pod), ignored)


def all_sent(plane: ControlPlane, pods: list[JSON]) -> list[Outcome]:
    """Dry runs leave nothing behind, so it does not matter which comes first."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(partial(sent, plane), pods))


def tried(plane: ControlPlane, pod: JSON) -> JSON | int:
    """A pod as the API server would store it, without what is of this attempt alone."""
    try:
        stored = plane.client.create(pod, dry_run=True).body
    except ApiError as error:
        return error.status
    for own in ("creationTimestamp", "generateName", "managedFields", "name", "uid"):
        stored["metadata"].pop(own, None)
    del stored["status"]
    return stored


def audited(migfit: Migfit, outcomes: list[Outcome]) -> dict[str, JSON]:
    """Name -> audit line; none for pods we were not asked about, and never two."""
    asked = migfit.metric("migfit_dry_run_reviews_total")

    def written() -> list[JSON]:
        lines = migfit.audit()
        return lines if len(lines) >= asked else []

    lines = wait_until(written, 10, "every review is in the audit log")
    names = [line["pod"] for line in lines if line["pod"] in {each.name for each in outcomes}]
    assert len(names) == len(set(names))
    return {line["pod"]: line for line in lines}


def terms_of(pod: JSON) -> list[JSON]:
    """The terms of a pod's required node affinity."""
    affinity = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
    return list(affinity.get(REQUIRED, {}).get("nodeSelectorTerms", ()))


def guards_of(term: JSON) -> dict[str, int]:
    """MIG resource -> MiB that a node must have more of."""
    return {
        guard[1]: int(each["values"][0])
        for each in term.get("matchExpressions", ())
        if each["operator"] == "Gt" and (guard := GUARD.fullmatch(each["key"]))
    }


def unguarded(terms: list[JSON]) -> list[JSON]:
    """Terms without their guards, and without those that held nothing else."""
    found = []
    for term in terms:
        every = term.get("matchExpressions", [])
        kept = [each for each in every if not GUARD.fullmatch(each["key"])]
        if kept != every:
            term = {**term, "matchExpressions": kept}  # noqa: PLW2901  the rest is not ours
        if kept == every or any(term.values()):
            found.append(term)
    return found


def undone(pod: JSON, line: JSON | None, added: JSON) -> JSON:
    """A copy with everything taken back that the audit line announces, and what was injected."""
    pod = copy.deepcopy(pod)
    meta, spec = pod["metadata"], pod["spec"]
    for marks in (meta.get("labels", {}), meta.get("annotations", {})):
        for key in filter(OURS.fullmatch, list(marks)):
            del marks[key]
    if line is None or line["action"] != "rewritten":
        return pod
    every = {each["name"]: each for each in [*spec.get("initContainers", []), *spec["containers"]]}
    for change in line["containers"]:
        for asked in every[change["name"]]["resources"].values():
            assert asked.pop(change["to"]) == "1"
            asked[change["from"]] = "1"
    for key in added.get("nodeSelector", ()):
        del spec["nodeSelector"][key]
    for toleration in added.get("tolerations", ()):
        spec["tolerations"].remove(toleration)
    if terms := terms_of(pod):
        spec["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"] = unguarded(terms)
    return pod


def tidied(value: Any) -> Any:
    """A copy without empty members, which mean as little as none. Items of lists all stay."""
    if isinstance(value, list):
        return [tidied(item) for item in value]
    if isinstance(value, dict):
        tidy = {key: tidied(member) for key, member in value.items()}
        return {key: member for key, member in tidy.items() if member not in ({}, [])}
    return value


# --- pods as found in the wild ---------------------------------------------------------------------


@pytest.mark.usefixtures("_runtime_class")
def test_pods_from_the_wild_are_decided_on_as_expected_and_accepted_all(
    plane: ControlPlane, serve: Serve
) -> None:
    pods = wild_pods()
    for node in nodes():
        plane.client.create(node)
    for namespace in {wild.namespace for wild in pods}:
        new_namespace(plane.client, name=namespace)
    migfit = serve(CONFIGURATION)

    outcomes = all_sent(plane, [wild.pod for wild in pods])
    lines = audited(migfit, outcomes)

    for wild, outcome in zip(pods, outcomes, strict=True):
        stored, ignored = outcome.pair
        line = lines.get(outcome.name)
        if line is None:
            assert wild.expect.reason == "NoGpuRequest", wild.name
        else:
            found = (line["action"], line["reason"], line["profile"], line["wouldBe"])
            assert Expectation(*found) == wild.expect, (wild.name, line["message"])
        assert tidied(undone(stored, line, {})) == tidied(ignored), wild.name
        assert not any(map(guards_of, terms_of(stored))), wild.name


# --- random pods -----------------------------------------------------------------------------------

PODS = 100  # under each configuration
INJECT: JSON = {
    "tolerations": [
        {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "node.example.com/sliced", "operator": "Equal", "value": "yes"},
    ],
    "nodeSelector": {"sliced": "yes"},
}
CONFIGURATIONS: dict[str, tuple[JSON, tuple[str, ...]]] = {
    "as-it-comes": ({"whenUnknown": "6G"}, ()),
    # Without the filter every rewritten pod is guarded.
    "guarded": ({"whenUnknown": "9G", "inject": INJECT}, ("--extender-port", "0")),
}

SPECS: tuple[JSON, ...] = (
    {"volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}]},
    {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]},
    {
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "asr"}},
            }
        ]
    },
    {"resources": {"requests": {"cpu": "16", "memory": "64Gi"}}},  # of the whole pod
    {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"},
    {"shareProcessNamespace": True, "hostIPC": True},
    {"securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000}},
    {"restartPolicy": "Never", "activeDeadlineSeconds": 600},
    {"readinessGates": [{"conditionType": "example.com/warm"}]},
    {"schedulingGates": [{"name": "example.com/quota"}]},
    {"nodeName": "gpu-1"},
    {"tolerations": [INJECT["tolerations"][0]]},
    {"nodeSelector": {"sliced": "no"}},
)
CONTAINERS: tuple[JSON, ...] = (
    {"env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]},
    {"env": [{"name": "N", "value": "1"}, {"name": "N", "value": "2"}]},
    {"command": ["server"], "args": ["--gpu-memory-utilization", "0.5"]},
    {"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]},
    {"securityContext": {"privileged": True}},
    {"ports": [{"containerPort": 8000, "name": "http"}]},
)


TERMS: tuple[JSON, ...] = (
    {},
    {"matchExpressions": []},
    {"matchExpressions": [{"key": "sliced", "operator": "Exists"}]},
    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gpu-0"]}]},
    {
        "matchExpressions": [{"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["9"]}],
        "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["gpu-0"]}],
    },
)


def some_affinity(dice: Dice) -> JSON:
    """Affinity of every kind that there is."""
    found: JSON = {}
    node: JSON = {}
    if dice.rarely(2):
        terms = [
            dice.choice((*TERMS, some_term(dice, ("gpu-0", "gpu-1"))))
            for _ in range(dice.randint(1, 3))
        ]
        node[REQUIRED] = {"nodeSelectorTerms": copy.deepcopy(terms)}
    if dice.rarely(3):
        preference = {"matchExpressions": [some_expression(dice)]}
        node[PREFERRED] = [{"weight": dice.randint(1, 100), "preference": preference}]
    if node or dice.rarely(4):
        found["nodeAffinity"] = node
    for kind in ("podAffinity", "podAntiAffinity"):
        if dice.rarely(4):
            near = {
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": {"app": "asr"}},
            }
            weighted = {"weight": 10, "podAffinityTerm": near}
            found[kind] = dice.choice([{REQUIRED: [near]}, {PREFERRED: [weighted]}])
    return found


def some_rich_pod(dice: Dice, number: int) -> JSON:
    """A pod with much in it that is not ours, mostly valid."""
    pod = some_pod(dice)
    spec = pod["spec"]
    spec["affinity"] = some_affinity(dice)
    spec["tolerations"] = [some_toleration(dice) for _ in range(dice.randint(0, 2))]
    for extra in SPECS:
        if dice.rarely(20):
            spec |= copy.deepcopy(extra)
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        if dice.rarely(4):
            container.update(copy.deepcopy(dice.choice(CONTAINERS)))
        if dice.rarely(3):  # defaulting copies the limits
            del container["resources"]["requests"]
    for marks in ("labels", "annotations"):
        if dice.rarely(6):
            del pod["metadata"][marks]
    if dice.rarely(12):  # hardly room for our marks, or none
        pod = annotated(pod, note="x" * (256 * 1024 - dice.choice([100, 300, 500, 700])))
    return changed(pod, "metadata", "generateName", to=f"pod-{number}-")


def injected(ignored: JSON, inject: JSON) -> JSON:
    """What a rewritten pod gets of the configuration's `inject`: what it does not have already."""
    spec = ignored["spec"]
    return {
        "tolerations": [
            each
            for each in inject.get("tolerations", ())
            if each not in spec.get("tolerations", ())
        ],
        "nodeSelector": [
            key for key in inject.get("nodeSelector", ()) if key not in spec.get("nodeSelector", ())
        ],
    }


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_no_random_pod_is_refused_for_what_we_made_of_it(
    plane: ControlPlane, serve: Serve, name: str
) -> None:
    """The nodes differ in what small slices of the same name have, so guards are wanted."""
    configuration, flags = CONFIGURATIONS[name]
    large = {"1g.10gb": 9728, "2g.20gb": 19968, "3g.40gb": 40192}
    small = large | {"1g.10gb": 9216, "2g.20gb": 17920}
    for number, memory_mib in enumerate((large, small)):
        labels = a100_labels(memory_mib=memory_mib) | {"sliced": "yes", "zone": "a", "tier": "9"}
        allocatable = {f"nvidia.com/mig-{profile}": 4 for profile in memory_mib} | {GPU: 4}
        plane.client.create(fake_node(f"gpu-{number}", allocatable=allocatable, labels=labels))
    new_namespace(plane.client, name="speech")
    head = {"apiVersion": "migfit.io/v1alpha1", "kind": "MigfitConfiguration"}
    migfit = serve(yaml.safe_dump(head | configuration), *flags)

    pods = [some_rich_pod(Dice(f"{name} {number}"), number) for number in range(PODS)]
    outcomes = all_sent(plane, pods)
    lines = audited(migfit, outcomes)

    valid = rewritten = guarded = 0
    for outcome in outcomes:
        if outcome.ignored == 422:  # not a valid pod: with us neither
            assert outcome.stored == 422, outcome.pod
            continue
        stored, ignored = outcome.pair
        line = lines.get(outcome.name)
        added = injected(ignored, configuration.get("inject", {}))
        assert tidied(undone(stored, line, added)) == tidied(ignored), outcome.pod
        valid += 1
        if line is None or line["action"] != "rewritten":
            assert not any(map(guards_of, terms_of(stored))), outcome.pod
            continue
        rewritten += 1
        check_guards(line, terms_of(stored), everywhere=bool(flags))
        guarded += any(map(guards_of, terms_of(stored)))
    assert valid > PODS * 0.8
    assert rewritten > PODS * 0.3
    assert guarded > PODS * 0.15


def check_guards(line: JSON, terms: list[JSON], *, everywhere: bool) -> None:
    """Each term that matches anything has the same guards: the need, for what was taken."""
    found = [guards_of(term) for term in terms if term]
    taken = {change["to"] for change in line["containers"]}
    least = int((line["need"] or "0Mi").removesuffix("Mi")) - 1
    assert all(each == found[0] for each in found), line
    for guards in found[:1]:
        assert guards.keys() <= taken, line
        assert max(guards.values(), default=least) <= least, line
        if len(line["containers"]) == 1:
            assert set(guards.values()) <= {least}, line
    if everywhere and line["need"]:
        assert found, line
        assert found[0].keys() == taken, line
