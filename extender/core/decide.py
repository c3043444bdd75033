"""The decision function: the webhook, `explain`, the demo and every report call this one."""

from collections.abc import Mapping
from dataclasses import replace

from extender.core import pod as podlib
from extender.core.decision import Change, Decision
from extender.core.eligible import not_now
from extender.core.fit import Chosen, fit
from extender.core.footprint import Footprint, Undeclared, footprints
from extender.core.memory import Afresh, Memory
from extender.core.pod import Pod
from extender.core.policy import Mode, Policy, QuotaRule
from extender.core.quantity import format_mib
from extender.core.quota import Namespace, excess, excess_as_gpus
from extender.core.reading import Reading
from extender.core.reason import STEP_ONE, Action, Reason
from extender.core.render import decision_id, rewritten_containers
from extender.core.rewrite import DECISION_ANNOTATION
from extender.core.shortlist import Choice, changes
from extender.core.snapshot import Snapshot
from extender.core.subject import Subject

_UNKNOWN = Namespace()
_AFRESH = Afresh()


def decide(
    pod: Pod,
    snapshot: Snapshot,
    policy: Policy,
    *,
    namespace: str = "",
    request_id: str = "",
    memory: Memory = _AFRESH,
) -> Decision:
    """Decide on one pod about to be created. Pure, and total over any JSON object.

    Args:
        pod: the Pod, after API defaulting.
        snapshot: the cluster as known now.
        policy: the configuration in force.
        namespace: the request's namespace; else the pod's own, else `default`.
        request_id: uid of the AdmissionReview; ties log line, annotation and reservation together.
        memory: what is known of pods like this one.
    """
    namespace = namespace or podlib.text(podlib.metadata(pod).get("namespace")) or "default"
    snapshot = _without_itself(snapshot, pod, namespace)
    home = snapshot.namespaces.get(namespace, _UNKNOWN)
    known = memory.read(pod, namespace, home, policy)
    subject = known.subject
    decision = _stray(subject, policy, request_id) or _within_quota(
        _steps(known, memory, snapshot, policy, request_id), subject, policy
    )
    if decision.action is not Action.LEFT and subject.mode is Mode.DRY_RUN:
        decision = replace(
            decision,
            action=Action.LEFT,
            reason=Reason.DRY_RUN,
            would_be=decision.action,
            message=f"would be {decision.action}: {decision.message}",
            claims=_as_it_came(subject, policy),
        )
    if decision.action is Action.LEFT and decision.claims:
        return replace(decision, nodes=snapshot.capacity.index.reach(subject.spec))
    return decision


def _without_itself(snapshot: Snapshot, pod: Pod, namespace: str) -> Snapshot:
    """The cluster without what was promised to this very pod, when it comes a second time."""
    mark = podlib.annotation_of(pod, DECISION_ANNOTATION)
    earlier = snapshot.in_flight.get(decision_id(mark)) if mark is not None else None
    if earlier is None or earlier.namespace != namespace:
        return snapshot
    home = snapshot.namespaces.get(namespace, _UNKNOWN)
    home = replace(home, tally=home.tally.without(earlier.share, earlier.claims))
    reservations = snapshot.reservations.copy()
    reservations.add(earlier.claims, earlier.nodes, -1)
    namespaces = {**snapshot.namespaces, namespace: home}
    return replace(snapshot, namespaces=namespaces, reservations=reservations)


def _within_quota(decision: Decision, subject: Subject, policy: Policy) -> Decision:
    """A slice of ours still counts as the GPU it stands for (`quota: CountAsGpu`)."""
    if policy.quota is QuotaRule.IGNORE or not subject.home.quotas or decision.reason in STEP_ONE:
        return decision
    resource = policy.gpu_resource
    asked = _as_it_came(subject, policy)
    plain = excess(subject.home, subject.scope, asked)
    if plain is not None:  # quota admission will refuse the pod by itself
        if decision.action is Action.LEFT:
            return decision
        return _not_rewritten(decision, Reason.QUOTA, str(plain), asked)
    counted = excess_as_gpus(subject.home, subject.scope, resource, asked[resource])
    if counted is None:
        return decision
    denied = _not_rewritten(decision, Reason.QUOTA, str(counted), {})
    return replace(denied, action=Action.DENIED)


def _not_rewritten(
    decision: Decision, reason: Reason, message: str, claims: Mapping[str, int]
) -> Decision:
    """The same pod, kept from being rewritten after all."""
    return replace(
        decision,
        action=Action.LEFT,
        reason=reason,
        message=message,
        changes=tuple(change._replace(to=None) for change in decision.changes),
        usable_mib=None,
        profile=None,
        claims=claims,
        nodes=0,
        guards=(),
    )


def _stray(subject: Subject, policy: Policy, request_id: str) -> Decision | None:
    """The GPU resource put back beside our MIG resource by a LimitRange or a later webhook.

    Only in containers that our own decision on the pod names, and only while the MIG resource is
    still there: then the old key is taken out again and nothing else is done.
    """
    mark = subject.annotations.get(DECISION_ANNOTATION)
    if not subject.gpu or mark is None:
        return None
    rewritten = rewritten_containers(mark)
    stray = [c for c in subject.gpu if c.count(rewritten.get(c.name, "")) == 1]
    if not stray:
        return None
    return replace(
        _left(
            subject,
            policy,
            request_id,
            Reason.ALREADY_MIG,
            f"{policy.gpu_resource} came back beside our slice and was removed again",
        ),
        stray=tuple(c.pointer for c in stray),
    )


def _steps(
    known: Reading, memory: Memory, snapshot: Snapshot, policy: Policy, request_id: str
) -> Decision:
    subject = known.subject
    refusal = known.never or not_now(subject, snapshot, policy) or known.unfit
    if refusal is not None:
        return _left(subject, policy, request_id, *refusal)
    declared = known.declared
    if policy.observed_raise and (observed := snapshot.observed.of(_workload(subject))):
        declared = footprints(subject, policy, observed)
    if isinstance(declared, Undeclared):
        return _left(subject, policy, request_id, declared.reason, declared.message)
    shortlist = memory.shortlist(subject, declared, snapshot, policy)
    outcome = fit(subject, shortlist, snapshot, policy)
    if isinstance(outcome, Chosen):
        return _rewritten(subject, policy, request_id, outcome)
    return replace(
        _left(subject, policy, request_id, outcome.reason, outcome.message),
        changes=changes(declared, policy, [None] * len(declared)),
        need_mib=_largest_need(declared),
        candidates=outcome.candidates,
    )


def _workload(subject: Subject) -> str:
    return f"{subject.namespace}/{subject.workload}"


def _left(
    subject: Subject, policy: Policy, request_id: str, reason: Reason, message: str
) -> Decision:
    return Decision(
        action=Action.LEFT,
        reason=reason,
        message=message,
        id=request_id,
        namespace=subject.namespace,
        pod=subject.name,
        workload=subject.workload,
        mode=subject.mode,
        changes=tuple(Change(c.name, c.pointer, policy.gpu_resource) for c in subject.gpu),
        claims={} if reason in STEP_ONE else _as_it_came(subject, policy),
        scope=subject.scope,
        config_revision=policy.revision,
    )


def _rewritten(subject: Subject, policy: Policy, request_id: str, chosen: Chosen) -> Decision:
    choice = chosen.choice
    return Decision(
        action=Action.REWRITTEN,
        reason=chosen.reason,
        message=_how(chosen.reason, choice),
        id=request_id,
        namespace=subject.namespace,
        pod=subject.name,
        workload=subject.workload,
        mode=subject.mode,
        changes=choice.changes,
        need_mib=choice.need_mib,
        usable_mib=choice.pick.usable_mib,
        profile=choice.pick.profile,
        candidates=chosen.candidates,
        claims=choice.claims,
        nodes=choice.nodes,
        scope=subject.scope,
        guards=choice.guards,
        config_revision=policy.revision,
    )


def _how(reason: Reason, choice: Choice) -> str:
    names = ", ".join([name.removeprefix("nvidia.com/") for name in choice.claims])
    needs = "as asked for" if choice.need_mib is None else f"need {format_mib(choice.need_mib)}"
    usable_mib = choice.pick.usable_mib
    usable = "" if usable_mib is None else f", {format_mib(usable_mib)} usable"
    if reason is Reason.FITS_LARGER:
        return f"{needs} takes the larger {names}{usable}: smaller ones are full"
    if reason is Reason.FITS_CONSOLIDATED:
        return f"{needs} takes the larger {names}{usable} rather than open an idle GPU"
    if reason is Reason.WAITS:
        return f"{needs} waits for {names}{usable}: none is free"
    return f"{needs} fits {names}{usable}"


def _largest_need(declared: tuple[Footprint, ...]) -> int | None:
    return max((f.want.need_mib for f in declared if f.want.need_mib is not None), default=None)


def _as_it_came(subject: Subject, policy: Policy) -> Mapping[str, int]:
    return {policy.gpu_resource: podlib.extended_ask(subject.containers, policy.gpu_resource)}
