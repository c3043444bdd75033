"""migfit itself: its configuration, its releases, the clock, and pods that passed it by."""

import re
from collections.abc import Iterator

from extender.core.capacity import Capacity
from extender.core.doctor.evidence import JSON, Evidence, name_of, namespace_of
from extender.core.doctor.finding import Finding, Id
from extender.core.doctor.nodes import seconds
from extender.core.doctor.webhook import operations_of, selects
from extender.core.eligible import not_ours
from extender.core.pod import (
    annotations,
    containers,
    labels,
    mapping,
    metadata,
    objects,
    spec,
    text,
)
from extender.core.policy import Mode, Policy
from extender.core.quota import Namespace
from extender.core.rewrite import DECISION_ANNOTATION
from extender.core.snapshot import Snapshot
from extender.core.subject import subject_of

OLDEST = (1, 30)
"""From this release of Kubernetes on, matchConditions of webhooks are GA."""
SKEW_S = 10.0
"""The Date header counts whole seconds, and an answer takes its time."""
SETTLING_S = 5.0
"""A webhook configuration is not seen by every API server at once."""

_RELEASE = re.compile(r"v?(\d{1,6})\.(\d{1,6})")
_ENDED = frozenset({"Failed", "Succeeded"})


def check(evidence: Evidence) -> Iterator[Finding]:
    """All of that."""
    yield from _config(evidence)
    yield from _versions(evidence)
    if abs(evidence.skew_s) > SKEW_S:
        word = "ahead of" if evidence.skew_s > 0 else "behind"
        what = f"This machine's clock is {abs(evidence.skew_s):.0f} s {word} the API server's."
        yield Finding(Id.CLOCK_SKEWED, ("clock",), what)
    yield from _undecided(evidence)


def _config(evidence: Evidence) -> Iterator[Finding]:
    if not evidence.knows("configuration"):
        return
    if evidence.config is None:
        what = "There is no ConfigMap migfit-config with a key config.yaml."
        yield Finding(Id.CONFIG_MISSING, (f"namespace {evidence.namespace}",), what)
        return
    about = (evidence.config,)
    for problem in evidence.problems:
        yield Finding(Id.CONFIG_REFUSED, about, f"{problem}.")
    mode = evidence.policy.mode if evidence.policy is not None else Mode.ENFORCE
    if mode is Mode.DRY_RUN:
        yield Finding(Id.MODE_DRY_RUN, about, "The mode is DryRun.")
    elif mode is Mode.DISABLED:
        yield Finding(Id.MODE_DISABLED, about, "The mode is Disabled.")


def _versions(evidence: Evidence) -> Iterator[Finding]:
    release = _RELEASE.match(evidence.kubernetes)
    if release is not None and (int(release[1]), int(release[2])) < OLDEST:
        what = f"The API server is {evidence.kubernetes:.40}."
        yield Finding(Id.KUBERNETES_TOO_OLD, ("API server",), what)
    images: dict[str, list[str]] = {}
    for pod in evidence.pods:
        if namespace_of(pod) != evidence.namespace or _ended(pod):
            continue
        if labels(pod).get("app.kubernetes.io/name") == "migfit":
            for image in _our_images(pod):
                images.setdefault(image, []).append(f"pod {evidence.namespace}/{name_of(pod)}")
    if len(images) > 1:
        what = f"They run {', '.join(sorted(images))}."
        names = {name for listed in images.values() for name in listed}
        yield Finding(Id.VERSIONS_UNEQUAL, tuple(sorted(names)), what)


def _our_images(pod: JSON) -> set[str]:
    """Of the containers that run migfit: beside one a kube-scheduler may run."""
    return {
        text(container.raw.get("image"))
        for container in containers(pod)
        if isinstance(args := container.raw.get("args"), list)
        and {"serve", "agent"} & set(map(str, args))
    }


def _undecided(evidence: Evidence) -> Iterator[Finding]:
    """Pods that pass step 1 and carry no decision, of those made since the webhook was registered.

    That is what the reconciler calls Missed, judged by the configuration of now.
    """
    policy, webhook = evidence.policy, evidence.webhook
    if policy is None or webhook is None or not evidence.knows("pods", "namespaces"):
        return
    installed_s = seconds(text(metadata(webhook).get("creationTimestamp")))
    homes = {name_of(item): Namespace(labels=labels(item)) for item in evidence.namespaces}
    snapshot = Snapshot(capacity=Capacity())
    selectors = [
        mapping(entry.get("namespaceSelector"))
        for entry in objects(webhook.get("webhooks"))
        if "CREATE" in operations_of(entry)
    ]
    sent = {
        name
        for name, has in ((name_of(item), labels(item)) for item in evidence.namespaces)
        if any(selects(selector, has) for selector in selectors)
    }
    found = [
        f"pod {namespace_of(pod)}/{name_of(pod)}"
        for pod in evidence.pods
        if namespace_of(pod) in sent
        and _made_after(pod, installed_s)
        and _missed(pod, homes.get(namespace_of(pod), Namespace()), snapshot, policy)
    ]
    if found:
        what = f"Without a decision: {len(found)}."
        yield Finding(Id.PODS_UNDECIDED, tuple(sorted(found)), what)


def _made_after(pod: JSON, installed_s: float | None) -> bool:
    made_s = seconds(text(metadata(pod).get("creationTimestamp")))
    return made_s is not None and installed_s is not None and made_s > installed_s + SETTLING_S


def _missed(pod: JSON, home: Namespace, snapshot: Snapshot, policy: Policy) -> bool:
    if _ended(pod) or DECISION_ANNOTATION in annotations(pod):
        return False
    unbound = {**pod, "spec": {**spec(pod), "nodeName": ""}}  # it was not when it was made
    subject = subject_of(unbound, namespace_of(pod), home, policy)
    return not_ours(subject, snapshot, policy) is None


def _ended(pod: JSON) -> bool:
    return text(mapping(pod.get("status")).get("phase")) in _ENDED
