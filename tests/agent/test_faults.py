"""Whose XID it is, how long it holds, and that nothing piles up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.agent.faults import MOST_CODES, OF_PROGRAMS, Fault, Faults
from extender.agent.hardware import Gpu, Hardware, Slice, Xid


def piece(uuid: str, gpu_instance: int, compute_instance: int | None = 0) -> Slice:
    return Slice(uuid=uuid, gpu_instance=gpu_instance, compute_instance=compute_instance)


def cut(*slices: Slice, uuid: str = "GPU-0") -> Gpu:
    return Gpu(index=0, uuid=uuid, mig=True, slices=slices)


def reading(*gpus: Gpu, xids: tuple[Xid, ...] = (), reloaded: bool = False) -> Hardware:
    return Hardware(gpus=gpus, xids=xids, reloaded=reloaded)


def codes(faults: Faults, uuid: str) -> list[int]:
    return [fault.code for fault in faults.of(uuid)]


@pytest.fixture
def faults() -> Faults:
    return Faults()


def test_an_xid_makes_its_card_ill_from_when_it_was_heard_of_and_no_other(faults: Faults) -> None:
    faults.take(reading(cut(), cut(uuid="GPU-1"), xids=(Xid(79, "GPU-1"),)), 1000.0)
    faults.take(reading(cut(), cut(uuid="GPU-1"), xids=(Xid(79, "GPU-1"),)), 2000.0)

    assert faults.of("GPU-1") == [Fault(79, "GPU-1", "GPU-1", 1000.0)]
    assert faults.of("GPU-0") == faults.of(None) == []


@pytest.mark.parametrize("code", sorted(OF_PROGRAMS))
def test_an_xid_that_is_a_programs_own_fault_makes_no_card_ill(faults: Faults, code: int) -> None:
    faults.take(reading(cut(), xids=(Xid(code, "GPU-0"),)), 1000.0)

    assert faults.of("GPU-0") == []


def test_the_xids_of_programs_are_those_that_nvidias_device_plugin_passes_over() -> None:
    assert {13, 31, 43, 45, 68, 109} == OF_PROGRAMS


@pytest.mark.parametrize(
    ("gpu_instance", "compute_instance", "ill"),
    [
        (1, 0, {"MIG-a"}),
        (2, 1, {"MIG-c"}),
        (2, None, {"MIG-b", "MIG-c"}),
        (2, 7, set()),
        (9, 0, set()),
        (None, None, set()),
    ],
)
def test_an_event_that_names_an_instance_is_of_that_slice_and_of_its_card(
    faults: Faults, gpu_instance: int | None, compute_instance: int | None, ill: set[str]
) -> None:
    card = cut(
        piece("MIG-a", 1), piece("MIG-b", 2, 0), piece("MIG-c", 2, 1), piece("MIG-d", 3, None)
    )
    xid = Xid(94, "GPU-0", gpu_instance, compute_instance)
    for now_s, xids in enumerate(((), (), (xid,))):
        faults.take(reading(card, xids=xids), float(now_s))

    assert {u for u in ("MIG-a", "MIG-b", "MIG-c", "MIG-d") if faults.of(u)} == ill
    assert codes(faults, "GPU-0") == [94]


@pytest.mark.parametrize("made", [1, 2])
def test_a_slice_that_may_have_been_made_after_the_event_is_not_blamed(
    faults: Faults, made: int
) -> None:
    """A new slice gets an old one's ids: was it the old one's event?"""
    xid = Xid(94, "GPU-0", 1, 0)
    for n in range(3):
        uuid = "MIG-old" if n < made else "MIG-new"
        faults.take(reading(cut(piece(uuid, 1)), xids=(xid,) if n == 2 else ()), float(n))

    assert faults.of("MIG-new") == []
    assert codes(faults, "GPU-0") == [94]


def test_no_slice_is_blamed_after_a_time_in_which_nothing_could_be_read(faults: Faults) -> None:
    card = cut(piece("MIG-a", 1))
    faults.take(reading(card), 0.0)
    faults.take(Hardware(problem="NVML: no answer"), 1.0)
    faults.take(reading(card), 2.0)
    faults.take(reading(card, xids=(Xid(94, "GPU-0", 1, 0),)), 3.0)

    assert (codes(faults, "GPU-0"), codes(faults, "MIG-a")) == ([94], [])


def test_what_a_slice_had_goes_with_it_and_its_card_keeps_it(faults: Faults) -> None:
    card = cut(piece("MIG-a", 1))
    for xids in ((), (), (Xid(94, "GPU-0", 1, 0),)):
        faults.take(reading(card, xids=xids), 0.0)
    assert codes(faults, "MIG-a") == [94]
    unread = Gpu(index=0, uuid="GPU-0", mig=True, slices=None)
    faults.take(reading(unread), 1.0)
    assert codes(faults, "MIG-a") == [94]

    faults.take(reading(cut(piece("MIG-b", 1))), 2.0)

    assert (codes(faults, "GPU-0"), codes(faults, "MIG-a")) == ([94], [])


def test_a_driver_that_was_loaded_anew_ends_it_and_one_that_is_away_does_not(
    faults: Faults,
) -> None:
    faults.take(reading(cut(), xids=(Xid(48, "GPU-0"),)), 0.0)
    faults.take(Hardware(problem="NVML: Driver Not Loaded"), 1.0)
    assert codes(faults, "GPU-0") == [48]

    faults.take(reading(cut(), xids=(Xid(63, "GPU-0"),), reloaded=True), 2.0)

    assert codes(faults, "GPU-0") == [63]


def test_what_an_earlier_run_heard_of_holds_unless_the_node_was_started_since(
    faults: Faults,
) -> None:
    told = [Fault(48, "GPU-0", "GPU-0", 999.0), Fault(79, "GPU-0", "GPU-0", 1001.0)]
    faults.take(reading(cut()), 2000.0)

    faults.restore(told, booted_s=1000.0)
    faults.take(reading(cut()), 2005.0)

    assert faults.of("GPU-0") == told[1:]


def test_of_many_xids_the_first_are_told_as_they_are_nearest_to_the_cause(faults: Faults) -> None:
    every = [code for code in range(1, 200) if code not in OF_PROGRAMS]
    for now_s, code in enumerate(every):
        faults.take(reading(cut(), xids=(Xid(code, "GPU-0"),)), float(now_s))

    assert codes(faults, "GPU-0") == every[:MOST_CODES]


XIDS = st.builds(
    Xid,
    code=st.integers(0, 200),
    gpu=st.sampled_from(["GPU-0", "GPU-1", "GPU-gone"]),
    gpu_instance=st.none() | st.integers(0, 3),
    compute_instance=st.none() | st.integers(0, 1),
)


@given(st.lists(st.tuples(st.lists(XIDS, max_size=20), st.booleans()), max_size=30))
def test_no_more_is_kept_than_the_devices_that_are_there_can_have(
    history: list[tuple[list[Xid], bool]],
) -> None:
    faults, made = Faults(), 0
    for now_s, (xids, anew) in enumerate(history):
        made += 4 if anew else 0
        slices = [piece(f"MIG-{made + n}", n) for n in range(4)]
        faults.take(reading(cut(*slices), cut(uuid="GPU-1"), xids=tuple(xids)), float(now_s))

        there = {"GPU-0", "GPU-1", *(each.uuid for each in slices)}
        assert {fault.device for fault in faults._kept.values()} <= there
        assert all(len(faults.of(uuid)) <= MOST_CODES for uuid in there)
