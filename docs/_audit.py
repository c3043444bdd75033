"""JSON Schema of the audit line, with every closed list taken from the code."""  # noqa: INP001  pages, no package

from typing import Any

from extender.core.decision import Verdict
from extender.core.finding import REASONS, Cause, Found
from extender.core.policy import Mode
from extender.core.reason import Action, Reason

SCHEMA_ID = "https://migfit.io/schemas/audit-v1alpha1.json"

JSONSchema = dict[str, Any]

_MIB = {"type": ["string", "null"], "pattern": "^[0-9]+Mi$"}
_RESOURCE = {"type": "string", "pattern": "^[^/]+/[^/]+$"}
_MIG_RESOURCE = {"type": "string", "pattern": r"^nvidia\.com/mig-"}
_REWRITTEN = (Reason.FITS, Reason.FITS_LARGER, Reason.FITS_CONSOLIDATED, Reason.WAITS)


def audit_schema() -> JSONSchema:
    """The schema (draft 2020-12) of one line on stdout of `migfit serve`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "Audit line",
        "description": "One line per review, and one for each thing found of pods afterwards, on "
        "stdout. Unknown figures are null, never left out.",
        "oneOf": [_review(), _finding()],
    }


def _review() -> JSONSchema:
    return {
        **_object(
            "A review: a pod was decided on.",
            time=_text("When the answer was ready, UTC.", format="date-time"),
            event={"const": "admission", "description": "What the line is about: one review."},
            id=_text("uid of the AdmissionReview; the annotation on the pod carries the same."),
            dryRun={"type": "boolean", "description": "The request was only tried, not stored."},
            namespace=_text("Of the pod."),
            pod=_text("name, or generateName while the API server has not made a name of it."),
            workload=_workload(),
            user=_text("Who asked for the pod: mostly the service account of a controller."),
            action=_one_of(Action, "What became of the pod."),
            reason=_one_of(Reason, "Why: see reasons.md."),
            wouldBe={
                "enum": [None, str(Action.REWRITTEN), str(Action.DENIED)],
                "description": "With reason DryRun: what the pod was spared.",
            },
            message=_text("The reason with the figures of this pod, one line."),
            mode=_one_of(Mode, "The mode that was in force for this pod."),
            containers=_list("The GPU containers.", _container()),
            need={**_MIB, "description": "The largest need of a container, headroom included."},
            usable={**_MIB, "description": "Usable memory of the profile chosen for it."},
            profile={
                "type": ["string", "null"],
                "description": "The profile chosen, as NVML spells it; of several the largest.",
            },
            candidates=_list("The MIG resources in reach, and what came of each.", _candidate()),
            configRevision=_revision(),
            snapshotAge=_number("Seconds since the watch that is silent longest was heard of."),
            durationMs=_number("From request to answer, milliseconds."),
        ),
        "allOf": [
            _when("reason", _REWRITTEN, {"action": {"const": str(Action.REWRITTEN)}}),
            _when(
                "action",
                (Action.REWRITTEN,),
                {"reason": {"enum": [str(reason) for reason in _REWRITTEN]}},
            ),
            _when("action", (Action.DENIED,), {"reason": {"const": str(Reason.QUOTA)}}),
            {
                "if": {"properties": {"reason": {"const": str(Reason.DRY_RUN)}}},
                "then": {"properties": {"wouldBe": {"type": "string"}}},
                "else": {"properties": {"wouldBe": {"type": "null"}}},
            },
        ],
    }


def _finding() -> JSONSchema:
    """Of the replica that reconciles."""
    held = str(Found.HELD)
    return {
        **_object(
            "What was found of a pod after it was created.",
            time=_text("When it was found, UTC.", format="date-time"),
            event=_one_of(
                Found,
                "missed: nobody decided on the pod. unmet: it waits, since no slice is free. "
                "held: its workload is held back.",
            ),
            namespace=_text("Of the pod."),
            pod=_text("Its name."),
            workload=_workload(),
            reason={
                "enum": [str(REASONS[found]) for found in Found],
                "description": "Missed, Waits or BackedOff, as `event` says: see reasons.md.",
            },
            message=_text("What was found, with the figures of this pod, one line."),
            cause={
                "enum": [None, *(str(cause) for cause in Cause)],
                "description": "Why a workload is held back; null for others.",
            },
            profiles=_list("The slices it asks for, as NVML spells them.", _text("A profile.")),
            until={
                "type": ["string", "null"],
                "format": "date-time",
                "description": "When a hold ends, UTC.",
            },
            deleted={
                "type": "boolean",
                "description": "The pod was deleted, so that it comes back whole.",
            },
            configRevision=_revision(),
        ),
        "allOf": [
            {
                "if": {"properties": {"event": {"const": held}}},
                "then": {"properties": {"cause": {"type": "string"}, "until": {"type": "string"}}},
                "else": {
                    "properties": {
                        "cause": {"type": "null"},
                        "until": {"type": "null"},
                        "deleted": {"const": False},
                    }
                },
            },
            *(
                _when("event", (found,), {"reason": {"const": str(reason)}})
                for found, reason in REASONS.items()
            ),
        ],
    }


def _workload() -> JSONSchema:
    return _object(
        "What a person deployed, as far as the pod tells.",
        kind=_text("Deployment, StatefulSet, CronJob … or Pod."),
        name=_text("Its name."),
    )


def _revision() -> JSONSchema:
    return _text(
        "Digest of the configuration in force; comments do not count.", pattern="^[0-9a-f]{12}$"
    )


def _container() -> JSONSchema:
    return _object(
        name=_text("Of the container."),
        **{"from": {**_RESOURCE, "description": "What it asked for: the GPU resource."}},
        to={
            "anyOf": [_MIG_RESOURCE, {"type": "null"}],
            "description": "The MIG resource it asks for now.",
        },
        footprint={
            "type": ["string", "null"],
            "pattern": "^[0-9]+$",
            "description": "GPU memory it needs, in bytes, without headroom.",
        },
        footprintSource={
            "type": ["string", "null"],
            "pattern": "^(annotation|whenUnknown|observed|(model|rule|image):.+)$",
            "description": "Who says so.",
        },
    )


def _candidate() -> JSONSchema:
    return _object(
        resource={**_MIG_RESOURCE, "description": "Name of the MIG resource."},
        usable={**_MIB, "description": "Least usable memory of a slice in reach; null: unknown."},
        free={
            "type": "integer",
            "minimum": 0,
            "description": "Free slices on the nodes in reach.",
        },
        verdict=_one_of(Verdict, "What came of it."),
    )


def _object(description: str = "", /, **properties: JSONSchema) -> JSONSchema:
    schema: JSONSchema = {
        "type": "object",
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }
    return {"description": description, **schema} if description else schema


def _list(description: str, items: JSONSchema) -> JSONSchema:
    return {"type": "array", "description": description, "items": items}


def _text(description: str, **more: str) -> JSONSchema:
    return {"type": "string", "description": description, **more}


def _number(description: str) -> JSONSchema:
    return {"type": "number", "minimum": 0, "description": description}


def _one_of(words: type[Action | Found | Mode | Reason | Verdict], description: str) -> JSONSchema:
    return {"enum": [str(word) for word in words], "description": description}


def _when(field: str, values: tuple[Action | Found | Reason, ...], then: JSONSchema) -> JSONSchema:
    chosen = {"properties": {field: {"enum": [str(value) for value in values]}}}
    return {"if": chosen, "then": {"properties": then}}
