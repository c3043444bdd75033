"""The outcome for one pod. A value: every log, patch, warning and report is a rendering of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from extender.core.pod import Workload
from extender.core.policy import Mode
from extender.core.quota import Scope, Share
from extender.core.reason import Action, Reason


class Verdict(StrEnum):
    """What was found of one candidate."""

    CHOSEN = "chosen"
    FITS = "fits"
    """It would do; a smaller one was chosen, or another entry of `whenFull` came first."""
    FULL = "full"
    TOO_SMALL = "too-small"
    TOO_LITTLE_COMPUTE = "too-little-compute"
    TOO_LITTLE_BANDWIDTH = "too-little-bandwidth"
    MEMORY_UNKNOWN = "memory-unknown"
    """Some offering node does not say reliably how much memory a slice has."""
    SHARED = "shared"
    SPECIAL = "special"
    NOT_ASKED_FOR = "not-asked-for"
    """The pod names another profile."""
    QUOTA = "quota"
    LIMIT_RANGE = "limit-range"


class Candidate(NamedTuple):
    """One MIG resource that was considered, and what came of it."""

    resource: str
    usable_mib: int | None
    free: int
    """Free slices on the reachable nodes that offer it."""
    verdict: Verdict


class Change(NamedTuple):
    """What one GPU container asked for, and asks for now."""

    name: str
    pointer: str
    """JSON pointer to the container in the pod."""
    resource: str
    """Asked for before: the GPU resource."""
    to: str | None = None
    """The MIG resource it asks for now; None if the pod is left."""
    footprint_bytes: int | None = None
    footprint_source: str | None = None
    """`annotation`, `model:NAME`, `rule:NAME`, `image:NAME`, `whenUnknown`, or `observed` if raised."""
    need_mib: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome for one pod."""

    action: Action
    reason: Reason
    message: str
    """One line for people: the reason with the figures of this pod."""
    id: str = ""
    """uid of the request the decision answers."""
    namespace: str = ""
    pod: str = ""
    workload: Workload = field(default_factory=lambda: Workload("", ""))
    mode: Mode = Mode.ENFORCE
    would_be: Action | None = None
    """With reason DryRun: what the pod was spared."""
    changes: tuple[Change, ...] = ()
    need_mib: int | None = None
    """The largest need of a GPU container."""
    usable_mib: int | None = None
    """Usable memory of the profile that need is held by."""
    profile: str | None = None
    """The chosen profile, NVML spelling; of several the largest."""
    candidates: tuple[Candidate, ...] = ()
    claims: Mapping[str, int] = field(default_factory=dict)
    """GPU or MIG resource -> count the pod will ask of a node: what is reserved in flight."""
    nodes: int = field(default=0, compare=False, repr=False)
    """Where the pod may land, as a set of the snapshot it was decided on."""
    scope: Scope = field(default_factory=Scope, compare=False, repr=False)
    """How quotas see the pod."""
    guards: tuple[tuple[str, int], ...] = ()
    """(node label, MiB): the label must be greater. kube-scheduler enforces it for us."""
    stray: tuple[str, ...] = ()
    """Pointers of containers where the GPU resource came back beside our MIG resource."""
    config_revision: str = ""

    @property
    def promise(self) -> "Promise":
        """What is kept of it while the pod is on its way."""
        share = Share(self.scope, self.action is Action.REWRITTEN)
        return Promise(self.id, self.namespace, self.claims, self.nodes, share)


class Promise(NamedTuple):
    """What a decision claims for its pod. No names: those may be of any length, and nobody has checked."""

    id: str
    namespace: str
    claims: Mapping[str, int]
    nodes: int
    share: Share
    """How the pod counts in its namespace's tally."""
