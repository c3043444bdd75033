"""A pod under decision, read once: its GPU containers, the admin's rule for it, its mode."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from extender.core import pod as podlib
from extender.core.pod import Ask, Container, Pod, Workload
from extender.core.policy import Globs, Match, Mode, Policy, Rule
from extender.core.quota import Namespace, Scope, scope_of

MODE_LABEL = "migfit.io/mode"
MODE_WISHES = frozenset({"", "ignore", "dry-run", "enforce"})
"""What the label may say; empty is as if it were not there."""


class Subject(NamedTuple):
    """What the steps of a decision need of a pod."""

    name: str
    """Or generateName, as long as that is all there is."""
    namespace: str
    home: Namespace
    """What is known of the namespace."""
    labels: Mapping[str, Any]
    annotations: Mapping[str, Any]
    spec: Mapping[str, Any]
    containers: list[Container]
    gpu: list[Container]
    """Containers that ask for at least one unit of the GPU resource."""
    workload: Workload
    rule: Rule | None
    mode: Mode
    """The admin's mode for this pod, lowered to DryRun if pod or namespace ask for it."""
    ignored: bool
    """Pod or namespace opted out."""
    scope: Scope
    """How quotas see the pod."""
    priority: int
    plain: Ask
    """What the pod asks of its node beside GPUs."""


def subject_of(pod: Pod, namespace: str, home: Namespace, policy: Policy) -> Subject:
    """Read a pod for decision."""
    held = podlib.containers(pod)
    gpu = [c for c in held if c.count(policy.gpu_resource) > 0]
    labels = podlib.labels(pod)
    workload = podlib.workload(pod)
    rule = None
    for each in policy.rules:
        if _matches(each.match, namespace, labels, gpu or held, workload):
            rule = each
            break
    wishes = {labels.get(MODE_LABEL), home.labels.get(MODE_LABEL)}
    mode = rule.mode if rule is not None and rule.mode is not None else policy.mode
    if mode is Mode.ENFORCE and "dry-run" in wishes:
        mode = Mode.DRY_RUN
    return Subject(
        name=podlib.display_name(pod),
        namespace=namespace,
        home=home,
        labels=labels,
        annotations=podlib.annotations(pod),
        spec=podlib.spec(pod),
        containers=held,
        gpu=gpu,
        workload=workload,
        rule=rule,
        mode=mode,
        ignored="ignore" in wishes,
        scope=scope_of(pod, held),
        priority=podlib.priority(pod),
        plain=podlib.plain_ask(pod, held, policy.gpu_resource),
    )


def _matches(
    match: Match,
    namespace: str,
    labels: Mapping[str, Any],
    held: list[Container],
    workload: Workload,
) -> bool:
    return (
        (not match.namespaces or match.namespaces.match(namespace))
        and (not match.kinds or workload.kind in match.kinds)
        and all(labels.get(key) == value for key, value in match.labels)
        and (not match.images or any(image_matches(match.images, c) for c in held))
    )


def image_matches(globs: Globs, container: Container) -> bool:
    """Whether a container's image matches, as written or without tag and digest."""
    image = podlib.text(container.raw.get("image"))
    return globs.match(image) or globs.match(bare_image(image))


def bare_image(image: str) -> str:
    """An image reference without digest and tag; a registry's port is kept."""
    name = image.partition("@")[0]
    path, slash, last = name.rpartition("/")
    return f"{path}{slash}{last.partition(':')[0]}"
