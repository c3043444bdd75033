"""What the admin decided, compiled for the decision: `MigfitConfiguration` without its YAML.

`extender.config` builds a `Policy` from the ConfigMap; nothing here can be invalid.
"""

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction


class Mode(StrEnum):
    """What may be done to a pod; ordered from most to least by `strictest`."""

    ENFORCE = "Enforce"
    DRY_RUN = "DryRun"
    DISABLED = "Disabled"


class WhenFull(StrEnum):
    """What to try, in the admin's order, when the smallest fitting profile has no free slice."""

    NEXT_LARGER = "NextLarger"
    WHOLE_NOW = "WholeNow"
    WHOLE_LATER = "WholeLater"
    WAIT = "Wait"


class QuotaRule(StrEnum):
    """Whether a slice counts against a ResourceQuota on the GPU resource."""

    COUNT_AS_GPU = "CountAsGpu"
    IGNORE = "Ignore"


class Queues(StrEnum):
    """What to do with pods that a queue holds back (Kueue, PodGroups, scheduling gates)."""

    LEAVE = "Leave"
    REWRITE = "Rewrite"


class BackoffAction(StrEnum):
    """What to do about a rewritten pod that does not get going."""

    RECREATE = "Recreate"
    REPORT = "Report"


class Globs:
    """Shell-like patterns compiled once; `*` crosses `/`. Matching is case-sensitive."""

    __slots__ = ("_regex", "patterns")

    def __init__(self, patterns: tuple[str, ...] = ()) -> None:
        self.patterns = patterns
        self._regex = re.compile("|".join(fnmatch.translate(p) for p in patterns) or r"(?!)")

    def match(self, text: str) -> bool:
        """Whether any pattern matches the whole text."""
        return self._regex.match(text) is not None

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Globs) and self.patterns == other.patterns

    def __hash__(self) -> int:
        return hash(self.patterns)

    def __repr__(self) -> str:
        return f"Globs({self.patterns!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which pods a rule is for. An empty field matches everything."""

    namespaces: Globs = field(default_factory=Globs)
    labels: tuple[tuple[str, str], ...] = ()
    images: Globs = field(default_factory=Globs)
    kinds: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One entry of `rules`; the first that matches a pod wins. `None` means: not said here."""

    name: str
    match: Match
    footprint_bytes: int | None = None
    headroom: Fraction | None = None
    min_compute: int | None = None
    mode: Mode | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One entry of `models`, found by the pod's `migfit.io/model` or by image."""

    name: str
    footprint_bytes: int
    min_compute: int | None = None
    images: Globs = field(default_factory=Globs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inject:
    """What a rewritten pod gets besides its slice."""

    scheduler_name: str = ""
    tolerations: tuple[Mapping[str, object], ...] = ()
    node_selector: tuple[tuple[str, str], ...] = ()
    prefer_used_nodes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Nodes that do not exist yet, as an autoscaler would make them."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Mapping[str, str], ...] = ()
    slices: Mapping[str, int] = field(default_factory=dict)
    """MIG resource name -> slices on one such node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """When a workload whose rewritten pods fail is held back, for how long, and what is done."""

    restarts: int = 3
    """Restarts of one pod within `window_s` that count as a crash loop."""
    window_s: float = 1800.0
    """Also the least time between two deletions for one workload."""
    hold_s: float = 86400.0
    """How long pods of a workload held back are left as they are."""
    pending_s: float = 300.0
    """A rewritten pod not bound for so long, though unchanged it could start, counts as failed."""
    action: BackoffAction = BackoffAction.RECREATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The whole configuration as the decision reads it. Defaults are those of the ConfigMap."""

    mode: Mode = Mode.ENFORCE
    gpu_resource: str = "nvidia.com/gpu"
    headroom: Fraction = Fraction(1, 5)
    min_compute: int = 1
    when_unknown_bytes: int | None = None
    """Footprint to assume when nothing declares one; None leaves the pod."""
    when_full: tuple[WhenFull, ...] = tuple(WhenFull)
    quota: QuotaRule = QuotaRule.COUNT_AS_GPU
    allow_special_profiles: bool = False
    include: Globs = field(default_factory=Globs)
    """Namespaces to serve; none given means all."""
    exclude: Globs = field(
        default_factory=lambda: Globs(("kube-system", "gpu-operator", "nvidia-gpu-operator"))
    )
    schedulers: frozenset[str] = frozenset()
    queues: Queues = Queues.LEAVE
    autoscaled: bool | None = None
    """None: find out from the nodes' labels."""
    inject: Inject = field(default_factory=Inject)
    usable_mib: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Product label -> profile -> MiB: the admin's word against label and catalogue."""
    pools: tuple[Pool, ...] = ()
    models: tuple[Model, ...] = ()
    rules: tuple[Rule, ...] = ()
    filter: bool = True
    spread_replicas: bool = True
    consolidation_lambda: float = 0.0
    observed_raise: bool = False
    stale_after_s: float = 180.0
    reservation_ttl_s: float = 30.0
    backoff: Backoff = field(default_factory=Backoff)
    revision: str = ""
    """Short digest of the file this came from; in every decision."""
