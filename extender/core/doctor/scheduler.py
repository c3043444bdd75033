"""The scheduler: is it told about migfit and about every slice, and is it alive?"""

from collections.abc import Iterator

from extender.core.doctor.evidence import JSON, Evidence, name_of, namespace_of
from extender.core.doctor.finding import Finding, Id
from extender.core.doctor.nodes import seconds, seen_slices
from extender.core.pod import mapping, objects, text

PREFIX = "/scheduler"
LEASE_FRESH_S = 60.0
"""A leader renews every few seconds and loses its Lease after 15. Four times that: the time in a
Lease is by the clock of the machine that the scheduler runs on."""


def check(evidence: Evidence) -> Iterator[Finding]:
    """Each KubeSchedulerConfiguration found, and the Lease of `inject.schedulerName`."""
    for where, configuration in evidence.scheduler_configurations.items():
        ours = [each for each in objects(configuration.get("extenders")) if _is_ours(each)]
        if not ours:
            yield Finding(
                Id.EXTENDER_MISSING, (where,), f"No extender's urlPrefix ends in {PREFIX}."
            )
        for extender in ours:
            yield from _extender(extender, (where,), evidence)
    yield from _lease(evidence)


def _is_ours(extender: JSON) -> bool:
    return text(extender.get("urlPrefix")).rstrip("/").endswith(PREFIX)


def _extender(extender: JSON, about: tuple[str, ...], evidence: Evidence) -> Iterator[Finding]:
    wrong = [
        f"{setting} is not true"
        for setting in ("ignorable", "nodeCacheCapable")
        if extender.get(setting) is not True
    ]
    wrong += [
        f"{verb}Verb is {text(extender.get(f'{verb}Verb')) or 'not set'}"
        for verb in ("filter", "prioritize")
        if text(extender.get(f"{verb}Verb")).strip("/") not in {verb, ""}
    ]
    wrong += [f"{verb}Verb is set" for verb in ("bind", "preempt") if extender.get(f"{verb}Verb")]
    managed = {
        text(each.get("name")): each.get("ignoredByScheduler") is True
        for each in objects(extender.get("managedResources"))
    }
    if not managed:
        wrong.append("managedResources is empty, which means every pod")
    if wrong:
        yield Finding(Id.EXTENDER_SETTINGS, about, f"Of the extender: {'; '.join(wrong)}.")
    uncounted = sorted(name for name, ignored in managed.items() if ignored)
    if uncounted:
        what = f"ignoredByScheduler is true for {', '.join(uncounted)}."
        yield Finding(Id.SLICES_UNCOUNTED, about, what)
    missing = sorted({*seen_slices(evidence), evidence.gpu_resource} - managed.keys())
    if managed and missing and evidence.knows("nodes"):
        what = f"managedResources lacks {', '.join(missing)}."
        yield Finding(Id.MANAGED_RESOURCES, about, what)


def _lease(evidence: Evidence) -> Iterator[Finding]:
    name = evidence.policy.inject.scheduler_name if evidence.policy is not None else ""
    if not name or not evidence.knows("leases"):
        return
    renewed = {
        f"Lease {namespace_of(lease)}/{name_of(lease)}": seconds(
            text(mapping(lease.get("spec")).get("renewTime"))
        )
        for lease in evidence.leases
        if name_of(lease) == name
    }
    if not renewed:
        what = f"No Lease is called {name}."
        yield Finding(Id.SCHEDULER_LEASE_MISSING, (f"Lease {name}",), what)
        return
    ages = [evidence.now_s - at_s for at_s in renewed.values() if at_s is not None]
    if not ages or min(ages) > LEASE_FRESH_S:
        what = f"Last renewed {min(ages):.0f} s ago." if ages else "Never renewed."
        yield Finding(Id.SCHEDULER_LEASE_OLD, tuple(sorted(renewed)), what)
