"""What rewritten pods do not hold: by example, and against the same added up anew."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings

from extender.cluster.objects import NodeObject, PodObject
from extender.cluster.state import State
from extender.core.catalogue import PRODUCTS
from extender.core.node import usable_mib
from extender.core.policy import Policy
from extender.core.quantity import MIB
from tests.build import GPU, JSON, bound, changed, mig, node, waiting
from tests.draw import Dice, grown

CARD_MIB, SLICE_MIB = 80_640, 19_968
"""Of an A100 with 80 GB and of its 2g.20gb (catalogue)."""


def rewritten(name: str, on: str = "gpu-a", profile: str = "2g.20gb", count: int = 1) -> JSON:
    asked = {mig(profile): count}
    made = bound(name, on, asked) if on else waiting(name, asked)
    return changed(made, "metadata", "labels", "migfit.io/rewritten", to="true")


def state(*objects: JSON, policy: Policy | None = None) -> State:
    made = State(policy or Policy(), lambda: 0.0)
    put(made, *objects)
    return made


def put(made: State, *objects: JSON) -> None:
    for each in objects:
        if each["kind"] == "Node":
            made.nodes.upsert(msgspec.convert(each, NodeObject))
        else:
            made.pods.upsert(msgspec.convert(each, PodObject))


def given_back_mib(made: State) -> float:
    return made.given_back_bytes() / MIB


def test_each_bound_rewritten_pod_gives_back_the_card_less_its_slice() -> None:
    made = state(node(), rewritten("a"), rewritten("b", profile="1g.10gb"))

    assert given_back_mib(made) == (CARD_MIB - SLICE_MIB) + (CARD_MIB - 9_728)


@pytest.mark.parametrize(
    "other",
    [
        bound("whole", "gpu-a", {GPU: 1}),
        bound("by-name", "gpu-a", {mig("2g.20gb"): 1}),
        rewritten("waits", on=""),
        changed(rewritten("ended"), "status", "phase", to="Succeeded"),
        rewritten("elsewhere", on="unknown"),
        rewritten("odd", profile="9g.999gb"),
    ],
    ids=lambda pod: str(pod["metadata"]["name"]),
)
def test_other_pods_give_nothing_back(other: JSON) -> None:
    assert given_back_mib(state(node(), other)) == 0


def test_it_follows_pods_nodes_and_configuration() -> None:
    made = state(rewritten("a"))
    assert given_back_mib(made) == 0

    put(made, node())
    assert given_back_mib(made) == CARD_MIB - SLICE_MIB

    label = f"{mig('2g.20gb')}.memory"
    put(made, node(labels={label: "20000", "nvidia.com/mig.config.state": "pending"}))
    assert given_back_mib(made) == CARD_MIB - 20_000

    made.set_policy(Policy(usable_mib={"NVIDIA-A100-SXM4-80GB": {"2g.20gb": 18_000}}))
    assert given_back_mib(made) == CARD_MIB - 18_000

    put(made, changed(rewritten("a"), "status", "phase", to="Failed"))
    assert given_back_mib(made) == 0


def some_history(dice: Dice) -> list[JSON]:
    found: list[JSON] = []
    for _ in range(dice.randint(1, 25)):
        name = f"p{dice.randint(0, 4)}"
        profile = dice.choice(["1g.10gb", "2g.20gb", "3g.40gb"])
        made = rewritten(name, dice.choice(["gpu-a", "gpu-b", ""]), profile, dice.randint(1, 2))
        if dice.rarely(4):
            made = changed(made, "status", "phase", to="Succeeded")
        found.append(node(dice.choice(["gpu-a", "gpu-b"])) if dice.rarely(4) else made)
    return found


@given(grown(some_history))
@settings(max_examples=100, deadline=None)
def test_whatever_happened_it_is_the_sum_over_the_pods_there_are(history: list[JSON]) -> None:
    made = state(*history)

    pods = {each["metadata"]["name"]: each for each in history if each["kind"] == "Pod"}
    nodes = {each["metadata"]["name"] for each in history if each["kind"] == "Node"}
    expected = 0
    for pod in pods.values():
        if pod["status"]["phase"] == "Succeeded" or pod["spec"].get("nodeName") not in nodes:
            continue
        [(resource, count)] = pod["spec"]["containers"][0]["resources"]["limits"].items()
        usable = usable_mib(resource, {}, PRODUCTS["A100-80GB"], {})
        assert usable is not None
        expected += int(count) * (CARD_MIB - usable)
    assert given_back_mib(made) == expected
