"""Why a decision came out as it did: one closed list for logs, metrics, annotations and docs."""

from enum import StrEnum
from typing import NamedTuple


class Action(StrEnum):
    """What became of the pod."""

    REWRITTEN = "rewritten"
    LEFT = "left"
    DENIED = "denied"


class Explanation(NamedTuple):
    """A reason in words."""

    meaning: str
    remedy: str
    """What a person can do if they want another outcome."""


class Reason(StrEnum):
    """A stable code. Codes are added where a case needs its own remedy, and never renamed."""

    FITS = "Fits"
    FITS_LARGER = "FitsLarger"
    FITS_CONSOLIDATED = "FitsConsolidated"
    WAITS = "Waits"

    QUOTA = "Quota"

    NO_GPU_REQUEST = "NoGpuRequest"
    ALREADY_MIG = "AlreadyMig"
    MIRROR_POD = "MirrorPod"
    NODE_NAME_SET = "NodeNameSet"
    RESOURCE_CLAIMS = "ResourceClaims"
    DAEMON_SET = "DaemonSet"
    NAMESPACE_EXCLUDED = "NamespaceExcluded"
    IGNORED = "Ignored"
    DISABLED = "Disabled"
    DRY_RUN = "DryRun"
    OTHER_SCHEDULER = "OtherScheduler"
    QUEUED = "Queued"
    BACKED_OFF = "BackedOff"
    STALE_STATE = "StaleState"
    MULTI_GPU = "MultiGpu"
    MIXED_REQUESTS = "MixedRequests"
    FRACTION_OF_CARD = "FractionOfCard"
    NEEDS_ENGINES = "NeedsEngines"
    DISTRIBUTED = "Distributed"
    NO_FOOTPRINT = "NoFootprint"
    BAD_ANNOTATION = "BadAnnotation"
    UNKNOWN_MODEL = "UnknownModel"
    PROFILE_TOO_SMALL = "ProfileTooSmall"
    NO_REACHABLE_MIG = "NoReachableMig"
    TOO_LARGE = "TooLarge"
    NO_FREE_SLICE = "NoFreeSlice"
    LIMIT_RANGE = "LimitRange"
    INTERNAL_ERROR = "InternalError"

    MISSED = "Missed"

    @property
    def explanation(self) -> Explanation:
        """The reason in words, with a remedy."""
        return EXPLANATIONS[self]


_UNTOUCHED = frozenset(
    {Reason.NO_GPU_REQUEST, Reason.ALREADY_MIG, Reason.MIRROR_POD, Reason.DISABLED}
)
"""Pods left for these reasons get no patch at all, not even the decision."""

STEP_ONE = (
    Reason.NO_GPU_REQUEST,
    Reason.ALREADY_MIG,
    Reason.MIRROR_POD,
    Reason.NODE_NAME_SET,
    Reason.RESOURCE_CLAIMS,
    Reason.DAEMON_SET,
    Reason.NAMESPACE_EXCLUDED,
    Reason.IGNORED,
    Reason.DISABLED,
    Reason.OTHER_SCHEDULER,
    Reason.QUEUED,
    Reason.BACKED_OFF,
    Reason.STALE_STATE,
)
"""Reasons of the first step, "is it ours?", in the order in which they are checked."""


def leaves_no_mark(reason: Reason) -> bool:
    """Whether a pod left for this reason carries nothing of ours afterwards."""
    return reason in _UNTOUCHED


EXPLANATIONS: dict[Reason, Explanation] = {
    Reason.FITS: Explanation(
        "The smallest profile that holds the need has a free slice; the pod asks for it now.",
        "To keep a whole GPU, label the pod or its namespace `migfit.io/mode: ignore`.",
    ),
    Reason.FITS_LARGER: Explanation(
        "The smallest fitting profile was full; a larger one is free and was taken.",
        "Make more slices of the smaller profile, or take `NextLarger` out of `whenFull`.",
    ),
    Reason.FITS_CONSOLIDATED: Explanation(
        "A larger slice on a GPU in use was taken, so that an idle GPU stays idle.",
        "To always get the smallest slice that is free, set `consolidation.lambda: 0`.",
    ),
    Reason.WAITS: Explanation(
        "No slice is free and nothing else applied; the pod waits for the smallest fitting one.",
        "Make more slices of that profile, or take `Wait` out of `whenFull`.",
    ),
    Reason.QUOTA: Explanation(
        "The namespace's ResourceQuota has no room: for the slice, or for one more GPU in any form.",
        "Raise the quota, delete a pod, or set `quota: Ignore`.",
    ),
    Reason.NO_GPU_REQUEST: Explanation("No container asks for the GPU resource.", "Nothing to do."),
    Reason.ALREADY_MIG: Explanation(
        "The pod asks for a MIG resource by name, its own choice or ours.", "Nothing to do."
    ),
    Reason.MIRROR_POD: Explanation(
        "A static pod's mirror in the API; it cannot be changed.",
        "Change the static manifest on the node.",
    ),
    Reason.NODE_NAME_SET: Explanation(
        "`spec.nodeName` is set: the pod bypasses the scheduler, and the kubelet might refuse a slice.",
        "Use a nodeSelector instead of nodeName.",
    ),
    Reason.RESOURCE_CLAIMS: Explanation(
        "The pod uses resource claims (DRA); its devices are chosen there.",
        "Ask for a MIG device in the claim.",
    ),
    Reason.DAEMON_SET: Explanation(
        "A DaemonSet pod belongs to one node, whatever slices it has.",
        "Write the MIG resource into the DaemonSet.",
    ),
    Reason.NAMESPACE_EXCLUDED: Explanation(
        "The configuration excludes the namespace, or includes only others.",
        "Change `namespaces` in the configuration.",
    ),
    Reason.IGNORED: Explanation(
        "The pod or its namespace is labelled `migfit.io/mode: ignore`.", "Remove the label."
    ),
    Reason.DISABLED: Explanation(
        "The configuration, or its rule for this pod, has mode `Disabled`.",
        "Set `mode: DryRun` or `Enforce`.",
    ),
    Reason.DRY_RUN: Explanation(
        "The pod would have been rewritten or denied (`wouldBe` says which); mode `DryRun` leaves it.",
        "Set `mode: Enforce` for the pod's namespace by a rule, or for all.",
    ),
    Reason.OTHER_SCHEDULER: Explanation(
        "Another scheduler places the pod; it may not know MIG resources.",
        "Add its name to `schedulers`.",
    ),
    Reason.QUEUED: Explanation(
        "A queue holds the pod (scheduling gate, Kueue, PodGroup) and has counted a whole GPU.",
        "Teach the queue the slices (Kueue page), or set `queues: Rewrite`.",
    ),
    Reason.BACKED_OFF: Explanation(
        "Rewritten pods of this workload crashed, failed or waited, so it runs on whole GPUs for a while.",
        "Check the footprint; the hold ends by itself, or by removing its entry (page about holds).",
    ),
    Reason.STALE_STATE: Explanation(
        "Our view of the cluster is too old or not complete yet.",
        "See `migfit_snapshot_age_seconds` and the log; the API server may be out of reach.",
    ),
    Reason.MULTI_GPU: Explanation(
        "A container asks for more than one GPU; slices have no P2P, and a process may see only one.",
        "Ask for one GPU per container if one is enough.",
    ),
    Reason.MIXED_REQUESTS: Explanation(
        "The pod asks for whole GPUs and for MIG slices at once.", "Ask for one kind only."
    ),
    Reason.FRACTION_OF_CARD: Explanation(
        "A container takes a fixed share of the card it sees; of a slice that would be too little.",
        "Declare `migfit.io/gpu-memory`, and raise the share for a slice (0.9 or so).",
    ),
    Reason.NEEDS_ENGINES: Explanation(
        "The pod asks for video, graphics or display, which most slices do not have.",
        "Declare `migfit.io/gpu-memory`, or name a profile with `migfit.io/profile`.",
    ),
    Reason.DISTRIBUTED: Explanation(
        "One of several cooperating processes; collectives over slices are not supported.",
        "Declare `migfit.io/gpu-memory` on the pod template if it works for you.",
    ),
    Reason.NO_FOOTPRINT: Explanation(
        "Nothing says how much GPU memory the pod needs.",
        "Annotate `migfit.io/gpu-memory: 9.6G`, or let the admin add a rule or model.",
    ),
    Reason.BAD_ANNOTATION: Explanation(
        "An annotation of ours, or the label `migfit.io/mode`, does not parse.",
        "Write it as the warning says.",
    ),
    Reason.UNKNOWN_MODEL: Explanation(
        "`migfit.io/model` names a model that is not in the admin's list.",
        "Use a listed name, or declare `migfit.io/gpu-memory`.",
    ),
    Reason.PROFILE_TOO_SMALL: Explanation(
        "The profile named by `migfit.io/profile` has less usable memory than the need.",
        "Name a larger profile, or lower footprint or headroom if they are too high.",
    ),
    Reason.NO_REACHABLE_MIG: Explanation(
        "No node the pod may land on offers a usable MIG resource.",
        "Partition such a node (strategy `mixed`), or widen the pod's selectors and tolerations.",
    ),
    Reason.TOO_LARGE: Explanation(
        "No offered profile holds the need (memory, compute and bandwidth).",
        "Nothing to do if the model really needs a whole card.",
    ),
    Reason.NO_FREE_SLICE: Explanation(
        "A profile fits, but no slice of it is free where the pod may land; a whole GPU serves it.",
        "Make more slices of that profile.",
    ),
    Reason.LIMIT_RANGE: Explanation(
        "A LimitRange of the namespace demands the GPU resource (every bound does) or forbids the slice.",
        "Change the LimitRange.",
    ),
    Reason.INTERNAL_ERROR: Explanation(
        "The decision failed; the pod is as it came.", "Report the stack trace in our log."
    ),
    Reason.MISSED: Explanation(
        "The pod was created while the webhook was out of reach, so nobody decided on it.",
        "Delete the pod to have it created again, if the slice is worth it.",
    ),
}
