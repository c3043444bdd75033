"""The renderings of a decision, one function each; all tell the same reason.

The patch is in `rewrite`, because it also depends on the pod.
"""

import json
from collections.abc import Mapping
from typing import Any

from extender.core.catalogue import is_mig_resource
from extender.core.decision import Change, Decision
from extender.core.pod import mapping, objects, text
from extender.core.quantity import format_mib
from extender.core.reason import Action, Reason

WARNING_CHARACTERS = 120
"""What the API conventions advise for one warning; longer ones are cut."""

_TAIL = 50
"""Of a warning that is cut, what is kept of its end: the value to write, or the way out."""

WARNED = frozenset(
    {
        Reason.BAD_ANNOTATION,
        Reason.UNKNOWN_MODEL,
        Reason.PROFILE_TOO_SMALL,
        Reason.FRACTION_OF_CARD,
        Reason.NEEDS_ENGINES,
        Reason.MIXED_REQUESTS,
    }
)
"""Reasons for leaving a pod that its author can and may want to mend."""


def _mib(value: int | None) -> str | None:
    return None if value is None else format_mib(value)


def _container(change: Change) -> dict[str, Any]:
    return {
        "name": change.name,
        "from": change.resource,
        "to": change.to,
        "footprint": None if change.footprint_bytes is None else str(change.footprint_bytes),
        "footprintSource": change.footprint_source,
    }


def annotation_fields(decision: Decision) -> dict[str, Any]:
    """What the pod itself tells of its decision."""
    fields: dict[str, Any] = {
        "id": decision.id,
        "action": str(decision.action),
        "reason": str(decision.reason),
    }
    if decision.would_be is not None:
        fields["wouldBe"] = str(decision.would_be)
    if decision.need_mib is not None:
        fields["need"] = format_mib(decision.need_mib)
    fields["containers"] = [
        {key: value for key, value in _container(change).items() if value is not None}
        for change in decision.changes
    ]
    fields["configRevision"] = decision.config_revision
    return fields


_compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def annotation(decision: Decision) -> str:
    """`migfit.io/decision`: compact JSON."""
    return _compact.encode(annotation_fields(decision))


def _claimed(existing: str) -> Mapping[str, Any]:
    """What an annotation found on a pod says; empty if it is none of ours."""
    try:
        return mapping(json.loads(existing))
    except (ValueError, RecursionError):
        return {}


def differs(decision: Decision, existing: str | None) -> bool:
    """Whether an annotation found on the pod says anything else than ours would, ids apart."""
    if existing is None:
        return True
    return {**_claimed(existing), "id": ""} != {**annotation_fields(decision), "id": ""}


def decision_id(existing: str) -> str:
    """The id an annotation found on a pod claims; empty if it claims none."""
    return text(_claimed(existing).get("id"))


def rewritten_containers(existing: str) -> dict[str, str]:
    """Container -> MIG resource, as an annotation found on a pod claims; nothing of it is trusted."""
    found = _claimed(existing)
    if found.get("action") != Action.REWRITTEN:
        return {}
    return {
        text(container.get("name")): resource
        for container in objects(found.get("containers"))
        if is_mig_resource(resource := text(container.get("to")))
    }


def _kept(decision: Decision) -> bool:
    """Whether a pod was left with the slice that it has."""
    return any(change.to is not None for change in decision.changes)


def warning(decision: Decision) -> str | None:
    """One line for `kubectl`, for what its reader would want to know; None for the rest."""
    if decision.action is Action.REWRITTEN:
        line = (
            f"migfit: {decision.reason}: {decision.message}; "
            "to keep a whole GPU: label migfit.io/mode=ignore"
        )
    elif decision.action is Action.DENIED or decision.would_be is not None or _kept(decision):
        line = f"migfit: {decision.reason}: {decision.message}"
    elif decision.reason in WARNED:
        line = f"migfit: {decision.reason}, left as is: {decision.message}"
    else:
        return None
    if not line.isprintable():
        line = "".join(c if c.isprintable() else " " for c in line)
    if len(line) > WARNING_CHARACTERS:
        line = f"{line[: WARNING_CHARACTERS - 1 - _TAIL]}…{line[-_TAIL:]}"
    return line


def audit_annotations(rendered: str) -> dict[str, str]:
    """The annotation for the API server's audit log, which prefixes keys with the webhook's name."""
    return {"decision": rendered}


def audit_fields(
    decision: Decision, *, dry_run: bool, user: str, age_s: float, duration_s: float
) -> dict[str, Any]:
    """The audit line of one review, without its time.

    Args:
        decision: what was decided.
        dry_run: the request's own `dryRun`; nothing was stored.
        user: who asked.
        age_s: age of the snapshot it was decided on.
        duration_s: from request to answer.
    """
    return {
        "event": "admission",
        "id": decision.id,
        "dryRun": dry_run,
        "namespace": decision.namespace,
        "pod": decision.pod,
        "workload": {"kind": decision.workload.kind, "name": decision.workload.name},
        "user": user,
        "action": str(decision.action),
        "reason": str(decision.reason),
        "wouldBe": None if decision.would_be is None else str(decision.would_be),
        "message": decision.message,
        "mode": str(decision.mode),
        "containers": [_container(change) for change in decision.changes],
        "need": _mib(decision.need_mib),
        "usable": _mib(decision.usable_mib),
        "profile": decision.profile,
        "candidates": [
            {
                "resource": candidate.resource,
                "usable": _mib(candidate.usable_mib),
                "free": candidate.free,
                "verdict": str(candidate.verdict),
            }
            for candidate in decision.candidates
        ],
        "configRevision": decision.config_revision,
        "snapshotAge": round(age_s, 3),
        "durationMs": round(duration_s * 1000, 3),
    }


def metric_labels(decision: Decision) -> Mapping[str, str]:
    """Labels of bounded cardinality."""
    return {
        "action": str(decision.action),
        "reason": str(decision.reason),
        "profile": decision.profile or "",
    }
