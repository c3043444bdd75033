"""Namespaces: their labels, quotas and limit ranges, and what their pods ask for."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from extender.cluster.held import Held
from extender.cluster.objects import LimitRangeObject, NamespaceObject, ResourceQuotaObject
from extender.cluster.reading import Counted, read_limits, read_quota
from extender.core.policy import Policy
from extender.core.quota import Limits, Namespace, Quota

Rule = TypeVar("Rule", Quota, Limits)


class Tenants:
    """Every namespace that is known, or that something is known to be in."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._quotas: dict[str, ResourceQuotaObject] = {}
        self._limits: dict[str, LimitRangeObject] = {}
        self._by_name: dict[str, Namespace] = {}
        self.namespaces: Held[NamespaceObject] = Held(
            lambda item: self._change(item.metadata.name, labels=item.metadata.labels or {}),
            lambda name: self._change(name, labels={}),
            lambda item: item.metadata.name,
        )
        self.quotas: Held[ResourceQuotaObject] = Held(self._put_quota, self._drop_quota, _full_name)
        self.limits: Held[LimitRangeObject] = Held(self._put_limits, self._drop_limits, _full_name)

    @property
    def by_name(self) -> Mapping[str, Namespace]:
        """Namespace name -> what is known of it."""
        return self._by_name

    def set_policy(self, policy: Policy) -> None:
        """A new configuration: rules are read again."""
        self._policy = policy
        for quota in self._quotas.values():
            self._put_quota(quota)
        for limits in self._limits.values():
            self._put_limits(limits)

    def count(self, namespace: str, counted: Counted, sign: int) -> None:
        """A pod asks for GPUs there (+1), or does so no longer (-1)."""
        share, gpus = counted
        known = self._by_name.get(namespace)
        if known is None:
            known = self._by_name[namespace] = Namespace()
        known.tally.add(share, gpus, sign)
        if not known.tally:
            self._forget_if_empty(namespace)

    def _change(self, name: str, **fields: object) -> None:
        self._by_name[name] = replace(self._by_name.get(name, Namespace()), **fields)  # type: ignore[arg-type]
        self._forget_if_empty(name)

    def _forget_if_empty(self, name: str) -> None:
        known = self._by_name[name]
        if not (known.labels or known.quotas or known.limits or known.tally):
            del self._by_name[name]

    def _put_quota(self, item: ResourceQuotaObject) -> None:
        self._quotas[_full_name(item)] = item
        quota = read_quota(item, self._policy)
        namespace = item.metadata.namespace
        others = _others(self._by_name.get(namespace, Namespace()).quotas, quota.name)
        quotas = (*others, quota) if quota.hard else others
        self._change(namespace, quotas=tuple(sorted(quotas, key=lambda q: q.name)))

    def _drop_quota(self, key: str) -> None:
        item = self._quotas.pop(key).metadata
        known = self._by_name.get(item.namespace, Namespace())
        self._change(item.namespace, quotas=_others(known.quotas, item.name))

    def _put_limits(self, item: LimitRangeObject) -> None:
        self._limits[_full_name(item)] = item
        limits = read_limits(item, self._policy)
        namespace = item.metadata.namespace
        others = _others(self._by_name.get(namespace, Namespace()).limits, limits.name)
        every = (*others, limits) if limits.demanded or limits.most else others
        self._change(namespace, limits=tuple(sorted(every, key=lambda each: each.name)))

    def _drop_limits(self, key: str) -> None:
        item = self._limits.pop(key).metadata
        known = self._by_name.get(item.namespace, Namespace())
        self._change(item.namespace, limits=_others(known.limits, item.name))


def _others(rules: tuple[Rule, ...], name: str) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules if rule.name != name)


def _full_name(item: ResourceQuotaObject | LimitRangeObject) -> str:
    return f"{item.metadata.namespace}/{item.metadata.name}"
