"""What is found wrong with pods after they were created. A value: metric, audit line and Event of it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from extender.core.pod import Workload
from extender.core.reason import Reason


class Found(StrEnum):
    """What a finding is about; `event` of the audit line."""

    MISSED = "missed"
    """A GPU pod that nobody decided on."""
    UNMET = "unmet"
    """A rewritten pod that waits because no slice is free."""
    HELD = "held"
    """A workload that is held back: its next pods are left whole."""


class Cause(StrEnum):
    """Why a workload is held back."""

    CRASHES = "Crashes"
    """Containers with a slice keep restarting."""
    FAILS = "Fails"
    """A pod ended as failed."""
    PENDS = "Pends"
    """A pod is not bound, though a whole GPU is free for it."""


REASONS = {
    Found.MISSED: Reason.MISSED,
    Found.UNMET: Reason.WAITS,
    Found.HELD: Reason.BACKED_OFF,
}


@dataclass(frozen=True, slots=True)
class Controller:
    """The owner of a pod that makes its like again; all empty for a bare pod."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""

    @property
    def recreates(self) -> bool:
        """Whether it makes a deleted pod again without counting that as a failure.

        A Job does count it, against its `backoffLimit`; of other owners we do not know.
        """
        group = self.api_version.partition("/")[0]
        return group == "apps" and self.kind in {"ReplicaSet", "StatefulSet"}


@dataclass(frozen=True, slots=True)
class Whose:
    """A pod, and who made it."""

    namespace: str
    name: str
    uid: str
    workload: Workload
    controller: Controller = Controller()

    @property
    def key(self) -> tuple[str, str]:
        """Of the workload: namespace and `Kind/name`, as in `Snapshot.held`."""
        return self.namespace, str(self.workload)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found."""

    found: Found
    pod: Whose
    message: str
    """One line for people, with the figures of this pod."""
    cause: Cause | None = None
    """Of a workload held back."""
    profiles: tuple[str, ...] = ()
    """The slices the pod asks for, NVML spelling."""
    until: str | None = None
    """When a hold ends, RFC 3339."""
    deleted: bool = False
    """The pod was deleted, so that its controller makes a whole one."""

    @property
    def reason(self) -> Reason:
        """The word that all renderings tell."""
        return REASONS[self.found]


def audit_fields(finding: Finding, *, config_revision: str) -> dict[str, Any]:
    """The audit line of a finding, without its time."""
    workload = finding.pod.workload
    return {
        "event": str(finding.found),
        "namespace": finding.pod.namespace,
        "pod": finding.pod.name,
        "workload": {"kind": workload.kind, "name": workload.name},
        "reason": str(finding.reason),
        "message": finding.message,
        "cause": None if finding.cause is None else str(finding.cause),
        "profiles": list(finding.profiles),
        "until": finding.until,
        "deleted": finding.deleted,
        "configRevision": config_revision,
    }
