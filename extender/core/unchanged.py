"""A rewritten pod as it came: could it start now if it had been left alone?"""

from collections.abc import Mapping
from typing import Any

from extender.core import pod as podlib
from extender.core.catalogue import MIG_PREFIX, is_mig_resource
from extender.core.pod import Pod, mapping, objects, text
from extender.core.policy import Inject, Policy
from extender.core.snapshot import Snapshot

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def could_start_whole(pod: Pod, snapshot: Snapshot, policy: Policy) -> bool:
    """Whether a whole GPU is free for a rewritten pod, judged as before it was rewritten.

    By what step 7 of the decision (`WholeNow`) asks of a pod that has not been rewritten yet.
    """
    pod = as_it_came(pod, policy)
    held = podlib.containers(pod)
    resource = policy.gpu_resource
    asked = {resource: podlib.extended_ask(held, resource)}
    nodes = snapshot.capacity.index.reach(podlib.spec(pod))
    taken = snapshot.capacity.waiting(resource, nodes, podlib.priority(pod))
    taken += snapshot.reservations.on(resource, nodes)
    plain = podlib.plain_ask(pod, held, resource)
    return snapshot.capacity.room(asked, plain, nodes, {resource: taken})


def as_it_came(pod: Pod, policy: Policy) -> Pod:
    """The pod with the GPU resource in place of slices, and without what the policy injects.

    What it asked for itself that is also injected is taken for injected.
    """
    spec = dict(podlib.spec(pod))
    for key in ("initContainers", "containers"):
        if key in spec:
            spec[key] = [_whole(each, policy.gpu_resource) for each in objects(spec[key])]
    spec["nodeSelector"] = _own_selector(mapping(spec.get("nodeSelector")), policy.inject)
    spec["tolerations"] = [
        each for each in objects(spec.get("tolerations")) if each not in policy.inject.tolerations
    ]
    spec["affinity"] = _own_affinity(mapping(spec.get("affinity")))
    return {**pod, "spec": spec}


def _whole(container: Mapping[str, Any], gpu_resource: str) -> dict[str, Any]:
    resources = mapping(container.get("resources"))
    parts = {
        part: {
            (gpu_resource if is_mig_resource(name) else name): amount
            for name, amount in mapping(resources.get(part)).items()
        }
        for part in ("limits", "requests")
    }
    return {**container, "resources": parts}


def _own_selector(selector: Mapping[str, Any], inject: Inject) -> dict[str, Any]:
    return {
        key: value for key, value in selector.items() if (key, value) not in inject.node_selector
    }


def _own_affinity(affinity: Mapping[str, Any]) -> dict[str, Any]:
    """Without the guards of `rewrite`, and without a term that is nothing else."""
    of_nodes = mapping(affinity.get("nodeAffinity"))
    terms = objects(mapping(of_nodes.get(_REQUIRED)).get("nodeSelectorTerms"))
    if not any(_guarded(term) for term in terms):
        return dict(affinity)
    own = [
        {
            **term,
            "matchExpressions": [
                each for each in objects(term.get("matchExpressions")) if not _is_guard(each)
            ],
        }
        for term in terms
    ]
    if any(
        _guarded(term) and not _says_something(left) for term, left in zip(terms, own, strict=True)
    ):
        return {**affinity, "nodeAffinity": {k: v for k, v in of_nodes.items() if k != _REQUIRED}}
    return {**affinity, "nodeAffinity": {**of_nodes, _REQUIRED: {"nodeSelectorTerms": own}}}


def _guarded(term: Mapping[str, Any]) -> bool:
    return any(_is_guard(each) for each in objects(term.get("matchExpressions")))


def _says_something(term: Mapping[str, Any]) -> bool:
    return bool(term.get("matchExpressions") or term.get("matchFields"))


def _is_guard(expression: Mapping[str, Any]) -> bool:
    key = text(expression.get("key"))
    return (
        expression.get("operator") == "Gt"
        and key.startswith(MIG_PREFIX)
        and key.endswith(".memory")
    )
