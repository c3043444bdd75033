"""All findings in one list."""

from collections.abc import Iterator
from itertools import chain

from extender.core.doctor import nodes, plugin, process, scheduler, webhook
from extender.core.doctor.evidence import Evidence
from extender.core.doctor.finding import Finding, Id, Severity

_ORDER = {severity: place for place, severity in enumerate(Severity)}


def diagnose(evidence: Evidence) -> list[Finding]:
    """What is wrong, the worst first. Whatever the evidence holds, it answers."""
    parts = (webhook, process, nodes, plugin, scheduler)
    found = chain(*(part.check(evidence) for part in parts), _unread(evidence))
    return sorted(found, key=lambda finding: _ORDER[finding.id.entry.severity])


def _unread(evidence: Evidence) -> Iterator[Finding]:
    for what, why in sorted(evidence.unread.items()):
        yield Finding(Id.UNREADABLE, (what,), f"{what} cannot be read: {why}.")
