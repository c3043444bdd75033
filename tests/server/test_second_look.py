"""A pod that `filter` would turn down everywhere, while the watch may be behind."""

import asyncio
from collections.abc import Callable

import msgspec
import orjson

from extender.cluster.objects import NodeObject
from extender.cluster.reading import read_node
from extender.cluster.state import State
from extender.core.policy import Policy
from extender.server.at_once import Answered
from extender.server.routes import IN_VAIN_S, MOST_IN_VAIN, NodeFilter
from tests.build import node, state
from tests.scheduling.test_verbs import PENDING, args, rewritten, scheduling

REFUSED = args(rewritten(), "a")


def names(answer: Answered | None) -> list[str] | None:
    """The nodes that pass; None where a second look is due."""
    return None if answer is None else orjson.loads(answer.body)["NodeNames"]


def verb(
    cluster: State, clock: Callable[[], float] = lambda: 0.0
) -> tuple[NodeFilter, list[float]]:
    """`filter`, and how long each answer took."""
    took_s: list[float] = []
    return NodeFilter(scheduling(cluster), took_s.append, clock), took_s


async def test_a_node_that_the_watch_brings_meanwhile_is_found() -> None:
    cluster = state(node("a", labels=PENDING))
    found, took_s = verb(cluster)
    asked = asyncio.create_task(found.filtered(REFUSED))
    await asyncio.sleep(0)

    cluster.capacity.put_node(read_node(msgspec.convert(node("a"), NodeObject), Policy()))

    assert names(await asked) == ["a"]
    assert len(took_s) == 1


async def test_after_many_looks_in_vain_pods_are_turned_down_at_once_for_a_while() -> None:
    now_s = 100.0
    found, _ = verb(state(node("a", labels=PENDING)), lambda: now_s)
    for _ in range(MOST_IN_VAIN):
        assert names(found.at_once(REFUSED)) is None
        assert names(await found.filtered(REFUSED)) == []
        now_s += 0.01

    assert names(found.at_once(REFUSED)) == []

    now_s = 100.0 + 0.99 * IN_VAIN_S
    assert names(found.at_once(REFUSED)) == []

    now_s = 100.0 + 1.01 * IN_VAIN_S
    assert names(found.at_once(REFUSED)) is None


async def test_a_look_that_helped_is_followed_by_others() -> None:
    cluster = state(node("a", labels=PENDING), node("b", labels=PENDING))
    found, _ = verb(cluster)
    asked = asyncio.create_task(found.filtered(REFUSED))
    await asyncio.sleep(0)
    cluster.capacity.put_node(read_node(msgspec.convert(node("a"), NodeObject), Policy()))
    await asked

    assert names(found.at_once(args(rewritten(), "b"))) is None
