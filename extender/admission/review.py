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

from extender.admission.envelope import API_VERSION, read_json, read_request
from extender.admission.replicas import Replicas, Template
from extender.core.decide import decide
from extender.core.decision import Decision
from extender.core.pod import Pod, annotation_of, display_name, metadata, text
from extender.core.policy import Inject, Policy
from extender.core.reason import Action, Reason
from extender.core.render import annotation, audit_annotations, audit_fields, differs, warning
from extender.core.restore import restore
from extender.core.rewrite import DECISION_ANNOTATION, Patch, apply
from extender.core.snapshot import Snapshot

log = structlog.get_logger(__name__)


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
        request = read_request(body)
        uid, namespace, before = request.uid, request.namespace, request.before
        snapshot, policy = self.snapshot(), self.policy()
        if before is None:
            template = self.replicas.template(request.pod, namespace, policy)
        else:
            template = Template(read_json(request.pod))
        pod = template.pod
        patch: Patch
        try:
            if before is not None:
                decision, patch = restore(pod, before, policy, namespace=namespace, request_id=uid)
                apply(patch, pod)
                rendered, promised = annotation(decision), False
            else:
                decision = decide(
                    pod, snapshot, policy, namespace=namespace, request_id=uid, memory=template
                )
                rendered = annotation(decision)
                # A pod told before comes again, and is reserved for already.
                promised = differs(decision, annotation_of(pod, DECISION_ANNOTATION))
                told = rendered if promised else None
                patch = _patch(template, decision, snapshot, policy.inject, told)
        except Exception as error:  # whatever a pod brings up, the pod is let through
            log.exception("decision failed", id=uid, namespace=namespace, pod=display_name(pod))
            decision, patch = _failed(error, pod, namespace, uid, policy), []
            rendered, promised = annotation(decision), False
        if promised and not request.dry_run:
            self.reserve(decision)
        return Reviewed(
            answer=_answer(uid, decision, patch, rendered),
            decision=decision,
            dry_run=request.dry_run,
            user=request.user,
            age_s=snapshot.age_s,
            duration_s=self.clock() - begun_s,
        )


def _patch(
    template: Template,
    decision: Decision,
    snapshot: Snapshot,
    inject: Inject,
    told: str | None,
) -> Patch:
    """The patch of a new pod; `told` is the annotation it gets."""
    if inject.scheduler_name and not snapshot.scheduler_alive:
        inject = replace(inject, scheduler_name="")
    return template.patch(
        decision,
        inject=inject,
        annotation=told,
        prefer=_preferred(decision, inject, snapshot),
    )


def _preferred(decision: Decision, inject: Inject, snapshot: Snapshot) -> list[str]:
    ranking = snapshot.ranking if inject.prefer_used_nodes else None
    if ranking is None or decision.action is not Action.REWRITTEN:
        return []
    return ranking.best_used(decision.claims, decision.nodes)


def _failed(error: Exception, pod: Pod, namespace: str, uid: str, policy: Policy) -> Decision:
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
