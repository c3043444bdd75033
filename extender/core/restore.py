"""A rewritten pod whose manifest is applied once more: what the rewrite did is put back.

`kubectl apply` merges the manifest into the pod that is there. Beside our slice the GPU resource comes
back, and lists that the manifest spells out (tolerations, node selector terms) come without what we
added; but of a pod that exists none of this can be changed, and the API server would refuse it. So
what the pod has of ours stays, and nothing else is touched: a new image goes through, and what the
API server would have refused without us it still refuses.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from extender.core import pod as podlib
from extender.core.catalogue import is_mig_resource
from extender.core.decision import Change, Decision
from extender.core.pod import Container, Pod, mapping, objects, text
from extender.core.policy import Inject, Policy
from extender.core.reason import Action, Reason
from extender.core.rewrite import (
    DECISION_ANNOTATION,
    NEED_ANNOTATION,
    PREFERRED,
    REQUIRED,
    REWRITTEN_LABEL,
    Edit,
    Patch,
    inject_into,
    swap,
    with_room,
)


def was_rewritten(before: Pod) -> bool:
    """Whether a pod that exists carries our label."""
    return podlib.labels(before).get(REWRITTEN_LABEL) == "true"


def restore(
    pod: Pod, before: Pod, policy: Policy, *, namespace: str = "", request_id: str = ""
) -> tuple[Decision, Patch]:
    """What to put back into an updated pod, and how that is told. Pure, and total over any JSON.

    Args:
        pod: as the update would have it.
        before: as it is; one that we rewrote.
        policy: the configuration in force.
        namespace: the request's namespace.
        request_id: uid of the AdmissionReview.
    """
    changes = _returned(pod, before, policy.gpu_resource)
    decision = Decision(
        action=Action.LEFT,
        reason=Reason.ALREADY_MIG,
        message=_message(changes, policy.gpu_resource),
        id=request_id,
        namespace=namespace or text(podlib.metadata(pod).get("namespace")),
        pod=podlib.display_name(pod),
        workload=podlib.workload(pod),
        mode=policy.mode,
        changes=changes,
        config_revision=policy.revision,
    )
    edit = Edit(pod)
    if changes:
        for change in changes:
            swap(edit, change)
        _mark(edit, before)
        inject_into(edit, _injected(before, policy.inject))
        _affinity(edit, before)
    return decision, edit.patch


def _message(changes: tuple[Change, ...], gpu_resource: str) -> str:
    if not changes:
        return f"{gpu_resource} was added to a pod that has its slice; nothing was put back"
    return f"an update brought {gpu_resource} back; the pod keeps its slice"


def _returned(pod: Pod, before: Pod, gpu_resource: str) -> tuple[Change, ...]:
    """Containers with a slice to which one GPU came back: with two, somebody wants something else."""
    held = {container.name: container for container in podlib.containers(before)}
    return tuple(
        Change(container.name, container.pointer, gpu_resource, to=slice_)
        for container in podlib.containers(pod)
        if container.count(gpu_resource) == 1
        and (slice_ := _slice(held.get(container.name), gpu_resource)) is not None
    )


def _slice(container: Container | None, gpu_resource: str) -> str | None:
    """The MIG resource a container was given in place of its GPU."""
    if container is None or container.count(gpu_resource) > 0:
        return None
    counts = container.mig_counts()
    return next(iter(counts)) if list(counts.values()) == [1] else None


def _mark(edit: Edit, before: Pod) -> None:
    """Our marks, which `kubectl replace` takes away and `kubectl apply` leaves."""
    if REWRITTEN_LABEL not in podlib.labels(edit.pod):
        edit.members("metadata", "labels", {REWRITTEN_LABEL: "true"})
    has, had = podlib.annotations(edit.pod), podlib.annotations(before)
    lost = [key for key in (NEED_ANNOTATION, DECISION_ANNOTATION) if key in had and key not in has]
    edit.members("metadata", "annotations", with_room(edit.pod, {key: had[key] for key in lost}))


def _injected(before: Pod, inject: Inject) -> Inject:
    """Of what rewritten pods get besides, that which this one got."""
    spec = podlib.spec(before)
    tolerations, selector = objects(spec.get("tolerations")), mapping(spec.get("nodeSelector"))
    name = inject.scheduler_name
    return replace(
        inject,
        scheduler_name=name if spec.get("schedulerName") == name else "",
        tolerations=tuple(each for each in inject.tolerations if each in tolerations),
        node_selector=tuple((k, v) for k, v in inject.node_selector if selector.get(k) == v),
    )


def _affinity(edit: Edit, before: Pod) -> None:
    """The node affinity as it is, if the update only lacks what we added to it."""
    has, had = _node_affinity(edit.pod), _node_affinity(before)
    if has != had and _authors(has) == _authors(had):
        base, _ = edit.inside("spec", "affinity")
        edit.add(f"{base}/nodeAffinity", had)


def _node_affinity(pod: Pod) -> Mapping[str, Any]:
    return mapping(mapping(podlib.spec(pod).get("affinity")).get("nodeAffinity"))


def _authors(affinity: Mapping[str, Any]) -> list[Any]:
    """What of a node affinity its author wrote: all but our guards and our preferred nodes."""
    terms = objects(mapping(affinity.get(REQUIRED)).get("nodeSelectorTerms"))
    written = [
        (
            [each for each in objects(term.get("matchExpressions")) if not _is_guard(each)],
            objects(term.get("matchFields")),
        )
        for term in terms
    ]
    preferred = objects(affinity.get(PREFERRED))
    return [
        [list(map(list, term)) for term in written if any(term)],
        [each for each in preferred if not _is_preferred_node(each)],
    ]


def _is_guard(expression: Mapping[str, Any]) -> bool:
    key = text(expression.get("key"))
    return expression.get("operator") == "Gt" and is_mig_resource(key) and key.endswith(".memory")


def _is_preferred_node(term: Mapping[str, Any]) -> bool:
    preference = mapping(term.get("preference"))
    fields = objects(preference.get("matchFields"))
    return list(preference) == ["matchFields"] and [f.get("key") for f in fields] == [
        "metadata.name"
    ]
