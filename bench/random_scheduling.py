"""A million odd questions to filter and prioritize: nothing is raised, nothing is kept.

The pure handlers on the production state of 200 nodes, which goes on changing: after every tenth
question a pod comes or goes, or a node is or is not under reconfiguration. A third of the questions are
as kube-scheduler asks, with any names; a third have something else in place of some members; of a
third some bytes are changed, or the end is missing. All from one seed.
"""

import gc
import random
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson

from bench._cluster import LAYOUTS, fill, node_name, node_object
from bench._figures import Figure, options, report
from bench._requests import gpu_pod
from bench._serve import memory_mb
from extender.cluster.objects import NodeObject
from extender.cluster.state import State
from extender.core.capacity import Holding
from extender.core.pod import Ask
from extender.core.policy import Policy
from extender.scheduling.verbs import BadArgs, Scheduling, read_args

SEED = 404_101
CALLS, QUICK_CALLS = 1_000_000, 5_000
NODES = 200
CHANGE_EVERY = 10
MOST_HELD = 400
WARM = 0.1
"""Share of the calls after which memory is looked at for the first time."""
JUNK: tuple[Any, ...] = (None, True, 0, -1, 0.5, "", "1", "x" * 300, [], [None], {}, {"": {}})
PROFILES = sorted({name for layout in LAYOUTS for name in layout})


def paths(tree: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where something else can be put."""
    inside = list(tree.items() if isinstance(tree, dict) else enumerate(tree))
    found = [(*path, key) for key, _ in inside]
    for key, value in inside:
        if isinstance(value, dict | list):
            found += paths(value, (*path, key))
    return found


def put(tree: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """A copy with one member exchanged; what is not on the way is shared."""
    if not path:
        return value
    copied: Any = tree.copy()
    copied[path[0]] = put(tree[path[0]], path[1:], value)
    return copied


class Questions:
    """Bodies, and whether they are as a scheduler sends them."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._names = [node_name(number) for number in range(NODES)] + ["stranger", ""]
        self._pods = []
        for resource in PROFILES:
            pod = gpu_pod(resource)
            pod["metadata"]["labels"] |= {"migfit.io/rewritten": "true"}
            pod["metadata"]["annotations"] |= {"migfit.io/need": "9000Mi"}
            self._pods.append(pod)
        whole = {"metadata": {}, "items": [node_object(number) for number in range(5)]}
        self._trees: list[Any] = [
            {"Pod": pod, "Nodes": nodes, "NodeNames": names}
            for pod in self._pods
            for nodes, names in ((None, self._names[:20]), (whole, None))
        ]
        self._paths = [paths(tree) for tree in self._trees]
        self._bodies = [orjson.dumps(tree) for tree in self._trees]

    def sound(self) -> bytes:
        """As a scheduler asks."""
        names = self._chance.sample(self._names, self._chance.randint(0, 60))
        pod = self._chance.choice(self._pods)
        return orjson.dumps({"Pod": pod, "Nodes": None, "NodeNames": names})

    def odd(self) -> bytes:
        """Of another shape."""
        number = self._chance.randrange(len(self._trees))
        tree = self._trees[number]
        for path in self._chance.sample(self._paths[number], self._chance.randint(1, 2)):
            try:
                tree = put(tree, path, self._chance.choice(JUNK))
            except (AttributeError, KeyError, IndexError, TypeError):
                continue  # an earlier one has taken away what this one is in
        return orjson.dumps(tree)

    def broken(self) -> bytes:
        """Not what was sent."""
        body = bytearray(self._chance.choice(self._bodies))
        for _ in range(self._chance.randint(0, 4)):
            body[self._chance.randrange(len(body))] = self._chance.randrange(256)
        return bytes(
            body[: self._chance.randint(0, len(body)) if self._chance.random() < 0.5 else None]
        )


class Events:
    """What goes on in the cluster meanwhile; as much comes as goes."""

    def __init__(self, chance: random.Random, state: State) -> None:
        self._chance, self._state = chance, state
        self._held: list[Holding] = []

    def next(self) -> None:
        """One change."""
        number, capacity = self._chance.randrange(NODES), self._state.capacity
        what = self._chance.random()
        if what < 0.1:
            node = node_object(number)
            state = self._chance.choice(["success", "pending"])
            node["metadata"]["labels"]["nvidia.com/mig.config.state"] = state
            self._state.nodes.upsert(msgspec.convert(node, NodeObject))
        elif what < 0.55 and len(self._held) < MOST_HELD:
            resource = self._chance.choice(list(LAYOUTS[number % len(LAYOUTS)]))
            workload = f"speech/Deployment/w{self._chance.randrange(50)}"
            holding = Holding(node_name(number), Ask(cpu_milli=1000), ((resource, 1),), workload)
            self._held.append(holding)
            capacity.hold(holding)
        elif self._held:
            capacity.release(self._held.pop(self._chance.randrange(len(self._held))))


@dataclass(slots=True)
class Seen:
    """What became of the calls."""

    answered: int = 0
    refused: int = 0
    raised: list[str] = field(default_factory=list)
    wrong: int = 0
    """Answers that a scheduler could not take."""


def ask(served: Scheduling, body: bytes, verb: str, seen: Seen) -> None:
    """One call; what comes of it is noted."""
    try:
        answer = orjson.loads(getattr(served, verb)(body))
    except BadArgs:
        seen.refused += 1
    except Exception as error:  # noqa: BLE001  that there is none is what is measured
        seen.raised.append(f"{verb} {body!r}: {error!r}")
    else:
        seen.answered += 1
        asked = _texts(read_args(body).names)
        seen.wrong += not (_ranks if verb == "prioritize" else _parts)(answer, asked)


def _ranks(answer: Any, asked: set[str]) -> bool:
    """Whether these are scores that a scheduler can take, each of a node it asked about, once."""
    hosts = [each["Host"] for each in answer]
    scores = [each["Score"] for each in answer]
    sound = all(type(score) is int and 1 <= score <= 10 for score in scores)
    return sound and len(set(hosts)) == len(hosts) and asked >= set(hosts)


def _parts(answer: Any, asked: set[str]) -> bool:
    """Whether every node asked about is passed or turned down, and no other."""
    kept, refused = answer["NodeNames"], answer["FailedAndUnresolvableNodes"].keys()
    if not isinstance(kept, list) or answer["Error"] or answer["FailedNodes"]:
        return False
    return not _texts(kept) & refused and _texts(kept) | refused == asked


def _texts(names: list[Any]) -> set[str]:
    """Names of nodes; what else was put among them is passed on, and counts for nothing."""
    return {name for name in names if isinstance(name, str)}


def memory(state: State) -> tuple[float, int]:
    """MB of the process, and objects that the garbage collector knows."""
    state.ranking.scores(set(), PROFILES[:1])
    gc.collect()
    return memory_mb("self", "VmRSS"), len(gc.get_objects())


def main() -> None:
    """Ask and print."""
    given = options(__doc__ or "")
    calls = QUICK_CALLS if given.quick else CALLS
    begun_s = time.monotonic()
    chance = random.Random(SEED)
    state = State(Policy(), time.monotonic)
    fill(state, NODES)
    served = Scheduling(lambda: state.capacity, lambda: state.ranking, lambda: state.policy)
    questions, events = Questions(chance), Events(chance, state)
    makers = (questions.sound, questions.odd, questions.broken)
    seen = Seen()
    first_mb, first_objects = 0.0, 0
    for number in range(calls):
        if number % CHANGE_EVERY == 0:
            events.next()
        if number == int(calls * WARM):
            first_mb, first_objects = memory(state)
        verb = "filter" if chance.random() < 0.5 else "prioritize"
        ask(served, makers[number % len(makers)](), verb, seen)
    last_mb, last_objects = memory(state)
    row = {
        "calls": calls,
        "answered": seen.answered,
        "refused": seen.refused,
        "raised": len(seen.raised),
        "wrong answers": seen.wrong,
        "MB at a tenth": round(first_mb, 1),
        "MB at the end": round(last_mb, 1),
        "objects more": last_objects - first_objects,
    }
    figures = [
        Figure(
            "calls that raised, or whose answer was wrong", len(seen.raised) + seen.wrong, 0, ""
        ),
        Figure("memory grown from a tenth of the calls on", last_mb - first_mb, 1, "MB"),
    ]
    report("random_scheduling", [row], figures, given, begun_s)
    for line in seen.raised[:5]:
        print(line)


if __name__ == "__main__":
    main()
