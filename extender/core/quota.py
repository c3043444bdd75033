"""Step 8: what the namespace's ResourceQuotas and LimitRanges say to a slice, and to one more GPU.

Quota admission runs after us and sees the rewritten pod, so a rewrite would take a pod out of a quota
on the GPU resource. With `CountAsGpu` a slice of ours keeps counting as the GPU it stands for.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from extender.core.pod import Container, Pod, mapping, objects, spec, text
from extender.core.quantity import QuantityError, milli

REQUESTS = "requests."
"""Quotas name extended resources only as `requests.<name>`."""


class Scope(NamedTuple):
    """What a quota's scopes can ask of a pod (`pkg/quota/v1/evaluator/core/pods.go`)."""

    terminating: bool = False
    """`activeDeadlineSeconds` is set."""
    best_effort: bool = False
    priority_class: str = ""
    cross_namespace: bool = False
    """Some pod (anti-)affinity term names other namespaces."""


def scope_of(pod: Pod, held: Iterable[Container]) -> Scope:
    """The scope of a pod as it is about to be created."""
    body = spec(pod)
    return Scope(
        terminating=isinstance(body.get("activeDeadlineSeconds"), int),
        best_effort=best_effort(_asked(body, held)),
        priority_class=text(body.get("priorityClassName")),
        cross_namespace=cross_namespace(body.get("affinity")),
    )


def _asked(body: Pod, held: Iterable[Container]) -> Iterator[Mapping[str, Any]]:
    for container in held:
        yield container.requests
        yield container.limits
    pod_level = mapping(body.get("resources"))
    yield mapping(pod_level.get("limits"))
    yield mapping(pod_level.get("requests"))


def best_effort(asked: Iterable[Mapping[str, Any]]) -> bool:
    """Whether none of these limits and requests has cpu or memory; 0 is none (`GetPodQOS`)."""
    for each in asked:
        for name in ("cpu", "memory"):
            if name in each and _above_zero(each[name]):
                return False
    return True


def _above_zero(quantity: object) -> bool:
    try:
        return milli(quantity) > 0
    except QuantityError:
        return False


def cross_namespace(affinity: object) -> bool:
    """Whether an affinity has a pod term that names namespaces or selects them."""
    for kind in ("podAffinity", "podAntiAffinity"):
        of_kind = mapping(mapping(affinity).get(kind))
        if not of_kind:
            continue
        preferred = objects(of_kind.get("preferredDuringSchedulingIgnoredDuringExecution"))
        terms = [
            *objects(of_kind.get("requiredDuringSchedulingIgnoredDuringExecution")),
            *(mapping(weighted.get("podAffinityTerm")) for weighted in preferred),
        ]
        if any(t.get("namespaces") or t.get("namespaceSelector") is not None for t in terms):
            return True
    return False


@dataclass(frozen=True, slots=True)
class ScopeTest:
    """One entry of a quota's `scopes` or `scopeSelector`."""

    name: str
    operator: str = "Exists"
    values: tuple[str, ...] = ()

    def passes(self, scope: Scope) -> bool:
        """Whether a pod falls under the scope; an unknown scope matches nothing."""
        match self.name:
            case "Terminating":
                return scope.terminating
            case "NotTerminating":
                return not scope.terminating
            case "BestEffort":
                return scope.best_effort
            case "NotBestEffort":
                return not scope.best_effort
            case "CrossNamespacePodAffinity":
                return scope.cross_namespace
            case "PriorityClass":
                return self._selects(scope.priority_class)
            case _:
                return False

    def _selects(self, priority_class: str) -> bool:
        match self.operator:
            case "In":
                return priority_class in self.values
            case "NotIn":
                return priority_class not in self.values
            case "DoesNotExist":
                return not priority_class
            case _:
                return bool(priority_class)


@dataclass(frozen=True, slots=True)
class Quota:
    """A ResourceQuota, as far as it limits GPU and MIG resources."""

    name: str
    hard: Mapping[str, int]
    """GPU or MIG resource -> how many the namespace may have."""
    scopes: tuple[ScopeTest, ...] = ()

    def covers(self, scope: Scope) -> bool:
        """Whether the quota counts such a pod."""
        return all(test.passes(scope) for test in self.scopes)


@dataclass(frozen=True, slots=True)
class Limits:
    """A LimitRange, as far as it speaks of GPU and MIG resources."""

    name: str
    demanded: frozenset[str] = frozenset()
    """What everything bounded must ask for: a bound refuses a pod that says nothing of the resource."""
    most: Mapping[str, int] = field(default_factory=dict)
    """MIG resource -> the most that may be asked for."""


class Share(NamedTuple):
    """Pods of a namespace that count alike."""

    scope: Scope
    rewritten: bool
    """They carry our label: their slices stand for GPUs."""


class Tally:
    """What the pods of one namespace ask of GPU and MIG resources."""

    def __init__(self) -> None:
        self._asked: dict[tuple[Share, str], int] = {}

    def add(self, share: Share, gpus: Iterable[tuple[str, int]], sign: int) -> None:
        """Count a pod in (+1) or out (-1)."""
        for resource, count in gpus:
            key = (share, resource)
            left = self._asked.get(key, 0) + sign * count
            if left:
                self._asked[key] = left
            else:
                self._asked.pop(key, None)

    def without(self, share: Share, claims: Mapping[str, int]) -> "Tally":
        """A copy that does not count these claims."""
        copy = Tally()
        copy._asked = dict(self._asked)
        copy.add(share, claims.items(), -1)
        return copy

    def __bool__(self) -> bool:
        return bool(self._asked)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tally) and self._asked == other._asked

    def __hash__(self) -> int:
        raise TypeError("a tally changes")

    def under(self, quota: Quota) -> Iterator[tuple[Share, str, int]]:
        """What pods that the quota covers ask for."""
        for (share, resource), count in self._asked.items():
            if quota.covers(share.scope):
                yield share, resource, count


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """A namespace as the decision sees it."""

    labels: Mapping[str, str] = field(default_factory=dict)
    quotas: tuple[Quota, ...] = ()
    limits: tuple[Limits, ...] = ()
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True)
class Excess:
    """A quota that has no room, in the figures its own message would give."""

    quota: str
    resource: str
    asked: int
    used: int
    hard: int

    def __str__(self) -> str:
        name = f"{REQUESTS}{self.resource}"
        return (
            f"exceeded quota: {self.quota}, requested: {name}={self.asked}, "
            f"used: {name}={self.used}, limited: {name}={self.hard}"
        )


def excess(namespace: Namespace, scope: Scope, claims: Mapping[str, int]) -> Excess | None:
    """The first quota on a claimed resource that these claims would exceed."""
    for quota in namespace.quotas:
        if not quota.hard.keys() & claims.keys() or not quota.covers(scope):
            continue
        for resource, count in claims.items():
            hard = quota.hard.get(resource)
            if hard is None:
                continue
            used = sum(n for _, name, n in namespace.tally.under(quota) if name == resource)
            if used + count > hard:
                return Excess(quota.name, resource, count, used, hard)
    return None


def excess_as_gpus(
    namespace: Namespace, scope: Scope, gpu_resource: str, asked: int
) -> Excess | None:
    """The first quota on the GPU resource that is exceeded once our slices count as GPUs.

    Slices of a name that some quota of the namespace limits are counted there and not here; slices
    that a pod asked for by name never count.
    """
    limited = {name for quota in namespace.quotas for name in quota.hard}
    for quota in namespace.quotas:
        hard = quota.hard.get(gpu_resource)
        if hard is None or not quota.covers(scope):
            continue
        used = sum(
            count
            for share, name, count in namespace.tally.under(quota)
            if name == gpu_resource or (share.rewritten and name not in limited)
        )
        if used + asked > hard:
            return Excess(quota.name, gpu_resource, asked, used, hard)
    return None
