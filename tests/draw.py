"""Random nodes, pods and configurations for property tests.

Each object grows out of one number: hypothesis draws and drops whole objects, which is a good deal
faster than drawing every field, and of an example that fails still leaves only what matters. They
share a small vocabulary, so that they have much to do with each other.
"""

import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, TypeVar

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

T = TypeVar("T")

GB = 10**9
KEYS = ("zone", "tier", "gen")
VALUES = ("a", "b", "1", "9", "-3", "+5", "x1")
TAINTS = ("gpu", "spot")
EFFECTS = ("NoSchedule", "NoExecute", "PreferNoSchedule")


class Dice(random.Random):
    """Randomness with the questions that are asked here."""

    def rarely(self, times: int = 12) -> bool:
        """Once in so many times."""
        return self.randrange(times) == 0

    def some(self, values: Sequence[T], least: int, most: int) -> list[T]:
        """A few different ones."""
        return self.sample(values, self.randint(least, min(most, len(values))))


def grown(make: Callable[[Dice], T]) -> st.SearchStrategy[T]:
    """Objects that a function makes by throwing dice."""
    return st.integers(0, 2**32 - 1).map(lambda seed: make(Dice(seed)))


# --- where a pod may go ----------------------------------------------------------------------------


def some_labels(dice: Dice) -> dict[str, str]:
    """Labels as nodes carry them and selectors ask for."""
    return {key: dice.choice(VALUES) for key in dice.some(KEYS, 0, 3)}


def some_expression(dice: Dice) -> JSON:
    """One match expression on node labels, as the API server lets it pass."""
    operator = dice.choice(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"])
    found: JSON = {"key": dice.choice((*KEYS, "nowhere")), "operator": operator}
    if operator in {"In", "NotIn"}:
        found["values"] = dice.some(VALUES, 1, 3)
    elif operator in {"Gt", "Lt"}:
        found["values"] = [dice.choice(["0", "5", "-3", "9223372036854775807"])]
    return found


def some_term(dice: Dice, names: Sequence[str]) -> JSON:
    """One node selector term, now and then an empty one."""
    found: JSON = {}
    if not dice.rarely(4):
        found["matchExpressions"] = [some_expression(dice) for _ in range(dice.randint(0, 2))]
    if dice.rarely(4):
        operator, name = dice.choice(["In", "NotIn"]), dice.choice([*names, "no-such-node"])
        found["matchFields"] = [{"key": "metadata.name", "operator": operator, "values": [name]}]
    return found


def some_toleration(dice: Dice) -> JSON:
    """One toleration, as the API server lets it pass."""
    key = dice.choice((*TAINTS, "node.kubernetes.io/unschedulable", ""))
    operator = dice.choice(["Exists", "Equal", ""]) if key else "Exists"
    value = "" if operator == "Exists" else dice.choice(["", "yes"])
    effect = dice.choice([*EFFECTS, "", ""])
    found = {"key": key, "operator": operator, "value": value, "effect": effect}
    return {key: value for key, value in found.items() if value}


def some_place(dice: Dice, names: Sequence[str], often: int) -> JSON:
    """The part of a pod's spec that says where it may go; picky once in so many times."""
    found: JSON = {}
    if dice.rarely(often):
        found["nodeSelector"] = some_labels(dice)
    if dice.rarely(often):
        terms = [some_term(dice, names) for _ in range(dice.randint(0, 3))]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        found["affinity"] = {"nodeAffinity": required}
    if dice.rarely(2):
        found["tolerations"] = [some_toleration(dice) for _ in range(dice.randint(0, 2))]
    return found


def places(names: Sequence[str] = ("gpu-0", "gpu-1"), often: int = 2) -> st.SearchStrategy[JSON]:
    """Parts of a pod's spec that say where it may go."""
    return grown(lambda dice: some_place(dice, names, often))


labels = grown(some_labels)


# --- nodes -----------------------------------------------------------------------------------------

LAYOUTS = {
    "NVIDIA-A100-SXM4-80GB": ("1g.10gb", "1g.10gb+me", "2g.20gb", "3g.40gb", "4g.40gb"),
    "NVIDIA-A100-SXM4-40GB": ("1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb"),
    "NVIDIA-H100-80GB-HBM3": ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb"),
    "NVIDIA-Z999": ("1g.10gb", "3g.40gb"),
}
COMMON, *OTHERS = LAYOUTS


def some_node(dice: Dice, name: str, odd: bool) -> JSON:
    """A node: product, layout, labels; with `odd`, also what goes wrong with nodes."""
    product = dice.choice(OTHERS) if dice.rarely(3) else COMMON
    layout = LAYOUTS[product]
    slices = {profile: dice.randint(0, 4) for profile in dice.some(layout, 1, len(layout))}
    said: dict[str, str | None] = dict(some_labels(dice))
    whole, spec = dice.randint(0, 2), dict[str, Any]()
    if odd:
        if dice.rarely():
            said["nvidia.com/mig.strategy"] = dice.choice([None, "single", "none"])
        if dice.rarely():
            said["nvidia.com/mig.config.state"] = dice.choice(["pending", "failed", None])
        if dice.rarely():
            said["cloud.google.com/gke-nodepool"] = "gpus"
        for profile in slices:
            if dice.rarely(5):
                said[f"{mig(profile)}.memory"] = dice.choice([None, "0", "9600", "19000"])
            if dice.rarely(16):
                said[f"{mig(profile)}.replicas"] = "2"
        spec["taints"] = [
            {"key": key, "value": dice.choice(["", "yes"]), "effect": effect}
            for key in TAINTS
            for effect in EFFECTS
            if dice.rarely()
        ]
        spec["unschedulable"] = dice.rarely()
    found = node(name, slices=slices, whole=whole, product=product, labels=said, **spec)
    if odd and dice.rarely():
        found["status"]["allocatable"] |= {"cpu": "4", "pods": "2"}
    return found


def nodes(name: str = "gpu-0") -> st.SearchStrategy[JSON]:
    """A node with its oddities."""
    return grown(lambda dice: some_node(dice, name, odd=True))


def clusters(most: int = 4) -> st.SearchStrategy[list[JSON]]:
    """A few nodes, the first of which is sound."""
    seeds = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=most)
    return seeds.map(
        lambda every: [some_node(Dice(s), f"gpu-{n}", n > 0) for n, s in enumerate(every)]
    )


# --- pods ------------------------------------------------------------------------------------------

FOOTPRINTS = ("1G", "3G", "4G", "7Gi", "7.9Gi", "8G", "9.6G", "13.4G", "15Gi", "16G", "33G", "60G")
SAID = {
    "migfit.io/headroom": ("0", "50%", "0.1", "much"),
    "migfit.io/min-compute": ("2", "3", "9"),
    "migfit.io/min-bandwidth": ("200G", "900G"),
    "migfit.io/profile": ("2g.20gb", "1g.10gb+me", "3g.40gb", "small"),
    "migfit.io/model": ("asr", "unheard-of"),
}


def some_pod(dice: Dice) -> JSON:
    """A pod with one to three containers that ask for GPUs; half of them have some oddity."""
    odd = dice.rarely(2)

    def gpu() -> object:
        return dice.choice([None, "0", 1, "2", "1k"]) if odd and dice.rarely(10) else "1"

    def footprint() -> str:
        return dice.choice(("9.6", "lots") if odd and dice.rarely(40) else FOOTPRINTS)

    held = [container(f"c{n}", gpu()) for n in range(dice.randint(1, 3))]
    starting = [
        container(f"i{n}", gpu(), **({"restartPolicy": "Always"} if dice.rarely(2) else {}))
        for n in range(dice.randint(1, 2) if dice.rarely(4) else 0)
    ]
    where = some_place(dice, ("gpu-0", "gpu-1"), 4) if odd else {}
    tree = pod(*held, footprint=None if odd and dice.rarely() else footprint(), **where)
    if starting:
        tree["spec"]["initContainers"] = starting
    said = tree["metadata"]["annotations"]
    for each in (*held, *starting):
        if dice.rarely(3):
            said[f"gpu-memory.migfit.io/{each['name']}"] = footprint()
    if odd:
        said |= {key: dice.choice(values) for key, values in SAID.items() if dice.rarely(10)}
        if dice.rarely():
            mode = dice.choice(["ignore", "dry-run", "enforce"])
            tree["metadata"]["labels"]["migfit.io/mode"] = mode
        if dice.rarely():
            tree["spec"]["schedulerName"] = dice.choice(["volcano", "migfit", ""])
    return tree


def pods() -> st.SearchStrategy[JSON]:
    """Pods on their way into the cluster."""
    return grown(some_pod)


def some_other(dice: Dice, number: int) -> JSON:
    """A pod that holds GPUs or slices, or waits for them."""
    asked = {dice.choice([GPU, *map(mig, LAYOUTS[COMMON])]): dice.randint(1, 2)}
    if dice.rarely(2):
        return bound(f"other-{number}", f"gpu-{dice.randint(0, 4)}", asked)
    where = some_place(dice, ("gpu-0", "gpu-1"), 3)
    return waiting(f"other-{number}", asked, priority=dice.choice([0, 0, 100, -5]), **where)


def crowds(most: int = 8) -> st.SearchStrategy[list[JSON]]:
    """Pods that are there already."""
    seeds = st.lists(st.integers(0, 2**32 - 1), max_size=most)
    return seeds.map(lambda every: [some_other(Dice(s), n) for n, s in enumerate(every)])


# --- configurations --------------------------------------------------------------------------------

ASR = Model(name="asr", footprint_bytes=9 * GB, images=Globs(("*/asr/*",)))
DEPARTURES: dict[str, tuple[Any, ...]] = {
    "mode": (Mode.DRY_RUN, Mode.DISABLED),
    "headroom": (Fraction(0), Fraction(1)),
    "min_compute": (2, 3),
    "when_unknown_bytes": (6 * GB, 14 * GB),
    "allow_special_profiles": (True,),
    "filter": (False,),
    "autoscaled": (True, False),
    "queues": (Queues.REWRITE,),
    "schedulers": (frozenset({"volcano"}),),
    "models": ((ASR,),),
    "rules": (
        (Rule(name="all", match=Match(), footprint_bytes=5 * GB, min_compute=2),),
        (Rule(name="dry", match=Match(kinds=frozenset({"Deployment"})), mode=Mode.DRY_RUN),),
    ),
    "inject": (
        Inject(scheduler_name="migfit"),
        Inject(node_selector=(("zone", "a"),)),
        Inject(tolerations=({"key": "gpu", "operator": "Exists"},)),
    ),
    "pools": ((Pool(name="later", labels={"zone": "a"}, slices={mig("2g.20gb"): 4}),),),
}
"""What half of the configurations may have instead of a default."""


def some_policy(dice: Dice, **fixed: Any) -> Policy:
    """The default, or a configuration that departs from it in a few places."""
    said: dict[str, Any] = {}
    if dice.rarely(2):
        said = {key: dice.choice(values) for key, values in DEPARTURES.items() if dice.rarely(8)}
        said["when_full"] = tuple(dice.some(tuple(WhenFull), 0, 4))
    return Policy(**{**said, **fixed})


def policies(**fixed: Any) -> st.SearchStrategy[Policy]:
    """Configurations, alike in the fields that are given."""
    return grown(lambda dice: some_policy(dice, **fixed))


# --- junk ------------------------------------------------------------------------------------------

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
def mangled(draw: st.DrawFn, trees: st.SearchStrategy[JSON]) -> JSON:
    """An object with something else in place of some of its members."""
    tree = draw(trees)
    for _ in range(draw(st.integers(1, 3))):
        every = members(tree)
        if every:
            tree = changed(tree, *draw(st.sampled_from(every)), to=draw(anything))
    return tree
