"""Step 9: a decision becomes a JSON Patch (RFC 6902), and the patch is tried before it is sent.

A patch that does not apply is a 500 to the user even with `failurePolicy: Ignore`, so only `add` and
`remove` of single members are used, never `test`, never the replacement of a whole map.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from extender.core import pod as podlib
from extender.core.decision import Change, Decision
from extender.core.pod import Pod, mapping
from extender.core.policy import Inject
from extender.core.quantity import format_mib
from extender.core.reason import Action, Reason, leaves_no_mark

DECISION_ANNOTATION = "migfit.io/decision"
NEED_ANNOTATION = "migfit.io/need"
REWRITTEN_LABEL = "migfit.io/rewritten"

MOST_ANNOTATION_BYTES = 256 * 1024
"""All keys and values of annotations together (`ValidateAnnotationsSize` of Kubernetes)."""
_MOST_CHARACTER_BYTES = 4
"""In UTF-8."""

Operation = dict[str, Any]
Patch = list[Operation]


class PatchError(ValueError):
    """The patch does not apply to the pod."""


@lru_cache(maxsize=1024)
def escape(member: str) -> str:
    """One reference token of a JSON pointer (RFC 6901)."""
    return member.replace("~", "~0").replace("/", "~1")


class Carried(NamedTuple):
    """All of a decision that its operations depend on, but for the annotation with its text."""

    action: Action
    reason: Reason
    changes: tuple[Change, ...]
    need_mib: int | None
    guards: tuple[tuple[str, int], ...]
    stray: tuple[str, ...]


def carried(decision: Decision) -> Carried:
    """What is carried out of a decision."""
    return Carried(
        decision.action,
        decision.reason,
        decision.changes,
        decision.need_mib,
        decision.guards,
        decision.stray,
    )


def patch_for(
    decision: Decision | Carried,
    pod: Pod,
    *,
    inject: Inject,
    annotation: str | None,
    prefer: Sequence[str] = (),
) -> Patch:
    """The operations that carry out a decision; empty for no change.

    Args:
        decision: what was decided.
        pod: the pod it was decided on.
        inject: what rewritten pods get besides.
        annotation: the decision as annotation text; None if the pod says so already.
        prefer: nodes that a rewritten pod shall prefer, best first; at most ten.
    """
    edit = Edit(pod)
    if decision.stray:
        for pointer in decision.stray:
            _remove_resource(edit, pointer, decision.changes[0].resource)
        return edit.patch
    rewritten = decision.action is Action.REWRITTEN
    unmarked = decision.action is Action.DENIED or leaves_no_mark(decision.reason)
    if not rewritten and unmarked:
        return []
    marks: dict[str, str] = {}
    if rewritten:
        for change in decision.changes:
            swap(edit, change)
        if decision.need_mib is not None:
            marks[NEED_ANNOTATION] = format_mib(decision.need_mib)
        edit.members("metadata", "labels", {REWRITTEN_LABEL: "true"})
        inject_into(edit, inject)
        _guard(edit, decision.guards)
        _prefer(edit, prefer)
    if annotation is not None:
        marks[DECISION_ANNOTATION] = annotation
    edit.members("metadata", "annotations", with_room(pod, marks))
    return edit.patch


_DECISION_PATH = f"/metadata/annotations/{escape(DECISION_ANNOTATION)}"


def retold(patch: Patch, annotation: str | None) -> Patch:
    """A patch of ours with another annotation, as long as the one in it, in its place."""
    return [
        {**operation, "value": annotation} if operation["path"] == _DECISION_PATH else operation
        for operation in patch
    ]


class Edit:
    """A patch in the making."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.patch: Patch = []
        self._made: set[str] = set()

    def add(self, path: str, value: Any) -> None:
        """Add a member to a map or an item to a list."""
        self.patch.append({"op": "add", "path": path, "value": value})

    def remove(self, path: str) -> None:
        """Take a member out of a map."""
        self.patch.append({"op": "remove", "path": path})

    def inside(self, *members: str) -> tuple[str, Mapping[str, Any]]:
        """Pointer to a map and what the pod has in it; maps missing on the way are made, once."""
        base, value = "", self.pod
        for member in members:
            base, found = f"{base}/{member}", value.get(member)
            if isinstance(found, dict):
                value = found
                continue
            value = {}
            if base not in self._made:
                self.add(base, {})
                self._made.add(base)
        return base, value

    def members(self, outer: str, inner: str, values: Mapping[str, str]) -> None:
        """Add members to a map two levels down."""
        if values:
            base, _ = self.inside(outer, inner)
            for key, value in values.items():
                self.add(f"{base}/{escape(key)}", value)

    def append(self, base: str, present: object, items: Iterable[Mapping[str, Any]]) -> None:
        """Add items to the end of a list, which is made if it is missing."""
        if not isinstance(present, list):
            self.add(base, [])
        for item in items:
            self.add(f"{base}/-", item)


def _at(pod: Any, pointer: str) -> Any:
    for member in pointer.split("/")[1:]:
        pod = pod[int(member)] if isinstance(pod, list) else pod[member]
    return pod


def swap(edit: Edit, change: Change) -> None:
    """The old resource out of limits and requests, the new one into both."""
    resources = mapping(_at(edit.pod, change.pointer).get("resources"))
    for part in ("limits", "requests"):
        base = f"{change.pointer}/resources/{part}"
        if not isinstance(resources.get(part), dict):
            edit.add(base, {change.to: "1"})
            continue
        if change.resource in resources[part]:
            edit.remove(f"{base}/{escape(change.resource)}")
        edit.add(f"{base}/{escape(str(change.to))}", "1")


def _remove_resource(edit: Edit, pointer: str, resource: str) -> None:
    resources = mapping(_at(edit.pod, pointer).get("resources"))
    for part in ("limits", "requests"):
        if resource in mapping(resources.get(part)):
            edit.remove(f"{pointer}/resources/{part}/{escape(resource)}")


_NOTHING = Inject()


def inject_into(edit: Edit, inject: Inject) -> None:
    """What the configuration gives to rewritten pods besides, as far as the pod has it not yet."""
    if inject == _NOTHING:
        return
    spec = podlib.spec(edit.pod)
    if inject.scheduler_name and spec.get("schedulerName") in (None, "", "default-scheduler"):
        edit.add("/spec/schedulerName", inject.scheduler_name)
    edit.members("spec", "nodeSelector", dict(added_selector(spec, inject)))
    held = spec.get("tolerations")
    present = held if isinstance(held, list) else []
    missing = [dict(each) for each in inject.tolerations if each not in present]
    if missing:
        edit.append("/spec/tolerations", held, missing)


def added_selector(spec: Mapping[str, Any], inject: Inject) -> list[tuple[str, str]]:
    """What is added to a pod's nodeSelector: what it says itself stays."""
    present = mapping(spec.get("nodeSelector"))
    return [(key, value) for key, value in inject.node_selector if key not in present]


REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def _guard(edit: Edit, guards: tuple[tuple[str, int], ...]) -> None:
    """`label Gt MiB` in every non-empty term of the required node affinity, or in one new term."""
    if not guards:
        return
    demands = [{"key": k, "operator": "Gt", "values": [str(mib)]} for k, mib in guards]
    base, affinity = edit.inside("spec", "affinity", "nodeAffinity")
    required = affinity.get(REQUIRED)
    if not isinstance(required, dict):
        edit.add(f"{base}/{REQUIRED}", {"nodeSelectorTerms": [{"matchExpressions": demands}]})
        return
    for position, term in enumerate(required["nodeSelectorTerms"]):
        expressions = mapping(term).get("matchExpressions")
        if expressions or mapping(term).get(
            "matchFields"
        ):  # empty terms match nothing, and stay so
            where = f"{base}/{REQUIRED}/nodeSelectorTerms/{position}/matchExpressions"
            edit.append(where, expressions, demands)


def _prefer(edit: Edit, names: Sequence[str]) -> None:
    """Soft node affinity, the stronger the better the node."""
    if not names:
        return
    base, affinity = edit.inside("spec", "affinity", "nodeAffinity")
    terms = [
        {
            "weight": 100 - 10 * rank,
            "preference": {
                "matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]
            },
        }
        for rank, name in enumerate(names[:10])
    ]
    edit.append(f"{base}/{PREFERRED}", affinity.get(PREFERRED), terms)


def with_room(pod: Pod, marks: Mapping[str, str]) -> dict[str, str]:
    """Those of the marks that leave annotations within their limit, the first ones first."""
    present = podlib.annotations(pod)
    characters = sum(map(len, (*present, *present.values(), *marks, *marks.values())))
    if _MOST_CHARACTER_BYTES * characters <= MOST_ANNOTATION_BYTES:
        return dict(marks)  # however they are spelled
    room = MOST_ANNOTATION_BYTES - sum([_size(*each) for each in present.items()])
    taken = {}
    for key, value in marks.items():
        more = _size(key, value) - (_size(key, present[key]) if key in present else 0)
        if more <= room:
            room -= more
            taken[key] = value
    return taken


def _size(key: str, value: str) -> int:
    return len(key.encode()) + len(value.encode())


def apply(patch: Patch, pod: Pod) -> dict[str, Any]:
    """The pod after the patch; the pod given stays as it is.

    Knows `add` and `remove`, which is all we send.

    Raises:
        PatchError: an operation does not apply.
    """
    patched = dict(pod)
    # Pointer -> what stands there and was copied, and so may be changed.
    own: dict[str, Any] = {"": patched}
    for operation in patch:
        try:
            base, last = _parted(operation["path"])
            target = own.get(base)
            if target is None:
                target = _own(own, base)
            _apply_one(operation, target, last)
            if operation["path"] in own or (isinstance(target, list) and last != "-"):
                own = {"": patched}  # something else stands there, or at pointers after it
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise PatchError(f"{operation['op']} {operation['path']}: {error!r}") from error
    return patched


@lru_cache(maxsize=1024)
def _parted(pointer: str) -> tuple[str, str]:
    """The pointer to what holds a member, and the member."""
    base, _, last = pointer.rpartition("/")
    return base, last.replace("~1", "/").replace("~0", "~")


def _own(own: dict[str, Any], pointer: str) -> Any:
    """What stands at a pointer, copied before its first change, and so is all that leads to it."""
    at = own[""]
    for here, member in _way(pointer):
        held = own.get(here)
        if held is None:
            key = int(member) if isinstance(at, list) else member
            held = own[here] = at[key] = at[key].copy()
        at = held
    return at


@lru_cache(maxsize=1024)
def _way(pointer: str) -> tuple[tuple[str, str], ...]:
    """Every pointer that leads to what stands at one, that one included, with the member it ends in."""
    if not pointer:
        return ()
    base, last = _parted(pointer)
    return (*_way(base), (pointer, last))


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
