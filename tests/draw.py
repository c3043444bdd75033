"""Random nodes, pods and configurations for property tests, from a small vocabulary, so that they
have much to do with each other."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

from extender.core.policy import (
    Globs,
    Inject,
    Match,
    Mode,
    Model,
    Policy,
    Pool,
    Queues,
    Rule,
    WhenFull,
)
from tests.build import GPU, JSON, bound, changed, container, mig, node, pod, waiting

GB = 10**9

KEYS = ("zone", "tier", "gen")
VALUES = ("a", "b", "1", "9", "-3", "+5", "x1")
TAINTS = ("gpu", "spot")
EFFECTS = ("NoSchedule", "NoExecute", "PreferNoSchedule")

labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=3)


# --- where a pod may go --------------------------------------------------------------------------


@st.composite
def expressions(draw: st.DrawFn) -> JSON:
    """One match expression on node labels, as the API server lets it pass."""
    operator = draw(st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]))
    found: JSON = {"key": draw(st.sampled_from((*KEYS, "nowhere"))), "operator": operator}
    if operator in {"In", "NotIn"}:
        found["values"] = draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=3))
    elif operator in {"Gt", "Lt"}:
        found["values"] = [draw(st.sampled_from(["0", "5", "-3", "9223372036854775807"]))]
    return found


@st.composite
def terms(draw: st.DrawFn, names: Sequence[str]) -> JSON:
    """One node selector term, now and then an empty one."""
    found: JSON = {}
    if draw(st.booleans()):
        found["matchExpressions"] = draw(st.lists(expressions(), max_size=2))
    if draw(st.integers(0, 3)) == 0:
        operator = draw(st.sampled_from(["In", "NotIn"]))
        name = draw(st.sampled_from([*names, "no-such-node"]))
        found["matchFields"] = [{"key": "metadata.name", "operator": operator, "values": [name]}]
    return found


@st.composite
def tolerations(draw: st.DrawFn) -> JSON:
    """One toleration, as the API server lets it pass."""
    key = draw(st.sampled_from((*TAINTS, "node.kubernetes.io/unschedulable", "")))
    operator = "Exists" if not key else draw(st.sampled_from(["Exists", "Equal", ""]))
    found = {"key": key, "operator": operator}
    if operator != "Exists":
        found["value"] = draw(st.sampled_from(["", "yes"]))
    if draw(st.booleans()):
        found["effect"] = draw(st.sampled_from(EFFECTS))
    return {key: value for key, value in found.items() if value}


@st.composite
def places(draw: st.DrawFn, names: Sequence[str] = ("gpu-0", "gpu-1")) -> JSON:
    """The part of a pod's spec that says where it may go."""
    found: JSON = {}
    if draw(st.integers(0, 2)) == 0:
        found["nodeSelector"] = draw(labels)
    if draw(st.integers(0, 2)) == 0:
        listed = draw(st.lists(terms(names), max_size=3))
        required = {"nodeSelectorTerms": listed}
        found["affinity"] = {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}
        }
    if draw(st.booleans()):
        found["tolerations"] = draw(st.lists(tolerations(), max_size=2))
    return found


@st.composite
def open_spec(draw: st.DrawFn) -> JSON:
    """The part of a node's spec that says who may come."""
    found: JSON = {}
    if draw(st.integers(0, 3)) == 0:
        found["taints"] = [
            {"key": key, "value": draw(st.sampled_from(["", "yes"])), "effect": effect}
            for key, effect in draw(
                st.lists(
                    st.tuples(st.sampled_from(TAINTS), st.sampled_from(EFFECTS)),
                    max_size=2,
                    unique=True,
                )
            )
        ]
    if draw(st.integers(0, 5)) == 0:
        found["unschedulable"] = True
    return found


# --- nodes ---------------------------------------------------------------------------------------

LAYOUTS = {
    "NVIDIA-A100-SXM4-80GB": ("1g.10gb", "1g.10gb+me", "2g.20gb", "3g.40gb", "4g.40gb"),
    "NVIDIA-A100-SXM4-40GB": ("1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb"),
    "NVIDIA-H100-80GB-HBM3": ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb"),
    "NVIDIA-Z999": ("1g.10gb", "3g.40gb"),
}


@st.composite
def nodes(draw: st.DrawFn, name: str = "gpu-0") -> JSON:
    """A node: product, layout, labels as they are and as they sometimes are."""
    product = draw(st.sampled_from([*LAYOUTS, "NVIDIA-A100-SXM4-80GB"]))
    slices = draw(st.dictionaries(st.sampled_from(LAYOUTS[product]), st.integers(0, 3), max_size=4))
    said: dict[str, str | None] = dict(draw(labels))
    if draw(st.integers(0, 5)) == 0:
        strategies = [None, "single", "none"]
        said["nvidia.com/mig.strategy"] = draw(st.sampled_from(strategies))
    if draw(st.integers(0, 7)) == 0:
        said["nvidia.com/mig.config.state"] = draw(st.sampled_from(["pending", "failed", None]))
    if draw(st.integers(0, 7)) == 0:
        said["cloud.google.com/gke-nodepool"] = "gpus"
    for profile in slices:
        oddity = draw(st.sampled_from(["", "", "", "none", "0", "9600", "19000", "shared"]))
        if oddity == "shared":
            said[f"{mig(profile)}.replicas"] = "2"
        elif oddity:
            said[f"{mig(profile)}.memory"] = None if oddity == "none" else oddity
    found = node(
        name,
        slices=slices,
        whole=draw(st.integers(0, 2)),
        product=product,
        labels=said,
        **draw(open_spec()),
    )
    if draw(st.integers(0, 5)) == 0:
        found["status"]["allocatable"] |= {"cpu": "4", "pods": "2"}
    return found


@st.composite
def clusters(draw: st.DrawFn, most: int = 4) -> list[JSON]:
    """A few nodes."""
    count = draw(st.integers(1, most))
    return [draw(nodes(f"gpu-{number}")) for number in range(count)]


# --- pods ----------------------------------------------------------------------------------------

footprints = st.sampled_from(
    ["1G", "4G", "7.9Gi", "8G", "9.6G", "13.4G", "15Gi", "16G", "33G", "60G", "9.6", "lots"]
)


@st.composite
def pods(draw: st.DrawFn) -> JSON:
    """A pod with one to three containers, most of which ask for a GPU."""
    count = draw(st.integers(1, 3))
    gpus = st.sampled_from(["1", "1", "1", "1", 1, None, "0", "2", "1k"])
    held = [container(f"c{number}", draw(gpus)) for number in range(count)]
    starting = [
        container(
            f"i{number}", draw(gpus), **draw(st.sampled_from([{}, {"restartPolicy": "Always"}]))
        )
        for number in range(draw(st.sampled_from([0, 0, 0, 1, 2])))
    ]
    tree = pod(*held, footprint=draw(st.none() | footprints), **draw(places()))
    if starting:
        tree = changed(tree, "spec", "initContainers", to=starting)
    said: dict[str, str] = {}
    for each in (*held, *starting):
        if draw(st.integers(0, 3)) == 0:
            said[f"gpu-memory.migfit.io/{each['name']}"] = draw(footprints)
    for key, values in (
        ("migfit.io/headroom", ["0", "50%", "0.1", "much"]),
        ("migfit.io/min-compute", ["2", "3", "9"]),
        ("migfit.io/min-bandwidth", ["200G", "900G"]),
        ("migfit.io/profile", ["2g.20gb", "1g.10gb+me", "3g.40gb", "small"]),
        ("migfit.io/model", ["asr", "unheard-of"]),
    ):
        if draw(st.integers(0, 7)) == 0:
            said[key] = draw(st.sampled_from(values))
    tree["metadata"]["annotations"] |= said
    if draw(st.integers(0, 7)) == 0:
        mode = draw(st.sampled_from(["ignore", "dry-run", "enforce"]))
        tree["metadata"]["labels"]["migfit.io/mode"] = mode
    if draw(st.integers(0, 7)) == 0:
        tree["spec"]["schedulerName"] = draw(st.sampled_from(["volcano", "migfit", ""]))
    return tree


@st.composite
def others(draw: st.DrawFn, number: int) -> JSON:
    """A pod that holds GPUs or slices, or waits for them."""
    resource = draw(st.sampled_from([GPU, *map(mig, LAYOUTS["NVIDIA-A100-SXM4-80GB"])]))
    asked = {resource: draw(st.integers(1, 2))}
    if draw(st.booleans()):
        return bound(f"other-{number}", f"gpu-{draw(st.integers(0, 4))}", asked)
    priority = draw(st.sampled_from([0, 0, 100, -5]))
    return waiting(f"other-{number}", asked, priority=priority, **draw(places()))


@st.composite
def crowds(draw: st.DrawFn, most: int = 6) -> list[JSON]:
    """Pods that are there already."""
    return [draw(others(number)) for number in range(draw(st.integers(0, most)))]


# --- configurations ------------------------------------------------------------------------------


@st.composite
def policies(draw: st.DrawFn, /, **fixed: Any) -> Policy:
    """A configuration that departs from the default in a few places."""
    said: dict[str, Any] = {}

    def now_and_then(field: str, *values: Any) -> None:
        if draw(st.integers(0, 5)) == 0:
            said[field] = draw(st.sampled_from(values))

    now_and_then("mode", Mode.DRY_RUN, Mode.DISABLED)
    now_and_then("headroom", Fraction(0), Fraction(1))
    now_and_then("min_compute", 2, 3)
    now_and_then("when_unknown_bytes", 6 * GB, 14 * GB)
    now_and_then("allow_special_profiles", True)
    now_and_then("filter", False)
    now_and_then("autoscaled", True, False)
    now_and_then("queues", Queues.REWRITE)
    now_and_then("schedulers", frozenset({"volcano"}))
    now_and_then("models", (Model(name="asr", footprint_bytes=9 * GB, images=Globs(("*/asr/*",))),))
    now_and_then(
        "rules",
        (Rule(name="all", match=Match(), footprint_bytes=5 * GB, min_compute=2),),
        (Rule(name="dry", match=Match(kinds=frozenset({"Deployment"})), mode=Mode.DRY_RUN),),
    )
    now_and_then(
        "inject",
        Inject(scheduler_name="migfit"),
        Inject(node_selector=(("zone", "a"),)),
        Inject(tolerations=({"key": "gpu", "operator": "Exists"},), prefer_used_nodes=True),
    )
    now_and_then("pools", (Pool(name="later", labels={"zone": "a"}, slices={mig("2g.20gb"): 4}),))
    orders = st.lists(st.sampled_from(WhenFull), unique=True, max_size=4).map(tuple)
    if draw(st.booleans()):
        said["when_full"] = draw(orders)
    return Policy(**{**said, **fixed})


# --- junk ----------------------------------------------------------------------------------------

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["1", "nvidia.com/gpu", "Always", "In", "0.5", "9.6G"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=8) | st.sampled_from([GPU, "key", "name"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
"""Any JSON, with some words that mean something."""


def members(tree: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every member of a JSON object, however deep."""
    inside: list[tuple[str | int, Any]] = []
    if isinstance(tree, dict):
        inside = list(tree.items())
    elif isinstance(tree, list):
        inside = list(enumerate(tree))
    found = []
    for key, value in inside:
        found += [(*path, key), *members(value, (*path, key))]
    return found


@st.composite
def mangled(draw: st.DrawFn, tree: JSON) -> JSON:
    """An object with something else in place of some of its members."""
    for _ in range(draw(st.integers(1, 3))):
        every = members(tree)
        if every:
            tree = changed(tree, *draw(st.sampled_from(every)), to=draw(anything))
    return tree
