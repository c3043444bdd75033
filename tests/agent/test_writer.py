"""When the object is written, what a restarted agent takes over, and an API server that is away."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from extender.agent.hardware import Gpu, Hardware, Xid
from extender.agent.metrics import AgentMetrics
from extender.agent.sampler import Sampler
from extender.agent.writer import TAKE_OVER_S, Pace, Writer, run
from tests.agent.fakes import Clock, KeepingStore, SayingKubelet

CARD = Gpu(index=0, uuid="GPU-0", product="NVIDIA A100-SXM4-80GB", memory_mib=81920, mig=False)


class Node:
    """An agent without a loop: the test says when to look and when to write."""

    def __init__(self) -> None:
        self.clock, self.kubelet = Clock(), SayingKubelet()
        self.store = KeepingStore(self.clock)
        self.used_mib, self.booted_s = 500, 0.0
        self.xids: tuple[Xid, ...] = ()
        self.start()

    def start(self) -> None:
        """Begin as a new process does."""
        self.sampler = Sampler(
            self,
            self.kubelet,
            version="0",
            clock=self.clock,
            wall=self.clock,
            booted_s=self.booted_s,
            nvml_s=30,
        )
        metrics = AgentMetrics()
        self.writer = Writer(
            self.store,
            self.sampler,
            Pace(),
            metrics,
            clock=self.clock,
            wall=self.clock,
            rng=Random(7),
        )

    def read(self) -> Hardware:
        card = Gpu(
            **{name: getattr(CARD, name) for name in CARD.__slots__} | {"used_mib": self.used_mib}
        )
        xids, self.xids = self.xids, ()
        return Hardware(gpus=(card,), xids=xids)

    def close(self) -> None: ...

    async def live(self, seconds: float) -> None:
        for _ in range(int(seconds / 5)):
            await self.sampler.sample()
            await self.writer.write_if_due()
            self.clock.now_s += 5

    @property
    def written_at(self) -> list[float]:
        return [at for at, _ in self.store.written]

    def card(self) -> dict[str, Any]:
        [gpu] = self.store.written[-1][1]["gpus"]
        return dict(gpu)

    def holder(self) -> dict[str, Any]:
        [held] = self.card()["holders"]
        return dict(held)


@pytest.fixture
def node() -> Node:
    return Node()


async def test_when_nothing_changes_only_the_heartbeat_is_written(node: Node) -> None:
    await node.live(600)

    gaps = [b - a for a, b in pairwise(node.written_at)]
    assert len(gaps) >= 9
    assert all(50 <= gap <= 60 for gap in gaps)


async def test_a_new_holder_is_written_at_once_but_not_within_ten_seconds_of_the_last(
    node: Node,
) -> None:
    await node.live(30)
    since = node.clock.now_s
    node.kubelet.holders = {"asr": ["GPU-0"]}
    await node.live(5)
    node.kubelet.holders = {"tts": ["GPU-0"]}
    await node.live(20)

    assert [at - since for at in node.written_at if at >= since][:2] == [0, 10]
    assert node.holder()["pod"] == "tts"


async def test_memory_that_flickers_is_written_with_the_heartbeat_only(node: Node) -> None:
    await node.live(60)
    before = len(node.written_at)
    for n in range(24):
        node.used_mib = 500 + n % 2 * 200
        await node.live(5)

    assert len(node.written_at) - before <= 3


async def test_memory_that_grows_much_is_written_before_the_heartbeat(node: Node) -> None:
    await node.live(20)
    node.used_mib = 9600
    await node.live(10)

    assert node.store.written[-1][1]["gpus"][0]["usedMiB"] == 9600


async def test_while_the_api_server_is_away_sampling_goes_on_and_calls_get_rarer(
    node: Node,
) -> None:
    node.kubelet.holders = {"asr": ["GPU-0"]}
    await node.live(30)
    node.store.away, node.used_mib = True, 30_000
    tried: list[float] = []
    write = node.store.write

    async def counted(status: dict[str, Any]) -> None:
        tried.append(node.clock.now_s)
        await write(status)

    node.store.write = counted  # type: ignore[method-assign]
    await node.live(900)
    node.used_mib = 600
    await node.live(300)

    gaps = [b - a for a, b in pairwise(tried)]
    assert 5 <= len(tried) <= 15
    assert gaps[-1] > 2 * gaps[0]
    node.store.away = False
    await node.live(200)
    assert node.holder()["peakMiB"] == 30_000  # of the time when nobody could be told


async def test_a_restarted_agent_goes_on_with_the_peaks_of_pods_that_are_still_there(
    node: Node,
) -> None:
    node.kubelet.holders = {"asr": ["GPU-0"]}
    await node.live(30)
    node.used_mib = 9600
    await node.live(30)
    node.used_mib = 700
    await node.live(60)
    before = node.holder()

    node.start()
    await node.live(120)

    assert node.holder() == before
    assert before["peakMiB"] == 9600


async def test_a_restarted_agent_knows_no_peaks_of_pods_that_went_meanwhile(node: Node) -> None:
    node.kubelet.holders, node.used_mib = {"llm": ["GPU-0"]}, 70_000
    await node.live(60)
    node.kubelet.holders, node.used_mib = {"asr": ["GPU-0"]}, 900

    node.start()
    await node.live(120)

    assert (node.holder()["pod"], node.holder()["peakMiB"]) == ("asr", 900)
    assert len(node.sampler.peaks) == 1


async def test_peaks_of_long_ago_may_be_of_another_pod_of_that_name_and_are_not_taken_over(
    node: Node,
) -> None:
    node.kubelet.holders, node.used_mib = {"llm-0": ["GPU-0"]}, 70_000
    await node.live(60)
    node.clock.now_s += TAKE_OVER_S
    node.used_mib = 900

    node.start()
    await node.live(120)

    assert node.holder()["peakMiB"] == 900


async def test_an_xid_is_written_at_once_and_a_restart_of_the_agent_does_not_mend_the_card(
    node: Node,
) -> None:
    await node.live(60)
    since = node.clock.now_s
    node.xids = (Xid(48, "GPU-0"),)
    await node.live(10)
    assert node.card()["health"] == "XidError"
    before = node.card()["xids"]
    assert node.written_at[-1] - since <= 10

    node.start()
    await node.live(60)
    assert (node.card()["health"], node.card()["xids"]) == ("XidError", before)

    node.booted_s = node.clock.now_s  # of the whole node it does
    node.start()
    await node.live(60)
    assert node.card()["health"] == "Healthy"


async def test_nothing_is_written_before_it_is_known_what_there_was(node: Node) -> None:
    node.kubelet.holders, node.used_mib = {"asr": ["GPU-0"]}, 9600
    await node.live(60)
    node.store.written.clear()
    node.store.away, node.used_mib = True, 700
    node.start()
    await node.live(100)
    assert node.store.written == []
    node.store.away = False

    await node.live(200)

    assert node.holder()["peakMiB"] == 9600


FAST = Pace(sample_s=0.001)


async def test_an_api_server_that_does_not_answer_holds_up_no_sample_and_no_end(node: Node) -> None:
    looks, stop = 0, asyncio.Event()
    read = node.read

    def counted() -> Hardware:
        nonlocal looks
        looks += 1
        if looks == 20:
            loop.call_soon_threadsafe(stop.set)
        return read()

    async def never(status: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    loop = asyncio.get_running_loop()
    node.read, node.store.write = counted, never  # type: ignore[method-assign]

    await asyncio.wait_for(run(node.sampler, node.writer, FAST, stop), 30)

    assert looks >= 20


@pytest.mark.parametrize("where", ["reader", "store"])
async def test_a_defect_ends_the_process_since_its_restart_is_seen_and_its_silence_is_not(
    node: Node, where: str
) -> None:
    def unread() -> Hardware:
        raise LookupError("a defect")

    async def unwritten(status: dict[str, Any]) -> None:
        raise LookupError("a defect")

    if where == "reader":
        node.read = unread  # type: ignore[method-assign]
    else:
        node.store.write = unwritten  # type: ignore[method-assign]

    with pytest.raises(LookupError, match="a defect"):
        await asyncio.wait_for(run(node.sampler, node.writer, FAST, asyncio.Event()), 30)
