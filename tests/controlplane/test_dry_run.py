"""Whatever we make of a pod, the real API server takes it wherever it takes the pod without us.

Every pod is sent by a server-side dry run twice: as it is, and with the label that has us leave it.
"""

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.build import annotated
from tests.controlplane.client import ApiError
from tests.controlplane.migfit import GPU, SYSTEM_NAMESPACE, Migfit, a100_labels
from tests.controlplane.objects import fake_node, new_namespace, wait_until
from tests.draw import Dice, some_expression, some_pod, some_term, some_toleration
from tests.wild.gallery import CONFIGURATION, Expectation, nodes, wild_pods

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import TypeAlias

    import trustme

    from tests.controlplane.client import JSON
    from tests.controlplane.plane import ControlPlane

    Serve: TypeAlias = Callable[..., Migfit]

pytestmark = pytest.mark.controlplane

PODS = 110  # under each of two configurations
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
OURS = re.compile(r"migfit\.io/(decision|need|rewritten)")
GUARD = re.compile(r"(nvidia\.com/mig-.+)\.memory")


@pytest.fixture
def serve(plane: ControlPlane, authority: trustme.CA, tmp_path: Path) -> Iterator[Serve]:
    """Starts the server with a configuration, after the nodes are there: it never saw another."""
    server = Migfit(plane, tmp_path, authority)
    new_namespace(plane.client, name=SYSTEM_NAMESPACE)

    def start(configuration: str, *flags: str) -> Migfit:
        server.configure_text(configuration)
        server.start(flags=flags)
        server.register()
        return server

    yield start
    server.kill()


@pytest.fixture
def runtime_class(plane: ControlPlane) -> Iterator[None]:
    """What `runtimeClassName: nvidia` refers to."""
    meta = {"name": "nvidia"}
    kind = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass"}
    plane.client.create({**kind, "metadata": meta, "handler": "nvidia"})
    yield
    plane.client.delete("RuntimeClass", "nvidia")


def tried(plane: ControlPlane, pod: JSON) -> JSON | int:
    """The pod as the API server would store it, or the status it refuses it with."""
    try:
        stored = plane.client.create(pod, dry_run=True).body
    except ApiError as error:
        return error.status
    for own in ("creationTimestamp", "managedFields", "name", "uid"):  # of this attempt alone
        stored["metadata"].pop(own, None)
    del stored["status"]
    return stored


def both(plane: ControlPlane, pod: JSON) -> tuple[JSON | int, JSON | int]:
    """What becomes of a pod with us, and without: there it carries the label to be ignored."""
    ignored = copy.deepcopy(pod)
    labels = ignored["metadata"].setdefault("labels", {})
    mode = labels.get("migfit.io/mode")
    labels["migfit.io/mode"] = "ignore"
    without = tried(plane, ignored)
    if isinstance(without, dict):
        labels = without["metadata"]["labels"]
        labels.pop("migfit.io/mode")
        labels |= {} if mode is None else {"migfit.io/mode": mode}
        without["metadata"].setdefault("annotations", {}).pop("migfit.io/decision", None)
    return tried(plane, pod), without


def decision_of(pod: JSON) -> JSON | None:
    """Our mark on a pod."""
    mark = pod["metadata"].get("annotations", {}).get("migfit.io/decision")
    return None if mark is None else dict(json.loads(mark))


def guards(pod: JSON) -> list[dict[str, int]]:
    """The memory guards of each term of the required node affinity that matches anything."""
    affinity = pod["spec"].get("affinity", {}).get("nodeAffinity", {}).get(REQUIRED, {})
    return [
        {
            guard[1]: int(each["values"][0])
            for each in term.get("matchExpressions", ())
            if each["operator"] == "Gt" and (guard := GUARD.fullmatch(each["key"]))
        }
        for term in affinity.get("nodeSelectorTerms", ())
        if term
    ]


def unguarded(pod: JSON) -> JSON:
    """A copy without our guards, and without what is empty then."""
    pod = copy.deepcopy(pod)
    spec = pod["spec"]
    affinity = spec.get("affinity", {}).get("nodeAffinity", {})
    terms = affinity.get(REQUIRED, {}).get("nodeSelectorTerms", [])
    for term in terms:
        kept = [e for e in term.get("matchExpressions", []) if not GUARD.fullmatch(e["key"])]
        term.pop("matchExpressions", None)
        if kept:
            term["matchExpressions"] = kept
    if len(terms) == 1 and terms[0] == {}:
        del affinity[REQUIRED]
    for outer, inner in ((spec.get("affinity", {}), "nodeAffinity"), (spec, "affinity")):
        if outer.get(inner) == {}:
            del outer[inner]
    return pod


def undone(pod: JSON, line: JSON | None, inject: Mapping[str, Any]) -> JSON:
    """A copy with everything taken back that the audit line announces."""
    pod = copy.deepcopy(pod)
    meta, spec = pod["metadata"], pod["spec"]
    for marks in (meta.get("labels", {}), meta.setdefault("annotations", {})):
        for key in filter(OURS.fullmatch, list(marks)):
            del marks[key]
    if line is None or line["action"] != "rewritten":
        return pod
    every = {each["name"]: each for each in [*spec.get("initContainers", []), *spec["containers"]]}
    for change in line["containers"]:
        for asked in every[change["name"]]["resources"].values():
            assert asked.pop(change["to"]) == "1"
            asked[change["from"]] = "1"
    for key, value in inject.get("nodeSelector", {}).items():
        if spec["nodeSelector"][key] == value:
            del spec["nodeSelector"][key]
    for toleration in inject.get("tolerations", ()):
        spec["tolerations"].remove(toleration)
    return unguarded(pod)


def lines_by_id(migfit: Migfit, wanted: set[str]) -> dict[str, JSON]:
    """Audit lines by id, as soon as those wanted are written."""

    def written() -> dict[str, JSON]:
        lines = {line["id"]: line for line in migfit.audit()}
        return lines if wanted <= lines.keys() else {}

    return wait_until(written, 10, "every decision is in the audit log")


# --- pods as found in the wild ---------------------------------------------------------------------


@pytest.mark.usefixtures("runtime_class")
def test_pods_from_the_wild_are_decided_on_as_expected_and_accepted_all(
    plane: ControlPlane, serve: Serve
) -> None:
    pods = wild_pods()
    for node in nodes():
        plane.client.create(node)
    for namespace in {wild.namespace for wild in pods}:
        new_namespace(plane.client, name=namespace)
    migfit = serve(CONFIGURATION)

    outcome = {wild.name: both(plane, wild.pod) for wild in pods}
    refused = {name: pair for name, pair in outcome.items() if int in map(type, pair)}
    assert refused == {}, "not a valid pod, with or without us"
    marks = {name: decision_of(pair[0]) for name, pair in outcome.items()}  # type: ignore[arg-type]
    lines = lines_by_id(migfit, {mark["id"] for mark in marks.values() if mark})

    for wild in pods:
        stored, without = outcome[wild.name]
        assert isinstance(stored, dict)
        mark = marks[wild.name]
        line = lines[mark["id"]] if mark else None
        if line is None:
            assert wild.expect.reason == "NoGpuRequest", wild.name
        else:
            found = (line["action"], line["reason"], line["profile"], line["wouldBe"])
            assert Expectation(*found) == wild.expect, (wild.name, line["message"])
        assert guards(stored) == guards(without), wild.name  # type: ignore[arg-type]
        assert undone(stored, line, {}) == without, wild.name
        assert (stored == without) == (mark is None), wild.name


# --- random pods -----------------------------------------------------------------------------------

INJECT: JSON = {
    "tolerations": [
        {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "node.example.com/sliced", "operator": "Equal", "value": "yes"},
    ],
    "nodeSelector": {"sliced": "yes"},
}


def some_affinity(dice: Dice) -> JSON:
    """Affinity of every kind that there is."""
    found: JSON = {}
    names = ("gpu-0", "gpu-1")
    if dice.rarely(2):
        node: JSON = found.setdefault("nodeAffinity", {})
        terms = [some_term(dice, names) for _ in range(dice.randint(1, 3))]
        node[REQUIRED] = {"nodeSelectorTerms": terms}
    if dice.rarely(3):
        node = found.setdefault("nodeAffinity", {})
        preference = {"matchExpressions": [some_expression(dice)]}
        node[PREFERRED] = [{"weight": dice.randint(1, 100), "preference": preference}]
    for kind in ("podAffinity", "podAntiAffinity"):
        if dice.rarely(4):
            near = {
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": {"app": "asr"}},
            }
            weighted = [{"weight": 10, "podAffinityTerm": near}]
            found[kind] = dice.choice([{REQUIRED: [near]}, {PREFERRED: weighted}])
    return found


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
    {"lifecycle": {"preStop": {"sleep": {"seconds": 5}}}},
)


def some_rich_pod(dice: Dice) -> JSON:
    """A pod with much in it that is not ours, mostly valid."""
    pod = some_pod(dice)
    spec, meta = pod["spec"], pod["metadata"]
    spec |= {"affinity": affinity} if (affinity := some_affinity(dice)) else {}
    if dice.rarely(2):
        spec["tolerations"] = [some_toleration(dice) for _ in range(dice.randint(0, 3))]
    for extra in SPECS:
        if dice.rarely(14):
            spec |= copy.deepcopy(extra)
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        if dice.rarely(3):
            container.update(copy.deepcopy(dice.choice(CONTAINERS)))
        if dice.rarely(3):  # defaulting copies the limits
            del container["resources"]["requests"]
    if dice.rarely(10):
        del meta["labels"]
    if dice.rarely(20):
        pod = annotated(pod, note="x" * (256 * 1024 - dice.choice([200, 400, 800])))
    if dice.rarely(3):
        pod["metadata"].pop("annotations")
    return pod


CONFIGURATIONS: dict[str, tuple[JSON, tuple[str, ...]]] = {
    "as-it-comes": ({"whenUnknown": "6G"}, ()),
    "guarded-and-injected": (
        {"whenUnknown": "9G", "headroom": "10%", "inject": INJECT},
        ("--extender-port", "0"),
    ),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_no_random_pod_is_refused_for_what_we_made_of_it(
    plane: ControlPlane, serve: Serve, name: str
) -> None:
    """Two nodes differ in what a slice of the same name has, so guards are wanted."""
    fields, flags = CONFIGURATIONS[name]
    for number, tight in enumerate(({}, {"1g.10gb": 9216, "2g.20gb": 17920})):
        memory = {"1g.10gb": 9728, "2g.20gb": 19968, "3g.40gb": 40192} | tight
        labels = a100_labels(memory_mib=memory) | {"sliced": "yes", "zone": "a", "tier": "9"}
        allocatable = {f"nvidia.com/mig-{profile}": 4 for profile in memory} | {GPU: 4}
        plane.client.create(fake_node(f"gpu-{number}", allocatable=allocatable, labels=labels))
    new_namespace(plane.client, name="speech")
    head = {"apiVersion": "migfit.io/v1alpha1", "kind": "MigfitConfiguration"}
    migfit = serve(yaml.safe_dump(head | fields), *flags)

    pods = [some_rich_pod(Dice(f"{name} {number}")) for number in range(PODS)]
    outcome = [both(plane, pod) for pod in pods]
    valid = [(pod, *pair) for pod, pair in zip(pods, outcome, strict=True) if pair[1] != 422]
    for pod, (stored, without) in zip(pods, outcome, strict=True):
        assert isinstance(stored, dict) or stored == without == 422, (stored, pod)
    marks = [decision_of(stored) for _, stored, _ in valid if isinstance(stored, dict)]
    lines = lines_by_id(migfit, {mark["id"] for mark in marks if mark})

    inject: JSON = fields.get("inject", {})
    rewritten = guarded = 0
    for pod, stored, without in valid:
        assert isinstance(stored, dict)
        assert isinstance(without, dict)
        mark = decision_of(stored)
        line = lines[mark["id"]] if mark else None
        added = {
            "tolerations": [
                each
                for each in inject.get("tolerations", ())
                if each not in without["spec"].get("tolerations", ())
            ],
            "nodeSelector": {
                key: value
                for key, value in inject.get("nodeSelector", {}).items()
                if key not in without["spec"].get("nodeSelector", {})
            },
        }
        assert tidied(undone(stored, line, added)) == tidied(without), pod
        if line is None or line["action"] != "rewritten":
            continue
        rewritten += 1
        taken = {change["to"] for change in line["containers"]}
        each_term = guards(stored)
        assert all(term == each_term[0] and term.keys() <= taken for term in each_term)
        if each_term and each_term[0]:
            guarded += 1
            assert max(each_term[0].values()) == int(line["need"].removesuffix("Mi")) - 1
        elif flags:
            assert line["need"] is None
    assert rewritten > PODS / 4
    assert guarded > PODS / 8
    assert len(valid) > PODS * 3 / 4


def tidied(pod: JSON) -> JSON:
    """A copy without empty maps and lists that stand for nothing."""
    pod = unguarded(pod)
    for holder, key in (
        (pod["metadata"], "annotations"),
        (pod["metadata"], "labels"),
        (pod["spec"], "nodeSelector"),
        (pod["spec"], "tolerations"),
    ):
        if not holder.get(key):
            holder.pop(key, None)
    return pod
