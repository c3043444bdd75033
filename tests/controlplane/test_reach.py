"""What we call reachable is what the real kube-scheduler accepts."""

from __future__ import annotations

import copy
import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from extender.cluster.objects import NodeObject
from extender.cluster.reading import read_node
from extender.core.policy import Policy
from extender.core.reach import NodeIndex, slots
from tests.controlplane.objects import fake_node, gpu_pod, wait_until

if TYPE_CHECKING:
    from tests.controlplane.client import JSON
    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

NODES = 8
PODS = 60
KEYS = ("zone", "disk", "generation", "absent")
VALUES = ("a", "b", "1", "7", "03", "12")
EFFECTS = ("NoSchedule", "NoExecute", "PreferNoSchedule")
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def some_node(rng: random.Random, name: str) -> JSON:
    """A node with random labels and taints, cordoned now and then."""
    labels = {key: rng.choice(VALUES) for key in KEYS[:-1] if rng.random() < 0.7}
    taints = [
        {"key": rng.choice(("gpu", "team")), "value": rng.choice(VALUES[:2]), "effect": effect}
        for effect in EFFECTS
        if rng.random() < 0.2
    ]
    node = fake_node(name, allocatable={}, labels=labels, taints=taints)
    if rng.random() < 0.2:
        node["spec"]["unschedulable"] = True
    return node


def some_expression(rng: random.Random) -> JSON:
    """One expression with any of the six operators."""
    operator = rng.choice(("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"))
    expression: JSON = {"key": rng.choice(KEYS), "operator": operator}
    if operator in ("Gt", "Lt"):
        expression["values"] = [rng.choice(("0", "5", "11"))]
    elif operator in ("In", "NotIn"):
        expression["values"] = rng.sample(VALUES, rng.randint(1, 3))
    return expression


def some_term(rng: random.Random, names: list[str]) -> JSON:
    """A term of expressions, fields, both, or nothing at all."""
    term: JSON = {}
    if rng.random() < 0.8:
        term["matchExpressions"] = [some_expression(rng) for _ in range(rng.randint(1, 2))]
    if rng.random() < 0.2:
        operator = rng.choice(("In", "NotIn"))
        term["matchFields"] = [
            {"key": "metadata.name", "operator": operator, "values": [rng.choice(names)]}
        ]
    return term


def some_toleration(rng: random.Random) -> JSON:
    """A toleration of some of the taints, in any of its forms."""
    key = rng.choice(("gpu", "team", "", "node.kubernetes.io/unschedulable"))
    if not key or rng.random() < 0.4:
        toleration: JSON = {"operator": "Exists", **({"key": key} if key else {})}
    else:
        toleration = {"key": key, "operator": "Equal", "value": rng.choice((*VALUES[:2], ""))}
    if rng.random() < 0.5:
        toleration["effect"] = rng.choice(EFFECTS)
    return toleration


def some_spec(rng: random.Random, names: list[str]) -> JSON:
    """Random constraints on where a pod may land."""
    spec: JSON = {}
    if rng.random() < 0.3:
        spec["nodeSelector"] = {rng.choice(KEYS): rng.choice(VALUES[:3])}
    if rng.random() < 0.6:
        terms = [some_term(rng, names) for _ in range(rng.randint(1, 3))]
        spec["affinity"] = {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}}
    if rng.random() < 0.7:
        spec["tolerations"] = [some_toleration(rng) for _ in range(rng.randint(1, 3))]
    return spec


def pinned(spec: JSON, node: str) -> JSON:
    """The same constraints, and this node only."""
    pin = {"key": "metadata.name", "operator": "In", "values": [node]}
    spec = copy.deepcopy(spec)
    affinity: Any = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    terms = affinity.setdefault(REQUIRED, {"nodeSelectorTerms": [{"matchFields": [pin]}]})
    for term in terms["nodeSelectorTerms"]:
        if term and pin not in term.get("matchFields", []):
            term["matchFields"] = [*term.get("matchFields", []), pin]
    return spec


@pytest.mark.parametrize("seed", [1])
def test_reachable_nodes_are_those_the_scheduler_accepts(
    plane: ControlPlane, namespace: str, seed: int
) -> None:
    rng = random.Random(seed)
    index = NodeIndex()
    names = [f"node-{i}" for i in range(NODES)]
    for name in names:
        stored = plane.client.create(some_node(rng, name)).body
        index.put(read_node(msgspec.convert(stored, NodeObject), Policy()))
    plane.start_scheduler()
    specs = [some_spec(rng, names) for _ in range(PODS)]
    for i, spec in enumerate(specs):
        for name in names:
            pod = gpu_pod(f"pod-{i}-{name}", namespace, resources={}, spec=pinned(spec, name))
            plane.client.create(pod)

    def judged() -> list[JSON]:
        pods = plane.client.items("Pod", namespace)
        undecided = [p for p in pods if not p.get("status", {}).get("conditions")]
        return [] if undecided else pods

    pods = wait_until(judged, 60, "the scheduler has tried every pod")
    accepted: dict[str, set[str]] = {str(i): set() for i in range(PODS)}
    for pod in pods:
        if node := pod["spec"].get("nodeName"):
            accepted[pod["metadata"]["name"].split("-")[1]].add(node)
    for i, spec in enumerate(specs):
        reached = {names[slot] for slot in slots(index.reach(spec))}
        assert reached == accepted[str(i)], spec
    sizes = {len(nodes) for nodes in accepted.values()}
    assert len(sizes) > 3, "the examples are too alike to tell anything"
