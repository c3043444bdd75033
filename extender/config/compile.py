"""The typed configuration -> `Policy`, what the decision reads: exact units, compiled globs."""

from typing import TypeVar

from msgspec import UNSET, UnsetType

from extender.config import types
from extender.config.values import resource_name, seconds, usable_mib, when_unknown_bytes
from extender.core.policy import Backoff, Globs, Inject, Match, Model, Policy, Pool, Rule
from extender.core.quantity import footprint_bytes, fraction

T = TypeVar("T")


def compiled(
    configuration: types.MigfitConfiguration, *, revision: str = "", own_namespace: str = ""
) -> Policy:
    """The policy of a configuration that has been validated.

    Args:
        configuration: what the admin wrote.
        revision: digest of what the admin wrote.
        own_namespace: where migfit itself runs; excluded whatever the configuration says.
    """
    c = configuration
    exclude = c.namespaces.exclude
    if own_namespace and own_namespace not in exclude:
        exclude = (*exclude, own_namespace)
    return Policy(
        mode=c.mode,
        gpu_resource=c.gpu_resource,
        headroom=fraction(c.headroom),
        min_compute=c.min_compute,
        when_unknown_bytes=when_unknown_bytes(c.when_unknown),
        when_full=c.when_full,
        quota=c.quota,
        allow_special_profiles=c.allow_special_profiles,
        include=Globs(c.namespaces.include),
        exclude=Globs(exclude),
        schedulers=frozenset(c.schedulers),
        queues=c.queues,
        autoscaled=c.autoscaled if isinstance(c.autoscaled, bool) else None,
        inject=_inject(c.inject),
        usable_mib={
            product: {profile: usable_mib(amount) for profile, amount in profiles.items()}
            for product, profiles in c.usable.items()
        },
        pools=tuple(map(_pool, c.pools)),
        models=tuple(map(_model, c.models)),
        rules=tuple(map(_rule, c.rules)),
        filter=c.scheduling.filter,
        spread_replicas=c.scheduling.spread_replicas,
        consolidation_lambda=c.consolidation.weight,
        observed_raise=c.observed.may_raise,
        stale_after_s=seconds(c.stale_after),
        reservation_ttl_s=seconds(c.reservation_ttl),
        backoff=Backoff(
            restarts=c.backoff.restarts,
            window_s=seconds(c.backoff.window),
            hold_s=seconds(c.backoff.hold),
            pending_s=seconds(c.backoff.pending),
            action=c.backoff.action,
        ),
        revision=revision,
    )


def _inject(inject: types.Inject) -> Inject:
    return Inject(
        scheduler_name=inject.scheduler_name,
        tolerations=tuple(map(_toleration, inject.tolerations)),
        node_selector=tuple(inject.node_selector.items()),
        prefer_used_nodes=inject.prefer_used_nodes,
    )


def _toleration(toleration: types.Toleration) -> dict[str, object]:
    """As it will stand in the pod: what says nothing is left out."""
    given = {
        "key": toleration.key,
        "operator": toleration.operator,
        "value": toleration.value,
        "effect": toleration.effect,
    }
    pod: dict[str, object] = {name: text for name, text in given.items() if text}
    if toleration.toleration_seconds is not UNSET:
        pod["tolerationSeconds"] = toleration.toleration_seconds
    return pod


def _pool(pool: types.Pool) -> Pool:
    return Pool(
        name=pool.name,
        labels=pool.labels,
        taints=tuple({"key": t.key, "value": t.value, "effect": t.effect} for t in pool.taints),
        slices={resource_name(name): count for name, count in pool.slices.items()},
    )


def _model(model: types.Model) -> Model:
    return Model(
        name=model.name,
        footprint_bytes=footprint_bytes(model.gpu_memory),
        min_compute=_said(model.min_compute),
        images=Globs(model.images),
    )


def _rule(rule: types.Rule) -> Rule:
    footprint, headroom = _said(rule.gpu_memory), _said(rule.headroom)
    return Rule(
        name=rule.name,
        match=Match(
            namespaces=Globs(rule.match.namespaces),
            labels=tuple(rule.match.labels.items()),
            images=Globs(rule.match.images),
            kinds=frozenset(rule.match.kinds),
        ),
        footprint_bytes=None if footprint is None else footprint_bytes(footprint),
        headroom=None if headroom is None else fraction(headroom),
        min_compute=_said(rule.min_compute),
        mode=_said(rule.mode),
    )


def _said(value: T | UnsetType) -> T | None:
    """The value, or None for a field that was left unsaid."""
    return None if isinstance(value, UnsetType) else value
