"""The configuration as the admin writes it: `MigfitConfiguration`, field by field with its default.

Fields are camelCase in the file. Values with a grammar of their own (quantities, durations, names)
have their types from `extender.config.values`. A field that may be left unsaid is `UNSET` then.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec import field as named

from extender.config.values import (
    Duration,
    EntryName,
    Footprint,
    GpuResource,
    Headroom,
    ImageGlob,
    InjectedScheduler,
    Kind,
    LabelKey,
    LabelValue,
    NamespaceGlob,
    Product,
    Profile,
    SchedulerName,
    SliceName,
    TolerationKey,
    UsableMemory,
    WhenUnknown,
)
from extender.core.policy import BackoffAction, Mode, Queues, QuotaRule, WhenFull

API_VERSION = "migfit.io/v1alpha1"
KIND = "MigfitConfiguration"

MinCompute = Annotated[int, Meta(ge=1, le=7)]
SliceCount = Annotated[int, Meta(ge=1, le=1024)]
Labels = dict[LabelKey, LabelValue]

_KEYLESS = {"not": {"required": ["key"], "properties": {"key": {"minLength": 1}}}}
_EXISTS = {"required": ["operator"], "properties": {"operator": {"const": "Exists"}}}
_NO_EXECUTE = {"required": ["effect"], "properties": {"effect": {"const": "NoExecute"}}}
_TOLERATION_RULES = {
    "allOf": [
        {"if": _KEYLESS, "then": _EXISTS},
        {"if": _EXISTS, "then": {"properties": {"value": {"const": ""}}}},
        {"if": {"required": ["tolerationSeconds"]}, "then": _NO_EXECUTE},
    ]
}
"""What `validate` checks about a toleration as a whole, for the JSON Schema."""


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """What all parts of the configuration have in common."""


class Namespaces(_Section, frozen=True, kw_only=True):
    """Which namespaces are served, by name. A glob's `*` stands for any text."""

    include: tuple[NamespaceGlob, ...] = ()
    """Serve only namespaces that match one of these. Default: none given, which means all."""
    exclude: tuple[NamespaceGlob, ...] = ("kube-system", "gpu-operator", "nvidia-gpu-operator")
    """Never serve these, whatever `include` says; migfit's own namespace is always added. Default:
    where the cluster and the GPU operator run pods that need whole cards to do their work."""


class Toleration(_Section, frozen=True, kw_only=True):
    """A toleration, as in a pod's `spec.tolerations`."""

    key: TolerationKey = ""
    """Taint key. Default: empty, every key; `operator` must be `Exists` then."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How `value` is compared. Default: as Kubernetes has it."""
    value: LabelValue = ""
    """Taint value; only with `Equal`. Default: empty."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Taint effect. Default: empty, every effect."""
    toleration_seconds: Annotated[int, Meta(ge=0, le=1 << 53)] | UnsetType = UNSET
    """Seconds a running pod stays; only with `NoExecute`. Default: for ever."""


class Inject(_Section, frozen=True, kw_only=True):
    """What a rewritten pod gets besides its slice. Default: nothing."""

    scheduler_name: InjectedScheduler = ""
    """Scheduler for pods of `default-scheduler`; only while a Lease of that name, in any namespace,
    is renewed (needs the right to list leases). Default: empty, pods keep their scheduler, since
    slices are native resources that any scheduler places."""
    tolerations: tuple[Annotated[Toleration, Meta(extra_json_schema=_TOLERATION_RULES)], ...] = ()
    """Added to the pod's own, for MIG nodes kept free by a taint. Default: none."""
    node_selector: Labels = {}
    """Added to the pod's own. Default: none; the slice already selects the nodes."""
    prefer_used_nodes: bool = False
    """Prefer nodes in use by soft affinity, for clusters with the webhook only. Default: off,
    since the extender does this better."""


class Taint(_Section, frozen=True, kw_only=True):
    """A taint, as in a node's `spec.taints`."""

    key: LabelKey
    """Taint key."""
    value: LabelValue = ""
    """Taint value. Default: empty."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
    """What happens to pods that do not tolerate it."""


class Pool(_Section, frozen=True, kw_only=True):
    """Nodes that do not exist yet, as an autoscaler would make them."""

    name: EntryName
    """For messages; unique."""
    labels: Labels = {}
    """Labels such a node will carry. Default: none."""
    taints: tuple[Taint, ...] = ()
    """Taints such a node will carry. Default: none."""
    slices: Annotated[dict[SliceName, SliceCount], Meta(min_length=1)]
    """Slices on one such node: profile or MIG resource -> count."""


class Model(_Section, frozen=True, kw_only=True):
    """A model whose footprint is known, found by a pod's `migfit.io/model` or by image."""

    name: EntryName
    """What `migfit.io/model` says; unique."""
    gpu_memory: Footprint
    """Footprint: GPU memory the model needs, a quantity, before headroom."""
    min_compute: MinCompute | UnsetType = UNSET
    """Smallest number of compute slices, 1-7. Default: the configuration's `minCompute`."""
    images: tuple[ImageGlob, ...] = ()
    """Images that serve it, matched with and without tag or digest; `*` stands for any text, `/`
    included. Default: none, found by annotation only."""


class Match(_Section, frozen=True, kw_only=True):
    """Which pods a rule is for: all that is given must match."""

    namespaces: tuple[NamespaceGlob, ...] = ()
    """Globs of namespaces, one of which must match. Default: any namespace."""
    labels: Labels = {}
    """Labels the pod must carry, all of them. Default: any."""
    images: tuple[ImageGlob, ...] = ()
    """Globs of images, one of which must match a GPU container. Default: any image."""
    kinds: tuple[Kind, ...] = ()
    """Kinds of workload (`Deployment`, `Job`), one of which must match. Default: any kind."""


class Rule(_Section, frozen=True, kw_only=True):
    """What the admin says about some pods; the first rule that matches a pod wins."""

    name: EntryName
    """For decisions and messages; unique."""
    match: Match
    """Which pods; `{}` is every pod."""
    gpu_memory: Footprint | UnsetType = UNSET
    """Footprint of each GPU container, a quantity. Default: not said here."""
    headroom: Headroom | UnsetType = UNSET
    """In place of the configuration's `headroom`. Default: not said here."""
    min_compute: MinCompute | UnsetType = UNSET
    """In place of the configuration's `minCompute`, 1-7. Default: not said here."""
    mode: Mode | UnsetType = UNSET
    """In place of the configuration's `mode`, up or down. Default: not said here."""


class Scheduling(_Section, frozen=True, kw_only=True):
    """What the scheduler extender does."""

    filter: bool = True
    """Turn down nodes under reconfiguration and slices too small, for rewritten pods. Default: on;
    it turns down only what no eviction can mend."""
    spread_replicas: bool = True
    """Among used nodes, first those without a pod of the same workload. Default: on, so that
    packing does not put all replicas of a service on one card."""


class Consolidation(_Section, frozen=True, kw_only=True):
    """How far packing may go."""

    weight: Annotated[float, Meta(ge=0, le=1000)] = named(name="lambda", default=0.0)
    """Memory slices that keeping one idle GPU idle is worth, 0-1000: above 0 a larger slice on a
    used node is taken rather than open an idle GPU. Default: 0, always the smallest slice that is
    free."""


class Observed(_Section, frozen=True, kw_only=True):
    """What measured use of GPU memory may change."""

    may_raise: bool = named(name="raise", default=False)
    """Let an observed peak raise a declared footprint. Default: off, the declaration stands."""


class Backoff(_Section, frozen=True, kw_only=True):
    """What to do when rewritten pods do not get going."""

    restarts: Annotated[int, Meta(ge=1, le=1000)] = 3
    """Restarts of one pod within `window` that hold its workload back; of a Job one failed pod is
    enough. Default: 3, past a bad start."""
    window: Duration = "30m"
    """Time in which restarts are counted; also the least time between two deletions for one
    workload. Default: 30 minutes, about six restarts at the kubelet's longest delay."""
    hold: Duration = "24h"
    """How long pods of a workload held back are left as they are. Default: a day, for someone to
    look."""
    pending: Duration = "5m"
    """A rewritten pod not bound for so long, though unchanged it could start, has failed. Default:
    5 minutes, longer than most autoscalers need to add a node."""
    action: BackoffAction = BackoffAction.RECREATE
    """`Recreate` also deletes the pod, of ReplicaSets and StatefulSets only, so that it comes back
    unchanged; `Report` only tells. Default: Recreate, never worse than without us."""


class MigfitConfiguration(_Section, frozen=True, kw_only=True):
    """The configuration of migfit: ConfigMap `migfit-config`, key `config.yaml`."""

    api_version: Literal["migfit.io/v1alpha1"]
    """Version of this format."""
    kind: Literal["MigfitConfiguration"]
    """Always `MigfitConfiguration`."""
    mode: Mode = Mode.ENFORCE
    """`Enforce` rewrites pods, `DryRun` only says what it would do, `Disabled` leaves them.
    Default: Enforce, what migfit is installed for."""
    gpu_resource: GpuResource = "nvidia.com/gpu"
    """Resource by which pods ask for a whole GPU. Default: the name NVIDIA's device plugin
    uses."""
    headroom: Headroom = "20%"
    """Added to every footprint: a percentage or a fraction. Default: 20 %, for the CUDA context
    and what grows under load."""
    min_compute: MinCompute = 1
    """Smallest number of compute slices of a GPU, 1-7. Default: 1, memory alone decides."""
    when_unknown: WhenUnknown = "Leave"
    """For pods without a footprint: `Leave` them, or the footprint to assume, a quantity. Default:
    Leave, since a guess could be too small."""
    when_full: Annotated[tuple[WhenFull, ...], Meta(extra_json_schema={"uniqueItems": True})] = (
        tuple(WhenFull)
    )
    """What to try, in this order, when no slice of the smallest fitting profile is free; an empty
    list leaves the pod. Nothing is tried after `Wait`. Default: what lets the pod start
    soonest."""
    quota: QuotaRule = QuotaRule.COUNT_AS_GPU
    """Whether a slice counts as one GPU against a namespace's quota on `gpuResource`. Default:
    CountAsGpu, a rewrite gets no one more GPUs than the quota gave."""
    allow_special_profiles: bool = False
    """Offer profiles with `+me`, `+gfx` and the like to pods that do not name them. Default: off,
    a card has few of them."""
    namespaces: Namespaces = Namespaces()
    """Which namespaces are served."""
    schedulers: tuple[SchedulerName, ...] = ()
    """Further schedulers whose pods may be rewritten. Default: none; `default-scheduler` and
    `inject.schedulerName` always are."""
    queues: Queues = Queues.LEAVE
    """Pods held by Kueue, PodGroups or scheduling gates: `Leave` or `Rewrite`. Default: Leave,
    their queue has already counted what they asked for."""
    autoscaled: Literal["Auto"] | bool = "Auto"
    """Whether whole GPUs can be added to the cluster. Default: Auto, true when some node carries
    the pool label of Karpenter, GKE, EKS or AKS."""
    inject: Inject = Inject()
    """What a rewritten pod gets besides its slice."""
    usable: dict[Product, dict[Profile, UsableMemory]] = {}
    """Usable memory: product (node label `nvidia.com/gpu.product`) -> profile -> quantity, against
    label and catalogue. Default: none, nodes say it themselves."""
    pools: tuple[Pool, ...] = ()
    """Nodes that do not exist yet. Default: none, only what is there counts."""
    models: tuple[Model, ...] = ()
    """Models whose footprint is known. Default: none."""
    rules: tuple[Rule, ...] = ()
    """What holds for some pods only, first match wins. Default: none."""
    scheduling: Scheduling = Scheduling()
    """What the scheduler extender does."""
    consolidation: Consolidation = Consolidation()
    """How far packing may go."""
    observed: Observed = Observed()
    """What measured use may change."""
    stale_after: Duration = "3m"
    """No event and no bookmark from the API server for so long: pods are left. Default: 3 minutes,
    three of the API server's bookmarks."""
    reservation_ttl: Duration = "30s"
    """How long a slice promised to a pod is held until the pod is seen. Default: 30 seconds, well
    past any watch delay."""
    backoff: Backoff = Backoff()
    """What to do when rewritten pods do not get going."""
