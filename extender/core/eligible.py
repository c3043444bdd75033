"""Steps 1 and 2: is the pod ours to change, and would a slice do what it expects of a GPU?"""

import re
from collections.abc import Callable

from extender.core.footprint import FOOTPRINT_ANNOTATION, PROFILE_ANNOTATION, container_annotation
from extender.core.pod import Container, environment, gpu_ask, mapping, text
from extender.core.policy import Mode, Policy, Queues
from extender.core.quantity import QuantityError, fraction
from extender.core.reason import Reason
from extender.core.snapshot import Snapshot
from extender.core.subject import Subject

Refusal = tuple[Reason, str]
"""Why a pod is left, and one line with its own figures."""

MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
KUEUE_PREFIX = "kueue.x-k8s.io/"
"""Kueue marks pods, and the pods of jobs it manages, with several labels under this name."""
QUEUE_LABELS = frozenset(
    {
        "pod-group.scheduling.sigs.k8s.io",
        "scheduling.k8s.io/group-name",
        "scheduling.volcano.sh/group-name",
        "scheduling.x-k8s.io/pod-group",
    }
)
"""Labels or annotations by which a pod belongs to a pod group."""

DISTRIBUTED_KINDS = frozenset(
    {
        "JobSet",
        "LeaderWorkerSet",
        "MPIJob",
        "PaddleJob",
        "PyTorchJob",
        "RayCluster",
        "TFJob",
        "XGBoostJob",
    }
)
DISTRIBUTED_LABELS = (
    "jobset.sigs.k8s.io/jobset-name",
    "leaderworkerset.sigs.k8s.io/name",
    "ray.io/cluster",
    "training.kubeflow.org/job-name",
    "training.kubeflow.org/replica-type",
)

SMALL_SHARE = 0.8
"""A program told to take less than this of the card it sees does not expect to have it alone."""

# Searched for in what a container says of itself, in lower case, `_` for `-` (`_said`): the same word
# is a flag of one program, a variable of another, a member of a third one's JSON. Whoever can create
# pods writes that text, so every repetition here has a bound or cannot be taken back. Every
# alternative begins with a plain character, so that a search skips all others at once.
_GIVEN = r"[\s=:,(\"']{1,8}"
_SHARE = re.compile(
    r"(?:gpu_mem(?:ory)?_(?:utilization|fraction)"  # vLLM, TensorFlow, TensorRT-LLM, NIM
    r"|mem_fraction_static"  # SGLang
    r"|client_mem_fraction"  # JAX
    r"|cuda_memory_fraction"  # Text Generation Inference
    r"|cache_max_entry_count"  # LMDeploy
    r"|kvcache_percent"  # NIM
    r"|per_process_memory_fraction"  # PyTorch
    r"|gpu\.allocfraction)"  # RAPIDS for Spark
    rf"{_GIVEN}(?P<value>(?:[0-9]{{1,9}}\.?|\.)[0-9]{{0,20}}%?)(?![\w.])"
)
_GROUP = re.compile(
    r"(?P<name>world_size|nnodes|num_machines|jax_num_processes|lws_group_size"
    r"|tensor_parallel_size|pipeline_parallel_size|data_parallel_size|_[tp]p(?:_size)?)"
    rf"{_GIVEN}(?:[0-9]{{1,9}}:)?(?P<count>0*(?:[2-9]|[1-9][0-9]+))(?![\w.:])"
)
_ENGINES = frozenset({"display", "graphics", "video"})
_CODEC = re.compile(
    r"nvenc|nvdec|cuvid|nvv4l2|nvh26[45]"  # FFmpeg, GStreamer, DeepStream
    rf"|hwaccel{_GIVEN}(?:auto|cuda)"
)
_REFERENCE = re.compile(r"\$(?:\((\w++)\)|\{(\w++)[^}]{0,40}\}|(\w++))")
_LONGEST_NUMBER = 16
"""Longer values are not put in for a reference: no number, and a text could grow without bounds."""
_MOST_TEXT = 128 * 1024
"""Characters read of a container: as many as Linux takes in one argument (`MAX_ARG_STRLEN`)."""


def not_ours(subject: Subject, snapshot: Snapshot, policy: Policy) -> Refusal | None:
    """Step 1: the first reason, in the documented order, why the pod is none of our business."""
    return never_ours(subject, policy) or not_now(subject, snapshot, policy)


def never_ours(subject: Subject, policy: Policy) -> Refusal | None:
    """The part of step 1 that pod, namespace and configuration settle between them."""
    if not subject.gpu:
        asked = gpu_ask(subject.containers, policy.gpu_resource)
        if asked:
            return Reason.ALREADY_MIG, f"asks for {', '.join(asked)} already"
        return Reason.NO_GPU_REQUEST, f"no container asks for {policy.gpu_resource}"
    for check in _STEP_ONE:
        refusal = check(subject, policy)
        if refusal is not None:
            return refusal
    return None


def _unchangeable(subject: Subject, _policy: Policy) -> Refusal | None:
    if MIRROR_ANNOTATION in subject.annotations:
        return Reason.MIRROR_POD, "a mirror of a static pod cannot be changed"
    if subject.spec.get("nodeName"):
        return Reason.NODE_NAME_SET, f"bound to node {text(subject.spec.get('nodeName'))} already"
    if subject.spec.get("resourceClaims"):
        return Reason.RESOURCE_CLAIMS, "devices come from resource claims"
    if subject.workload.kind == "DaemonSet":
        return Reason.DAEMON_SET, f"belongs to DaemonSet {subject.workload.name}"
    return None


def _unwanted(subject: Subject, policy: Policy) -> Refusal | None:
    name = subject.namespace
    if policy.exclude.match(name) or (policy.include and not policy.include.match(name)):
        return Reason.NAMESPACE_EXCLUDED, f"namespace {name} is not served"
    if subject.ignored:
        return Reason.IGNORED, "pod or namespace is labelled migfit.io/mode=ignore"
    if subject.mode is Mode.DISABLED:
        rule = subject.rule
        if rule is not None and rule.mode is not None:
            return Reason.DISABLED, f"disabled by rule {rule.name}"
        return Reason.DISABLED, "disabled by the configuration"
    return None


def _placed_by_others(subject: Subject, policy: Policy) -> Refusal | None:
    scheduler = text(subject.spec.get("schedulerName")) or "default-scheduler"
    if (
        scheduler not in ("default-scheduler", policy.inject.scheduler_name)
        and scheduler not in policy.schedulers
    ):
        return Reason.OTHER_SCHEDULER, f"placed by {scheduler}, which is not in `schedulers`"
    if policy.queues is Queues.LEAVE:
        if subject.spec.get("schedulingGates"):
            return Reason.QUEUED, "held by a scheduling gate"
        for label in (*subject.labels, *subject.annotations):
            if label.startswith(KUEUE_PREFIX) or label in QUEUE_LABELS:
                return Reason.QUEUED, f"queued: carries {label}"
        if mapping(subject.spec.get("schedulingGroup")) or mapping(subject.spec.get("workloadRef")):
            return Reason.QUEUED, "queued: belongs to a PodGroup"
    return None


def not_now(subject: Subject, snapshot: Snapshot, policy: Policy) -> Refusal | None:
    """The last part of step 1: reasons that pass, and so are looked at for every pod anew."""
    left_s = snapshot.held.get((subject.namespace, str(subject.workload)))
    if left_s is not None:
        return (
            Reason.BACKED_OFF,
            f"{subject.workload} runs whole for another {int(left_s // 60)} min",
        )
    if snapshot.stale and snapshot.age_s <= policy.stale_after_s:
        return Reason.STALE_STATE, "not everything is listed yet that a decision needs"
    if snapshot.stale:
        return Reason.STALE_STATE, f"nothing heard of the cluster for {int(snapshot.age_s)} s"
    return None


_STEP_ONE: tuple[Callable[[Subject, Policy], Refusal | None], ...] = (
    _unchangeable,
    _unwanted,
    _placed_by_others,
)


def not_for_a_slice(subject: Subject, policy: Policy) -> Refusal | None:
    """Step 2: why a slice would not do, although memory might fit."""
    for container in subject.gpu:
        count = container.count(policy.gpu_resource)
        if count > 1:
            return Reason.MULTI_GPU, f"container {container.name} asks for {count} GPUs"
    if any(c.mig_counts() for c in subject.containers):
        return Reason.MIXED_REQUESTS, f"asks for {policy.gpu_resource} and for MIG slices"
    if (demanded := _demanded(subject, policy)) is not None:
        return demanded
    if _declares_itself(subject):
        return None
    for container in subject.gpu:
        if (doubt := _doubt(container)) is not None:
            return doubt
    if together := _distributed(subject):
        return Reason.DISTRIBUTED, f"one of several processes: {together}"
    return None


def _doubt(container: Container) -> Refusal | None:
    """What a container says of itself that a slice would not live up to."""
    said = _said(container)
    if (share := _small_share(said)) is not None:
        message = f"container {container.name} takes {share:g} of the card it sees"
        return Reason.FRACTION_OF_CARD, message
    if engines := _engines(container, said):
        return Reason.NEEDS_ENGINES, f"container {container.name} asks for {engines}"
    if group := _GROUP.search(said):
        among = f"{group['name'].strip('_')}={group['count']:.9}"
        return Reason.DISTRIBUTED, f"one of several processes: {among}"
    return None


def _demanded(subject: Subject, policy: Policy) -> Refusal | None:
    for limits in subject.home.limits:
        if policy.gpu_resource in limits.demanded:
            return (
                Reason.LIMIT_RANGE,
                f"LimitRange {limits.name} bounds {policy.gpu_resource}: it refuses a pod without",
            )
    return None


def _declares_itself(subject: Subject) -> bool:
    """Whether the pod itself says what it needs: its author knows better than our guesses."""
    return (
        FOOTPRINT_ANNOTATION in subject.annotations
        or PROFILE_ANNOTATION in subject.annotations
        or any(container_annotation(c.name) in subject.annotations for c in subject.gpu)
    )


def _said(container: Container) -> str:
    """Command, arguments and environment of a container as one text, in lower case, `_` for `-`.

    References to variables are followed where kubelet or a shell would: one step, to short values.
    """
    environ = dict(environment(container))  # of a name given twice the last counts
    words = [
        text(word)
        for key in ("command", "args")
        if isinstance(listed := container.raw.get(key), list)
        for word in listed
    ]

    def put_in(reference: re.Match[str]) -> str:
        value = environ.get(reference[reference.lastindex or 0])
        return reference[0] if value is None or len(value) > _LONGEST_NUMBER else value

    lines = [" ".join(words), *(f"{name}={value}" for name, value in environ.items())]
    told = "\n".join(lines)[:_MOST_TEXT]
    return _REFERENCE.sub(put_in, told).lower().replace("-", "_")


def _small_share(said: str) -> float | None:
    for share in _SHARE.finditer(said):
        try:
            taken = float(fraction(share["value"]))
        except QuantityError:  # above 1000 %, or a number without end
            continue
        if 0 < taken < SMALL_SHARE:
            return taken
    return None


def _engines(container: Container, said: str) -> str:
    capabilities = dict(environment(container)).get("NVIDIA_DRIVER_CAPABILITIES", "")
    listed = _ENGINES & {word.strip() for word in capabilities.split(",")}
    if listed:
        return ", ".join(sorted(listed))
    return "video" if _CODEC.search(said) else ""


def _distributed(subject: Subject) -> str:
    if subject.workload.kind in DISTRIBUTED_KINDS:
        return f"owned by a {subject.workload.kind}"
    return next((f"label {label}" for label in DISTRIBUTED_LABELS if label in subject.labels), "")
