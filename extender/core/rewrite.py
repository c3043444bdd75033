"""Step 9: a decision becomes a JSON Patch (RFC 6902), and the patch is tried before it is sent.

A patch that does not apply is a 500 to the user even with `failurePolicy: Ignore`, so only `add` and
`remove` of single members are used, never `test`, never the replacement of a whole map.
"""

from collections.abc import Callable, Mapping
from typing import Any

from extender.core import pod as podlib
from extender.core.decision import Change, Decision
from extender.core.pod import Pod, mapping
from extender.core.policy import Inject
from extender.core.quantity import format_mib
from extender.core.reason import Action, leaves_no_mark

DECISION_ANNOTATION = "migfit.io/decision"
NEED_ANNOTATION = "migfit.io/need"
REWRITTEN_LABEL = "migfit.io/rewritten"

MOST_ANNOTATION_BYTES = 256 * 1024
"""All keys and values of annotations together (`ValidateAnnotationsSize` of Kubernetes)."""

Operation = dict[str, Any]
Patch = list[Operation]


class PatchError(ValueError):
    """The patch does not apply to the pod."""


def escape(member: str) -> str:
    """One reference token of a JSON pointer (RFC 6901)."""
    return member.replace("~", "~0").replace("/", "~1")


def patch_for(
    decision: Decision,
    pod: Pod,
    *,
    inject: Inject,
    annotation: str,
    differs: Callable[[object], bool],
) -> Patch:
    """The operations that carry out a decision; empty for no change.

    Args:
        decision: what was decided.
        pod: the pod it was decided on.
        inject: what rewritten pods get besides.
        annotation: the decision as annotation text.
        differs: whether an existing annotation says anything else than `annotation`, ids apart.
    """
    if decision.stray:
        return [
            operation
            for pointer in decision.stray
            for operation in _remove_resource(pod, pointer, decision.changes[0].resource)
        ]
    rewritten = decision.action is Action.REWRITTEN
    if not rewritten and leaves_no_mark(decision.reason):
        return []
    patch: Patch = []
    marks = {}
    if differs(podlib.annotations(pod).get(DECISION_ANNOTATION)):
        marks[DECISION_ANNOTATION] = annotation
    if rewritten:
        for change in decision.changes:
            patch += _swap(pod, change)
        if decision.need_mib is not None:
            marks[NEED_ANNOTATION] = format_mib(decision.need_mib)
        patch += _members(pod, ("metadata", "labels"), {REWRITTEN_LABEL: "true"})
        patch += _injected(pod, inject)
        patch += _guard(pod, decision.guards)
    if _room_for(pod, marks):
        patch += _members(pod, ("metadata", "annotations"), marks)
    return patch


def _at(pod: Any, pointer: str) -> Any:
    for member in pointer.split("/")[1:]:
        pod = pod[int(member)] if isinstance(pod, list) else pod[member]
    return pod


def _swap(pod: Pod, change: Change) -> Patch:
    """The old resource out of limits and requests, the new one into both."""
    resources = mapping(_at(pod, change.pointer).get("resources"))
    patch: Patch = []
    for part in ("limits", "requests"):
        base = f"{change.pointer}/resources/{part}"
        if not isinstance(resources.get(part), dict):
            patch.append({"op": "add", "path": base, "value": {change.to: "1"}})
            continue
        if change.resource in resources[part]:
            patch.append({"op": "remove", "path": f"{base}/{escape(change.resource)}"})
        patch.append({"op": "add", "path": f"{base}/{escape(str(change.to))}", "value": "1"})
    return patch


def _remove_resource(pod: Pod, pointer: str, resource: str) -> Patch:
    resources = mapping(_at(pod, pointer).get("resources"))
    return [
        {"op": "remove", "path": f"{pointer}/resources/{part}/{escape(resource)}"}
        for part in ("limits", "requests")
        if resource in mapping(resources.get(part))
    ]


def _members(pod: Pod, where: tuple[str, str], values: Mapping[str, str]) -> Patch:
    """Add members to a map two levels down, making the map where it is missing."""
    if not values:
        return []
    outer, inner = where
    present = mapping(pod.get(outer)).get(inner)
    base = f"/{outer}/{inner}"
    patch: Patch = []
    if not isinstance(present, dict):
        patch.append({"op": "add", "path": base, "value": {}})
    patch += [
        {"op": "add", "path": f"{base}/{escape(key)}", "value": value}
        for key, value in values.items()
    ]
    return patch


def _injected(pod: Pod, inject: Inject) -> Patch:
    spec = podlib.spec(pod)
    patch: Patch = []
    scheduler = spec.get("schedulerName")
    if inject.scheduler_name and scheduler in (None, "", "default-scheduler"):
        patch.append({"op": "add", "path": "/spec/schedulerName", "value": inject.scheduler_name})
    if inject.node_selector:
        present = mapping(spec.get("nodeSelector"))
        missing = {key: value for key, value in inject.node_selector if key not in present}
        patch += _members(pod, ("spec", "nodeSelector"), missing)
    held = spec.get("tolerations")
    if inject.tolerations and not isinstance(held, list):
        patch.append({"op": "add", "path": "/spec/tolerations", "value": []})
        held = []
    patch += [
        {"op": "add", "path": "/spec/tolerations/-", "value": dict(toleration)}
        for toleration in inject.tolerations
        if toleration not in (held or [])
    ]
    return patch


_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def _guard(pod: Pod, guards: tuple[tuple[str, int], ...]) -> Patch:
    """`label Gt MiB` in every non-empty term of the required node affinity, or in one new term."""
    if not guards:
        return []
    demands = [{"key": k, "operator": "Gt", "values": [str(mib)]} for k, mib in guards]
    patch: Patch = []
    base = "/spec"
    value: Any = podlib.spec(pod)
    for member in ("affinity", "nodeAffinity"):
        base, value = f"{base}/{member}", value.get(member)
        if not isinstance(value, dict):
            patch.append({"op": "add", "path": base, "value": {}})
            value = {}
    base, value = f"{base}/{_REQUIRED}", value.get(_REQUIRED)
    if not isinstance(value, dict):
        term = {"matchExpressions": demands}
        return [*patch, {"op": "add", "path": base, "value": {"nodeSelectorTerms": [term]}}]
    for position, term in enumerate(value.get("nodeSelectorTerms") or []):
        patch += _guarded_term(
            f"{base}/nodeSelectorTerms/{position}/matchExpressions", term, demands
        )
    return patch


def _guarded_term(where: str, term: Mapping[str, Any], demands: list[dict[str, Any]]) -> Patch:
    if not term.get("matchExpressions") and not term.get("matchFields"):
        return []  # an empty term matches nothing and stays empty
    patch: Patch = []
    if not isinstance(term.get("matchExpressions"), list):
        patch.append({"op": "add", "path": where, "value": []})
    return patch + [{"op": "add", "path": f"{where}/-", "value": demand} for demand in demands]


def _room_for(pod: Pod, marks: Mapping[str, str]) -> bool:
    if not marks:
        return False
    merged = {**podlib.annotations(pod), **marks}
    return sum(len(f"{k}{v}".encode()) for k, v in merged.items()) <= MOST_ANNOTATION_BYTES


def apply(patch: Patch, pod: Pod) -> dict[str, Any]:
    """The pod after the patch; the pod given stays as it is.

    Knows `add` and `remove`, which is all we send.

    Raises:
        PatchError: an operation does not apply.
    """
    patched = dict(pod)
    fresh: set[int] = {id(patched)}
    for operation in patch:
        *parents, last = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
        ]
        target: Any = patched
        try:
            for member in parents:
                key: Any = int(member) if isinstance(target, list) else member
                child = target[key]
                if id(child) not in fresh:
                    child = child.copy()
                    fresh.add(id(child))
                    target[key] = child
                target = child
            _apply_one(operation, target, last)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise PatchError(f"{operation['op']} {operation['path']}: {error!r}") from error
    return patched


def _apply_one(operation: Operation, target: Any, last: str) -> None:
    if isinstance(target, dict):
        if operation["op"] == "add":
            target[last] = operation["value"]
        else:
            del target[last]
    elif operation["op"] == "add":
        target.insert(len(target) if last == "-" else int(last), operation["value"])
    else:
        del target[int(last)]
