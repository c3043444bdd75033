"""Samples of the real `pynvml` on the stub, with a kubelet and a clock of the test's own."""

from __future__ import annotations

import gc
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from extender.agent.metrics import AgentMetrics
from extender.agent.nvml import Nvml
from extender.agent.sampler import Sampler
from extender.agent.writer import Pace, Writer
from tests.agent.fakes import Clock, KeepingStore, SayingKubelet
from tests.agent.stub import A100, FakeGpu, FakeSlice, partitioned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from extender.agent.hardware import Hardware, Reader
    from tests.agent.stub import Stub


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kubelet() -> SayingKubelet:
    return SayingKubelet()


@pytest.fixture
def sampler(stub: Stub, clock: Clock, kubelet: SayingKubelet) -> Iterator[Sampler]:
    made = started(Nvml(), kubelet, clock)
    yield made
    made.close()


def started(
    reader: Reader, kubelet: SayingKubelet, clock: Clock, metrics: AgentMetrics | None = None
) -> Sampler:
    return Sampler(
        reader, kubelet, version="0", clock=clock, wall=clock, metrics=metrics, nvml_s=0.3
    )


async def sample(sampler: Sampler, clock: Clock, times: int = 1) -> dict[str, Any]:
    for _ in range(times):
        await sampler.sample()
        clock.now_s += 5
    return sampler.latest


def holders(status: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """uuid -> holders, of devices whose holders are known."""
    every = [each for gpu in status["gpus"] for each in (gpu, *gpu.get("slices", ()))]
    return {each["uuid"]: each["holders"] for each in every if "holders" in each}


def condition(status: dict[str, Any], kind: str) -> tuple[str, str]:
    [found] = [each for each in status["conditions"] if each["type"] == kind]
    return found["status"], found["reason"]


async def test_each_pod_is_told_on_its_device_with_what_it_uses_there(
    stub: Stub, sampler: Sampler, clock: Clock, kubelet: SayingKubelet
) -> None:
    whole = FakeGpu(processes_mib=(9600,))
    cut = FakeGpu(
        slices=[FakeSlice("3g.40gb", 0, processes_mib=(31_000,)), FakeSlice("2g.20gb", 4)]
    )
    stub.set_up(whole, cut)
    kubelet.holders = {"asr": [whole.uuid], "llm": [f"{cut.slices[0].uuid}::0"]}

    status = await sample(sampler, clock, 2)

    found = holders(status)
    assert found.pop(whole.uuid) == [
        {
            "namespace": "ml",
            "pod": "asr",
            "containers": ["main"],
            "peakMiB": 9604,
            "since": "2027-01-15T08:00:05Z",
        }
    ]
    assert [each["peakMiB"] for each in found.pop(cut.slices[0].uuid)] == [31_013]
    assert found == {cut.slices[1].uuid: []}
    assert status["summary"] == {
        "gpus": 2,
        "mig": 1,
        "slicesUsed": 1,
        "slicesTotal": 2,
        "slices": "1/2",
        "hollow": 1,
    }
    assert condition(status, "Hardware") == condition(status, "Holders") == ("True", "Read")


async def test_a_kubelet_that_says_nothing_leaves_holders_unknown_and_not_none(
    stub: Stub, sampler: Sampler, clock: Clock, kubelet: SayingKubelet
) -> None:
    stub.set_up(FakeGpu(), partitioned(A100, [("7g.80gb", 0)]))
    kubelet.silent = True

    status = await sample(sampler, clock)

    assert holders(status) == {}
    assert status["summary"] == {"gpus": 2, "mig": 1, "slicesTotal": 1, "slices": "?/1"}
    assert condition(status, "Holders") == ("Unknown", "TooSlow")


async def test_a_claim_may_be_on_any_device_that_nobody_else_holds(
    stub: Stub, sampler: Sampler, clock: Clock, kubelet: SayingKubelet
) -> None:
    cut = partitioned(A100, [("3g.40gb", 0), ("3g.40gb", 4)])
    stub.set_up(cut)
    kubelet.holders, kubelet.claims = {"a": [cut.slices[0].uuid]}, 1

    status = await sample(sampler, clock)

    assert list(holders(status)) == [cut.slices[0].uuid]
    assert status["unplacedDevices"] == 1
    assert status["summary"]["slices"] == "?/2"
    assert condition(status, "Holders") == ("False", "Unplaced")


async def test_a_crowd_on_one_device_is_told_up_to_what_the_kind_holds(
    stub: Stub, sampler: Sampler, clock: Clock, kubelet: SayingKubelet
) -> None:
    card = FakeGpu()
    stub.set_up(card)
    kubelet.holders = {f"pod-{n:05}": [f"{card.uuid}::{n}"] for n in range(10_000)}

    status = await sample(sampler, clock, 2)

    told = holders(status)[card.uuid]
    assert [each["pod"] for each in told] == [f"pod-{n:05}" for n in range(256)]
    assert len(sampler.peaks) == 0


async def test_a_pod_that_holds_a_card_in_mig_mode_as_a_whole_is_told_there(
    stub: Stub, sampler: Sampler, clock: Clock, kubelet: SayingKubelet
) -> None:
    cut = partitioned(A100, [("7g.80gb", 0)])
    stub.set_up(cut)
    kubelet.holders = {"odd": [cut.uuid]}

    status = await sample(sampler, clock)

    assert [each["pod"] for each in holders(status)[cut.uuid]] == ["odd"]


async def test_slices_that_are_gone_or_that_the_kubelet_does_not_serve_are_told(
    stub: Stub, sampler: Sampler, clock: Clock, kubelet: SayingKubelet
) -> None:
    cut = partitioned(A100, [("3g.40gb", 0), ("3g.40gb", 4)])
    stub.set_up(cut)
    kubelet.allocatable = frozenset({cut.slices[0].uuid, "MIG-before"})

    status = await sample(sampler, clock)

    assert [each["allocatable"] for each in status["gpus"][0]["slices"]] == [True, False]
    assert status["goneDevices"] == ["MIG-before"]


async def test_without_a_driver_nothing_is_known_and_no_count_is_0(
    stub: Stub, sampler: Sampler, clock: Clock
) -> None:
    stub.set_up(options=["init 9"])

    status = await sample(sampler, clock)

    assert "gpus" not in status
    assert status["summary"] == {"slices": "?"}
    assert condition(status, "Hardware") == ("Unknown", "NvmlUnavailable")


async def test_a_lost_gpu_is_told_by_its_index_and_its_slices_are_unknown(
    stub: Stub, sampler: Sampler, clock: Clock
) -> None:
    cards = [partitioned(A100, [("7g.80gb", 0)]), FakeGpu()]
    stub.set_up(*cards)
    await sample(sampler, clock)
    stub.set_up(replace(cards[0], fault=15), cards[1])

    status = await sample(sampler, clock)

    assert condition(status, "Hardware") == ("False", "Lost")
    assert "slices" not in status["gpus"][0]
    assert status["summary"] == {"gpus": 2, "slices": "?/?"}


async def test_an_xid_makes_the_card_and_the_slice_that_it_names_ill_and_pods_are_told_as_ever(
    stub: Stub, sampler: Sampler, clock: Clock, kubelet: SayingKubelet
) -> None:
    cut, whole = partitioned(A100, [("3g.40gb", 0), ("3g.40gb", 4)]), FakeGpu()
    stub.set_up(cut, whole)
    kubelet.holders = {"llm": [cut.slices[0].uuid]}
    well = await sample(sampler, clock, 2)
    assert [gpu["xids"] for gpu in well["gpus"]] == [[], []]
    stub.set_up(replace(cut, xids=((94, 1, 0), (31, 2, 0))), replace(whole, xids=((13,),)))

    status = await sample(sampler, clock, 3)

    first, second = status["gpus"]
    heard = [{"code": 94, "time": "2027-01-15T08:00:10Z"}]
    assert (first["health"], first["xids"]) == ("XidError", heard)
    assert [each.get("xids") for each in first["slices"]] == [heard, None]
    assert (second["health"], second["xids"]) == ("Healthy", [])
    assert condition(status, "Hardware") == ("False", "XidError")
    assert status["conditions"][0]["message"] == "GPU 0 is XidError (XID 94)"
    assert [each["pod"] for each in holders(status)[cut.slices[0].uuid]] == ["llm"]
    assert status["summary"]["slices"] == "1/2"


async def test_a_lost_gpu_keeps_being_lost_and_tells_the_xid_that_it_was_lost_with(
    stub: Stub, sampler: Sampler, clock: Clock
) -> None:
    card = FakeGpu()
    stub.set_up(card)
    await sample(sampler, clock)
    stub.set_up(replace(card, fault=15, xids=((79,),)))

    status = await sample(sampler, clock)

    assert condition(status, "Hardware") == ("False", "Lost")
    assert status["conditions"][0]["message"] == "GPU 0 is Lost (XID 79)"


async def test_a_card_whose_driver_tells_of_no_xids_is_not_said_to_have_had_none(
    stub: Stub, sampler: Sampler, clock: Clock
) -> None:
    stub.set_up(FakeGpu(), options=["fail nvmlEventSetCreate 3"])

    [gpu] = (await sample(sampler, clock))["gpus"]

    assert gpu["health"] == "Healthy"
    assert "xids" not in gpu


async def test_an_xid_holds_until_the_driver_is_loaded_anew(
    stub: Stub, sampler: Sampler, clock: Clock
) -> None:
    card = FakeGpu()
    stub.set_up(card)
    await sample(sampler, clock)
    stub.set_up(replace(card, xids=((48,),)))
    assert (await sample(sampler, clock, 100))["gpus"][0]["health"] == "XidError"
    stub.set_up(card, options=["epoch 1"])

    status = await sample(sampler, clock)

    assert (status["gpus"][0]["health"], status["gpus"][0]["xids"]) == ("Healthy", [])
    assert condition(status, "Hardware") == ("True", "Read")


@pytest.mark.parametrize("google", [False, True], ids=["by-uuid", "by-instance-as-google-does"])
async def test_pods_on_the_neighbour_keep_their_own_peaks_while_a_gpu_is_cut_anew(
    stub: Stub, sampler: Sampler, clock: Clock, kubelet: SayingKubelet, *, google: bool
) -> None:
    """At every call of a reading, and with new pods on the new slices at once."""

    def ids(gpu: int, card: FakeGpu) -> list[list[str]]:
        # Ids of instances count from 1 on each card, so new slices have those of old ones.
        every = [f"nvidia{gpu}/gi{n}" for n in range(1, len(card.slices) + 1)]
        return [[id_] for id_ in (every if google else (each.uuid for each in card.slices))]

    neighbour = FakeGpu(slices=[FakeSlice("4g.40gb", 0, 20_000), FakeSlice("3g.40gb", 4, 30_000)])
    left, right = (each.uuid for each in neighbour.slices)
    seen = 0
    for calls in range(120):
        old = FakeGpu(slices=[FakeSlice("3g.40gb", 0, 3000), FakeSlice("3g.40gb", 4, 3004)])
        new = replace(old, slices=[FakeSlice("2g.20gb", n, 5000 + n) for n in (0, 2, 4)])
        stays = dict(zip(("left", "right"), ids(1, neighbour), strict=True))
        before = dict(zip(("old-0", "old-4"), ids(0, old), strict=True))
        after = dict(zip(("new-0", "new-2", "new-4"), ids(0, new), strict=True))
        stub.set_up(old, neighbour)
        kubelet.holders = stays | before
        await sample(sampler, clock, 2)
        stub.set_up_after(calls, new, neighbour, now=[old, neighbour])
        kubelet.holders = stays | after

        status: dict[str, Any] = {}
        for _ in range(3):
            status = await sample(sampler, clock)
            for uuid, each in holders(status).items():
                truth = {s.uuid: s.used_mib for s in (*new.slices, *neighbour.slices)}
                peaks = [pod["peakMiB"] for pod in each if "peakMiB" in pod]
                assert peaks in ([], [truth.get(uuid)])
                seen += uuid not in (left, right) and bool(peaks)
        assert [pod["peakMiB"] for pod in holders(status)[left]] == [20_000]
        assert [pod["peakMiB"] for pod in holders(status)[right]] == [30_000]
    assert seen > 300


async def test_a_driver_that_hangs_is_told_and_its_late_answer_is_nobodys_sample(
    clock: Clock, kubelet: SayingKubelet, stub: Stub
) -> None:
    class Hanging(Nvml):
        go = threading.Event()

        def read(self) -> Hardware:
            found = super().read()
            self.go.wait(30)
            return found

    card = FakeGpu(used_mib=70_000)
    stub.set_up(card)
    sampler = started(reader := Hanging(), kubelet, clock)
    kubelet.holders = {"first": [card.uuid]}
    reader.go.set()
    await sample(sampler, clock, 2)
    reader.go.clear()

    hung = await sample(sampler, clock)
    assert condition(hung, "Hardware") == ("Unknown", "NvmlUnavailable")
    assert "no answer within 0.3 s" in hung["conditions"][0]["message"]
    kubelet.holders = {"second": [card.uuid]}
    await sample(sampler, clock, 2)
    reader.go.set()
    late = await sample(sampler, clock)

    assert holders(late)[card.uuid] == [
        {"namespace": "ml", "pod": "second", "containers": ["main"]}
    ]
    sampler.close()


@pytest.mark.parametrize(
    "unread",
    [
        ["epoch 1", "init 9"],
        ["fail nvmlDeviceGetCount_v2 999"],
        ["fail nvmlDeviceGetMigDeviceHandleByIndex 2"],
        ["fail nvmlDeviceGetMaxMigDeviceCount 15"],
    ],
    ids=["driver-away", "no-answer", "slices-unread", "card-lost"],
)
@pytest.mark.parametrize("google", [False, True], ids=["by-uuid", "by-instance-as-google-does"])
async def test_what_cannot_be_read_for_a_while_costs_no_peak_of_a_pod_that_stays(
    stub: Stub,
    sampler: Sampler,
    clock: Clock,
    kubelet: SayingKubelet,
    unread: list[str],
    *,
    google: bool,
) -> None:
    cut = FakeGpu(slices=[FakeSlice("3g.40gb", 0, 30_000), FakeSlice("3g.40gb", 4, 20_000)])
    stays, goes = ["nvidia0/gi1", "nvidia0/gi2"] if google else [s.uuid for s in cut.slices]
    stub.set_up(cut)
    kubelet.holders = {"stays": [stays], "goes": [goes]}
    await sample(sampler, clock, 2)
    stub.set_up(cut, options=unread)
    await sample(sampler, clock, 10)
    kubelet.holders = {"stays": [stays]}
    await sample(sampler, clock, 10)
    small = replace(cut, slices=[replace(each, used_mib=500) for each in cut.slices])
    stub.set_up(small, options=["epoch 2"])

    status = await sample(sampler, clock, 10)

    told = holders(status)
    assert [pod["peakMiB"] for pod in told[cut.slices[0].uuid]] == [30_000]
    assert told[cut.slices[1].uuid] == []
    assert len(sampler.peaks) == 1


async def test_a_simulated_day_leaves_no_more_memory_in_use_than_its_first_hours(
    stub: Stub, clock: Clock, kubelet: SayingKubelet
) -> None:
    rng, metrics = Random(1), AgentMetrics()
    sampler = started(Nvml(), kubelet, clock, metrics)
    store, pace = KeepingStore(clock), Pace()
    writer = Writer(store, sampler, pace, metrics, clock=clock, wall=clock, rng=rng)
    layouts = ([("3g.40gb", 0), ("3g.40gb", 4)], [("4g.40gb", 0), ("1g.10gb", 6)])
    blocks: list[int] = []
    for hour in range(24):
        cut, whole = partitioned(A100, layouts[hour % 2]), FakeGpu()
        for n in range(60):
            if n % 2 == 0:  # every two minutes other slices, other pods, and other amounts
                anew = [FakeSlice(each.profile, each.start) for each in cut.slices]
                cut = replace(cut, slices=anew)
                pods = [f"pod-{hour}-{n}-{k}" for k in range(3)]
                uuids = [*(each.uuid for each in cut.slices), whole.uuid]
                kubelet.holders = dict(zip(pods, ([uuid] for uuid in uuids), strict=True))
                whole = replace(whole, used_mib=rng.randrange(80_000))
                xids = tuple((rng.randrange(200), n % 2 + 1, 0) for _ in range(3))
                stub.set_up(replace(cut, xids=xids), whole)
            kubelet.silent = n % 50 == 49
            store.away = n in range(50, 55)
            await sample(sampler, clock)
            clock.now_s += 55
            await writer.write_if_due()
        gap_s = min(b - a for (a, _), (b, _) in pairwise(store.written))
        assert gap_s >= pace.write_s
        store.written.clear()
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    sampler.close()

    assert len(sampler.peaks) <= 30  # devices times pods within the time that a kubelet settles
    assert max(blocks[2:]) - min(blocks[2:]) < 500, blocks
