"""XIDs of the real `pynvml` on the stub: what is heard, of which instance, and when nothing can be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pynvml
import pytest

from extender.agent.hardware import Health, Xid
from extender.agent.nvml import Nvml
from extender.agent.nvml_events import MOST
from tests.agent.stub import A100, FakeGpu, partitioned

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Iterator

    from extender.agent.hardware import Gpu
    from tests.agent.stub import Stub


@pytest.fixture
def nvml(stub: Stub, loaded_stub: ctypes.CDLL) -> Iterator[Nvml]:
    stub.set_up(FakeGpu())
    reader = Nvml()
    yield reader
    reader.close()
    assert loaded_stub.stub_event_sets() == 0


def read(nvml: Nvml) -> tuple[Gpu, ...]:
    found = nvml.read()
    assert found.gpus is not None, found.problem
    return found.gpus


def test_an_xid_is_heard_once_with_its_card_and_the_instance_that_it_names(
    stub: Stub, nvml: Nvml
) -> None:
    whole, cut = FakeGpu(), partitioned(A100, [("3g.40gb", 0), ("3g.40gb", 4)])
    stub.set_up(whole, cut)
    assert [gpu.watched for gpu in read(nvml)] == [True, True]
    stub.set_up(replace(whole, xids=((79,),)), replace(cut, xids=((94, 2, 0), (48,), (63, 1))))

    heard, silent = nvml.read(), nvml.read()

    assert heard.xids == (
        Xid(79, whole.uuid),
        Xid(94, cut.uuid, 2, 0),
        Xid(48, cut.uuid),
        Xid(63, cut.uuid, 1),
    )
    assert silent.xids == ()


@pytest.mark.parametrize("function", ["nvmlEventSetCreate", "nvmlDeviceRegisterEvents"])
@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, 13])
def test_where_a_driver_tells_of_no_xids_everything_else_is_as_it_was(
    stub: Stub, nvml: Nvml, function: str, code: int
) -> None:
    card = FakeGpu(used_mib=700)
    stub.set_up(card, options=[f"fail {function} {code}"])
    read(nvml)
    stub.set_up(replace(card, xids=((79,),)), options=[f"fail {function} {code}"])

    found = nvml.read()

    assert found.xids == ()
    assert found.gpus is not None
    [gpu] = found.gpus
    assert (gpu.used_mib, gpu.health, gpu.watched) == (700, Health.HEALTHY, False)


def test_a_card_that_cannot_be_asked_any_more_is_watched_anew_once_it_answers(
    stub: Stub, nvml: Nvml
) -> None:
    first, second = FakeGpu(), FakeGpu()
    stub.set_up(first, second)
    read(nvml)
    stub.set_up(first, second, options=["fail nvmlEventSetWait_v2 999"])
    assert nvml.read().xids == ()
    stub.set_up(first, second)
    read(nvml)
    stub.set_up(replace(first, xids=((48,),)), second)

    assert nvml.read().xids == (Xid(48, first.uuid),)


def test_the_xid_of_a_card_that_falls_off_the_bus_is_heard_all_the_same(
    stub: Stub, nvml: Nvml
) -> None:
    lost, fine = FakeGpu(), FakeGpu()
    stub.set_up(lost, fine)
    read(nvml)
    fault = pynvml.NVML_ERROR_GPU_IS_LOST
    stub.set_up(replace(lost, xids=((79,),), fault=fault), fine)

    found = nvml.read()

    assert found.xids == (Xid(79, lost.uuid),)
    assert found.gpus is not None
    assert [gpu.health for gpu in found.gpus] == [Health.LOST, Health.HEALTHY]


def test_a_storm_of_xids_is_taken_piece_by_piece(stub: Stub, nvml: Nvml) -> None:
    card = FakeGpu()
    stub.set_up(card)
    read(nvml)
    stub.set_up(replace(card, xids=tuple((code,) for code in range(100, 100 + 2 * MOST))))

    taken = [[xid.code for xid in nvml.read().xids] for _ in range(3)]

    assert taken == [[*range(100, 100 + MOST)], [*range(100 + MOST, 100 + 2 * MOST)], []]


def test_a_reset_of_the_driver_is_told_once_and_cards_are_watched_anew(
    stub: Stub, nvml: Nvml, loaded_stub: ctypes.CDLL
) -> None:
    card = FakeGpu()
    stub.set_up(card)
    assert [nvml.read().reloaded for _ in range(2)] == [False, False]
    stub.set_up(card, options=["epoch 1"])

    assert [nvml.read().reloaded for _ in range(2)] == [True, False]
    assert loaded_stub.stub_event_sets() == 1
    stub.set_up(options=["epoch 2", f"init {pynvml.NVML_ERROR_DRIVER_NOT_LOADED}"])
    assert nvml.read().gpus is None
    stub.set_up(card, options=["epoch 3"])
    assert [nvml.read().reloaded for _ in range(2)] == [True, False]
    stub.set_up(replace(card, xids=((48,),)), options=["epoch 3"])
    assert nvml.read().xids == (Xid(48, card.uuid),)


def test_events_wait_for_a_reading_that_could_be_made(stub: Stub, nvml: Nvml) -> None:
    card = FakeGpu()
    stub.set_up(card)
    read(nvml)
    stub.set_up(replace(card, xids=((48,),)), options=["fail nvmlDeviceGetCount_v2 999"])
    assert nvml.read().gpus is None
    stub.set_up(card)

    assert nvml.read().xids == (Xid(48, card.uuid),)


def test_thousands_of_readings_leave_one_event_set_a_card(
    stub: Stub, nvml: Nvml, loaded_stub: ctypes.CDLL
) -> None:
    stub.set_up(FakeGpu(), FakeGpu())
    for _ in range(2000):
        nvml.read()

    assert loaded_stub.stub_event_sets() == 2
