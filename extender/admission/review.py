"""AdmissionReview in, AdmissionReview out: no HTTP, no clock but the one given.

Two channels for errors: a broken *envelope* is a `BadReview`, a 4xx for the API server. Whatever is
wrong with the *pod* is a decision, and the pod is let through as it came.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import structlog

from extender.admission.replicas import Replicas, Template, strip
from extender.core.decide import decide
from extender.core.decision import Decision
from extender.core.pod import Pod, annotation_of, display_name, mapping, metadata, text
from extender.core.policy import Inject, Policy
from extender.core.reason import Action, Reason
from extender.core.render import annotation, audit_annotations, audit_fields, differs, warning
from extender.core.restore import restore, was_rewritten
from extender.core.rewrite import (
    DECISION_ANNOTATION,
    REWRITTEN_LABEL,
    Patch,
    apply,
)
from extender.core.snapshot import Snapshot

log = structlog.get_logger(__name__)

API_VERSION = "admission.k8s.io/v1"
MOST_VALUES = 700_000
"""In a body. The fullest pod that the API server takes, twice over in an update, holds fewer; and JSON
that is all brackets takes thirty times its size when it is read."""


class BadReview(ValueError):  # noqa: N818  it is an answer, not a failure
    """The body is no AdmissionReview we can answer; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """An answered review."""

    answer: bytes
    decision: Decision
    dry_run: bool
    user: str
    age_s: float
    """Of the snapshot it was decided on."""
    duration_s: float

    def audit(self) -> Mapping[str, Any]:
        """Fields of the audit line, without its time."""
        return audit_fields(
            self.decision,
            dry_run=self.dry_run,
            user=self.user,
            age_s=self.age_s,
            duration_s=self.duration_s,
        )


@dataclass(frozen=True, slots=True)
class Reviewer:
    """Answers reviews on the state of the cluster as it is at the moment of asking.

    Args:
        snapshot: the cluster now.
        policy: the configuration in force now.
        reserve: told of every decision that will be stored (not of dry runs).
        clock: seconds, monotonic.
    """

    snapshot: Callable[[], Snapshot]
    policy: Callable[[], Policy]
    reserve: Callable[[Decision], None]
    clock: Callable[[], float]
    replicas: Replicas = field(default_factory=Replicas)
    """What was read of pods like the next one."""

    def review(self, body: bytes) -> Reviewed:
        """Answer one AdmissionReview.

        Raises:
            BadReview: the envelope is broken.
        """
        begun_s = self.clock()
        request = _request(body)
        uid = request["uid"]
        pod = request["object"]
        snapshot, policy = self.snapshot(), self.policy()
        namespace = text(request.get("namespace"))
        dry_run = request.get("dryRun") is True
        patch: Patch
        try:
            if request["operation"] == "UPDATE":
                before = mapping(request.get("oldObject"))
                decision, patch = restore(pod, before, policy, namespace=namespace, request_id=uid)
                apply(patch, pod)
                rendered, promised = annotation(decision), False
            else:
                strip(pod)
                template = self.replicas.template(pod, namespace, policy)
                decision = decide(
                    pod,
                    snapshot,
                    policy,
                    namespace=namespace,
                    request_id=uid,
                    reading=template.read,
                )
                rendered = annotation(decision)
                # A pod told before comes again, and is reserved for already.
                promised = differs(decision, annotation_of(pod, DECISION_ANNOTATION))
                told = rendered if promised else None
                patch = _patch(template, decision, pod, snapshot, policy.inject, told)
        except Exception as error:  # whatever a pod brings up, the pod is let through
            log.exception("decision failed", id=uid, namespace=namespace, pod=display_name(pod))
            decision, patch = _failed(error, pod, namespace, uid, policy), []
            rendered, promised = annotation(decision), False
        if promised and not dry_run:
            self.reserve(decision)
        return Reviewed(
            answer=_answer(uid, decision, patch, rendered),
            decision=decision,
            dry_run=dry_run,
            user=text(mapping(request.get("userInfo")).get("username")),
            age_s=snapshot.age_s,
            duration_s=self.clock() - begun_s,
        )


def _request(body: bytes) -> dict[str, Any]:
    """The request of an AdmissionReview, checked as far as an answer depends on it."""
    review = _json(body)
    if not isinstance(review, dict) or review.get("kind") != "AdmissionReview":
        raise BadReview("body is not an AdmissionReview; this is a mutating admission webhook")
    if review.get("apiVersion") != API_VERSION:
        raise BadReview(f"only AdmissionReview of {API_VERSION} is served")
    request = review.get("request")
    if not isinstance(request, dict):
        raise BadReview("AdmissionReview has no request")
    if not isinstance(request.get("uid"), str) or not request["uid"]:
        raise BadReview("request has no uid")
    kind = mapping(request.get("kind"))
    if (kind.get("group", ""), kind.get("kind")) != ("", "Pod") or request.get("subResource"):
        raise BadReview("request is not about a Pod; only Pods are served")
    operation = request.get("operation")
    if operation not in ("CREATE", "UPDATE"):
        raise BadReview("request is neither CREATE nor UPDATE; nothing else is served")
    if not isinstance(request.get("object"), dict):
        raise BadReview("request carries no object")
    if operation == "UPDATE" and not was_rewritten(mapping(request.get("oldObject"))):
        raise BadReview(f"oldObject is no pod with {REWRITTEN_LABEL}; no other UPDATE is served")
    return request


def _json(body: bytes) -> Any:
    if len(body) > MOST_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise BadReview(f"body holds more than {MOST_VALUES} values; no review of a pod does")
    try:
        return orjson.loads(body)  # refuses more than 1,024 levels of nesting
    except orjson.JSONDecodeError as error:
        raise BadReview(f"body is not JSON: {error}") from None


def _patch(
    template: Template,
    decision: Decision,
    pod: Pod,
    snapshot: Snapshot,
    inject: Inject,
    told: str | None,
) -> Patch:
    """The patch of a new pod; `told` is the annotation it gets."""
    if inject.scheduler_name and not snapshot.scheduler_alive:
        inject = replace(inject, scheduler_name="")
    return template.patch(
        decision,
        pod,
        inject=inject,
        annotation=told,
        prefer=_preferred(decision, inject, snapshot),
    )


def _preferred(decision: Decision, inject: Inject, snapshot: Snapshot) -> list[str]:
    ranking = snapshot.ranking if inject.prefer_used_nodes else None
    if ranking is None or decision.action is not Action.REWRITTEN:
        return []
    return ranking.best_used(decision.claims, decision.nodes)


def _failed(error: Exception, pod: Any, namespace: str, uid: str, policy: Policy) -> Decision:
    return Decision(
        action=Action.LEFT,
        reason=Reason.INTERNAL_ERROR,
        message=f"the decision failed with {type(error).__name__}; see the log",
        id=uid,
        namespace=namespace or text(metadata(pod).get("namespace")),
        pod=display_name(pod),
        mode=policy.mode,
        config_revision=policy.revision,
    )


def _answer(uid: str, decision: Decision, patch: Patch, rendered: str) -> bytes:
    response: dict[str, Any] = {
        "uid": uid,
        "allowed": decision.action is not Action.DENIED,
        "auditAnnotations": audit_annotations(rendered),
    }
    if decision.action is Action.DENIED:
        response["status"] = {"code": 403, "reason": "Forbidden", "message": decision.message}
    if patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(orjson.dumps(patch)).decode()
    if (line := warning(decision)) is not None:
        response["warnings"] = [line]
    return orjson.dumps(
        {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}
    )
